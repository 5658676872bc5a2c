"""Images of other kinds than a model was trained on, from disk or made to its shape."""

import math
from pathlib import Path

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import archive, cifar, records
from ssvi_jax.data.download import NotPreparedError
from ssvi_jax.io.npy import read_npz

NUM_MADE = 1000
"""Images of the sets that are made here, of which there is no natural number."""

PREPARED = {"cifar10": "cifar10", "cifar100": "cifar100", "svhn": "svhn_cropped"}
"""Set → its name in TensorFlow Datasets (TFDS); their test images are used."""

SVHN_TEST_SIZE = 26_032

_TITLES = {
    "cifar10": "CIFAR-10 (Krizhevsky 2009), test images",
    "cifar100": "CIFAR-100 (Krizhevsky 2009), test images",
    "svhn": "Street View House Numbers (Netzer et al. 2011), cropped, test images",
}
_OTHERWISE = "choose another set with --ood"
# Streams of one seed that must not coincide.
_PHOTOS, _NOISE = range(2)


def prepared(root: Path, name: str) -> tuple[np.ndarray, str]:
    """Test images that TFDS has prepared under `root`, and one sentence on them.

    Args:
      root: folder of prepared sets.
      name: one of `PREPARED`.

    Returns:
      uint8 ``[n, 32, 32, 3]``, source.

    Raises:
      NotPreparedError: the set is not there; nothing is downloaded.
      InputError: it is there, but damaged.
    """
    tfds_name = PREPARED[name]
    folder = cifar.find(root, tfds_name)
    if folder is None and name in archive.ARCHIVES:
        path = archive.path_of(root, name)
        if path.exists():
            images, _ = archive.read(root, name)["test"]
            return images, f"{_TITLES[name]}, the author's archive {path.name}"
    if folder is None:
        raise NotPreparedError(
            tfds_name,
            root,
            "an evaluation downloads nothing",
            argument="ood",
            again=f"run python -m ssvi_jax.data.prepare {tfds_name} --data-dir {root}",
            embedded="--ood photos, digits or noise, which need no download, or an "
            ".npz file of your own images",
        )
    if name == "svhn":
        with records.naming_damage(folder, _OTHERWISE):
            info = records.open_info(folder)
            found = records.read(info, "test", SVHN_TEST_SIZE, cifar.IMAGE_SHAPE)
        images = found.images
    else:
        images, _ = cifar.read_split(folder, "test", otherwise=_OTHERWISE)
    made_by = f"prepared by TensorFlow Datasets as {tfds_name}/{folder.name}"
    return images, f"{_TITLES[name]}, {made_by}"


def photos(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, str]:
    """Random crops of the two photographs that ship with scikit-learn.

    Crops have the image's own aspect, and a side between the image's and the largest
    that fits, uniform in its logarithm. They overlap, so they are not independent.

    Args:
      shape: ``(h, w, c)``, grey for c = 1.
      seed: seed of the crops' places and sizes, 0 or more.

    Returns:
      uint8 ``[NUM_MADE, h, w, c]``, source.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_image

    height, width, channels = shape
    names = ("china.jpg", "flower.jpg")
    mode = "L" if channels == 1 else "RGB"
    whole = [Image.fromarray(load_sample_image(name)).convert(mode) for name in names]
    rng = _rng(seed, _PHOTOS)
    made = np.empty((NUM_MADE, height, width, len(mode)), np.uint8)
    for row in made:
        photo = whole[rng.integers(len(whole))]
        largest = min(photo.width / width, photo.height / height)
        scale = largest * math.exp(-rng.uniform(0, math.log(max(largest, 1))))
        size = np.minimum((scale * width, scale * height), photo.size)
        corner = rng.uniform(0, photo.size - size)
        # Rounding must not reach over the edge.
        box = (*corner, *np.minimum(corner + size, photo.size))
        crop = photo.resize((width, height), Image.Resampling.BILINEAR, box=box)
        row[:] = np.asarray(crop).reshape(row.shape)
    return made, (
        f"{NUM_MADE:,} random crops of the two sample photographs of scikit-learn "
        f"(china.jpg, flower.jpg), resized to {height}x{width}, seed {seed}; crops "
        "overlap, so they are not independent"
    )


def digits(shape: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """Scikit-learn's handwritten digits, resized bilinearly, grey in every channel.

    Args:
      shape: ``(h, w, c)``.

    Returns:
      uint8 ``[1797, h, w, c]``, source.
    """
    from PIL import Image

    from ssvi_jax.data import digits as embedded

    height, width, channels = shape
    parts = [images[..., 0] for images, _ in embedded.read().values()]
    resized = [
        np.asarray(
            Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
        )
        for grey in np.concatenate(parts)
    ]
    images = np.repeat(np.stack(resized)[..., None], channels, axis=-1)
    return images, f"{embedded.SOURCE}; resized to {height}x{width}, bilinear"


def noise(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, str]:
    """Independent uniform values in 0 to 255.

    Args:
      shape: ``(h, w, c)``.
      seed: 0 or more.

    Returns:
      uint8 ``[NUM_MADE, h, w, c]``, source.
    """
    values = _rng(seed, _NOISE).integers(0, 256, (NUM_MADE, *shape), dtype=np.uint8)
    return values, f"{NUM_MADE:,} images of uniform noise, seed {seed}"


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream,)))


def npz(path: Path) -> tuple[np.ndarray, str]:
    """Images of an .npz file: its array ``image`` or ``images``, or its only array.

    Returns:
      uint8 ``[n, h, w, c]``, source.

    Raises:
      InputError: the file is missing or damaged, has no such array, or one that is not
        uint8 ``[n, h, w, c]`` with n at least 1.
    """
    try:
        found = read_npz(path, lambda names: [_image_key(path, names)])
    except FileNotFoundError as error:
        raise InputError(f"ood: {path} is not there; check the path.") from error
    except InputError:
        raise
    except (ValueError, OSError) as error:
        raise InputError(
            f"ood: {path} is damaged or no .npz file ({error}); allowed: a file that "
            "np.savez wrote, with an array of images."
        ) from error
    ((key, images),) = found.items()
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise InputError(
            f"ood: {path}: {key} is {images.dtype} {list(images.shape)}; allowed: "
            "uint8 [n, h, w, c], pixels in 0 to 255, n at least 1."
        )
    return images, f"{len(images):,} images of the file {path.name}"


def _image_key(path: Path, keys: list[str]) -> str:
    for key in ("image", "images"):
        if key in keys:
            return key
    if len(keys) != 1:
        raise InputError(
            f"ood: {path} holds the arrays {', '.join(keys) or '(none)'}; allowed: one "
            "named image or images, or a single array."
        )
    return keys[0]
