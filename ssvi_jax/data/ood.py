"""Out-of-distribution sets by name: what a model should be uncertain about."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import cifar, ood_sets
from ssvi_jax.data.cells import check_limit
from ssvi_jax.data.dataset import Dataset

NAMES = ("auto", "cifar10", "cifar100", "svhn", "photos", "digits", "noise")


class OodSet(NamedTuple):
    """Images that belong to none of the model's classes.

    Attributes:
      name: one of `NAMES` but auto, or an .npz file's name without its ending; unique
        among those loaded together.
      images: uint8 ``[n, h, w, c]``, of the model's shape.
      source: one sentence on where they came from, for the results.
    """

    name: str
    images: np.ndarray
    source: str


def load_ood(
    dataset: Dataset,
    names: Sequence[str],
    *,
    data_dir: Path | None,
    limit: int,
    seed: int,
    notify: Callable[[str], object],
) -> list[OodSet]:
    """Loads out-of-distribution sets; downloads nothing.

    Args:
      dataset: the models' data set; no set may be the same.
      names: any of `NAMES`, or paths that end in ``.npz``; twice the same counts once.
        "auto" stands for the sets of 32x32 photographs that TFDS has prepared (of
        CIFAR-10, CIFAR-100 and SVHN) and for embedded ones: photos and digits, or
        photos and noise for models of digits.
      data_dir: folder of sets prepared by TFDS; without it $TFDS_DATA_DIR, then
        ``~/tensorflow_datasets``.
      limit: take so many images of each set, evenly spread, because a set may be sorted
        by class; 0: all.
      seed: seed of sets that are made, 0 or more.
      notify: called with a line on sets that "auto" would have taken were they there.

    Raises:
      InputError: an unknown name, the model's own set, images of another shape, a
        damaged set, or a negative `limit`.
      NotPreparedError: a set that was named is not there; an `InputError`.
    """
    check_limit(limit)
    root = cifar.data_root(data_dir)
    chosen: list[str] = []
    for name in names:
        _check_name(name, dataset)
        chosen += _auto(dataset, root, notify) if name == "auto" else [name]
    sets: list[OodSet] = []
    for name in dict.fromkeys(chosen):
        images, source = _read(name, dataset.test_images.shape[1:], root, seed)
        _check_shape(name, images, dataset)
        title = _title(name, [found.name for found in sets])
        sets.append(OodSet(title, *_spread(images, source, limit)))
    return sets


def _check_name(name: str, dataset: Dataset) -> None:
    if name == dataset.name:
        raise InputError(
            f"ood: got {name}, the data set that the model was trained on; allowed: "
            "another one."
        )
    if name not in NAMES and not name.endswith(".npz"):
        raise InputError(
            f"ood: got {name!r}, allowed: {', '.join(NAMES)}, or a file of images that "
            "ends in .npz."
        )


def _auto(
    dataset: Dataset, root: Path, notify: Callable[[str], object]
) -> tuple[str, ...]:
    if dataset.name == "digits":
        return ("photos", "noise")
    others = [name for name in ood_sets.PREPARED if name != dataset.name]
    there = [n for n in others if cifar.find(root, ood_sets.PREPARED[n]) is not None]
    if missing := [name for name in others if name not in there]:
        notify(
            f"out of distribution: {' and '.join(missing)} not in {root}; auto takes "
            f"{', '.join((*there, 'photos', 'digits'))}."
        )
    return (*there, "photos", "digits")


def _read(
    name: str, shape: tuple[int, ...], root: Path, seed: int
) -> tuple[np.ndarray, str]:
    height, width, channels = shape
    if name in ood_sets.PREPARED:
        return ood_sets.prepared(root, name)
    if name == "photos":
        return ood_sets.photos((height, width, channels), seed)
    if name == "digits":
        return ood_sets.digits((height, width, channels))
    if name == "noise":
        return ood_sets.noise((height, width, channels), seed)
    return ood_sets.npz(Path(name).expanduser())


def _check_shape(name: str, images: np.ndarray, dataset: Dataset) -> None:
    got, allowed = images.shape[1:], dataset.test_images.shape[1:]
    if got != allowed:
        what = "size" if got[2] == allowed[2] else "number of channels"
        raise InputError(
            f"ood: the images of {name} are {_size(got)}, of another {what} than the "
            f"model takes; allowed: {_size(allowed)}; convert them, or use --ood "
            "photos or noise, which are made to that size."
        )


def _size(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    return f"{height}x{width} {colours}"


def _title(name: str, taken: list[str]) -> str:
    stem = Path(name).stem if name.endswith(".npz") else name
    title, number = stem, 1
    while title in taken or (title != name and title in NAMES):
        number += 1
        title = f"{stem}-{number}"
    return title


def _spread(images: np.ndarray, source: str, limit: int) -> tuple[np.ndarray, str]:
    """`limit` images at even distances, and the source with a word on that."""
    count = len(images)
    if not 0 < limit < count:
        return images, source
    rows = np.arange(limit) * count // limit
    return images[rows], f"{source}; {limit:,} of {count:,}, evenly spread"
