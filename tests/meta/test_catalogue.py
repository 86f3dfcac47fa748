"""The rows of a table, made of one setting: each adapts, and each learns what its name says and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gan_jax import optimisers
from gan_jax.meta import inner, rates
from gan_jax.meta.catalogue import META_LEARNERS, TITLES, Setting, at_multiple
from gan_jax.meta.hyper import Interval, space
from gan_jax.meta.supervised import squared_error, supervised
from gan_jax.meta.tasks import sample, sinusoids
from gan_jax.networks import mlp

KEY = jax.random.key(0)
TASKS = sample(sinusoids(3, 4), KEY, 2)


def setting():
    learner = supervised(
        mlp.perceptron(1, 1, widths=(3,)),
        squared_error,
        hyper={"rate": 0.01, "fixed": 1.0},
        optimiser=lambda hyper: optimisers.sgd(hyper["rate"]),
    )
    interval = Interval(1e-4, 1.0, log=True)
    return Setting(
        learner=learner,
        direct=learner,
        joint=learner,
        optimiser=optax.adam(1e-3),
        steps=2,
        feed=inner.whole(),
        pool=inner.whole(),
        space=space(learner.hyper, {"rate": interval, "fixed": None}),
        where=lambda hyper, change: hyper | {"rate": change(hyper["rate"])},
        interval=interval,
        head=lambda path: "[1]" in path,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", META_LEARNERS)
def test_every_row_takes_an_outer_step_and_adapts(name):
    given = setting()
    meta, plain = META_LEARNERS[name](given), given.learner

    @jax.jit
    def once(key):
        state, metrics = meta.meta_step(key, meta.init(key), TASKS)
        support = jax.tree.map(lambda x: x[0], TASKS.support)
        before, after = (meta.adapt(key, state, support, steps=steps) for steps in (0, 20))
        return (
            meta.init(key),
            state,
            metrics,
            [plain.get_params(s) for s in (before, after)],
            [plain.loss(plain.hyper, key, s, support) for s in (before, after)],
        )

    begun, state, metrics, (start, end), (loss, less) = once(KEY)
    assert less < loss
    assert all(np.isfinite(value).all() for value in metrics.values())
    learned = name not in ("scratch", "joint")
    moved = {
        jax.tree_util.keystr(path): bool(np.any(old != new))
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(begun[0] if learned else begun),
            jax.tree.leaves(state[0] if learned else state),
            strict=True,
        )
    }
    assert all(moved.values())
    assert bool(moved) == (name != "scratch")
    rates_learned = [path for path in moved if path.startswith(".hyper")]
    assert len(rates_learned) == {"meta_sgd": 4, "per_step": 4, "learned": 1}.get(name, 0)
    # What an adaptation moves: the last layer alone, or all of it.
    adapted = jax.tree_util.tree_map_with_path(
        lambda path, a, b: (given.head(jax.tree_util.keystr(path)), bool(jnp.any(a != b))), start, end
    )
    for head, did in jax.tree.leaves(adapted, is_leaf=lambda x: isinstance(x, tuple)):
        assert did == (head or name != "anil")


@pytest.mark.parametrize("name", META_LEARNERS)
def test_every_row_adapts_at_a_multiple_of_its_rates(name):
    given = setting()
    meta, still = (META_LEARNERS[name](each) for each in (given, at_multiple(given, 0.0)))
    state, support = meta.init(KEY), jax.tree.map(lambda x: x[0], TASKS.support)
    begun, moved = (given.learner.get_params(m.adapt(KEY, state, support)) for m in (still, meta))
    start = given.learner.get_params(meta.adapt(KEY, state, support, steps=0))
    jax.tree.map(np.testing.assert_array_equal, begun, start)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (begun, moved)), strict=True))


def test_the_rates_of_meta_sgd_begin_at_the_learners():
    meta = META_LEARNERS["meta_sgd"](setting())
    spread = rates.with_rates(setting().learner, setting().where, rates.per_parameter)
    shapes = jax.tree.map(jnp.shape, spread.hyper["rate"])
    assert shapes == jax.tree.map(jnp.shape, meta.init(KEY).learned.params)


def test_every_row_has_a_title():
    assert list(TITLES) == list(META_LEARNERS)
