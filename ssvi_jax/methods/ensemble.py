"""Ensembles: K networks trained in one run, each with everything of its own.

* ``ensemble``: deterministic networks (Lakshminarayanan et al., "Simple and scalable
  predictive uncertainty estimation using deep ensembles", NIPS 2017, without their
  adversarial examples).
* ``ssvi_ensemble``: SSVI's posteriors, each with its own masks and swaps.

Members differ in their initialization, their noise and the order of their data; the
first is the network that the same seed trains alone. Predictions average over them. A
step costs K times that of one network.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from ssvi_jax import vi
from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Masks, Subspace
from ssvi_jax.methods import deterministic as deterministic_lib
from ssvi_jax.methods import ssvi
from ssvi_jax.methods.base import POSTERIOR, SWAPS, Problem, check_unused
from ssvi_jax.networks import members
from ssvi_jax.training.run_config import Config
from ssvi_jax.vi import masks as masks_lib

Base = deterministic_lib.Deterministic | ssvi.SSVI

_ORDER_STREAM = 2  # separates the order of members' data from the seed's other streams


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """See the module; made by the functions below.

    The arrays of state and masks have a first axis of K, as `members` says; the step is
    that of all.

    Attributes:
      problem: what it was built on: all members' initial parameters.
      base: the method of one member.
      orders: ``[K, num_data]``, the data as each member numbers them.
      at_once: members whose steps are vectorized, 1 to K; the others wait.
    """

    problem: Problem
    base: Base
    orders: np.ndarray
    at_once: int

    @classmethod
    def of(
        cls,
        build_base: Callable[[Config, Problem], Base],
        config: Config,
        problem: Problem,
    ) -> Self:
        """An ensemble of whatever `build_base` builds.

        Raises:
          InputError: more members at once than there are, or what `build_base` raises.
        """
        number, at_once = config.members, config.members_at_once
        if at_once > number:
            raise InputError(
                f"--members-at-once: got {at_once}, allowed: 0 to {number}, the number "
                "of --members."
            )
        on_cpu = jax.default_backend() == "cpu"
        base = build_base(config, _of_member(problem, 0))
        orders = [np.arange(problem.num_data)]
        for k in range(1, number):
            seed = np.random.SeedSequence(config.seed, spawn_key=(_ORDER_STREAM, 0, k))
            orders.append(np.random.default_rng(seed).permutation(problem.num_data))
        at_once = at_once or (1 if on_cpu else number)
        return cls(problem, base, np.stack(orders).astype(np.int32), at_once)

    @property
    def number(self) -> int:
        """K."""
        return len(self.orders)

    def with_inference(self, change: Callable[[vi.VI], vi.VI]) -> Self:
        """See `methods.Method`."""
        return dataclasses.replace(self, base=self.base.with_inference(change))

    def rngs(self, rng: np.random.Generator) -> list[np.random.Generator]:
        """Random numbers for each member; the first member's are the run's."""
        return [rng, *rng.spawn(self.number - 1)]

    def init(self, key: jax.Array, rng: np.random.Generator) -> tuple[vi.State, Masks]:
        """Every member as its method starts it."""
        states, masks = [], []
        keys = members.keys(key, self.number)
        for k, own_rng in enumerate(self.rngs(rng)):
            own = dataclasses.replace(self.base, problem=_of_member(self.problem, k))
            state, mask = own.init(keys[k], own_rng)
            states.append(state)
            masks.append(mask)
        return join(states), members.stack(masks)

    def step(
        self, state: vi.State, masks: Masks, data: vi.Data, batch_index: np.ndarray
    ) -> tuple[vi.State, dict[str, jax.Array]]:
        """One phase of every member; what is logged are means over members."""
        subspace = masks_lib.to_subspace(masks, state.posterior)
        inference = self.base.inference
        rows = self.orders[:, batch_index]
        operands = inference.placed(state, subspace, data, rows)
        return inference.local(self._steps(*operands))

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def _steps(self, state, subspace, data, batch_index):
        steps = self.base.inference.over_devices(self.steps)
        return steps(state, subspace, data, batch_index)

    def steps(
        self, state: vi.State, subspace: Subspace, data: vi.Data, batch_index: jax.Array
    ) -> tuple[vi.State, dict[str, jax.Array]]:
        """What `step` does, on rows ``[K, M, batch]``; to be called inside jit."""

        def steps(member):
            state, subspace, rows = member
            return self.base.inference.steps(state, subspace, data, rows)

        each = _apart(state, self.number), members.each(subspace, self.number)
        size = self.at_once if self.at_once > 1 else None
        state, traces = jax.lax.map(steps, (*each, batch_index), batch_size=size)
        return _together(state), jax.tree.map(lambda t: jnp.mean(t, axis=0), traces)

    def num_growth_batches(self, step: int) -> int:
        """What the members' method needs."""
        return self.base.num_growth_batches(step)

    def swap(
        self,
        state: vi.State,
        masks: Masks,
        data: vi.Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[vi.State, Masks, dict[str, float]]:
        """The swap of every member's own method; logs the swaps of all."""
        rngs, states, new_masks, events = self.rngs(rng), [], [], []
        for k, mask in enumerate(members.unstack(masks, self.number)):
            swapped, mask, event = self.base.swap(
                self.member(state, k), mask, data, self.orders[k][batch_index], rngs[k]
            )
            states.append(swapped)
            new_masks.append(mask)
            events.append(event)
        totals = {
            name: sum(event[name] for event in events)
            for name in events[0]
            if name.startswith("num_")
        }
        event = {**events[0], **totals}
        return join(states), members.stack(new_masks), event

    def member(self, state: vi.State, k: int) -> vi.State:
        """The state of one member, as its method knows it."""
        return _taken(state, k, self.number)


def build(config: Config, problem: Problem) -> Ensemble:
    """Builds a deep ensemble.

    Raises:
      InputError: see `Ensemble.of`, `deterministic.build`; or settings of a posterior
        or of swaps.
    """
    check_unused(config, POSTERIOR, "its members are point estimates")
    check_unused(config, SWAPS, "its members are dense")
    return Ensemble.of(deterministic_lib.build, config, problem)


def build_ssvi(config: Config, problem: Problem) -> Ensemble:
    """Builds an ensemble of SSVI's posteriors.

    Raises:
      InputError: see `Ensemble.of` and `ssvi.build`.
    """
    return Ensemble.of(ssvi.build, config, problem)


def _of_member(problem: Problem, k: int) -> Problem:
    params, model_state = jax.tree.map(
        lambda leaf: leaf[k], (problem.params, problem.model_state)
    )
    layers = [layer._replace(shape=layer.shape[1:]) for layer in problem.layers]
    return problem._replace(params=params, model_state=model_state, layers=layers)


def _apart(state: vi.State, number: int) -> vi.State:
    """A state of which every array has a first axis of K, the step too."""
    posterior = jax.tree.map(lambda a: a.reshape(number, -1), state.posterior)
    step = jnp.broadcast_to(state.step, (number,))
    return state._replace(posterior=posterior, step=step)


def _together(state: vi.State) -> vi.State:
    """Inverse of `_apart`."""
    posterior = jax.tree.map(lambda a: a.reshape(-1), state.posterior)
    return state._replace(posterior=posterior, step=state.step[0])


@jax.jit
def join(states: Sequence[vi.State]) -> vi.State:
    """The state of an ensemble from those of its members."""
    return _together(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


@partial(jax.jit, static_argnames="number")
def _taken(state: vi.State, k: int, number: int) -> vi.State:
    return jax.tree.map(lambda leaf: leaf[k], _apart(state, number))
