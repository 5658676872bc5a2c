"""Downloads and prepares a CIFAR set: ``python -m ssvi_jax.data.prepare cifar10``.

The only module that imports TensorFlow; it runs in a process of its own.
"""

import argparse
import os
import pathlib

from ssvi_jax.data import cifar


def prepare(name: str, root: pathlib.Path) -> None:
    """Has TFDS download `name` and write it as array_record under `root`."""
    # TensorFlow only encodes PNG files here; a GPU's memory is the training run's.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=root, file_format="array_record")
    builder.download_and_prepare()


def main() -> None:
    """Parses the command line and prepares one set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("cifar10", "cifar100"))
    parser.add_argument(
        "--data-dir", help="default: TFDS_DATA_DIR, then ~/tensorflow_datasets"
    )
    arguments = parser.parse_args()
    prepare(arguments.name, cifar.data_root(arguments.data_dir))


if __name__ == "__main__":
    main()
