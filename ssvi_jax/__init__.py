"""Sparse and structured Bayesian neural networks in JAX.

Importing the package loads nothing else; import the module that you need, for example
``from ssvi_jax import vi``. The core needs JAX, optax and NumPy only.
"""

__version__ = "0.1.0"
