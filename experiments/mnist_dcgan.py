"""DCGAN on digits (Radford et al. 2015, arXiv 1511.06434): the demo.

Command: gan-jax train mnist_dcgan
Result: pending
Cost: pending

The non-saturating pair with batch normalisation in both networks and Adam at 2e-4, beta1 .5. With
`--conditional` the generator's normalisation and a projection in the discriminator take the label.
"""

from dataclasses import dataclass

from gan_jax import latents, objectives, rules
from gan_jax.base import Pair, Program
from gan_jax.data import images
from gan_jax.gan import Hypers, adam, gan
from gan_jax.networks import dcgan


@dataclass(frozen=True, kw_only=True)
class Config:
    """The networks, the game and how it is played."""

    batch: int = 64
    size: int = 28
    latent: int = 64
    width: int = 32
    conditional: bool = False
    d_steps: int = 1
    ema: float = 0.995
    g_rate: float = 2e-4
    d_rate: float = 2e-4
    beta1: float = .5
    normalise: bool = True
    smoothing: float = 0.0
    length: int = 1500


SMALLEST = Config(batch=2, width=2)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Program:
    source = images.load(data or "digits", data_dir, size=config.size)
    channels = source.train.image.shape[-1]
    classes = source.classes if config.conditional else 0
    model = gan(
        Pair(
            dcgan.generator(config.latent, config.size, channels, width=config.width, classes=classes),
            dcgan.discriminator(config.size, channels, width=config.width, classes=classes, normalise=config.normalise),
        ),
        latents.normal(config.latent),
        hyper=Hypers(rates=Pair(config.g_rate, config.d_rate), beta1=config.beta1, smoothing=config.smoothing),
        objective=lambda hyper: objectives.non_saturating(hyper.smoothing),
        rule=lambda hyper: rules.alternating(adam(hyper), d_steps=config.d_steps),
        classes=classes,
        ema=config.ema,
    )
    return model.program(images.batches(source.train, config.batch, config.d_steps), steps=config.length, chunk=10)
