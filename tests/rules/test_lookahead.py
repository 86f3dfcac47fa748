"""Lookahead over any rule: a round on a linear game is (1 − weight) I + weight M^every."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Game, Pair, Point
from gan_jax.rules import RULES, alternating, lookahead, lookahead_minmax, simultaneous
from tests.rules.quadratics import BILINEAR, KEY, SHAPES, field, game, path, place, random, sgd, spread, start

seeds = st.integers(0, 2**31 - 1)
rates = st.tuples(st.floats(0, 1), st.floats(0, 1))
weights = st.floats(0.03125, 1)
shapes = st.sampled_from(SHAPES)
W = np.array([0.3, -0.7])


@cache
def over(inner, every):
    """One function for all examples: the games of a shape share a compilation."""
    return lambda rates, weight: lookahead(inner(sgd(rates)), every=every, weight=weight)


@pytest.mark.slow
@given(seeds, rates, st.sampled_from([1, 3]), weights, shapes)
def test_a_round_on_a_linear_game_is_its_matrix_and_the_next_begins_there(seed, rates, every, weight, shape):
    linear, w = random(seed, shape, "linear"), place(seed, shape)
    found = path(over(simultaneous, every), shape, rates, linear, w, 2 * every, (weight,))
    matrix = np.eye(len(w)) - np.diag(spread(rates, shape)) @ field(linear, shape, w)[1]
    expected = []
    for _ in range(2):
        fast = [np.linalg.matrix_power(matrix, n + 1) @ w for n in range(every)]
        w = (1 - weight) * w + weight * fast[-1]
        expected += [*fast[:-1], w]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("s", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("inner", [simultaneous, alternating])
def test_on_the_bilinear_game_it_contracts_what_circles_or_leaves(inner, s):
    every, weight = 6, 0.5
    columns = [path(over(inner, every), (1, 1), (s, s), BILINEAR, e, every, (weight,))[-1] for e in np.eye(2)]
    # Both modulus and angle of the inner step are known: simultaneous 1 + is, alternating on the unit circle.
    step = 1 + 1j * s if inner is simultaneous else 1 - s**2 / 2 + 1j * s * np.sqrt(1 - s**2 / 4)
    modulus = abs(1 - weight + weight * step**every)
    assert np.abs(np.linalg.eigvals(np.array(columns).T)).max() == pytest.approx(modulus, abs=1e-6)
    assert modulus < 1 - 1e-3 < abs(step)


def nested(rates):
    return lookahead(lookahead(simultaneous(sgd(rates)), every=2, weight=0.5), every=4, weight=0.25)


@pytest.mark.slow
@given(seeds, rates, shapes)
def test_rounds_nest(seed, rates, shape):
    linear, w = random(seed, shape, "linear"), place(seed, shape)
    one = np.eye(len(w))
    matrix = one - np.diag(spread(rates, shape)) @ field(linear, shape, w)[1]
    short = 0.5 * one + 0.5 * matrix @ matrix
    expected = (0.75 * one + 0.25 * short @ short) @ w
    np.testing.assert_allclose(path(nested, shape, rates, linear, w, 4)[-1], expected, rtol=1e-10, atol=1e-10)


def with_batches():
    """Slopes are the batch's number; stats sum what they saw."""

    def loss(player, scale):
        def value(params, stats, key, batch):
            new = jax.tree.map(lambda stat: stat + scale * batch["x"], stats)
            return getattr(params, player) * batch["x"], (new, {player: getattr(params, player)})

        return value

    return Game(Pair(loss("generator", 10), loss("discriminator", 100)))


def test_batches_stats_metrics_and_moments_are_those_of_the_inner_rule():
    optimisers = Pair(optax.sgd(1.0), optax.sgd(1.0, momentum=0.5))
    rule = lookahead(alternating(optimisers, d_steps=2), every=1, weight=0.5)
    assert rule.batches == 2
    params = Pair(jnp.float32(0), jnp.float32(0))
    point = Point(params, Pair(jnp.float32(0), jnp.float32(0)), rule.init(params))
    point, _ = rule.step(with_batches(), jax.random.key(0), point, {"x": jnp.array([1.0, 2.0])})
    # The discriminator: −1, then −2 − ½; half of it is kept, but all of its momentum.
    assert point.params == Pair(-1.0, -1.75)
    assert point.stats == Pair(20.0, 300.0)
    assert point.rule.inner.optimisers.discriminator[0].trace == 2.5
    assert (point.rule.inner.count, point.rule.count) == (Pair(1, 2), 1)
    _, metrics = rule.step(with_batches(), jax.random.key(0), point, {"x": jnp.array([1.0, 2.0])})
    assert metrics == {"generator": -1.0, "discriminator": -1.75 - 1.0 - 1.25}
    with pytest.raises(AssertionError, match="prefix"):
        rule.step(with_batches(), jax.random.key(0), point, {"x": jnp.ones(1)})


