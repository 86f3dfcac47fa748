"""GANs whose initialisation is learned over mixtures of random shape: the few-shot table in two dimensions.

Command: gan-jax train mixture_maml_gan
Result: energy distance after ten steps, five seeds: scratch .269 ± .027, joint pre-training .238 ± .010, Reptile
    .158 ± .046, MAML .102 ± .013, with learned rates and weight of R1 .086 ± .008; scratch has .125 ± .015 after 1,000
    steps (docs/mixture_maml_gan/report.md)
Cost: four minutes a row of first order and ten of second, on a core of an AMD EPYC beside other work; an hour the table

A task is a mixture of three Gaussians at random places: a GAN is adapted to 32 of its points by alternating descent
with R1, and judged by the energy distance of its samples to points that it has not seen. The outer objective of the
rows that have one is that same distance, between samples and the task's query; the sliced Wasserstein distance is
nobody's. MAML (Finn et al. 2017, arXiv 1703.03400) differentiates through all ten steps; FOMAML has both players'
losses on the query besides, without which its discriminator would stay as it began. Every row is adapted at the best
of four multiples of its rates, learned ones among them, chosen for each number of steps by the first seed on tasks of
its own. Joint pre-training takes as many steps as the others have inner ones, on fresh tasks: ten times the tasks.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_jax import fewshot, latents, objectives, penalties, rules
from gan_jax.arithmetic import require_counts
from gan_jax.base import Pair, Program, Report, Study, Task
from gan_jax.gan import GAN, Hypers, adam, gan, sgd
from gan_jax.meta import inner, tasks
from gan_jax.meta.catalogue import META_LEARNERS, TITLES, Setting, at_multiple
from gan_jax.meta.hyper import Interval, space
from gan_jax.metrics import sliced
from gan_jax.metrics.spread import interval
from gan_jax.networks import mlp
from gan_jax.training import lookup, studies

CHUNK = 50  # outer steps in one compiled call
SHOWN = 4  # mixtures in the figure
CHOOSE, TEST = (
    np.uint32(2**32 - 2),
    np.uint32(2**32 - 1),
)  # what a seed's key is folded with, where training folds in the step
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
    """Of the inner rates, that each row chooses from."""
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
    methods=("learned",),
    trials=2,
    updates=2,
    tasks=2,
    shots=4,
    inner_steps=2,
    horizons=(1,),
    multiples=(1.0, 2.0),
    widths=(4,),
    tested=2,
    points=8,
)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; its data are sampled."""
    if data is not None:
        raise ValueError(f"--data {data}: mixtures are sampled, leave the option out")
    lookup.require_known("method", config.methods, TITLES)
    require_counts(updates=config.updates, inner_steps=config.inner_steps)
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


