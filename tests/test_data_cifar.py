import io
import json
import pathlib
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from ssvi_jax.data import cifar, download, load
from ssvi_jax.data.dataset import channel_moments
from ssvi_jax.errors import InputError

SIZES = {"train": 50, "test": 20}
FORMATS = ("array_record", "tfrecord")
CIFAR10 = "cifar10/3.0.2"


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


def example_proto(image, label, name="cifar10"):
    from tensorflow_datasets.proto import tf_example_pb2

    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    # The class is made by protobuf at import.
    example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
    feature = example.features.feature
    feature["image"].bytes_list.value.append(png.getvalue())
    feature["label"].int64_list.value.append(label)
    feature["id"].bytes_list.value.append(b"train_00000")
    if name == "cifar100":
        feature["coarse_label"].int64_list.value.append(label // 5)
    return example.SerializeToString()


def write_array_record(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def write_tfrecord(path, records):
    with open(path, "wb") as file:
        for record in records:
            file.write(struct.pack("<Q4x", len(record)) + record + bytes(4))


def feature_json(name):
    """features.json as TFDS 4.9.10 writes it."""
    classes = "tensorflow_datasets.core.features."

    def label(count):
        python = classes + "class_label_feature.ClassLabel"
        return {"pythonClassName": python, "classLabel": {"numClasses": str(count)}}

    features = {
        "id": {"pythonClassName": classes + "text_feature.Text", "text": {}},
        "image": {
            "pythonClassName": classes + "image_feature.Image",
            "image": {"dtype": "uint8", "shape": {"dimensions": ["32", "32", "3"]}},
        },
        "label": label(10 if name == "cifar10" else 100),
    }
    if name == "cifar100":
        features["coarse_label"] = label(20)
    return {
        "pythonClassName": classes + "features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


def write_set(root, name="cifar10", file_format="array_record", num_shards=2):
    """A small set as TFDS leaves it: records in shards, and two files that say so."""
    folder = pathlib.Path(root, name, "3.0.2")
    folder.mkdir(parents=True)
    write = {"array_record": write_array_record, "tfrecord": write_tfrecord}
    splits = []
    for split in SIZES:
        pairs = zip(*fake_images(split, 10 if name == "cifar10" else 100), strict=True)
        records = [example_proto(image, label, name) for image, label in pairs]
        shards = [records[: len(records) // 2], records[len(records) // 2 :]]
        shards = shards if num_shards == 2 else [records]
        for number, shard in enumerate(shards):
            suffix = f"{number:05d}-of-{len(shards):05d}"
            write[file_format](folder / f"{name}-{split}.{file_format}-{suffix}", shard)
        splits.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(len(shard)) for shard in shards],
                "numBytes": "1",
            }
        )
    facts = {
        "name": name,
        "version": "3.0.2",
        "fileFormat": file_format,
        "splits": splits,
    }
    (folder / "dataset_info.json").write_text(json.dumps(facts))
    (folder / "features.json").write_text(json.dumps(feature_json(name)))
    return folder


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
    # Published moments of all 50,000 training images.
    whole = np.concatenate([data.train_images, data.val_images])
    mean, std = channel_moments(whole)
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=5e-5)
