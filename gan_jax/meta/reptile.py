"""Reptile: the outer loop walks towards where the inner loops end, without a query's gradient."""

import jax
import jax.numpy as jnp
import optax

from gan_jax.base import Key, Learner, MetaLearner, Metrics, Task
from gan_jax.meta.adaptation import Learned, inner_loop
from gan_jax.meta.inner import Feed
from gan_jax.meta.outer import outer


def reptile(
    learner: Learner,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    feed: Feed,
    unroll: int = 1,
    at_once: int | None = None,
) -> MetaLearner:
    """Learn an initialisation whose gradient is φ − φ', with φ' where the inner loop from φ ends.

    Nichol et al. 2018 (arXiv 1803.02999), algorithm 2; its step size ε is that of `optimiser`, descent there. As
    there, a task's data are not split: the inner loop is fed from the support and the query together.

    Args and `adapt` as for `maml`. Metrics: "meta/distance", from φ to φ', and those of `outer`.
    """
    inner = inner_loop(learner, steps=steps, feed=feed, unroll=unroll)

    def gradient(key: Key, learned: Learned, task: Task) -> tuple[Learned, Metrics]:
        everything = jax.tree.map(lambda *halves: jnp.concatenate(halves), *task)
        adapted = learner.get_params(inner.adapt(key, learned, everything))
        way = jax.tree.map(jnp.subtract, learned.params, adapted)
        return Learned(way), {"meta/distance": optax.tree.norm(way)}

    return outer(inner, gradient, optimiser, at_once=at_once)
