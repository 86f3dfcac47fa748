"""A noisy Dirac-GAN: a point that chases the mean of the data in the plane, against a linear critic.

An experiment in a file of its own, small enough for the tests of the command line: two parameters
a player, a step in microseconds.

Command: gan-jax train tests/experiment_file.py
Result: the generator stands within 0.1
    of the mean.
Cost: a second.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from gan_jax.base import Batches, Pair, Program

MEANS = {"near": 1.0, "far": 5.0}  # the data sets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The step sizes."""

    generator: float = 0.05
    discriminator: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is varied in the tests."""

    rates: Rates = Rates()
    decay: float | None = 0.1
    """The critic's weight decay."""
    batch: int = 8  # examples in a batch
    noise: Literal["normal", "uniform"] = "normal"
    shape: tuple[int, ...] = (2,)
    conditional: bool = False
    explodes_at: int | None = None
    """The step that makes the loss and the critic infinite."""
    judged: bool = True  # whether there is something to measure


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Program:
    """The game as a program."""
    for name, rate in dataclasses.asdict(config.rates).items():
        if rate < 0:
            raise ValueError(f"rates.{name} {rate}: use a rate of 0 or more")
    if (data or "near") not in MEANS:
        raise ValueError(f"data set {data!r} is not prepared: there is {', '.join(MEANS)}")
    mean = MEANS[data or "near"]
    random = {"normal": jax.random.normal, "uniform": jax.random.uniform}[config.noise]

    def init(key):
        return Pair(jax.random.normal(key, config.shape), jnp.zeros(config.shape)), jnp.zeros((), jnp.int32)

    def step(key, state, batch):
        (point, slope), count = state
        fake = point[None] + random(key, batch["x"].shape[1:])
        gap = (batch["x"][0] - fake).mean(0)
        if config.explodes_at is not None:
            gap = jnp.where(count + 1 >= config.explodes_at, jnp.inf, gap)
        loss = jnp.vdot(slope, gap)
        decay = 0.0 if config.decay is None else config.decay
        pair = Pair(point + config.rates.generator * slope, slope + config.rates.discriminator * (gap - decay * slope))
        return (pair, count + 1), {"generator/loss": loss, "discriminator/loss": -loss}

    def draw(arrays, key, step):
        noise = random(jax.random.fold_in(key, step), (1, config.batch, *config.shape))
        return {"x": mean + noise}

    def sample(key, state, n, label):
        if label is not None and not config.conditional:
            raise ValueError("the model is unconditional: sample without a label")
        return state[0].generator[None] + random(key, (n, *config.shape)) + (0 if label is None else label)

    def measure(key, state, n):
        gap = sample(key, state, n, None).mean(0) - mean - (0.5 if config.noise == "uniform" else 0.0)
        return {"distance": float(jnp.linalg.norm(gap)), "counts": {"samples": n}}

    return Program(
        init=init,
        step=step,
        batches=Batches({}, draw),
        observe=lambda key, state: {"x": sample(key, state, 16, None)} if config.shape == (2,) else {},
        sample=sample,
        measure=measure if config.judged else None,
        steps=40,
        chunk=1,
    )
