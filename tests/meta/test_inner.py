"""Inner loops: the same steps and the same derivatives, however they are kept and wherever they are cut."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gan_jax.meta import inner
from gan_jax.meta.supervised import squared_error, supervised
from gan_jax.networks import mlp
from tests.meta.quadratic import quadratic, task

KEY = jax.random.key(3)
SUPPORT = {"x": jnp.arange(12.0).reshape(6, 2)}


def regression(width=8):
    """A perceptron of points to points under Adam."""
    return supervised(
        mlp.generator(2, (2,), widths=(width, width)),
        squared_error,
        hyper={"rate": 0.01},
        optimiser=lambda hyper: optax.adam(hyper["rate"], eps_root=1e-8),
    )


def pairs(n):
    x, y = jax.random.normal(KEY, (2, n, 2))
    return {"x": x, "y": y}


@pytest.mark.slow
def test_a_loop_that_is_cut_goes_on_where_it_stopped():
    learner, feed = regression(), inner.resampled(1, 4)
    learner = learner._replace(step=_first_batch(learner.step))
    state = learner.init(learner.hyper, KEY)

    def run(state, steps, start):
        return jax.jit(inner.loop(learner, steps, feed=feed))(learner.hyper, KEY, state, pairs(6), start)

    every, metrics = run(state, 5, 0)
    part, early = run(state, 2, 0)
    rest, late = run(part, 3, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), every, rest)
    np.testing.assert_allclose(metrics["loss"], np.concatenate([early["loss"], late["loss"]]), rtol=1e-5)


def _first_batch(step):
    return lambda hyper, key, state, batch: step(hyper, key, state, jax.tree.map(lambda x: x[0], batch))


def test_rematerialisation_changes_no_number():
    """Of a loss that is no quadratic, so that a derivative tells at which weights it was taken."""
    learner = quadratic()
    steps = {1: [7], 2: [1, 4, 7], 3: [9]}  # of blocks with and without a rest

    def step(hyper, key, state, batch):
        w, moved = state
        return (w - hyper["rate"] * jnp.sin(3 * w + batch["x"].mean(axis=0)), moved), {"first": w[0]}

    def judged(w, steps, levels):
        run = inner.loop(learner._replace(step=step), steps, feed=inner.whole(), levels=levels)
        (w, _), metrics = run(learner.hyper, KEY, (w, ()), SUPPORT)
        return jnp.sum(w**2), metrics["first"]

    @jax.jit
    def slopes(w):
        of = jax.value_and_grad(judged, has_aux=True)
        return [(of(w, n, 0), of(w, n, levels)) for levels, counts in steps.items() for n in counts]

    for plain, kept in slopes(jnp.asarray([0.4, -2.0])):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), kept, plain)


@pytest.mark.slow
def test_with_three_levels_memory_at_50_steps_is_under_twice_that_at_5():
    learner = regression(64)
    params = learner.get_params(learner.init(learner.hyper, KEY))

    def memory(steps, levels):
        def judged(params):
            state = learner.init(learner.hyper, KEY, params)
            run = inner.loop(learner, steps, feed=inner.whole(), levels=levels)
            return learner.loss(learner.hyper, KEY, run(learner.hyper, KEY, state, pairs(32))[0], pairs(32))

        return jax.jit(jax.grad(judged)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert memory(50, 3) < 2 * memory(5, 3)
    assert memory(50, 0) > 4 * memory(5, 0)  # what rematerialisation is for


def test_no_steps_leave_the_state_as_it_is():
    learner = quadratic()
    state = learner.init(learner.hyper, KEY)
    same, metrics = inner.loop(learner, 0, feed=inner.whole())(learner.hyper, KEY, state, SUPPORT)
    np.testing.assert_array_equal(same[0], state[0])
    assert metrics["loss"].shape == (0,)


def test_a_gan_is_fed_copies_of_the_whole_support():
    fed = inner.whole(3)(KEY, SUPPORT, 0)["x"]
    assert fed.shape == (3, 6, 2)
    for copy in fed:
        np.testing.assert_array_equal(copy, SUPPORT["x"])


def test_resampling_draws_all_of_the_support_and_nothing_else():
    feed = inner.resampled(2, 50)
    fed = feed(KEY, SUPPORT | {"label": jnp.arange(6)}, 0)
    assert fed["x"].shape == (2, 50, 2)
    np.testing.assert_array_equal(fed["x"], SUPPORT["x"][fed["label"]])  # examples keep their labels
    assert set(np.unique(fed["label"])) == set(range(6))
    assert not np.array_equal(fed["label"][0], fed["label"][1])


def test_rates_of_each_step_are_read_in_their_order_and_the_last_holds_on():
    learner = quadratic(jnp.asarray([0.0, 0.5, 0.1]))
    support = task([1.0, 1.0], [0.0, 0.0]).support
    state = learner.init({"rate": 0.0}, KEY)
    for steps, left in enumerate([1.0, 1.0, 0.5, 0.45, 0.405]):
        run = inner.loop(learner, steps, feed=inner.whole(), at=inner.per_step)
        np.testing.assert_allclose(1 - run(learner.hyper, KEY, state, support)[0][0], left, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: inner.loop(quadratic(), -1, feed=inner.whole()), "steps is -1"),
        (lambda: inner.loop(quadratic(), 1, feed=inner.whole(), levels=-1), "levels is -1"),
        (lambda: inner.loop(quadratic(), 1, feed=inner.whole(), unroll=0), "unroll=0"),
        (lambda: inner.whole(0), "batches=0"),
        (lambda: inner.resampled(1, 0), "size=0"),
        (lambda: inner.resampled(True, 1), "batches=True"),
    ],
)
def test_sizes_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
