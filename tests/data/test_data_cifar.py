import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tfds_sets

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import cifar, download, load
from ssvi_jax.data.dataset import channel_moments

SIZES = {"train": 50, "test": 20}
FORMATS = tfds_sets.FORMATS


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    """Sets of 70 images count as complete, no folder of the user's is looked at."""
    monkeypatch.setattr(cifar, "SPLIT_SIZES", SIZES)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "has_network", lambda: False)


def fake_images(split, num_classes=10):
    rng = np.random.default_rng(len(split))
    images = rng.integers(0, 256, (SIZES[split], 32, 32, 3), dtype=np.uint8)
    return images, np.arange(SIZES[split]) % num_classes


def write_set(root, name="cifar10", *, ids=None, **how):
    classes = 10 if name == "cifar10" else 100
    splits = {split: fake_images(split, classes) for split in SIZES}
    return tfds_sets.write_set(root, f"{name}/3.0.2", splits, ids=ids, **how)


@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize("file_format", FORMATS)
def test_reads_what_was_written(tmp_path, file_format, num_shards):
    splits = cifar.read(
        write_set(tmp_path, file_format=file_format, num_shards=num_shards)
    )
    for split, (images, labels) in splits.items():
        expected_images, expected_labels = fake_images(split)
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int32


def test_test_images_come_in_the_official_order_and_training_images_as_they_lie(
    tmp_path,
):
    # Only then is row i of CIFAR-10-C the same image as row i of the test images.
    rng = np.random.default_rng(0)
    ids = {
        split: [b"%s_%05d" % (split.encode(), i) for i in rng.permutation(size)]
        for split, size in SIZES.items()
    }
    splits = cifar.read(write_set(tmp_path, ids=ids))
    images, labels = fake_images("test")
    for row, number in enumerate(sorted(ids["test"])):
        record = ids["test"].index(number)
        np.testing.assert_array_equal(splits["test"][0][row], images[record])
        assert splits["test"][1][row] == labels[record]
    np.testing.assert_array_equal(splits["train"][0], fake_images("train")[0])


def test_one_split_alone(tmp_path):
    folder = write_set(tmp_path)
    for file in folder.glob("*train*"):
        file.unlink()
    images, labels = cifar.read_split(folder, "test")
    np.testing.assert_array_equal(images, fake_images("test")[0])
    np.testing.assert_array_equal(labels, fake_images("test")[1])


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_load(tmp_path, name, classes):
    write_set(tmp_path, name)
    data = load(name, tmp_path, notify=pytest.fail)
    assert data.name == name
    assert data.num_classes == classes
    assert (data.pad, data.flip) == (4, True)
    assert f"{name}/3.0.2" in data.source
    assert str(tmp_path) not in data.source
    assert data.train_images.shape == (45, 32, 32, 3)
    assert data.val_images.shape == (5, 32, 32, 3)
    assert data.mean.shape == data.std.shape == (3,)
    images, labels = fake_images("train", classes)
    label_of = {
        image.tobytes(): label for image, label in zip(images, labels, strict=True)
    }
    ours = [*data.train_images, *data.val_images]
    assert {image.tobytes() for image in ours} == set(label_of)
    given = [*data.train_labels, *data.val_labels]
    assert [label_of[image.tobytes()] for image in ours] == given
    np.testing.assert_array_equal(data.test_images, fake_images("test")[0])


def test_auto_takes_a_prepared_cifar10(tmp_path):
    write_set(tmp_path)
    assert load("auto", tmp_path, notify=pytest.fail).name == "cifar10"


def test_where_it_looks(tmp_path, monkeypatch):
    assert cifar.data_root(None) == tmp_path / "home/tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "variable"))
    assert cifar.data_root(None) == tmp_path / "variable"
    assert cifar.data_root("~/given") == tmp_path / "home/given"


