"""Random keys from outside."""

import jax
import jax.numpy as jnp
import pytest

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.keys import check_key


def test_keys_of_both_kinds_are_taken():
    check_key("key", jax.random.key(3))
    check_key("key", jnp.zeros(2, jnp.uint32))  # as of jax.random.PRNGKey


@pytest.mark.parametrize(
    ("got", "match"),
    [
        (4, r"^draws: got 4, allowed: jax\.random\.key\(4\)\.$"),
        (True, r"^draws: got True, allowed: jax\.random\.key\(0\)\.$"),
        (None, r"^draws: got a NoneType"),
        (jnp.zeros(3, jnp.uint32), r"^draws: got an array uint32\[3\]"),
        (jax.random.split(jax.random.key(0)), r"^draws: got an array key<fry>\[2\]"),
    ],
)
def test_anything_else_is_refused(got, match):
    with pytest.raises(InputError, match=match):
        check_key("draws", got)
