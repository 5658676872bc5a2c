"""Sparse and structured Bayesian neural networks in JAX.

Importing the package loads nothing else; what is named here is imported when it is
first used. The core, `ssvi_jax.vi`, needs JAX, optax and NumPy only.

>>> import ssvi_jax
>>> ssvi_jax.SSVI(sparsity=0.9).sparsity
0.9
"""

import importlib

TYPE_CHECKING = False  # type checkers know the name; `typing` need not be imported

if TYPE_CHECKING:
    from ssvi_jax import runtime
    from ssvi_jax.core.errors import InputError
    from ssvi_jax.data import corruptions
    from ssvi_jax.evaluation.arviz_draws import from_ssvi
    from ssvi_jax.io import artifact
    from ssvi_jax.methods import (
        IVON,
        SET,
        SSVI,
        SVD,
        BatchEnsemble,
        DeepEnsemble,
        Deterministic,
        Magnitude,
        MaskedBNN,
        MCDropout,
        Rank1,
        RigL,
        SSVIEnsemble,
        SSVIIvon,
        SSVIIvonEnsemble,
        SSVIIvonMixture,
        SSVIMixture,
        Static,
    )
    from ssvi_jax.methods.algorithms.sgd import Sgd
    from ssvi_jax.networks import adapters
    from ssvi_jax.networks.adapters import from_flax
    from ssvi_jax.networks.describe import describe
    from ssvi_jax.networks.keras_model import from_keras
    from ssvi_jax.training.callbacks import Callback, EarlyStopping, Phase
    from ssvi_jax.training.display import ProgressBar
    from ssvi_jax.training.export import export
    from ssvi_jax.training.feeds import Batches
    from ssvi_jax.training.fit import fit
    from ssvi_jax.training.fitted import Fitted, load
    from ssvi_jax.training.hugging_face import from_huggingface
    from ssvi_jax.training.trackers import TensorBoard, WeightsAndBiases
    from ssvi_jax.vi import masks, subspace
    from ssvi_jax.vi.execution import Execution
    from ssvi_jax.vi.likelihoods import Bernoulli, Categorical, Normal, Poisson

__all__ = [
    "IVON",
    "SET",
    "SSVI",
    "SVD",
    "BatchEnsemble",
    "Batches",
    "Bernoulli",
    "Callback",
    "Categorical",
    "DeepEnsemble",
    "Deterministic",
    "EarlyStopping",
    "Execution",
    "Fitted",
    "InputError",
    "MCDropout",
    "Magnitude",
    "MaskedBNN",
    "Normal",
    "Phase",
    "Poisson",
    "ProgressBar",
    "Rank1",
    "RigL",
    "SSVIEnsemble",
    "SSVIIvon",
    "SSVIIvonEnsemble",
    "SSVIIvonMixture",
    "SSVIMixture",
    "Sgd",
    "Static",
    "TensorBoard",
    "WeightsAndBiases",
    "adapters",
    "artifact",
    "corruptions",
    "describe",
    "export",
    "fit",
    "from_flax",
    "from_huggingface",
    "from_keras",
    "from_ssvi",
    "load",
    "masks",
    "runtime",
    "subspace",
]
__version__ = "0.2.0"

_HOME = {
    "core.errors": ("InputError",),
    "data": ("corruptions",),
    "evaluation.arviz_draws": ("from_ssvi",),
    "io": ("artifact",),
    "methods": (
        *("IVON", "SET", "SSVI", "SVD", "BatchEnsemble", "DeepEnsemble"),
        *("Deterministic", "Magnitude", "MaskedBNN", "MCDropout", "Rank1", "RigL"),
        *("SSVIEnsemble", "SSVIIvon", "SSVIIvonEnsemble", "SSVIIvonMixture"),
        *("SSVIMixture", "Static"),
    ),
    "methods.algorithms.sgd": ("Sgd",),
    "networks": ("adapters",),
    "networks.adapters": ("from_flax",),
    "networks.describe": ("describe",),
    "networks.keras_model": ("from_keras",),
    "training.callbacks": ("Callback", "EarlyStopping", "Phase"),
    "training.hugging_face": ("from_huggingface",),
    "training.display": ("ProgressBar",),
    "training.export": ("export",),
    "training.feeds": ("Batches",),
    "training.fit": ("fit",),
    "training.fitted": ("Fitted", "load"),
    "training.trackers": ("TensorBoard", "WeightsAndBiases"),
    "vi": ("masks", "subspace"),
    "vi.execution": ("Execution",),
    "vi.likelihoods": ("Bernoulli", "Categorical", "Normal", "Poisson"),
}
_WHERE = {name: home for home, names in _HOME.items() for name in names}


def __getattr__(name: str) -> object:
    """Imports what is named above (PEP 562)."""
    if name == "runtime":
        return importlib.import_module("ssvi_jax.runtime")
    if name not in _WHERE:
        raise AttributeError(f"module 'ssvi_jax' has no attribute {name!r}")
    home = importlib.import_module(f"ssvi_jax.{_WHERE[name]}")
    found = getattr(home, name, None)
    if found is None:
        found = importlib.import_module(f"{home.__name__}.{name}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """What can be imported from here."""
    return [*__all__, "__version__"]
