"""Rules on games whose answer is a matrix: no network, no data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Game, Pair, Point
from gan_jax.rules import PLAIN_RULES, RULES, alternating, plain, simultaneous

numbers = st.floats(-2, 2, width=32, allow_subnormal=False)
rates = st.floats(0, 1, width=32, allow_subnormal=False)


def quadratic(alpha, beta, gamma, penalty=None):
    """J = γφθ − (α/2)φ² + (β/2)θ²: the discriminator φ ascends, the generator θ descends."""

    def value(params):
        theta, phi = params
        return gamma * phi * theta - alpha / 2 * phi**2 + beta / 2 * theta**2

    def loss(sign, name):
        return lambda params, stats, key, batch: (sign * value(params), (stats, {name: value(params)}))

    losses = Pair(loss(1.0, "generator/loss"), loss(-1.0, "discriminator/loss"))
    return Game(losses, Pair(None, penalty))


def start(rule, theta, phi, stats=None):
    params = Pair(jnp.float32(theta), jnp.float32(phi))
    return Point(params, stats or Pair({}, {}), rule.init(params))


def sgd(h, k=None):
    return Pair(optax.sgd(h), optax.sgd(h if k is None else k))


@given(numbers, numbers, numbers, numbers, numbers, rates, rates)
def test_simultaneous_on_a_quadratic_game_is_its_matrix(alpha, beta, gamma, theta, phi, h, k):
    rule = simultaneous(sgd(h, k))
    point, _ = rule.step(quadratic(alpha, beta, gamma), jax.random.key(0), start(rule, theta, phi), {})
    # In the order (φ, θ), I + hA with A = [[−α, γ], [−γ, −β]]; each player at its own rate.
    matrix = np.eye(2) + np.diag([k, h]) @ np.array([[-alpha, gamma], [-gamma, -beta]])
    expected = matrix @ [phi, theta]
    np.testing.assert_allclose([point.params.discriminator, point.params.generator], expected, atol=1e-4)


@pytest.mark.slow
@given(numbers, numbers, numbers, numbers, numbers, rates, st.integers(1, 3))
def test_alternating_on_a_quadratic_game_is_a_product_of_its_half_steps(alpha, beta, gamma, theta, phi, h, d_steps):
    rule = alternating(sgd(h), d_steps=d_steps)
    point, _ = rule.step(quadratic(alpha, beta, gamma), jax.random.key(0), start(rule, theta, phi), {})
    ascend = np.array([[1 - h * alpha, h * gamma], [0, 1]])
    descend = np.array([[1, 0], [-h * gamma, 1 - h * beta]])
    expected = descend @ np.linalg.matrix_power(ascend, d_steps) @ [phi, theta]
    np.testing.assert_allclose([point.params.discriminator, point.params.generator], expected, atol=1e-3)


@pytest.mark.parametrize("s", [0.05, 0.1, 0.2, 0.5])
def test_the_bilinear_table(s):
    def spectrum(rule):
        def step(w):
            state = Point(Pair(w[1], w[0]), Pair({}, {}), rule.init(Pair(w[1], w[0])))
            params = rule.step(quadratic(0.0, 0.0, 1.0), jax.random.key(0), state, {})[0].params
            return jnp.stack([params.discriminator, params.generator])

        matrix = np.asarray(jax.jacobian(step)(jnp.array([0.3, -0.7])), np.float64)
        return np.abs(np.linalg.eigvals(matrix)).max(), np.linalg.det(matrix)

    assert spectrum(simultaneous(sgd(s)))[0] == pytest.approx(np.sqrt(1 + s**2), abs=1e-6)
    modulus, determinant = spectrum(alternating(sgd(s)))
    assert modulus == pytest.approx(1, abs=1e-6)
    assert determinant == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_a_fixed_point_stays_and_a_zero_rate_moves_nothing(name):
    game, key = quadratic(0.5, 0.2, 1.0), jax.random.key(0)
    for rule, place in ((RULES[name](sgd(0.3)), (0.0, 0.0)), (RULES[name](sgd(0.0)), (0.7, -0.4))):
        point, _ = rule.step(game, key, start(rule, *place), {})
        np.testing.assert_array_equal(np.array(point.params), np.array(place, np.float32))


def recording_game():
    """Each player's loss is its parameter times the batch's number; its stats record what it saw."""

    def loss(player):
        def value(params, stats, key, batch):
            seen = stats._replace(generator=batch["x"] * 10, discriminator=batch["x"] * 100)
            return getattr(params, player) * batch["x"], (seen, {player: batch["x"]})

        return value

    return Game(Pair(loss("generator"), loss("discriminator")))


@given(st.integers(1, 4))
def test_each_discriminator_step_has_its_own_batch_and_the_generator_the_last(d_steps):
    rule = alternating(sgd(1.0), d_steps=d_steps)
    assert rule.batches == d_steps
    numbers = 1.0 + np.arange(d_steps, dtype=np.float32) ** 2
    point = start(rule, 0.0, 0.0, Pair(jnp.float32(0), jnp.float32(0)))
    point, metrics = rule.step(recording_game(), jax.random.key(0), point, {"x": jnp.asarray(numbers)})
    assert point.params.discriminator == -numbers.sum()
    assert point.params.generator == -numbers[-1]
    # Of a player's loss only that player's stats are kept.
    assert point.stats == Pair(10 * numbers[-1], 100 * numbers[-1])
    assert (metrics["generator"], metrics["discriminator"]) == (numbers[-1], numbers[-1])
    assert point.rule.count == Pair(1, d_steps)


def test_simultaneous_keeps_each_players_own_stats_and_gives_them_keys_of_their_own():
    rule = simultaneous(sgd(0.0))
    point = start(rule, 0.0, 0.0, Pair(jnp.float32(0), jnp.float32(0)))
    point, _ = rule.step(recording_game(), jax.random.key(0), point, {"x": jnp.ones(1)})
    assert point.stats == Pair(10.0, 100.0)


# With which a rule of a memory moves along nothing but the gradient of the moment: what it remembers of a lazy penalty
# is in its own file.
FORGETFUL = {"lookahead_minmax": {"weight": 1.0}, "negative_momentum": {"momentum": 0.0}}
SMALL = {"competitive": {"iterations": 1}}  # to compile


@pytest.mark.parametrize("name", [*RULES, *PLAIN_RULES])
@pytest.mark.parametrize("lazy", [1, 2, 3])
def test_a_lazy_penalty_acts_every_nth_move_n_times(name, lazy):
    def penalty(params, stats, key, batch):
        return 0.01 * params.discriminator, (stats, {"discriminator/penalty": jnp.float32(7.0)})

    game = Game(quadratic(0.0, 0.0, 0.0).losses, Pair(None, penalty))
    rule = plain(name, Pair(1.0, 1.0), lazy=lazy, **FORGETFUL.get(name, {}), **SMALL.get(name, {}))
    point, places, metrics = start(rule, 0.0, 0.0), [], []
    step = jax.jit(lambda point: rule.step(game, jax.random.key(0), point, {}))
    for _ in range(6):
        point, metric = step(point)
        places.append(float(point.params.discriminator))
        metrics.append(float(metric["discriminator/penalty"]))
    acts = (np.arange(6) % lazy == 0) * lazy
    np.testing.assert_allclose(places, -0.01 * np.cumsum(acts), rtol=1e-5)
    np.testing.assert_allclose(metrics, 7.0 * acts)  # so that the mean over steps is the penalty itself


@pytest.mark.slow
def test_a_penalty_has_the_key_of_its_loss():
    keys = []

    def note(params, stats, key, batch):
        keys.append(jax.random.key_data(key).tolist())
        return jnp.float32(0.0) * params.discriminator, (stats, {})

    game = Game(Pair(note, note), Pair(None, note))
    rule = alternating(sgd(1.0))
    with jax.disable_jit():
        rule.step(game, jax.random.key(3), start(rule, 0.0, 0.0), {})
    loss, penalty, generator = keys
    assert loss == penalty != generator


@pytest.mark.parametrize("name", RULES)
def test_the_players_have_optimisers_of_their_own(name):
    def loss(sign):
        # Its slopes are the same wherever a rule takes them.
        return lambda params, stats, key, batch: (3.0 * (params.generator + sign * params.discriminator), (stats, {}))

    rule = RULES[name](Pair(optax.adam(0.1), optax.sgd(0.2)))
    point, _ = rule.step(Game(Pair(loss(1), loss(-1))), jax.random.key(0), start(rule, 1.0, 0.0), {})
    # Adam's first step is its rate along the gradient's sign; the discriminator's is plain.
    assert point.params.discriminator == pytest.approx(0.6)
    assert point.params.generator == pytest.approx(0.9, abs=1e-5)


@pytest.mark.parametrize("arguments", [{"d_steps": 0}, {"d_steps": 1.5}, {"lazy": 0}, {"lazy": -1}, {"d_steps": True}])
def test_counts_that_are_not_whole_and_positive_are_refused(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        alternating(sgd(0.1), **arguments)
    if name == "lazy":
        with pytest.raises(ValueError, match=f"{name}={value}"):
            simultaneous(sgd(0.1), **arguments)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_of_optimisers_refuses_what_is_no_pair_of_them(name):
    for wrong, words in (
        ((0.1, 0.1), "takes a Pair of them, not a tuple"),
        (Pair(optax.sgd(0.1), 0.1), "the discriminator's is 0.1"),
        (Pair(optax.sgd, optax.sgd(0.1)), "the generator's is a function"),
        (optax.sgd(0.1), "not an optimiser"),
    ):
        with pytest.raises(ValueError, match=f"{words}: Pair\\(optax.adam"):
            RULES[name](wrong)


@pytest.mark.parametrize("name", PLAIN_RULES)
def test_a_rule_of_rates_refuses_what_is_no_pair_of_finite_rates(name):
    for wrong, words in (
        (0.1, "takes a Pair of rates, not 0.1"),
        ((0.1, 0.1), "not a tuple"),
        (Pair(0.1, optax.sgd(0.1)), "the discriminator's is an optimiser"),
        (Pair(jnp.ones(2), 0.1), r"the generator's is an array of shape \(2,\)"),
        (Pair(True, 0.1), "the generator's is True"),
        (Pair(None, 0.1), "the generator's is None"),
        (Pair(0.1, -0.1), "the discriminator's rate -0.1 is not a finite rate of at least 0"),
        (Pair(float("inf"), 0.1), "the generator's rate inf"),
        (Pair(float("nan"), 0.1), "the generator's rate nan"),
    ):
        with pytest.raises(ValueError, match=f"{words}.*: Pair\\(0.1, 0.1\\) would do"):
            PLAIN_RULES[name](wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RULES, *PLAIN_RULES])
def test_a_rule_can_be_compiled_mapped_and_differentiated_in_its_rates(name):
    def end(rate):
        rule = plain(name, Pair(rate, 0.2))
        params = Pair({"a": jnp.full(2, 0.3)}, [jnp.full(2, -0.7)])
        point = Point(params, Pair({}, {}), rule.init(params))
        for _ in range(2):
            point, _ = rule.step(game, jax.random.key(0), point, {})
        return point.params.generator["a"] @ point.params.discriminator[0]

    def loss(sign):
        def value(params, stats, key, batch):
            (x,), (y,) = params.generator.values(), params.discriminator
            return sign * jnp.sin(x) @ jnp.cos(2 * y), (stats, {})

        return value

    game = Game(Pair(loss(1), loss(-1)))
    with jax.enable_x64(True):
        at, small = jnp.array([0.05, 0.3]), 1e-5
        slopes = jax.jit(jax.vmap(jax.grad(end)))(at)
        compiled = jax.jit(end)
        differences = [(compiled(rate + small) - compiled(rate - small)) / (2 * small) for rate in at]
    np.testing.assert_allclose(slopes, differences, rtol=1e-7)


def test_plain_makes_a_rule_of_either_catalogue_or_names_those_there_are():
    rule = plain("simultaneous", Pair(0.25, 0.5))
    point, _ = rule.step(quadratic(0.0, 0.0, 1.0), jax.random.key(0), start(rule, 1.0, 1.0), {})
    assert point.params == Pair(0.75, 1.5)
    with pytest.raises(ValueError, match="unknown rule 'sideways': there is simultaneous, .*negative_momentum"):
        plain("sideways", Pair(0.1, 0.1))
    with pytest.raises(ValueError, match="the generator's rate -1"):
        plain("simultaneous", Pair(-1, 0.1))


@pytest.mark.parametrize("name", RULES)
def test_a_stream_of_another_number_of_batches_is_refused(name):
    rule = RULES[name](sgd(0.1))
    point = start(rule, 0.0, 0.0, Pair(jnp.float32(0), jnp.float32(0)))
    with pytest.raises(AssertionError, match="prefix"):
        rule.step(recording_game(), jax.random.key(0), point, {"x": jnp.ones(2)})
