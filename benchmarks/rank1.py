"""Times rank-1 and BatchEnsemble side by side with one deterministic network.

    python benchmarks/rank1.py --out results/benchmarks/rank1.json

Training steps are at the same total batch: the members share it (`split`), or a quarter
of the images goes to each of them (`tile`, for the mixture bound). A prediction of K
members is K forward passes. The contestants take turns, and ratios are of medians.

    deterministic   a dense network in the library's inner loop; one forward pass
    rank1           K members with Gaussian factors
    rank1_tile      the same, every image to every member
    batch_ensemble  K members with deterministic factors
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from train_step import Contestant, measure, summarize, timed

from ssvi_jax import vi
from ssvi_jax.io import run_log
from ssvi_jax.methods.algorithms.member_batches import MemberBound, Tiled
from ssvi_jax.methods.algorithms.sgd import sgd
from ssvi_jax.networks import adapters, models
from ssvi_jax.networks.rank1_factors import Rank1, Rank1Spec
from ssvi_jax.networks.rank1_priors import FastPrior
from ssvi_jax.vi import predictive
from ssvi_jax.vi.likelihoods import Categorical

REFERENCE = "deterministic"


class Training:
    """The library's own inner loop and prediction of one kind of network.

    Args:
      name: a name of the module's list.
      batch_size: images a step, of all members together.
      members: K.
      width: factor on ResNet-18's widths.
      steps: steps a call.
    """

    def __init__(
        self, name: str, batch_size: int, members: int, width: float, steps: int
    ):
        tile = name == "rank1_tile"
        distinct = batch_size // members if tile else batch_size
        rng = np.random.default_rng(0)
        self.images = rng.normal(size=(batch_size, 32, 32, 3)).astype(np.float32)
        labels = jnp.asarray(rng.integers(0, 10, batch_size), jnp.int32)
        self._data = (jnp.asarray(self.images), labels)
        self._steps = steps
        rows = np.arange(steps * distinct).reshape(steps, distinct) % batch_size
        self._rows = rows.astype(np.int32)
        network, params, model_state = adapters.from_flax(
            models.build("resnet18", num_classes=10, width=width),
            self.images[:1],
            key=jax.random.key(0),
        )
        options = {}
        if name != REFERENCE:
            kind = "point" if name == "batch_ensemble" else "gaussian"
            network = Rank1(network, Rank1Spec(members, kind))  # type: ignore[arg-type]
            example = jnp.asarray(self.images[:1])
            params = network.add(params, model_state, example, jax.random.key(1))
            options["params_kl"] = partial(network.kl, FastPrior())
        if tile:
            options["likelihood"] = MemberBound(Categorical(), "average")
        self.network = network
        self._inference = vi.VI(
            Tiled(network, members) if tile else network,
            sgd(1e-3, fast_learning_rate=1e-3),
            num_data=50_000,
            is_bayesian=lambda path, leaf: False,
            **options,
        )
        self.state = self._inference.init(
            jax.random.key(2), params, model_state, masks={}
        )

    def __call__(self) -> float:
        """Some steps; seconds a step."""
        start = time.perf_counter()
        self.state, metrics = self._inference.inner_loop(
            self.state, {}, self._data, self._rows
        )
        loss = np.asarray(metrics["loss"])
        seconds = time.perf_counter() - start
        if not np.isfinite(loss).all():
            raise FloatingPointError(f"the loss is {loss}: the times mean nothing")
        return seconds / self._steps

    def prediction(self) -> Contestant:
        """The batch by every member at its mean; a drawn member costs the same."""

        def call():  # training goes on meanwhile and donates its old weights
            weights = self.state.weights
            return predictive.predict_mean(self.network, weights, {}, self.images)

        return timed(call, 1)


def main() -> None:
    """Parses the command line, measures, prints, writes."""
    parser = argparse.ArgumentParser(description="K members beside one network")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--width", type=float, default=1.0, help="of ResNet-18")
    parser.add_argument("--repeats", type=int, default=7, help="turns that count")
    parser.add_argument("--steps", type=int, default=2, help="steps a turn")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    names = (REFERENCE, "rank1", "rank1_tile", "batch_ensemble")
    found = {
        name: Training(name, args.batch_size, args.members, args.width, args.steps)
        for name in names
    }
    results = {}
    for title, contestants in (
        ("one training step", dict(found)),
        (
            f"one prediction of {args.members} members",
            {name: found[name].prediction() for name in names if name != "rank1_tile"},
        ),
    ):
        seconds = measure(contestants, args.repeats)
        results[title] = summarize(title, args.batch_size, seconds, REFERENCE)
    report = {
        **run_log.environment(),
        "members": args.members,
        "width": args.width,
        "steps_per_turn": args.steps,
        "results": results,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
