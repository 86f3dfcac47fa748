"""Evolution strategies on functions whose smoothed gradients, and systems whose total gradients, are known by hand.

Means are compared within their standard errors, which the samples themselves give, and those are small against what
the errors to be found would change.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from gan_jax.meta.evolution import es, pes, truncated_es
from gan_jax.testing import keys

ESTIMATORS = {"pes": pes, "truncated_es": truncated_es}
every_estimator = pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS)
SEED = jax.random.key(5)


def mean_and_error(samples):
    samples = np.asarray(samples, np.float64)
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / math.sqrt(len(samples))


def assert_mean(samples, expected, resolution):
    """The mean is as expected within 4 standard errors, which are below the resolution that the test is after."""
    mean, error = mean_and_error(samples)
    assert (error < resolution).all()
    assert (abs(mean - expected) <= 4 * error + 1e-5).all(), f"{mean} is not {expected} within 4 times {error}"


def sampled(function, params, n, *, sigma, pairs=64):
    """Independent estimates [n, ...]; sigma is traced, as a schedule's would be."""

    def estimate(sigma, key):
        return es(function, sigma=sigma, pairs=pairs)(params, key)

    return jax.jit(jax.vmap(estimate, (None, 0)))(sigma, jax.random.split(SEED, n))


# --- of a function


@pytest.mark.slow
def test_on_a_quadratic_the_mean_is_the_gradient():
    matrix, shift = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.5]], np.float32), 0.7
    params = {"a": jnp.array([0.3, -1.0]), "b": jnp.array(0.5)}

    def function(params, key):
        x = jnp.append(params["a"], params["b"])
        return 0.5 * x @ matrix @ x + shift * x.sum() + 4 * jax.random.normal(key)

    gradients, metrics = sampled(function, params, 256, sigma=0.5)
    x = np.array([0.3, -1.0, 0.5])
    assert_mean(np.column_stack([gradients["a"], gradients["b"]]), matrix @ x + shift, 0.05)
    # The mean of the losses is the smoothed function: more by half the trace times σ².
    assert_mean(metrics["loss"], 0.5 * x @ matrix @ x + shift * x.sum() + 0.5 * 0.25 * 3.5, 0.05)
    # Each pair has random numbers of its own: the deviation is that of the mean of 64, to which the quadratic adds.
    assert 0.5 < np.std(metrics["loss"]) < 0.6


def test_what_is_estimated_is_the_gradient_of_the_smoothed_function():
    def rough(x, key):
        return x[0] ** 3 + jnp.cos(x[1]) + jnp.where(x[2] > 0, 1.0, 0.0)

    gradients, _ = sampled(rough, jnp.array([0.3, 1.0, 0.4]), 1024, sigma=0.5)
    density = math.exp(-((0.4 / 0.5) ** 2) / 2) / math.sqrt(2 * math.pi) / 0.5  # a step has no slope of its own
    slopes = [3 * 0.3**2 + 3 * 0.5**2, -math.exp(-(0.5**2) / 2) * math.sin(1.0), density]
    assert_mean(gradients, slopes, 0.02)


def test_a_constant_and_what_is_even_around_the_parameters_give_zero():
    functions = (lambda x, key: 3.0 + 0 * x.sum(), lambda x, key: jnp.sum(jnp.abs(x)), lambda x, key: 1e6 * x @ x)
    estimates = jax.jit(lambda x: [es(f, sigma=0.1, pairs=5)(x, SEED)[0] for f in functions])(jnp.zeros(3))
    np.testing.assert_array_equal(estimates, np.zeros((3, 3)))


@jax.jit
def reflected(key):
    """Estimates of a noisy function, and of its mirror image in the parameters."""

    def function(x, key):
        return jnp.sum(jnp.exp(x)) + jax.random.normal(key)

    x = jnp.array([0.5, -0.25])
    mirrored = es(lambda y, key: function(2 * x - y, key), sigma=0.5, pairs=3)
    return es(function, sigma=0.5, pairs=3)(x, key), mirrored(x, key)


@given(keys())
def test_what_is_mirrored_in_the_parameters_has_the_opposite_estimate(key):
    (gradient, metrics), (opposite, same) = reflected(key)
    np.testing.assert_allclose(opposite, -gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=1e-5)


# --- of a system: s ← s + θ, and the loss of a truncation is the sum of s over its two steps


def count(params, key, s):
    first = s + params
    return first + params, 2 * first + params


def begin(key):
    return jnp.float32(1.5)


def path(online, params, key, calls):
    """The estimates, and the particles after each, of some calls in a row."""
    init_key, *rest = jax.random.split(key, calls + 1)

    def call(particles, key):
        gradient, particles, metrics = online.estimate(params, key, particles)
        return particles, (gradient, particles, metrics)

    return jax.lax.scan(call, online.init(params, init_key), jnp.stack(rest))[1]


def compiled(online, calls, params=0.2):
    return jax.jit(lambda key: path(online, jnp.float32(params), key, calls))(SEED)


