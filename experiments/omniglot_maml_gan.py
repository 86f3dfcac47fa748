"""A GAN that draws a character that it has never seen, after ten steps on a few drawings of it.

Command: gan-jax train omniglot_maml_gan --data-dir DIR
Result: none yet at these sizes. With --width 8 --tasks 4 --steps 3000, for one unseen character (label 1264) and 8
    drawings of it, the energy distance to the 12 others falls from 64.7 to 18.4 in ten steps, ink in the right places,
    to 6.0 in a hundred, strokes that a person reads (docs/omniglot_adapt.png), and to 4.2 in a thousand
    (gan-jax adapt RUN --images DIR --shots 8 --n 16 --steps 100). One run, one character
Cost: two seconds an outer step on two AMD EPYC cores beside other work, about an hour; at the smaller sizes 25 minutes
    on one of them

Each task is one of 964 characters of Omniglot (Lake et al. 2015): a DCGAN of layer normalisation is adapted to a few
drawings by alternating Adam with R1, and judged by the energy distance of its samples to other drawings of the same
character, of pixels at three scales. `--method` says how its initialisation is learned; by default by MAML (Finn et al.
2017, arXiv 1703.03400) with learned rates and weight of R1. `gan-jax adapt RUN --images DIR` then adapts it to one's
own pictures. The characters of the run's pictures are of alphabets that were not trained on.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gan_jax import fewshot, latents, objectives, penalties, rules
from gan_jax.base import Adapter, Batch, Key, Pair, Program, State
from gan_jax.data import episodes, images
from gan_jax.gan import GAN, Hypers, adam, gan
from gan_jax.meta import inner, tasks
from gan_jax.meta.catalogue import META_LEARNERS, Setting
from gan_jax.meta.hyper import Interval, space
from gan_jax.networks import dcgan, lowerings
from gan_jax.networks.layers import halvings
from gan_jax.training import lookup


@dataclass(frozen=True, kw_only=True)
class Config:
    """The networks, the game that is adapted, and how its initialisation is learned."""

    method: str = "learned"
    """scratch, joint, reptile, fomaml, maml, meta_sgd, per_step, anil or learned: MAML with rates and R1 learned."""
    size: int = 28
    """Pixels a side."""
    width: int = 16
    """Channels of the finest layer of features."""
    latent: int = 32
    """Dimensions of the latent."""
    shots: int = 8
    """Drawings that are adapted to."""
    queries: int = 8
    """Other drawings that judge."""
    tasks: int = 8
    """Characters in an outer step."""
    inner_steps: int = 10
    """Steps of adaptation."""
    d_steps: int = 1
    """Steps of the discriminator before one of the generator."""
    rate: float = 1e-3
    """Adam's rate of the outer loop, and of joint pre-training."""
    inner_rate: float = 2e-3
    """Both of Adam's rates of the inner loop, or where learned ones begin."""
    beta1: float = 0.5
    """Adam's decay of the first moment, in the inner loop."""
    penalty: float = 0.1
    """Weight of R1, or where a learned one begins."""
    levels: int = 2
    """Of rematerialisation, see meta.inner."""
    at_once: int | None = None
    """Tasks that are computed side by side, to save memory; all if None."""


SMALLEST = Config(width=2, latent=3, shots=2, queries=2, tasks=2, inner_steps=1)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Program:
    """Return the program; `data` is any labelled image set whose held-out classes are fixed."""
    lookup.require_known("method", (config.method,), META_LEARNERS)
    if config.queries < 2:
        raise ValueError(f"queries is {config.queries}: a distance between samples and queries takes 2 or more")
    divided = episodes.divide(images.load(data or "omniglot", data_dir, size=config.size))
    channels = divided.train.image.shape[-1]
    model = assemble(config, channels)
    meta = META_LEARNERS[config.method](setting(config, model, channels))
    stream = tasks.batches(tasks.classes(divided.train, config.shots, config.queries), config.tasks)
    unseen = tasks.classes(divided.held_out, config.shots, config.queries)

    def draw(key: Key, state: State, support: Batch, steps: int, n: int) -> jax.Array:
        adapt_key, sample_key = jax.random.split(key)
        return model.sample(sample_key, meta.adapt(adapt_key, state, support, steps=steps).current(), n)

    def observe(key: Key, state: State) -> Batch:
        """A row for each of eight unseen characters: four drawings of the support, four samples."""
        task_key, adapt_key = jax.random.split(key)
        drawn, keys = tasks.sample(unseen, task_key, 8), jax.random.split(adapt_key, 8)
        made = jax.vmap(lambda key, support: draw(key, state, support, config.inner_steps, 4))(keys, drawn.support)
        support = drawn.support["image"][:, jnp.arange(4) % config.shots]
        return {"image": jnp.concatenate([support, made], axis=1).reshape(-1, *made.shape[2:])}

    adapter = Adapter(draw, (config.size, config.size, channels), config.inner_steps, data or "omniglot")
    # A step of joint pre-training is one of as many in an inner loop.
    steps = 2000 * (config.inner_steps if config.method == "joint" else 1)
    return Program(meta.init, meta.meta_step, stream, observe, adapter=adapter, steps=steps)


def assemble(config: Config, channels: int, *, joint: bool = False) -> GAN:
    """Return the GAN that is adapted, or that is trained jointly."""
    rate = config.rate if joint else config.inner_rate
    # Weights of its own for each task, inside a loop: what patches are for on a CPU, and matrix products anywhere.
    lowering = lowerings.patches()
    return gan(
        Pair(
            dcgan.generator(config.latent, config.size, channels, width=config.width, norm="layer", lowering=lowering),
            dcgan.discriminator(config.size, channels, width=config.width, normalise=False, lowering=lowering),
        ),
        latents.normal(config.latent),
        hyper=Hypers(rates=Pair(rate, rate), beta1=config.beta1, penalty=config.penalty),
        objective=lambda hyper: objectives.non_saturating(hyper.smoothing),
        penalty=lambda hyper: penalties.r1(hyper.penalty),
        rule=lambda hyper: rules.alternating(adam(hyper, epsilon_root=1e-8), d_steps=config.d_steps),
        ema=0.0,
    )


def setting(config: Config, model: GAN, channels: int) -> Setting:
    """Return what any meta-learner of this GAN is made of."""
    judge = fewshot.distance(model, config.queries, features=fewshot.scales)
    learner, last = model.learner(judge), halvings(config.size, 7) - 1
    rate = Interval(config.inner_rate / 100, config.inner_rate * 100, log=True)
    weight = Interval(config.penalty / 100, config.penalty * 100, log=True) if config.penalty else None
    bounds: Any = (Pair(rate, rate), None, weight, None)  # of rates, beta1, penalty, smoothing
    return Setting(
        learner=learner,
        direct=model.learner(fewshot.total(judge, fewshot.query_losses(model))),
        joint=assemble(config, channels, joint=True).learner(judge),
        optimiser=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(config.rate)),
        steps=config.inner_steps,
        feed=inner.whole(config.d_steps),
        pool=inner.resampled(config.d_steps, 64),
        space=space(learner.hyper, Hypers(*bounds)),
        where=lambda hyper, change: hyper._replace(rates=change(hyper.rates)),
        interval=rate,
        head=lambda path: "['head']" in path or path.startswith(f".generator['ups'][{last}]"),
        levels=config.levels,
        at_once=config.at_once,
    )
