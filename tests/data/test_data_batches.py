import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssvi_jax.core.errors import InputError
from ssvi_jax.data.batches import _epoch_order, batch_indices, place_of, steps_per_epoch

sizes = st.integers(1, 40).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(1, n))
)  # number of examples, batch size
seeds = st.integers(0, 2**32)


@given(sizes, seeds, st.integers(0, 3))
def test_an_epoch_visits_each_example_at_most_once(size, seed, epoch):
    num_examples, batch_size = size
    steps = steps_per_epoch(num_examples, batch_size)
    batches = batch_indices(
        epoch * steps,
        steps,
        num_examples=num_examples,
        batch_size=batch_size,
        seed=seed,
    )
    assert batches.shape == (steps, batch_size)
    assert batches.dtype == np.int32
    visited = batches.ravel()
    assert len(set(visited.tolist())) == len(visited)
    assert visited.min() >= 0
    assert visited.max() < num_examples
    assert num_examples - len(visited) < batch_size


@given(sizes, seeds, st.integers(0, 100), st.integers(0, 20))
def test_random_access_is_sequential_access(size, seed, step, num_steps):
    num_examples, batch_size = size
    fixed = {"num_examples": num_examples, "batch_size": batch_size, "seed": seed}
    together = batch_indices(step, num_steps, **fixed)
    one_by_one = [batch_indices(step + k, 1, **fixed)[0] for k in range(num_steps)]
    assert together.shape == (num_steps, batch_size)
    np.testing.assert_array_equal(
        together, np.reshape(one_by_one, (num_steps, batch_size))
    )


def epoch_order(epoch, seed, num_examples=1000):
    return batch_indices(
        epoch, 1, num_examples=num_examples, batch_size=num_examples, seed=seed
    )[0]


def test_epochs_and_seeds_have_their_own_order():
    orders = [epoch_order(epoch, seed) for epoch in range(4) for seed in range(4)]
    assert len({order.tobytes() for order in orders}) == 16
    assert all(np.array_equal(np.sort(order), np.arange(1000)) for order in orders)
    # Two independent permutations agree in 1 place on average, Poisson distributed.
    agreements = [np.sum(a == b) for i, a in enumerate(orders) for b in orders[i + 1 :]]
    assert max(agreements) < 10
    assert 0.5 < np.mean(agreements) < 1.5


def test_the_order_is_the_same_on_every_machine():
    # Resuming with another NumPy must not change the batches silently.
    order = batch_indices(3, 2, num_examples=10, batch_size=4, seed=7)
    assert order.tolist() == [[1, 9, 7, 0], [1, 8, 7, 0]]


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_batch_larger_than_the_data_is_refused(batch_size):
    with pytest.raises(InputError, match=f"batch_size: got {batch_size}, .* 1 to 10"):
        steps_per_epoch(10, batch_size)
    with pytest.raises(InputError, match="batch_size"):
        batch_indices(0, 1, num_examples=10, batch_size=batch_size, seed=0)


@given(sizes, seeds, st.integers(0, 100), st.data())
def test_one_example_is_where_its_batch_has_it(size, seed, step, data):
    num_examples, batch_size = size
    fixed = {"num_examples": num_examples, "batch_size": batch_size, "seed": seed}
    column = data.draw(st.integers(0, batch_size - 1))
    epoch, position = place_of(step, column, **fixed)
    assert position == batch_indices(step, 1, **fixed)[0, column]
    assert epoch == step // steps_per_epoch(num_examples, batch_size)


def test_an_epochs_order_is_shared_and_cannot_be_changed():
    order = _epoch_order(0, 9, 0)
    assert _epoch_order(0, 9, 0) is order
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 1
