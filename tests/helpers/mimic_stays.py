"""Generated stays in the form and with the gaps of the MIMIC-III benchmark."""

import csv
from pathlib import Path

import numpy as np

from ssvi_jax.data.mimic_channels import CHANNELS

HEADER = ("Hours", *CHANNELS)

# Part of the hours in which a channel is measured at all: about as in the benchmark.
RATES = {
    "Capillary refill rate": 0.01,
    "Fraction inspired oxygen": 0.1,
    "Glucose": 0.2,
    "Height": 0.01,
    "Temperature": 0.3,
    "Weight": 0.05,
    "pH": 0.1,
}
SPREADS = {"Fraction inspired oxygen": 0.1, "Temperature": 0.7, "pH": 0.05}


def rows(rng: np.random.Generator, died: bool, hours: float = 60.0):
    """Rows of one stay: a time and 17 texts, most of them empty.

    Who died has a faster heart and a worse coma scale.
    """
    times = np.sort(rng.uniform(0, hours, rng.integers(20, 70)))
    for time in times:
        texts = [_text(rng, name, died) for name in CHANNELS]
        yield [f"{time:.6f}", *texts]


def _text(rng, name, died):
    if rng.random() >= RATES.get(name, 0.8 if "Glascow" not in name else 0.25):
        return ""
    normal, categories = CHANNELS[name]
    if categories:
        likely = 0.3 if died else 0.8
        other = categories[rng.integers(len(categories))]
        return normal if rng.random() < likely else other
    value = float(normal) + SPREADS.get(name, 10.0) * rng.normal()
    return f"{value + 25 * (died and name == 'Heart Rate'):.4f}"


def write_stay(path: Path, table, header=HEADER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *table])
    return path


def write_list(path: Path, stays: dict[str, int]) -> None:
    lines = [f"{stay},{label}\n" for stay, label in stays.items()]
    path.write_text("".join(["stay,y_true\n", *lines]))


def write(root: Path, train=24, test=8, seed=0) -> Path:
    """The benchmark's folder: every second patient has two stays, a quarter die."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("test", test)):
        (root / part).mkdir(parents=True)
        stays = {}
        for number in range(count):
            patient = 1000 * (part == "test") + 2 * number // 3
            name = f"{patient}_episode{number}_timeseries.csv"
            stays[name] = int(number % 4 == 0)
            write_stay(root / part / name, rows(rng, died=bool(stays[name])))
        write_list(root / part / "listfile.csv", stays)
    return root
