"""Closed forms of the penalties on critics whose slopes are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.penalties import PENALTIES, dragan, r1, r2, total, weight_clipping, wgan_gp, wgan_lp, zero_centred
from gan_jax.testing import check_regularizer, keys

SHAPES = [(5, 3), (4, 2, 3, 1)]  # vectors [B, D], images [B, H, W, C]

# What each penalty of weight 1 makes of a slope of norm s, wherever it is taken. A penalty without a row is examined by
# the laws of all of them alone.
OF_A_SLOPE = {
    "r1": lambda s: s**2 / 2,
    "r2": lambda s: s**2 / 2,
    "wgan_gp": lambda s: (s - 1) ** 2,
    "wgan_lp": lambda s: np.maximum(0, s - 1) ** 2,
    "zero_centred": lambda s: s**2,
    "dragan": lambda s: (s - 1) ** 2,
}

every_penalty = pytest.mark.parametrize("name", PENALTIES)
known_penalty = pytest.mark.parametrize("name", OF_A_SLOPE)
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


@pytest.mark.slow
@every_penalty
def test_every_penalty_passes_the_common_exam(name):
    check_regularizer(PENALTIES[name](2.0))


@pytest.mark.slow
def test_a_total_passes_the_common_exam():
    check_regularizer(total(r1(2.0), r2(1.0), wgan_gp()))


@known_penalty
@every_shape
@given(key=keys(), weight=weights, size=st.sampled_from([0.1, 1.0, 3.0]))
def test_penalties_of_a_linear_critic_do_not_depend_on_the_samples(name, shape, key, weight, size):
    real, fake, w = samples(key, shape)
    expected = weight * OF_A_SLOPE[name](norms(size * w[None]))
    values = PENALTIES[name](weight)(key, linear(size * w), real, fake)
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


@pytest.mark.slow
def test_wgan_gp_mixes_each_example_with_one_number():
    """The critic ½‖x‖² on real = p, fake = 0 has slope u·p: √penalty is |u‖p‖ − 1|, and u is uniform."""
    real = jnp.full((4000, 4), 5.0)  # of norm 10
    values = wgan_gp(1.0)(jax.random.key(0), curved(jnp.zeros(4)), real, jnp.zeros_like(real))
    roots = np.sqrt(np.asarray(values, np.float64))
    # E|10u − 1| = (1² + 9²)/20 = 4.1; a number in [0, 9] deviates by at most 4.5, of which five standard errors.
    assert abs(roots.mean() - 4.1) < 5 * 4.5 / np.sqrt(4000)
    # With one u for each coordinate the norm would concentrate, and its upper end not be reached.
    assert roots.max() > 8.9


@pytest.mark.parametrize("penalty", [wgan_gp, wgan_lp, zero_centred], ids=lambda penalty: penalty.__name__)
def test_points_between_real_and_fake_are_uniform_on_the_segment(penalty):
    """The critic ½x² on real 6 and fake 2 has slopes 2 + 4u: all three penalties tell u."""
    real, fake = jnp.full((4000, 1), 6.0), jnp.full((4000, 1), 2.0)
    roots = np.sqrt(np.asarray(penalty(1.0)(jax.random.key(2), curved(jnp.zeros(1)), real, fake), np.float64))
    u = (roots + (0 if penalty is zero_centred else 1) - 2) / 4
    assert u.min() > -1e-6
    assert u.max() < 1 + 1e-6
    # Each decile holds 400 of 4000, of standard deviation √360 ≈ 19.
    assert (abs(np.histogram(u, bins=10, range=(-1e-6, 1 + 1e-6))[0] - 400) < 5 * 19).all()


def noise_of_dragan(key, real, **arguments):
    """Recover x̂ − x: the critic ½xᵢ² has slope x̂ᵢ, here above 1, and the penalty of one key tells each."""

    def one(i):
        values = dragan(1.0, **arguments)(key, lambda x: 0.5 * x[:, i] ** 2, real, 0 * real)
        return 1 + np.sqrt(np.asarray(values, np.float64)) - np.asarray(real[:, i], np.float64)

    return np.stack([one(i) for i in range(real.shape[1])], axis=1)


@pytest.mark.slow
def test_dragan_perturbs_by_half_the_deviation_of_the_batch():
    """u·½·σ·v with one u for each example: columns of 2 and of 6 deviate by 0 each, and together by σ = 2."""
    count = 4000
    real = jnp.tile(jnp.array([[2.0, 6.0]]), (count, 1))
    noise = noise_of_dragan(jax.random.key(0), real)
    assert noise.min() > -1e-5
    assert 0.9 < noise.max() < 1.0
    # Of uv, the mean is ¼, the variance 1/9 − 1/16, and the correlation for a common u is (1/12 − 1/16) / (1/9 − 1/16).
    variance = 1 / 9 - 1 / 16
    assert (abs(noise.mean(axis=0) - 1 / 4) < 5 * np.sqrt(variance / count)).all()
    assert abs(np.corrcoef(noise.T)[0, 1] - (1 / 12 - 1 / 16) / variance) < 5 / np.sqrt(count)


@pytest.mark.slow
@given(key=keys(), scale=st.sampled_from([0.0, 0.25, 2.0]))
def test_the_perturbation_of_dragan_is_proportional_to_its_scale_and_ignores_fakes(key, scale):
    real = jax.random.uniform(key, (5, 3), minval=3.0, maxval=5.0)
    expected = 2 * scale * noise_of_dragan(key, real)
    np.testing.assert_allclose(noise_of_dragan(key, real, scale=scale), expected, atol=1e-4)
    values = [dragan()(key, curved(jnp.ones(3)), real, fake) for fake in (real, -9 * real)]
    np.testing.assert_array_equal(*values)


@pytest.mark.parametrize("scale", [-1, float("nan"), float("inf")])
def test_a_scale_that_is_no_size_is_refused(scale):
    with pytest.raises(ValueError, match=rf"dragan\(scale={scale}\)"):
        dragan(scale=scale)


@jax.jit
def slopes_of_means(key, real, fake, w):
    penalties = (r1(3.0), r2(3.0), zero_centred(3.0), wgan_gp(10.0), dragan(10.0), wgan_lp(10.0))
    return [jax.grad(lambda w, each=each: jnp.mean(each(key, linear(w), real, fake)))(w) for each in penalties]


@every_shape
@given(key=keys())
def test_gradients_with_respect_to_a_linear_critic(shape, key):
    """∇w (γ/2)‖w‖² = γw, ∇w λ‖w‖² = 2λw and ∇w λ(‖w‖ − 1)² = 2λ(1 − 1/‖w‖)w."""
    real, fake, w = samples(key, shape)
    w64 = np.asarray(w, np.float64)
    factor = 20 * (1 - 1 / norms(w[None]))
    expected = [3 * w64, 3 * w64, 6 * w64, factor * w64, factor * w64, np.maximum(0, factor) * w64]
    for slope, wanted in zip(slopes_of_means(key, real, fake, w), expected, strict=True):
        np.testing.assert_allclose(slope, wanted, rtol=1e-3, atol=1e-3)


@given(key=keys())
def test_gradient_with_respect_to_a_curved_critic(key):
    """∇w of the mean of (γ/2)‖x + w‖² is γ(mean x + w)."""
    real, fake, w = samples(key, (5, 3))

    def slope(penalty):
        return jax.grad(lambda w: jnp.mean(penalty(key, curved(w), real, fake)))(w)

    for penalty, points in ((r1(2.0), real), (r2(2.0), fake)):
        expected = 2 * (np.mean(np.asarray(points, np.float64), axis=0) + np.asarray(w, np.float64))
        np.testing.assert_allclose(slope(penalty), expected, rtol=1e-4, atol=1e-4)


@known_penalty
def test_a_flat_critic_has_a_finite_gradient(name):
    key = jax.random.key(0)
    real, fake, w = samples(key, (5, 3))
    penalty = PENALTIES[name](10.0)
    value, slope = jax.value_and_grad(lambda w: jnp.mean(penalty(key, linear(w), real, fake)))(0.0 * w)
    np.testing.assert_allclose(value, 10.0 * OF_A_SLOPE[name](0.0))
    np.testing.assert_array_equal(slope, 0.0)


@known_penalty
def test_bfloat16_inputs_are_squared_and_summed_in_float32(name):
    """1 + 2⁻⁷ squared and summed a thousand times in bfloat16 would stall at 256."""
    inputs = jnp.zeros((2, 1000), jnp.bfloat16)
    w = jnp.full((1000,), 1 + 2**-7, jnp.bfloat16)
    values = PENALTIES[name](1.0)(jax.random.key(0), linear(w), inputs, inputs)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, OF_A_SLOPE[name](np.sqrt(1000) * (1 + 2**-7)), rtol=1e-5)


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
    # What is made of others may refuse in their names.
    with pytest.raises(ValueError, match=rf"{name if name in OF_A_SLOPE else ''}\(weight={weight}\)"):
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
        (lambda key, critic, real, fake: r1(1.0)(key, critic, 0 * real, fake), "sees no examples"),
        (lambda key, critic, real, fake: jax.lax.stop_gradient(r1(1.0)(key, critic, real, fake)), "does not reach"),
    ],
)
def test_the_common_exam_fails_what_is_broken(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_regularizer(broken)


OPTIMISERS = {
    "sgd": lambda rate: optax.sgd(rate),
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "rmsprop": lambda rate: optax.rmsprop(rate),
    "adam": lambda rate: optax.adam(rate, b1=0.5),
    "adamw": lambda rate: optax.adamw(rate),
}
every_optimiser = pytest.mark.parametrize("name", OPTIMISERS)
bounds = st.floats(2.0**-10, 8.0, width=32)


def weights_and_gradients(key):
    key, other = jax.random.split(key)
    tree = {"kernel": jax.random.normal(key, (40, 25)), "bias": jax.random.normal(other, (7,))}
    return tree, jax.tree.map(lambda leaf: jnp.sin(100 * leaf), tree)


@every_optimiser
@given(key=keys(), bound=bounds, rate=st.sampled_from([1e-4, 0.3, 100.0]))
def test_clipped_weights_lie_within_the_bound_after_each_step(name, key, bound, rate):
    params, gradients = weights_and_gradients(key)
    clipped, plain = weight_clipping(OPTIMISERS[name](rate), bound), OPTIMISERS[name](rate)
    state, expected_state = clipped.init(params), plain.init(params)
    for _ in range(3):
        expected_update, expected_state = plain.update(gradients, expected_state, params)
        updates, state = clipped.update(gradients, state, params)
        expected = jax.tree.map(lambda w, u: np.clip(np.asarray(w + u), -bound, bound), params, expected_update)
        params = optax.apply_updates(params, updates)
        for leaf, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
            assert (abs(leaf) <= bound).all()  # to the last bit
            np.testing.assert_allclose(leaf, wanted, atol=2e-6)  # the rounding of weights that come from outside
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)


@every_optimiser
@given(key=keys())
def test_clipping_at_rate_zero_leaves_weights_inside(name, key):
    params, gradients = weights_and_gradients(key)
    optimiser = weight_clipping(OPTIMISERS[name](0.0), 10.0)
    updates, _ = optimiser.update(gradients, optimiser.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, optax.apply_updates(params, updates), params)


def test_clipping_passes_the_slope_of_a_rate_where_a_weight_is_free():
    """Inside a weight is w − r·g, at the bound −c: the slopes with respect to r are −g and 0."""
    params, gradients = jnp.array([0.1, -0.45]), jnp.array([2.0, 3.0])

    @jax.jit
    def stepped(rate, bound):
        optimiser = weight_clipping(optax.sgd(rate), bound)
        return optax.apply_updates(params, optimiser.update(gradients, optimiser.init(params), params)[0])

    np.testing.assert_allclose(stepped(0.1, 0.5), [-0.1, -0.5], rtol=1e-6)
    np.testing.assert_allclose(jax.jacobian(stepped)(0.1, 0.5), [-2.0, 0.0])
    np.testing.assert_allclose(jax.jacobian(stepped, argnums=1)(0.1, 0.5), [0.0, -1.0])


def test_clipping_keeps_bfloat16_weights_within_the_bound_of_their_precision():
    params = jnp.linspace(-1, 1, 101, dtype=jnp.bfloat16)
    optimiser = weight_clipping(optax.sgd(0.1), 0.3)
    updates, _ = optimiser.update(-params, optimiser.init(params), params)
    new = optax.apply_updates(params, updates)
    assert new.dtype == jnp.bfloat16
    assert (abs(new) <= jnp.bfloat16(0.3)).all()


@pytest.mark.parametrize("bound", [0, -0.01, float("nan"), float("inf")])
def test_a_bound_that_leaves_no_weights_is_refused(bound):
    with pytest.raises(ValueError, match=rf"weight_clipping\(bound={bound}\)"):
        weight_clipping(optax.sgd(0.1), bound)


def test_clipping_without_weights_is_refused():
    optimiser = weight_clipping(optax.sgd(0.1), 0.01)
    with pytest.raises(ValueError, match="acts on the weights"):
        optimiser.update(jnp.ones(3), optimiser.init(jnp.ones(3)))
