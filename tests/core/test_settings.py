"""Settings of NumPy's numbers: taken, and kept as Python's."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import ssvi_jax
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.settings import Settings
from ssvi_jax.training.run_config import Config

of_numpy: Any = np  # whose numbers are no int or float to a type checker


@dataclasses.dataclass(frozen=True)
class Every(Settings):
    """A field of each kind."""

    whole: int = 1
    number: float = 1.0
    perhaps: float | None = None
    flag: bool = False
    several: tuple[float, ...] = ()


TAKEN = [
    ("whole", np.int64(2), 2),
    ("whole", np.uint8(2), 2),
    ("whole", np.array(2), 2),
    ("whole", jnp.int32(2), 2),
    ("number", np.float32(0.5), 0.5),
    ("number", np.float64(0.5), 0.5),
    ("number", np.longdouble(0.5), 0.5),
    ("number", np.int16(3), 3),
    ("number", jnp.float32(0.5), 0.5),
    ("perhaps", np.float32(0.5), 0.5),
    ("flag", np.True_, True),
    ("several", (np.float32(0.25), 0.5), (0.25, 0.5)),
    ("several", np.array([0.25, 0.5]), [0.25, 0.5]),
]


@pytest.mark.parametrize(("name", "given", "kept"), TAKEN)
def test_numbers_of_numpy_become_pythons(name, given, kept):
    found = getattr(Every(**{name: given}), name)
    assert (found, type(found)) == (kept, type(kept))
    values = found if isinstance(found, (list, tuple)) else [found]
    assert {type(one) for one in values} <= {int, float, bool}
    assert json.loads(json.dumps(Every(**{name: given}).as_dict()))[name] == (
        list(kept) if name == "several" else kept
    )


REFUSED = [
    ("whole", np.float64(2.0), "whole: got '2.0', allowed: a whole number"),
    ("whole", np.True_, "whole: got 'True', allowed: a whole number"),
    ("whole", np.array([2]), r"whole: got '\[2\]', allowed: a whole number"),
    ("number", np.complex64(1), "number: got .*, allowed: a finite number"),
    ("number", np.False_, "number: got 'False', allowed: a finite number"),
    ("number", np.zeros((2, 2)), "number: got .*, allowed: a finite number"),
    ("flag", np.int64(1), "flag: got '1', allowed: true or false"),
    ("several", np.zeros((2, 2)), "several: got .*, allowed: a list of finite"),
]


@pytest.mark.parametrize(("name", "given", "words"), REFUSED)
def test_what_is_of_another_kind_still_is(name, given, words):
    with pytest.raises(InputError, match=words):
        Every(**{name: given})


def test_methods_and_runs_take_them():
    method = ssvi_jax.SSVIIvon(draws=of_numpy.int64(2), hess_init=of_numpy.float32(0.5))
    assert method == ssvi_jax.SSVIIvon(draws=2, hess_init=0.5)
    assert type(method.draws) is int
    values: dict[str, Any] = {
        "batch_size": np.int64(64),
        "learning_rate": np.float32(0.5),
        "seed": np.uint32(3),
        "figures": np.False_,
        "schedule": "steps",
        "decay_at": np.array([0.5]),
    }
    plain = {name: np.asarray(value).tolist() for name, value in values.items()}
    given = Config.of(values).as_dict()
    assert json.dumps(given) == json.dumps(Config.of(plain).as_dict())


def test_out_of_range_they_are_refused_as_before():
    with pytest.raises(InputError, match=r"^draws: got 0, allowed"):
        ssvi_jax.SSVIIvon(draws=of_numpy.int64(0))
    with pytest.raises(InputError, match=r"^hess_init: got nan, allowed"):
        ssvi_jax.SSVIIvon(hess_init=of_numpy.float32(np.nan))
