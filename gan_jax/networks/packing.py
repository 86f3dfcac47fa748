"""Packing: a critic that judges several examples at once, and so sees how much they vary."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from gan_jax.base import Array, Key, Network, Params, Stats


def packed(network: Network) -> Network:
    """Return a critic of packs of m examples each: D(x₁, …, x_m).

    The examples of a pack lie side by side in the channels, first example first: packs of images [P, m, H, W, C] reach
    the network as [P, H, W, m·C], packs of points [P, m, D] as [P, m·D]. Only the network's first layer is wider
    than without packing. All examples of a pack are real, or all are fake.

    Args:
        network: a critic of inputs with m times the channels, which gives a logit for each pack: [P].

    Raises:
        ValueError: when applied, if the packs have fewer than three axes.

    Lin et al. 2018 (arXiv 1712.04086), section 2.
    """

    def apply(
        params: Params,
        stats: Stats,
        packs: Float[Array, "P m ... C"],
        *,
        label: Array | None = None,
        train: bool,
        key: Key | None = None,
    ) -> tuple[Any, Stats]:
        if packs.ndim < 3:
            raise ValueError(f"inputs of shape {packs.shape} are no packs: give [P, m, ..., C], as [P, m, D] or images")
        side_by_side = jnp.moveaxis(packs, 1, -2)
        joined = side_by_side.reshape(*side_by_side.shape[:-2], -1)
        return network.apply(params, stats, joined, label=label, train=train, key=key)

    return Network(network.init, apply)
