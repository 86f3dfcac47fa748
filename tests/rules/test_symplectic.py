"""Symplectic gradient adjustment against its matrix."""

import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Pair
from gan_jax.rules.symplectic import symplectic
from tests.rules.quadratics import SHAPES, Quadratic, field, modulus, place, plain, random, spread, step

seeds = st.integers(0, 2**31 - 1)
rates = st.tuples(st.floats(0, 1), st.floats(0, 1))
weights = st.floats(0, 3)
shapes = st.sampled_from(SHAPES)


def aligned(rates, weight):
    return symplectic(rates, weight, align=True)


@pytest.mark.slow
@given(seeds, rates, weights, shapes)
def test_a_step_is_its_matrix(seed, rates, weight, shape):
    quadratic, w = random(seed, shape), place(seed, shape)
    xi, jacobian = field(quadratic, shape, w)
    antisymmetric = (jacobian - jacobian.T) / 2
    moved = step(symplectic, shape, rates, quadratic, w, (weight,))
    np.testing.assert_allclose(moved, w - spread(rates, shape) * (xi + weight * antisymmetric.T @ xi), atol=1e-10)


@given(seeds, rates, weights, shapes)
def test_a_potential_game_is_left_alone(seed, rates, weight, shape):
    quadratic, w = random(seed, shape, "potential"), place(seed, shape)
    moved = step(symplectic, shape, rates, quadratic, w, (weight,))
    np.testing.assert_allclose(moved, step(plain, shape, rates, quadratic, w), atol=1e-12)


@given(seeds, st.floats(0.1, 3), shapes)
def test_in_a_hamiltonian_game_it_descends_the_hamiltonian(seed, weight, shape):
    quadratic, w = random(seed, shape, "bilinear"), place(seed, shape)
    largest = np.linalg.norm(quadratic.matrices.generator, 2)
    # Along each pair of singular vectors a step scales H by (1 − hλσ²)² + h²σ²: below 1 for h < 2λ/(1 + λ²σ²).
    rate = weight / (1 + weight**2 * largest**2)
    moved = step(symplectic, shape, (rate, rate), quadratic, w, (weight,))
    unadjusted = step(plain, shape, (rate, rate), quadratic, w)
    before, after, without = (np.sum(field(quadratic, shape, at)[0] ** 2) / 2 for at in (w, moved, unadjusted))
    assert after < before < without


@pytest.mark.slow
@given(seeds, rates, weights, shapes)
def test_the_aligned_sign_is_the_papers(seed, rates, weight, shape):
    quadratic, w = random(seed, shape), place(seed, shape)
    xi, jacobian = field(quadratic, shape, w)
    adjustment, slope = (jacobian.T - jacobian) / 2 @ xi, jacobian.T @ xi
    sign = np.sign((xi @ slope) * (adjustment @ slope) / len(w) + 0.1)
    moved = step(aligned, shape, rates, quadratic, w, (weight,))
    np.testing.assert_allclose(moved, w - spread(rates, shape) * (xi + sign * weight * adjustment), atol=1e-10)


def spiral(stretch, turn):
    """J = [[stretch, turn], [−turn, stretch]]: of both players, the loss is ½·stretch·mine² ± turn·mine·other."""
    return Quadratic(
        Pair(np.array([[stretch, turn], [turn, 0]]), np.array([[0, -turn], [-turn, stretch]])),
        Pair(np.zeros(2), np.zeros(2)),
    )


def test_aligned_it_is_drawn_to_stable_points_and_driven_from_unstable_ones():
    unstable, stable = spiral(-0.5, 1.0), spiral(0.5, 1.0)
    # ξ + λAᵀξ has the real parts stretch + λ·turn² of its Jacobian.
    assert modulus(aligned, (0.01, 0.01), stable, (1, 1), (1.0,)) < 1
    w = np.array([1.0, 2.0])
    for quadratic, grows in ((stable, False), (unstable, True)):
        moved = step(aligned, (1, 1), (0.01, 0.01), quadratic, w, (1.0,))
        assert (np.linalg.norm(moved) > np.linalg.norm(w)) == grows
    # Without alignment the unstable point attracts.
    assert np.linalg.norm(step(symplectic, (1, 1), (0.01, 0.01), unstable, w, (1.0,))) < np.linalg.norm(w)


@pytest.mark.parametrize(("size", "sign"), [(0.6, 1), (0.8, -1)])
def test_a_tenth_of_the_products_per_parameter_decides_the_sign(size, sign):
    # With J = spiral(−½, 1), ‖ξ‖² = 1.25‖w‖², the products are −½‖ξ‖²·‖ξ‖²: over d = 2 they reach −.1 at ‖w‖ = .711.
    w = np.array([size, 0.0])
    moved = step(aligned, (1, 1), (0.1, 0.1), spiral(-0.5, 1.0), w, (1.0,))
    xi = np.array([-0.5 * size, -size])
    np.testing.assert_allclose(moved, w - 0.1 * (xi + sign * np.array([[0, -1], [1, 0]]) @ xi), atol=1e-12)


def default(rates):
    return symplectic(rates)


@given(seeds, rates)
def test_by_default_the_weight_is_one_and_unaligned(seed, rates):
    quadratic, w = random(seed, (2, 3)), place(seed, (2, 3))
    found = step(default, (2, 3), rates, quadratic, w)
    np.testing.assert_allclose(found, step(symplectic, (2, 3), rates, quadratic, w, (1.0,)), atol=1e-12)


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan"), True, "1", np.ones(2)])
def test_a_weight_that_is_no_number_of_at_least_zero_is_refused(weight):
    with pytest.raises(ValueError, match="weight="):
        symplectic(Pair(0.1, 0.1), weight)


def test_rates_and_counts_are_checked():
    with pytest.raises(ValueError, match="rate"):
        symplectic(Pair(-0.1, 0.1))
    with pytest.raises(ValueError, match="rates"):
        symplectic(Pair(optax.sgd(0.1), optax.sgd(0.1)))
    with pytest.raises(ValueError, match="lazy=0"):
        symplectic(Pair(0.1, 0.1), lazy=0)
