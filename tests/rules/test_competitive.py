"""Competitive gradient descent against the Nash equilibrium of the bilinear game, solved densely."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gan_jax.base import Pair
from gan_jax.rules.competitive import competitive
from tests.rules.quadratics import (
    BILINEAR,
    KEY,
    Quadratic,
    field,
    game,
    modulus,
    place,
    plain,
    random,
    spread,
    start,
    step,
)

seeds = st.integers(0, 2**31 - 1)
SHAPES = [(2, 5), (3, 2)]
rates = st.tuples(st.floats(0, 1), st.floats(0, 1))


def nash(quadratic, shape, rates, w):
    """Solve [[1, ηx Dxy f], [ηy Dyx g, 1]] (Δx, Δy) = −(ηx ∇x f, ηy ∇y g); return the steps and the condition."""
    v, jacobian = field(quadratic, shape, w)
    m = shape[0]
    jacobian[:m, :m] = jacobian[m:, m:] = 0
    eta = spread(rates, shape)
    matrix = np.eye(len(w)) + eta[:, None] * jacobian
    return np.linalg.solve(matrix, -eta * v), np.linalg.cond(matrix)


def few(rates):
    # As many as the smaller player has parameters in these shapes.
    return competitive(rates, iterations=2)


@pytest.mark.slow
@given(seeds, rates, st.sampled_from(SHAPES))
def test_a_step_in_a_general_sum_game_is_the_nash_equilibrium_of_its_bilinear_game(seed, rates, shape):
    quadratic, w = random(seed, shape), place(seed, shape)
    expected, condition = nash(quadratic, shape, rates, w)
    assume(condition < 1e3)
    found = step(few, shape, rates, quadratic, w) - w
    np.testing.assert_allclose(found, expected, atol=1e-10 * condition**2)


@given(seeds, st.tuples(st.floats(0, 30), st.floats(0, 30)), st.sampled_from(SHAPES))
def test_zero_sum_games_have_one_at_any_rates(seed, rates, shape):
    quadratic, w = random(seed, shape, "zero_sum"), place(seed, shape)
    expected, _ = nash(quadratic, shape, rates, w)
    np.testing.assert_allclose(step(few, shape, rates, quadratic, w) - w, expected, atol=1e-8)


@pytest.mark.parametrize("s", [0.1, 0.5, 2.0, 30.0])
def test_the_modulus_on_the_bilinear_game_falls_where_that_of_simultaneous_rises(s):
    assert modulus(few, (s, s), BILINEAR, (1, 1)) == pytest.approx(1 / np.sqrt(1 + s**2), abs=1e-6)
    assert modulus(plain, (s, s), BILINEAR, (1, 1)) == pytest.approx(np.sqrt(1 + s**2), abs=1e-6)


@given(seeds, st.floats(0.01, 1), st.sampled_from([0, 1]))
def test_against_a_player_at_rest_it_is_simultaneous(seed, rate, player):
    quadratic, w = random(seed, (3, 2)), place(seed, (3, 2))
    rates = (rate, 0.0) if player == 0 else (0.0, rate)
    found = step(few, (3, 2), rates, quadratic, w)
    np.testing.assert_allclose(found, step(plain, (3, 2), rates, quadratic, w), atol=1e-12)


def default(rates):
    return competitive(rates)


@pytest.mark.slow
def test_by_default_a_strong_influence_leaves_little_of_the_residual():
    shape, (h, k) = (40, 50), (2.0, 0.5)
    quadratic, w = random(3, shape, "zero_sum"), place(3, shape)
    quadratic = jax.tree.map(
        lambda leaf: leaf * 3 / np.linalg.norm(quadratic.matrices.generator[:40, 40:], 2), quadratic
    )
    found = step(default, shape, (h, k), quadratic, w) - w
    v, jacobian = field(quadratic, shape, w)
    mixed = jacobian[:40, 40:]
    matrix, right = np.eye(40) + h * k * mixed @ mixed.T, v[:40] - k * mixed @ v[40:]
    residual = matrix @ (found[:40] / -h) - right
    assert np.linalg.norm(residual) < 0.003 * np.linalg.norm(right)
    assert np.linalg.norm(residual) > 1e-9 * np.linalg.norm(right), "the system is too easy to tell"
    # The other player answers this step exactly, however far it was solved.
    np.testing.assert_allclose(found[40:], -k * (v[40:] + jacobian[40:, :40] @ found[:40]), atol=1e-12)


@pytest.mark.slow
def test_a_stiff_system_is_solved_in_single_precision():
    # Of condition 5,000, so that its normal equations would leave nothing of float32's seven digits.
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    mixed, right = rotation * [100.0, 3.0, 1.0], np.array([*place(4, (1, 2)), 0, 0, 0])
    matrix = np.block([[np.zeros((3, 3)), mixed], [mixed.T, np.zeros((3, 3))]])
    quadratic = jax.tree.map(jnp.float32, Quadratic(Pair(matrix, -matrix), Pair(right, -right)))
    rule = competitive(Pair(1.0, 1.0), iterations=3)
    point, _ = jax.jit(lambda point: rule.step(game(quadratic), KEY, point, {}))(start(rule, jnp.zeros(6), (3, 3)))
    expected = -np.linalg.solve(np.eye(3) + mixed @ mixed.T, right[:3])
    np.testing.assert_allclose(point.params.generator, expected, atol=1e-3 * np.linalg.norm(expected))


@pytest.mark.slow
def test_it_is_differentiable_in_the_rates():
    # On the bilinear game x⁺ = (x − hy)/(1 + hk).
    x, y, h, k = 0.7, -0.3, 0.4, 0.6

    def moved(h, k):
        rule = few(Pair(h, k))
        return rule.step(game(BILINEAR), KEY, start(rule, jnp.array([x, y]), (1, 1)), {})[0].params.generator[0]

    by_h, by_k = jax.jit(jax.grad(moved, argnums=(0, 1)))(h, k)
    assert by_h == pytest.approx((-y * (1 + h * k) - (x - h * y) * k) / (1 + h * k) ** 2, rel=1e-5)
    assert by_k == pytest.approx(-(x - h * y) * h / (1 + h * k) ** 2, rel=1e-5)


@pytest.mark.parametrize("iterations", [0, -1, 2.0, True])
def test_iterations_that_are_not_whole_and_positive_are_refused(iterations):
    with pytest.raises(ValueError, match="iterations="):
        competitive(Pair(0.1, 0.1), iterations=iterations)


def test_rates_and_counts_are_checked():
    with pytest.raises(ValueError, match="rate"):
        competitive(Pair(0.1, float("inf")))
    with pytest.raises(ValueError, match="rates"):
        competitive(Pair(optax.sgd(0.1), optax.sgd(0.1)))
    with pytest.raises(ValueError, match="lazy=0"):
        competitive(Pair(0.1, 0.1), lazy=0)
