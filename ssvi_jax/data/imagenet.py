"""ImageNet (ILSVRC 2012) as TensorFlow Datasets has prepared it, batch by batch.

1.28 million images of 224 × 224 are 193 GB, so nothing is kept: an image is read,
decoded and cropped when it is asked for. What comes out is a function of its row, the
seed and the epoch alone. `training.feeds` streams it through training.

TFDS does not download ImageNet: it wants the archives from image-net.org in its manual
folder, and then ``tfds build imagenet2012 --file_format=array_record``.
"""

import concurrent.futures
import contextlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from ssvi_jax.core.errors import InputError, check_choice, check_rows
from ssvi_jax.data import cifar, lazy, records
from ssvi_jax.data.dataset import Dataset

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
_CROP_STREAM = 3  # separates crops from the seed's other streams of random numbers

NUM_CLASSES = 1000

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of the training images' channels divided by 255: the figures that are in use since
https://github.com/facebookarchive/fb.resnet.torch."""

VALIDATION = 0.01
"""Fraction of the training images that choose the checkpoint: 12,812, read after every
epoch."""


def load(
    data_dir: str | os.PathLike[str] | None, validation: float, split_seed: int
) -> Dataset:
    """The set as `data.load` gives it, its images and labels unread.

    TFDS has shuffled the records, so validation images are drawn by row. The test set
    is the official validation set: the labels of the official test set are not public.

    Args:
      data_dir: folder of the sets that TFDS has prepared; None: as for any other set.
      validation: fraction in [0, 1) of the training images that is set aside.
      split_seed: seed of that choice.

    Raises:
      InputError: see `Split`.
    """
    train, test = Split(data_dir, "train"), Split(data_dir, "validation")
    order = np.random.default_rng(split_seed).permutation(len(train))
    count = math.ceil(validation * len(train))
    train_images, train_labels = _lazy(train, np.sort(order[count:]))
    val_images, val_labels = _lazy(train, np.sort(order[:count]))
    test_images, test_labels = _lazy(test, np.arange(len(test)))
    return Dataset(
        name=NAME,
        train_images=train_images,
        train_labels=train_labels,
        val_images=val_images,
        val_labels=val_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=NUM_CLASSES,
        mean=np.array(MEAN, np.float32),
        std=np.array(STD, np.float32),
        source=(
            "ImageNet (ILSVRC 2012; Russakovsky et al. 2015), prepared by TensorFlow "
            f"Datasets as {NAME}/{train.version}, streamed"
        ),
        pad=0,
        flip=False,
    )


def _lazy(split: "Split", rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that do what is asked of a data set's arrays."""
    images, labels = lazy.Images(split, rows), lazy.Labels(split, rows)
    return cast(np.ndarray, images), cast(np.ndarray, labels)


class Split:
    """Images of one split, read when they are asked for.

    Args:
      data_dir: folder of the sets that TFDS has prepared; None: as for any other set.
      split: "train" (1,281,167 images) or "validation" (50,000, the usual test set).
      workers: threads that decode a batch; None: one a core.

    Attributes:
      version: TFDS's version of the set.

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
        self.version = folder.name
        self._workers = workers or os.cpu_count()
        with self._naming_damage():
            self._records = records.random_access(records.open_info(folder), split)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._records)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image as it comes out."""
        return SIZE, SIZE, 3

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
        read = partial(self.example, seed=seed, epoch=epoch)
        images = np.empty((len(rows), *self.shape), np.uint8)
        labels = np.empty(len(rows), np.int32)
        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            for place, pair in enumerate(pool.map(read, rows.tolist())):
                images[place], labels[place] = pair
        return images, labels

    def labels(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Labels alone, int32 ``[len(rows)]``; no image is decoded.

        Raises:
          InputError: as `batch`.
        """
        rows = np.asarray(rows, np.int64)
        check_rows("rows", rows, len(self))
        with concurrent.futures.ThreadPoolExecutor(self._workers) as pool:
            found = list(pool.map(lambda row: self._features(row)[1], rows.tolist()))
        return np.array(found, np.int32)

    def example(
        self, row: int, *, seed: int | None, epoch: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """One image and its label as in `batch`; many threads may call it.

        Raises:
          InputError: an image that cannot be read or decoded.
        """
        data, label = self._features(row)
        with self._naming_damage(row):
            image = decode(data)
            if seed is None:
                pixels = center_crop(image)
            else:
                key = (_CROP_STREAM, epoch, row)
                sequence = np.random.SeedSequence(seed, spawn_key=key)
                pixels = random_crop(image, np.random.default_rng(sequence))
        return pixels, np.array(label, np.int32)

    def _features(self, row: int) -> tuple[bytes, int]:
        """The encoded image and the label of a record."""
        with self._naming_damage(row):
            found = records.features(self._records[row])
            (image,) = found["image"].bytes_list.value
            (label,) = found["label"].int64_list.value
            if not 0 <= label < NUM_CLASSES:
                raise ValueError(f"label {label}")
            return image, label

    @contextlib.contextmanager
    def _naming_damage(self, row: int | None = None) -> Iterator[None]:
        """Names the folder, and the record if it is one that is damaged."""
        with records.naming_damage(self._folder, "choose another --data-dir"):
            try:
                yield
            except Exception as error:
                if row is None:
                    raise
                raise ValueError(
                    f"record {row} of {self._split}: {type(error).__name__}: {error}"
                ) from error


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
