"""Training methods, one a file: settings, and how they are built on a problem.

Nothing heavy is imported before a method is built.
"""

from ssvi_jax.methods.base import METHODS, Method, register
from ssvi_jax.methods.deterministic import Deterministic
from ssvi_jax.methods.ensembles import (
    DeepEnsemble,
    SSVIEnsemble,
    SSVIIvonEnsemble,
    SSVIIvonMixture,
    SSVIMixture,
)
from ssvi_jax.methods.ivon import IVON, SSVIIvon
from ssvi_jax.methods.magnitude import Magnitude
from ssvi_jax.methods.masked_bnn import MaskedBNN
from ssvi_jax.methods.mc_dropout import MCDropout
from ssvi_jax.methods.rank1 import BatchEnsemble, Rank1
from ssvi_jax.methods.rigl import RigL
from ssvi_jax.methods.sparse_evolution import SET
from ssvi_jax.methods.ssvi import SSVI
from ssvi_jax.methods.static import Static
from ssvi_jax.methods.svd import SVD

__all__ = [
    "IVON",
    "METHODS",
    "SET",
    "SSVI",
    "SVD",
    "BatchEnsemble",
    "DeepEnsemble",
    "Deterministic",
    "MCDropout",
    "Magnitude",
    "MaskedBNN",
    "Method",
    "Rank1",
    "RigL",
    "SSVIEnsemble",
    "SSVIIvon",
    "SSVIIvonEnsemble",
    "SSVIIvonMixture",
    "SSVIMixture",
    "Static",
    "register",
]
