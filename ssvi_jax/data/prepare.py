"""Downloads and prepares a set: ``python -m ssvi_jax.data.prepare cifar10``.

Without TensorFlow it downloads the author's archive of CIFAR, which serves as well.
Also cifar100, svhn_cropped (test images for out-of-distribution detection; TFDS fetches
all 1.5 GB of it) and cifar10_corrupted (2.9 GB, once; 75 sets, one for each corruption
and severity). The only module that imports TensorFlow; it runs in a process of its own.
"""

import argparse
import importlib.util
import os
import pathlib

from ssvi_jax.data import archive, cifar, download

_CORRUPTED = "cifar10_corrupted"
_URLS = {
    "cifar10": download.URL,
    "cifar100": download.URL,
    "svhn_cropped": "http://ufldl.stanford.edu/housenumbers/",
    _CORRUPTED: "https://zenodo.org/record/2535967/files/CIFAR-10-C.tar",
}
"""Set → where TFDS downloads it from."""


def prepare(name: str, root: pathlib.Path) -> None:
    """Has TFDS download `name` and write it as array_record under `root`."""
    # TensorFlow only encodes PNG files here; a GPU's memory is the training run's.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=root, file_format="array_record")
    builder.download_and_prepare()


def main() -> None:
    """Parses the command line and prepares what is not prepared yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=tuple(_URLS))
    parser.add_argument(
        "--data-dir", help="default: TFDS_DATA_DIR, then ~/tensorflow_datasets"
    )
    parser.add_argument(
        "--extra",
        action="store_true",
        help=f"{_CORRUPTED}: also the four extra corruptions, 95 sets in all",
    )
    arguments = parser.parse_args()
    if arguments.extra and arguments.name != _CORRUPTED:
        parser.error(f"--extra: got it with {arguments.name}; only for {_CORRUPTED}.")
    root = cifar.data_root(arguments.data_dir)
    if importlib.util.find_spec("tensorflow") is None:
        if arguments.name in archive.ARCHIVES:
            archive.fetch(arguments.name, root, print)
            return
        parser.error("preparing needs TensorFlow: pip install 'ssvi_jax[prepare]'")
    _prepare_missing(arguments.name, root, extra=arguments.extra)


def _prepare_missing(name: str, root: pathlib.Path, *, extra: bool) -> None:
    names = _corrupted_names(extra) if name == _CORRUPTED else [name]
    missing = [each for each in names if cifar.find(root, each) is None]
    if missing and not download.has_network(_URLS[name]):
        # Not refused: what was downloaded before is prepared without a network.
        print(f"No connection to {_URLS[name]}: TFDS may try for minutes.", flush=True)
    for number, each in enumerate(names, 1):
        done = each not in missing
        what = "is prepared already" if done else "is being prepared"
        print(f"{number} of {len(names)}: {each} {what} in {root}", flush=True)
        if not done:
            prepare(each, root)


def _corrupted_names(extra: bool) -> list[str]:
    from ssvi_jax.data.corruptions import BENCHMARK, NAMES, SEVERITIES
    from ssvi_jax.data.prepared_cells import tfds_name

    chosen = NAMES if extra else BENCHMARK
    return [tfds_name(name, severity) for name in chosen for severity in SEVERITIES]


if __name__ == "__main__":
    main()
