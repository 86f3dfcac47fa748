"""Which methods cover all modes of a ring and a grid of Gaussians: PacGAN's table, and rows that it does not have.

Command: gan-jax train mixture_modes
Result: R1, averaged, covers 8.0 of 8 and 25.0 of 25 modes with each of three seeds, 89.6 ± 0.3 % and 38.2 ± 3.6 % of
    high quality; relativistic + R1 + R2 as many, 88.7 ± 0.2 % and 32.6 ± 3.4 %; a GAN 8.0 ± 0.0 and 15.0 ± 0.6,
    83.6 ± 0.3 % and 66.7 ± 2.5 %; PacGAN2 8.0 ± 0.0 and 23.3 ± 0.9, 83.3 ± 1.4 % and 47.7 ± 5.1 %; PacGAN4 8.0 ± 0.0
    and 25.0 ± 0.0, 74.4 ± 3.5 % and 24.0 ± 0.4 %; extragradient 7.7 ± 0.3 and 12.7 ± 1.7,
    87.6 ± 1.6 % and 80.6 ± 2.0 %; WGAN-GP on the ring 8.0 ± 0.0, 87.1 ± 0.4 %, on the grid yet to be run
    (docs/mixture_modes/report.md)
Cost: a step of three seeds is 18 ms (GAN) to 36 ms (relativistic) on two quiet AMD EPYC cores, 12 to 24 minutes a cell
    and about 4 hours the table; on one of them, or beside other work, 41 to 85 ms and up to 80 minutes a cell; the
    published length and ten seeds would be six days

The protocol of PacGAN (Lin et al. 2018, arXiv 1712.04086, on mixtures, and its published code): two-dimensional normal
latents, a rectified generator with batch normalisation, a critic of three maxout layers, Adam of rate 1e-4 and beta1
0.8, batches of 100; 2,500 samples. It trains for 400,000 steps on ten seeds, `--updates 400000 --trials 10` here; a
tenth of the steps and three seeds are the default. Unlike there, points are drawn anew for each batch instead of from a
fixed set of 100,000; the discriminator moves first where the published code moves both at once; the generator has two
hidden layers of 400 where that code has four; the members of a pack go through the generator's batch normalisation
together; running moments keep .9 and not .95. WGAN-GP has the weight and the Adam of its own published code on these
mixtures (Gulrajani et al. 2017, arXiv 1704.00028: .1; beta1 .5, beta2 .9), but one step of the critic where that has
five.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax import latents, objectives, penalties, rules
from gan_jax.arithmetic import require_counts
from gan_jax.base import Objective, Pair, Regularizer, Report, Study, UpdateRule
from gan_jax.data import mixtures
from gan_jax.data.mixtures import MIXTURES
from gan_jax.gan import GAN, GANState, Hypers, adam, gan
from gan_jax.metrics.modes import modes
from gan_jax.networks import maxout
from gan_jax.training import lookup, studies


def _r1_and_r2(weight: float) -> Regularizer:
    return penalties.total(penalties.r1(weight), penalties.r2(weight))


class Method(NamedTuple):
    """A row: what is minimised, under what penalty, by which rule, on packs of how many."""

    title: str
    objective: Any = objectives.non_saturating
    penalty: Any = None
    weight: float = 0.0
    rule: Any = rules.alternating
    pack: int = 1
    betas: tuple[float, float] | None = None  # Adam's, where they are not the table's


# Weights of R1 and R2 are those of the ring. A slope is an inverse length, so the grid, whose modes are five times as
# wide, has 25 times the weight for the same smoothness in units of a mode.
METHODS = {
    "gan": Method("GAN"),
    "pacgan2": Method("PacGAN2", pack=2),
    "pacgan4": Method("PacGAN4", pack=4),
    "r1": Method("R1", penalty=penalties.r1, weight=0.01),
    "wgan_gp": Method("WGAN-GP", objectives.wasserstein, penalties.wgan_gp, 0.1, betas=(0.5, 0.9)),
    "extragradient": Method("extragradient", rule=rules.extragradient),
    "relativistic": Method("relativistic + R1 + R2", objectives.relativistic, _r1_and_r2, 0.01),
}

# PacGAN's table 1: (modes, standard error), (share of high quality), (reverse KL), 10 trials of 400,000 steps.
PUBLISHED = {
    "ring": {
        "GAN": ("6.3 ± 0.5", "98.2", "0.45"),
        "ALI": ("6.6 ± 0.3", "97.6", "0.36"),
        "PacGAN2": ("7.9 ± 0.1", "95.6", "0.07"),
        "PacGAN4": ("7.8", "95.9", "0.07"),
    },
    "grid": {
        "GAN": ("17.3 ± 0.8", "94.8", "0.70"),
        "ALI": ("24.1", "95.7", "0.14"),
        "PacGAN2": ("23.8", "91.3", "0.13"),
        "PacGAN4": ("24.8 ± 0.2", "93.6", "0.04"),
    },
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared, and for how long."""

    mixtures: tuple[str, ...] = ("ring", "grid")
    """The data."""
    methods: tuple[str, ...] = tuple(METHODS)
    """The rows."""
    trials: int = 3
    """Seeds of each, in one program."""
    updates: int = 40_000
    """Steps of the generator."""
    batch: int = 100
    """Packs in a batch."""
    rate: float = 1e-4
    """Both learning rates."""
    beta1: float = 0.8
    """Adam's decay of the first moment, but for a method that has its own."""
    generator_widths: tuple[int, ...] = (400, 400)
    """Hidden layers of the generator."""
    discriminator_widths: tuple[int, ...] = (200, 200, 200)
    """Hidden layers of the discriminator."""
    pieces: int = 5
    """Linear maps of which a unit of the discriminator is the largest."""
    ema: float = 0.999
    """Decay of the generator's average."""
    samples: int = 2500
    """Points that are judged."""