def test_the_inner_rule_gets_the_key():
    def noisy(params, stats, key, batch):
        return jax.random.normal(key) * (params.generator + params.discriminator), (stats, {})

    params, key = Pair(jnp.float32(0), jnp.float32(0)), jax.random.key(3)
    ends = []
    for rule in (simultaneous(sgd((1.0, 1.0))), lookahead(simultaneous(sgd((1.0, 1.0))), every=2)):
        point, _ = rule.step(Game(Pair(noisy, noisy)), key, Point(params, Pair({}, {}), rule.init(params)), {})
        ends.append(point.params)
    assert ends[0] == ends[1]


def test_a_state_can_be_donated():
    rule = lookahead(simultaneous(sgd((0.1, 0.1))), every=2)
    step = jax.jit(lambda point: rule.step(game(BILINEAR), KEY, point, {})[0], donate_argnums=0)
    point = start(rule, jnp.ones(2), (1, 1))
    for _ in range(3):
        point = step(point)
    assert point.rule.count == 3


@pytest.mark.slow
def test_the_catalogue_entry_is_lookahead_over_alternating():
    shape = (2, 3)
    quadratic, w = random(1, shape), place(1, shape)
    penalty = Pair(random(2, shape).matrices.generator, random(2, shape).offsets.generator)

    def entry(rates, weight):
        return lookahead_minmax(sgd(rates), every=3, weight=weight, d_steps=2, lazy=3)

    def composed(rates, weight):
        return lookahead(alternating(sgd(rates), d_steps=2, lazy=3), every=3, weight=weight)

    assert entry((0.2, 0.1), 0.75).batches == 2
    found, expected = (path(make, shape, (0.2, 0.1), quadratic, w, 5, (0.75,), penalty) for make in (entry, composed))
    np.testing.assert_array_equal(found, expected)


def test_the_usual_round_is_five_steps_of_which_half_is_kept():
    found, inner = (
        path(lambda rates, make=make: make(sgd(rates)), (1, 1), (0.2, 0.1), BILINEAR, W, 5)
        for make in (lookahead_minmax, alternating)
    )
    np.testing.assert_allclose(found, [*inner[:4], (W + inner[4]) / 2], atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_it_follows_every_rule(name):
    plain = path(lambda rates: RULES[name](sgd(rates)), (1, 1), (0.2, 0.1), BILINEAR, W, 3)
    found = path(over(RULES[name], 3), (1, 1), (0.2, 0.1), BILINEAR, W, 3, (0.75,))
    np.testing.assert_allclose(found, [*plain[:2], 0.25 * W + 0.75 * plain[2]], atol=1e-12)


def test_the_slope_with_respect_to_the_weight_is_the_way_of_a_round():
    def end(weight):
        rule = lookahead(simultaneous(sgd((0.2, 0.2))), every=1, weight=weight)
        return rule.step(game(BILINEAR), KEY, start(rule, jnp.asarray(W), (1, 1)), {})[0].params.generator[0]

    with jax.enable_x64(True):
        slopes = jax.jit(jax.vmap(jax.grad(end)))(jnp.array([0.1, 0.9]))
    np.testing.assert_allclose(slopes, -0.2 * -0.7, atol=1e-12)


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_a_round_that_is_no_whole_number_of_steps_is_refused(every):
    with pytest.raises(ValueError, match=f"every={every}"):
        lookahead(simultaneous(sgd((0.1, 0.1))), every=every)
    with pytest.raises(ValueError, match=f"every={every}"):
        lookahead_minmax(sgd((0.1, 0.1)), every=every)


@pytest.mark.parametrize("weight", [0, 0.0, -0.5, 1.5, float("nan"), "half"])
def test_a_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(ValueError, match=r"weight=.* is not a number in \(0, 1\]"):
        lookahead(simultaneous(sgd((0.1, 0.1))), weight=weight)
    with pytest.raises(ValueError, match=r"weight=.* is not a number in \(0, 1\]"):
        lookahead_minmax(sgd((0.1, 0.1)), weight=weight)


def test_what_is_no_rule_is_refused():
    with pytest.raises(ValueError, match="not a Pair: alternating"):
        lookahead(sgd((0.1, 0.1)))
    with pytest.raises(ValueError, match="takes a Pair of them, not 0.1"):
        lookahead_minmax(0.1)
