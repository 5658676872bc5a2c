"""ImageNet (ILSVRC 2012) as TensorFlow Datasets has prepared it, batch by batch.

1.28 million images of 224 × 224 are 193 GB, so nothing is kept: a batch is read,
decoded and cropped when it is asked for. What it holds is a function of its rows, the
seed and the epoch alone. The training loop takes data in memory, and not this yet.

TFDS does not download ImageNet: it wants the archives from image-net.org in its manual
folder, and then ``tfds build imagenet2012 --file_format=array_record``.
"""

import concurrent.futures
import io
import math
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ssvi_jax.data import cifar, records
from ssvi_jax.errors import InputError, check_choice, check_rows

if TYPE_CHECKING:
    from PIL import Image

NAME = "imagenet2012"
SIZE = 224
"""Height and width of an input."""

SHORTER_SIDE = 256
"""Of an image whose centre is cropped for evaluation (He et al. 2016, section 3.4)."""

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
"""Fractions of the area and ratios of the sides that a random crop is drawn from, as in
Szegedy et al. 2015, "Going deeper with convolutions", section 6."""

_ATTEMPTS = 10


class Split:
    """Images of one split, read when they are asked for.

    Args:
      data_dir: folder of the sets that TFDS has prepared; None: as for any other set.
      split: "train" (1,281,167 images) or "validation" (50,000, the usual test set).
      workers: threads that decode; None: one a core.

    Raises:
      InputError: the set is not there, not in array_record, or damaged.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None,
        split: str,
        *,
        workers: int | None = None,
    ):
        check_choice("split", split, ("train", "validation"))
        root = cifar.data_root(data_dir)
        folder = cifar.find(root, NAME)
        if folder is None:
            raise InputError(
                f"data_dir: got {root}, which has no {NAME}/; put the archives of "
                "image-net.org into TFDS's manual folder and run tfds build "
                f"{NAME} --file_format=array_record."
            )
        self._folder, self._split = folder, split
        self._workers = workers or os.cpu_count()
        with self._naming_damage():
            self._records = records.random_access(records.open_info(folder), split)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._records)

    def batch(
        self,
        rows: Sequence[int] | np.ndarray,
        *,
        seed: int | None = None,
        epoch: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Some of the images and their labels.

        Args:
          rows: which, 0 to n - 1, in any order.
          seed: of random crops and flips; each image has its own in every epoch. None:
            the centre of each image.
          epoch: number of the epoch.

        Returns:
          uint8 ``[len(rows), 224, 224, 3]``, pixels in 0 to 255, and int32 labels.

        Raises:
          InputError: rows that do not exist, or an image that cannot be decoded.
        """
        rows = np.asarray(rows, np.int64)
        check_rows("rows", rows, len(self))
        with (
            self._naming_damage(),
            concurrent.futures.ThreadPoolExecutor(self._workers) as pool,
        ):
            found = self._records.__getitems__(rows.tolist())
            read = partial(_read, seed=seed, epoch=epoch)
            pairs = list(pool.map(read, found, rows.tolist()))
        images = np.empty((len(rows), SIZE, SIZE, 3), np.uint8)
        for place, (image, _) in enumerate(pairs):
            images[place] = image
        return images, np.array([label for _, label in pairs], np.int32)

    def _naming_damage(self):
        return records.naming_damage(self._folder, "choose another --data-dir")


def _read(
    record: bytes, row: int, *, seed: int | None, epoch: int
) -> tuple[np.ndarray, int]:
    feature = records.features(record)
    image = decode(feature["image"].bytes_list.value[0])
    label = feature["label"].int64_list.value[0]
    if seed is None:
        return center_crop(image), label
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch, row))
    return random_crop(image, np.random.default_rng(sequence)), label


def decode(data: bytes) -> "Image.Image":
    """An image in RGB. One of ImageNet's JPEG files is a PNG, and a few are CMYK."""
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]).convert("RGB")


def center_crop(image: "Image.Image") -> np.ndarray:
    """The centre uint8 ``[224, 224, 3]`` of the image with its shorter side at 256."""
    width, height = image.size
    side = min(width, height) * SIZE / SHORTER_SIDE
    left, top = (width - side) / 2, (height - side) / 2
    return _resized(image, (left, top, left + side, top + side))


def random_crop(image: "Image.Image", rng: np.random.Generator) -> np.ndarray:
    """A random part of an image as uint8 ``[224, 224, 3]``, every second one mirrored.

    Of ten drawn areas and aspect ratios it is the first that fits; without one, the
    largest square at the centre.

    Args:
      image: RGB.
      rng: of the crop and the flip.
    """
    box = _random_box(image.size, rng)
    pixels = _resized(image, box)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _random_box(
    size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    width, height = size
    for _ in range(_ATTEMPTS):
        area = rng.uniform(*AREA) * width * height
        aspect = math.exp(rng.uniform(*np.log(ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            top = int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    side = min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _resized(
    image: "Image.Image", box: tuple[float, float, float, float]
) -> np.ndarray:
    """A part of an image, interpolated linearly (averaged where it shrinks)."""
    from PIL import Image

    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))
