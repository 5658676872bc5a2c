"""A made-up evaluation: results.json and examples.npz as experiments leave them.

Logits are drawn so that accuracy falls and uncertainty grows with severity; the scores
are computed from them, so every number is consistent with every other.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from ssvi_jax import metrics
from ssvi_jax.evaluation.shift.report.figures import FIGURES
from ssvi_jax.metrics import corruption_error, detection, selective, temperature
from ssvi_jax.metrics.uncertainty import entropy, logit_disagreement, uncertainty

BENCHMARK = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# Names that no figure must take for a formula, or for anything but a name.
HOSTILE = (
    "<script>alert(1)</script>",
    r"$\frac{broken$ of 5",
    "_hidden",
    "glyphs \u4e2d\u6587\nand a new line, and so long that no legend can hold it "
    "all, whatever it does",
)
LOOKS = ("clean", "gaussian_noise/1", "gaussian_noise/5", "glass_blur/3", "fog/5")
SAMPLES = 5
# How hard each corruption is beside the others, and what each run withstands.
HARDNESS = dict(zip(BENCHMARK, np.tile([1.0, 0.8, 1.2, 0.5, 1.1], 3), strict=True))
RUNS = (("ssvi", 0.95, 4.2), ("ssvi", 0.9, 4.5), ("deterministic", 0.0, 4.8))


@dataclasses.dataclass(frozen=True)
class Fake:
    """What an evaluation has; hashable, so that equal ones are computed once."""

    runs: int = 3
    images: int = 150
    clean_images: int = 1000
    benchmark: tuple[str, ...] = BENCHMARK
    extra: tuple[str, ...] = ("speckle_noise",)
    ood: tuple[str, ...] = ("cifar100", "noise")
    baseline: bool = True
    grey: bool = False
    deterministic_only: bool = False
    names: tuple[str, ...] = ()

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Benchmark and extras."""
        return self.benchmark + self.extra


def write(folder: Path, fake: Fake | None = None, **changes: Any) -> dict[str, Any]:
    """Writes the files of a fake evaluation; returns what results.json holds.

    Args:
      folder: made if need be.
      fake: what it has.
      **changes: top-level entries to set in results.json; None: removed.
    """
    fake = fake or Fake()
    folder.mkdir(parents=True, exist_ok=True)
    results = json.loads(_results(fake))
    results.update(changes)
    results = {key: value for key, value in results.items() if value is not None}
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    arrays: dict[str, Any] = examples(fake)
    np.savez_compressed(folder / "examples.npz", **arrays)
    return results


def blank_figures(patch: pytest.MonkeyPatch) -> None:
    """Replaces every figure of a report by an empty one, which is drawn at once."""
    for name in FIGURES:
        patch.setitem(FIGURES, name, lambda _: Figure(figsize=(10, 4)))


@functools.lru_cache(maxsize=16)
def _results(fake: Fake) -> str:
    runs = [_run(fake, index) for index in range(fake.runs)]
    baseline = runs[-1]["name"] if fake.baseline and fake.runs > 1 else None
    if baseline is not None:
        reference = runs[-1]["networks"][runs[-1]["headline"]]["cells"]
        for run in runs:
            for network in run["networks"].values():
                network["summary"]["mce"] = corruption_error.mce(
                    network["cells"], reference, fake.benchmark
                )
    return json.dumps(_described(fake) | {"baseline": baseline, "runs": runs})


def _described(fake: Fake) -> dict[str, Any]:
    dataset = {"name": "cifar10", "class_names": CLASSES}
    dataset = {"name": "digits"} if fake.grey else dataset
    return {
        "about": {
            "command": "python experiments/corruptions.py --run results/a --samples 5",
            "python": "3.11.7",
            "versions": {"ssvi_jax": "0.1.0", "jax": "0.10.2", "numpy": "2.4.6"},
            "platform": "cpu",
            "device": "cpu",
            "processor": "A Processor",
            "num_cores": 2,
            "git_commit": "0123456789abcdef+changes",
            "evaluation_seconds": 321.5,
            "date": "2026-01-31",
        },
        "dataset": {
            **dataset,
            "source": "made up for the tests, and no image set at all",
            "num_classes": len(CLASSES),
            "test_images": fake.clean_images,
        },
        "corruptions": {
            "kind": "generated",
            "source": "made from the test images, seed 0",
            "benchmark": fake.benchmark,
            "extra": fake.extra,
            "severities": [1, 2, 3, 4, 5],
            "images_per_cell": fake.images,
        },
        "ood": [
            {"name": n, "source": f"{n}, made up", "images": 500} for n in fake.ood
        ],
        "samples": SAMPLES,
        "seed": 0,
    }


