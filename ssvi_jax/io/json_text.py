"""JSON that others may have written: one kind of error, and finite numbers only."""

import json
import math
from typing import Any


def parse(text: str | bytes) -> Any:
    """The values of a JSON text.

    Raises:
      ValueError: not JSON, nested too deeply, or with NaN, an infinity, or a number
        beyond the floats, which Python's own parser would let pass.
    """
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large")
    return number
