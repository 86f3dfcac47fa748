"""Negative momentum against its companion matrix over (w, w⁻)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Pair
from gan_jax.rules import negative_momentum

seeds = st.integers(0, 2**31 - 1)
rates = st.floats(0, 1, width=32, allow_subnormal=False)
momenta = st.floats(-0.96875, 0, width=32, allow_subnormal=False)


BY_D_STEPS = {
    d_steps: lambda h, k, momentum, d_steps=d_steps: negative_momentum(Pair(h, k), momentum=momentum, d_steps=d_steps)
    for d_steps in (1, 2)
}


def companion(field, pull, momentum, player):
    """One player's heavy-ball move, on (w, w⁻): the other player's half of both is left alone."""
    mine, one = np.diag(player.astype(float)), np.eye(len(field))
    new = one - mine @ pull @ field + momentum * mine
    return np.block([[new, -momentum * mine], [mine, one - mine]])


@pytest.mark.slow
@given(seeds, rates, rates, momenta, st.sampled_from([1, 2]))
def test_steps_on_a_linear_game_are_powers_of_its_companion_matrix(random_game, seed, h, k, momentum, d_steps):
    linear, w = random_game(seed)
    pull = linear.rates(h, k)
    size = linear.sizes[0]
    player = np.arange(len(w)) < size
    descend, ascend = (companion(linear.field, pull, momentum, mine) for mine in (player, ~player))
    matrix = descend @ np.linalg.matrix_power(ascend, d_steps)
    state, expected = np.concatenate([w, w]), []
    for _ in range(3):
        state = matrix @ state
        expected.append(state[: len(w)])
    found = linear.run(BY_D_STEPS[d_steps], (h, k, momentum), w, 3)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("s", [0.05, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("momentum", [0.0, -0.5])
def test_on_the_bilinear_game_only_a_negative_momentum_contracts(bilinear, s, momentum):
    generator = np.array([True, False])
    descend, ascend = (companion(bilinear.field, s * np.eye(2), momentum, mine) for mine in (generator, ~generator))
    modulus = np.abs(np.linalg.eigvals(descend @ ascend)).max()
    assert (modulus < 1 - 1e-4) if momentum else modulus == pytest.approx(1, abs=1e-6)

    rule = negative_momentum(Pair(s, s), momentum=momentum)

    def step(state):
        point = bilinear.start(rule, state[:2])
        # Optax carries the sum of gradients (w⁻ − w)/s.
        traces = bilinear.params((state[2:] - state[:2]) / s)
        optimisers = [
            (mine[0]._replace(trace=trace), *mine[1:])
            for mine, trace in zip(point.rule.optimisers, traces, strict=True)
        ]
        point = point._replace(rule=point.rule._replace(optimisers=Pair(*optimisers)))
        point, _ = rule.step(bilinear.game(), jax.random.key(0), point, {})
        new = jnp.concatenate([point.params.generator["x"], *point.params.discriminator])
        return jnp.concatenate([new, state[:2]])

    with jax.enable_x64(True):
        matrix = np.asarray(jax.jacobian(step)(jnp.zeros(4)))
    assert np.abs(np.linalg.eigvals(matrix)).max() == pytest.approx(modulus, abs=1e-6)


@pytest.mark.parametrize("lazy", [2, 3])
def test_a_lazy_penalty_is_remembered_in_the_moves_that_are_without_it(bilinear, lazy):
    """By hand, on x and y: each carries m = F + βm and moves by −s·m, the discriminator first."""
    penalised = bilinear._replace(penalty=0.5)
    h, k, beta, w = 0.1, 0.2, -0.5, np.array([0.3, -0.7])
    found = penalised.run(
        lambda h, k, beta: negative_momentum(Pair(h, k), momentum=beta, lazy=lazy), (h, k, beta), w, 5
    )
    moves, expected = np.zeros(2), []
    for step in range(5):
        field = bilinear.field + np.diag([0, 0.5 * lazy * (step % lazy == 0)])
        for player, rate in ((1, k), (0, h)):
            moves[player] = field[player] @ w + beta * moves[player]
            w = w - rate * moves[player] * np.eye(2)[player]
        expected.append(w)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_traced_momentum_and_traced_rates_pass(bilinear):
    def end(s, momentum):
        rule = negative_momentum(Pair(s, s), momentum=momentum)
        point = bilinear.start(rule, np.array([0.0, 1.0]))
        for _ in range(2):
            point, _ = rule.step(bilinear.game(), jax.random.key(0), point, {})
        return point.params.generator["x"][0]

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
