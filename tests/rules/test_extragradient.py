"""Extragradient against its matrix, and Extra-Adam against Adam written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Game, Pair, Point
from gan_jax.rules import extragradient
from tests.rules.quadratics import (
    BILINEAR,
    HALF,
    KEY,
    SHAPES,
    adams,
    field,
    game,
    modulus,
    path,
    place,
    random,
    sgd,
    spread,
    start,
    step,
)

seeds = st.integers(0, 2**31 - 1)
rates = st.tuples(st.floats(0, 1), st.floats(0, 1))


def plain(rates):
    return extragradient(sgd(rates))


@pytest.mark.slow
@given(seeds, rates, st.sampled_from(SHAPES))
def test_a_step_is_one_along_the_gradient_ahead(seed, rates, shape):
    quadratic, w = random(seed, shape), place(seed, shape)
    pull = spread(rates, shape)
    ahead = w - pull * field(quadratic, shape, w)[0]
    expected = w - pull * field(quadratic, shape, ahead)[0]
    np.testing.assert_allclose(step(plain, shape, rates, quadratic, w), expected, atol=1e-12)


@pytest.mark.parametrize(("s", "known"), [(0.05, 0.998752), (0.1, 0.995038), (0.2, 0.980612), (0.5, 0.901388)])
def test_the_bilinear_table(s, known):
    found = modulus(plain, (s, s), BILINEAR, (1, 1))
    assert found == pytest.approx(np.sqrt((1 - s**2) ** 2 + s**2), abs=1e-12)
    assert found == pytest.approx(known, abs=1e-6)


@pytest.mark.parametrize(("seed", "shape"), list(enumerate(SHAPES)))
def test_with_adam_the_moments_see_both_gradients_of_a_step(seed, shape):
    quadratic, w = random(seed, shape), place(seed, shape)
    settings = Pair((0.1, 0.5, 0.9), (0.03, 0.2, 0.99))
    found = path(lambda each: extragradient(adams(each)), shape, settings, quadratic, w, 4)

    rate, b1, b2 = (spread(each, shape) for each in zip(*settings, strict=True))
    first, second, count = np.zeros_like(w), np.zeros_like(w), 0

    def update(slope):
        nonlocal first, second, count
        count += 1
        first, second = b1 * first + (1 - b1) * slope, b2 * second + (1 - b2) * slope**2
        return -rate * (first / (1 - b1**count)) / (np.sqrt(second / (1 - b2**count)) + 1e-8)

    expected = []
    for _ in range(4):
        ahead = w + update(field(quadratic, shape, w)[0])
        w = w + update(field(quadratic, shape, ahead)[0])
        expected.append(w)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def scaled_by_the_batch():
    """The bilinear game, times the batch's number; stats take the number in and metrics tell the place."""

    def loss(player, sign, scale):
        def value(params, stats, key, batch):
            new = jax.tree.map(lambda stat: stat + scale * batch["x"] * params.generator, stats)
            result = sign * params.generator * params.discriminator * batch["x"]
            return result, (new, {player: getattr(params, player) * batch["x"]})

        return value

    return Game(Pair(loss("generator", 1, 10), loss("discriminator", -1, 100)))


@pytest.mark.parametrize("fresh", [False, True])
def test_the_second_batch_is_for_the_step_and_stats_and_metrics_are_the_first_ones(fresh):
    rule = extragradient(sgd((0.1, 0.2)), fresh=fresh)
    assert rule.batches == (2 if fresh else 1)
    numbers = [3.0, 7.0] if fresh else [3.0]
    params = Pair(jnp.float32(2.0), jnp.float32(5.0))
    point = Point(params, Pair(jnp.float32(1.0), jnp.float32(1.0)), rule.init(params))
    point, metrics = rule.step(scaled_by_the_batch(), jax.random.key(0), point, {"x": jnp.array(numbers)})
    ahead = 2.0 - 0.1 * 5.0 * 3.0, 5.0 + 0.2 * 2.0 * 3.0
    np.testing.assert_allclose(point.params.generator, 2.0 - 0.1 * ahead[1] * numbers[-1], rtol=1e-6)
    np.testing.assert_allclose(point.params.discriminator, 5.0 + 0.2 * ahead[0] * numbers[-1], rtol=1e-6)
    # Each player's own, once, at the point where the step began.
    assert point.stats == Pair(1.0 + 10 * 3.0 * 2.0, 1.0 + 100 * 3.0 * 2.0)
    assert metrics == {"generator": 2.0 * 3.0, "discriminator": 5.0 * 3.0}


