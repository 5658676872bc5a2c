"""Sparse Bayesian networks as estimators of scikit-learn, for tables of numbers.

>>> from ssvi_jax.sklearn import SparseBayesClassifier
>>> SparseBayesClassifier(sparsity=0.8).sparsity
0.8

They are cloned, searched and put into pipelines as any estimator. What they learn with
is `ssvi_jax.fit`, and what that returns is their attribute `fitted_`.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ssvi_jax.core.errors import InputError, check_count, check_flag, check_fraction
from ssvi_jax.core.settings import positive
from ssvi_jax.methods import SSVI, Method
from ssvi_jax.methods.problem import OptimizerLike
from ssvi_jax.networks.adapters import from_flax, model_of
from ssvi_jax.training.fit import fit as fit_network
from ssvi_jax.training.fitted import Fitted, network_of
from ssvi_jax.vi.likelihoods import Categorical, Likelihood, Normal

STEPS, LEAST_EPOCHS = 1000, 20
"""Without `epochs`: so many steps, but at least so many passes over the data."""

_BLOCK = 512
"""Rows that are predicted at once, always: so a row's prediction is the same, to the
last bit, whatever rows it is predicted with."""


class _SparseBayes(BaseEstimator):
    """What both estimators share; see `SparseBayesClassifier` for the parameters."""

    def __init__(
        self,
        hidden: Sequence[int] = (128, 128),
        *,
        sparsity: float | None = 0.8,
        method: Method | None = None,
        module: nn.Module | None = None,
        epochs: float | None = None,
        batch_size: int = 128,
        optimizer: OptimizerLike | None = None,
        standardize: bool = True,
        samples: int = 30,
        random_state: Any = None,
    ):
        self.hidden = hidden
        self.sparsity = sparsity
        self.method = method
        self.module = module
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.standardize = standardize
        self.samples = samples
        self.random_state = random_state

    def _train(
        self, x: np.ndarray, y: np.ndarray, likelihood: Likelihood, outputs: int
    ) -> None:
        """Learns inputs ``[n, d]`` and labels ``[n]``, or ``[n, 1]`` of numbers."""
        method = self._method()
        module = self._module(outputs)
        batch_size = min(check_count("batch_size", self.batch_size), len(x))
        check_count("samples", self.samples)
        self._learn_scale(x)
        inputs = self._inputs(x)
        epochs = self.epochs
        if epochs is None:
            epochs = max(LEAST_EPOCHS, STEPS / (len(x) // batch_size))
        positive("epochs", epochs)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        network = from_flax(module, inputs[:1], key=jax.random.key(seed))
        _check_outputs(network, inputs[:1], outputs)
        self._outputs = outputs
        self.fitted_ = fit_network(
            method,
            network,
            (inputs, y),
            key=jax.random.key(seed),
            epochs=epochs,
            batch_size=batch_size,
            likelihood=likelihood,
            optimizer=self.optimizer,
        )

    def __getstate__(self) -> dict[str, Any]:
        """As plain values, for processes that share the work of a search."""
        kept: Any = super().__getstate__()
        state: dict[str, Any] = dict(kept)
        fitted = state.pop("fitted_", None)
        if fitted is not None:
            names = [field.name for field in dataclasses.fields(fitted)]
            parts = {name: getattr(fitted, name) for name in names}
            del parts["apply_fn"]  # made of functions; the module gives it again
            parts["weights"] = jax.tree.map(np.asarray, parts["weights"])
            state["_parts"] = parts
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undoes `__getstate__`."""
        state = dict(state)
        parts = state.pop("_parts", None)
        super().__setstate__(state)
        if parts is not None:
            plain = model_of(self._module(self._outputs))
            _, network = network_of(plain, parts["describes"], "the state")
            weights = jax.tree.map(jnp.asarray, parts.pop("weights"))
            self.fitted_ = Fitted(network, weights, **parts)

    def _method(self) -> Method:
        """The method, at the sparsity that is asked for."""
        method = self.method
        if method is None:
            method = SSVI(kl_scale=1.0, prior_std=1.0)
        if not isinstance(method, Method):
            raise InputError(
                f"method: got {type(method).__name__}, allowed: None, or a method with "
                "its settings, as ssvi_jax.SSVI(kl_scale=0.1)."
            )
        if self.sparsity is None:
            return method
        check_fraction("sparsity", self.sparsity)
        if "sparsity" not in method.names():
            raise InputError(
                f"sparsity: got {self.sparsity} with {type(method).__name__}, which "
                "has no such setting, allowed: None."
            )
        return dataclasses.replace(method, sparsity=float(self.sparsity))

    def _module(self, outputs: int) -> nn.Module:
        """The user's, or a perceptron of dense layers and ReLU."""
        if self.module is not None:
            return self.module
        layers: list[Any] = []
        for width in self.hidden:
            layers += [nn.Dense(check_count("hidden", width)), nn.relu]
        # A tuple has a hash: equal networks share what is compiled for them, so that a
        # search compiles once, and not until memory maps run out.
        return nn.Sequential((*layers, nn.Dense(outputs)))

    def _learn_scale(self, x: np.ndarray) -> None:
        """Mean and standard deviation of every column; 0 and 1 if not asked for."""
        width = x.shape[1]
        self.mean_, self.scale_ = np.zeros(width), np.ones(width)
        if check_flag("standardize", self.standardize):
            self.mean_, scale = x.mean(axis=0), x.std(axis=0)
            # Of equal numbers rounding leaves a deviation that means nothing.
            tiny = scale <= 1e-12 * np.abs(self.mean_)
            self.scale_ = np.where(tiny | (scale == 0), 1.0, scale)

    def _inputs(self, x: np.ndarray) -> np.ndarray:
        return ((x - self.mean_) / self.scale_).astype(np.float32)

    def _predicted(self, x: Any) -> tuple[Any, int]:
        """What `Fitted.predict` gives for blocks of rows, and how many rows count."""
        check_is_fitted(self, "fitted_")
        x = validate_data(self, x, reset=False, dtype=np.float64)
        inputs = self._inputs(x)
        padded = np.pad(inputs, ((0, -len(inputs) % _BLOCK), (0, 0)))
        found = self.fitted_.predict(padded, samples=self.samples, batch_size=_BLOCK)
        return found, len(inputs)


