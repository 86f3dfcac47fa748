"""Alternating steps of which only the first count, against as many steps and no others; and whose noise is whose."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Game, Pair, Point
from gan_jax.optimisers import adam, sgd
from gan_jax.rules import alternating

STEPS = 3
START = Pair(jnp.array([0.3, -0.7]), jnp.array([0.5, 0.2]))


def game():
    """Losses that see the key, the batch, both players and the stats, which count what they have seen."""

    def loss(player):
        def value(params, stats, key, batch):
            noise = jax.random.normal(key, (2,))
            found = jnp.sum(jnp.sin(params.generator * params.discriminator + batch["x"]) + noise * params.generator)
            found += jnp.sum(noise * params.discriminator) + getattr(stats, player)
            return found, (jax.tree.map(lambda x: x + batch["x"][0], stats), {f"{player}/loss": found})

        return value

    return Game(Pair(loss("generator"), loss("discriminator")))


def begin(rule, params=START):
    return Point(params, Pair(jnp.float32(0), jnp.float32(0)), rule.init(params))


@cache
def stepper(d_steps, masked):
    def step(key, rate, active, batch):
        optimisers = Pair(adam(rate), adam(rate))
        rule = alternating(optimisers, d_steps=d_steps, active=active if masked else None)
        return rule.step(game(), key, begin(rule), batch)

    return jax.jit(step)


@pytest.mark.slow
@given(st.integers(0, 2**31), st.integers(1, STEPS))
def test_steps_that_do_not_count_change_nothing_at_all(seed, active):
    key = jax.random.key(seed)
    batch = {"x": jax.random.normal(key, (STEPS, 2))}
    found = stepper(STEPS, True)(key, 0.1, jnp.float32(active), batch)
    expected = stepper(active, False)(key, 0.1, 0, jax.tree.map(lambda x: x[:active], batch))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), found, expected)
    assert found[0].rule.count == Pair(1, active)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("active", [None, 1, 2, jnp.float32(2), 3])
def test_a_generator_that_reuses_meets_the_noise_of_the_last_move_that_counted(active, reuse):
    def noise(params, stats, key, batch):  # along which a player goes
        player = params.discriminator if batch is None else params.generator
        return jnp.sum(jax.random.normal(key, (2,)) * player), (stats, {})

    game = Game(Pair(noise, lambda params, stats, key, batch: noise(params, stats, key, None)))
    rule = alternating(Pair(sgd(1.0), sgd(1.0)), d_steps=STEPS, active=active, reuse=reuse)
    start = Pair(jnp.zeros(2), jnp.zeros(2))
    found, _ = rule.step(game, jax.random.key(0), begin(rule, start), {"x": jnp.zeros((STEPS, 1))})
    count = STEPS if active is None else int(active)
    noises = [-jax.random.normal(jax.random.fold_in(jax.random.key(0), move), (2,)) for move in range(STEPS + 1)]
    np.testing.assert_array_equal(found.params.generator, noises[count - reuse])
    np.testing.assert_allclose(found.params.discriminator, sum(noises[:count]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("active", [1, 2, 3])
def test_and_nothing_by_a_single_bit(active):
    key = jax.random.key(active)
    batch = {"x": jax.random.normal(key, (STEPS, 2))}
    few = jax.tree.map(lambda x: x[:active], batch)
    with jax.disable_jit():  # a compiler may join a product and a sum, and round them once
        masked = alternating(Pair(sgd(0.1), sgd(0.1)), d_steps=STEPS, active=active)
        alone = alternating(Pair(sgd(0.1), sgd(0.1)), d_steps=active)
        found, expected = masked.step(game(), key, begin(masked), batch), alone.step(game(), key, begin(alone), few)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_does_not_count_may_be_of_any_size():
    key = jax.random.key(0)
    batch = {"x": jnp.array([[0.1, 0.2], [jnp.nan, 0], [jnp.inf, 0]])}
    for leaf in jax.tree.leaves(stepper(STEPS, True)(key, 0.1, jnp.float32(1), batch)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(("active", "counted"), [(0.0, 1), (1.4, 1), (1.6, 2), (7.0, 3)])
def test_a_traced_number_is_rounded_and_clipped(active, counted):
    point, _ = stepper(STEPS, True)(jax.random.key(0), 0.1, jnp.float32(active), {"x": jnp.ones((STEPS, 2))})
    assert point.rule.count.discriminator == counted


@pytest.mark.slow
def test_gradients_flow_through_what_counts_as_without_the_mask():
    batch = {"x": jax.random.normal(jax.random.key(1), (STEPS, 2))}

    def end(d_steps, active, rate):
        rule = alternating(Pair(optax.sgd(rate), optax.sgd(rate)), d_steps=d_steps, active=active)
        few = jax.tree.map(lambda x: x[:d_steps], batch)
        return rule.step(game(), jax.random.key(2), begin(rule), few)[0].params.generator.sum()

    masked = jax.jit(jax.grad(lambda rate, active: end(STEPS, active, rate)))
    for active in (1, 2, 3):
        slope = jax.grad(partial(end, active, None))(0.1)
        assert slope != 0
        np.testing.assert_allclose(masked(0.1, jnp.float32(active)), slope, rtol=1e-5)


@pytest.mark.parametrize("active", [0, 4, 1.5, float("nan")])
def test_a_python_number_out_of_range_is_refused(active):
    with pytest.raises(ValueError, match=rf"active={active} of d_steps=3: give a whole number of 1\.\.\.3"):
        alternating(Pair(sgd(0.1), sgd(0.1)), d_steps=3, active=active)