def paths(online, params, calls, n=256):
    """Estimates [n, calls, ...] of independent runs."""
    run = jax.jit(jax.vmap(lambda key: path(online, params, key, calls)[0]))
    return run(jax.random.split(SEED, n))


@pytest.mark.slow
def test_pes_is_unbiased_where_truncation_is_biased_by_a_known_amount():
    """In truncation h of two steps s moves by 2h θ before it begins: dL/dθ = 3 + 4h, of which truncation sees 3."""
    options = {"sigma": 0.3, "pairs": 64, "truncations": 3}
    # Twice the horizon: the second inner problem is like the first.
    assert_mean(paths(pes(begin, count, **options), jnp.float32(0.2), 6), [3, 7, 11, 3, 7, 11], 0.25)
    assert_mean(paths(truncated_es(begin, count, **options), jnp.float32(0.2), 6), 6 * [3], 0.25)


A = np.array([[0.9, 0.4], [-0.3, 0.8]], np.float32)
B = np.array([[1.0, 0.0, -0.5], [0.3, 0.7, 0.2]], np.float32)
START = np.array([0.5, -1.0], np.float32)


def linear(params, key, s):
    drive = jnp.append(params["a"], params["b"])

    def step(s, _):
        s = A @ s + B @ drive
        return s, 0.5 * s @ s

    s, losses = jax.lax.scan(step, s, length=2)
    return s, losses.sum()


def total_gradients(drive, truncations, through):
    """By forward sensitivities S = ds/dθ; without those that come from before the truncation unless `through`."""
    s, sensitivity, gradients = START.astype(np.float64), np.zeros((2, 3)), []
    for _ in range(truncations):
        gradients.append(np.zeros(3))
        sensitivity = sensitivity if through else 0 * sensitivity
        for _ in range(2):
            s, sensitivity = A @ s + B @ drive, A @ sensitivity + B
            gradients[-1] += sensitivity.T @ s
    return np.array(gradients)


@pytest.mark.slow
@every_estimator
def test_on_a_linear_system_of_quadratic_loss_the_mean_is_the_gradient_through_the_states_or_without(make):
    drive = np.array([0.4, -0.2, 0.6])
    params = {"a": jnp.asarray(drive[:2], jnp.float32), "b": jnp.float32(drive[2])}
    online = make(lambda key: jnp.asarray(START), linear, sigma=0.2, pairs=128, truncations=3)
    found = paths(online, params, 3, 512)
    exact, blind = (total_gradients(drive, 3, through) for through in (True, False))
    assert abs(exact - blind)[1:].max() > 1  # what the resolution below has to tell apart
    samples = np.concatenate([found["a"], found["b"][..., None]], axis=-1)
    assert_mean(samples, exact if make is pes else blind, 0.1)


def test_a_loss_is_credited_to_all_perturbations_that_led_to_it():
    """Not in expectation but exactly: (L⁺ − L⁻)/2 is 3 times this perturbation and 4 times each before it."""
    sigma = 0.3
    gradients, particles, metrics = compiled(pes(begin, count, sigma=sigma, pairs=5, truncations=4), 3)
    sums = np.asarray(particles.perturbation, np.float64)  # [calls, pairs]
    fresh = np.diff(sums, axis=0, prepend=0.0)
    assert (abs(fresh) > 0).all() and abs(fresh).max() < 5 * sigma
    differences = 3 * fresh + 4 * (sums - fresh)
    np.testing.assert_allclose(gradients, (sums * differences).mean(axis=1) / sigma**2, rtol=1e-4, atol=1e-4)
    # What is odd cancels in the mean loss: it is that of θ itself.
    np.testing.assert_allclose(metrics["loss"], [2 * (1.5 + 2 * h * 0.2) + 3 * 0.2 for h in range(3)], rtol=1e-5)
    np.testing.assert_allclose(particles.inner.mean(axis=2), np.tile([[1.9], [2.3], [2.7]], 5), rtol=1e-5)
    np.testing.assert_allclose(particles.inner[:, :, 0] - particles.inner[:, :, 1], 4 * sums, rtol=1e-4, atol=1e-5)


def test_truncated_es_moves_at_the_parameters_and_keeps_no_perturbation():
    online = truncated_es(begin, count, sigma=0.3, pairs=4, truncations=3)
    _, particles, _ = compiled(online, 3)
    np.testing.assert_allclose(particles.inner, np.tile([[1.9], [2.3], [1.5]], 4), rtol=1e-6)
    assert (particles.perturbation == 0).all()


