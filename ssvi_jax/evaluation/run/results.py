"""What a finished run leaves: scores, costs, model file, predictions and figures."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssvi_jax import metrics
from ssvi_jax.core.types import Gaussian, Masks, Weights
from ssvi_jax.data import Dataset
from ssvi_jax.io import artifact
from ssvi_jax.io.run_log import RunLog
from ssvi_jax.metrics import cost, detection, diversity
from ssvi_jax.networks import network as network_lib
from ssvi_jax.networks import trace_graph
from ssvi_jax.networks.adapters import Layer
from ssvi_jax.training.run_config import NOT_COMPARED, Config
from ssvi_jax.training.train import Progress, Trained
from ssvi_jax.vi import masks as masks_lib
from ssvi_jax.vi.predictive import (
    Prediction,
    backend_for,
    has_samples,
    is_random,
    num_passes,
    predict,
)

NUM_MOMENTS = 1
"""Arrays that SGD with momentum holds for each trained array; IVON has none of its
standard deviations, so what a state really holds is counted from its arrays."""


def finish(config: Config, data: Dataset, trained: Trained, log: RunLog) -> dict:
    """Evaluates the test set, once, and writes everything but the figures.

    Args:
      config: the run's configuration.
      data: the data set.
      trained: a finished training.
      log: the run folder; gets summary.json, predictions.npz and model.ssvi.

    Returns:
      The summary, as written.
    """
    weights, masks = trained.progress.state.weights, trained.progress.masks
    sampled = has_samples(trained.network, weights)
    key = jax.random.fold_in(jax.random.key(config.run.seed), trained.step)
    members = trained.network.num_members
    test = _predict(trained.network, weights, masks, data.test_images, config, key)
    val = _predict(trained.network, weights, masks, data.val_images, config, key)
    log.write_arrays(
        "predictions.npz", {**_arrays(test, sampled), "labels": data.test_labels}
    )
    looked = "for curves too" if config.run.test_every else "once, at the end"
    summary = {
        "dataset": data.name,
        "data_source": data.source,
        "method": config.run.method,
        "model": config.training.model,
        "width": config.training.width,
        "seed": config.run.seed,
        "preset": config.run.preset,
        "step": trained.step,
        "train_minutes": trained.seconds / 60,
        "backend": backend_for(masks, config.training.training_backend),
        "platform": jax.default_backend(),
        "samples": config.run.samples if is_random(trained.network, weights) else None,
        "members": members if members > 1 else None,
        **sizes(
            trained.progress,
            trained.problem.layers,
            dense_first=trained.algorithm.prune_step > 0,
        ),
        **costs(config, trained),
        "test": scores(test, sampled, data.test_labels),
        "diversity": diversity.diversity(test.member_probs) if members > 1 else None,
        **_corrupted(config, data, trained, key),
        "val": scores(val, sampled, data.val_labels),
        "test_evaluated": looked,
        "snr_histogram": snr_histogram(weights),
    }
    path = log.folder / "model.ssvi"
    summary["model_file"] = write_model(path, config, trained)
    summary["model_file"] |= compare_model(path, config, data, test, key)
    summary = {name: value for name, value in summary.items() if value is not None}
    log.write_json("summary.json", summary)
    return summary


def _corrupted(
    config: Config, data: Dataset, trained: Trained, key: jax.Array
) -> dict[str, Any]:
    """What the training images were corrupted by, and scores on such test images."""
    if data.corruption is None:
        return {}
    weights, masks = trained.progress.state.weights, trained.progress.masks
    name, severity, images = data.corruption
    found = _predict(trained.network, weights, masks, images, config, key)
    sampled = has_samples(trained.network, weights)
    return {
        "train_corruption": name,
        "train_severity": severity,
        "test_corrupted": scores(found, sampled, data.test_labels),
    }


def _predict(network, weights, masks, images, config: Config, key) -> Prediction:
    backend = backend_for(masks, config.training.backend)
    return predict(
        network,
        weights,
        masks,
        images,
        num_samples=config.run.samples,
        backend=backend,
        key=key,
        average=config.run.average,
    )


def _arrays(prediction: Prediction, sampled: bool) -> dict[str, np.ndarray]:
    """What there is of a prediction: without samples or members one set only."""
    if not sampled:
        return {"mean_probs": prediction.mean_probs}
    arrays = prediction._asdict()
    if len(prediction.member_probs) == 1:  # the mean network once more
        del arrays["member_probs"]
    return arrays


def scores(
    prediction: Prediction, sampled: bool, labels: np.ndarray
) -> dict[str, dict[str, float]]:
    """Metrics of the average (`mc`; only if `sampled`) and of the mean network.

    Of two classes, AUROC and AUPRC of the second one as well. The mutual information
    is that of averaged probabilities, whatever the run averages.
    """

    def of(probs: np.ndarray, *each: np.ndarray) -> dict[str, float]:
        found = metrics.evaluate(probs, labels, *each)
        return found | detection.of_two_classes(probs, labels)

    mean = {"mean": of(prediction.mean_probs)}
    if not sampled:
        return mean
    each = (
        prediction.sample_entropy,
        prediction.sample_log_odds,
        prediction.mixture_entropy,
    )
    return {"mc": of(prediction.mc_probs, *each)} | mean


def _layer_costs(masks: Masks, layers: list[Layer]) -> list[cost.LayerCost]:
    kept = masks_lib.counts(masks)
    return [
        cost.LayerCost(
            path=layer.path,
            size=int(np.prod(layer.shape)),
            kept=kept.get(layer.path, int(np.prod(layer.shape))),
            positions=layer.positions,
        )
        for layer in layers
    ]


def sizes(
    progress: Progress, layers: list[Layer], *, dense_first: bool = False
) -> dict[str, Any]:
    """Weights and bytes, counted from the masks and from the arrays themselves.

    With `dense_first` the training state is the largest one, that before the pruning.
    """
    masks, state = progress.masks, progress.state
    ledger = _layer_costs(masks, layers)
    kept, total = (sum(getattr(c, n) for c in ledger) for n in ("kept", "size"))
    packed = (state.posterior, masks_lib.to_subspace(masks).index)
    whole = state._replace(key=jax.random.key_data(state.key))
    state_bytes = cost.tree_bytes((whole, packed[1]))
    optimizer = zip(jax.tree.leaves(state.opt_state), state.traits.starts, strict=True)
    moments = [leaf for leaf, start in optimizer if start is not None]
    packed_bytes = cost.tree_bytes((*packed, moments))
    rest_bytes = state_bytes - packed_bytes
    if dense_first:  # the same bytes a weight, of every weight
        state_bytes = rest_bytes + packed_bytes * total // kept
    if not masks:  # kernels are ordinary parameters with their moments
        rest_bytes -= (1 + NUM_MOMENTS) * 4 * sum(layer.size for layer in ledger)
    sparsity = masks_lib.sparsity(masks)
    prunable = masks_lib.sparsity(masks, prunable_only=True)
    return {
        "sparsity": sparsity,
        "sparsity_prunable": prunable if sparsity else None,
        "weights_total": total,
        "weights_kept": kept,
        "state_bytes": state_bytes,
        "state_bytes_dense_vi": cost.dense_vi_state_bytes(
            ledger, num_moments=NUM_MOMENTS, rest_bytes=rest_bytes
        ),
        "mask_bits": cost.mask_bits(ledger) if masks else 0,
        "layers": [
            {
                "path": layer.path,
                "shape": list(source.shape),
                "size": layer.size,
                "kept": layer.kept,
                "density": layer.kept / layer.size,
            }
            for layer, source in zip(ledger, layers, strict=True)
        ],
    }


def costs(config: Config, trained: Trained) -> dict[str, float]:
    """FLOPs that the kept weights cost, beside dense VI (see `flops`)."""
    masks, algorithm = trained.progress.masks, trained.algorithm
    weights = trained.progress.state.weights
    passes = num_passes(trained.network, weights, config.run.samples)
    return cost.flops_summary(
        _layer_costs(masks, trained.problem.layers),
        dense_part=algorithm.prune_step / trained.problem.total_steps,
        batch_size=trained.problem.batch_size,
        # The layers of an ensemble are those of all members.
        num_samples=passes // (trained.network.spec.copies or 1),
        estimator=algorithm.estimator,
        draws=algorithm.draws,
        times_seen=algorithm.times_seen,
        growth=algorithm.growth,
    )


def snr_histogram(weights: Weights) -> dict[str, list] | None:
    """Histogram of log10(abs(mean)/sigma) of all kept weights; None without noise."""
    parts = [
        np.abs(np.asarray(packed.mean, np.float64))
        / np.logaddexp(0.0, np.asarray(packed.rho))
        for packed in weights.posterior.values()
        if isinstance(packed, Gaussian)
    ]
    if not parts:
        return None
    logs = np.log10(np.maximum(np.concatenate(parts), 1e-6))
    counts, edges = np.histogram(logs, bins=60)
    return {"edges_log10": edges.tolist(), "counts": counts.tolist()}


def write_model(path: Path, config: Config, trained: Trained) -> dict[str, Any]:
    """Writes model.ssvi in half precision; returns sizes, single precision's too."""
    weights, masks = trained.progress.state.weights, trained.progress.masks
    rest = cost.tree_bytes((weights.params, weights.model_state))
    kernels = sum(int(np.prod(layer.shape)) for layer in trained.problem.layers)
    dense_vi = 2 * 4 * kernels + rest - (0 if masks else 4 * kernels)
    # No paths: the same run gives the same file wherever its folder is.
    run = {k: v for k, v in config.as_dict().items() if k not in NOT_COMPARED}
    described = dataclasses.asdict(trained.network.spec)
    # The one that stays is in half precision; the other is written to be measured.
    graph = trace_graph.for_file(
        trained.network,
        weights,
        masks,
        trace_graph.inputs_of(described),
        half=True,
        classes=True,
    )
    sizes = {}
    for name, half in (("bytes_single", False), ("bytes", True)):
        artifact.save(
            path,
            weights,
            masks,
            config=described,
            half=half,
            graph=graph,
            metadata={
                "run": run,
                "step": trained.step,
                "samples": config.run.samples,
            },
        )
        sizes[name] = path.stat().st_size
    return {
        "name": path.name,
        "bytes": sizes["bytes"],
        "bytes_single_precision": sizes["bytes_single"],
        "bytes_dense_vi": dense_vi,
        "times_smaller": dense_vi / sizes["bytes"],
        "times_smaller_single_precision": dense_vi / sizes["bytes_single"],
    }


def compare_model(
    path: Path, config: Config, data: Dataset, test: Prediction, key: jax.Array
) -> dict[str, float]:
    """How far predictions from the model file are from those of the checkpoint."""
    network, weights, masks = network_lib.load(path)
    again = _predict(network, weights, masks, data.test_images, config, key)
    found = {}
    for kind in ("mc", "mean") if has_samples(network, weights) else ("mean",):
        ours, theirs = (getattr(p, f"{kind}_probs") for p in (again, test))
        found[f"max_probability_difference_{kind}"] = float(np.abs(ours - theirs).max())
        found[f"accuracy_difference_{kind}"] = metrics.accuracy(
            ours, data.test_labels
        ) - metrics.accuracy(theirs, data.test_labels)
    return found
