"""The ledger: FLOPs and bytes of a sparse Bayesian network, beside dense VI.

The FLOPs counted are the arithmetic that the `s` kept weights need, **not what the
"xla" path executes**: that one scatters the kept weights to full shape and computes
dense products. The "sparse" path executes about what is counted here.

Rules, all of them:

- One multiply-add is 2 FLOPs. A kernel's weight takes part in one multiply-add at each
  output position of an example (padding included), so one product of a layer costs
  ``2 * kept * positions`` FLOPs per example. Biases, norms, activations, noise and the
  optimizer are not counted: they cost dense VI the same or more.
- A step is 3 times its forward products: forward, gradient of the input, gradient of
  the weights. The first layer is counted so too, though it needs no input gradient.
- The local reparameterization has two products (mean and variance) in each of the
  three, and so has flipout (mean and deviation); weight sampling and deterministic
  training have one. A step that averages the gradients of several draws has all of them
  once for each draw.
- Addition by gradient costs, once in a phase of `inner_steps` steps and for each of its
  batches, a forward pass and input gradients through the kept weights, and the dense
  gradient of the means: one product of all weights. It is spread over the phase. With
  one product this is RigL's rule (Evci et al., 2020): 2 f_S + f_D beside 3 f_S a step.
- A step of a training that prunes is the average over its dense and sparse steps.
- A prediction takes one product for each posterior sample; the mean network is one.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from ssvi_jax.core.errors import InputError, check_choice, check_positive

PRODUCTS = {"local_reparam": 2, "flipout": 2, "weight_sample": 1, "deterministic": 1}
"""Estimator → products of a layer in the forward pass, and in each gradient."""


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One kernel as the ledger sees it.

    Attributes:
      path: the kernel's path, for messages.
      size: weights of the full kernel, d_l.
      kept: weights that the mask keeps, s_l.
      positions: output positions of one example at which the kernel is applied: height
        times width of a convolution's output, 1 for a dense layer on vectors. Grouped
        convolutions need no correction: their kernels are smaller.
    """

    path: str
    size: int
    kept: int
    positions: int = 1

    def __post_init__(self) -> None:
        """Raises `InputError` where the numbers cannot belong to one kernel."""
        if not (0 <= self.kept <= self.size and self.positions >= 1):
            raise InputError(
                f"LayerCost of {self.path}: got size {self.size}, kept {self.kept}, "
                f"positions {self.positions}; allowed: 0 <= kept <= size and "
                "positions >= 1."
            )


@dataclasses.dataclass(frozen=True)
class Growth:
    """How often and how the dense gradient for addition is computed.

    Attributes:
      inner_steps: steps of a phase, M; the dense gradient comes once in it.
      num_batches: batches that it is averaged over.
      at_mean: whether it is taken at the mean network, where one product is enough.
      num_passes: batches that also pass forward through the mean network.
    """

    inner_steps: int
    num_batches: int = 1
    at_mean: bool = False
    num_passes: int = 0

    def __post_init__(self) -> None:
        """Raises `InputError` for counts below 1, or of passes below 0."""
        if self.inner_steps < 1 or self.num_batches < 1 or self.num_passes < 0:
            raise InputError(
                f"Growth: got inner_steps {self.inner_steps}, num_batches "
                f"{self.num_batches} and num_passes {self.num_passes}, allowed: "
                "integers from 1, and from 0 for passes."
            )


def dense(layers: Sequence[LayerCost]) -> list[LayerCost]:
    """The same layers with every weight kept: the network of dense VI."""
    return [dataclasses.replace(layer, kept=layer.size) for layer in layers]


def forward_flops(layers: Sequence[LayerCost]) -> int:
    """FLOPs of one product of every layer for one example (`dense` for f_D)."""
    return sum(2 * layer.kept * layer.positions for layer in layers)


