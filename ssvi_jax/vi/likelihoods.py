"""What a network's output says of the labels: log p(y | output).

Every likelihood is a frozen dataclass (hashable, so static under jit). Its `log_prob`
is what training maximizes; `features` is what predictions keep of every forward pass,
of which `predictions.of` makes probabilities, means and intervals.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from ssvi_jax.core.errors import InputError, check_positive
from ssvi_jax.vi import labels

Output = Any
"""What a network returns for a batch: nearly always one array ``[batch, ...]``."""


class Likelihood(Protocol):
    """A distribution of labels given a network's output."""

    def log_prob(self, output: Output, y: jax.Array) -> jax.Array:
        """Log p(y | output) of each example ``[batch]``, in nats."""
        ...

    def metrics(self, output: Output, y: jax.Array) -> dict[str, jax.Array]:
        """Scalars to log of a training batch besides the loss; may be empty."""
        ...

    def features(self, output: Output) -> Output:
        """What predictions keep of a forward pass, in float32; inside jit."""
        ...


@dataclasses.dataclass(frozen=True)
class Categorical:
    """One of C classes, by logits ``[batch, C]``.

    Labels are whole numbers ``[batch]`` from 0 (of two classes booleans too), or soft
    ones: probabilities ``[batch, C]`` that add up to 1.
    """

    def check_labels(self, y: Any, argument: str = "labels") -> None:
        """Refuses labels that are not whole from 0, booleans or probabilities.

        Raises:
          InputError: names the first, as of `argument`.
        """
        labels.classes(y, argument)

    def log_prob(self, output: jax.Array, y: jax.Array) -> jax.Array:
        """See `Likelihood.log_prob`; of soft labels Σ_c y_c log p_c."""
        output = output.astype(jnp.promote_types(output.dtype, jnp.float32))
        if jnp.issubdtype(y.dtype, jnp.floating):
            if y.shape == output.shape[:-1]:
                raise InputError(
                    f"labels: got dtype {y.dtype}, allowed: {labels.CLASSES}; if they "
                    "are classes, labels.astype(int)."
                )
            _check_same_shape("logits", output, y)
            return -optax.softmax_cross_entropy(output, y)
        if y.shape != output.shape[:-1]:
            raise InputError(
                f"labels: got whole numbers {list(y.shape)} for logits "
                f"{list(output.shape)}, allowed: one each, [batch]; or probabilities "
                "in the logits' shape, as floats."
            )
        classes = y.astype(jnp.int32) if y.dtype == bool else y
        return -optax.softmax_cross_entropy_with_integer_labels(output, classes)

    def metrics(self, output: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
        """Accuracy, a fraction; of soft labels that of the likeliest class."""
        if jnp.issubdtype(y.dtype, jnp.floating):
            y = jnp.argmax(y, axis=-1)
        return {"accuracy": jnp.mean(jnp.argmax(output, axis=-1) == y)}

    def features(self, output: jax.Array) -> jax.Array:
        """Log-probabilities ``[batch, C]``."""
        return jax.nn.log_softmax(output.astype(jnp.float32), axis=-1)


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Yes or no, by one logit: ``[batch]``, or ``[batch, 1]``.

    Labels are 0 or 1, or probabilities of 1, ``[batch]``.
    """

    def check_labels(self, y: Any, argument: str = "labels") -> None:
        """Refuses labels that are not 0, 1 or between, or booleans.

        Raises:
          InputError: names the first, as of `argument`.
        """
        labels.zero_or_one(y, argument)

    def log_prob(self, output: jax.Array, y: jax.Array) -> jax.Array:
        """See `Likelihood.log_prob`."""
        logits = _one_each(output, y)
        return -optax.sigmoid_binary_cross_entropy(logits, y.astype(logits.dtype))

    def metrics(self, output: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
        """Accuracy, a fraction."""
        return {"accuracy": jnp.mean((_one_each(output, y) > 0) == (y > 0.5))}

    def features(self, output: jax.Array) -> jax.Array:
        """Logits ``[batch]``."""
        return _squeezed(output).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Normal:
    """A number, or several that are independent: N(output, noise²).

    Labels have the output's shape; ``[batch]`` fits an output ``[batch, 1]`` too.

    Attributes:
      noise: standard deviation, above 0; "learned": one number that is trained with
        the network (see `networks.learned_noise`); "output": the network returns a
        pair, or an array whose last axis has twice the labels' length: means, then ρ,
        of which the standard deviations are softplus(ρ).
    """

    noise: float | str = "learned"

    def __post_init__(self):
        if isinstance(self.noise, str):
            if self.noise not in ("learned", "output"):
                raise InputError(
                    f"noise: got {self.noise!r}, allowed: a number above 0, "
                    "'learned', 'output'."
                )
            return
        check_positive("noise", self.noise)
        if type(self.noise) not in (int, float):  # of NumPy, which no model file holds
            object.__setattr__(self, "noise", float(self.noise))

    def check_labels(self, y: Any, argument: str = "labels") -> None:
        """Refuses labels that are not finite numbers.

        Raises:
          InputError: names the first, as of `argument`.
        """
        labels.finite(y, argument)

    def log_prob(self, output: Output, y: jax.Array) -> jax.Array:
        """See `Likelihood.log_prob`; summed over the numbers of an example."""
        mean, std = (_one_each(moment, y) for moment in self._moments(output))
        z = (y - mean) / std
        each = -0.5 * z * z - jnp.log(std) - 0.5 * math.log(2 * math.pi)
        return each.reshape(len(y), -1).sum(axis=1)

    def metrics(self, output: Output, y: jax.Array) -> dict[str, jax.Array]:
        """Root mean squared error, in units of the labels."""
        mean = _one_each(self._moments(output)[0], y)
        return {"rmse": jnp.sqrt(jnp.mean(jnp.square(mean - y)))}

    def features(self, output: Output) -> tuple[jax.Array, jax.Array]:
        """Means and standard deviations ``[batch, ...]``."""
        mean, std = self._moments(output)
        return _squeezed(mean).astype(jnp.float32), _squeezed(std).astype(jnp.float32)

    def _moments(self, output: Output) -> tuple[jax.Array, jax.Array]:
        if not isinstance(self.noise, str):
            return output, jnp.full_like(output, self.noise)
        if isinstance(output, tuple):
            mean, rho = output
        else:
            if output.shape[-1] % 2:
                raise InputError(
                    f"noise: got 'output' for outputs {list(output.shape)}, allowed: "
                    "an even length of the last axis: means, then as many ρ."
                )
            mean, rho = jnp.split(output, 2, axis=-1)
        return mean, jax.nn.softplus(rho)


@dataclasses.dataclass(frozen=True)
class Poisson:
    """A count, by the logarithm of its rate: ``[batch]``, or ``[batch, 1]``."""

    def check_labels(self, y: Any, argument: str = "labels") -> None:
        """Refuses labels that are not whole numbers from 0.

        Raises:
          InputError: names the first, as of `argument`.
        """
        labels.counts(y, argument)

    def log_prob(self, output: jax.Array, y: jax.Array) -> jax.Array:
        """See `Likelihood.log_prob`."""
        log_rate = _one_each(output, y)
        return y * log_rate - jnp.exp(log_rate) - jax.scipy.special.gammaln(y + 1.0)

    def metrics(self, output: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
        """Nothing."""
        del output, y
        return {}

    def features(self, output: jax.Array) -> jax.Array:
        """Log-rates ``[batch]``."""
        return _squeezed(output).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Custom:
    """Any function of output and labels.

    Attributes:
      function: (output, labels) → log p(y | output) of each example ``[batch]``.
    """

    function: Callable[[Any, jax.Array], jax.Array]

    def log_prob(self, output: Output, y: jax.Array) -> jax.Array:
        """See `Likelihood.log_prob`."""
        return self.function(output, y)

    def metrics(self, output: Output, y: jax.Array) -> dict[str, jax.Array]:
        """Nothing."""
        del output, y
        return {}

    def features(self, output: Output) -> Output:
        """The output itself."""
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), output)


LikelihoodLike = Likelihood | Callable[[Any, jax.Array], jax.Array]
"""A likelihood, or a function that `Custom` makes one of."""


def as_likelihood(given: LikelihoodLike) -> Likelihood:
    """The likelihood itself, or one of a function."""
    if hasattr(given, "log_prob"):
        return given  # type: ignore[return-value]
    return Custom(given)  # type: ignore[arg-type]


def check_labels(likelihood: Likelihood, y: Any, argument: str = "labels") -> None:
    """Refuses labels that a likelihood does not have, if it has a word for it.

    A likelihood may have ``check_labels(y, argument)``, as all here but `Custom` have.

    Args:
      likelihood: of the labels.
      y: labels ``[n, ...]``, not traced.
      argument: what an error names.

    Raises:
      InputError: names the first label that is none.
    """
    check = getattr(likelihood, "check_labels", None)
    if check is not None:
        check(y, argument)


def _squeezed(output: jax.Array) -> jax.Array:
    """``[batch]`` of ``[batch, 1]``; anything else as it is."""
    return output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output


def _one_each(output: jax.Array, y: jax.Array) -> jax.Array:
    """The output in the labels' shape; never broadcast."""
    output = output if output.shape == y.shape else _squeezed(output)
    _check_same_shape("outputs", output, y)
    return output


def _check_same_shape(name: str, output: jax.Array, y: jax.Array) -> None:
    if output.shape != y.shape:
        raise InputError(
            f"labels: got shape {list(y.shape)} for {name} {list(output.shape)}, "
            "allowed: one label each (of an output [batch, 1] also [batch])."
        )
