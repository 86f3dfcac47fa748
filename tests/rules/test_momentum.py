"""Negative momentum against its companion matrix over (w, w⁻)."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Pair
from gan_jax.rules import negative_momentum
from tests.rules.quadratics import BILINEAR, HALF, KEY, SHAPES, field, game, path, place, random, spread, start

seeds = st.integers(0, 2**31 - 1)
rates = st.tuples(st.floats(0, 1), st.floats(0, 1))
momenta = st.floats(-0.96875, 0)


@cache
def heavy_ball(d_steps):
    return lambda rates, momentum: negative_momentum(rates, momentum=momentum, d_steps=d_steps)


def companion(field, pull, momentum, player):
    """One player's heavy-ball move, on (w, w⁻): the other player's half of both is left alone."""
    mine, one = np.diag(player.astype(float)), np.eye(len(field))
    new = one - mine @ pull @ field + momentum * mine
    return np.block([[new, -momentum * mine], [mine, one - mine]])


@pytest.mark.slow
@given(seeds, rates, momenta, st.sampled_from([1, 2]), st.sampled_from(SHAPES))
def test_steps_on_a_linear_game_are_powers_of_its_companion_matrix(seed, rates, momentum, d_steps, shape):
    linear, w = random(seed, shape, "linear"), place(seed, shape)
    pull, (_, slope) = np.diag(spread(rates, shape)), field(linear, shape, w)
    generator = np.arange(len(w)) < shape[0]
    descend, ascend = (companion(slope, pull, momentum, mine) for mine in (generator, ~generator))
    matrix = descend @ np.linalg.matrix_power(ascend, d_steps)
    state, expected = np.concatenate([w, w]), []
    for _ in range(3):
        state = matrix @ state
        expected.append(state[: len(w)])
    found = path(heavy_ball(d_steps), shape, rates, linear, w, 3, (momentum,))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("s", [0.05, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("momentum", [0.0, -0.5])
def test_on_the_bilinear_game_only_a_negative_momentum_contracts(s, momentum):
    generator, turn = np.array([True, False]), np.array([[0, 1], [-1, 0]])
    descend, ascend = (companion(turn, s * np.eye(2), momentum, mine) for mine in (generator, ~generator))
    modulus = np.abs(np.linalg.eigvals(descend @ ascend)).max()
    assert (modulus < 1 - 1e-4) if momentum else modulus == pytest.approx(1, abs=1e-6)

    rule = negative_momentum(Pair(s, s), momentum=momentum)

    def step(state):
        point = start(rule, state[:2], (1, 1))
        # Optax carries the sum of gradients (w⁻ − w)/s.
        traces = jnp.split((state[2:] - state[:2]) / s, 2)
        optimisers = [
            (mine[0]._replace(trace=trace), *mine[1:])
            for mine, trace in zip(point.rule.optimisers, traces, strict=True)
        ]
        point = point._replace(rule=point.rule._replace(optimisers=Pair(*optimisers)))
        point, _ = rule.step(game(BILINEAR), KEY, point, {})
        return jnp.concatenate([*point.params, state[:2]])

    with jax.enable_x64(True):
        matrix = np.asarray(jax.jacobian(step)(jnp.zeros(4)))
    assert np.abs(np.linalg.eigvals(matrix)).max() == pytest.approx(modulus, abs=1e-6)


@pytest.mark.parametrize("lazy", [2, 3])
def test_a_lazy_penalty_is_remembered_in_the_moves_that_are_without_it(lazy):
    """By hand, on x and y: each carries m = F + βm and moves by −s·m, the discriminator first."""
    h, k, beta, w = 0.1, 0.2, -0.5, np.array([0.3, -0.7])
    found = path(
        lambda rates: negative_momentum(rates, momentum=beta, lazy=lazy), (1, 1), (h, k), BILINEAR, w, 5, penalty=HALF
    )
    moves, expected = np.zeros(2), []
    for count in range(5):
        slope = np.array([[0, 1], [-1, 0.5 * lazy * (count % lazy == 0)]])
        for player, rate in ((1, k), (0, h)):
            moves[player] = slope[player] @ w + beta * moves[player]
            w = w - rate * moves[player] * np.eye(2)[player]
        expected.append(w)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_traced_momentum_and_traced_rates_pass():
    def end(s, momentum):
        rule = negative_momentum(Pair(s, s), momentum=momentum)
        point = start(rule, jnp.array([0.0, 1.0]), (1, 1))
        for _ in range(2):
            point, _ = rule.step(game(BILINEAR), KEY, point, {})
        return point.params.generator[0]

    with jax.enable_x64(True):
        slopes = jax.jit(jax.grad(end, argnums=(0, 1)))(0.1, -0.5)
    # x₁ = −s y₀, y₁ = y₀ = 1 (the first ascent is from x₀ = 0), y₂ = 1 − s²; x₂ = x₁ − s y₂ + β x₁.
    np.testing.assert_allclose(slopes, [-2 + 3 * 0.1**2 + 0.5, -0.1], atol=1e-12)


@pytest.mark.parametrize("momentum", [0.1, -1, -1.0, -2, float("nan"), "-0.5", None])
def test_a_momentum_that_is_not_negative_or_not_above_minus_one_is_refused(momentum):
    with pytest.raises(ValueError, match=r"momentum=.* is not a number in \(-1, 0\]"):
        negative_momentum(Pair(0.1, 0.1), momentum=momentum)


@pytest.mark.parametrize("arguments", [{"d_steps": 0}, {"lazy": 0}])
def test_counts_that_are_not_whole_and_positive_are_refused(arguments):
    with pytest.raises(ValueError, match="is not a whole number of at least 1"):
        negative_momentum(Pair(0.1, 0.1), **arguments)