def train_step_flops(
    layers: Sequence[LayerCost],
    *,
    batch_size: int,
    estimator: str = "local_reparam",
    draws: int = 1,
    growth: Growth | None = None,
) -> float:
    """FLOPs of one training step, the dense gradients of a phase spread over it.

    Args:
      layers: all kernels of the model.
      batch_size: examples in a step.
      estimator: a key of `PRODUCTS`.
      draws: how often a step draws its noise, at least 1; the dense gradient for
        addition draws once.
      growth: how addition finds its gradient; None where there is none (static masks,
        addition at random, a dense network).

    Returns:
      FLOPs of a step, averaged over a phase.

    Raises:
      InputError: for an unknown estimator, or draws below 1.
    """
    check_choice("estimator", estimator, PRODUCTS)
    check_positive("draws", draws)
    products = PRODUCTS[estimator]
    step = 3 * products * draws * forward_flops(layers)
    if growth is None:
        return float(batch_size * step)
    through_kept = 2 * (1 if growth.at_mean else products) * forward_flops(layers)
    extra = growth.num_batches * (through_kept + forward_flops(dense(layers)))
    extra += growth.num_passes * forward_flops(layers)
    return batch_size * (step + extra / growth.inner_steps)


def predict_flops(layers: Sequence[LayerCost], *, num_samples: int = 1) -> int:
    """FLOPs to predict one example with posterior samples (the mean network: 1)."""
    return num_samples * forward_flops(layers)


def flops_summary(
    layers: Sequence[LayerCost],
    *,
    batch_size: int,
    num_samples: int,
    estimator: str = "local_reparam",
    draws: int = 1,
    times_seen: int = 1,
    growth: Growth | None = None,
    dense_part: float = 0.0,
) -> dict[str, float]:
    """The ledger's entries of a run's summary, beside dense VI.

    Dense VI keeps all weights, trains with the local reparameterization and one draw a
    step, never grows, and predicts with `num_samples` samples (1 where this run has
    none). `dense_part` is the fraction of this run's steps before it was pruned, when
    they were dense, and `times_seen` how many members of the network see each example
    of a batch.

    Returns:
      train_step_flops, train_step_flops_dense_vi (a step of `batch_size` examples),
      predict_flops, predict_flops_dense_vi (one example).
    """
    everything = dense(layers)
    noise: dict[str, Any] = {"estimator": estimator, "draws": draws}
    seen = batch_size * times_seen
    step = train_step_flops(layers, batch_size=seen, growth=growth, **noise)
    before = train_step_flops(everything, batch_size=seen, **noise)
    return {
        "train_step_flops": dense_part * before + (1 - dense_part) * step,
        "train_step_flops_dense_vi": train_step_flops(
            everything, batch_size=batch_size
        ),
        "predict_flops": predict_flops(layers, num_samples=num_samples),
        "predict_flops_dense_vi": predict_flops(everything, num_samples=num_samples),
    }


def tree_bytes(tree: object) -> int:
    """Bytes of all arrays in a pytree, abstract ones (`jax.eval_shape`) included."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def dense_vi_state_bytes(
    layers: Sequence[LayerCost], *, num_moments: int, rest_bytes: int, itemsize: int = 4
) -> int:
    """Bytes of dense VI's training state for the same model and optimizer.

    Args:
      layers: all kernels; their full sizes count.
      num_moments: arrays that the optimizer holds for each trained array: 0 for plain
        SGD, 1 with momentum, 2 for Adam.
      rest_bytes: everything that sparsity does not touch: deterministic parameters with
        their moments, running statistics (`tree_bytes` of them).
      itemsize: bytes of a number.

    Returns:
      Mean and rho of every weight, each with its moments, and the rest.
    """
    weights = sum(layer.size for layer in layers)
    return 2 * weights * itemsize * (1 + num_moments) + rest_bytes


def mask_bits(layers: Sequence[LayerCost]) -> int:
    """Bits that the masks need, one a weight: sparse training's own overhead."""
    return sum(layer.size for layer in layers)
