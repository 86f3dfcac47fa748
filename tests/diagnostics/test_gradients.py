"""Sizes of gradients: closed forms on games with known answers, scaling laws, layers and halves by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax import games, penalties, rules
from gan_jax.base import Game, Pair, Point
from gan_jax.diagnostics.gradients import agreement, gradients, slopes

KEY = jax.random.key(0)
QUADRATIC = games.random_quadratic(KEY, 3, 2, zero_sum=False)
places = st.lists(st.floats(-2, 2, width=32, allow_subnormal=False), min_size=5, max_size=5)


def at(params, rule=None):
    return Point(params, Pair({}, {}), rule)


def vector(w):
    return at(Pair(jnp.asarray(w[:3], jnp.float32), jnp.asarray(w[3:], jnp.float32)))


measured = jax.jit(lambda point: gradients(QUADRATIC.game, KEY, point, {}))


@given(w=places)
def test_of_a_quadratic_game(w):
    field = -QUADRATIC.jacobian @ np.array(w)
    found = measured(vector(w))
    sizes = {}
    for player, mine, own in zip(Pair._fields, np.split(field, [3]), np.split(np.array(w), [3]), strict=True):
        size, length = np.linalg.norm(mine), np.linalg.norm(own)
        sizes[player] = size
        np.testing.assert_allclose(found[f"{player}/gradient"], size, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[f"{player}/gradient_rms"], size / len(mine) ** 0.5, rtol=1e-4, atol=1e-5)
        # One leaf is one layer.
        np.testing.assert_allclose(found[f"{player}/gradient_weakest"], found[f"{player}/gradient_rms"], rtol=1e-6)
        if length > 1e-2:
            np.testing.assert_allclose(found[f"{player}/gradient_relative"], size / length, rtol=1e-3, atol=1e-3)
    if sizes["discriminator"] > 1e-2:
        ratio = sizes["generator"] / sizes["discriminator"]
        np.testing.assert_allclose(found["generator/gradient_ratio"], ratio, rtol=1e-3, atol=1e-3)


DIRAC = games.dirac(penalty=penalties.r1(0.7))
of_dirac = jax.jit(lambda point: gradients(DIRAC.game, KEY, point, {}))


@pytest.mark.parametrize(("theta", "psi"), [(0.5, 1.5), (-2.0, 0.25)])
def test_of_the_dirac_gan(theta, psi):
    """L_D = softplus(−0) + softplus(ψθ) + (γ/2)ψ² and L_G = −softplus(ψθ): slopes by hand."""
    believed = 1 / (1 + np.exp(-psi * theta))
    found = of_dirac(at(Pair(jnp.float32(theta), jnp.float32(psi))))
    assert found["generator/gradient"] == pytest.approx(abs(psi) * believed, rel=1e-5)
    assert found["discriminator/gradient"] == pytest.approx(abs(theta * believed + 0.7 * psi), rel=1e-5)
    assert found["generator/gradient_relative"] == pytest.approx(abs(psi / theta) * believed, rel=1e-5)


@pytest.mark.parametrize("known", [DIRAC, QUADRATIC], ids=["dirac", "quadratic"])
def test_at_an_equilibrium_everything_is_zero_and_nothing_nan(known):
    here = at(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), known.solution))
    for metrics in (gradients, agreement):
        found = jax.jit(lambda point, metrics=metrics: metrics(known.game, KEY, point, {}))(here)
        np.testing.assert_array_equal(list(found.values()), 0)


def scaled(game, weights):
    def times(loss, weight):
        return lambda *given: (weight * loss(*given)[0], loss(*given)[1])

    return Game(Pair(*map(times, game.losses, weights)))


def test_sizes_scale_with_the_loss():
    here, weights = vector([1.0, -2.0, 0.5, 1.5, -0.3]), Pair(3.0, 0.01)

    @jax.jit
    def both(weights):
        game = scaled(QUADRATIC.game, weights)
        return gradients(game, KEY, here, {}), agreement(game, KEY, here, {})

    (before, kept), (after, turned) = both(Pair(1.0, 1.0)), both(weights)
    for name, value in after.items():
        weight = 300.0 if "ratio" in name else getattr(weights, name.partition("/")[0])
        np.testing.assert_allclose(value, weight * before[name], rtol=1e-5)
    for name, value in turned.items():
        np.testing.assert_allclose(value, kept[name], rtol=1e-5)


def run(measure, game, params, batch=None):
    return jax.jit(lambda params, batch: measure(game, KEY, at(params), batch))(params, batch or {})


def linear(coefficients):
    """Losses that are linear in the parameters, so that their gradients are the coefficients."""

    def loss(player):
        def value(params, stats, key, batch):
            mine, slope = getattr(params, player), getattr(coefficients(key, batch), player)
            return optax.tree.vdot(mine, slope), (stats, {})

        return value

    return Game(Pair(*map(loss, Pair._fields)))


def test_a_layer_is_what_has_one_parent():
    slope = Pair(
        {
            "first": {"kernel": np.full((2, 2), 3.0), "bias": np.zeros(5)},
            "second": [{"kernel": np.ones((2, 3))}, {"kernel": np.full(3, 2.0), "bias": np.full(1, 2.0)}],
        },
        (np.full(3, 4.0), np.zeros(1)),
    )
    found = run(gradients, linear(lambda key, batch: slope), jax.tree.map(np.ones_like, slope))
    # Root mean squares: √(36/9), 1 and 2 of the generator's three layers, √(48/4) of the discriminator's one.
    assert found["generator/gradient_weakest"] == pytest.approx(1)
    assert found["discriminator/gradient_weakest"] == pytest.approx(12**0.5)
    assert found["generator/gradient"] == pytest.approx((36 + 6 + 16) ** 0.5)
    assert found["generator/gradient_rms"] == pytest.approx((58 / 19) ** 0.5)
    assert found["generator/gradient_relative"] == pytest.approx((58 / 19) ** 0.5)


def test_a_player_that_has_stopped_learning_shows_in_the_ratio():
    game = linear(lambda key, batch: Pair(*batch["x"]))
    for first, second, expected in ((0.0, 2.0, 0.0), (2.0, 0.0, np.inf), (0.0, 0.0, 0.0)):
        x = jnp.full((2, 2), jnp.array([[first], [second]]))
        found = run(gradients, game, Pair(jnp.ones(2), jnp.ones(2)), {"x": x})
        assert found["generator/gradient_ratio"] == expected


def test_a_gradient_that_is_not_finite_is_not_called_zero():
    slope = Pair(np.full(2, np.nan), np.ones(2))
    for measure in (gradients, agreement):
        found = run(measure, linear(lambda key, batch: slope), Pair(jnp.ones(2), jnp.ones(2)))
        assert all(np.isnan(value) for name, value in found.items() if name.startswith("generator"))


@pytest.mark.parametrize("seed", [0, 1])
def test_slopes_are_what_a_simultaneous_step_moves_along(seed):
    key = jax.random.key(seed)

    def noisy(key, batch):
        return Pair(jax.random.normal(key, (2,)) + batch["x"].mean(), jax.random.normal(key, (3,)))

    game, rate = linear(noisy), Pair(0.1, 0.2)
    rule = rules.plain("simultaneous", rate)
    params, batch = Pair(jnp.zeros(2), jnp.zeros(3)), {"x": jnp.arange(4.0)}
    after, _ = rule.step(game, key, at(params, rule.init(params)), {"x": batch["x"][None]})
    # Whatever the rule remembers: here nothing.
    for step, slope, mine in zip(after.params, slopes(game, key, at(params), batch), rate, strict=True):
        np.testing.assert_allclose(step, -mine * slope, rtol=1e-6)


@given(rows=st.lists(st.floats(-3, 3, width=16), min_size=7, max_size=7), off=st.floats(-1, 1, width=16))
def test_agreement_is_the_cosine_between_the_halves(rows, off):
    x = np.array(rows, np.float32)
    found = of_halves(jnp.asarray(x), off)
    one, other = (np.array([half.mean(), off + 2.0]) for half in (x[:3].astype(float), x[3:6].astype(float)))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    np.testing.assert_allclose(found["generator/gradient_agreement"], cosine, atol=1e-5)
    np.testing.assert_allclose(found["discriminator/gradient_agreement"], 1, rtol=1e-6)


@jax.jit
def of_halves(x, off):
    game = linear(lambda key, batch: Pair(jnp.stack([batch["x"].mean(), off + 2.0]), jnp.ones(1)))
    return agreement(game, KEY, at(Pair(jnp.zeros(2), jnp.zeros(1))), {"x": x})


def test_the_halves_draw_numbers_of_their_own():
    """Of pure noise in n dimensions the cosine has deviation 1/√n; with equal keys it would be 1."""
    noise = linear(lambda key, batch: Pair(*(jax.random.normal(mine, (10_000,)) for mine in jax.random.split(key))))
    found = run(agreement, noise, Pair(jnp.zeros(10_000), jnp.zeros(10_000)), {"x": jnp.zeros(4)})
    assert max(abs(float(value)) for value in found.values()) < 0.05


def test_agreement_estimates_signal_over_signal_and_noise():
    def noisy(key, batch):
        return Pair(1.0 + 2.0 * jax.random.normal(key, (40_000,)), jnp.ones(1))

    found = run(agreement, linear(noisy), Pair(jnp.zeros(40_000), jnp.zeros(1)))
    assert found["generator/gradient_agreement"] == pytest.approx(1 / (1 + 4), abs=0.03)


def test_one_example_has_no_halves():
    game = linear(lambda key, batch: Pair(jnp.ones(1), jnp.ones(1)))
    with pytest.raises(ValueError, match="a batch of 1 has no halves"):
        agreement(game, KEY, at(Pair(jnp.zeros(1), jnp.zeros(1))), {"x": jnp.zeros(1)})
