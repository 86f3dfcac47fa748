"""Small GANs of every family of networks, to be trained on several devices and by several processes."""

import jax
import jax.numpy as jnp
import optax

from gan_jax import latents, objectives, penalties, rules
from gan_jax.base import Batches, Pair
from gan_jax.gan import Hypers, gan, sgd
from gan_jax.networks import dcgan, maxout, mlp, resnet
from gan_jax.networks.lowerings import patches
from gan_jax.networks.spectral import spectral

FAMILIES = ("mlp", "maxout", "dcgan", "resnet")


def adam(hyper):
    """Adam with an ε above the rounding of slopes that are 0 but for it, of a bias before batch normalisation.

    With the usual 1e-8 its steps along them would differ by 1e-9 from one number of devices to another.
    """
    return Pair(*(optax.adam(rate, b1=0.5, eps=1e-6) for rate in hyper.rates))


OPTIMISERS = {"adam": adam, "sgd": sgd}


def networks(family, axis_name=None):
    if family == "mlp":
        return Pair(mlp.generator(3, (2,), widths=(8,)), mlp.discriminator((2,), widths=(8,), dropout=0.3))
    if family == "maxout":
        return Pair(
            maxout.generator(3, 2, widths=(8,), axis_name=axis_name), maxout.discriminator((2,), widths=(8,), pieces=2)
        )
    images = {"width": 2, "lowering": patches()}
    if family == "dcgan":
        critic = dcgan.discriminator(28, 1, normalise=False, **images)
        return Pair(dcgan.generator(3, 28, 1, axis_name=axis_name, **images), spectral(critic))
    return Pair(
        resnet.generator(3, 28, 1, axis_name=axis_name, **images), spectral(resnet.discriminator(28, 1, **images))
    )


def as_wide(network, dtype):
    """The network with parameters and statistics of a type."""

    def init(key):
        return jax.tree.map(lambda leaf: leaf.astype(dtype), network.init(key))

    return network._replace(init=init)


def program(
    family="mlp",
    *,
    axis_name=None,
    optimiser="adam",
    penalty=True,
    d_steps=2,
    batch=16,
    slices=1,
    dtype=jnp.float32,
    synchronised=True,
    augment=None,
):
    """A GAN on fixed data, drawn with replacement: latents, dropout, R1 and several steps of the discriminator."""
    pair = networks(family, axis_name if synchronised else None)
    model = gan(
        Pair(*(as_wide(network, dtype) for network in pair)),
        lambda key, n: latents.normal(3)(key, n).astype(dtype),
        hyper=Hypers(rates=Pair(0.02, 0.01) if optimiser == "sgd" else Pair(4e-4, 2e-4), penalty=0.1),
        objective=lambda hyper: objectives.non_saturating(),
        penalty=(lambda hyper: penalties.r1(hyper.penalty)) if penalty else None,
        rule=lambda hyper: rules.alternating(OPTIMISERS[optimiser](hyper), d_steps=d_steps),
        augment=augment and (lambda hyper: augment),
        axis_name=axis_name,
        slices=slices,
    )
    name, shape = ("x", (2,)) if family in ("mlp", "maxout") else ("image", (28, 28, 1))
    data = jax.random.uniform(jax.random.key(9), (64, *shape), dtype, -1, 1)

    def batches(count):
        def draw(arrays, key, step):
            index = jax.random.randint(jax.random.fold_in(key, step), (count, batch), 0, 64)
            return {name: arrays["data"][index]}

        return Batches({"data": data}, draw)

    return model.program(batches)
