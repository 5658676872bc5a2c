"""Random keys from outside."""

import jax
import jax.numpy as jnp

from ssvi_jax.core.errors import InputError


def check_key(argument: str, got: object) -> None:
    """Raises `InputError` unless `got` is one random key of JAX, of either kind."""
    if isinstance(got, jax.Array):
        if jnp.issubdtype(got.dtype, jax.dtypes.prng_key) and got.shape == ():
            return
        if got.dtype == jnp.uint32 and got.shape == (2,):  # of jax.random.PRNGKey
            return
    whole = isinstance(got, int) and not isinstance(got, bool)
    what = repr(got) if isinstance(got, int) else f"a {type(got).__name__}"
    if isinstance(got, jax.Array):
        what = f"an array {got.dtype}{list(got.shape)}"
    seed = got if whole else 0
    raise InputError(f"{argument}: got {what}, allowed: jax.random.key({seed}).")
