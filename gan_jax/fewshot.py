"""How an adapted GAN is judged by a query: outer objectives for meta-learning, `(hyper, key, state, query) -> scalar`.

A game holds no gradient for a generator that a query could give: the discriminator that judges it has seen
nothing but the support. Three answers: both players' own losses on the query, a distance between the samples and the
query, and their sum.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from gan_jax.base import Batch, Hyper, Key
from gan_jax.divergences.integral import Kernel, energy_kernel, maximum_mean_discrepancy
from gan_jax.gan import GAN, GANState
from gan_jax.networks.layers import halved

Judge = Callable[[Hyper, Key, GANState, Batch], Array]


def query_losses(gan: GAN) -> Judge:
    """Judge by the sum of both players' losses on the query, each with the other's adapted parameters held fixed.

    What each player has come to is then moved by its own loss alone, as in the game itself. Through an inner loop an
    initialisation reaches both players, and so both losses. The game is that of the defaults: hyperparameters that are
    learned must not move what they are judged by.
    """
    losses = gan.game(gan.hyper).losses

    def judge(hyper: Hyper, key: Key, state: GANState, query: Batch) -> Array:
        params, stats, _ = state.point
        keys = jax.random.split(key)
        theirs = params._replace(discriminator=lax.stop_gradient(params.discriminator))
        ours = params._replace(generator=lax.stop_gradient(params.generator))
        return losses.generator(theirs, stats, keys[0], query)[0] + losses.discriminator(ours, stats, keys[1], query)[0]

    return judge


def distance(
    gan: GAN, n: int, *, features: Callable[[Array], Array] | None = None, kernel: Kernel | None = None
) -> Judge:
    """Judge by the squared kernel distance between samples of the generator as it stands and the query.

    Samples are drawn as `GAN.sample` does: batch normalisation uses running moments, which a few steps have hardly
    moved; few-shot generators are better without (`dcgan.generator(norm="layer")`).

    Args:
        gan: that was adapted.
        n: how many samples are drawn; of a conditional GAN as many as the query has labels.
        features: `[B, ...] -> [B, D]`, fixed; samples themselves, flattened, if None. No extractor that scores
            a result may be used here.
        kernel: of the distance; by default the energy distance.

    Raises:
        ValueError: if `n` is less than 2: the unbiased estimate compares samples with each other.
    """
    if n < 2:
        raise ValueError(f"n is {n}: a distance between samples takes at least 2")
    kernel = kernel or energy_kernel()

    def flat(x: Array) -> Array:
        return x.reshape(len(x), -1) if features is None else features(x)

    def judge(hyper: Hyper, key: Key, state: GANState, query: Batch) -> Array:
        real = query["image"] if "image" in query else query["x"]
        label = query.get("label") if gan.classes else None
        samples = gan.sample(key, state.current(), n if label is None else len(label), label)
        return maximum_mean_discrepancy(flat(samples), flat(real), kernel)

    return judge


def scales(x: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
    """Return images as features: their pixels, and the means over blocks of 2x2 and of 4x4 as far as sizes are even.

    Means are multiplied by the side of their block, so that each scale of a flat image has the same norm. Coarse
    scales see where strokes are that fine ones miss by a pixel.
    """
    found, side = [x.reshape(len(x), -1)], 1
    while side < 4 and x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0:
        x, side = halved(x), 2 * side
        found.append(side * x.reshape(len(x), -1))
    return jnp.concatenate(found, axis=1)


def total(*judges: Judge) -> Judge:
    """Judge by the sum of several."""

    def judge(hyper: Hyper, key: Key, state: GANState, query: Batch) -> Array:
        return jnp.stack([each(hyper, key, state, query) for each in judges]).sum()

    return judge
