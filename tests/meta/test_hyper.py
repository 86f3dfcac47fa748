"""Coordinates of hyperparameters against the logistic function of NumPy and SciPy, in float64."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from gan_jax.base import Pair
from gan_jax.gan import Hypers
from gan_jax.meta.hyper import Interval, coordinates, hyper, random, space
from gan_jax.testing import keys

RATE, UNIT = Interval(1e-5, 1e-1, log=True), Interval(0.0, 0.99)
LEARNED = space(
    Hypers(Pair(2e-4, 1e-3), 0.5, penalty=10, smoothing=0.1),
    Hypers(Pair(RATE, RATE), UNIT, Interval(1e-2, 100.0, log=True), None),
)
# Where float32 runs out of positions, and far beyond.
FAR = np.array([0, 1e-7, 5, 15, 16, 17, 18, 30, 80, 88, 104, 1e4, 1e30], np.float32)
FAR = jnp.asarray(np.concatenate([-FAR, FAR]))


@st.composite
def intervals(draw):
    """Bounds that float32 can hold, not narrower than it resolves."""
    if draw(st.booleans()):
        low = draw(st.floats(2**-20, 128, width=32))
        return Interval(low, float(np.float32(low * draw(st.floats(2, 1e4)))), log=True)
    low = draw(st.floats(-100, 100, width=32, allow_subnormal=False))
    return Interval(low, float(np.float32(low + draw(st.floats(1, 1e3)))))


def scalar(bound):
    """The space of one number, its default in the middle."""
    return space(math.sqrt(bound.low * bound.high) if bound.log else (bound.low + bound.high) / 2, bound)


def expected(bound, where):
    """The number at a coordinate and its slope there, in float64."""
    where = np.asarray(where, np.float64)
    flat = expit(where) * expit(-where)
    if not bound.log:
        return bound.low + (bound.high - bound.low) * expit(where), (bound.high - bound.low) * flat
    width = math.log(bound.high) - math.log(bound.low)
    number = np.exp(math.log(bound.low) + width * expit(where))
    return number, number * width * flat


@given(intervals())
def test_numbers_and_slopes_are_the_closed_forms(bound):
    where = jnp.linspace(-12.0, 12.0, 49)
    numbers, slopes = jax.vmap(jax.value_and_grad(partial(hyper, scalar(bound))))(where)
    number, slope = expected(bound, where)
    np.testing.assert_allclose(numbers, number, rtol=1e-5, atol=1e-6 * max(abs(bound.low), abs(bound.high)))
    np.testing.assert_allclose(slopes, slope, rtol=1e-4)


@given(intervals())
def test_numbers_rise_with_their_coordinates(bound):
    with jax.enable_x64(True):
        numbers = hyper(scalar(bound), jnp.linspace(-15.0, 15.0, 301))
    assert (np.diff(numbers) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@given(intervals())
def test_no_coordinate_leaves_the_bounds_and_slopes_are_finite(transform, bound):
    numbers = transform(lambda where: hyper(scalar(bound), where))(FAR)
    assert (np.asarray(numbers) >= np.float32(bound.low)).all() and (numbers <= np.float32(bound.high)).all()
    slopes = jax.grad(lambda where: hyper(scalar(bound), where).sum())(FAR)
    assert jnp.isfinite(slopes).all() and (slopes >= 0).all()


@given(st.sampled_from([RATE, UNIT, Interval(-3.0, 5.0), Interval(1e-2, 100.0, log=True)]), st.floats(-7, 7, width=32))
def test_coordinates_are_the_logits_of_the_place_and_are_undone(bound, where):
    number = expected(bound, where)[0]
    np.testing.assert_allclose(coordinates(scalar(bound), float(number)), where, atol=1e-3)
    np.testing.assert_allclose(coordinates(scalar(bound), hyper(scalar(bound), where)), where, atol=1e-3)


@given(st.floats(1.1e-5, 0.09), st.floats(0.01, 0.98))
def test_the_way_there_and_back_gives_the_hyperparameters(rate, beta1):
    given = LEARNED.default._replace(rates=Pair(rate, 1e-3), beta1=beta1)
    back = hyper(LEARNED, coordinates(LEARNED, given))
    np.testing.assert_allclose(jax.tree.leaves(back), jax.tree.leaves(given), rtol=1e-4)


def test_the_default_is_what_has_coordinates_unless_others_are_given():
    assert coordinates(LEARNED) == coordinates(LEARNED, LEARNED.default)
    for leaf in jax.tree.leaves(coordinates(LEARNED)):  # a weak type would be another one after a step of an optimiser
        assert leaf.dtype == jnp.float32 and not leaf.weak_type


def test_what_is_fixed_has_no_coordinate_and_stays_the_very_object():
    default = {"a": 0.5, "b": "nothing to learn", "c": {"d": jnp.ones(2), "e": 3}}
    fixed = space(default, {"a": UNIT, "b": None, "c": None})
    assert jax.tree.leaves(coordinates(fixed)) == [coordinates(fixed)["a"]]
    found = hyper(fixed, {"a": jnp.float32(3.0), "b": None, "c": None})
    assert found["b"] is fixed.default["b"] and found["c"] is fixed.default["c"]
    assert coordinates(LEARNED).smoothing is None and hyper(LEARNED, coordinates(LEARNED)).smoothing == 0.1


def test_an_interval_is_for_each_element_of_what_stands_in_its_place():
    rates = {"kernel": jnp.array([[1e-4, 2e-3]]), "bias": jnp.array(3e-2)}
    each = space(Pair(rates, 2e-4), Pair(RATE, RATE))
    spelled = space(Pair(rates, 2e-4), Pair({"kernel": RATE, "bias": RATE}, RATE))
    for mine in (each, spelled, space(Pair(rates, 2e-4), RATE), space(Pair(1e-3, 2e-4), Pair(RATE, RATE))):
        # The last has a number where a tree is given.
        where = coordinates(mine, Pair(rates, 2e-4))
        place = np.log(np.array([1e-4, 2e-3]) / 1e-5) / np.log(1e4)
        np.testing.assert_allclose(where.generator["kernel"], [np.log(place / (1 - place))], rtol=1e-4)
        found = hyper(mine, where)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, Pair(rates, 2e-4))


def test_it_is_a_function_under_jit_vmap_and_grad():
    where = jax.tree.map(lambda leaf: leaf + jnp.array([0.0, -1.0, 2.0]), coordinates(LEARNED))
    rows = jax.vmap(partial(hyper, LEARNED))(where)
    for row in range(3):
        one = jax.tree.map(lambda leaf, row=row: leaf[row], where)
        alone = hyper(LEARNED, one)
        np.testing.assert_allclose([leaf[row] for leaf in jax.tree.leaves(rows)], jax.tree.leaves(alone), rtol=1e-5)
        compiled = jax.jit(partial(hyper, LEARNED))(one)
        np.testing.assert_allclose(jax.tree.leaves(compiled), jax.tree.leaves(alone), rtol=1e-5)
    back = jax.jit(jax.vmap(partial(coordinates, LEARNED)))(rows)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), back, where)


def test_the_hypergradient_of_a_rate_passes_through_its_coordinate():
    """THEORY's closed form: w after k steps on ½(w − c)² is c + (1 − r)ᵏ(w − c), and ½(w − q)² is the query loss."""
    w, c, q, k, rate = 2.0, -1.0, 0.5, 3, Interval(1e-3, 1.0, log=True)
    learned = space(Pair(0.1, 0.7), Pair(rate, None))

    def query(where):
        found, r = w, hyper(learned, where).generator
        for _ in range(k):
            found = found - r * (found - c)
        return 0.5 * (found - q) ** 2

    slope = jax.grad(query)(coordinates(learned))
    by_rate = (c + 0.9**k * (w - c) - q) * -k * 0.9 ** (k - 1) * (w - c)
    place = math.log(0.1 / 1e-3) / math.log(1e3)
    np.testing.assert_allclose(slope.generator, by_rate * 0.1 * math.log(1e3) * place * (1 - place), rtol=1e-4)
    assert slope.discriminator is None


