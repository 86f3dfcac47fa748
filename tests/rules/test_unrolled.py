"""Unrolled steps against the closed form of the discriminator's steps."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Game, Pair
from gan_jax.rules.simultaneous import simultaneous
from gan_jax.rules.unrolled import unrolled
from tests.rules.quadratics import KEY, SHAPES, field, game, place, random, sgd, start, step

seeds = st.integers(0, 2**31 - 1)
rates = st.tuples(st.floats(0, 1), st.floats(0, 1))
numbers = st.floats(-2, 2)


@cache
def ahead(unroll, lazy=1):
    return lambda rates: unrolled(sgd(rates), unroll=unroll, lazy=lazy)


def joint(generator, discriminator):
    return np.concatenate([generator, discriminator])


@pytest.mark.slow
@given(numbers, numbers, numbers, numbers, numbers, rates, st.integers(0, 4))
def test_on_the_quadratic_saddle_it_is_the_sum_of_a_geometric_series(alpha, beta, gamma, theta, phi, rates, unroll):
    # J = γφθ − (α/2)φ² + (β/2)θ², φ ascends: φ₍ᵢ₊₁₎ = aφᵢ + kγθ with a = 1 − kα.
    saddle = np.array([[beta, gamma], [gamma, -alpha]])
    quadratic = random(0, (1, 1))._replace(matrices=Pair(saddle, -saddle), offsets=Pair(np.zeros(2), np.zeros(2)))
    moved = step(ahead(unroll), (1, 1), rates, quadratic, np.array([theta, phi]))
    h, k = rates
    a = 1 - k * alpha
    reaction = k * gamma * sum(a**i for i in range(unroll))
    future = a**unroll * phi + reaction * theta
    slope = gamma * future + beta * theta + (gamma * theta - alpha * future) * reaction
    np.testing.assert_allclose(moved, [theta - h * slope, a * phi + k * gamma * theta], atol=1e-9)


@pytest.mark.slow
@given(seeds, rates, st.sampled_from(SHAPES), st.sampled_from([1, 3]))
def test_a_step_in_a_general_sum_game_follows_the_discriminators_reaction(seed, rates, shape, unroll):
    quadratic, w = random(seed, shape), place(seed, shape)
    (h, k), m = rates, shape[0]
    phi, reaction = w[m:], np.zeros((shape[1], m))  # and its Jacobian by the generator's parameters
    _, jacobian = field(quadratic, shape, w)
    for _ in range(unroll):
        phi = phi - k * field(quadratic, shape, joint(w[:m], phi))[0][m:]
        reaction = reaction - k * (jacobian[m:, :m] + jacobian[m:, m:] @ reaction)
    whole = quadratic.matrices.generator @ joint(w[:m], phi) + quadratic.offsets.generator
    expected = joint(
        w[:m] - h * (whole[:m] + reaction.T @ whole[m:]),
        w[m:] - k * field(quadratic, shape, w)[0][m:],
    )
    np.testing.assert_allclose(step(ahead(unroll), shape, rates, quadratic, w), expected, atol=1e-9)


@pytest.mark.parametrize("lazy", [1, 2])
def test_unrolling_nothing_is_simultaneous_bit_for_bit(lazy):
    optimisers = Pair(optax.adam(0.1), optax.sgd(0.2, momentum=0.9))
    quadratic, penalty = (jax.tree.map(jnp.float32, random(seed, (2, 3))) for seed in (1, 2))
    scene = game(quadratic, Pair(penalty.matrices.generator, penalty.offsets.generator))
    places = []
    for rule in (unrolled(optimisers, unroll=0, lazy=lazy), simultaneous(optimisers, lazy=lazy)):
        run = jax.jit(lambda point, rule=rule: rule.step(scene, KEY, point, {}))
        point = start(rule, jnp.float32(place(1, (2, 3))), (2, 3))
        for _ in range(3):
            point, metrics = run(point)
        places.append((point, metrics))
    jax.tree.map(np.testing.assert_array_equal, *places)


def scalar_game(generator, discriminator, penalty=None):
    """Return the game of functions of (generator, discriminator, key)."""

    def loss(function):
        return function and (lambda params, stats, key, batch: (function(*params, key), (stats, {})))

    return Game(Pair(loss(generator), loss(discriminator)), Pair(None, loss(penalty)))


def scalar_step(rule, scene, theta, phi, steps=1, **changes):
    params = Pair(jnp.float32(theta), jnp.float32(phi))
    point = start(rule, jnp.zeros(2), (1, 1))._replace(params=params, rule=rule.init(params))
    for _ in range(steps):
        point, _ = rule.step(scene, KEY, point, {})
    return point


def test_the_steps_ahead_start_from_the_discriminators_optimiser_state_which_counts_its_own_step_alone():
    # The generator's slope is φ_unroll itself, and that does not depend on it.
    scene = scalar_game(lambda theta, phi, key: theta * phi, lambda theta, phi, key: 0.5 * phi**2)
    rule = unrolled(Pair(optax.sgd(1.0), optax.sgd(0.1, momentum=0.9)), unroll=2)
    point = scalar_step(rule, scene, 0.0, 1.0, steps=2)
    theta, phi, trace = 0.0, 1.0, 0.0
    for _ in range(2):
        future, momentum = phi, trace
        for _ in range(2):
            momentum = 0.9 * momentum + future
            future -= 0.1 * momentum
        theta -= future
        trace = 0.9 * trace + phi
        phi -= 0.1 * trace
    assert point.params.generator == pytest.approx(theta, rel=1e-6)
    assert point.params.discriminator == pytest.approx(phi, rel=1e-6)
    assert point.rule.optimisers.discriminator[0].trace == pytest.approx(trace, rel=1e-6)
    assert point.rule.count == Pair(2, 2)


def test_the_first_step_ahead_is_the_discriminators_own_move():
    # Both are of the size of a random number, so they agree if they have one key.
    scene = scalar_game(
        lambda theta, phi, key: theta * phi,
        lambda theta, phi, key: phi * jax.random.normal(key),
    )
    rule = unrolled(Pair(optax.sgd(1.0), optax.sgd(1.0)), unroll=1)
    point = scalar_step(rule, scene, 0.0, 0.5)
    assert point.params.discriminator != 0.5
    assert point.params.generator == -point.params.discriminator


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [1, 2, 3])
def test_the_steps_ahead_count_on_for_lazy_penalties(lazy):
    scene = scalar_game(
        lambda theta, phi, key: theta * phi, lambda theta, phi, key: 0.0 * phi, lambda theta, phi, key: phi
    )
    rule = unrolled(Pair(optax.sgd(1.0), optax.sgd(0.25)), unroll=2, lazy=lazy)
    acts = (np.arange(8) % lazy == 0) * lazy * 0.25
    theta = 0.0
    for steps in range(1, 6):
        theta += acts[: steps + 1].sum()  # of φ₂ = φ − the two penalties ahead, from φ = −those behind
        point = scalar_step(rule, scene, 0.0, 0.0, steps=steps)
        assert point.params.discriminator == -acts[:steps].sum()
        assert point.params.generator == theta


def test_the_generators_penalty_is_taken_ahead_too():
    penalty = scalar_game(lambda theta, phi, key: theta * phi, None).losses.generator
    scene = scalar_game(lambda theta, phi, key: 0.0 * theta, lambda theta, phi, key: -phi)
    scene = scene._replace(penalties=Pair(penalty, None))
    rule = unrolled(Pair(optax.sgd(1.0), optax.sgd(0.5)), unroll=3)
    assert scalar_step(rule, scene, 0.0, 0.0).params.generator == -1.5


def test_the_steps_ahead_carry_the_discriminators_stats_and_drop_them():
    def generator(params, stats, key, batch):
        return params.generator * stats.discriminator, (stats._replace(generator=stats.discriminator), {})

    def discriminator(params, stats, key, batch):
        return 0.0 * params.discriminator, (stats._replace(discriminator=stats.discriminator + 1), {})

    rule = unrolled(Pair(optax.sgd(1.0), optax.sgd(1.0)), unroll=3)
    params = Pair(jnp.float32(0), jnp.float32(0))
    point = start(rule, jnp.zeros(2), (1, 1))._replace(params=params, stats=Pair(jnp.float32(0), jnp.float32(7)))
    point, _ = rule.step(Game(Pair(generator, discriminator)), KEY, point._replace(rule=rule.init(params)), {})
    assert point.stats == Pair(10.0, 8.0)
    assert point.params.generator == -10.0


def test_adam_needs_its_eps_root_where_a_parameter_has_no_gradient():
    scene = scalar_game(
        lambda theta, phi, key: theta + phi,
        lambda theta, phi, key: phi * theta,  # whose slope by φ is 0 at θ = 0
    )
    for optimiser, finite in ((optax.adam(0.1), False), (optax.adam(0.1, eps_root=1e-8), True)):
        point = scalar_step(unrolled(Pair(optax.sgd(0.1), optimiser)), scene, 0.0, 1.0)
        assert np.isfinite(point.params.generator) == finite


@pytest.mark.slow
def test_by_default_five_steps_are_unrolled():
    quadratic, w = random(1, (2, 3)), place(1, (2, 3))
    default = step(lambda rates: unrolled(sgd(rates)), (2, 3), (0.1, 0.2), quadratic, w)
    np.testing.assert_allclose(default, step(ahead(5), (2, 3), (0.1, 0.2), quadratic, w), atol=1e-12)


@pytest.mark.parametrize("unroll", [-1, 1.0, True, None])
def test_steps_that_are_not_whole_are_refused(unroll):
    with pytest.raises(ValueError, match="unroll="):
        unrolled(Pair(optax.sgd(0.1), optax.sgd(0.1)), unroll=unroll)


def test_optimisers_and_counts_are_checked():
    with pytest.raises(ValueError, match="optimisers"):
        unrolled(Pair(0.1, 0.1))
    with pytest.raises(ValueError, match="lazy=0"):
        unrolled(Pair(optax.sgd(0.1), optax.sgd(0.1)), lazy=0)
