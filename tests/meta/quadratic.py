"""The learner of ½ |w − c|² by descent, whose meta-gradients are known: after k steps w is c + (1 − r)ᵏ (w − c)."""

import jax
import jax.numpy as jnp
import optax

from gan_jax.base import Learner, Task
from gan_jax.optimisers import sgd


def centre(batch):
    """A batch's c: the mean of its points."""
    return batch["x"].mean(axis=0)


def quadratic(rate=0.1, size=2, optimiser=sgd):
    """A state is (w, the optimiser's); `init` begins at zeros, and `hyper` is {"rate"}."""

    def value(w, batch):
        return 0.5 * jnp.sum(jnp.square(w - centre(batch)))

    def init(hyper, key, params=None):
        params = jnp.zeros(size) if params is None else params
        return params, optimiser(hyper["rate"]).init(params)

    def step(hyper, key, state, batch):
        w, moved = state
        loss, slope = jax.value_and_grad(value)(w, batch)
        updates, moved = optimiser(hyper["rate"]).update(slope, moved, w)
        return (optax.apply_updates(w, updates), moved), {"loss": loss}

    return Learner(
        {"rate": rate},
        init,
        step,
        loss=lambda hyper, key, state, batch: value(state[0], batch),
        get_params=lambda state: state[0],
        set_params=lambda state, params: (params, state[1]),
    )


def task(c, q):
    """The task whose support has centre c and whose query has centre q, each a single point."""
    return Task({"x": jnp.asarray(c)[None]}, {"x": jnp.asarray(q)[None]})


def stacked(*tasks):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