@pytest.mark.parametrize("optimiser", [optax.sgd(1e6), optax.adam(10.0)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_descent_on_coordinates_cannot_leave_the_bounds(optimiser, sign):
    """Whatever the losses ask for, and at any rate."""

    def loss(where):
        found = hyper(LEARNED, where)
        return sign * (1e3 * sum(found.rates) + found.beta1 + found.penalty + found.smoothing)

    def step(carry, _):
        where, memory = carry
        updates, memory = optimiser.update(jax.grad(loss)(where), memory, where)
        where = optax.apply_updates(where, updates)
        return (where, memory), hyper(LEARNED, where)

    where = coordinates(LEARNED)
    (where, _), path = jax.jit(lambda carry: jax.lax.scan(step, carry, length=20))((where, optimiser.init(where)))
    for bound, found in ((RATE, path.rates.generator), (UNIT, path.beta1), (Interval(1e-2, 100.0), path.penalty)):
        assert (found >= np.float32(bound.low)).all() and (found <= np.float32(bound.high)).all()
        np.testing.assert_allclose(found[-1], bound.low if sign > 0 else bound.high, rtol=1e-2, atol=1e-2)
    assert (path.smoothing == np.float32(0.1)).all()
    assert jnp.isfinite(jnp.stack(jax.tree.leaves(where))).all()


@pytest.mark.slow
def test_a_random_draw_is_uniform_on_the_scale_of_each_number():
    drawn = space(Hypers(Pair(jnp.full(2, 1e-3), 1e-3), 0.5), Hypers(Pair(RATE, None), UNIT, None, None))
    found = jax.vmap(partial(random, drawn))(jax.random.split(jax.random.key(0), 4096))
    assert (found.penalty == 0.0).all() and (found.smoothing == 0.0).all()
    places = [
        *(np.log(np.asarray(found.rates.generator) / 1e-5) / np.log(1e4)).T,
        np.asarray(found.beta1) / 0.99,
    ]
    for place in places:
        assert stats.kstest(place, "uniform").pvalue > 1e-3
    correlations = np.corrcoef(places)
    assert (abs(correlations - np.eye(len(places))) < 5 / math.sqrt(4096)).all()


@given(keys())
def test_a_key_determines_the_draw(key):
    assert random(LEARNED, key) == random(LEARNED, key)
    assert random(LEARNED, key) != random(LEARNED, jax.random.fold_in(key, 1))


@pytest.mark.parametrize(
    ("default", "bounds", "message"),
    [
        (Pair(0.5, 0.1), Pair(RATE, None), r"^\.generator=0\.5 is not strictly between 1e-05 and 0\.1: .* at 0\.001$"),
        (Pair(0.0, 0.1), Pair(Interval(0.0, 1.0), None), r"\.generator=0 is not strictly between 0 and 1"),
        (Pair(math.nan, 0.1), Pair(UNIT, None), r"\.generator=nan is not strictly between"),
        (
            Hypers(rates=Pair(1e-3, {"w": np.array([1e-3, 2.0])})),
            Hypers(RATE, None, None, None),
            r"\.rates\.discriminator\['w'\]=2 is",
        ),
        (3, Interval(0, 1), "the hyperparameter=3 is not strictly between 0 and 1"),
        (
            Pair(0.5, 0.1),
            Pair(None, Interval(1.0, 1.0)),
            r"low=1\.0 and high=1\.0 at \.discriminator bound no",
        ),
        (Pair(0.5, 0.1), Pair(Interval(1, 0), None), r"low=1 and high=0 at \.generator"),
        (Pair(0.5, 0.1), Pair(Interval(0, math.inf), None), r"low=0 and high=inf at \.generator"),
        (Pair(0.5, 0.1), Pair(Interval(math.nan, 1), None), r"low=nan and high=1 at \.generator"),
        (Pair(0.5, 0.1), Pair(Interval(0, 1, log=True), None), r"low=0 at \.generator has no logarithm"),
        (Pair(0.5, 0.1), Pair(0.5, None), r"the bounds of \.generator are 0\.5: give an Interval, or None"),
        (Pair(0.5, 0.1), Pair((1e-5, 1e-1), None), r"^bounds are an Interval, or None, .*\.generator.*$"),
        (Pair(0.5, 0.1), {"generator": UNIT}, "^bounds are an Interval, or None, in the place of .*$"),
    ],
)
def test_bounds_that_bound_nothing_are_refused(default, bounds, message):
    with pytest.raises(ValueError, match=message):
        space(default, bounds)


def test_what_has_no_coordinates_is_refused():
    with pytest.raises(ValueError, match=r"\.beta1=0\.99 is not strictly between 0 and 0\.99"):
        coordinates(LEARNED, LEARNED.default._replace(beta1=0.99))
    with pytest.raises(ValueError, match=r"\.smoothing stays fixed and has no coordinates"):
        hyper(LEARNED, coordinates(LEARNED)._replace(smoothing=0.0))


def test_traced_defaults_pass():
    found = jax.jit(lambda rate: coordinates(space(Pair(rate, 0.1), Pair(RATE, None))).generator)(1e-3)
    np.testing.assert_allclose(found, 0.0, atol=1e-5)
