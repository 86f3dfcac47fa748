"""Moments, supports and paths of the latents; the bounds on moments are five standard errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gan_jax.latents import LATENTS, slerp, sphere, truncated
from gan_jax.testing import keys

DRAWS, DIM = 4096, 5

every_latent = pytest.mark.parametrize("name", LATENTS)
fractions = st.floats(0.0, 1.0, width=32, allow_subnormal=False)


def truncated_moments(bound):
    """The variance and the fourth moment of N(0, 1) on [−b, b], by parts: m₂ = 1 − h, m₄ = 3m₂ − b²h."""
    height = 2 * bound * math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi) / math.erf(bound / math.sqrt(2))
    return 1 - height, 3 * (1 - height) - bound**2 * height


# Variance and fourth moment of one coordinate; on the sphere of radius √d it is 3d/(d + 2).
MOMENTS = {
    "normal": (1.0, 3.0),
    "uniform": (1 / 3, 1 / 5),
    "sphere": (1.0, 3 * DIM / (DIM + 2)),
    "truncated": truncated_moments(2.0),
}


@every_latent
def test_moments(name):
    draws = np.asarray(LATENTS[name](DIM)(jax.random.key(0), DRAWS), np.float64)
    variance, fourth = MOMENTS[name]
    assert draws.shape == (DRAWS, DIM)
    assert (abs(draws.mean(axis=0)) < 5 * math.sqrt(variance / DRAWS)).all()
    second = draws.T @ draws / DRAWS
    assert (abs(np.diag(second) - variance) < 5 * math.sqrt((fourth - variance**2) / DRAWS)).all()
    # Coordinates are uncorrelated; E[x²y²] is at most the fourth moment.
    assert (abs(second - np.diag(np.diag(second))) < 5 * math.sqrt(fourth / DRAWS)).all()


@every_latent
@given(key=keys())
def test_a_key_determines_the_draws_and_two_keys_differ(name, key):
    draw = LATENTS[name](DIM)
    np.testing.assert_array_equal(draw(key, 3), draw(key, 3))
    assert not jnp.array_equal(draw(key, 3), draw(jax.random.fold_in(key, 1), 3))


@pytest.mark.parametrize("dim", [1, 2, 64])
@given(key=keys())
def test_the_sphere_has_radius_root_dim(dim, key):
    radii = np.linalg.norm(np.asarray(sphere(dim)(key, 8), np.float64), axis=-1)
    np.testing.assert_allclose(radii, np.full(8, math.sqrt(dim)), rtol=1e-5)


def test_a_normal_draw_of_zero_is_still_put_on_the_sphere(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.zeros(shape))
    np.testing.assert_allclose(jnp.abs(sphere(4)(jax.random.key(0), 2)), 1.0)


@pytest.mark.parametrize("bound", [0.5, 2.0, 4])
@given(key=keys())
def test_truncated_stays_within_its_bound(bound, key):
    assert (jnp.abs(truncated(16, bound)(key, 64)) <= bound).all()


@given(key=keys())
def test_uniform_stays_within_the_cube(key):
    assert (jnp.abs(LATENTS["uniform"](16)(key, 64)) <= 1.0).all()


def test_a_bound_may_be_traced():
    key = jax.random.key(0)
    traced = jax.jit(lambda bound: truncated(3, bound)(key, 4))(1.5)
    np.testing.assert_allclose(traced, truncated(3, 1.5)(key, 4), rtol=1e-5)


@every_latent
@pytest.mark.parametrize("dim", [0, -3])
def test_a_latent_without_coordinates_is_refused(name, dim):
    with pytest.raises(ValueError, match=rf"{name}\(dim={dim}\)"):
        LATENTS[name](dim)


@pytest.mark.parametrize("bound", [0, -1.0, float("nan")])
def test_a_bound_that_leaves_nothing_is_refused(bound):
    with pytest.raises(ValueError, match=rf"truncated\(bound={bound}\)"):
        truncated(3, bound)


def test_slerp_of_orthonormal_vectors():
    a, b = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0])
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 0.5), [math.sqrt(0.5), math.sqrt(0.5), 0.0], rtol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, atol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 1 / 3), [math.cos(math.pi / 6), 0.5, 0.0], rtol=1e-6)


@given(angle=st.floats(0.0, 3.0, width=32), t=fractions)
def test_slerp_turns_at_a_constant_rate(angle, t):
    a, b = jnp.array([2.0, 0.0]), 2 * jnp.array([math.cos(angle), math.sin(angle)])
    np.testing.assert_allclose(slerp(a, b, t), [2 * math.cos(t * angle), 2 * math.sin(t * angle)], atol=1e-4)


@given(key=keys(), t=fractions)
def test_slerp_keeps_a_common_norm(key, t):
    a, b = sphere(8)(key, 2)
    assume(jnp.dot(a, b) > -0.9 * 8)  # nearer to opposite, float32 loses the plane of the circle
    np.testing.assert_allclose(jnp.linalg.norm(slerp(a, b, t)), math.sqrt(8), rtol=1e-4)


@given(key=keys(), t=fractions)
def test_slerp_is_symmetric(key, t):
    a, b = jax.random.normal(key, (2, 8))
    np.testing.assert_allclose(slerp(a, b, t), slerp(b, a, 1 - t), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 2.0, 0.0, -1.0])
@given(t=fractions)
def test_slerp_is_the_straight_line_where_there_is_no_one_circle(factor, t):
    a = jnp.array([1.0, 2.0, -2.0])
    np.testing.assert_allclose(slerp(a, factor * a, t), (1 - t + factor * t) * a, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slerp(factor * a, a, t), (factor * (1 - t) + t) * a, rtol=1e-5, atol=1e-6)
    for slopes in jax.jacobian(slerp, argnums=(0, 1, 2))(a, factor * a, t):
        assert jnp.isfinite(slopes).all()


@pytest.mark.slow
def test_slerp_of_a_batch_is_that_of_its_rows():
    a, b = jax.random.normal(jax.random.key(0), (2, 4, 3))
    a, b = a.at[1].set(0.0), b.at[2].set(a[2])
    rows = jnp.stack([slerp(a[i], b[i], 0.3) for i in range(4)])
    np.testing.assert_allclose(slerp(a, b, 0.3), rows, rtol=1e-5, atol=1e-6)
    path = jax.vmap(slerp, (None, None, 0))(a, b, jnp.array([0.0, 0.3]))
    np.testing.assert_allclose(path[1], rows, rtol=1e-5, atol=1e-6)
