"""MIMIC-III in-hospital mortality, in the form of the benchmark of its time series.

Harutyunyan et al. 2019, "Multitask learning and benchmarking with clinical time series
data" (arXiv 1703.07771). The records may not be passed on: who may read MIMIC-III makes
the benchmark's ``in-hospital-mortality`` folder, and this reads it.
"""

import csv
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ssvi_jax.core.errors import InputError
from ssvi_jax.data import cifar
from ssvi_jax.data.dataset import Dataset, stratified_split
from ssvi_jax.data.mimic_channels import (
    CHANNELS,
    IS_NUMBER,
    MASKS,
    NORMAL,
    NUM_FEATURES,
    NUM_VALUES,
    SLICES,
    encode,
)

HOURS = 48
"""Length of a record: the first two days of a stay, one row an hour."""

_FOLDERS = ("", "mimic3", "in-hospital-mortality")
_EPSILON = 1e-6  # hours; the benchmark's own, about the end of an hour


def load(
    data_dir: str | os.PathLike[str] | None, validation: float, seed: int
) -> Dataset:
    """Reads the benchmark's folder as a `Dataset` of two classes, 1 for a death.

    Inputs are float32 ``[n, 48, 76]``: see `read_stay`. Numbers among the features are
    standardized by the network, with the mean and standard deviation of all hours of
    the training stays, filled-in ones included; all other features stay 0 or 1.

    Args:
      data_dir: folder with ``train/`` and ``test/``, each with its ``listfile.csv``, or
        the one that contains it as ``mimic3`` or ``in-hospital-mortality``; without it
        as for any other set.
      validation: fraction in [0, 1) of the training *patients* whose stays are set
        aside. Not read where the folder has the benchmark's own ``train_listfile.csv``
        and ``val_listfile.csv``.
      seed: seed of that choice.

    Raises:
      InputError: the folder is missing, or a file in it is not of that form; the text
        names it.
    """
    root = _find(cifar.data_root(data_dir))
    train, val, how = _training_stays(root, validation, seed)
    test = _read_list(root / "test" / "listfile.csv")
    parts = {
        "train": _read_stays(root / "train", train),
        "val": _read_stays(root / "train", val),
        "test": _read_stays(root / "test", test),
    }
    mean, std = _moments(parts["train"])
    return Dataset(
        name="mimic3",
        train_images=parts["train"],
        train_labels=_labels(train),
        val_images=parts["val"],
        val_labels=_labels(val),
        test_images=parts["test"],
        test_labels=_labels(test),
        num_classes=2,
        mean=mean,
        std=std,
        source=(
            "MIMIC-III in-hospital mortality (Johnson et al. 2016; benchmark of "
            f"Harutyunyan et al. 2019), {len(train)} stays for training, {len(val)} "
            f"for validation ({how}), {len(test)} for testing"
        ),
        pad=0,
        flip=False,
        pixels=False,
    )


def read_stay(path: pathlib.Path) -> np.ndarray:
    """One stay as the benchmark's LSTM sees it.

    Hour h holds what was measured in (h, h + 1], the latest value of each channel; a
    measurement at admission (0) counts to the first hour, and what is later than 48
    hours is left out. A channel without a value keeps that of the hour before, and
    before the first one has its normal value.

    Args:
      path: CSV with the column ``Hours`` and one for each of the 17 channels.

    Returns:
      float32 ``[48, 76]``: 59 values (a number, or one entry of 1 among a channel's
      categories) and 17 masks, 1 where something was measured in that hour.

    Raises:
      InputError: a missing column, or a value that is no number or no category.
    """
    grid = np.zeros((HOURS, NUM_FEATURES), np.float32)
    now, hour = NORMAL.copy(), 0
    for time, texts in sorted(_rows(path), key=lambda row: row[0]):
        if time > HOURS + _EPSILON:
            break
        place = max(0, math.ceil(time - _EPSILON) - 1)
        grid[hour:place, :NUM_VALUES] = now
        hour = place
        for channel, text in enumerate(texts):
            if not text:
                continue
            try:
                now[SLICES[channel]] = encode(channel, text)
            except ValueError as error:
                raise InputError(f"data_dir: {path}, hour {time:g}: {error}.") from None
            grid[place, MASKS[channel]] = 1
    grid[hour:, :NUM_VALUES] = now
    return grid


