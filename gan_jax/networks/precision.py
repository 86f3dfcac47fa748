"""Mixed precision: a network that computes in few bits and is learned in many."""

from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.base import Array, Key, Network, Params, Stats


def mixed(network: Network, dtype: Any = jnp.bfloat16) -> Network:
    """Return a network that computes forward and backward in `dtype`, for parameters and outputs of float32.

    Parameters and inputs are rounded on the way in, so that gradients with respect to either come back in their own
    precision; outputs are at least float32, so that losses and penalties square and sum there. Statistics are
    neither rounded nor returned in fewer bits than they came: a running moment would stop moving where its step is
    less than a unit of its last place. A layer that mixes them in must return the precision of its input.

    Inside of other transformations, as in `spectral(mixed(network))`, the parameters are transformed in float32.

    Args:
        network: any.
        dtype: a floating point type. bfloat16 has the range of float32; float16 has not, and its small gradients
            vanish unless the loss is scaled.

    Raises:
        ValueError: a dtype that is not floating point.

    Micikevicius et al. 2018 (arXiv 1710.03740), section 3.1; Kalamkar et al. 2019 (arXiv 1905.12322).
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"mixed(dtype={dtype}) has no gradients: give a floating point type, such as bfloat16")

    def apply(
        params: Params,
        stats: Stats,
        *inputs: Array,
        label: Array | None = None,
        train: bool,
        key: Key | None = None,
    ) -> tuple[Any, Stats]:
        params, inputs = jax.tree.map(lambda leaf: _cast(leaf, dtype), (params, inputs))
        outputs, new = network.apply(params, stats, *inputs, label=label, train=train, key=key)
        outputs = jax.tree.map(lambda leaf: _cast(leaf, jnp.promote_types(leaf.dtype, jnp.float32)), outputs)
        return outputs, jax.tree.map(lambda leaf, old: _cast(leaf, old.dtype), new, stats)

    return Network(network.init, apply)


def _cast(leaf: Array, dtype: Any) -> Array:
    """Return the leaf in `dtype`; what is no floating point number (labels, counters) stays."""
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
