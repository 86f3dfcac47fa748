"""Meta-learners on quadratics, where every outer gradient is known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gan_jax.meta import inner
from gan_jax.meta.adaptation import Learned
from gan_jax.meta.baselines import joint, scratch
from gan_jax.meta.hyper import Interval, Space, coordinates, hyper, space
from gan_jax.meta.implicit import imaml
from gan_jax.meta.maml import fomaml, maml, tuned
from gan_jax.meta.outer import MetaState
from gan_jax.meta.reptile import reptile
from tests.meta.quadratic import quadratic, stacked, task

KEY = jax.random.key(0)
FEED = inner.whole()
steps_taken = st.sampled_from([0, 1, 2, 5])
points = arrays(np.float64, 2, elements=st.floats(-3, 3, width=32, allow_subnormal=False))
rates = st.floats(0.0, 0.875)


def slope(meta, params, tasks, coordinates=None):
    """What a meta-step moves along: with descent of rate 1 the step is the negative gradient."""
    learned = Learned(params, coordinates)
    state = MetaState(learned, optax.sgd(1.0).init(learned))
    (moved, _), _ = meta.meta_step(KEY, state, tasks)
    return jax.tree.map(jnp.subtract, learned, moved)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def slopes(steps):
    """Compiled once for each number of steps, of (rate, w, c, q)."""

    def all_three(rate, w, c, q):
        options = {"steps": steps, "feed": FEED}
        metas = (make(quadratic(rate), optax.sgd(1.0), **options) for make in (maml, fomaml, reptile))
        return [slope(meta, w, stacked(task(c, q))).params for meta in metas]

    return jax.jit(all_three)


@functools.cache
def hyperslopes(steps):
    def both(rate, w, c, q):
        learned = Space({"rate": rate}, {"rate": Interval(0.01, 1.0)})
        options = {"steps": steps, "feed": FEED, "space": learned}
        moved = maml(quadratic(), optax.sgd(1.0), **options)
        fixed = tuned(quadratic(), optax.sgd(1.0), params=w, **options)
        tasks, where = stacked(task(c, q)), coordinates(learned)
        return slope(moved, w, tasks, where), slope(fixed, None, tasks, where)

    return jax.jit(both)


@functools.cache
def implicit():
    def found(proximity, w, c, q):
        solver = optax.sgd(1 / (1 + proximity))  # one step at the inverse of the curvature is enough
        meta = imaml(quadratic(), optax.sgd(1.0), steps=1, solver=solver, proximity=proximity, iterations=2)
        adapted = meta.adapt(KEY, MetaState(Learned(w), None), task(c, q).support)[0]
        return adapted, slope(meta, w, stacked(task(c, q))).params

    return jax.jit(found)


@given(steps_taken, rates, points, points, points)
def test_maml_fomaml_and_reptile_follow_their_closed_forms(steps, rate, w, c, q):
    second, first, towards = slopes(steps)(rate, w, c, q)
    shrunk = (1 - rate) ** steps
    adapted = c + shrunk * (w - c)
    np.testing.assert_allclose(second, (adapted - q) * shrunk, atol=1e-12)
    np.testing.assert_allclose(first, adapted - q, atol=1e-12)
    middle = (c + q) / 2  # Reptile learns from support and query together
    np.testing.assert_allclose(towards, (1 - shrunk) * (w - middle), atol=1e-12)


@pytest.mark.slow
@given(st.sampled_from([1, 2, 5]), st.floats(0.02, 0.9), points, points, points)
def test_the_hypergradient_of_the_rate_follows_its_closed_form(steps, rate, w, c, q):
    both, alone = hyperslopes(steps)(rate, w, c, q)
    adapted = c + (1 - rate) ** steps * (w - c)
    by_rate = (adapted - q) @ (-steps * (1 - rate) ** (steps - 1) * (w - c))
    to_rate = (rate - 0.01) * (1.0 - rate) / 0.99  # the slope of a logistic function between the bounds
    for found in (both, alone):
        np.testing.assert_allclose(jax.tree.leaves(found.hyper), [by_rate * to_rate], atol=1e-9)
    np.testing.assert_allclose(both.params, (adapted - q) * (1 - rate) ** steps, atol=1e-12)


@given(st.floats(0.1, 10), points, points, points)
def test_implicit_maml_differentiates_the_root(proximity, w, c, q):
    adapted, found = implicit()(proximity, w, c, q)
    root = (c + proximity * w) / (1 + proximity)
    np.testing.assert_allclose(adapted, root, atol=1e-12)
    np.testing.assert_allclose(found, (root - q) * proximity / (1 + proximity), atol=1e-9)


@pytest.mark.slow
def test_implicit_maml_differentiates_the_root_of_a_game():
    """V = A w − c with a Jacobian that is not symmetric: dw/dφ = λ (A + λ)⁻¹."""
    matrix, proximity = np.array([[0.5, 2.0], [-2.0, 0.1]]), 0.7
    w, c, q = np.array([1.0, -0.5]), np.array([0.3, 0.2]), np.array([-1.0, 2.0])
    meta = imaml(
        quadratic(),
        optax.sgd(1.0),
        steps=400,
        solver=optax.sgd(0.1),
        proximity=proximity,
        field=lambda key, state, batch: matrix @ state[0] - batch["x"].mean(axis=0),
    )
    inverse = np.linalg.inv(matrix + proximity * np.eye(2))
    root = inverse @ (c + proximity * w)
    found = slope(meta, jnp.asarray(w), stacked(task(c, q)))
    np.testing.assert_allclose(found.params, proximity * inverse.T @ (root - q), rtol=1e-6)


def metas(learner):
    options = {"steps": 3, "feed": FEED}
    return {
        "maml": maml(learner, optax.sgd(0.5), **options),
        "fomaml": fomaml(learner, optax.sgd(0.5), **options),
        "reptile": reptile(learner, optax.sgd(0.5), **options),
        "imaml": imaml(learner, optax.sgd(0.5), steps=3, solver=optax.sgd(0.1), proximity=1.0),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", metas(quadratic()))
def test_equal_tasks_move_as_one_and_different_tasks_as_their_mean(name):
    meta, w = metas(quadratic())[name], jnp.asarray([0.5, -1.0])
    one, other = task([1.0, 2.0], [0.0, 1.0]), task([-1.0, 0.0], [3.0, 1.0])
    moves = [slope(meta, w, stacked(*tasks)).params for tasks in ([one], [one, one, one], [other], [one, other])]
    np.testing.assert_allclose(moves[1], moves[0], atol=1e-12)
    np.testing.assert_allclose(moves[3], (moves[0] + moves[2]) / 2, atol=1e-12)


@pytest.mark.parametrize("make", [maml, fomaml, reptile])
def test_how_many_tasks_are_computed_at_once_changes_no_number(make):
    w = jnp.asarray([0.5, -1.0])
    tasks = [task([1.0, 2.0], [0.0, 1.0]), task([-1.0, 0.0], [3.0, 1.0]), task([0.0, 4.0], [-2.0, 2.0])]
    moves = [
        slope(make(quadratic(), optax.sgd(0.5), steps=3, feed=FEED, at_once=size), w, stacked(*tasks)).params
        for size in (None, 1, 2, 3)
    ]
    assert np.abs(moves[0]).min() > 0.01
    np.testing.assert_allclose(moves[1:], [moves[0]] * 3, atol=1e-12)
    with pytest.raises(ValueError, match="at_once=0 is not a whole number of at least 1"):
        make(quadratic(), optax.sgd(0.5), steps=3, feed=FEED, at_once=0)


@pytest.mark.parametrize("name", metas(quadratic()))
def test_a_task_without_a_finite_gradient_is_left_out_and_counted(name):
    meta, w = metas(quadratic())[name], jnp.asarray([0.5, -1.0])
    one, lost = task([1.0, 2.0], [0.0, 1.0]), task([1.0, np.inf], [0.0, 1.0])
    learned = Learned(w)
    state = MetaState(learned, optax.sgd(1.0).init(learned))
    alone, together, none = (
        meta.meta_step(KEY, state, stacked(*tasks)) for tasks in ([one], [one, lost, lost, one], [lost])
    )
    np.testing.assert_allclose(together[0].learned.params, alone[0].learned.params, atol=1e-12)
    np.testing.assert_array_equal(none[0].learned.params, w)
    assert [float(metrics["meta/diverged"]) for _, metrics in (alone, together, none)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("name", metas(quadratic()))
def test_adaptation_starts_from_what_was_learned_and_goes_as_far_as_asked(name):
    meta, c = metas(quadratic(0.1))[name], np.array([2.0, -1.0])
    state = meta.init(KEY)
    np.testing.assert_array_equal(state.learned.params, [0.0, 0.0])
    if name != "imaml":
        for steps in (0, 3, 7):
            adapted, _ = meta.adapt(KEY, state, task(c, c).support, steps=steps)
            np.testing.assert_allclose(adapted, c * (1 - 0.9**steps), atol=1e-12)
    np.testing.assert_allclose(
        meta.adapt(KEY, state, task(c, c).support)[0], meta.adapt(KEY, state, task(c, c).support, steps=3)[0]
    )


def test_maml_with_no_inner_step_is_plain_training_on_the_queries():
    meta = maml(quadratic(), optax.sgd(0.5), steps=0, feed=FEED)
    state, metrics = meta.meta_step(KEY, meta.init(KEY), stacked(task([9.0, 9.0], [1.0, 0.0])))
    np.testing.assert_allclose(state.learned.params, [0.5, 0.0])
    assert metrics["meta/loss"] == pytest.approx(0.5)
    assert metrics["meta/slope"] == pytest.approx(1.0)


@pytest.mark.slow
def test_rates_of_several_steps_are_learned_each_by_its_own_gradient():
    """Two steps of rates a, b: w = c + (1 − a)(1 − b)(w₀ − c)."""
    defaults = {"rate": jnp.asarray([0.1, 0.3])}
    learned = space(defaults, {"rate": Interval(0.01, 1.0)})
    meta = maml(quadratic(), optax.sgd(1.0), steps=2, feed=FEED, space=learned, at=inner.per_step)
    w, c, q = np.array([1.0, 2.0]), np.array([-1.0, 0.0]), np.array([0.5, 0.5])
    found = slope(meta, jnp.asarray(w), stacked(task(c, q)), coordinates(learned))
    adapted = c + 0.9 * 0.7 * (w - c)
    by_rates = np.array([-0.7, -0.9]) * ((adapted - q) @ (w - c))
    rates = np.array([0.1, 0.3])
    np.testing.assert_allclose(found.hyper["rate"], by_rates * (rates - 0.01) * (1 - rates) / 0.99, rtol=1e-6)
    # Past the last rate, the last holds.
    state = MetaState(Learned(jnp.asarray(w), coordinates(learned)), None)
    adapted, _ = meta.adapt(KEY, state, task(c, q).support, steps=4)
    np.testing.assert_allclose(adapted, c + 0.9 * 0.7**3 * (w - c), rtol=1e-6)


def test_learning_the_rate_finds_newtons():
    """The rate that solves ½ |w − c|² in one step is 1."""
    learned = space({"rate": 0.1}, {"rate": Interval(0.01, 1.5)})
    meta = tuned(quadratic(), optax.adam(0.1), steps=1, feed=FEED, space=learned)
    tasks = stacked(task([1.0, 2.0], [1.0, 2.0]), task([-1.0, 0.5], [-1.0, 0.5]))
    state, _ = jax.lax.scan(lambda state, _: meta.meta_step(KEY, state, tasks), meta.init(KEY), length=300)
    assert state.learned.params is None
    assert hyper(learned, state.learned.hyper)["rate"] == pytest.approx(1.0, abs=1e-3)


def test_scratch_learns_nothing_and_joint_training_the_pooled_mean():
    tasks = stacked(task([1.0, 2.0], [3.0, 0.0]), task([-1.0, 0.0], [1.0, 2.0]))
    none = scratch(quadratic(0.1), steps=2, feed=FEED)
    state, metrics = none.meta_step(KEY, none.init(KEY), tasks)
    assert (state, metrics) == ((), {})
    support = task([1.0, 1.0], [0.0, 0.0]).support
    np.testing.assert_allclose(none.adapt(KEY, state, support)[0], [0.19, 0.19])

    pooled = joint(quadratic(0.5), steps=1, feed=FEED, pool=FEED, finer=quadratic(0.1))
    state, _ = pooled.meta_step(KEY, pooled.init(KEY), tasks)
    np.testing.assert_allclose(state[0], 0.5 * np.array([1.0, 1.0]))
    np.testing.assert_allclose(pooled.adapt(KEY, state, support)[0], 0.5 + 0.1 * 0.5 * np.ones(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: imaml(quadratic(), optax.sgd(1), steps=1, solver=optax.sgd(1), proximity=0.0), "proximity=0.0"),
        (
            lambda: imaml(quadratic(), optax.sgd(1), steps=1, solver=optax.sgd(1), proximity=1.0, iterations=0),
            "iterations=0",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
