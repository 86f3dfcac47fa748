"""Consensus optimisation against its matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Game, Pair
from gan_jax.rules.consensus import consensus
from tests.rules.quadratics import BILINEAR, KEY, SHAPES, field, modulus, place, plain, random, spread, start, step

seeds = st.integers(0, 2**31 - 1)
rates = st.tuples(st.floats(0, 1), st.floats(0, 1))
weights = st.floats(0, 3)


@given(seeds, rates, weights, st.sampled_from(SHAPES))
def test_a_step_is_its_matrix(seed, rates, weight, shape):
    quadratic, w = random(seed, shape), place(seed, shape)
    v, jacobian = field(quadratic, shape, w)
    moved = step(consensus, shape, rates, quadratic, w, (weight,))
    np.testing.assert_allclose(moved, w - spread(rates, shape) * (v + weight * jacobian.T @ v), atol=1e-10)


def test_the_adjustment_is_the_slope_of_half_the_squared_gradient_where_it_is_not_quadratic():
    # f = x²y and g = −xy²: v = (2xy, −2xy), ½‖v‖² = 4x²y².
    losses = Pair(
        lambda params, stats, key, batch: (params.generator[0] ** 2 * params.discriminator[0], (stats, {})),
        lambda params, stats, key, batch: (-params.generator[0] * params.discriminator[0] ** 2, (stats, {})),
    )
    rule, (x, y) = consensus(Pair(0.5, 0.25), 0.125), (1.5, -0.5)
    point, _ = rule.step(Game(losses), KEY, start(rule, jnp.array([x, y]), (1, 1)), {})
    assert point.params.generator == pytest.approx(x - 0.5 * (2 * x * y + 0.125 * 8 * x * y**2))
    assert point.params.discriminator == pytest.approx(y - 0.25 * (-2 * x * y + 0.125 * 8 * x**2 * y))


@pytest.mark.parametrize("s", [0.05, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 4.0])
def test_the_modulus_on_the_bilinear_game(s, weight):
    found = modulus(consensus, (s, s), BILINEAR, (1, 1), (weight,))
    assert found == pytest.approx(np.sqrt((1 - s * weight) ** 2 + s**2), abs=1e-6)
    assert (found < 1) == (s < 2 * weight / (1 + weight**2))


def default(rates):
    return consensus(rates)


@pytest.mark.parametrize(("s", "converges"), [(0.1, True), (0.99, True), (1.01, False)])
def test_by_default_the_unit_bilinear_game_converges_at_rates_below_one(s, converges):
    assert (modulus(default, (s, s), BILINEAR, (1, 1)) < 1) == converges


@given(seeds, rates)
def test_without_a_weight_it_is_simultaneous(seed, rates):
    quadratic, w = random(seed, (2, 3)), place(seed, (2, 3))
    found = step(consensus, (2, 3), rates, quadratic, w, (0.0,))
    np.testing.assert_allclose(found, step(plain, (2, 3), rates, quadratic, w), atol=1e-12)


def test_the_weight_can_be_learnt():
    # d/dweight of x⁺ = x − h(y + weight·x) on the bilinear game.
    def place(weight):
        rule = consensus(Pair(0.2, 0.2), weight)
        point = start(rule, jnp.array([0.7, -0.3]), (1, 1))
        losses = Pair(
            lambda params, stats, key, batch: (jnp.sum(params.generator * params.discriminator), (stats, {})),
            lambda params, stats, key, batch: (-jnp.sum(params.generator * params.discriminator), (stats, {})),
        )
        return rule.step(Game(losses), KEY, point, {})[0].params.generator[0]

    assert jax.grad(place)(1.5) == pytest.approx(-0.2 * 0.7)


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan"), True, "1", np.ones(2)])
def test_a_weight_that_is_no_number_of_at_least_zero_is_refused(weight):
    with pytest.raises(ValueError, match="weight="):
        consensus(Pair(0.1, 0.1), weight)


def test_rates_and_counts_are_checked():
    with pytest.raises(ValueError, match="rate"):
        consensus(Pair(0.1, -0.1))
    with pytest.raises(ValueError, match="rates"):
        consensus(Pair(optax.sgd(0.1), optax.sgd(0.1)))
    with pytest.raises(ValueError, match="lazy=0"):
        consensus(Pair(0.1, 0.1), lazy=0)
