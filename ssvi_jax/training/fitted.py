"""A trained network: predict, evaluate, calibrate, save, and read back."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax.core import trees
from ssvi_jax.core.errors import InputError, check_count, check_flag
from ssvi_jax.core.keys import check_key
from ssvi_jax.core.rows import as_arrays, check_lengths, like_trained
from ssvi_jax.core.structure import Rank1Spec, Structure
from ssvi_jax.core.types import ApplyFn, Masks, Params, Weights
from ssvi_jax.io import artifact
from ssvi_jax.metrics.scores import by_likelihood
from ssvi_jax.networks import adapters, trace_graph
from ssvi_jax.networks import network as network_lib
from ssvi_jax.networks.learned_noise import WithNoise
from ssvi_jax.networks.structured import Structured
from ssvi_jax.training import calibration, module_check
from ssvi_jax.training.callbacks import LOGGER
from ssvi_jax.vi import likelihoods, predictions
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi import posterior as posterior_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` returns, and `load` reads.

    Attributes:
      apply_fn: the network's function.
      weights: posterior, deterministic parameters, running statistics: those with the
        lowest validation NLL if there was a validation part, else the last.
      masks: kernel path → which of its weights are kept.
      likelihood: of the labels.
      about: how it was trained: method and settings, steps, seconds.
      history: the metrics of every phase, oldest first; of a training that went on in
        a folder of those since then; empty if it was read.
      describes: what a model file says of the network, beside its weights.
    """

    apply_fn: ApplyFn
    weights: Weights
    masks: Masks
    likelihood: likelihoods.Likelihood
    about: Mapping[str, Any]
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list, repr=False)
    describes: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        total = sum(mask.size for mask in self.masks.values())
        method, step = (self.about.get(name, "?") for name in ("method", "step"))
        sparse = f"{self.sparsity:.2%} sparse ({kept:,} of {total:,} weights kept)"
        what = sparse if total else "dense"
        factor = calibration.factor_in(self.about)
        stretched = "" if factor is None else f", calibrated: sigma × {factor:.4g}"
        return f"Fitted({method}, step {step}, {what}, {self.likelihood!r}{stretched})"

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are exactly zero, counted from the masks."""
        return masks_lib.sparsity(self.masks)

    @property
    def params(self) -> Params:
        """Full parameters of the mean network; weights that are not kept are 0.

        Of an ensemble those of all members, stacked.
        """
        posterior, params, _ = self.weights
        subspace = masks_lib.to_subspace(self.masks, posterior)
        kernels = posterior_lib.sample(posterior, subspace, None)
        return trees.unflatten(trees.flatten(params) | kernels)

    @property
    def _inputs(self) -> list[list[int]] | None:
        """Shapes of a batch that it was trained with; None: not known."""
        inputs = self.describes.get("inputs")
        return None if inputs is None else [shape for shape, _ in inputs]

    def predict(
        self,
        x: Any,
        *,
        samples: int = 10,
        key: jax.Array | None = None,
        batch_size: int = 500,
        backend: str = "auto",
    ) -> Any:  # its kind depends on the likelihood, which type checkers do not follow
        """Predicts with uncertainty, from draws of the weights.

        Args:
          x: inputs ``[n, ...]``, as in training.
          samples: draws of the weights, of every member.
          key: random key of the draws; None: ``jax.random.key(0)``.
          batch_size: inputs per call.
          backend: what multiplies; see `Execution.backend`.

        Returns:
          By likelihood: `predictions.Classification`, `Binary`, `Regression`, `Counts`,
          or `Outputs` of a function.
        """
        counts = _counts(samples, batch_size)
        x = as_arrays("x", x)
        with like_trained("x", x, self._inputs):
            return predictions.predict(
                self.likelihood,
                self.apply_fn,
                self.weights,
                self.masks,
                x,
                key=_key(key),
                backend=backend,
                **counts,
            )

    def evaluate(
        self,
        x: Any,
        y: Any,
        *,
        samples: int = 10,
        key: jax.Array | None = None,
        batch_size: int = 500,
        backend: str = "auto",
    ) -> dict[str, float]:
        """Scores of `predict` against labels; see `metrics.scores.score`.

        Of a likelihood that is a function there is the nll alone.

        Args:
          x: inputs ``[n, ...]``.
          y: labels ``[n, ...]``.
          samples: see `predict`.
          key: likewise.
          batch_size: likewise.
          backend: likewise.

        Raises:
          InputError: labels that the likelihood does not have, or options that
            `predict` refuses.
        """
        x, y = as_arrays("x", x), as_arrays("y", y)
        check_lengths("x, y", (x, y), "as many labels as inputs")
        likelihoods.check_labels(self.likelihood, y, "y")
        found = self.predict(
            x, samples=samples, key=key, batch_size=batch_size, backend=backend
        )
        return by_likelihood(self.likelihood, found, y)

    def calibrate(
        self,
        x: Any,
        y: Any,
        *,
        samples: int = 10,
        key: jax.Array | None = None,
        batch_size: int = 500,
        backend: str = "auto",
    ) -> "Fitted":
        """Scales all standard deviations by one factor, chosen by the NLL of `predict`.

        See `metrics.sigma_factor`. Means do not change, and of a rank-1 network neither
        do the factors: only the kernels' own posterior is scaled. The factor is never
        worse than 1 on these examples; what was found is logged, at level INFO. Of a
        calibrated network the earlier factor is taken back first, so that the new one
        replaces it.

        Args:
          x: inputs ``[n, ...]`` that were not trained on; some hundreds or more.
          y: their labels ``[n, ...]``.
          samples: draws of the weights, of every member.
          key: random key of the draws, the same at every factor; None:
            ``jax.random.key(0)``.
          batch_size: inputs per call.
          backend: what multiplies; see `Execution.backend`.

        Returns:
          A network with other standard deviations, and ``about["calibration"]``:
          ``sigma_factor`` and ``temperature`` relative to what was trained, ``nll`` and
          ``nll_before`` (nats; before is as trained), ``border`` ("lower" where the
          mean network is as good, "upper" where the largest factor is, "both", else
          ""), ``as_good`` (the smallest and largest factor tried that are as good; any
          between them could have been chosen), ``examples``, ``samples``.

        Raises:
          InputError: see `calibration.fit`; or a damaged earlier calibration.
        """
        counts = _counts(samples, batch_size)
        weights = calibration.trained(self.weights, self.about)
        x, y = as_arrays("x", x), as_arrays("y", y)
        with like_trained("x", x, self._inputs):
            found = calibration.fit(
                self.likelihood,
                self.apply_fn,
                weights,
                self.masks,
                (x, y),
                key=_key(key),
                backend=backend,
                **counts,
            )
        posterior = posterior_lib.stretched(weights.posterior, found.factor)
        said = calibration.describe(
            found, examples=len(np.asarray(y)), samples=counts["num_samples"]
        )
        LOGGER.info("calibration: %s", calibration.sentence(said))
        return dataclasses.replace(
            self,
            weights=weights._replace(posterior=posterior),
            about={**self.about, "calibration": said},
        )

    def save(self, path: str | Path, *, half: bool = True) -> int:
        """Writes a compact model file, which `ssvi_jax.runtime` reads too if it can.

        What the runtime cannot compute is logged, at level INFO, and said in the file.

        Args:
          path: the file; its folder must exist.
          half: store numbers in half precision where that is safe (see `io.artifact`).

        Returns:
          Its size in bytes.

        Raises:
          InputError: the likelihood is a function, `about` has a damaged calibration,
            `path` is no file's, or the file cannot be written.
        """
        calibration.check(self.about)
        if isinstance(self.likelihood, likelihoods.Custom):
            raise InputError(
                "likelihood: got a function, which a file cannot hold; save "
                "`weights` and `masks` by `artifact.save`."
            )
        config = {**self.describes, "likelihood": _described(self.likelihood)}
        half = check_flag("half", half)
        graph = trace_graph.for_file(
            self.apply_fn,
            self.weights,
            self.masks,
            trace_graph.inputs_of(self.describes),
            half=half,
            classes=isinstance(self.likelihood, likelihoods.Categorical),
        )
        if isinstance(graph, str):
            LOGGER.info(
                "%s: predicts under JAX only, not in the runtime: %s", path, graph
            )
        sizes = artifact.save(
            path,
            self.weights,
            self.masks,
            config=config,
            half=half,
            metadata={"run": dict(self.about)},
            graph=graph,
        )
        return sizes["file"]


def _counts(samples: Any, batch_size: Any) -> dict[str, int]:
    """Both as `predictions.predict` takes them, refused by the names they have here."""
    return {
        "num_samples": check_count("samples", samples),
        "batch_size": check_count("batch_size", batch_size),
    }


def _key(key: jax.Array | None) -> jax.Array:
    """The key of the draws, which always is the same unless one is given."""
    if key is None:
        return jax.random.key(0)
    check_key("key", key)
    return key


def describe_model(structure: Structure, example: Any, *, noise: bool) -> dict:
    """What a model file says of a network of the user's own.

    Args:
      structure: what the method made of it.
      example: shapes and types of an input.
      noise: whether it has learned noise besides.
    """
    leaves, treedef = jax.tree.flatten(example)
    del treedef  # the user's module gives it again
    return {
        "kind": network_lib.OWN,
        "structure": dataclasses.asdict(structure),
        "inputs": [[list(leaf.shape), str(leaf.dtype)] for leaf in leaves],
        "noise": noise,
    }


def load(path: str | Path, module: Any = None) -> Fitted:
    """Reads a model file that `Fitted.save` or a run wrote.

    The module's parameters are compared with the file's, by path and shape (of a linen
    module with one array of inputs; of several only the sizes are known). What has no
    parameters cannot be: with another activation the same weights predict otherwise.

    Args:
      path: the file.
      module: the Flax module, linen or nnx, that was trained; not needed for a network
        of the library's own, as the experiments train them.

    Raises:
      InputError: no model file, a damaged one, no module where one is needed, or one
        whose weights are others.
    """
    file = artifact.load(path)
    likelihood = _likelihood(file.config.get("likelihood"), path)
    about = dict(file.metadata.get("run", {}))
    calibration.check(about, path)
    if file.config.get("kind") != network_lib.OWN:
        network, weights, masks = network_lib.load(path)
        return Fitted(network, weights, masks, likelihood, about, [], file.config)
    if module is None:
        raise InputError(
            f"module: {path} holds the weights of a network of your own; give the Flax "
            "module that was trained: load(path, module)."
        )
    plain = adapters.model_of(module)
    structure, network = network_of(plain, file.config, path)
    module_check.check_weights(plain, structure, file, path, type(module).__name__)
    weights = jax.tree.map(jnp.asarray, file.weights)
    return Fitted(network, weights, file.masks(), likelihood, about, [], file.config)


def network_of(
    plain: adapters.FlaxModel, config: Mapping[str, Any], path: str | Path
) -> tuple[Structure, ApplyFn]:
    """What a method made of a model, and the network that is; see `describe_model`."""
    try:
        values = dict(config["structure"])
        rank1 = values.pop("rank1")
        structure = Structure(
            rank1=None if rank1 is None else Rank1Spec(**rank1), **values
        )
        noise = bool(config["noise"])
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its description of the network is damaged ({error})."
        ) from error
    network: Any = plain
    if structure != Structure():
        network = Structured(plain, structure, None)
    if noise:
        network = WithNoise(network)
    return structure, network


def _described(likelihood: likelihoods.Likelihood) -> dict[str, Any]:
    values = dataclasses.asdict(likelihood)  # type: ignore[call-overload]
    return {"name": type(likelihood).__name__, **values}


_LIKELIHOODS = {
    kind.__name__: kind
    for kind in (
        likelihoods.Categorical,
        likelihoods.Bernoulli,
        likelihoods.Normal,
        likelihoods.Poisson,
    )
}


def _likelihood(described: Any, path: str | Path) -> likelihoods.Likelihood:
    """The likelihood that a model file names; without one classes."""
    if described is None:
        return likelihoods.Categorical()
    try:
        values = dict(described)
        return _LIKELIHOODS[values.pop("name")](**values)
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its description of the likelihood is damaged ({error})."
        ) from error
