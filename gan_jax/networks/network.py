"""The waist between Flax and the rest: a Flax NNX module seen as two pure functions.

This is the only file that knows of Flax's object model. Everything else sees plain nested
dictionaries of arrays, so that `jax.grad`, `jax.vmap` and sharding apply without wrappers; NNX's
own transforms cost several times the wall time of the step and are used nowhere.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from gan_jax.base import Array, Key, Network, Params, Stats


def network(build: Callable[[nnx.Rngs], Callable[..., Any]]) -> Network:
    """Return a Flax NNX module as a `Network` of `(init, apply)` over plain pytrees.

    init: `key -> (params, stats)`.
    apply: `(params, stats, *inputs, label=None, train, key=None) -> (outputs, stats)`. Parameters are never read back
        from the module, so that a layer that overwrites its weights is harmless.

    Args:
        build: makes the module from `nnx.Rngs`, which it uses for initial values alone. The
            module's call is `(*inputs, label, train, key)`: randomness comes with the key,
            and the mode with the flag, so that a module holds no other state than parameters
            (`nnx.Param`) and statistics (every other variable).

    Raises:
        ValueError: the module keeps a random stream, whose numbers would not come from the key.
    """
    graph, _, streams, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param, nnx.RngState, ...)
    if jax.tree.leaves(streams):
        raise ValueError(
            "the module keeps a random stream: make such a layer (nnx.Dropout) without rngs, and call it with rngs=key"
        )

    def init(key: Key) -> tuple[Params, Stats]:
        _, params, stats = nnx.split(build(nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def apply(
        params: Params,
        stats: Stats,
        *inputs: Array,
        label: Array | None = None,
        train: bool,
        key: Key | None = None,
    ) -> tuple[Any, Stats]:
        module = nnx.merge(graph, params, stats)
        outputs = module(*inputs, label=label, train=train, key=key)
        _, _, stats = nnx.split(module, nnx.Param, ...)
        return outputs, nnx.to_pure_dict(stats)

    return Network(init, apply)
