"""Optimistic steps against their companion matrix, their recurrence, and Adam from the past written by hand."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Game, Pair, Point
from gan_jax.rules import optimistic
from tests.rules.quadratics import (
    BILINEAR,
    HALF,
    KEY,
    SHAPES,
    adams,
    field,
    game,
    path,
    place,
    random,
    sgd,
    spread,
    start,
)

seeds = st.integers(0, 2**31 - 1)
rates = st.tuples(st.floats(0, 1), st.floats(0, 1))
shapes = st.sampled_from(SHAPES)


def plain(rates):
    return optimistic(sgd(rates))


@pytest.mark.slow
@given(seeds, rates, shapes)
def test_steps_on_a_linear_game_are_powers_of_its_companion_matrix(seed, rates, shape):
    linear, w = random(seed, shape, "linear"), place(seed, shape)
    one, pull, (_, slope) = np.eye(len(w)), np.diag(spread(rates, shape)), field(linear, shape, w)
    # On (w, F): F(ahead) = M (w − H F) is what is carried, and the step is along it.
    companion = np.block([[one - pull @ slope, pull @ slope @ pull], [slope, -slope @ pull]])
    state, expected = np.concatenate([w, np.zeros_like(w)]), []
    for _ in range(3):
        state = companion @ state
        expected.append(state[: len(w)])
    np.testing.assert_allclose(path(plain, shape, rates, linear, w, 3), expected, atol=1e-10)


@pytest.mark.slow
@given(seeds, st.floats(0, 1), shapes)
def test_the_extrapolated_points_obey_the_optimistic_recurrence(seed, s, shape):
    quadratic, w = random(seed, shape), place(seed, shape)
    seen = [w, *path(plain, shape, (s, s), quadratic, w, 5)]
    # With w⁺ = w − s F(ahead): where the gradient was taken is one gradient of the step before further on.
    ahead = [w, *(2 * new - old for old, new in pairwise(seen))]
    slopes = [field(quadratic, shape, at)[0] for at in ahead]
    for now, after, mine, before in zip(ahead[1:], ahead[2:], slopes[1:], slopes, strict=False):
        np.testing.assert_allclose(after, now - s * (2 * mine - before), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("s", "modulus"), [(0.05, 0.998746), (0.1, 0.994936), (0.2, 0.978906), (0.5, 0.707107)])
def test_the_bilinear_table(s, modulus):
    rule = plain((s, s))

    def step(state):
        point = start(rule, state[:2], (1, 1))
        # Past its first step.
        past = {"slopes": Pair(*jnp.split(state[2:], 2)), "count": Pair(jnp.int32(1), jnp.int32(1))}
        point, _ = rule.step(game(BILINEAR), KEY, point._replace(rule=point.rule._replace(**past)), {})
        return jnp.concatenate([*point.params, *point.rule.slopes])

    with jax.enable_x64(True):
        found = np.abs(np.linalg.eigvals(np.asarray(jax.jacobian(step)(jnp.zeros(4))))).max()
    # Roots of z² I − z (I + 2sA) + sA, of the recurrence rather than of the state.
    turn = s * np.array([[0, 1], [-1, 0]])
    recurrence = np.block([[np.eye(2) + 2 * turn, -turn], [np.eye(2), np.zeros((2, 2))]])
    # At s = ½ the root is double: eigenvalues are then known to the square root of the rounding.
    assert found == pytest.approx(np.abs(np.linalg.eigvals(recurrence)).max(), abs=1e-7)
    assert found == pytest.approx(modulus, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "shape"), list(enumerate(SHAPES)))
def test_with_adam_the_moments_see_each_gradient_twice_but_for_the_first_step(seed, shape):
    quadratic, w = random(seed, shape), place(seed, shape)
    settings = Pair((0.1, 0.5, 0.9), (0.03, 0.2, 0.99))
    found = path(lambda each: optimistic(adams(each)), shape, settings, quadratic, w, 4)

    rate, b1, b2 = (spread(each, shape) for each in zip(*settings, strict=True))
    first, second, count = np.zeros_like(w), np.zeros_like(w), 0

    def update(slope):
        nonlocal first, second, count
        count += 1
        first, second = b1 * first + (1 - b1) * slope, b2 * second + (1 - b2) * slope**2
        return -rate * (first / (1 - b1**count)) / (np.sqrt(second / (1 - b2**count)) + 1e-8)

    expected, slope = [], None
    for _ in range(4):
        ahead = w if slope is None else w + update(slope)
        slope, _ = field(quadratic, shape, ahead)
        w = w + update(slope)
        expected.append(w)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_one_evaluation_a_step_gives_the_gradient_the_stats_and_the_metrics():
    seen = []

    def loss(player, scale):
        def value(params, stats, key, batch):
            seen.append((player, tuple(jax.random.key_data(key).tolist()), float(stats.generator)))
            new = jax.tree.map(lambda stat: stat + scale * batch["x"], stats)
            return getattr(params, player) * batch["x"], (new, {player: batch["x"] + stats.generator})

        return value

    game = Game(Pair(loss("generator", 10), loss("discriminator", 100)))
    rule = plain((0.5, 0.5))
    params = Pair(jnp.float32(0), jnp.float32(0))
    point = Point(params, Pair(jnp.float32(1), jnp.float32(1)), rule.init(params))
    for number in (3.0, 7.0):
        point, metrics = rule.step(game, jax.random.key(3), point, {"x": jnp.array([number])})
    assert [(player, stat) for player, _, stat in seen] == [
        ("generator", 1.0),
        ("discriminator", 1.0),
        ("generator", 31.0),
        ("discriminator", 31.0),
    ]
    assert seen[0][1] != seen[1][1]
    assert point.stats == Pair(1.0 + 30.0 + 70.0, 1.0 + 300.0 + 700.0)
    assert metrics == {"generator": 7.0 + 31.0, "discriminator": 7.0 + 31.0}
    assert point.params == Pair(-5.0, -5.0)
    assert point.rule.slopes == Pair(7.0, 7.0)
    assert point.rule.count == Pair(2, 2)


@pytest.mark.parametrize("reuse", [False, True])
def test_players_that_reuse_have_the_discriminators_key_in_the_first_step_and_after(reuse):
    seen = []

    def note(params, stats, key, batch):
        seen.append(tuple(jax.random.key_data(key).tolist()))
        return params.generator + params.discriminator, (stats, {})

    rule = optimistic(sgd((0.1, 0.1)), reuse=reuse)
    params = Pair(jnp.float32(0), jnp.float32(0))
    point = Point(params, Pair({}, {}), rule.init(params))
    for number in (3, 4):
        point, _ = rule.step(Game(Pair(note, note)), jax.random.key(number), point, {"x": jnp.zeros(1)})
    own = [
        [tuple(jax.random.key_data(jax.random.fold_in(jax.random.key(number), index)).tolist()) for index in (0, 1)]
        for number in (3, 4)
    ]
    assert [seen[:2], seen[2:]] == [[keys[1], keys[1]] if reuse else keys for keys in own]


def test_a_lazy_penalty_is_remembered_for_the_next_extrapolation():
    w, slope, pull, expected = np.array([0.3, -0.7]), np.zeros(2), np.diag([0.1, 0.2]), []
    found = path(lambda rates: optimistic(sgd(rates), lazy=2), (1, 1), (0.1, 0.2), BILINEAR, w, 5, penalty=HALF)
    for count in range(5):
        slope = np.array([[0, 1], [-1, 0.5 * 2 * (count % 2 == 0)]]) @ (w - pull @ slope)
        w = w - pull @ slope
        expected.append(w)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.slow
def test_the_past_that_the_first_step_has_not_does_not_spoil_slopes_in_what_adam_is_made_of():
    def end(rate, decay):
        rule = optimistic(Pair(*[optax.adam(rate, b2=decay)] * 2))
        point = start(rule, jnp.ones(2), (1, 1))
        for _ in range(2):
            point, _ = rule.step(game(BILINEAR), KEY, point, {})
        return point.params.discriminator[0]

    with jax.enable_x64(True):
        # An update along zeros, though not chosen, would make the second slope 0 · ∞.
        slopes = jax.jit(jax.grad(end, argnums=(0, 1)))(0.1, 0.9)
        compiled, small = jax.jit(end), 1e-6
        differences = [
            (compiled(0.1 + small, 0.9) - compiled(0.1 - small, 0.9)) / (2 * small),
            (compiled(0.1, 0.9 + small) - compiled(0.1, 0.9 - small)) / (2 * small),
        ]
    np.testing.assert_allclose(slopes, differences, rtol=1e-6)


def test_what_is_no_pair_of_optimisers_or_no_count_is_refused():
    with pytest.raises(ValueError, match="not an optimiser: Pair\\(optax.adam"):
        optimistic(optax.sgd(0.1))
    with pytest.raises(ValueError, match="lazy=0"):
        optimistic(sgd((0.1, 0.1)), lazy=0)
