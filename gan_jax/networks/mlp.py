"""Multilayer perceptrons: the classic pair for MNIST, small ones for points in a plane, and one for regression."""

import math
from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from gan_jax.base import Network, Params
from gan_jax.networks.layers import Projection, check_widths, required
from gan_jax.networks.network import network


def generator(
    latent: int, shape: Sequence[int], *, widths: Sequence[int] = (256, 512, 1024), classes: int = 0
) -> Network:
    """Return a map of latents [B, latent] to samples [B, *shape].

    Leaky ReLU of slope .2 between layers. Images (three axes) end in tanh and lie in [-1, 1]; points are
    unbounded. With `classes`, a learned vector of the label is appended to the latent.

    Raises:
        ValueError: if a width is less than 1.
    """
    check_widths(widths)
    return network(lambda rngs: _Generator(latent, tuple(shape), tuple(widths), classes, rngs=rngs))


def discriminator(
    shape: Sequence[int], *, widths: Sequence[int] = (1024, 512, 256), dropout: float = 0.3, classes: int = 0
) -> Network:
    """Return a map of samples [B, *shape] to logits [B].

    Leaky ReLU of slope .2 and dropout after each hidden layer. With `classes`, a projection of the last features
    on a learned vector of the label is added to the logit.

    Raises:
        ValueError: if `dropout` is not in [0, 1) or a width is less than 1.
    """
    check_widths(widths)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout {dropout} is not a share in [0, 1): 0 keeps everything")
    return network(lambda rngs: _Discriminator(tuple(shape), tuple(widths), dropout, classes, rngs=rngs))


def perceptron(inputs: int, outputs: int, *, widths: Sequence[int] = (40, 40)) -> Network:
    """Return a map of points [B, inputs] to values [B, outputs], with ReLU between layers.

    Raises:
        ValueError: if a width is less than 1.
    """
    check_widths(widths)
    return network(lambda rngs: _Perceptron((inputs, *widths, outputs), rngs=rngs))


def narrow(params: Params, share: float | Float[Array, ""]) -> Params:
    """Return parameters of which only a share of each hidden layer's units is left, of the same shapes.

    The others are without weights on both sides, which no gradient changes: under any rule that follows gradients, the
    network trains as one of that width does from the weights that are left. Those behind a hidden layer grow by the
    root of the share's inverse, to the deviation at which a network of that width begins. One compiled program trains
    networks of different widths in this way, under vmap.

    Args:
        params: of any network in this module without labels: "layers" of kernel [I, O] and bias [O].
        share: in (0, 1]; of W units ⌈share · W⌉ are left. A traced one passes unchecked.

    Raises:
        ValueError: a share out of its range, or parameters of a network that takes labels.
    """
    if not isinstance(share, jax.core.Tracer) and not 0 < share <= 1:
        raise ValueError(f"share={share} is not in (0, 1]: 1 leaves every unit")
    if more := ", ".join(sorted(params.keys() - {"layers"})):
        raise ValueError(f"a network with {more} is not narrowed: give one without labels")
    layers = params["layers"]
    last, left, narrowed = len(layers) - 1, None, {}
    for depth, layer in sorted(layers.items()):
        kernel, bias = layer["kernel"], layer["bias"]
        if left is not None:
            kernel = kernel * left[:, None] * jnp.sqrt(len(left) / left.sum())
        if depth < last:
            left = jnp.arange(len(bias)) < jnp.ceil(share * len(bias))
            kernel, bias = kernel * left[None, :], bias * left
        narrowed[depth] = {"kernel": kernel, "bias": bias}
    return {"layers": narrowed}


def _layers(widths: Sequence[int], rngs: nnx.Rngs) -> nnx.List:
    return nnx.List([nnx.Linear(inputs, outputs, rngs=rngs) for inputs, outputs in pairwise(widths)])


class _Perceptron(nnx.Module):
    def __init__(self, widths: tuple[int, ...], *, rngs: nnx.Rngs):
        self.layers = _layers(widths, rngs)

    def __call__(self, x: Array, *, label: Array | None, train: bool, key: Array | None) -> Array:
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class _Generator(nnx.Module):
    def __init__(self, latent: int, shape: tuple[int, ...], widths: tuple[int, ...], classes: int, *, rngs: nnx.Rngs):
        self.shape = shape
        self.embedding = nnx.Embed(classes, latent, rngs=rngs) if classes else None
        inputs = 2 * latent if classes else latent
        self.layers = _layers((inputs, *widths, math.prod(shape)), rngs)

    def __call__(self, z: Array, *, label: Array | None, train: bool, key: Array | None) -> Array:
        if self.embedding is not None:
            z = jnp.concatenate([z, self.embedding(required("label", label))], axis=-1)
        for layer in self.layers[:-1]:
            z = jax.nn.leaky_relu(layer(z), 0.2)
        x = self.layers[-1](z).reshape(-1, *self.shape)
        return jnp.tanh(x) if len(self.shape) == 3 else x


class _Discriminator(nnx.Module):
    def __init__(self, shape: tuple[int, ...], widths: tuple[int, ...], rate: float, classes: int, *, rngs: nnx.Rngs):
        self.layers = _layers((math.prod(shape), *widths, 1), rngs)
        self.dropout = nnx.Dropout(rate)
        self.projection = Projection(widths[-1], classes, rngs=rngs) if classes else None

    def __call__(self, x: Array, *, label: Array | None, train: bool, key: Array | None) -> Array:
        x = x.reshape(x.shape[0], -1)
        for depth, layer in enumerate(self.layers[:-1]):
            x = jax.nn.leaky_relu(layer(x), 0.2)
            if train and self.dropout.rate:
                x = self.dropout(x, deterministic=False, rngs=jax.random.fold_in(required("key", key), depth))
        logits = self.layers[-1](x)[:, 0]
        return logits if self.projection is None else logits + self.projection(x, label)
