"""Is a run well, ill or done: what its records and its newest checkpoint say, in ten lines and a page of plots.

Everything is read, so a run may be diagnosed while it trains.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.base import Batch, Continue, Hook, Key, Metrics, Program, State
from gan_jax.diagnostics import termination
from gan_jax.diagnostics.gradients import agreement, gradients
from gan_jax.diagnostics.spectrum import Spectrum, analyse, probe
from gan_jax.diagnostics.termination import ALARMS, Criteria, Verdict
from gan_jax.training import parallel, records, watch
from gan_jax.training.runs import Record

PROBES = "probes.jsonl"
_BATCH = 64  # examples of a probe
_SATURATED = 0.5  # share of logits past which a player is said to have stopped learning
_SHORT = {"generator": "G", "discriminator": "D"}
_UNLIKE = 0.5  # diversity or coverage below which modes are said to be missing

Rows = Sequence[Mapping[str, Any]]


class Probed(NamedTuple):
    """What a probe of one state found: the sizes of gradients by name, and the spectrum."""

    gradients: Mapping[str, float]
    spectrum: Spectrum


class Diagnosis(NamedTuple):
    """What a run comes to. word: "well", "ill" or "done". lines: of text. figure: matplotlib's."""

    word: str
    lines: tuple[str, ...]
    figure: Any


def prober(program: Program, *, products: int) -> Callable[[Key, State], Probed]:
    """Return `(key, state) -> Probed`, on one batch of at most 64, compiled once, for a program that is a game.

    The state lies on one device. Where the program's data lie on several, all processes take part in drawing.

    products: with the game's Jacobian; more of them see more of its spectrum.
    """
    arrays, draw = program.batches
    drawn = jax.jit(lambda arrays, key: jax.tree.map(lambda leaf: leaf[0, :_BATCH], draw(arrays, key, jnp.int32(0))))

    @jax.jit
    def look(key: jax.Array, state: State, batch: Batch) -> tuple[Mapping[str, jax.Array], jax.Array]:
        game, point = program.game(state)  # pyrefly: ignore[not-callable]  # the caller's to check
        sizes = {**gradients(game, key, point, batch)}
        if all(len(leaf) > 1 for leaf in jax.tree.leaves(batch)):
            sizes |= agreement(game, key, point, batch)
        return sizes, probe(game, key, point, batch, products=products)

    def examine(key: Key, state: State) -> Probed:
        sizes, hessenberg = jax.device_get(look(key, state, parallel.whole(drawn(arrays, key))))
        return Probed({name: float(value) for name, value in sizes.items()}, analyse(hessenberg))

    return examine


def probes(directory: Path, program: Program, key: Key, every: int, *, start: int = 0, products: int = 10) -> Hook:
    """Return a hook that probes every so many steps and keeps what it finds, and its seconds, in probes.jsonl.

    start: where the run begins; rows of later steps, left by a run that was killed, are dropped first.
    products: those of `prober`.
    """
    path, examine = directory / PROBES, prober(program, products=products)
    records.cut(path, start)

    def run(step: int, state: State, metrics: Metrics) -> Continue:
        began = time.monotonic()
        sizes, spectrum = examine(key, state)
        found = {name: getattr(spectrum, name) for name in ("kind", "frequency", "rightmost_error", "largest_error")}
        for name in ("rightmost", "largest"):
            value = getattr(spectrum, name)
            found |= {name: value.real, f"{name}_imaginary": value.imag}
        seconds = round(time.monotonic() - began, 3)
        records.append(path, {"step": step, "time": time.time(), "seconds": seconds, **found, **sizes})
        return Continue()

    return Hook(every, run)


