"""Learners of a plain loss, such as regression on sinusoids: what meta-learners were introduced on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array

from gan_jax.base import Batch, Hyper, Key, Learner, Metrics, Network, Params, Stats


class SupervisedState(NamedTuple):
    """Where a supervised learner stands."""

    params: Params
    stats: Stats
    optimiser: Any


def supervised(
    network: Network,
    loss: Callable[[Array, Batch], Array],
    *,
    hyper: Hyper,
    optimiser: Callable[[Hyper], optax.GradientTransformation],
) -> Learner:
    """Return the learner that descends a loss of a network's outputs, on batches [B, ...].

    Args:
        network: of "x", or else of "image".
        loss: `(outputs, batch) -> [B]`.
        hyper: the defaults.
        optimiser: of the hyperparameters.

    Metrics: "loss". The learner's `loss` runs the network in train mode: a query is normalised by its own moments, as
        in the transductive setting of Finn et al. 2017.
    """

    def value(params: Params, stats: Stats, key: Key, batch: Batch) -> tuple[Array, Stats]:
        inputs = batch["x"] if "x" in batch else batch["image"]
        outputs, stats = network.apply(params, stats, inputs, train=True, key=key)
        return loss(outputs, batch).mean(), stats

    def init(hyper: Hyper, key: Key, params: Params | None = None) -> SupervisedState:
        fresh, stats = network.init(key)
        params = fresh if params is None else params
        return SupervisedState(params, stats, optimiser(hyper).init(params))

    def step(hyper: Hyper, key: Key, state: SupervisedState, batch: Batch) -> tuple[SupervisedState, Metrics]:
        (found, stats), slope = jax.value_and_grad(value, has_aux=True)(state.params, state.stats, key, batch)
        updates, moved = optimiser(hyper).update(slope, state.optimiser, state.params)
        return SupervisedState(optax.apply_updates(state.params, updates), stats, moved), {"loss": found}

    return Learner(
        hyper,
        init,
        step,
        loss=lambda hyper, key, state, batch: value(state.params, state.stats, key, batch)[0],
        get_params=lambda state: state.params,
        set_params=lambda state, params: state._replace(params=params),
    )


def squared_error(outputs: Array, batch: Batch) -> Array:
    """Return (outputs − y)² [B], averaged over what follows the first axis; both have one shape."""
    chex.assert_equal_shape([outputs, batch["y"]])
    return jnp.square(outputs - batch["y"]).reshape(len(outputs), -1).mean(axis=1)
