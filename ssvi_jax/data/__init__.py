"""Data sets: CIFAR-10, CIFAR-100, ImageNet, MIMIC-III, the embedded real digits."""

import logging
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ssvi_jax.core.errors import check_choice, check_fraction
from ssvi_jax.data import archive, cifar, digits, imagenet, mimic
from ssvi_jax.data.dataset import Dataset, channel_moments, stratified_split
from ssvi_jax.data.download import NotPreparedError

__all__ = ["NAMES", "Dataset", "NotPreparedError", "load"]

LOGGER = logging.getLogger("ssvi_jax")

NAMES = ("auto", "cifar10", "cifar100", "digits", "imagenet2012", "mimic3")
"""What `load` takes."""

VALIDATION = 0.1
"""Fraction of the training examples that choose the checkpoint; ImageNet has its own,
`imagenet.VALIDATION`."""


class _Raw(NamedTuple):
    name: str
    splits: dict[str, tuple[np.ndarray, np.ndarray]]
    source: str


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation: float | None = None,
    split_seed: int = 0,
    notify: Callable[[str], object] = LOGGER.warning,
) -> Dataset:
    """Loads a data set, downloading it first where that is needed and possible.

    Args:
      name: ``"cifar10"``, ``"cifar100"``, ``"digits"``, ``"mimic3"`` (see
        `ssvi_jax.data.mimic`), ``"imagenet2012"`` (see
        `ssvi_jax.data.imagenet`), or ``"auto"``: CIFAR-10 where it is there or can
        be downloaded, else the digits. A set asked for by name is never replaced by
        another, nor one in a folder that was named.
      data_dir: folder of data sets, as TFDS prepares them; without it $TFDS_DATA_DIR,
        then ``~/tensorflow_datasets``. The digits need none.
      validation: fraction in [0, 1) of the official training set that is set aside,
        class by class, to choose models with; None: 0.1, of ImageNet 0.01. That is
        5,000 of CIFAR's 50,000. Of MIMIC-III it is a fraction of the patients.
      split_seed: seed of that choice. It is not the run's seed: runs that differ in
        seed alone must be compared on the same validation images.
      notify: called with one line before a download, and when "auto" takes the digits;
        by default the logger "ssvi_jax".

    Raises:
      InputError: an unknown name, a wrong fraction, or damaged data.
      NotPreparedError: the data is not there and cannot be fetched; an `InputError`.
    """
    check_choice("dataset", name, NAMES)
    if validation is None:
        validation = imagenet.VALIDATION if name == imagenet.NAME else VALIDATION
    check_fraction("validation", validation)
    if name == imagenet.NAME:
        return imagenet.load(data_dir, validation, split_seed)
    if name == "mimic3":
        return mimic.load(data_dir, validation, split_seed)
    if name == "auto":
        raw = _read_auto(data_dir, notify)
    elif name == "digits":
        raw = _Raw("digits", digits.read(), digits.SOURCE)
    else:
        raw = _read_cifar(name, data_dir, notify)
    return _assemble(raw, validation, split_seed)


def _read_auto(
    data_dir: str | os.PathLike[str] | None, notify: Callable[[str], object]
) -> _Raw:
    try:
        return _read_cifar("cifar10", data_dir, notify)
    except NotPreparedError as error:
        if data_dir is not None:  # a folder that was named should have held it
            raise
        notify(
            "*** CIFAR-10 is not available, so this uses the embedded handwritten "
            f"DIGITS instead: {error.reason} ***"
        )
        why = "chosen by dataset=auto because CIFAR-10 was not available"
        return _Raw("digits", digits.read(), f"{digits.SOURCE}; {why}")


def _read_cifar(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    notify: Callable[[str], object],
) -> _Raw:
    root = cifar.data_root(data_dir)
    source = f"CIFAR-{name.removeprefix('cifar')} (Krizhevsky 2009), "
    folder = cifar.find(root, name)
    if folder is not None:
        source += f"prepared by TensorFlow Datasets as {name}/{folder.name}"
        return _Raw(name, cifar.read(folder), source)
    archive.fetch(name, root, notify)
    source += f"the author's archive {archive.ARCHIVES[name].file}"
    return _Raw(name, archive.read(root, name), source)


def _assemble(raw: _Raw, validation: float, split_seed: int) -> Dataset:
    images, labels = raw.splits["train"]
    test_images, test_labels = raw.splits["test"]
    count = int(validation * len(labels))
    train, val = stratified_split(labels, count, split_seed)
    mean, std = channel_moments(images[train])
    digits_only = raw.name == "digits"
    return Dataset(
        name=raw.name,
        train_images=images[train],
        train_labels=labels[train],
        val_images=images[val],
        val_labels=labels[val],
        test_images=test_images,
        test_labels=test_labels,
        num_classes=100 if raw.name == "cifar100" else 10,
        mean=mean,
        std=std,
        source=raw.source,
        pad=1 if digits_only else 4,
        flip=not digits_only,
    )
