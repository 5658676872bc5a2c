"""Writes small sets to disk exactly as TensorFlow Datasets 4.9.10 leaves them."""

import io
import json
import pathlib
import struct
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

FORMATS = ("array_record", "tfrecord")


def example_proto(image, label, *, name="cifar10", id_=b"train_00000"):
    """One serialized example; sets without ids get none."""
    from tensorflow_datasets.proto import tf_example_pb2

    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG" if name == "imagenet2012" else "PNG")
    # The class is made by protobuf at import.
    example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
    feature = example.features.feature
    feature["image"].bytes_list.value.append(encoded.getvalue())
    feature["label"].int64_list.value.append(int(label))
    if name == "imagenet2012":
        feature["file_name"].bytes_list.value.append(id_)
    elif name != "cifar10_corrupted":
        feature["id"].bytes_list.value.append(id_)
    if name == "cifar100":
        feature["coarse_label"].int64_list.value.append(int(label) // 5)
    return example.SerializeToString()


def _write_array_record(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def _write_tfrecord(path, records):
    with open(path, "wb") as file:
        for record in records:
            file.write(struct.pack("<Q4x", len(record)) + record + bytes(4))


def _feature_json(name):
    classes = "tensorflow_datasets.core.features."

    def label(count):
        python = classes + "class_label_feature.ClassLabel"
        return {"pythonClassName": python, "classLabel": {"numClasses": str(count)}}

    image = {"dtype": "uint8", "shape": {"dimensions": ["32", "32", "3"]}}
    if name == "imagenet2012":
        image["shape"]["dimensions"] = ["-1", "-1", "3"]
        image["encodingFormat"] = "jpeg"
    features = {
        "image": {"pythonClassName": classes + "image_feature.Image", "image": image},
        "label": label({"cifar100": 100, "imagenet2012": 1000}.get(name, 10)),
    }
    if name != "cifar10_corrupted":
        text = {"pythonClassName": classes + "text_feature.Text", "text": {}}
        features["file_name" if name == "imagenet2012" else "id"] = text
    if name == "cifar100":
        features["coarse_label"] = label(20)
    return {
        "pythonClassName": classes + "features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


def write_set(
    root: pathlib.Path,
    path: str,
    splits: Mapping[str, tuple[Sequence[np.ndarray] | np.ndarray, np.ndarray]],
    *,
    file_format: str = "array_record",
    num_shards: int = 2,
    ids: Mapping[str, Sequence[bytes]] | None = None,
) -> pathlib.Path:
    """Records in shards, and two files that say so.

    Args:
      root: folder of sets.
      path: set, configuration where there are several, and version.
      splits: split → images and labels.
      file_format: one of `FORMATS`.
      num_shards: 1 or 2.
      ids: split → names of its examples.
    """
    folder, name = root / path, path.partition("/")[0]
    folder.mkdir(parents=True)
    write = {"array_record": _write_array_record, "tfrecord": _write_tfrecord}
    facts = []
    for split, (images, labels) in splits.items():
        named = ids[split] if ids else [b"train_00000"] * len(labels)
        records = [
            example_proto(image, label, name=name, id_=id_)
            for image, label, id_ in zip(images, labels, named, strict=True)
        ]
        shards = [records[: len(records) // 2], records[len(records) // 2 :]]
        shards = shards if num_shards == 2 else [records]
        for number, shard in enumerate(shards):
            suffix = f"{number:05d}-of-{len(shards):05d}"
            write[file_format](folder / f"{name}-{split}.{file_format}-{suffix}", shard)
        facts.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(len(shard)) for shard in shards],
                "numBytes": "1",
            }
        )
    version, *config = reversed(path.split("/")[1:])
    info = {"name": name, "version": version, "fileFormat": file_format}
    if config:
        info["configName"] = config[0]
    (folder / "dataset_info.json").write_text(json.dumps({**info, "splits": facts}))
    (folder / "features.json").write_text(json.dumps(_feature_json(name)))
    return folder
