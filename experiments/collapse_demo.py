"""A GAN that collapses on purpose: the alarm stops it and rolls it back to its best checkpoint.

Command: gan-jax train collapse_demo --score-every 100
Result: step 1,200: "collapse: the score is 0.762, 3.28 times its best (step 400); rolled back to .../checkpoints/400",
    exit code 3
Cost: 12 s on two AMD EPYC cores, busy with other work

Two perceptrons on the ring by the minimax pair of the original paper (Goodfellow et al. 2014, arXiv 1406.2661), whose
generator learns nothing where the discriminator is sure, at a rate that makes it sure. No penalty holds it back.
`gan-jax diagnose runs/collapse_demo-0` then says what was wrong, and `--penalty .02` mends it.
"""

from dataclasses import dataclass
from functools import partial

from gan_jax import evaluation, latents, objectives, penalties, rules
from gan_jax.base import Pair, Program
from gan_jax.data import mixtures
from gan_jax.gan import Hypers, adam, gan
from gan_jax.networks import mlp


@dataclass(frozen=True, kw_only=True)
class Config:
    """The networks, the game and how it is played."""

    batch: int = 256
    """Points in one batch."""
    widths: tuple[int, ...] = (128, 128)
    """Hidden layers of both networks."""
    rate: float = 5e-3
    """Both learning rates."""
    beta1: float = 0.5
    """Adam's decay of the first moment, for both players."""
    penalty: float = 0.0
    """Weight of R1."""


SMALLEST = Config(batch=4, widths=(4,))


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Program:
    """Return the program, on the ring."""
    if data not in (None, "ring"):
        raise ValueError(f"--data {data}: this demonstration has the ring alone")
    mixture = mixtures.ring()
    model = gan(
        Pair(mlp.generator(8, (2,), widths=config.widths), mlp.discriminator((2,), widths=config.widths, dropout=0.0)),
        latents.normal(8),
        hyper=Hypers(rates=Pair(config.rate, config.rate), beta1=config.beta1, penalty=config.penalty),
        objective=lambda hyper: objectives.minimax(hyper.smoothing),
        penalty=lambda hyper: penalties.r1(hyper.penalty),
        rule=lambda hyper: rules.alternating(adam(hyper)),
    )
    return model.program(
        partial(mixtures.batches, mixture, config.batch),
        measure=evaluation.points(model, mixture),
        score=evaluation.score_points(model, mixture),
        steps=20_000,
        chunk=100,
    )
