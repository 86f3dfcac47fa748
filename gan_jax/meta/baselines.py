"""What meta-learning is held against, in the same form: training from scratch, and joint pre-training."""

from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.base import Batch, Key, Learner, MetaLearner, Metrics, State, Task
from gan_jax.meta.adaptation import Learned, inner_loop
from gan_jax.meta.inner import Feed


def scratch(learner: Learner, *, steps: int, feed: Feed, unroll: int = 1) -> MetaLearner:
    """Learn nothing over tasks: each begins at fresh parameters. Args and `adapt` as for `maml`."""
    inner = inner_loop(learner, steps=steps, feed=feed, unroll=unroll)

    def adapt(key: Key, state: tuple[()], support: Batch, **options: Any) -> State:
        return inner.adapt(key, Learned(None), support, **options)

    return MetaLearner(lambda key: (), lambda key, state, tasks: (state, {}), adapt)


def joint(
    learner: Learner, *, steps: int, feed: Feed, pool: Feed, finer: Learner | None = None, unroll: int = 1
) -> MetaLearner:
    """Train one learner on the examples of all tasks together, and fine-tune it on the support of a new one.

    Args:
        learner: that is trained; its state is the meta-learner's.
        steps: of fine-tuning.
        feed: what a step of fine-tuning is given of the support.
        pool: what a step of training is given of all examples of the tasks of an outer step, [T (K + Q), ...].
        finer: the learner that fine-tunes, where it has other rates than in training.
        unroll: how many steps of fine-tuning the compiler sees at once, see `inner.loop`.

    `adapt` as for `maml`. Metrics: those of the learner's step.
    """
    inner = inner_loop(finer or learner, steps=steps, feed=feed, unroll=unroll)

    def meta_step(key: Key, state: State, tasks: Task) -> tuple[State, Metrics]:
        pool_key, step_key = jax.random.split(key)
        together = jax.tree.map(lambda *halves: jnp.concatenate(halves, axis=1), *tasks)
        together = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), together)
        return learner.step(learner.hyper, step_key, state, pool(pool_key, together, jnp.int32(0)))

    def adapt(key: Key, state: State, support: Batch, **options: Any) -> State:
        return inner.adapt(key, Learned(learner.get_params(state)), support, **options)

    return MetaLearner(lambda key: learner.init(learner.hyper, key), meta_step, adapt)