class SparseBayesClassifier(ClassifierMixin, _SparseBayes):
    """A sparse Bayesian network that classifies rows of a table.

    Args:
      hidden: widths of the hidden layers, of dense products and ReLU.
      sparsity: fraction of the kernels' weights that are exactly zero, in [0, 1), which
        replaces the method's own; None: the method's own.
      method: how it learns; None: `SSVI(kl_scale=1, prior_std=1)`, whose draws differ.
        `SSVI()` itself has a cold posterior, of which the draws hardly do.
      module: a `flax.linen` module from columns to logits ``[n, classes]``, in place
        of the hidden layers.
      epochs: passes over the rows; None: what 1,000 steps come to, and at least 20.
      batch_size: rows of a step; all where there are fewer.
      optimizer: as of `ssvi_jax.fit`; None: Adam, its rate rising to 0.01 and falling.
      standardize: subtract a column's mean and divide by its standard deviation first.
      samples: draws of the weights that a prediction averages.
      random_state: seed of everything random, or a generator of NumPy.

    Attributes:
      classes_: the labels, sorted; of any kind that NumPy sorts.
      fitted_: what `ssvi_jax.fit` returned; its inputs are standardized columns.
      mean_: of the columns ``[d]``.
      scale_: their standard deviations ``[d]``.

    Rows cannot be weighted: `sample_weight` is refused.
    """

    def fit(self, X: Any, y: Any, **given: Any) -> Self:
        """Learns rows ``[n, d]`` and their labels ``[n]``.

        Raises:
          InputError: one class only, weights of rows, or a parameter out of its range;
            a `ValueError`, as are scikit-learn's for what is no table of numbers.
        """
        _refuse_weights(given)
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(
                f"y: got one class only ({self.classes_[0]!s:.50}), allowed: 2 classes "
                "or more."
            )
        labels = labels.astype(np.int32)
        self._train(X, labels, Categorical(), len(self.classes_))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities ``[n, classes]``, averaged over draws of the weights."""
        found, number = self._predicted(X)
        probs = np.asarray(found.probs, np.float64)[:number]
        return probs / probs.sum(axis=1, keepdims=True)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Their logarithms, in nats; of a probability of 0 minus infinity."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable labels ``[n]``."""
        probs = self.predict_proba(X)  # first, as it says that nothing was learned
        return self.classes_[np.argmax(probs, axis=1)]

    def mutual_information(self, X: Any) -> np.ndarray:
        """What is due to uncertain weights ``[n]``, in nats; see `predictions`."""
        found, number = self._predicted(X)
        return np.asarray(found.mutual_information)[:number]


