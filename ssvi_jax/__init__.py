"""Sparse and structured Bayesian neural networks in JAX.

Importing the package loads nothing else; what is named here is imported when it is
first used. The core, `ssvi_jax.vi`, needs JAX, optax and NumPy only.
"""

import importlib

TYPE_CHECKING = False  # type checkers know the name; `typing` need not be imported

if TYPE_CHECKING:
    from ssvi_jax.io import artifact
    from ssvi_jax.networks import adapters
    from ssvi_jax.vi import masks, subspace

__all__ = ["adapters", "artifact", "masks", "subspace"]
__version__ = "0.1.0"

_MODULES = {
    "adapters": "ssvi_jax.networks.adapters",
    "artifact": "ssvi_jax.io.artifact",
    "masks": "ssvi_jax.vi.masks",
    "subspace": "ssvi_jax.vi.subspace",
}


def __getattr__(name: str) -> object:
    """Imports what is named above (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'ssvi_jax' has no attribute {name!r}")
