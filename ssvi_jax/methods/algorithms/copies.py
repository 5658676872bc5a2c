"""K networks trained in one run, each with everything of its own.

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

from ssvi_jax.core.errors import InputError
from ssvi_jax.core.types import Data, Masks, Subspace
from ssvi_jax.methods import groups
from ssvi_jax.methods.algorithms.dense import Dense
from ssvi_jax.methods.algorithms.swapping import Swapping
from ssvi_jax.methods.problem import Problem
from ssvi_jax.metrics.cost import Growth
from ssvi_jax.networks import members
from ssvi_jax.vi import VI, State
from ssvi_jax.vi import masks as masks_lib

Base = Dense | Swapping

_ORDER_STREAM = 2  # separates the order of members' data from the seed's other streams


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """See the module; a `problem.Algorithm`.

    The arrays of state and masks have a first axis of K, as `members` says; the step is
    that of all.

    Attributes:
      problem: what it was built on: all members' initial parameters.
      base: the algorithm of one member.
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
        build_base: Callable[[Problem], Base],
        settings: groups.Copies,
        problem: Problem,
    ) -> Self:
        """An ensemble of whatever `build_base` builds.

        Raises:
          InputError: more members at once than there are, data that is streamed, or
            what `build_base` raises.
        """
        number, at_once = settings.members, settings.members_at_once
        if at_once > number:
            raise InputError(
                f"members_at_once: got {at_once}, allowed: 0 to {number}, the number "
                "of members."
            )
        if problem.execution.streamed:
            raise InputError(
                "method: got an ensemble with data that is streamed, allowed: any "
                "other; each of its networks has an order of its own, and streamed "
                "data come in one. Train with several seeds."
            )
        on_cpu = jax.default_backend() == "cpu"
        base = build_base(_of_member(problem, 0))
        orders = [np.arange(problem.num_data)]
        for k in range(1, number):
            seed = np.random.SeedSequence(problem.seed, spawn_key=(_ORDER_STREAM, 0, k))
            orders.append(np.random.default_rng(seed).permutation(problem.num_data))
        at_once = at_once or (1 if on_cpu else number)
        return cls(problem, base, np.stack(orders).astype(np.int32), at_once)

    @property
    def estimator(self) -> str:
        """That of the members."""
        return self.base.estimator

    @property
    def draws(self) -> int:
        """Those of a member."""
        return self.base.draws

    @property
    def times_seen(self) -> int:
        """That of the members."""
        return self.base.times_seen

    @property
    def prune_step(self) -> int:
        """That of the members."""
        return self.base.prune_step

    @property
    def growth(self) -> Growth | None:
        """That of the members."""
        return self.base.growth

    @property
    def number(self) -> int:
        """K."""
        return len(self.orders)

    def rngs(self, rng: np.random.Generator) -> list[np.random.Generator]:
        """Random numbers for each member; the first member's are the run's."""
        return [rng, *rng.spawn(self.number - 1)]

    def init(self, key: jax.Array, rng: np.random.Generator) -> tuple[State, Masks]:
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
        self, state: State, masks: Masks, data: Data, batch_index: np.ndarray
    ) -> tuple[State, dict[str, jax.Array]]:
        """One phase of every member; what is logged are means over members."""
        subspace = masks_lib.to_subspace(masks, state.posterior)
        inference = self.base.inference
        rows = self.orders[:, batch_index]
        operands = inference.execution.placed(state, subspace, data, rows)
        found = _steps(inference, self.number, self.at_once, *operands)
        return inference.execution.local(found)

    def num_growth_batches(self, step: int) -> int:
        """What the members' method needs."""
        return self.base.num_growth_batches(step)

    def swap(
        self,
        state: State,
        masks: Masks,
        data: Data,
        batch_index: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[State, Masks, dict[str, float]]:
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

    def member(self, state: State, k: int) -> State:
        """The state of one member, as its method knows it."""
        return _taken(state, k, self.number)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _steps(
    inference: VI,
    number: int,
    at_once: int,
    state: State,
    subspace: Subspace,
    data: Data,
    batch_index: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """A phase of K members, on rows ``[K, M, batch]``."""

    def of_all(state, subspace, data, batch_index):
        def of_one(member):
            state, subspace, rows = member
            return inference.steps(state, subspace, data, rows)

        each = _apart(state, number), members.each(subspace, number)
        size = at_once if at_once > 1 else None
        state, traces = jax.lax.map(of_one, (*each, batch_index), batch_size=size)
        return _together(state), jax.tree.map(lambda t: jnp.mean(t, axis=0), traces)

    steps = inference.execution.over_devices(of_all)
    return steps(state, subspace, data, batch_index)


def _of_member(problem: Problem, k: int) -> Problem:
    params, model_state = jax.tree.map(
        lambda leaf: leaf[k], (problem.params, problem.model_state)
    )
    layers = [layer._replace(shape=layer.shape[1:]) for layer in problem.layers]
    return dataclasses.replace(
        problem, params=params, model_state=model_state, layers=layers
    )


def _apart(state: State, number: int) -> State:
    """A state of which every array has a first axis of K, the step too."""
    posterior = jax.tree.map(lambda a: a.reshape(number, -1), state.posterior)
    step = jnp.broadcast_to(state.step, (number,))
    return state._replace(posterior=posterior, step=step)


def _together(state: State) -> State:
    """Inverse of `_apart`."""
    posterior = jax.tree.map(lambda a: a.reshape(-1), state.posterior)
    return state._replace(posterior=posterior, step=state.step[0])


@jax.jit
def join(states: Sequence[State]) -> State:
    """The state of an ensemble from those of its members."""
    return _together(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


@partial(jax.jit, static_argnames="number")
def _taken(state: State, k: int, number: int) -> State:
    return jax.tree.map(lambda leaf: leaf[k], _apart(state, number))
