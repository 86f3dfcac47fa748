"""Laws and closed forms of the objectives; expected values are NumPy's, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Objective
from gan_jax.objectives import OBJECTIVES, hinge, least_squares, minimax, non_saturating, relativistic, wasserstein
from gan_jax.testing import check_objective, logits

ZERO_SUM = {"minimax", "wasserstein"}
NOT_ZERO_SUM = ["hinge", "least_squares", "non_saturating", "relativistic"]
SMOOTHED = (minimax, non_saturating, least_squares)
UNDECIDED = jnp.zeros(4)  # D = σ(0) = ½
EXTREMES = jnp.array([-1e4, -1e3, 1e3, 1e4])

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
every_player = pytest.mark.parametrize("player", Objective._fields)
# In hundredths: the label 1 − ε is a float, in which an ε below its rounding is no smoothing at all.
smoothings = st.integers(0, 50).map(lambda hundredths: hundredths / 100)


def slope(loss, real, fake, *, of):
    return jax.grad(lambda real, fake: jnp.sum(loss(real, fake)), argnums=("real", "fake").index(of))(real, fake)


# XLA flushes subnormals to zero, so a softplus below 1e-38 may be 0.
TINY = {"rtol": 1e-5, "atol": 1e-37}


def softplus(x):
    return np.logaddexp(0.0, np.asarray(x, np.float64))


@every_objective
def test_every_objective_passes_the_common_exam(name):
    check_objective(OBJECTIVES[name](), zero_sum=name in ZERO_SUM)


@pytest.mark.parametrize("factory", SMOOTHED, ids=lambda factory: factory.__name__)
def test_smoothed_objectives_pass_the_common_exam(factory):
    check_objective(factory(smoothing=0.1), zero_sum=factory is minimax)


@pytest.mark.parametrize("name", NOT_ZERO_SUM)
def test_no_other_pair_is_zero_sum(name):
    with pytest.raises(AssertionError, match="not zero-sum"):
        check_objective(OBJECTIVES[name](), zero_sum=True)


def test_an_undecided_discriminator_loses_two_log_two():
    for pair in (minimax(), non_saturating()):
        np.testing.assert_allclose(pair.discriminator(UNDECIDED, UNDECIDED), 2 * np.log(2), rtol=1e-6)


def test_generators_against_an_undecided_discriminator():
    np.testing.assert_allclose(non_saturating().generator(UNDECIDED, UNDECIDED), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(minimax().generator(UNDECIDED, UNDECIDED), -np.log(2), rtol=1e-6)
    np.testing.assert_allclose(relativistic().generator(UNDECIDED, UNDECIDED), np.log(2), rtol=1e-6)


def test_the_non_saturating_slope_survives_where_a_fake_is_found_out():
    """A loss written −log(σ(x) + 1e-8) has slope −.17 at −20 and 0 at −100."""
    found_out = jnp.array([-1e4, -1e3, -100.0, -20.0])
    assert (slope(non_saturating().generator, found_out, found_out, of="fake") < -0.99).all()
    believed = jnp.array([1e3, 1e4])
    np.testing.assert_array_equal(slope(non_saturating().generator, believed, believed, of="fake"), 0.0)


def test_the_saturating_slope_vanishes_where_a_fake_is_found_out():
    expected = [0.0, 0.0, -1.0, -1.0]
    np.testing.assert_allclose(slope(minimax().generator, EXTREMES, EXTREMES, of="fake"), expected, atol=1e-6)


@given(real=logits(), fake=logits())
def test_cross_entropies_are_softpluses(real, fake):
    np.testing.assert_allclose(minimax().generator(real, fake), -softplus(fake), **TINY)
    np.testing.assert_allclose(non_saturating().generator(real, fake), softplus(-fake), **TINY)
    for pair in (minimax(), non_saturating()):
        np.testing.assert_allclose(pair.discriminator(real, fake), softplus(-real) + softplus(fake), **TINY)


@given(real=logits(), fake=logits())
def test_the_critics_are_piecewise_linear(real, fake):
    r, f = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    np.testing.assert_allclose(wasserstein().discriminator(real, fake), f - r, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(wasserstein().generator(real, fake), -f)
    margins = np.maximum(0, 1 - r) + np.maximum(0, 1 + f)
    np.testing.assert_allclose(hinge().discriminator(real, fake), margins, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(hinge().generator(real, fake), -f)


@given(real=logits(), fake=logits(), smoothing=smoothings)
def test_least_squares_regresses_the_labels(real, fake, smoothing):
    r, f = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    pair = least_squares(smoothing)
    np.testing.assert_allclose(pair.discriminator(real, fake), ((r - 1 + smoothing) ** 2 + f**2) / 2, rtol=1e-4)
    np.testing.assert_allclose(pair.generator(real, fake), (f - 1) ** 2 / 2, rtol=1e-4)


@given(real=logits(), fake=logits(), smoothing=smoothings)
def test_smoothing_labels_real_examples_and_only_them(real, fake, smoothing):
    expected = (1 - smoothing) * softplus(-real) + smoothing * softplus(real) + softplus(fake)
    for factory in (minimax, non_saturating):
        smoothed = factory(smoothing)
        np.testing.assert_allclose(smoothed.discriminator(real, fake), expected, **TINY)
        np.testing.assert_array_equal(smoothed.generator(real, fake), factory().generator(real, fake))


@pytest.mark.parametrize("factory", SMOOTHED, ids=lambda factory: factory.__name__)
def test_smoothing_may_be_traced(factory):
    real, fake = jnp.array([2.0]), jnp.array([-1.0])

    @jax.jit
    def loss(smoothing):
        return factory(smoothing).discriminator(real, fake)[0]

    np.testing.assert_allclose(loss(0.25), factory(0.25).discriminator(real, fake)[0], rtol=1e-6)
    # The cross-entropy moves ε from softplus(−2) to softplus(2); the square (2 − 1 + ε)²/2 has slope 1 + ε.
    expected = 1.25 if factory is least_squares else 2.0
    np.testing.assert_allclose(jax.grad(loss)(0.25), expected, rtol=1e-5)


@pytest.mark.parametrize("factory", SMOOTHED, ids=lambda factory: factory.__name__)
@pytest.mark.parametrize("smoothing", [-0.1, 1, 1.5, float("nan"), np.float32(2.0)])
def test_a_smoothing_that_is_no_probability_is_refused(factory, smoothing):
    with pytest.raises(ValueError, match=rf"smoothing={smoothing} is outside \[0, 1\)"):
        factory(smoothing)


@given(real=logits(), fake=logits())
def test_relativistic_is_the_softplus_of_the_difference(real, fake):
    difference = np.asarray(real) - np.asarray(fake)  # in float32, as a critic gives it
    np.testing.assert_allclose(relativistic().discriminator(real, fake), softplus(-difference), **TINY)
    np.testing.assert_allclose(relativistic().generator(real, fake), softplus(difference), **TINY)


@every_player
@given(real=logits(bound=100.0), fake=logits(bound=100.0), level=st.floats(-100, 100, width=32))
def test_relativistic_ignores_the_level_of_the_critic(player, real, fake, level):
    loss = getattr(relativistic(), player)
    np.testing.assert_allclose(loss(real + level, fake + level), loss(real, fake), rtol=1e-3, atol=1e-4)


@every_objective
@every_player
@given(real=logits(), fake=logits(), order=st.permutations(range(4)))
def test_permuting_the_pairs_permutes_the_losses(name, player, real, fake, order):
    loss, order = getattr(OBJECTIVES[name](), player), jnp.array(order)
    np.testing.assert_allclose(loss(real[order], fake[order]), loss(real, fake)[order], rtol=1e-6)


def test_relativistic_depends_on_the_pairing():
    real, fake = jnp.array([0.0, 1.0]), jnp.array([0.0, 1.0])
    loss = relativistic().discriminator
    assert not np.allclose(jnp.mean(loss(real, fake)), jnp.mean(loss(real, fake[::-1])))


@every_objective
@every_player
def test_a_column_of_logits_is_refused(name, player):
    loss = getattr(OBJECTIVES[name](), player)
    for real, fake in (((4,), (4, 1)), ((4, 1), (4,)), ((4, 1), (4, 1)), ((4,), (3,)), ((), ())):
        with pytest.raises(AssertionError):
            jax.eval_shape(loss, jnp.zeros(real), jnp.zeros(fake))


def pair(generator, discriminator):
    return Objective(generator=generator, discriminator=discriminator)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (pair(lambda r, f: -f, lambda r, f: r - f), "must fall with a real logit"),
        (pair(lambda r, f: -f, lambda r, f: -r - f), "must rise with a fake logit"),
        (pair(lambda r, f: f, lambda r, f: f - r), "generator's loss must fall"),
        (pair(lambda r, f: -f, lambda r, f: jnp.mean(f - r)), "no mean"),
        (pair(lambda r, f: -jnp.log(jax.nn.sigmoid(f)), lambda r, f: f - r), "not finite"),
        (pair(lambda r, f: jnp.sqrt(jnp.maximum(-f, 0.0)), lambda r, f: f - r), "slope is not finite"),
        (pair(lambda r, f: -f, lambda r, f: f - r[::-1]), "order of examples"),
    ],
)
def test_the_common_exam_fails_what_is_broken(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_objective(broken)
