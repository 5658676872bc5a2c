import subprocess
import sys
import textwrap

import numpy as np
import pytest
import small_data
import tfds_sets

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import cifar
from ssvi_jax.data.corrupted import open_cells
from ssvi_jax.data.corruptions import BENCHMARK, EXTRA, NAMES, SEVERITIES
from ssvi_jax.data.prepared_cells import tfds_name

SIZE = 12
OFFICIAL_NAMES = {"frosted_glass_blur": "glass_blur", "elastic": "elastic_transform"}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(cifar, "SPLIT_SIZES", {"train": 50, "test": SIZE})


@pytest.fixture
def data():
    return small_data.make(num_test=SIZE)


def images_of(name, severity):
    """What the official file holds at this severity; row i is filled with i."""
    images = np.empty((SIZE, 32, 32, 3), np.uint8)
    images[...] = np.arange(SIZE)[:, None, None, None]
    images[..., 1], images[..., 2] = NAMES.index(name), severity
    return images


def shuffled():
    """The order that TFDS writes the numbers 0, 1, … of a test split in."""
    from tensorflow_datasets.core import hashing

    hasher = hashing.Hasher("test")  # the salt is the split's name
    return sorted(range(SIZE), key=hasher.hash_key)


def write_cell(root, name, severity, data, *, order=None, **how):
    order = shuffled() if order is None else order
    split = images_of(name, severity)[order], data.test_labels[order]
    path = f"{tfds_name(name, severity)}/1.0.0"
    return tfds_sets.write_set(root, path, {"test": split}, **how)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    for number, name in enumerate(NAMES):
        for severity in SEVERITIES:
            how = tfds_sets.FORMATS[number % 2], 1 + severity % 2
            write_cell(
                root,
                name,
                severity,
                small_data.make(num_test=SIZE),
                file_format=how[0],
                num_shards=how[1],
            )
    return root


def open_prepared(root, data, *, extra=False, limit=0, notify=pytest.fail):
    return open_cells(
        data,
        corruptions_dir=None,
        data_dir=root,
        extra=extra,
        limit=limit,
        seed=0,
        notify=notify,
    )


def test_the_names_are_those_of_tfds():
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls("cifar10_corrupted")
    theirs = {f"{builder.name}/{config.name}" for config in builder.BUILDER_CONFIGS}
    assert {tfds_name(n, s) for n in NAMES for s in SEVERITIES} == theirs
    for config in builder.BUILDER_CONFIGS:
        name = OFFICIAL_NAMES.get(config.corruption, str(config.corruption))
        assert tfds_name(name, config.severity) == f"{builder.name}/{config.name}"


@pytest.mark.parametrize("limit", [0, 5])
def test_every_cell_in_the_order_of_the_test_images(whole, data, limit):
    cells = open_prepared(whole, data, limit=limit)
    size = limit or SIZE
    assert cells.kind == "tfds"
    assert cells.names == BENCHMARK
    assert cells.num_images == size
    for name in BENCHMARK:
        for severity in SEVERITIES:
            images, labels = cells.read(name, severity)
            np.testing.assert_array_equal(images, images_of(name, severity)[:size])
            np.testing.assert_array_equal(labels, data.test_labels[:size])
            assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def test_the_source(whole, data, tmp_path):
    source = open_prepared(whole, data).source
    assert "CIFAR-10-C (Hendrycks and Dietterich 2019)" in source
    assert "cifar10_corrupted/1.0.0, 12 images a cell" in source
    assert str(whole) not in source
    assert "the first 5 of 12" in open_prepared(whole, data, limit=5).source


def test_extra_corruptions(whole, data):
    cells = open_prepared(whole, data, extra=True)
    assert cells.names == (*BENCHMARK, *EXTRA)
    images, _ = cells.read("spatter", 4)
    np.testing.assert_array_equal(images, images_of("spatter", 4))


def test_only_complete_corruptions_count(tmp_path, data):
    said = []
    for name in ("fog", "glass_blur"):
        for severity in SEVERITIES[: 4 if name == "fog" else 5]:
            write_cell(tmp_path, name, severity, data)
    cells = open_prepared(tmp_path, data, notify=said.append)
    assert cells.kind == "tfds"
    assert cells.names == ("glass_blur",)
    assert cells.source.count("fog") == 1
    assert "; not there: gaussian_noise, shot_noise" in cells.source
    assert len(said) == 1
    assert f"{tmp_path} lacks cifar10_corrupted/gaussian_noise_1" in said[0]
    assert "and 62 more: only corruptions with all 5 severities" in said[0]
    assert "1 of 15" in said[0]
    np.testing.assert_array_equal(
        cells.read("glass_blur", 5)[0], images_of("glass_blur", 5)
    )


