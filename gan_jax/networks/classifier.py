"""A small convolutional classifier whose last hidden layer is a feature space for metrics."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gan_jax.base import Network
from gan_jax.networks.layers import BatchNorm, Strided
from gan_jax.networks.lowerings import Lowering, auto
from gan_jax.networks.network import network


def classifier(
    size: int,
    channels: int,
    classes: int,
    *,
    width: int = 32,
    features: int = 128,
    dropout: float = 0.4,
    normalise: bool = False,
    lowering: Lowering | None = None,
) -> Network:
    """Return a map of images [B, size, size, channels] to (features [B, F], logits [B, classes]).

    Two strided convolutions of `width` and twice as many channels with batch normalisation, a hidden layer of F units
    (`features`), in train mode a `dropout` of that share of them, and the logits.
    `normalise` gives the hidden layer batch normalisation too, without which many classes turn its units off for good.

    Raises:
        ValueError: if `size` is not a multiple of 4.
    """
    if size % 4:
        raise ValueError(f"image size {size} is not a multiple of 4")
    chosen = lowering or auto()
    return network(
        lambda rngs: _Classifier(size, channels, classes, width, features, dropout, normalise, chosen, rngs=rngs)
    )


class _Classifier(nnx.Module):
    def __init__(
        self,
        size: int,
        channels: int,
        classes: int,
        width: int,
        features: int,
        dropout: float,
        normalise: bool,
        lowering: Lowering,
        *,
        rngs: nnx.Rngs,
    ):
        he = jax.nn.initializers.he_normal()
        self.downs = nnx.List(
            [Strided(i, o, lowering.down, rngs=rngs, init=he) for i, o in ((channels, width), (width, 2 * width))]
        )
        self.norms = nnx.List([BatchNorm(o, rngs=rngs) for o in (width, 2 * width)])
        self.hidden = nnx.Linear((size // 4) ** 2 * 2 * width, features, kernel_init=he, rngs=rngs)
        self.last = BatchNorm(features, rngs=rngs) if normalise else None
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(features, classes, rngs=rngs)

    def __call__(self, x: Array, *, label: Array | None, train: bool, key: Array | None) -> tuple[Array, Array]:
        for down, norm in zip(self.downs, self.norms, strict=True):
            x = jax.nn.relu(norm(down(x), None, train=train))
        hidden = self.hidden(x.reshape(x.shape[0], -1))
        features = jax.nn.relu(hidden if self.last is None else self.last(hidden, None, train=train))
        kept = self.dropout(features, deterministic=not train, rngs=key)
        return features, jnp.asarray(self.head(kept))
