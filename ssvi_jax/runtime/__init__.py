"""Predictions of a model file with NumPy alone, without JAX.

>>> import ssvi_jax.runtime
>>> model = ssvi_jax.runtime.load("model.ssvi")          # doctest: +SKIP
>>> found = model.predict(images, samples=10, seed=0)    # doctest: +SKIP
>>> found.probabilities, found.entropy, found.mutual_information  # doctest: +SKIP

The file holds what its network computes besides its weights (`ssvi_jax.io.graph`), and
a library in C++ computes it: ``libssvi``, whose C header is ``include/ssvi.h``.
"""

from ssvi_jax.runtime.binding import include_folder, library_path
from ssvi_jax.runtime.model import Model, Prediction, load

__all__ = ["Model", "Prediction", "include_folder", "library_path", "load"]