def test_the_default_configuration_alone_is_not_enough(tmp_path, data):
    write_cell(tmp_path, "brightness", 1, data)
    said = []
    cells = open_prepared(tmp_path, data, notify=said.append)
    assert cells.kind == "generated"
    assert "0 of 15" in said[0]
    assert "MADE" in said[1]
    assert len(said) == 2


def test_extra_corruptions_alone_are_not_enough(tmp_path, data):
    for severity in SEVERITIES:
        write_cell(tmp_path, "spatter", severity, data)
    cells = open_prepared(tmp_path, data, extra=True, notify=lambda line: None)
    assert cells.kind == "generated"


@pytest.mark.parametrize("name", ["cifar100", "digits"])
def test_they_are_for_models_of_cifar10_only(whole, name):
    other = small_data.make(name, num_test=SIZE)
    cells = open_prepared(whole, other, notify=lambda line: None)
    assert cells.kind == "generated"


def test_another_order_is_noticed_and_labels_stay_with_images(tmp_path, data):
    order = list(range(SIZE))[::-1]
    for severity in SEVERITIES:
        write_cell(tmp_path, "fog", severity, data, order=order)
    said = []
    cells = open_prepared(tmp_path, data, limit=5, notify=said.append)
    assert len(said) == 2
    assert "not in the order of the test images" in said[1]
    images, labels = cells.read("fog", 3)
    np.testing.assert_array_equal(images, images_of("fog", 3)[order][:5])
    np.testing.assert_array_equal(labels, data.test_labels[order][:5])


def write_fog(root, data):
    for severity in SEVERITIES:
        folder = write_cell(root, "fog", severity, data)
    return folder  # of severity 5


def test_missing_records_are_noticed_when_opened(tmp_path, data):
    folder = write_fog(tmp_path, data)
    next(folder.glob("*00001-of-00002")).unlink()
    with pytest.raises(InputError, match=r"missing cifar10_corrupted-test\.arr") as e:
        open_prepared(tmp_path, data, notify=lambda line: None)
    assert str(folder) in str(e.value)
    assert "give the official files with --corruptions-dir" in str(e.value)


def test_another_number_of_images_is_noticed_when_opened(tmp_path, data, monkeypatch):
    write_fog(tmp_path, data)
    monkeypatch.setattr(cifar, "SPLIT_SIZES", {"test": SIZE + 1})
    with pytest.raises(InputError, match="test has 12 images, not 13"):
        open_prepared(tmp_path, data, notify=lambda line: None)


def test_damaged_records_are_an_error_when_read(tmp_path, data):
    folder = write_fog(tmp_path, data)
    file = next(folder.glob("*00001-of-00002"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    cells = open_prepared(tmp_path, data, notify=lambda line: None)
    np.testing.assert_array_equal(cells.read("fog", 4)[0], images_of("fog", 4))
    with pytest.raises(InputError, match="incomplete or damaged") as caught:
        cells.read("fog", 5)
    assert str(folder) in str(caught.value)


def test_unknown_cells(whole, data):
    cells = open_prepared(whole, data)
    with pytest.raises(InputError, match="corruption: got 'frosted_glass_blur', allow"):
        cells.read("frosted_glass_blur", 1)
    with pytest.raises(InputError, match="severity: got 0, allowed: 1 to 5"):
        cells.read("fog", 0)


def test_reading_needs_no_tensorflow(whole):
    code = f"""
        import sys
        import small_data
        from ssvi_jax.data import cifar
        from ssvi_jax.data.corrupted import open_cells
        cifar.SPLIT_SIZES = {{"test": {SIZE}}}
        cells = open_cells(
            small_data.make(num_test={SIZE}), corruptions_dir=None,
            data_dir={str(whole)!r}, extra=False, limit=0, seed=0, notify=print,
        )
        assert cells.read("fog", 1)[0].shape == ({SIZE}, 32, 32, 3)
        assert "tensorflow_datasets" in sys.modules
        assert not {{"tensorflow", "jax"}} & set(sys.modules)
    """
    code = f"import sys; sys.path[:0] = {sys.path!r}\n" + textwrap.dedent(code)
    subprocess.run([sys.executable, "-c", code], check=True)