SMALLEST = Config(
    mixtures=("ring",),
    methods=("gan", "pacgan2", "relativistic"),
    trials=2,
    updates=2,
    batch=4,
    generator_widths=(4,),
    discriminator_widths=(3,),
    pieces=2,
    samples=20,
)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; it takes its data from the configuration."""
    if data is not None:
        raise ValueError(f"--data {data}: this table has several, --mixtures {' '.join(MIXTURES)} says which")
    lookup.require_known("mixture", config.mixtures, MIXTURES)
    lookup.require_known("method", config.methods, METHODS)
    require_counts(trials=config.trials, updates=config.updates, samples=config.samples)
    rows = [(mixture, name, METHODS[name]) for name in config.methods for mixture in config.mixtures]
    return Study(
        cells={
            # Assembled now, so that what is wrong with the configuration is known before anything is written.
            f"{mixture}-{name}": partial(cell, config, assemble(config, mixture, method), mixture, method.pack)
            for mixture, name, method in rows
        },
        report=partial(report, config),
    )


def assemble(config: Config, mixture: str, method: Method) -> GAN:
    """Return the GAN of a row on a mixture."""
    beta1, beta2 = method.betas or (config.beta1, 0.999)

    def rule(hyper: Hypers) -> UpdateRule:
        return method.rule(adam(hyper, beta2=beta2))

    def objective(hyper: Hypers) -> Objective:
        return method.objective()

    return gan(
        Pair(
            maxout.generator(2, 2, widths=config.generator_widths),
            maxout.discriminator((method.pack, 2), widths=config.discriminator_widths, pieces=config.pieces),
        ),
        latents.normal(2),
        hyper=Hypers(rates=Pair(config.rate, config.rate), beta1=beta1, penalty=_weight(mixture, method)),
        objective=objective,
        penalty=None if method.penalty is None else lambda hyper: method.penalty(hyper.penalty),
        rule=rule,
        pack=method.pack,
        ema=config.ema,
    )


def _weight(mixture: str, method: Method) -> float:
    """The weight of a row's penalty on a mixture: that of the ring, where it is one of slopes in units of a mode."""
    width = float(MIXTURES[mixture]().std) / float(MIXTURES["ring"]().std)
    return method.weight * (width**2 if method.penalty in (penalties.r1, _r1_and_r2) else 1)