def diagnose(directory: Path, record: Record, probed: Probed | None = None, step: int | None = None) -> Diagnosis:
    """Diagnose a run from its records.

    Args:
        directory, record: of the run.
        probed: what a probe of a checkpoint found, if there was one.
        step: of that checkpoint.

    Raises:
        ValueError: the run has not recorded anything yet.
    """
    metrics, scores, alarms = (
        watch.rows(directory / name) for name in ("metrics.jsonl", watch.SCORES, watch.ALARM_ROWS)
    )
    if not metrics:
        raise ValueError(f"{directory} has no rows in metrics.jsonl yet: wait for step {record.log_every}")
    criteria = Criteria(patience=record.patience, equilibrium=record.equilibrium)
    verdict = termination.judge(watch.series(scores), criteria)
    last, ended = metrics[-1], metrics[-1]["step"] >= record.steps
    signs = _signs(last, scores, verdict, alarms)
    word = "ill" if signs else "done" if ended or verdict.ends else "well"
    lines = [
        f"{record.experiment}, seed {record.seed}: {word} at step {last['step']} of {record.steps}",
        _score_line(scores, verdict),
        _game_line(last),
        _saturation_line(last),
        _modes_line(scores),
        *_probe_lines(probed, step),
        *(signs or ["no alarm"]),
    ]
    return Diagnosis(word, tuple(line for line in lines if line), _figure(metrics, scores, criteria, probed))


def _signs(last: Mapping[str, Any], scores: Rows, verdict: Verdict, alarms: Rows) -> list[str]:
    """What is wrong, each with what to try."""
    signs = [f"alarm at step {row['step']}, {row['reason']}: {row['try']}" for row in alarms]
    if verdict.alarm and not alarms:
        signs.append(f"{verdict.kind}, {verdict.reason}: {ALARMS[verdict.kind]}")
    remedies = {
        "generator": "its loss no longer slopes where D is sure: take the non-saturating loss, or slow D (R1, rate)",
        "discriminator": "D is sure of nearly all: lower its rate or d_steps, add R1, noise or augmentation",
    }
    for player, remedy in remedies.items():
        share = last.get(f"{player}/saturated")
        if share is not None and share > _SATURATED:
            signs.append(f"{share:.0%} of the {player}'s logits are saturated: {remedy}")
    shares = {name: scores[-1].get(name) for name in ("diversity", "coverage")} if scores else {}
    low = [name for name, share in shares.items() if share is not None and share < _UNLIKE]
    if low:
        found = " and ".join(f"{name} {scores[-1][name]:.2f}" for name in low)
        signs.append(f"modes are missing, {found} of the data's own: raise R1, pack (PacGAN), or train longer")
    return signs


def _score_line(scores: Rows, verdict: Verdict) -> str:
    if not scores or verdict.best is None:
        return "no scores yet"
    last = scores[-1]
    now = f"{last['name']} {_number(last['score'])} at step {last['step']}"
    best = f"best {verdict.best.score:.4g} at step {verdict.best.step}"
    cost = f"{len(scores)} scores took {sum(row['seconds'] for row in scores):.1f} s"
    return "; ".join(word for word in (now, best, verdict.reason, cost) if word)


def _game_line(last: Mapping[str, Any]) -> str:
    named = {"G": "generator/loss", "D": "discriminator/loss", "D(x)": "discriminator/real"} | {
        "D(G(z))": "discriminator/fake"
    }
    there = [f"{short} {_number(last[name])}" for short, name in named.items() if last.get(name) is not None]
    return f"{', '.join(there)}; logistic pairs at equilibrium: D 1.386, D(x) and D(G(z)) 1/2" if there else ""


def _saturation_line(last: Mapping[str, Any]) -> str:
    if last.get("discriminator/accuracy") is None:
        return ""
    accuracy, margin = last["discriminator/accuracy"], last["discriminator/margin"]
    shares = ", ".join(f"{short} {last[f'{player}/saturated']:.0%}" for player, short in _SHORT.items())
    return f"D ranks real above fake in {accuracy:.0%} of pairs, by {margin:.3g} on average; saturated logits: {shares}"


def _modes_line(scores: Rows) -> str:
    names = ("diversity", "coverage", "modes", "high_quality")
    there = [f"{name} {_number(scores[-1][name])}" for name in names if scores and scores[-1].get(name) is not None]
    return f"samples: {', '.join(there)}" if there else ""


