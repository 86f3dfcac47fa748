"""Does the collapse alarm catch the runs that collapse, and leave the others alone? 45 runs, and published ones.

Command: gan-jax train alarms --data-dir DIR
Result: of 45 runs (docs/alarms/report.md) 10 collapsed and all were caught, one of them before a best that came after a
    collapse; no false alarm among the other 35. The alarm saves 59 % of the waste. On the published curves the
    checkpoint returned to is within 5 % of the best on average, 14 % at worst
Cost: a run on the ring is 10 to 25 s on two AMD EPYC cores, one of images about a minute: half an hour in all

Each cell trains one GAN of two perceptrons to its last step, whatever becomes of it, and keeps its scores; the report
replays the alarm on them. Whether a run collapsed is said by its scores and not by the alarm: its final level is more
than 1.5 times its best, a level being the median of five scores. What is trained after the best level is wasted; the
alarm saves what would have come after it. Thresholds are the defaults of `diagnostics.termination`, which were set on
runs of other seeds (0 to 2 and 100), before those of this table.

Below it the same is replayed on curves through published stopping points: six CIFAR-10 runs of one large benchmark
that end far above their best distance, log-linear from 350 to the best and on to the last, with noise of 5 % on each of
200 scores, and on curves that only fall.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gan_jax import evaluation, latents, objectives, penalties, rules
from gan_jax.base import Continue, Hook, Metrics, Pair, Program, Report, State, Study
from gan_jax.data import images, mixtures
from gan_jax.diagnostics import termination
from gan_jax.diagnostics.termination import Criteria, Score
from gan_jax.gan import Hypers, adam, gan
from gan_jax.networks import mlp
from gan_jax.training import lookup, loop, watch


class Setting(NamedTuple):
    """What a run is made of. few: train on so many images alone; 0 for all."""

    data: str
    rates: tuple[float, float] = (2e-4, 2e-4)
    beta1: float = 0.5
    penalty: float = 0.0
    objective: str = "non_saturating"
    dropout: float = 0.3
    d_steps: int = 1
    few: int = 0


SETTINGS = {
    "ring-r1": Setting("ring", (1e-3, 1e-3), penalty=0.02),
    "ring-relativistic": Setting("ring", (1e-3, 1e-3), penalty=0.02, objective="relativistic"),
    "ring-plain": Setting("ring", (3e-4, 3e-4)),
    "ring-fast": Setting("ring", (3e-3, 3e-3), beta1=0.9),
    "ring-faster": Setting("ring", (1e-2, 1e-2)),
    "ring-minimax": Setting("ring", (3e-3, 3e-3), objective="minimax"),
    "mnist-plain": Setting("mnist", (5e-4, 5e-4)),
    "mnist-r1": Setting("mnist", (1e-3, 1e-3), penalty=0.1, dropout=0.0),
    "mnist-few": Setting("mnist", (1e-3, 1e-3), dropout=0.0, few=100),
    "mnist-momentum": Setting("mnist", (1e-3, 1e-3), beta1=0.9, dropout=0.0),
    "fashion-plain": Setting("fashion_mnist", (5e-4, 5e-4)),
    "fashion-hinge": Setting("fashion_mnist", (5e-4, 5e-4), objective="hinge"),
    "fashion-r1": Setting("fashion_mnist", (1e-3, 1e-3), penalty=0.1, dropout=0.0),
    "fashion-few": Setting("fashion_mnist", (1e-3, 1e-3), dropout=0.0, few=100),
    "fashion-momentum": Setting("fashion_mnist", (1e-3, 1e-3), beta1=0.9, dropout=0.0),
}

# Of TARGETS: run -> (best Fréchet distance, its step, the final one, its step), steps in thousands.
PUBLISHED = {
    "DCGAN": (49.0, 42, 137.4, 200),
    "LSGAN": (66.7, 22, 330.9, 200),
    "Geometric GAN": (42.7, 46, 128.8, 200),
    "ACGAN": (45.6, 14, 201.2, 200),
    "ProjGAN": (33.8, 18, 152.1, 200),
    "WGAN-DRA": (41.6, 16, 65.2, 100),
}
START = 350.0  # of the published curves
COLLAPSED = 1.5  # final level over best level


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which runs, how long, and how they are judged."""

    settings: tuple[str, ...] = tuple(SETTINGS)
    """The settings."""
    trials: tuple[int, ...] = (10, 11, 12)
    """The seeds of each."""
    updates: int = 4000
    """Steps of each run."""
    every: int = 100
    """Steps between scores."""
    plateau: int = 25
    """Scores without a better level that make a plateau, in the replay that stops there too."""
    batch: int = 64
    """Examples in a batch; four times as many points."""
    widths: tuple[int, ...] = (256, 512)
    """Hidden layers of both networks of images, narrowest first."""
    samples: int = 1000
    """Samples that are scored."""