def cell(config: Config, model: GAN, mixture: str, pack: int, directory: Path) -> Mapping[str, Any]:
    """Train all seeds of a row at once, and judge their generators as they stand and averaged."""
    known = MIXTURES[mixture]()
    program = model.program(
        partial(mixtures.batches, known, config.batch * pack), steps=config.updates, chunk=min(100, config.updates)
    )
    keys = jax.vmap(jax.random.key)(jnp.arange(config.trials))
    trained = studies.train(program, keys, directory, steps=config.updates)
    if trained.stop:
        return {"updates": trained.step, "stopped": trained.stop.reason}
    state: GANState = trained.state

    @jax.jit
    @jax.vmap
    def draw(key: jax.Array, state: GANState) -> jax.Array:
        return model.sample(jax.random.fold_in(key, 2**32 - 1), state, config.samples)

    last = state.current()
    drawn = {name: np.asarray(draw(keys, state)) for name, state in (("averaged", state), ("last", last))}
    judged = {
        name: [modes(mine, np.asarray(known.centres), float(known.std))._asdict() for mine in points]
        for name, points in drawn.items()
    }
    return {**judged, "updates": trained.step, "points": np.round(drawn["averaged"][0][:1000], 3).tolist()}


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the table of each mixture, published rows beside ours, and the samples of the first seeds."""
    names = {"averaged": f"the generator's average (decay {config.ema})", "last": "the generator as it stands"}
    text = []
    for mixture in config.mixtures:
        total = len(MIXTURES[mixture]().centres)
        penalised = [name for name in config.methods if METHODS[name].penalty]
        own = [(METHODS[name].title, METHODS[name].betas) for name in config.methods]
        beta1 = ", ".join([f"{config.beta1:g}", *(f"{betas[0]:g} for {title}" for title, betas in own if betas)])
        text += [
            f"## {mixture}: modes of {total}, share of high quality, reverse KL",
            "",
            f"Mean and standard error over {config.trials} seeds, {config.updates:,} steps, rate {config.rate:g}, "
            f"beta1 {beta1}, one step of each player in turn, batches of {config.batch} packs; generators of "
            f"{len(config.generator_widths)} hidden layers, where the published ones have four. Weights of penalties: "
            + (", ".join(f"{METHODS[name].title} {_weight(mixture, METHODS[name]):g}" for name in penalised) or "none")
            + ".",
            "",
            "| method | " + " | ".join(f"{what}: modes | HQ % | KL" for what in names.values()) + " |",
            "| --- |" + " ---: |" * (3 * len(names)),
        ]
        for name in config.methods:
            result = results.get(f"{mixture}-{name}")
            judged = [_row(result[which]) if result and which in result else _blank(result) for which in names]
            text.append(f"| {METHODS[name].title} | " + " | ".join(word for row in judged for word in row) + " |")
        for title, row in PUBLISHED[mixture].items():
            blank = " |" * (3 * (len(names) - 1))
            text.append(f"| {title}, published (400,000 steps, 10 seeds) |{blank} {' | '.join(row)} |")
        text.append("")
    return Report("\n".join(text), {"samples": _figure(config, results)} if results else {})


def _blank(result: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What stands where there are no numbers: nothing yet, or a row that ended early."""
    return (result["stopped"] if result else "pending", "", "")


def _row(members: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """A row's three entries, as mean ± standard error over its members."""

    def entry(name: str, digits: int, scale: float = 1.0) -> str:
        values = np.array([member[name] for member in members if member[name] is not None]) * scale
        if not len(values):
            return "none"
        error = f" ± {values.std(ddof=1) / np.sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
        # A reverse KL is of high-quality samples: a seed that has none has no number.
        few = f" ({len(values)} of {len(members)} seeds)" if len(values) < len(members) else ""
        return f"{values.mean():.{digits}f}{error}{few}"

    return entry("covered", 1), entry("high_quality", 1, 100.0), entry("reverse_kl", 2)


def _figure(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    rows, columns = len(config.mixtures), len(config.methods)
    figure = Figure(figsize=(2.2 * columns, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, mixture in zip(axes, config.mixtures, strict=True):
        centres = np.asarray(MIXTURES[mixture]().centres)
        limit = 1.3 * np.abs(centres).max()
        for ax, name in zip(row, config.methods, strict=True):
            ax.scatter(*centres.T, s=60, facecolors="none", edgecolors="0.75", linewidths=0.8)
            result = results.get(f"{mixture}-{name}")
            if result and "points" in result:
                ax.scatter(*np.array(result["points"]).T, s=2, alpha=0.5, linewidths=0, color="C0")
            else:
                ax.text(0, 0, _blank(result)[0], ha="center", va="center", color="0.5")
            ax.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
            ax.set_title(METHODS[name].title, fontsize=8)
        row[0].set_ylabel(mixture)
    return figure