def test_the_newest_version_counts_and_other_folders_do_not(tmp_path):
    assert cifar.find(tmp_path, "cifar10") is None
    for name in ("3.0.9", "3.0.10", "incomplete.ABCDEF_4.0.0", "5.0.0.incomplete"):
        (tmp_path / "cifar10" / name).mkdir(parents=True)
    assert cifar.find(tmp_path, "cifar10") == tmp_path / "cifar10/3.0.10"
    assert cifar.find(tmp_path, "cifar100") is None


def remove(pattern):
    def change(folder):
        next(iter(sorted(folder.glob(pattern)))).unlink()

    return change


def cut(pattern, keep):
    def change(folder):
        path = next(iter(sorted(folder.glob(pattern))))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])

    return change


def edit_info(old, new):
    def change(folder):
        path = folder / "dataset_info.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def flip_pixel_byte(folder):
    path = next(iter(sorted(folder.glob("*train*00000-*"))))
    content = bytearray(path.read_bytes())
    content[len(content) // 5] ^= 0xFF
    path.write_bytes(bytes(content))


DAMAGES = {
    "a shard is missing": (remove("*train*00001-of*"), "missing cifar10-train"),
    "no dataset_info.json": (remove("dataset_info.json"), "missing dataset_info.json"),
    "no features.json": (remove("features.json"), "missing features.json"),
    "dataset_info.json is cut": (cut("dataset_info.json", 0.5), "damaged"),
    "a shard is cut": (cut("*test*00000-of*", 0.6), "damaged"),
    "a shard is empty": (cut("*test*00000-of*", 0.0), "damaged"),
    "a byte is wrong": (flip_pixel_byte, "damaged"),
    "an unknown format": (edit_info("array_record", "parquet"), "parquet"),
}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_is_refused(tmp_path, damage, file_format):
    change, words = DAMAGES[damage]
    folder = write_set(tmp_path, file_format=file_format)
    if damage == "an unknown format" and file_format == "tfrecord":
        change = edit_info("tfrecord", "riegeli")
        words = "riegeli"
    change(folder)
    for name in ("cifar10", "auto"):
        with pytest.raises(InputError, match=words) as caught:
            load(name, tmp_path, notify=pytest.fail)
        assert str(folder) in str(caught.value)
        assert "Delete that folder" in str(caught.value)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_number_of_images_is_refused(
    tmp_path, monkeypatch, file_format, change
):
    folder = write_set(tmp_path, file_format=file_format)
    monkeypatch.setattr(cifar, "SPLIT_SIZES", SIZES | {"test": 20 + change})
    with pytest.raises(InputError, match=f"test has 20 images, not {20 + change}"):
        cifar.read(folder)


def test_images_of_another_shape_are_refused(tmp_path, monkeypatch):
    folder = write_set(tmp_path)
    monkeypatch.setattr(cifar, "IMAGE_SHAPE", (28, 28, 1))
    with pytest.raises(InputError, match=r"shape \(32, 32, 3\)"):
        cifar.read(folder)


def test_loading_imports_neither_tensorflow_nor_jax(tmp_path):
    write_set(tmp_path)
    code = f"""
        import sys
        from ssvi_jax.data import cifar, load
        cifar.SPLIT_SIZES = {SIZES}
        assert load("cifar10", {str(tmp_path)!r}).name == "cifar10"
        assert "tensorflow_datasets" in sys.modules
        assert not {{"tensorflow", "jax"}} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.slow
def test_the_real_cifar10(cifar_dir, monkeypatch):
    monkeypatch.undo()
    data = load("cifar10", cifar_dir, validation=0.1)
    assert data.train_images.shape == (45_000, 32, 32, 3)
    assert np.bincount(data.val_labels).tolist() == [500] * 10
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    # The first labels of the official test_batch: cat, ship, ship, airplane, frog, ...
    assert data.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    # Published moments of all 50,000 training images.
    whole = np.concatenate([data.train_images, data.val_images])
    mean, std = channel_moments(whole)
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=5e-5)