@every_estimator
def test_at_the_horizon_all_begins_anew_on_another_problem(make):
    online = make(jax.random.normal, count, sigma=0.3, pairs=4, truncations=2)
    params, (init_key, *rest) = jnp.float32(0.2), jax.random.split(SEED, 3)
    first, estimate = online.init(params, init_key), jax.jit(online.estimate)
    _, middle, _ = estimate(params, rest[0], first)
    _, after, _ = estimate(params, rest[1], middle)
    assert middle.truncation.tolist() == 4 * [1] and after.truncation.tolist() == 4 * [0]
    assert (after.perturbation == 0).all() and (make is truncated_es or (middle.perturbation != 0).all())
    starts = np.concatenate([first.inner, after.inner])
    if make is pes:  # both members begin in one state
        assert (starts[:, 0] == starts[:, 1]).all() and (middle.inner[:, 0] != middle.inner[:, 1]).all()
        starts = starts[:, 0]
    assert len(set(starts.tolist())) == 8, "pairs and problems do not begin apart"


@pytest.mark.slow
def test_staggered_pairs_stay_spread_over_the_horizon_and_make_each_estimate_one_of_the_whole():
    begun = pes(begin, count, sigma=0.3, pairs=2, truncations=5, stagger=True).init(jnp.float32(0), SEED)
    assert begun.truncation.tolist() == [0, 2]
    online = pes(begin, count, sigma=0.3, pairs=66, truncations=3, stagger=True)
    run = jax.jit(jax.vmap(lambda key: path(online, jnp.float32(0.2), key, 5)))
    gradients, particles, _ = run(jax.random.split(SEED, 256))
    for done, phases in enumerate(particles.truncation[0].tolist(), start=1):
        assert phases == [(phase + done) % 3 for phase in np.repeat([0, 1, 2], 22)]
    # Pairs that begin late have carried less: by hand (3 + 3 + 3)/3, then (7 + 7 + 3)/3, then all phases.
    assert_mean(gradients, [3, 17 / 3, 7, 7, 7], 0.25)


@pytest.mark.slow
@every_estimator
def test_members_of_a_pair_unroll_under_the_same_random_numbers(make):
    def noisy(params, key, s):
        return count(params, key, s + 64 * jax.random.normal(key))

    options = {"sigma": 0.5, "pairs": 3, "truncations": 3}
    quiet, loud = (compiled(make(begin, unroll, **options), 3) for unroll in (count, noisy))
    np.testing.assert_allclose(loud[0], quiet[0], atol=5e-3)
    assert abs(loud[2]["loss"] - quiet[2]["loss"]).min() > 1


@every_estimator
def test_shapes_types_and_structures_are_kept(make):
    params = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": (jnp.float32(1.0), 0.5)}

    def unroll(params, key, inner):
        s, n, key = inner
        loss = params["a"].sum(dtype=jnp.float32) + sum(params["b"])
        return (s + params["a"], n + 1, jax.random.fold_in(key, 0)), loss

    online = make(
        lambda key: (jnp.zeros((2, 3), jnp.bfloat16), jnp.int32(0), key), unroll, sigma=0.1, pairs=3, truncations=2
    )
    particles = jax.eval_shape(online.init, params, SEED)
    gradient, after, metrics = jax.eval_shape(online.estimate, params, SEED, particles)

    def described(tree):
        return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)

    assert described(gradient) == described(jax.tree.map(jnp.asarray, params))
    assert described(after) == described(particles)
    assert metrics.keys() == {"loss"} and metrics["loss"].shape == ()


@every_estimator
def test_a_key_determines_the_estimate(make):
    online = make(begin, count, sigma=0.3, pairs=2, truncations=2)
    estimate = jax.jit(lambda key: online.estimate(jnp.float32(0.2), key, online.init(jnp.float32(0.2), SEED)))
    first, again, other = (estimate(jax.random.key(seed)) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first[0] != other[0]


REFUSED = [
    ({"sigma": 0.0}, r"sigma=0\.0 must be positive"),
    ({"sigma": -1}, "sigma=-1 must be positive"),
    ({"sigma": math.nan}, "sigma=nan must be positive"),
    ({"sigma": math.inf}, "sigma=inf must be positive"),
    ({"pairs": 0}, "pairs=0 is not a whole number of at least 1"),
    ({"pairs": 2.5}, r"pairs=2\.5 is not a whole number"),
]


@every_estimator
@pytest.mark.parametrize(
    ("options", "message"), [*REFUSED, ({"truncations": 0}, "truncations=0 is not a whole number")]
)
def test_a_system_is_not_estimated_without_perturbations_pairs_or_truncations(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(begin, count, **{"sigma": 0.1, "pairs": 1, "truncations": 1} | options)


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_a_function_is_not_estimated_without_perturbations_or_pairs(options, message):
    with pytest.raises(ValueError, match=message):
        es(lambda x, key: x, **{"sigma": 0.1, "pairs": 1} | options)


@every_estimator
def test_a_loss_that_is_no_scalar_is_refused(make):
    online = make(begin, lambda params, key, s: (s, jnp.ones(3)), sigma=0.1, pairs=2, truncations=1)
    with pytest.raises(AssertionError, match="shape"):
        online.estimate(jnp.float32(0), SEED, online.init(jnp.float32(0), SEED))
