"""GANs whose initialisation is learned over mixtures of random shape: the few-shot table in two dimensions.

Command: gan-jax train mixture_maml_gan
Result: to be measured
Cost: to be measured

A task is a mixture of three Gaussians at random places: a GAN is adapted to 32 of its points by alternating descent
with R1, and judged by the energy distance of its samples to points that it has not seen. The outer objective of the
rows that have one is that same distance, between samples and the task's query. MAML (Finn et al. 2017, arXiv
1703.03400) differentiates through all ten steps. Rows without learned rates are adapted at the best of four
multiples of the rate, chosen for each number of steps on tasks of their own.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from gan_jax import fewshot, latents, objectives, penalties, rules
from gan_jax.base import Learner, MetaLearner, Pair, Program, Report, Study, Task
from gan_jax.gan import GAN, Hypers, adam, gan, sgd
from gan_jax.meta import inner, tasks
from gan_jax.meta.catalogue import META_LEARNERS, Setting
from gan_jax.meta.hyper import Interval, space
from gan_jax.networks import mlp
from gan_jax.training import studies

TITLES = {
    "scratch": "scratch",
    "joint": "joint pre-training, fine-tuned",
    "reptile": "Reptile",
    "fomaml": "FOMAML",
    "maml": "MAML",
    "meta_sgd": "Meta-SGD",
    "anil": "ANIL",
    "learned": "MAML, learned rates and R1",
}
CHOSEN = ("scratch", "joint", "reptile", "fomaml", "maml", "anil")  # their rate is chosen, not learned
CHUNK = 50  # outer steps in one compiled call
SHOWN = 4  # mixtures in the figure
FAR = 100.0  # where an adaptation has diverged: fifty times the farthest centres


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared, and for how long."""

    methods: tuple[str, ...] = tuple(TITLES)
    """The rows."""
    trials: int = 5
    """Seeds of each, in one program."""
    updates: int = 1500
    """Outer steps; joint pre-training takes `inner_steps` times as many, of one step each."""
    tasks: int = 16
    """Tasks in an outer step."""
    shots: int = 32
    """Points of a support, and of a query."""
    inner_steps: int = 10
    """Steps of the inner loop in training."""
    horizons: tuple[int, ...] = (10, 100, 1000)
    """Steps of adaptation that are tested."""
    rate: float = 1e-3
    """Adam's rate of the outer loop, and of both players in joint pre-training."""
    inner_rate: float = 0.1
    """Both rates of descent in the inner loop; where learned ones begin."""
    multiples: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    """Of the inner rate, that the rows without learned rates choose from."""
    penalty: float = 0.1
    """Weight of R1; where a learned one begins."""
    d_steps: int = 1
    """Steps of the discriminator before one of the generator."""
    latent: int = 2
    """Dimensions of the latent."""
    widths: tuple[int, ...] = (64, 64)
    """Hidden layers of both networks."""
    tested: int = 40
    """Unseen tasks of each seed; half as many more choose the rate."""
    points: int = 256
    """Samples, and points of a query, in testing."""