def _rows(path: pathlib.Path) -> Iterator[tuple[float, list[str]]]:
    """Times in hours, and the texts of the 17 channels in our order."""
    names = ["Hours", *CHANNELS]
    for row in _read_csv(path, names):
        try:
            time = float(row[0])
        except ValueError:
            time = math.nan
        if not -_EPSILON <= time < math.inf:
            raise InputError(
                f"data_dir: {path} has Hours {row[0]!r}, allowed: 0 or more."
            )
        yield time, row[1:]


def _read_csv(path: pathlib.Path, names: Sequence[str]) -> Iterator[list[str]]:
    """The named columns of every row."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.reader(file)
            header = next(table, [])
            missing = [name for name in names if name not in header]
            if missing:
                raise InputError(
                    f"data_dir: {path} has no column {', '.join(missing)}; make the "
                    "folder again with the benchmark's scripts."
                )
            places = [header.index(name) for name in names]
            for row in table:
                if len(row) != len(header):
                    raise InputError(
                        f"data_dir: {path}, line {table.line_num} has {len(row)} "
                        f"columns, not {len(header)}."
                    )
                yield [row[place].strip() for place in places]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"data_dir: cannot read {path}: {error}") from error


def _find(root: pathlib.Path) -> pathlib.Path:
    for name in _FOLDERS:
        if (root / name / "train" / "listfile.csv").is_file():
            return root / name
    raise InputError(
        f"data_dir: got {root}, which has no train/listfile.csv. MIMIC-III may not be "
        "passed on: get access at physionet.org, make in-hospital-mortality/ with "
        "github.com/YerevaNN/mimic3-benchmarks, and give that folder as --data-dir."
    )


def _training_stays(
    root: pathlib.Path, validation: float, seed: int
) -> tuple[dict[str, int], dict[str, int], str]:
    """Stays to train on, to validate on, and in words how they were told apart."""
    ours, theirs = root / "train_listfile.csv", root / "val_listfile.csv"
    if ours.is_file() and theirs.is_file():
        train, val = _read_list(ours), _read_list(theirs)
        return train, val, "chosen by val_listfile.csv"
    stays = _read_list(root / "train" / "listfile.csv")
    deaths: dict[str, int] = {}
    for stay, label in stays.items():
        deaths[_patient(stay)] = max(label, deaths.get(_patient(stay), 0))
    count = int(validation * len(deaths))
    _, chosen = stratified_split(np.array(list(deaths.values())), count, seed)
    patients = {list(deaths)[number] for number in chosen}
    train = {s: y for s, y in stays.items() if _patient(s) not in patients}
    val = {s: y for s, y in stays.items() if _patient(s) in patients}
    return train, val, f"{100 * validation:g} % of the patients"


def _patient(stay: str) -> str:
    """Files are named PATIENT_episodeN_timeseries.csv."""
    return stay.partition("_")[0]


def _read_list(path: pathlib.Path) -> dict[str, int]:
    """Stay → 1 if the patient died in hospital, else 0."""
    stays = {}
    for stay, text in _read_csv(path, ("stay", "y_true")):
        if text not in ("0", "1"):
            raise InputError(
                f"data_dir: {path} has y_true {text!r} for {stay}, allowed: 0, 1."
            )
        stays[stay] = int(text)
    if not stays:
        raise InputError(f"data_dir: {path} names no stay, allowed: at least one.")
    return stays


def _read_stays(folder: pathlib.Path, stays: Iterable[str]) -> np.ndarray:
    grids = [read_stay(folder / stay) for stay in stays]
    return np.stack(grids) if grids else np.zeros((0, HOURS, NUM_FEATURES), np.float32)


def _labels(stays: dict[str, int]) -> np.ndarray:
    return np.fromiter(stays.values(), np.int32, len(stays))


def _moments(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation float32 ``[76]``: 0 and 1 where a feature is 0 or 1.

    A number that never changes keeps its scale.
    """
    mean = np.where(IS_NUMBER, inputs.mean(axis=(0, 1), dtype=np.float64), 0.0)
    std = np.where(IS_NUMBER, inputs.std(axis=(0, 1), dtype=np.float64), 1.0)
    return mean.astype(np.float32), np.where(std > 1e-7, std, 1.0).astype(np.float32)