class SparseBayesRegressor(RegressorMixin, _SparseBayes):
    """A sparse Bayesian network that predicts a number for each row of a table.

    Args:
      hidden: see `SparseBayesClassifier`, as are all parameters but the last.
      sparsity: likewise.
      method: likewise.
      module: a `flax.linen` module from columns to ``[n, 1]``, or ``[n, 2]`` with
        `noise="rows"`.
      epochs: see there.
      batch_size: likewise.
      optimizer: likewise.
      standardize: likewise; the target is standardized always.
      samples: likewise.
      random_state: likewise.
      noise: "one": normal noise whose standard deviation is learned, the same for all
        rows; "rows": it depends on the row.

    Attributes:
      fitted_: what `ssvi_jax.fit` returned, of standardized columns and target.
      target_mean_: of the targets.
      target_scale_: their standard deviation; 1 where all are equal.

    Rows cannot be weighted: `sample_weight` is refused.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (128, 128),
        *,
        sparsity: float | None = 0.8,
        method: Method | None = None,
        module: nn.Module | None = None,
        epochs: float | None = None,
        batch_size: int = 128,
        optimizer: OptimizerLike | None = None,
        standardize: bool = True,
        samples: int = 30,
        random_state: Any = None,
        noise: str = "one",
    ):
        super().__init__(
            hidden,
            sparsity=sparsity,
            method=method,
            module=module,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            standardize=standardize,
            samples=samples,
            random_state=random_state,
        )
        self.noise = noise

    def fit(self, X: Any, y: Any, **given: Any) -> Self:
        """Learns rows ``[n, d]`` and their targets ``[n]``.

        Raises:
          InputError: weights of rows, or a parameter out of its range; a `ValueError`,
            as are scikit-learn's for what is no table of numbers.
        """
        _refuse_weights(given)
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        y = column_or_1d(y, warn=True).astype(np.float64)
        likelihoods = {"one": Normal("learned"), "rows": Normal("output")}
        if self.noise not in likelihoods:
            raise InputError(f"noise: got {self.noise!r}, allowed: 'one' or 'rows'.")
        self.target_mean_, scale = float(y.mean()), float(y.std())
        equal = scale <= 1e-12 * abs(self.target_mean_)
        if equal := equal or scale == 0:
            warnings.warn(
                f"y: got one value only ({y[0]:.6g}): predictions are near it, and "
                "their standard deviations mean nothing.",
                UserWarning,
                stacklevel=2,
            )
        self.target_scale_ = 1.0 if equal else scale
        targets = ((y - self.target_mean_) / self.target_scale_).astype(np.float32)
        outputs = 2 if self.noise == "rows" else 1
        self._train(X, targets[:, None], likelihoods[self.noise], outputs)
        return self

    def predict(
        self, X: Any, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Means ``[n]`` over draws of the weights, in the target's units.

        Args:
          X: rows ``[n, d]``.
          return_std: also return standard deviations ``[n]``: of what uncertain weights
            and noise come to together.
        """
        found, number = self._predicted(X)
        mean = np.asarray(found.mean, np.float64).ravel()[:number]
        mean = self.target_mean_ + self.target_scale_ * mean
        if not return_std:
            return mean
        variance = np.asarray(found.variance, np.float64).ravel()[:number]
        return mean, self.target_scale_ * np.sqrt(variance)


def _check_outputs(network: Any, one: np.ndarray, outputs: int) -> None:
    """Refuses a module of the user's own with another number of outputs."""
    apply_fn, params, model_state = network

    def run(x: jax.Array) -> Any:
        key = jax.random.key(0)
        return apply_fn(params, model_state, x, train=False, key=key)[0]

    found = getattr(jax.eval_shape(run, one), "shape", None)
    if found != (1, outputs):
        raise InputError(
            f"module: got outputs {found} of one row, needed: {(1, outputs)}, a number "
            "for each class, or the mean (with noise='rows' also rho) of a target."
        )


def _refuse_weights(given: dict[str, Any]) -> None:
    """`fit` has no `sample_weight`, which scikit-learn would take for support."""
    if given.pop("sample_weight", None) is not None:
        raise InputError(
            "sample_weight: got weights of rows, allowed: None; the likelihood counts "
            "every row once. Repeat the rows that are to count more."
        )
    if given:
        raise InputError(
            f"{next(iter(given))}: fit takes X and y only; what is set goes to the "
            "estimator itself."
        )
