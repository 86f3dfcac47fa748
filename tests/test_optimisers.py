"""Optimisers whose rates may be trees, against optax's at numbers and by hand at trees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax import optimisers

PARAMS = {"a": jnp.asarray([1.0, -2.0]), "b": {"c": jnp.asarray(0.5), "d": jnp.asarray([3.0])}}
SLOPES = jax.tree.map(lambda x: 3.0 * x - 1.0, PARAMS)
PAIRS = {
    "sgd": (optimisers.sgd, optax.sgd),
    "adam": (
        lambda rate: optimisers.adam(rate, beta1=0.5, beta2=0.9, epsilon_root=1e-8),
        lambda rate: optax.adam(rate, b1=0.5, b2=0.9, eps_root=1e-8),
    ),
}


def steps(optimiser, count=3):
    params, state = PARAMS, optimiser.init(PARAMS)
    for _ in range(count):
        updates, state = optimiser.update(SLOPES, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", PAIRS)
@given(rate=st.floats(0, 1))
def test_at_a_number_they_are_optaxs_and_carry_the_same_state(name, rate):
    ours, theirs = (make(rate) for make in PAIRS[name])
    (moved, state), (wanted, carried) = steps(ours), steps(theirs)
    jax.tree.map(np.testing.assert_array_equal, moved, wanted)
    if name == "adam":  # a checkpoint of one is a checkpoint of the other
        jax.tree.map(np.testing.assert_array_equal, state, carried)


@pytest.mark.parametrize("name", PAIRS)
def test_at_a_tree_each_part_moves_at_its_own_rate(name):
    """A number for the subtree "b", an array for "a"."""
    moved, _ = steps(PAIRS[name][0]({"a": jnp.asarray([0.1, 0.0]), "b": 0.02}))
    fast, slow = (steps(PAIRS[name][1](rate))[0] for rate in (0.1, 0.02))
    np.testing.assert_allclose(moved["a"], [fast["a"][0], PARAMS["a"][1]], rtol=1e-6)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6), moved["b"], slow["b"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimisers.sgd(-0.1), "rate -0.1"),
        (lambda: optimisers.adam(float("nan")), "rate nan"),
        (lambda: optimisers.adam(0.1, beta1=1.0), "beta1=1.0"),
        (lambda: optimisers.adam(0.1, beta2=-0.1), "beta2=-0.1"),
        (lambda: optimisers.adam(0.1, epsilon_root=-1e-8), "epsilon_root=-1e-08"),
    ],
)
def test_what_is_no_rate_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
