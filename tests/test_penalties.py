"""Closed forms of the penalties on critics whose slopes are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.penalties import PENALTIES, r1, r2, total, wgan_gp
from gan_jax.testing import check_regularizer, keys

SHAPES = [(5, 3), (4, 2, 3, 1)]  # vectors [B, D], images [B, H, W, C]

every_penalty = pytest.mark.parametrize("name", PENALTIES)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
weights = st.floats(0.0, 100.0, width=32, allow_subnormal=False)


def samples(key, shape):
    real, fake, w = (jax.random.normal(k, shape) for k in jax.random.split(key, 3))
    return real, fake + 2.0, w[0]


def features(x):
    return tuple(range(1, x.ndim))


def linear(w):
    """The critic w·x, of slope w everywhere."""
    return lambda x: jnp.sum(w[None] * x, axis=features(x))


def curved(w):
    """The critic ½‖x‖² + w·x, of slope x + w."""
    return lambda x: jnp.sum(0.5 * x**2 + w[None] * x, axis=features(x))


def norms(x):
    x = np.asarray(x, np.float64)
    return np.sqrt(np.sum(x**2, axis=features(x)))


@every_penalty
def test_every_penalty_passes_the_common_exam(name):
    check_regularizer(PENALTIES[name](2.0))


def test_a_total_passes_the_common_exam():
    check_regularizer(total(r1(2.0), r2(1.0), wgan_gp()))


@every_shape
@given(key=keys(), weight=weights)
def test_penalties_of_a_linear_critic_do_not_depend_on_the_samples(shape, key, weight):
    real, fake, w = samples(key, shape)
    norm = norms(w[None])
    for penalty, expected in (
        (r1(weight), weight / 2 * norm**2),
        (r2(weight), weight / 2 * norm**2),
        (wgan_gp(weight), weight * (norm - 1) ** 2),
    ):
        values = penalty(key, linear(w), real, fake)
        np.testing.assert_allclose(values, np.full(shape[0], expected), rtol=1e-4, atol=1e-4)


@every_shape
@given(key=keys())
def test_r1_is_taken_at_each_real_example_and_r2_at_each_fake(shape, key):
    real, fake, w = samples(key, shape)
    np.testing.assert_allclose(r1(3.0)(key, curved(w), real, fake), 1.5 * norms(real + w[None]) ** 2, rtol=1e-4)
    np.testing.assert_allclose(r2(3.0)(key, curved(w), real, fake), 1.5 * norms(fake + w[None]) ** 2, rtol=1e-4)


@every_shape
@given(key=keys())
def test_wgan_gp_is_taken_on_the_segment_from_fake_to_real(shape, key):
    """With real = p and fake = −p the critic ½‖x‖² has slope (2u − 1)p: the penalty tells u."""
    point = jnp.ones(shape)
    values = wgan_gp(1.0)(key, curved(jnp.zeros(shape[1:])), point, -point)
    radius = np.sqrt(np.prod(shape[1:]))
    outermost = max(1.0, (radius - 1) ** 2)
    assert ((values >= 0) & (values <= outermost * (1 + 1e-5))).all()
    assert len(np.unique(values)) == shape[0], "each example has a mixture of its own"


def test_wgan_gp_mixes_each_example_with_one_number():
    """The critic ½‖x‖² on real = p, fake = 0 has slope u·p: √penalty is |u‖p‖ − 1|, and u is uniform."""
    real = jnp.full((4000, 4), 5.0)  # of norm 10
    values = wgan_gp(1.0)(jax.random.key(0), curved(jnp.zeros(4)), real, jnp.zeros_like(real))
    roots = np.sqrt(np.asarray(values, np.float64))
    # E|10u − 1| = (1² + 9²)/20 = 4.1; a number in [0, 9] deviates by at most 4.5, of which five standard errors.
    assert abs(roots.mean() - 4.1) < 5 * 4.5 / np.sqrt(4000)
    # With one u for each coordinate the norm would concentrate, and its upper end not be reached.
    assert roots.max() > 8.9


def test_wgan_gp_mixes_as_many_real_as_fake():
    real, fake = jnp.full((4000, 1), 3.0), jnp.full((4000, 1), 1.0)  # slopes u·3 + (1 − u)·1 = 1 + 2u
    values = wgan_gp(1.0)(jax.random.key(1), curved(jnp.zeros(1)), real, fake)
    u = np.sqrt(np.asarray(values, np.float64)) / 2
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * 4000)
    assert u.min() < 0.01
    assert u.max() > 0.99


@every_shape
@given(key=keys())
def test_gradients_with_respect_to_a_linear_critic(shape, key):
    """∇w (γ/2)‖w‖² = γw, and ∇w λ(‖w‖ − 1)² = 2λ(1 − 1/‖w‖)w."""
    real, fake, w = samples(key, shape)

    def slope(penalty):
        return jax.grad(lambda w: jnp.mean(penalty(key, linear(w), real, fake)))(w)

    w64 = np.asarray(w, np.float64)
    np.testing.assert_allclose(slope(r1(3.0)), 3 * w64, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slope(r2(3.0)), 3 * w64, rtol=1e-4, atol=1e-5)
    expected = 20 * (1 - 1 / norms(w[None])) * w64
    np.testing.assert_allclose(slope(wgan_gp(10.0)), expected, rtol=1e-3, atol=1e-3)


@given(key=keys())
def test_gradient_with_respect_to_a_curved_critic(key):
    """∇w of the mean of (γ/2)‖x + w‖² is γ(mean x + w)."""
    real, fake, w = samples(key, (5, 3))

    def slope(penalty):
        return jax.grad(lambda w: jnp.mean(penalty(key, curved(w), real, fake)))(w)

    for penalty, points in ((r1(2.0), real), (r2(2.0), fake)):
        expected = 2 * (np.mean(np.asarray(points, np.float64), axis=0) + np.asarray(w, np.float64))
        np.testing.assert_allclose(slope(penalty), expected, rtol=1e-4, atol=1e-4)


@every_penalty
def test_a_flat_critic_has_a_finite_gradient(name):
    key = jax.random.key(0)
    real, fake, w = samples(key, (5, 3))
    penalty = PENALTIES[name](10.0)
    value, slope = jax.value_and_grad(lambda w: jnp.mean(penalty(key, linear(w), real, fake)))(0.0 * w)
    np.testing.assert_allclose(value, 10.0 if name == "wgan_gp" else 0.0)
    np.testing.assert_array_equal(slope, 0.0)


@every_penalty
def test_bfloat16_inputs_are_squared_and_summed_in_float32(name):
    """1 + 2⁻⁷ squared and summed a thousand times in bfloat16 would stall at 256."""
    inputs = jnp.zeros((2, 1000), jnp.bfloat16)
    w = jnp.full((1000,), 1 + 2**-7, jnp.bfloat16)
    values = PENALTIES[name](1.0)(jax.random.key(0), linear(w), inputs, inputs)
    square = 1000 * (1 + 2**-7) ** 2
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, (np.sqrt(square) - 1) ** 2 if name == "wgan_gp" else square / 2, rtol=1e-5)


def test_a_total_is_the_sum():
    key = jax.random.key(0)
    real, fake, w = samples(key, (5, 3))
    expected = 1.0 * norms(real + w[None]) ** 2 + 1.5 * norms(fake + w[None]) ** 2
    np.testing.assert_allclose(total(r1(2.0), r2(3.0))(key, curved(w), real, fake), expected, rtol=1e-4)


def test_the_terms_of_a_total_have_independent_keys():
    key = jax.random.key(0)
    real, fake, w = samples(key, (5, 3))
    both = total(wgan_gp(1.0), wgan_gp(1.0))(key, curved(w), real, fake)
    first = total(wgan_gp(1.0))(key, curved(w), real, fake)
    assert not np.isclose(both, 2 * first).any()


def test_a_total_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"total\(\) has no penalties to add"):
        total()


@every_penalty
def test_a_weight_of_zero_is_no_penalty(name):
    key = jax.random.key(0)
    real, fake, w = samples(key, (5, 3))
    np.testing.assert_array_equal(PENALTIES[name](0.0)(key, curved(w), real, fake), 0.0)


@every_penalty
@pytest.mark.parametrize("weight", [-1, -1e-3, float("nan"), float("inf"), np.float32(-2)])
def test_a_weight_that_is_no_penalty_is_refused(name, weight):
    with pytest.raises(ValueError, match=rf"{name}\(weight={weight}\)"):
        PENALTIES[name](weight)


@every_penalty
def test_a_weight_may_be_traced_and_differentiated(name):
    key = jax.random.key(0)
    real, fake, w = samples(key, (5, 3))

    @jax.jit
    def loss(weight):
        return jnp.mean(PENALTIES[name](weight)(key, curved(w), real, fake))

    np.testing.assert_allclose(loss(2.0), 2 * loss(1.0), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(2.0), loss(1.0), rtol=1e-5)


@every_penalty
def test_a_critic_that_returns_a_column_is_refused(name):
    key = jax.random.key(0)
    real, fake, w = samples(key, (5, 3))
    with pytest.raises(AssertionError):
        PENALTIES[name](1.0)(key, lambda x: linear(w)(x)[:, None], real, fake)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda key, critic, real, fake: jnp.mean(r1(1.0)(key, critic, real, fake)), "has shape"),
        (lambda key, critic, real, fake: -r1(1.0)(key, critic, real, fake), "negative"),
        (lambda key, critic, real, fake: r1(1.0)(key, critic, real, fake) / 0.0, "not finite"),
        (lambda key, critic, real, fake: jnp.sqrt(r1(1.0)(key, critic, real, fake)), "gradient .* a flat critic"),
        (lambda key, critic, real, fake: r1(1.0)(key, critic, real, fake) * jnp.arange(4.0), "order of examples"),
    ],
)
def test_the_common_exam_fails_what_is_broken(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_regularizer(broken)
