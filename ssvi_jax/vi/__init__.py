"""Variational inference on a subspace; needs jax, optax and NumPy only.

In reading order: `posterior` and `masks` (what is kept), `criteria`, `densities` and
`subspace` (who leaves and who enters), `forward`, `inference` (the steps),
`predictive` (what comes out).
"""

from ssvi_jax.core.types import Augment, Data
from ssvi_jax.vi.forward import forward
from ssvi_jax.vi.inference import ESTIMATORS, VI
from ssvi_jax.vi.state import State, Trainable
from ssvi_jax.vi.weight_decay import means_only

__all__ = [
    "ESTIMATORS",
    "VI",
    "Augment",
    "Data",
    "State",
    "Trainable",
    "forward",
    "means_only",
]
