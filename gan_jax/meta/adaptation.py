"""Adaptation: what is learned over tasks becomes a learner that has learned one of them.

What `meta.outer` moves is turned into parameters and hyperparameters, and `meta.inner` takes the steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gan_jax.base import Batch, Hyper, Key, Learner, Params, State
from gan_jax.meta import hyper as hypers
from gan_jax.meta import inner
from gan_jax.meta.hyper import Space
from gan_jax.meta.inner import At, Feed


class Learned(NamedTuple):
    """What an outer loop moves.

    params: the initialisation; None where each task begins at fresh parameters.
    hyper: coordinates of hyperparameters (see `meta.hyper`); None where these are fixed.
    """

    params: Params | None
    hyper: Any = None


class Inner(NamedTuple):
    """An inner loop, and where it begins.

    start: `key -> learned`, before the first outer step.
    adapt: `(key, learned, support, steps) -> state of the learner`.
    loss: `(key, learned, state, query) -> scalar`, of an adapted state.
    """

    start: Callable[[Key], Learned]
    adapt: Callable[..., State]
    loss: Callable[[Key, Learned, State, Batch], Any]


def inner_loop(
    learner: Learner,
    *,
    steps: int,
    feed: Feed,
    space: Space | None = None,
    at: At = inner.same,
    levels: int = 1,
    unroll: int = 1,
) -> Inner:
    """Make an inner loop of a learner that begins at what is learned; the arguments are those of `maml`.

    Statistics, such as those of batch normalisation, begin anew with each task, and so do optimisers.
    """
    options: dict[str, Any] = {"feed": feed, "at": at, "levels": levels, "unroll": unroll}
    inner.loop(learner, steps, **options)  # so that it is refused here, if it is

    def hyper(learned: Learned) -> Hyper:
        return learner.hyper if space is None else hypers.hyper(space, learned.hyper)

    def start(key: Key) -> Learned:
        default = learner.hyper if space is None else space.default
        params = learner.get_params(learner.init(at(default, 0), key))
        return Learned(params, None if space is None else hypers.coordinates(space))

    def adapt(key: Key, learned: Learned, support: Batch, steps: int = steps) -> State:
        begin_key, loop_key = jax.random.split(key)
        now = hyper(learned)
        begun = learner.init(at(now, 0), begin_key, learned.params)
        return inner.loop(learner, steps, **options)(now, loop_key, begun, support)[0]

    def loss(key: Key, learned: Learned, state: State, query: Batch) -> Any:
        return learner.loss(at(hyper(learned), steps), key, state, query)

    return Inner(start, adapt, loss)