SMALLEST = Config(
    methods=("scratch", "joint", "learned"),
    trials=2,
    updates=2,
    tasks=2,
    shots=4,
    inner_steps=2,
    horizons=(1, 2),
    multiples=(1.0, 2.0),
    widths=(4,),
    tested=2,
    points=8,
)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; its data are sampled."""
    if data is not None:
        raise ValueError(f"--data {data}: mixtures are sampled, leave the option out")
    for name in config.methods:
        if name not in TITLES:
            raise ValueError(f"unknown method {name!r}: there is {', '.join(TITLES)}")
    for name in ("updates", "inner_steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: give 1 or more")
    for name in ("trials", "tested"):
        if getattr(config, name) < 2:
            raise ValueError(f"{name} is {getattr(config, name)}: give 2 or more")
    model = assemble(config)
    return Study(
        cells={name: partial(cell, config, model, name) for name in config.methods}, report=partial(report, config)
    )


def assemble(config: Config, *, joint: bool = False, inner: Literal["sgd", "adam"] = "sgd") -> GAN:
    """Return the GAN that is adapted by descent, or that is trained jointly by Adam."""
    rate = config.rate if joint else config.inner_rate
    optimisers = partial(adam, epsilon_root=1e-8) if joint or inner == "adam" else sgd
    return gan(
        Pair(
            mlp.generator(config.latent, (2,), widths=config.widths),
            mlp.discriminator((2,), widths=config.widths, dropout=0.0),
        ),
        latents.normal(config.latent),
        hyper=Hypers(rates=Pair(rate, rate), penalty=config.penalty),
        objective=lambda hyper: objectives.non_saturating(hyper.smoothing),
        penalty=lambda hyper: penalties.r1(hyper.penalty),
        rule=lambda hyper: rules.alternating(optimisers(hyper), d_steps=config.d_steps),
        ema=0.0,
    )


def setting(config: Config, model: GAN, multiple: float = 1.0) -> Setting:
    """Return what the rows share, at a multiple of the inner rate."""
    learner = model.learner(fewshot.distance(model, config.shots))
    rates = Pair(*(multiple * rate for rate in model.hyper.rates))
    pretrained = assemble(config, joint=True)
    learned = Interval(config.inner_rate / 100, config.inner_rate * 100, log=True)
    weight = Interval(config.penalty / 100, config.penalty * 100, log=True)
    bounds: Any = (Pair(learned, learned), None, weight, None)  # of rates, beta1, penalty, smoothing
    return Setting(
        learner=learner._replace(hyper=learner.hyper._replace(rates=rates)),
        joint=pretrained.learner(fewshot.distance(pretrained, config.shots)),
        optimiser=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(config.rate)),
        steps=config.inner_steps,
        feed=inner.whole(config.d_steps),
        pool=inner.resampled(config.d_steps, 8 * config.shots),
        space=space(learner.hyper, Hypers(*bounds)),
        where=lambda hyper, change: hyper._replace(rates=change(hyper.rates)),
        interval=learned,
        head=lambda path: f"['layers'][{len(config.widths)}]" in path,
    )


def cell(config: Config, model: GAN, name: str, directory: Path) -> Mapping[str, Any]:
    """Train a row from all seeds in one program, and adapt it to unseen mixtures."""
    keys = jax.random.split(jax.random.key(0), config.trials)
    meta = META_LEARNERS[name](setting(config, model))
    steps = config.updates * (config.inner_steps if name == "joint" else 1)
    program = Program(
        meta.init,
        meta.meta_step,
        tasks.batches(tasks.blobs(config.shots, config.shots), config.tasks),
        lambda key, state: {},
        steps=steps,
        chunk=min(CHUNK, steps),
    )
    start = time.monotonic()
    if name == "scratch":
        state: Any = ()
    else:
        trained = studies.train(program, keys, directory, steps=steps)
        if trained.stop:
            return {"updates": trained.step, "stopped": trained.stop.reason}
        state = trained.state
    seconds = time.monotonic() - start

    def adapted(multiple: float, steps: int, which: str, count: int, seeds: int = config.trials) -> Any:
        """Distances [seeds, count] after so many steps, samples and tasks."""
        adapting = META_LEARNERS[name](setting(config, model, multiple))
        mine, theirs = jax.tree.map(lambda x: x[:seeds], (keys, state))
        return test(config, model, adapting, mine, theirs, steps, which, count)

    def tried(multiple: float, steps: int) -> float:
        """The mean of the first seed; infinite where an adaptation diverges."""
        distances = adapted(multiple, steps, "choose", config.tested // 2, seeds=1)[0]
        return float(np.nan_to_num(np.asarray(distances), nan=np.inf).mean())

    best = {
        steps: min(config.multiples, key=partial(tried, steps=steps)) if name in CHOSEN else 1.0
        for steps in config.horizons
    }
    found = {str(steps): np.asarray(adapted(best[steps], steps, "test", config.tested)[0], float) for steps in best}
    _, samples, task = adapted(best[config.horizons[0]], config.horizons[0], "test", SHOWN)
    return {
        "distance": {
            steps: np.round(np.ma.masked_invalid(mine).mean(axis=1), 5).tolist() for steps, mine in found.items()
        },
        "diverged": {steps: int((~np.isfinite(mine)).sum()) for steps, mine in found.items()},
        "multiple": {str(steps): multiple for steps, multiple in best.items()},
        "training_seconds": round(seconds, 1),
        "samples": np.round(np.nan_to_num(np.asarray(samples)[0]), 3).tolist(),
        "real": np.round(np.asarray(task.query["x"])[0], 3).tolist(),
        "support": np.round(np.asarray(task.support["x"])[0], 3).tolist(),
    }


def test(
    config: Config, model: GAN, meta: MetaLearner, keys: jax.Array, state: Any, steps: int, which: str, count: int
) -> tuple[jax.Array, jax.Array, Task]:
    """Adapt to `count` mixtures of each seed; the same ones for each row. Return distances, samples and tasks."""
    learner: Learner = model.learner(fewshot.distance(model, config.points))
    unseen = tasks.blobs(config.shots, config.points)

    @jax.jit
    @jax.vmap
    def of_seed(key: jax.Array, state: Any) -> Any:
        key = jax.random.fold_in(key, {"choose": 2**32 - 2, "test": 2**32 - 1}[which])
        drawn = tasks.sample(unseen, key, count)

        def one(key: jax.Array, task: Task) -> Any:
            adapt_key, loss_key = jax.random.split(key)
            adapted = meta.adapt(adapt_key, state, task.support, steps=steps)
            distance = learner.loss(model.hyper, loss_key, adapted, task.query)
            samples = model.sample(loss_key, adapted.current(), config.points)
            # Differences of huge distances mean nothing in single precision.
            return jnp.where(jnp.abs(samples).max() < FAR, distance, jnp.inf), samples, task

        return jax.vmap(one)(jax.random.split(jax.random.fold_in(key, 1), count), drawn)

    return of_seed(keys, state)


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the table, and samples of each row after the shortest adaptation."""
    text = [
        f"Energy distance of {config.points} samples to as many unseen points after adaptation to {config.shots}, over "
        f"{config.tested} unseen mixtures of each of {config.trials} seeds: mean over seeds ± 95 % interval.",
        "",
        "| method | "
        + " | ".join(f"{steps} steps" for steps in config.horizons)
        + " | multiples of the rate | training, s |",
        "| --- |" + " ---: |" * (len(config.horizons) + 2),
    ]
    for name in config.methods:
        result = results.get(name)
        if result is None or "stopped" in result:
            row = [result["stopped"] if result else "pending"] + [""] * (len(config.horizons) + 1)
        else:
            row = [_entry(result["distance"][str(steps)], result["diverged"][str(steps)]) for steps in config.horizons]
            multiples = (f"{result['multiple'][str(steps)]:g}" for steps in config.horizons)
            row += [" ".join(multiples) if name in CHOSEN else "learned", f"{result['training_seconds']:.0f}"]
        text.append(f"| {TITLES[name]} | " + " | ".join(row) + " |")
    shown = {name: result for name, result in results.items() if "samples" in result}
    return Report("\n".join(text), {"samples": _figure(config, shown)} if shown else {})


def _entry(values: list[float | None], diverged: int) -> str:
    finite = np.array([value for value in values if value is not None])
    if len(finite) < 2:
        return "diverges"
    error = stats.t.ppf(0.975, len(finite) - 1) * finite.std(ddof=1) / np.sqrt(len(finite))
    return f"{finite.mean():.3f} ± {error:.3f}" + (f" ({diverged} diverged)" if diverged else "")


def _figure(config: Config, shown: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.9 * len(shown), 2.0 * SHOWN), layout="constrained")
    axes = figure.subplots(SHOWN, len(shown), squeeze=False, sharex=True, sharey=True)
    for column, (name, result) in zip(axes.T, shown.items(), strict=True):
        column[0].set_title(TITLES[name], fontsize=8, wrap=True)
        for ax, real, samples, support in zip(
            column, *(result[k] for k in ("real", "samples", "support")), strict=True
        ):
            ax.scatter(*np.array(real).T, s=3, color="0.8", linewidths=0)
            ax.scatter(*np.array(samples).T, s=3, color="C0", alpha=0.6, linewidths=0)
            ax.scatter(*np.array(support).T, s=6, color="C3", marker="x", linewidths=0.6)
            ax.set(xticks=[], yticks=[], xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    return figure
