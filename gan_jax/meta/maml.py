"""Meta-learners that differentiate a query's loss through an inner loop, or where it ends: MAML and its kin."""

from typing import Any

import jax
import optax

from gan_jax.base import Hyper, Key, Learner, MetaLearner, Metrics, Params, State, Task
from gan_jax.meta.adaptation import Inner, Learned, inner_loop
from gan_jax.meta.hyper import Space
from gan_jax.meta.inner import Feed
from gan_jax.meta.outer import outer


def maml(
    learner: Learner,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    feed: Feed,
    space: Space | None = None,
    at_once: int | None = None,
    **options: Any,
) -> MetaLearner:
    """Learn an initialisation, and hyperparameters if a space of them is given, through the inner loop.

    Finn et al. 2017 (arXiv 1703.03400), algorithm 2 with any step in the place of gradient descent; the gradient is
    the exact one, of second order. `meta.rates` makes Meta-SGD and ANIL of it.

    Args:
        learner: takes the inner steps and judges the query.
        optimiser: of the outer loop.
        steps: of the inner loop; with 0 it is plain training on the queries.
        feed: what an inner step is given of the support, see `meta.inner`.
        space: the hyperparameters that are learned; those of the learner, fixed, if None.
        at_once: how many tasks are computed side by side, see `outer`.
        options: `at`, which hyperparameters hold at a step (with `inner.per_step` they have a leading axis of steps),
            and `levels` and `unroll` of `inner.loop`.

    `adapt` is `(key, state, support, steps=steps) -> state of the learner`.
    Metrics: "meta/loss", of the queries after adaptation, and those of `outer`.
    """
    return _unrolled(inner_loop(learner, steps=steps, feed=feed, space=space, **options), optimiser, at_once)


def tuned(
    learner: Learner,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    feed: Feed,
    space: Space,
    params: Params | None = None,
    at_once: int | None = None,
    **options: Any,
) -> MetaLearner:
    """Learn hyperparameters alone, by the gradient through the inner loop; a task begins at `params`, or fresh ones.

    Maclaurin et al. 2015 (arXiv 1502.03492). Rates that are best over a few steps need not be best in the long run
    (Wu et al. 2018, arXiv 1803.02021).

    Args, `adapt` and metrics as for `maml`.
    """

    def init(hyper: Hyper, key: Key, given: Params | None = None) -> State:
        return learner.init(hyper, key, params if given is None else given)

    inner = inner_loop(learner._replace(init=init), steps=steps, feed=feed, space=space, **options)
    return _unrolled(inner._replace(start=lambda key: inner.start(key)._replace(params=None)), optimiser, at_once)


def fomaml(
    learner: Learner,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    feed: Feed,
    unroll: int = 1,
    at_once: int | None = None,
) -> MetaLearner:
    """Learn an initialisation by the query's gradient where the inner loop ends: MAML without second derivatives.

    Finn et al. 2017 (arXiv 1703.03400), section 5.2. The learner's loss must depend on a state through what
    `get_params` reads. Args, `adapt` and metrics as for `maml`.
    """
    inner = inner_loop(learner, steps=steps, feed=feed, unroll=unroll)

    def gradient(key: Key, learned: Learned, task: Task) -> tuple[Learned, Metrics]:
        adapt_key, loss_key = jax.random.split(key)
        state = inner.adapt(adapt_key, learned, task.support)

        def judged(params: Params) -> Any:
            return inner.loss(loss_key, learned, learner.set_params(state, params), task.query)

        loss, slope = jax.value_and_grad(judged)(learner.get_params(state))
        return Learned(slope), {"meta/loss": loss}

    return outer(inner, gradient, optimiser, at_once=at_once)


def _unrolled(inner: Inner, optimiser: optax.GradientTransformation, at_once: int | None) -> MetaLearner:
    def gradient(key: Key, learned: Learned, task: Task) -> tuple[Learned, Metrics]:
        adapt_key, loss_key = jax.random.split(key)

        def judged(learned: Learned) -> Any:
            return inner.loss(loss_key, learned, inner.adapt(adapt_key, learned, task.support), task.query)

        loss, slope = jax.value_and_grad(judged)(learned)
        return slope, {"meta/loss": loss}

    return outer(inner, gradient, optimiser, at_once=at_once)
