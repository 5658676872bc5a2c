"""A generated set in the form of TFDS's `imagenet2012`, of a few small images."""

import shutil

import numpy as np
import tfds_sets

from ssvi_jax.data import imagenet

SIZE = 8
"""Height and width that the tests of training shrink images to."""


def write(root, num_train=42, num_test=6, side=24):
    """Noise around the colour of one of ten classes, as JPEG; returns its folder."""
    rng = np.random.default_rng(0)

    def split(number):
        labels = np.arange(number) % 10
        shade = 25 * labels[:, None, None, None]
        noise = rng.integers(-20, 21, (number, side, side + 6, 3))
        return np.clip(shade + noise, 0, 255).astype(np.uint8), labels

    splits = {"train": split(num_train), "validation": split(num_test)}
    return tfds_sets.write_set(root, f"{imagenet.NAME}/5.1.0", splits)


def damage(root, target, row):
    """A copy of such a set in which the image of one training record is cut off."""
    folder = shutil.copytree(root, target) / imagenet.NAME / "5.1.0"
    source = imagenet.Split(root, "train")._records
    records = [source[number] for number in range(len(source))]
    end = b"\xff\xd9"  # of a JPEG
    assert records[row].count(end) == 1
    records[row] = records[row].replace(end, bytes(2))
    half = len(records) // 2
    for number, shard in enumerate((records[:half], records[half:])):
        path = folder / f"{imagenet.NAME}-train.array_record-{number:05d}-of-00002"
        path.unlink()
        tfds_sets._write_array_record(path, shard)
    return target


def shrink(monkeypatch):
    """Makes images of `SIZE`, so that networks on them compile and run fast."""
    monkeypatch.setattr(imagenet, "SIZE", SIZE)
    monkeypatch.setattr(imagenet, "SHORTER_SIDE", SIZE + 1)
