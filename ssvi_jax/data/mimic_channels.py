"""The 17 channels of the MIMIC-III benchmark, and how a value becomes features.

Names, normal values and categories are those of the benchmark (Harutyunyan et al. 2019,
Table 2 and its discretizer). Two hospital systems name the same answer in two ways
("4 Spontaneously" and "Spontaneously"), which the benchmark keeps apart.
"""

import itertools
import math

import numpy as np

CHANNELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Capillary refill rate": ("0.0", ("0.0", "1.0")),
    "Diastolic blood pressure": ("59.0", ()),
    "Fraction inspired oxygen": ("0.21", ()),
    "Glascow coma scale eye opening": (
        "4 Spontaneously",
        (
            *("1 No Response", "2 To pain", "3 To speech", "4 Spontaneously"),
            *("None", "To Pain", "To Speech", "Spontaneously"),
        ),
    ),
    "Glascow coma scale motor response": (
        "6 Obeys Commands",
        (
            *("1 No Response", "2 Abnorm extensn", "3 Abnorm flexion"),
            *("4 Flex-withdraws", "5 Localizes Pain", "6 Obeys Commands"),
            *("No response", "Abnormal extension", "Abnormal Flexion"),
            *("Flex-withdraws", "Localizes Pain", "Obeys Commands"),
        ),
    ),
    "Glascow coma scale total": ("15", tuple(map(str, range(3, 16)))),
    "Glascow coma scale verbal response": (
        "5 Oriented",
        (
            *("1.0 ET/Trach", "1 No Response", "2 Incomp sounds"),
            *("3 Inapprop words", "4 Confused", "5 Oriented"),
            *("No Response-ETT", "No Response", "Incomprehensible sounds"),
            *("Inappropriate Words", "Confused", "Oriented"),
        ),
    ),
    "Glucose": ("128.0", ()),
    "Heart Rate": ("86", ()),
    "Height": ("170.0", ()),
    "Mean blood pressure": ("77.0", ()),
    "Oxygen saturation": ("98.0", ()),
    "Respiratory rate": ("19", ()),
    "Systolic blood pressure": ("118.0", ()),
    "Temperature": ("36.6", ()),
    "Weight": ("81.0", ()),
    "pH": ("7.4", ()),
}
"""Channel → its normal value, and its categories (none: it is a number). Units: mmHg,
fraction, mg/dL, beats and breaths a minute, cm, %, °C, kg."""

_NAMES = tuple(CHANNELS)
_SIZES = [max(1, len(categories)) for _, categories in CHANNELS.values()]
_STARTS = np.cumsum([0, *_SIZES]).tolist()

NUM_VALUES = _STARTS[-1]
"""59: a feature for each number and each category."""

NUM_FEATURES = NUM_VALUES + len(CHANNELS)
"""76: and a mask for each channel."""

SLICES = [slice(*ends) for ends in itertools.pairwise(_STARTS)]
"""Where the values of each channel are."""

MASKS = range(NUM_VALUES, NUM_FEATURES)
"""Where the mask of each channel is."""

IS_NUMBER = np.array(
    [not c for _, c in CHANNELS.values() for _ in c or [0]] + [False] * len(CHANNELS)
)
"""Boolean ``[76]``: which features are numbers; all others are 0 or 1."""


def encode(channel: int, text: str) -> np.ndarray:
    """The features of one value.

    Args:
      channel: 0 to 16.
      text: as in the file, not empty.

    Returns:
      float32, ``[1]`` or ``[categories]`` with one entry of 1.

    Raises:
      ValueError: neither a finite number nor a category.
    """
    name = _NAMES[channel]
    _, categories = CHANNELS[name]
    if categories:
        if text not in categories:
            text = _as_number(text)
        if text not in categories:
            allowed = ", ".join(categories)
            raise ValueError(f"{name} is {text!r}, allowed: {allowed}")
        return np.array([text == category for category in categories], np.float32)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is {text!r}, allowed: a finite number")
    return np.array([value], np.float32)


def _as_number(text: str) -> str:
    """Writes a whole number as the categories do: 15.0 as 15 and 1 as 1.0."""
    return text.removesuffix(".0") if text.endswith(".0") else f"{text}.0"


NORMAL = np.concatenate(
    [encode(number, normal) for number, (normal, _) in enumerate(CHANNELS.values())]
)
"""float32 ``[59]``: the normal value of each channel."""