SMALLEST = Config(settings=("ring-r1",), trials=(0,), updates=2, every=1, batch=2, widths=(4,), samples=20)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; it takes its data from the settings, and finds it in `data_dir`."""
    if data is not None:
        raise ValueError(f"--data {data}: this table has several, --settings says which")
    lookup.require_known("setting", config.settings, SETTINGS)
    if min(config.updates, config.every) < 1 or config.updates < config.every:
        raise ValueError(f"--updates {config.updates} --every {config.every}: give 1 or more, and no fewer updates")
    return Study(
        cells={
            f"{name}-{seed}": partial(cell, config, SETTINGS[name], seed, data_dir)
            for name in config.settings
            for seed in config.trials
        },
        report=partial(report, config),
    )


def assemble(config: Config, setting: Setting, data_dir: str | None) -> Program:
    """Return the GAN of a setting, with its score."""
    hyper = Hypers(rates=Pair(*setting.rates), beta1=setting.beta1, penalty=setting.penalty)
    shared = {
        "hyper": hyper,
        "objective": lambda hyper: objectives.OBJECTIVES[setting.objective](),
        "penalty": (lambda hyper: penalties.r1(hyper.penalty)) if setting.penalty else None,
        "rule": lambda hyper: rules.alternating(adam(hyper), d_steps=setting.d_steps),
    }
    if setting.data in mixtures.MIXTURES:
        mixture = mixtures.MIXTURES[setting.data]()
        networks = Pair(
            mlp.generator(8, (2,), widths=(128, 128)), mlp.discriminator((2,), widths=(128, 128), dropout=0.0)
        )
        model = gan(networks, latents.normal(8), **shared)
        batches = partial(mixtures.batches, mixture, 4 * config.batch)
        return model.program(batches, score=evaluation.score_points(model, mixture, samples=config.samples), chunk=100)
    source = images.load(setting.data, data_dir, size=28)
    shape = source.train.image.shape[1:]
    networks = Pair(
        mlp.generator(64, shape, widths=config.widths),
        mlp.discriminator(shape, widths=config.widths[::-1], dropout=setting.dropout),
    )
    model = gan(networks, latents.normal(64), **shared)
    few = slice(None, setting.few or None)
    train = source.train._replace(image=source.train.image[few], label=None)
    score = evaluation.score_images(model, source, samples=config.samples)
    return model.program(partial(images.batches, train, config.batch), score=score, chunk=50)


def cell(config: Config, setting: Setting, seed: int, data_dir: str | None, directory: Path) -> Mapping[str, Any]:
    """Train a run to its end; return its scores."""
    program = assemble(config, setting, data_dir)
    if program.score is None:
        raise ValueError(f"no score is there for {setting.data}: leave its settings out")
    rows: list[dict[str, float]] = []
    key = jax.random.key(2**31)  # of the scores: none of the runs'

    def take(step: int, state: State, metrics: Metrics) -> Continue:
        taken = next(iter(program.score(key, state).values()))  # pyrefly: ignore[not-callable]
        rows.append({"step": step, "score": taken, **{name: float(metrics[name]) for name in watch.OUTPUTS}})
        return Continue()

    chunk = min(program.chunk, config.every)
    loop.train(program, jax.random.key(seed), steps=config.updates, chunk=chunk, hooks=(Hook(config.every, take),))
    finite = [{name: value if np.isfinite(value) else None for name, value in row.items()} for row in rows]
    return {"rows": finite}


class Outcome(NamedTuple):
    """What became of a run, and what the alarm would have made of it.

    collapsed: by the final score. stopped: the place of the score at which it would have been stopped, or None.
    saved: the share of the wasted scores that would not have been taken, at most 1; None where there is no waste.
    early: whether it would have been stopped before its best level.
    loss: the score of the checkpoint that it would return to, over the best level.
    """

    collapsed: bool
    stopped: int | None
    kind: str
    saved: float | None
    early: bool
    loss: float


def replay(rows: Sequence[Score], criteria: Criteria) -> Outcome:
    """Replay the verdicts on a whole run."""
    levels = termination.levels([row.score for row in rows], criteria.window)
    settled = levels[criteria.window - 1 :] if len(levels) >= criteria.window else levels
    best = int(settled.argmin()) + len(levels) - len(settled)
    ends = ((place, termination.judge(rows[: place + 1], criteria)) for place in range(len(rows)))
    place, verdict = next(((place, verdict) for place, verdict in ends if verdict.ends), (None, None))
    verdict = verdict or termination.judge(rows, criteria)
    wasted = len(rows) - 1 - best
    return Outcome(
        collapsed=bool(levels[-1] > COLLAPSED * levels[best]),
        stopped=place,
        kind=verdict.kind,
        saved=None if not wasted else 0.0 if place is None else min(1.0, (len(rows) - 1 - place) / wasted),
        early=place is not None and place < best,
        loss=float((verdict.best.score if verdict.best else np.inf) / levels[best]),
    )


def published(name: str, rng: np.random.Generator, places: int = 200) -> tuple[list[Score], np.ndarray]:
    """Return a curve through a run's published points: noisy scores, and the same without the noise."""
    best, at, final, end = PUBLISHED[name]
    steps = np.linspace(0, end, places + 1)[1:]
    true = np.exp(np.interp(steps, [0, at, end], np.log([START, best, final])))
    noisy = true * np.exp(0.05 * rng.standard_normal(places))
    return [Score(round(1000 * step), float(score)) for step, score in zip(steps, noisy, strict=True)], true


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the tables, and the curves of the runs with their alarms."""
    alarm = Criteria()
    runs = {name: watch.series(result["rows"]) for name, result in results.items()}
    outcomes = {name: replay(rows, alarm) for name, rows in runs.items()}
    text = ["## Runs", "", f"{config.updates:,} steps, a score each {config.every}; the alarm alone.", ""]
    text += [
        "| runs | collapsed | caught | of these before their best | false alarms | waste saved |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    kinds = dict.fromkeys(SETTINGS[name].data for name in config.settings)
    for title, data in (*((kind, {kind}) for kind in kinds), ("all", set(kinds))):
        named = {f"{name}-{seed}" for name in config.settings for seed in config.trials if SETTINGS[name].data in data}
        chosen = [outcome for name, outcome in outcomes.items() if name in named]
        text.append(_totals(f"{title} ({len(chosen)})", chosen))
    text += ["", "| run | final / best | stopped at | why | checkpoint / best |", "| --- | ---: | ---: | --- | ---: |"]
    for name, outcome in outcomes.items():
        levels = termination.levels([row.score for row in runs[name]], alarm.window)
        ratio = levels[-1] / levels[alarm.window - 1 :].min(initial=levels[-1])
        at = "" if outcome.stopped is None else f"{runs[name][outcome.stopped].step:,}"
        text.append(f"| {name} | {ratio:.2f} | {at} | {outcome.kind} | {outcome.loss:.2f} |")
    text += ["", *_published_table(config)]
    return Report("\n".join(text), {"curves": _figure(config, runs, outcomes)} if runs else {})


def _totals(title: str, outcomes: Sequence[Outcome]) -> str:
    ill = [outcome for outcome in outcomes if outcome.collapsed]
    caught = [outcome for outcome in ill if outcome.kind in termination.ALARMS]
    early = sum(outcome.early for outcome in caught)
    false = sum(outcome.kind in termination.ALARMS for outcome in outcomes if not outcome.collapsed)
    saved = [outcome.saved for outcome in ill if outcome.saved is not None]
    share = f"{np.mean(saved):.0%}" if saved else ""
    return f"| {title} | {len(ill)} | {len(caught)} | {early} | {false} of {len(outcomes) - len(ill)} | {share} |"


def _published_table(config: Config, draws: int = 20) -> list[str]:
    """The published curves, and curves that only fall, each with noise drawn anew so many times."""
    text = [
        "## Curves through published points",
        "",
        f"{draws} draws of the noise each, 200 scores; the alarm, and a plateau of {config.plateau} scores. Columns: "
        "the true distance of the checkpoint returned to, over the best (mean, largest); that at the stop (mean); the "
        "share of the steps after the best that are saved; stops before the best.",
        "",
        "| curve | checkpoint / best | largest | at the stop | saved | early |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    criteria = replace(Criteria(), patience=config.plateau)
    for name in PUBLISHED:
        found = []
        for draw in range(draws):
            rows, true = published(name, np.random.default_rng(draw))
            place, best_place = _stop(rows, criteria)
            best = int(true.argmin())
            saved = (len(rows) - 1 - place) / (len(rows) - 1 - best)
            found.append((true[best_place] / true[best], true[place] / true[best], saved, place < best))
        back, stop, saved, early = np.array(found).T
        ratios = " | ".join(f"{ratio:.2f}" for ratio in (back.mean(), back.max(), stop.mean()))
        text.append(f"| {name} | {ratios} | {saved.mean():.0%} | {early.sum():.0f} |")
    stops = 0
    for draw, final in enumerate(np.geomspace(20, 120, draws)):
        true = np.geomspace(START, final, 200)
        noise = np.exp(0.05 * np.random.default_rng(draw).standard_normal(200))
        place, _ = _stop([Score(i, float(score)) for i, score in enumerate(true * noise)], criteria)
        stops += place < 199
    text += ["", f"Of {draws} curves that fall log-linearly from 350 to between 20 and 120, {stops} are stopped early."]
    return text


def _stop(rows: Sequence[Score], criteria: Criteria) -> tuple[int, int]:
    """The place where a run is stopped, the last one if it is not, and that of its best row by then."""
    for place in range(len(rows)):
        verdict = termination.judge(rows[: place + 1], criteria)
        if verdict.ends or place == len(rows) - 1:
            break
    return place, next(i for i, row in enumerate(rows) if row == verdict.best)


def _figure(config: Config, runs: Mapping[str, Sequence[Score]], outcomes: Mapping[str, Outcome]) -> Any:
    from matplotlib.figure import Figure

    columns = min(5, len(config.settings))
    rows = -(-len(config.settings) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(config.settings) :]:
        ax.set_axis_off()
    for ax, name in zip(axes, config.settings, strict=False):
        for place, seed in enumerate(config.trials):
            series = runs.get(f"{name}-{seed}")
            if not series:
                continue
            colour = f"C{place}"
            ax.plot([row.step for row in series], [row.score for row in series], lw=0.8, color=colour)
            outcome = outcomes[f"{name}-{seed}"]
            if outcome.stopped is not None:
                row = series[outcome.stopped]
                ax.plot([row.step], [row.score], "v", ms=6, color=colour, mec="k", mew=0.5)
        ax.set_yscale("log")
        ax.set_title(name, fontsize=8)
        ax.tick_params(labelsize=6, which="both")
    return figure