@pytest.mark.parametrize("fresh", [False, True])
def test_both_gradients_have_the_same_keys_unless_fresh_and_the_same_stats(fresh):
    seen = []

    def note(params, stats, key, batch):
        seen.append((tuple(jax.random.key_data(key).tolist()), stats))
        return params.generator + params.discriminator, (jax.tree.map(lambda stat: stat + 1, stats), {})

    rule = extragradient(sgd((0.1, 0.1)), fresh=fresh)
    params = Pair(jnp.float32(0), jnp.float32(0))
    point = Point(params, Pair(4, 5), rule.init(params))
    batch = {"x": jnp.zeros(rule.batches)}
    rule.step(Game(Pair(note, note)), jax.random.key(3), point, batch)
    keys, stats = zip(*seen, strict=True)
    assert len(keys) == 4
    assert len(set(keys)) == (4 if fresh else 2)
    assert keys[0] != keys[1]
    assert fresh or keys[:2] == keys[2:]
    assert stats == (Pair(4, 5),) * 4


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("reuse", [False, True])
def test_players_that_reuse_have_the_discriminators_key_at_both_points(fresh, reuse):
    seen = []

    def note(params, stats, key, batch):
        seen.append(tuple(jax.random.key_data(key).tolist()))
        return params.generator + params.discriminator, (stats, {})

    rule = extragradient(sgd((0.1, 0.1)), fresh=fresh, reuse=reuse)
    params = Pair(jnp.float32(0), jnp.float32(0))
    point = Point(params, Pair({}, {}), rule.init(params))
    rule.step(Game(Pair(note, note)), jax.random.key(3), point, {"x": jnp.zeros(rule.batches)})
    here, ahead = seen[:2], seen[2:]
    # Of the generator and the discriminator: the same where the fakes are, and only there.
    assert [len(set(keys)) for keys in (here, ahead)] == ([1, 1] if reuse else [2, 2])
    assert (here == ahead) is not fresh
    assert here[1] == tuple(jax.random.key_data(jax.random.fold_in(jax.random.key(3), 1)).tolist())
    assert not fresh or not set(here) & set(ahead)


@pytest.mark.parametrize("lazy", [1, 2, 3])
def test_a_lazy_penalty_is_in_both_gradients_of_every_nth_step_n_times(lazy):
    w, expected = np.array([0.3, -0.7]), []
    found = path(lambda rates: extragradient(sgd(rates), lazy=lazy), (1, 1), (0.1, 0.2), BILINEAR, w, 5, penalty=HALF)
    for count in range(5):
        weight = lazy if count % lazy == 0 else 0
        pull = np.diag([0.1, 0.2]) @ np.array([[0, 1], [-1, weight * 0.5]])
        w = w - pull @ (w - pull @ w)
        expected.append(w)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_step_of_two_gradients_is_counted_once():
    rule = extragradient(Pair(optax.adam(0.1), optax.sgd(0.1)))
    point, _ = rule.step(game(BILINEAR), KEY, start(rule, jnp.ones(2), (1, 1)), {})
    assert point.rule.count == Pair(1, 1)
    assert point.rule.optimisers.generator[0].count == 2  # Adam's own, which corrects the bias of its moments


def test_what_is_no_pair_of_optimisers_or_no_count_is_refused():
    with pytest.raises(ValueError, match="the discriminator's is 0.1: Pair\\(optax.adam"):
        extragradient(Pair(optax.sgd(0.1), 0.1))
    with pytest.raises(ValueError, match="lazy=0"):
        extragradient(sgd((0.1, 0.1)), lazy=0)
    rule = extragradient(sgd((0.1, 0.1)), fresh=True)
    params = Pair(jnp.float32(0), jnp.float32(0))
    point = Point(params, Pair(jnp.float32(0), jnp.float32(0)), rule.init(params))
    with pytest.raises(AssertionError, match="prefix"):
        rule.step(scaled_by_the_batch(), jax.random.key(0), point, {"x": jnp.ones(1)})