def _probe_lines(probed: Probed | None, step: int | None) -> list[str]:
    if probed is None:
        return []
    sizes, spectrum = probed
    norms = ", ".join(
        f"{short} {sizes[f'{player}/gradient']:.3g} ({sizes[f'{player}/gradient_rms']:.2g} a parameter, "
        f"weakest layer {sizes[f'{player}/gradient_weakest']:.2g})"
        for player, short in _SHORT.items()
    )
    agree = ", ".join(
        f"{short} {sizes[f'{player}/gradient_agreement']:.2f}"
        for player, short in _SHORT.items()
        if f"{player}/gradient_agreement" in sizes
    )
    right, large = spectrum.rightmost, spectrum.largest
    return [
        f"gradients at step {step}: {norms}; ratio {sizes['generator/gradient_ratio']:.3g}",
        f"agreement of half batches, 1 is all signal: {agree}" if agree else "",
        f"spectrum of {spectrum.products} products: rightmost {right.real:.3g}{right.imag:+.3g}i (error "
        f"{spectrum.rightmost_error:.0%}), largest |{abs(large):.3g}| (error {spectrum.largest_error:.0%}), "
        f"{spectrum.kind}, frequency {spectrum.frequency:.3g}",
    ]


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _figure(metrics: Rows, scores: Rows, criteria: Criteria, probed: Probed | None) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots(2, 3)

    def curves(ax: Any, title: str, names: Mapping[str, str], levels: Sequence[float] = ()) -> None:
        for label, name in names.items():
            steps = [row["step"] for row in metrics if row.get(name) is not None]
            if steps:
                ax.plot(steps, [row[name] for row in metrics if row.get(name) is not None], label=label, lw=1)
        for level in levels:
            ax.axhline(level, color="0.6", lw=0.8, ls=":")
        ax.set(title=title, xlabel="step")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=7, frameon=False)

    curves(
        axes[0, 0],
        "losses; dotted: logistic equilibrium",
        {"generator": "generator/loss", "discriminator": "discriminator/loss", "penalty": "discriminator/penalty"},
        (2 * np.log(2), np.log(2)),
    )
    curves(axes[0, 1], "outputs", {"D(x)": "discriminator/real", "D(G(z))": "discriminator/fake"}, (0.5,))
    curves(
        axes[0, 2],
        "saturated logits, ranking",
        {
            "generator saturated": "generator/saturated",
            "discriminator saturated": "discriminator/saturated",
            "D ranks right": "discriminator/accuracy",
        },
    )
    axes[0, 1].set_ylim(0, 1)
    axes[0, 2].set_ylim(-0.02, 1.02)

    ax = axes[1, 0]
    series = [score for score in watch.series(scores) if np.isfinite(score.score)]
    if series:
        steps, values = [score.step for score in series], [score.score for score in series]
        ax.plot(steps, values, ".", ms=4, color="0.6", label="score")
        levels = termination.levels(values, criteria.window)
        ax.plot(steps, levels, lw=1, label=f"median of {criteria.window}")
        best = termination.judge(series, criteria).best
        if best is not None:
            ax.plot([best.step], [best.score], "o", mfc="none", color="C2", label=f"best, step {best.step}")
            ax.axhline(criteria.rise * levels.min(), color="C3", lw=0.8, ls=":", label="alarm")
        ax.set(title=scores[-1]["name"].replace("_", " "), xlabel="step", yscale="log" if min(values) > 0 else "linear")
        ax.legend(fontsize=7, frameon=False)
    else:
        _blank(ax, "no scores")

    ax = axes[1, 1]
    signs = [name for name in ("diversity", "coverage", "high_quality") if scores and scores[-1].get(name) is not None]
    for name in signs:
        ax.plot([row["step"] for row in scores], [row[name] for row in scores], lw=1, label=name.replace("_", " "))
    if signs:
        ax.set(title="samples, 1 as the data", xlabel="step")
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=7, frameon=False)
    else:
        _blank(ax, "no signs of collapse recorded")

    ax = axes[1, 2]
    if probed is not None and np.isfinite(probed.spectrum.rightmost):
        found = probed.spectrum
        for value, error, label in (
            (found.rightmost, found.rightmost_error, "rightmost"),
            (found.largest, found.largest_error, "largest"),
        ):
            pair = np.array([value, np.conj(value)])
            ax.plot(pair.real, pair.imag, "o", ms=5, label=f"{label}, error {error:.0%}")
        ax.axvline(0, color="0.6", lw=0.8)
        ax.axhline(0, color="0.6", lw=0.8)
        ax.set(title=f"eigenvalues of the flow: {found.kind}", xlabel="real", ylabel="imaginary")
        ax.legend(fontsize=7, frameon=False)
    else:
        _blank(ax, "not probed")
    return figure


def _blank(ax: Any, words: str) -> None:
    ax.set_axis_off()
    ax.text(0.5, 0.5, words, ha="center", va="center", color="0.5")
