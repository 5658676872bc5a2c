"""A data set whose training images are corrupted; its test images stay clean.

A network is trained on one distribution and tested on two: on test images under the
same corruption, which it has never seen, and on the clean ones. Validation images come
from the training distribution, because they choose the checkpoint.
"""

import dataclasses

from ssvi_jax.core.errors import InputError, check_choice
from ssvi_jax.data.dataset import Corruption, Dataset, channel_moments


def corrupt_training(data: Dataset, name: str, severity: int, *, seed: int) -> Dataset:
    """Corrupts training and validation images, once; labels stay as they are.

    Every image is corrupted in a way of its own, a function of (seed, name, severity)
    and its position. No position is given twice, so no noise of a training image
    returns in a test image.

    Args:
      data: a clean data set.
      name: one of `ssvi_jax.data.corruptions.NAMES`; "none" gives `data` back.
      severity: 1 to 5.
      seed: 0 or more.

    Returns:
      A data set with the same `test_images`. The same images under the corruption are
      in its `corruption`; mean and standard deviation are of the corrupted training
      images; `source` says what was done.

    Raises:
      InputError: an unknown name or severity, or `data` is corrupted already or does
        not fit in memory.
    """
    if name == "none":
        return data
    if data.is_streamed:
        raise InputError(
            f"train_corruption: got {name} for {data.name}, allowed: none; images are "
            "corrupted in memory, and those of this data set do not fit."
        )
    from ssvi_jax.data import corruptions

    check_choice("train_corruption", name, ("none", *corruptions.NAMES))
    if severity not in corruptions.SEVERITIES:
        raise InputError(f"train_severity: got {severity}, allowed: 1 to 5.")
    if data.corruption is not None:
        raise InputError(
            f"data: corrupted by {data.corruption.name} already; load it anew."
        )
    # The test images first: as an evaluation would corrupt them with this seed.
    parts, start = [], 0
    for images in (data.test_images, data.train_images, data.val_images):
        parts.append(
            corruptions.corrupt_any(images, name, severity, seed=seed, start=start)
        )
        start += len(images)
    test, train, val = parts
    mean, std = channel_moments(train)
    return dataclasses.replace(
        data,
        train_images=train,
        val_images=val,
        mean=mean,
        std=std,
        source=(
            f"{data.source}; training and validation images corrupted by {name}, "
            f"severity {severity}, seed {seed}"
        ),
        corruption=Corruption(name, severity, test),
    )


def check_corruption(data: Dataset, name: str, severity: int) -> None:
    """Raises `InputError` unless the training images are corrupted in that way.

    Args:
      data: a data set.
      name: the corruption, or "none" for clean images, whatever the severity.
      severity: 1 to 5.
    """
    made = data.corruption
    got = f"{made.name}, severity {made.severity}" if made else "none"
    asked = name if name == "none" else f"{name}, severity {severity}"
    if got != asked:
        raise InputError(
            f"train_corruption: got {asked}, but the training images of this data "
            f"set have {got}; make them with data.shifted.corrupt_training."
        )
