"""`python -m ssvi_jax.data.corruptions`: the official layout, and what it refuses."""

import subprocess
import sys

import numpy as np
import photographs
import pytest

from ssvi_jax import corruptions
from ssvi_jax.core.errors import InputError
from ssvi_jax.data.corruptions import __main__ as command
from ssvi_jax.data.corruptions import layout


@pytest.fixture
def files(tmp_path):
    """Seven images and their labels as files, and the folder of the results."""
    np.save(tmp_path / "images.npy", photographs.crops(7))
    np.save(tmp_path / "labels.npy", np.arange(7, dtype=np.uint8))
    return tmp_path / "images.npy", tmp_path / "labels.npy", tmp_path / "new" / "out"


def run(images, out, *options):
    return command.main([str(images), str(out), *map(str, options)])


def load(path):
    return np.load(path, allow_pickle=False)


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_have_the_official_layout(files, capsys):
    images, labels, out = files
    names = ("fog", "brightness")
    assert run(images, out, "--names", *names, "--seed", 3, "--labels", labels) == 0
    assert contents(out) == ["brightness.npy", "fog.npy", "labels.npy"]
    for name in names:
        got = load(out / f"{name}.npy")
        assert (got.dtype, got.shape) == (np.uint8, (35, 32, 32, 3))
        for i, severity in enumerate(corruptions.SEVERITIES):
            np.testing.assert_array_equal(
                got[7 * i : 7 * i + 7],
                corruptions.corrupt(load(images), name, severity, seed=3),
            )
    got = load(out / "labels.npy")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, list(range(7)) * 5)
    assert "2 corruptions of 5 x 7 images, seed 3" in capsys.readouterr().out


def test_the_benchmark_is_the_default_and_extra_adds_to_it(files):
    images, _, out = files
    np.save(images, photographs.crops(2, 8, 8))
    run(images, out)
    assert contents(out) == sorted(f"{name}.npy" for name in corruptions.BENCHMARK)
    run(images, out / "all", "--extra")
    assert contents(out / "all") == sorted(f"{name}.npy" for name in corruptions.NAMES)
    run(images, out / "few", "--extra", "--names", "fog", "spatter")
    few = sorted(("fog", *corruptions.EXTRA))
    assert contents(out / "few") == [f"{name}.npy" for name in few]


def test_more_images_than_a_batch_are_corrupted_alike(files, monkeypatch):
    images, _, out = files
    monkeypatch.setattr(layout, "_BATCH_SIZE", 3)
    run(images, out, "--names", "glass_blur")
    got = load(out / "glass_blur.npy")[14:21]
    expected = corruptions.corrupt(load(images), "glass_blur", 3, seed=0)
    np.testing.assert_array_equal(got, expected)


def test_grey_images_stay_grey(files):
    images, _, out = files
    grey = photographs.crops(3, 8, 8)[..., :1]
    np.save(images, grey)
    run(images, out, "--names", "snow")
    got = load(out / "snow.npy")
    assert got.shape == (15, 8, 8, 1)
    expected = corruptions.corrupt_any(grey, "snow", 1, seed=0)
    np.testing.assert_array_equal(got[:3], expected)


def test_results_are_replaced_only_when_asked(files):
    images, labels, out = files
    run(images, out, "--names", "contrast")
    before = (out / "contrast.npy").read_bytes()
    np.save(images, photographs.crops(2))
    with pytest.raises(InputError, match=r"out: .*contrast.npy is there .*--overwrite"):
        run(images, out, "--names", "fog", "contrast")
    assert contents(out) == ["contrast.npy"]
    assert (out / "contrast.npy").read_bytes() == before
    run(images, out, "--names", "contrast", "--overwrite")
    assert load(out / "contrast.npy").shape == (10, 32, 32, 3)
    np.save(out / "labels.npy", np.arange(3))
    np.save(labels, np.arange(2))
    with pytest.raises(InputError, match=r"labels.npy is there already"):
        run(images, out, "--names", "fog", "--labels", labels)


def test_inputs_are_never_replaced(files):
    _, labels, out = files
    out.mkdir(parents=True)
    np.save(out / "fog.npy", photographs.crops(7))
    with pytest.raises(InputError, match=r"out: .*fog.npy is an input"):
        run(out / "fog.npy", out, "--names", "fog", "--overwrite")
    images = out / "fog.npy"
    options = ("--names", "snow", "--labels", labels, "--overwrite")
    with pytest.raises(InputError, match=r"out: .*labels.npy is an input"):
        run(images, labels.parent, *options)
    assert load(images).shape == (7, 32, 32, 3)


def test_an_interrupted_file_does_not_stay(files, monkeypatch):
    images, _, out = files

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(layout, "corrupt_any", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(images, out, "--names", "fog")
    assert contents(out) == []


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 8, 8, 3)), r"images: .* holds float64 \[2, 8, 8, 3\], needed"),
        (np.zeros((8, 8, 3), np.uint8), r"images: .* uint8 \[8, 8, 3\], needed"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"needed: uint8 \[n, height, width, 3 or"),
        (np.zeros((0, 8, 8, 3), np.uint8), "images: .* is empty"),
    ],
)
def test_wrong_images_are_named(files, array, message):
    images, _, out = files
    np.save(images, array)
    with pytest.raises(InputError, match=message):
        run(images, out)
    assert not out.exists()


@pytest.mark.parametrize("content", [None, b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_files_that_are_no_arrays_are_named(files, content):
    images, _, out = files
    images.unlink()
    if content is not None:
        images.write_bytes(content)
    with pytest.raises(InputError, match=r"images: cannot read .*images.npy as .npy"):
        run(images, out)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(6), r"labels: .* int64 \[6\], needed: whole numbers \[7\]"),
        (np.zeros(7), r"labels: .* float64 \[7\], needed"),
        (np.zeros((7, 1), int), r"labels: .* int64 \[7, 1\], needed"),
    ],
)
def test_wrong_labels_are_named(files, array, message):
    images, labels, out = files
    np.save(labels, array)
    with pytest.raises(InputError, match=message):
        run(images, out, "--labels", labels)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--names", "rain"), "--names: got 'rain', allowed: "),
        (("--seed", "-1"), "--seed: got -1, allowed: 0 to "),
    ],
)
def test_wrong_options_are_named(files, options, message, capsys):
    images, _, out = files
    with pytest.raises(SystemExit) as exit_info:
        run(images, out, *options)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def start(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ssvi_jax.data.corruptions", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_the_command_answers_with_an_exit_code(files):
    images, _, out = files
    done = start(images, out, "--names", "contrast")
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(out) == ["contrast.npy"]
    again = start(images, out, "--names", "contrast")
    assert again.returncode == 2
    assert again.stderr.startswith("error: out: ")
    assert "Traceback" not in again.stderr


def test_help_comes_without_jax():
    code = (
        "import sys\n"
        "from ssvi_jax.data.corruptions.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    print('jax' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Corrupts images as in CIFAR-10-C" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
