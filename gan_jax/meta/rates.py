"""Rates that are trees: one for each parameter (Meta-SGD), for each array and step, or 0 for most (ANIL).

A learner's rates lie somewhere in its `hyper`. A function says where, `(hyper, change) -> hyper` with `change` of them:
for a GAN `lambda hyper, change: hyper._replace(rates=change(hyper.rates))`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.arithmetic import Scalar
from gan_jax.base import Batch, Hyper, Key, Learner, Metrics, Params, State
from gan_jax.optimisers import Rate

Change = Callable[[Rate], Rate]
Where = Callable[[Hyper, Change], Hyper]
How = Callable[[Rate, Params], Rate]


def with_rates(learner: Learner, where: Where, how: How) -> Learner:
    """Return a learner whose rates are trees over its parameters; its optimisers must take them (see `optimisers`).

    Args:
        learner: whose `hyper` has numbers for rates.
        where: they are.
        how: `(rates, params) -> tree`: `per_parameter`, `per_array` or `only`.
    """
    params = jax.eval_shape(lambda key: learner.get_params(learner.init(learner.hyper, key)), jax.random.key(0))
    return learner._replace(hyper=where(learner.hyper, lambda rates: how(rates, params)))


def scaled(learner: Learner, where: Where, multiple: Scalar) -> Learner:
    """Return a learner that takes its steps at a multiple of whatever rates it is given, learned ones among them."""

    def faster(hyper: Hyper) -> Hyper:
        return where(hyper, lambda rates: jax.tree.map(lambda rate: multiple * rate, rates))

    def init(hyper: Hyper, key: Key, params: Params | None = None) -> State:
        return learner.init(faster(hyper), key, params)

    def step(hyper: Hyper, key: Key, state: State, batch: Batch) -> tuple[State, Metrics]:
        return learner.step(faster(hyper), key, state, batch)

    return learner._replace(init=init, step=step)


def per_parameter(rates: Rate, params: Params) -> Rate:
    """Return an array of rates for each array of parameters: Meta-SGD (Li et al. 2017, arXiv 1707.09835)."""
    return _spread(lambda rate, x: jnp.full(x.shape, rate, x.dtype), rates, params)


def per_array(rates: Rate, params: Params) -> Rate:
    """Return a rate for each array of parameters; MAML++ has one for each layer (Antoniou et al. 2019, 1810.09502)."""
    return _spread(lambda rate, x: jnp.asarray(rate, x.dtype), rates, params)


def only(moves: Callable[[str], bool]) -> How:
    """Make rates that are 0 but for the arrays whose path `moves` says yes to: ANIL (Raghu et al. 2020, 1909.09157).

    A path is that of `jax.tree_util.keystr`, such as ".generator['layers'][2]['kernel']".

    Raises (when used):
        ValueError: if no array would move.
    """

    def how(rates: Rate, params: Params) -> Rate:
        chosen = jax.tree_util.tree_map_with_path(lambda path, _: moves(jax.tree_util.keystr(path)), params)
        if not any(jax.tree.leaves(chosen)):
            paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
            raise ValueError(f"no parameter would move: the paths are {', '.join(paths)}")
        return jax.tree.map(lambda rate, yes: rate * yes, per_array(rates, params), chosen)

    return how


def over_steps(rates: Rate, steps: int) -> Rate:
    """Return rates with a leading axis of steps, what `inner.per_step` reads, equal at first."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, *jnp.shape(x))), rates)


def _spread(fill: Callable[[Any, Any], Any], rates: Rate, params: Params) -> Rate:
    return jax.tree.map(lambda rate, below: jax.tree.map(lambda x: fill(rate, x), below), rates, params)