def _run(fake: Fake, index: int) -> dict[str, Any]:
    method, sparsity, skill = RUNS[(2 if fake.deterministic_only else index) % 3]
    skill -= 0.15 * (index // 3)
    sets = _Sets(fake, skill, sampled=method == "ssvi")
    kinds = ("mc", "mean") if method == "ssvi" else ("mean",)
    percent = f"{100 * sparsity:g} % sparse" if sparsity else "dense"
    names = dict(enumerate(fake.names))
    return {
        "name": names.get(index, f"cifar10-laptop-{index}"),
        "label": names.get(
            index, f"{method}, {percent}" + (f" ({index})" if index > 2 else "")
        ),
        "path": f"results/cifar10-laptop-{index}/model.ssvi",
        "method": method,
        "model": "convnet",
        "seed": 0,
        "sparsity": sparsity,
        "weights_kept": round((1 - sparsity) * 1_164_640),
        "weights_total": 1_164_640,
        "headline": kinds[0],
        "networks": {kind: _network(fake, sets, kind) for kind in kinds},
    }


class _Sets:
    """Predictions of one run by the name of a set.

    Probabilities, what is kept of each sample (entropies, log-odds), labels.
    """

    def __init__(self, fake: Fake, skill: float, sampled: bool):
        self.fake, self.skill, self.sampled = fake, skill, sampled
        self.read = functools.lru_cache(maxsize=None)(self._read)

    def _read(self, name: str, kind: str):
        corruption, _, severity = name.partition("/")
        fake = self.fake
        num = fake.clean_images if name in ("clean", "val") else fake.images
        rng = np.random.default_rng(sum(map(ord, name)))  # the same images for all
        labels = rng.integers(0, len(CLASSES), num)
        hard = float(HARDNESS.get(corruption, 0.9))
        hardness = hard * float(severity) if severity.isdigit() else 0.0
        signal = 0.0 if corruption == "ood" else self.skill * np.exp(-0.25 * hardness)
        logits = rng.normal(size=(num, len(CLASSES))) * 1.4
        logits[np.arange(num), labels] += signal
        spread = (0.4 + 0.15 * hardness + 0.2 * (corruption == "ood")) * (kind == "mc")
        draws = logits + spread * rng.normal(size=(SAMPLES, *logits.shape))
        weights = np.exp((1.3 if kind == "mean" else 1.1) * draws)
        samples = weights / weights.sum(axis=-1, keepdims=True)
        return samples.mean(axis=0), _of_samples(samples), labels

    def pooled(self, names: list[str], kind: str):
        """Several sets as one."""
        parts = [self.read(name, kind) for name in names]
        probs, each, labels = zip(*parts, strict=True)
        return (
            np.concatenate(probs),
            tuple(np.concatenate(e, axis=1) for e in zip(*each, strict=True)),
            np.concatenate(labels),
        )

    def scores(self, name: str, kind: str, scale: float = 1.0) -> dict[str, float]:
        """All metrics of one set."""
        probs, each, labels = self.read(name, kind)
        if scale != 1.0:
            return metrics.evaluate(temperature.apply(probs, scale), labels)
        return metrics.evaluate(probs, labels, *(each if kind == "mc" else ()))


def _of_samples(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entropies and largest log-odds ``[S, n]``."""
    largest = samples.max(axis=-1)
    return entropy(samples), np.log(largest) - np.log1p(-largest)


def _network(fake: Fake, sets: _Sets, kind: str) -> dict[str, Any]:
    probs, _, labels = sets.read("val", kind)
    scale = temperature.fit(probs, labels)
    cells, tempered = (
        {
            name: [sets.scores(f"{name}/{s}", kind, factor) for s in range(1, 6)]
            for name in fake.corruptions
        }
        for factor in (1.0, scale)
    )
    clean, after = sets.scores("clean", kind), sets.scores("clean", kind, scale)
    return {
        "clean": clean,
        "val": sets.scores("val", kind),
        "cells": cells,
        "summary": corruption_error.summarize(clean, cells, fake.benchmark),
        "temperature": {
            "value": scale,
            "val_before": sets.scores("val", kind),
            "val_after": sets.scores("val", kind, scale),
            "clean": after,
            "summary": corruption_error.summarize(after, tempered, fake.benchmark),
        },
        **_rankings(fake, sets, kind),
    }


def _rankings(fake: Fake, sets: _Sets, kind: str) -> dict[str, Any]:
    """Detection, selective prediction, and the curves of both and of reliability."""
    names = {s: [f"{c}/{s}" for c in fake.benchmark] for s in range(1, 6)}
    pools = {
        "clean": ["clean"],
        "shifted": [name for group in names.values() for name in group],
    }
    answers = {}
    for name, members in pools.items():
        probs, _, labels = sets.pooled(members, kind)
        answers[name] = selective.evaluate(probs.max(axis=1), probs.argmax(1) == labels)
    bins = {"clean": ["clean"]} | {f"severity_{s}": names[s] for s in names}
    found = {n: _detection(sets, n, kind) for n in fake.ood}
    return {
        "ood": {n: {k: d[0] for k, d in f.items()} for n, f in found.items()},
        "selective": {
            name: {
                "aurc": a.aurc,
                "excess_aurc": a.excess_aurc,
                "accuracy_at": a.accuracy_at,
            }
            for name, a in answers.items()
        },
        "curves": {
            "reliability": {n: _bins(sets.pooled(m, kind)) for n, m in bins.items()},
            "roc": {n: {k: d[1] for k, d in f.items()} for n, f in found.items()},
            "selective": {
                name: {"coverage": list(a.coverage), "accuracy": list(a.accuracy)}
                for name, a in answers.items()
            },
        },
    }


def _detection(sets: _Sets, name: str, kind: str) -> dict[str, Any]:
    inside, outside = (
        detection.scores(probs, *(each if kind == "mc" else ()))
        for probs, each, _ in (sets.read(n, kind) for n in ("clean", f"ood/{name}"))
    )
    found = {}
    for score in inside:
        fpr, tpr = detection.roc_curve(inside[score], outside[score])
        curve = {"fpr": list(fpr), "tpr": list(tpr)}
        area = detection.detect(inside[score], outside[score])
        found[score] = (area._asdict(), curve)
    return found


def _bins(pool) -> dict[str, list]:
    probs, _, labels = pool
    bins = metrics.reliability(probs, labels)
    filled = bins.count > 0
    return {
        **{
            name: [float(v) if p else None for v, p in zip(values, filled, strict=True)]
            for name, values in (
                ("confidence", bins.confidence),
                ("accuracy", bins.accuracy),
            )
        },
        "count": bins.count.tolist(),
    }


def examples(fake: Fake) -> dict[str, np.ndarray]:
    """What examples.npz holds: blobs under noise, and what each run says of them."""
    rng = np.random.default_rng(5)
    num, size, channels = 5, (8 if fake.grey else 32), (1 if fake.grey else 3)
    looks = [n for n in LOOKS if n.partition("/")[0] in ("clean", *fake.benchmark)]
    looks += [f"ood/{name}" for name in fake.ood[:1]]
    labels = np.tile(np.arange(num)[:, None], (1, len(looks)))
    labels[:, [look.startswith("ood/") for look in looks]] = -1
    grid = np.linspace(-1, 1, size)
    centre = rng.uniform(-0.4, 0.4, (num, 1, 1, 1, channels, 2))
    distance = (grid[:, None, None] - centre[..., 0]) ** 2
    distance = distance + (grid[None, :, None] - centre[..., 1]) ** 2
    noise = np.array([0.05 + 0.1 * m for m in range(len(looks))])[:, None, None, None]
    pixels = np.exp(-3 * distance) + noise * rng.normal(
        size=(num, len(looks), size, size, channels)
    )
    arrays = {
        "images": (255 * pixels.clip(0, 1)).astype(np.uint8),
        "looks": np.array(looks),
        "labels": labels,
    }
    for r in range(fake.runs):
        sharp = 4 / (1 + np.arange(len(looks)))[:, None]
        logits = rng.normal(size=(SAMPLES, num, len(looks), 10))
        logits = logits + sharp * np.eye(10)[labels.clip(0)] * 1.5
        samples = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        flat = uncertainty(samples.reshape(SAMPLES, -1, 10))
        arrays[f"probs_{r}"] = samples.mean(axis=0).astype(np.float32)
        arrays[f"entropy_{r}"] = flat.predictive_entropy.reshape(labels.shape)
        if r % 3 != 2 and not fake.deterministic_only:
            arrays[f"mutual_information_{r}"] = flat.mutual_information.reshape(
                labels.shape
            )
            arrays[f"logit_disagreement_{r}"] = logit_disagreement(
                _of_samples(samples.reshape(SAMPLES, -1, 10))[1]
            ).reshape(labels.shape)
    return arrays
