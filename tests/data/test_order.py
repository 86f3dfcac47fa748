"""Laws of the order of examples: a bijection for each key and size, and an order of its own for each epoch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.data import order

SIZES = (1, 2, 3, 7, 16, 17, 1000)
SEEDS = st.integers(0, 2**32 - 1)


at = jax.jit(order.shuffled, static_argnums=2)


@functools.partial(jax.jit, static_argnums=1)
def whole(key, size):
    return order.shuffled(key, jnp.arange(size), size)


@functools.partial(jax.jit, static_argnums=(2, 3))
def epoch_of(key, epoch, count, size):
    """Return all steps of an epoch, one row each."""
    steps = order.steps_per_epoch(count, size)
    return jax.vmap(lambda step: order.indices(key, step, count, size))(epoch * steps + jnp.arange(steps))


def chi_square(cells, number):
    """Return the statistic and the bound that a uniform sample exceeds once in a million times (Wilson-Hilferty)."""
    counts = np.bincount(cells, minlength=number)
    expected = len(cells) / number
    freedom = number - 1
    bound = freedom * (1 - 2 / (9 * freedom) + 4.75 * np.sqrt(2 / (9 * freedom))) ** 3
    return np.sum((counts - expected) ** 2 / expected), bound


@given(seed=SEEDS, size=st.sampled_from(SIZES))
def test_each_key_permutes_all_positions(seed, size):
    index = np.asarray(whole(jax.random.key(seed), size))
    assert index.dtype == np.int32
    np.testing.assert_array_equal(np.sort(index), np.arange(size))


@given(seed=SEEDS)
def test_positions_are_computed_apart(seed):
    some = np.array([[3, 999], [0, 500]])
    apart = np.asarray(at(jax.random.key(seed), some, 1000))
    np.testing.assert_array_equal(apart, np.asarray(whole(jax.random.key(seed), 1000))[some])


def test_the_order_is_the_same_in_a_vmap_over_keys_and_outside_of_jit():
    keys = jax.random.split(jax.random.key(0), 3)
    apart = [whole(key, 100) for key in keys]
    np.testing.assert_array_equal(jax.vmap(lambda key: whole(key, 100))(keys), apart)
    np.testing.assert_array_equal(order.shuffled(keys[1], jnp.arange(100), 100), apart[1])


def test_positions_count_modulo_the_size():
    key = jax.random.key(7)
    inside = np.asarray(at(key, np.arange(100), 100))
    np.testing.assert_array_equal(at(key, np.arange(-100, 200), 100), np.tile(inside, 3))
    np.testing.assert_array_equal(at(key, np.arange(100, dtype=np.uint8), 1000), at(key, np.arange(100), 1000))


def test_the_largest_size_stays_in_range():
    size = 2**31 - 1
    index = np.asarray(order.shuffled(jax.random.key(0), jnp.arange(size - 1000, size), size))
    assert index.min() >= 0 and index.max() < size and len(set(index.tolist())) == 1000


@pytest.mark.parametrize("position", [0, 1, 6])
def test_each_position_is_uniform_over_keys(position):
    keys = jax.random.split(jax.random.key(1), 7000)
    index = jax.vmap(lambda key: order.shuffled(key, jnp.int32(position), 7))(keys)
    statistic, bound = chi_square(np.asarray(index), 7)
    assert statistic < bound


@pytest.mark.parametrize("size, cells", [(7, 6), (16, 15), (1000, 37)])
def test_the_distance_of_neighbours_is_uniform_over_keys(size, cells):
    keys = jax.random.split(jax.random.key(2), 20000)
    index = np.asarray(jax.vmap(lambda key: order.shuffled(key, jnp.arange(2), size))(keys))
    distance = (index[:, 1] - index[:, 0]) % size - 1  # one of size - 1, a multiple of the number of cells
    statistic, bound = chi_square(distance * cells // (size - 1), cells)
    assert statistic < bound


def test_three_examples_take_all_six_orders_equally_often():
    keys = jax.random.split(jax.random.key(3), 6000)
    orders = np.asarray(jax.vmap(lambda key: whole(key, 3))(keys))
    ranks = np.unique(orders, axis=0, return_inverse=True)[1].ravel()
    statistic, bound = chi_square(ranks, 6)
    assert statistic < bound


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 1025])
def test_the_number_of_fixed_points_is_one_on_average(size):
    keys = jax.random.split(jax.random.key(4), 2000)
    fixed = jax.vmap(lambda key: jnp.sum(whole(key, size) == jnp.arange(size)))(keys)
    assert abs(np.mean(np.asarray(fixed)) - 1) < 5 / np.sqrt(2000)  # Poisson with mean and variance 1


@pytest.mark.slow
@given(seed=SEEDS, epoch=st.integers(0, 1000), shape=st.sampled_from([(7, 7), (3, 10), (64, 1000)]))
def test_an_epoch_visits_each_example_at_most_once(seed, epoch, shape):
    count, size = shape
    seen = np.asarray(epoch_of(jax.random.key(seed), epoch, count, size))
    assert seen.shape == (size // count, count)
    assert len(set(seen.ravel().tolist())) == seen.size
    assert seen.min() >= 0 and seen.max() < size


def test_epochs_and_seeds_have_orders_of_their_own_and_leave_out_others():
    key, other = jax.random.split(jax.random.key(5))
    epochs = [(key, 0), (key, 1), (other, 0)]
    first, second, third = (np.asarray(epoch_of(*epoch, 30, 100)) for epoch in epochs)
    for elsewhere in (second, third):
        assert np.mean(first == elsewhere) < 0.2
        assert set(first.ravel().tolist()) != set(elsewhere.ravel().tolist())


@pytest.mark.slow
def test_a_step_is_a_function_of_key_and_step_alone():
    key = jax.random.key(6)
    one = functools.partial(order.indices, count=4, size=10)
    in_scan = jax.lax.scan(lambda _, step: (None, one(key, step)), None, jnp.arange(5))[1]
    np.testing.assert_array_equal(in_scan, [one(key, step) for step in range(5)])


@pytest.mark.parametrize("count, size", [(0, 10), (-1, 10), (11, 10), (1, 0)])
def test_a_batch_that_the_set_cannot_fill_is_refused(count, size):
    with pytest.raises(ValueError, match=f"draws {count} of {size} examples"):
        order.indices(jax.random.key(0), 0, count, size)


@pytest.mark.parametrize("size", [0, -3, 2**31])
def test_a_size_without_an_order_is_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        order.shuffled(jax.random.key(0), jnp.arange(1), size)