def setting(config: Config, model: GAN) -> Setting:
    """Return what the rows share."""
    judge = fewshot.distance(model, config.shots)
    learner, direct = model.learner(judge), model.learner(fewshot.total(judge, fewshot.query_losses(model)))
    learned = Interval(config.inner_rate / 100, config.inner_rate * 100, log=True)
    weight = Interval(config.penalty / 100, config.penalty * 100, log=True) if config.penalty else None
    bounds: Any = (Pair(learned, learned), None, weight, None)  # of rates, beta1, penalty, smoothing
    return Setting(
        learner=learner,
        direct=direct,
        joint=assemble(config, joint=True).learner(judge),
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

    test = tester(config, model, name)

    def tried(multiple: float, steps: int) -> float:
        """The mean of the first seed; infinite where an adaptation diverges."""
        mine, theirs = jax.tree.map(lambda x: x[:1], (keys, state))
        return float(test(mine, theirs, multiple, steps, CHOOSE, config.tested // 2)["distance"].mean())

    best = {steps: min(config.multiples, key=partial(tried, steps=steps)) for steps in config.horizons}
    found = {steps: test(keys, state, best[steps], steps, TEST, config.tested) for steps in best}
    shown = found[config.horizons[0]]
    return {
        **{
            measure: {str(steps): _finite(found[steps][measure].mean(axis=1)) for steps in best}
            for measure in ("distance", "sliced")
        },
        "diverged": {str(steps): int(np.isinf(found[steps]["distance"]).sum()) for steps in best},
        "multiple": {str(steps): multiple for steps, multiple in best.items()},
        "training_seconds": round(seconds, 1),
        "shown": {
            part: np.round(np.nan_to_num(shown[part][0, :SHOWN]), 3).tolist() for part in ("support", "real", "samples")
        },
    }


def _finite(values: np.ndarray) -> list[float | None]:
    """A seed has no mean where one of its adaptations diverges."""
    return [round(float(value), 5) if np.isfinite(value) else None for value in values]


def tester(config: Config, model: GAN, name: str) -> Callable[..., dict[str, np.ndarray]]:
    """Make `(keys [S], state, multiple, steps, which, count) -> ` measures [S, count] of a row on unseen mixtures.

    They are the same mixtures for each row; those to choose by are others than those to test on. A measure is infinite
    where an adaptation has diverged.
    """
    judge, unseen = fewshot.distance(model, config.points), tasks.blobs(config.shots, config.points)

    @partial(jax.jit, static_argnums=(3, 5))
    def of_seeds(keys: jax.Array, state: Any, multiple: jax.Array, steps: int, which: jax.Array, count: int) -> Any:
        meta = META_LEARNERS[name](at_multiple(setting(config, model), multiple))

        def of_task(state: Any, key: jax.Array, task: Task) -> Any:
            adapt_key, judge_key, sample_key, direction_key = jax.random.split(key, 4)
            adapted = meta.adapt(adapt_key, state, task.support, steps=steps)
            samples, real = model.sample(sample_key, adapted.current(), config.points), task.query["x"]
            measures = {
                "distance": judge(model.hyper, judge_key, adapted, task.query),
                "sliced": sliced.distance(direction_key, samples, real, directions=64),
            }
            # Differences of huge distances mean nothing in single precision.
            stays = (jnp.abs(samples) < FAR).all()
            measures = {measure: jnp.where(stays, value, jnp.inf) for measure, value in measures.items()}
            return {**measures, "samples": samples, "real": real, "support": task.support["x"]}

        def of_seed(key: jax.Array, state: Any) -> Any:
            draw_key, adapt_key = jax.random.split(jax.random.fold_in(key, which))
            drawn = tasks.sample(unseen, draw_key, count)
            return jax.vmap(partial(of_task, state))(jax.random.split(adapt_key, count), drawn)

        return jax.vmap(of_seed)(keys, state)

    def test(*arguments: Any) -> dict[str, np.ndarray]:
        return jax.tree.map(lambda x: np.asarray(x, float), of_seeds(*arguments))

    return test


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the table, and samples of each row after the shortest adaptation."""
    text = [
        f"Distances of {config.points} samples to as many unseen points after adaptation to {config.shots}, over "
        f"{config.tested} unseen mixtures of each of {config.trials} seeds: mean over seeds ± 95 % interval. Sliced "
        "Wasserstein after the fewest steps.",
        "",
        f"| method | energy distance after {' | '.join(f'{steps:,}' for steps in config.horizons)} steps "
        "| sliced Wasserstein | multiples of the rates | training, s |",
        "| --- |" + " ---: |" * (len(config.horizons) + 3),
    ]
    for name in config.methods:
        result = results.get(name)
        if result is None or "stopped" in result:
            row = [result["stopped"] if result else "pending"] + [""] * (len(config.horizons) + 2)
        else:
            horizons = [str(steps) for steps in config.horizons]
            row = [_entry(result["distance"][steps], result["diverged"][steps]) for steps in horizons]
            row += [_entry(result["sliced"][horizons[0]], result["diverged"][horizons[0]])]
            row += [" ".join(f"{result['multiple'][steps]:g}" for steps in horizons)]
            row += [f"{result['training_seconds']:.0f}"]
        text.append(f"| {TITLES[name]} | " + " | ".join(row) + " |")
    shown = {name: result["shown"] for name, result in results.items() if "shown" in result}
    return Report("\n".join(text), {"samples": _figure(shown)} if shown else {})


def _entry(values: list[float | None], diverged: int) -> str:
    if diverged:
        return f"{diverged} diverge"
    finite = np.array(values, float)
    return f"{finite.mean():.3f} ± {interval(finite):.3f}"


def _figure(shown: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.9 * len(shown), 2.0 * SHOWN), layout="constrained")
    axes = figure.subplots(SHOWN, len(shown), squeeze=False, sharex=True, sharey=True)
    for column, (name, result) in zip(axes.T, shown.items(), strict=True):
        column[0].set_title(TITLES[name], fontsize=8, wrap=True)
        for ax, *points in zip(column, *(result[part] for part in ("real", "samples", "support")), strict=False):
            real, samples, support = points
            ax.scatter(*np.array(real).T, s=3, color="0.8", linewidths=0)
            ax.scatter(*np.array(samples).T, s=3, color="C0", alpha=0.6, linewidths=0)
            ax.scatter(*np.array(support).T, s=6, color="C3", marker="x", linewidths=0.6)
            ax.set(xticks=[], yticks=[], xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    return figure
