"""The readers of .npy and .npz files."""

import io
import math
from pathlib import Path

import numpy as np

from ssvi_jax.data import Dataset, official, ood_sets
from ssvi_jax.data.corruptions import layout
from ssvi_jax.evaluation import predict
from ssvi_jax.io import run_files

from .targets import Target, of_file

SHAPE = (4, 5, 3)
IMAGES = np.arange(30 * math.prod(SHAPE)).astype(np.uint8).reshape(30, *SHAPE)
LABELS = np.tile(np.arange(6, dtype=np.uint8), 5)


def npy(array: np.ndarray) -> bytes:
    """The bytes that np.save writes."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def npz(*, compressed: bool = False, **arrays: np.ndarray) -> bytes:
    """The bytes that np.savez writes."""
    file = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def check_stored(data: bytes, array: np.ndarray) -> None:
    """What was read from a file that is not compressed is what lies in it."""
    both = (array.tobytes("C"), array.tobytes("F"))
    assert any(content in data for content in both), "read what is not in the file"


def dataset() -> Dataset:
    """A data set of images like those of the seeds."""
    images, labels = IMAGES[:6], LABELS[:6].astype(np.int32)
    moments = np.full(3, 0.5, np.float32)
    return Dataset(
        *("cifar10", images, labels, images, labels, images, labels, 10),
        *(moments, moments, "made up", 0, False),
    )


def cells(folder: Path) -> list[Target]:
    """The loader of CIFAR-10-C files: one file mutated, the others good."""
    folder.mkdir()
    data, images, labels = dataset(), npy(IMAGES), npy(LABELS)
    good = {"fog.npy": images, "labels.npy": labels}

    def read() -> official.OfficialCells:
        found = official.open_folder(
            folder, data, extra=False, limit=0, notify=lambda line: None
        )
        for severity in range(1, 6):
            pixels, classes = found.read("fog", severity)
            assert (pixels.dtype, pixels.shape) == (np.uint8, (6, *SHAPE))
            assert 0 <= classes.min() <= classes.max() < 10
        return found

    def read_images(content: bytes) -> None:
        (folder / "labels.npy").write_bytes(good["labels.npy"])
        check_stored(content, np.asarray(read().files["fog"]))

    def read_labels(content: bytes) -> None:
        (folder / "fog.npy").write_bytes(good["fog.npy"])
        read()

    others = [npy(IMAGES[:, ::-1]), npy(np.asfortranarray(IMAGES)), labels]
    more = [labels, npy(LABELS.astype(np.int64)), images]
    return [
        of_file(
            *("corruption images (.npy)", 20_000, folder / "fog.npy"),
            *([images, *others], read_images),
        ),
        of_file(
            *("corruption labels (.npy)", 10_000, folder / "labels.npy"),
            *(more, read_labels),
        ),
    ]


def single(folder: Path) -> list[Target]:
    """Readers of one .npy file."""
    path, images, labels = folder / "array.npy", npy(IMAGES), npy(LABELS)

    def read_images(content: bytes) -> None:
        found = predict.read_inputs(path, SHAPE, pixels=True)
        assert (found.dtype, found.shape[1:]) == (np.uint8, SHAPE)
        check_stored(content, found)

    def read_any_images(content: bytes) -> None:
        check_stored(content, np.asarray(layout.read_images(path)))

    def read_any_labels(content: bytes) -> None:
        check_stored(content, np.asarray(layout.read_labels(path, 30)))

    seeds = [images, npy(np.asfortranarray(IMAGES)), labels]
    return [
        of_file("predict's images (.npy)", 20_000, path, seeds, read_images),
        of_file("images to corrupt (.npy)", 5000, path, seeds, read_any_images),
        of_file("labels to corrupt (.npy)", 5000, path, [labels], read_any_labels),
    ]


def archives(folder: Path) -> list[Target]:
    """Readers of .npz files."""
    path, predictions = folder / "ood.npz", folder / "predictions.npz"

    def read_ood(content: bytes) -> None:
        found, _ = ood_sets.npz(path)
        assert (found.dtype, found.ndim) == (np.uint8, 4)

    def read_predictions(content: bytes) -> None:
        for array in run_files.read_predictions(folder).values():
            assert array.dtype.kind in "biufUS"

    foreign = [
        npz(image=IMAGES),
        npz(images=IMAGES, compressed=True),
        npz(x=IMAGES, image=IMAGES, compressed=True),
    ]
    probs = np.full((6, 10), 0.1, np.float32)
    own = [
        npz(mc_probs=probs, labels=LABELS, compressed=True),
        npz(looks=np.array(["clean", "fog/1"]), mean_probs=probs),
    ]
    return [
        of_file("foreign images (.npz)", 10_000, path, foreign, read_ood),
        of_file("predictions (.npz)", 5000, predictions, own, read_predictions),
    ]


def targets(folder: Path) -> list[Target]:
    """Readers of .npy and .npz files."""
    return [*cells(folder / "cells"), *single(folder), *archives(folder)]
