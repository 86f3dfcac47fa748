"""What each update rule does to games whose answer is known: spectra, measured and on paper, and phase portraits.

Command: gan-jax train game_dynamics
Result: 130 steps of ten rules on 13 games, measured and on paper, differ by at most 3.8e-15 in a coefficient of their
    characteristic polynomials; table in docs/game_dynamics/report.md
Cost: 4 minutes of CPU time on two AMD EPYC cores (5 beside other jobs)

The quadratic saddle J = γφθ − (α/2)φ² + (β/2)θ² and the Dirac-GAN of Mescheder et al. 2018 (arXiv 1801.04406) under
several objectives, penalties and instance noises, each played by every rule with plain gradient steps of one rate. A
step's matrix is measured by differentiating the rule itself, its memory included, and compared with its closed form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gan_jax import games, objectives, penalties
from gan_jax.base import Pair, Report, Study
from gan_jax.games import Known, spectra
from gan_jax.rules import PLAIN_RULES, RULES, plain
from gan_jax.training import lookup


class Entry(NamedTuple):
    """A game of the study: its title, and how it is made."""

    title: str
    make: Any


GAMES = {
    "saddle_focus": Entry("saddle 1, .2, .5", partial(games.saddle, 1.0, 0.2, 0.5)),
    "saddle_node": Entry("saddle 2, .2, .5", partial(games.saddle, 2.0, 0.2, 0.5)),
    "saddle_slow": Entry("saddle .1, .1, 1", partial(games.saddle, 0.1, 0.1, 1.0)),
    "bilinear": Entry("saddle 0, 0, 1 (bilinear)", games.bilinear),
    "dirac": Entry("Dirac, minimax", games.dirac),
    "dirac_non_saturating": Entry("Dirac, non-saturating", partial(games.dirac, objectives.non_saturating())),
    "dirac_wasserstein": Entry("Dirac, Wasserstein", partial(games.dirac, objectives.wasserstein())),
    "dirac_r1_0.3": Entry("Dirac, R1 of .3", partial(games.dirac, penalty=penalties.r1(0.3))),
    "dirac_r1_1": Entry("Dirac, R1 of 1", partial(games.dirac, penalty=penalties.r1(1.0))),
    "dirac_r1_2": Entry("Dirac, R1 of 2", partial(games.dirac, penalty=penalties.r1(2.0))),
    "dirac_noise_0.5": Entry("Dirac, noise of .5", partial(games.dirac, noise=0.5)),
    "dirac_noise_1": Entry("Dirac, noise of 1", partial(games.dirac, noise=1.0)),
    "dirac_noise_2": Entry("Dirac, noise of 2", partial(games.dirac, noise=2.0)),
    "dirac_wgan_gp": Entry(
        "Dirac, WGAN-GP of .3", partial(games.dirac, objectives.wasserstein(), penalties.wgan_gp(0.3))
    ),
}

IN, AROUND, OUT = "tab:green", "tab:orange", "tab:red"
# What a person sees of a motion, and whether it arrives, stays away or leaves.
VERDICTS = {
    "stable node": ("straight in", IN),
    "stable focus": ("spirals in", IN),
    "centre": ("circles", AROUND),
    "degenerate": ("stands still", AROUND),
    "saddle": ("leaves", OUT),
    "unstable node": ("leaves", OUT),
    "unstable focus": ("spirals out", OUT),
}
SPAN = 1.8  # portraits show ±SPAN in both coordinates
GRID = 25  # points of the drawn flow along each axis


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which games are played by which rules, and for how long."""

    games: tuple[str, ...] = tuple(GAMES)
    """Names of this file's games: one cell each."""
    rules: tuple[str, ...] = ()
    """Names of rules, with their default options; none stands for all of both catalogues."""
    rate: float = 0.2
    """The rate of both players' plain gradient steps."""
    duration: float = 60.0
    """How long a trajectory is, in the time of the flow: this over the rate is its number of steps."""
    start: tuple[float, float] = (1.2, 0.6)
    """Where trajectories start: the generator's coordinate, the discriminator's."""
    points: int = 300
    """At most how many points of a trajectory are kept."""
    portraits: tuple[str, ...] = (
        *("saddle_focus", "bilinear", "dirac", "dirac_non_saturating", "dirac_r1_1", "dirac_noise_1", "dirac_wgan_gp"),
    )
    """The rows of the figure."""


SMALLEST = Config(
    games=("saddle_focus", "dirac_wgan_gp"),
    rules=("simultaneous", "optimistic"),
    duration=2.0,
    portraits=("dirac_wgan_gp",),
)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study: a cell for each game."""
    if data is not None:
        raise ValueError(f"data set {data!r}: these games have no data but a point, give none")
    lookup.require_known("game", (*config.games, *config.portraits), GAMES)
    lookup.require_known("rule", config.rules, (*RULES, *PLAIN_RULES))
    for what, value in (("rate", config.rate), ("duration", config.duration), ("points", config.points)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{what}={value} plays nothing: give a finite one above 0")
    return Study({name: partial(_cell, config, name) for name in config.games}, partial(_report, config))


def _cell(config: Config, name: str, directory: Path) -> Mapping[str, Any]:
    """Play one game by every rule, in float64."""
    with jax.enable_x64(True):
        known = GAMES[name].make()
        return {
            "flow": None if known.jacobian is None else _spectrum(np.linalg.eigvals(known.jacobian)),
            "field": _field(known),
            "rules": {rule: _play(config, known, rule) for rule in config.rules or (*RULES, *PLAIN_RULES)},
        }


def _play(config: Config, known: Known, name: str) -> Mapping[str, Any]:
    """Return a rule's spectrum at the solution, its closed form, and its trajectory from afar."""
    rates, period = Pair(config.rate, config.rate), spectra.PERIODS.get(name, 1)
    rule = plain(name, rates)
    result: dict[str, Any] = {"spectrum": None, "radius": None, "closed": None, "difference": None}
    if known.jacobian is not None:
        measured, closed = spectra.linearise(known, rule, steps=period), spectra.STEPS[name](known, rates)
        radii = [float(abs(np.linalg.eigvals(matrix)).max() ** (1 / period)) for matrix in (measured, closed)]
        multipliers = np.linalg.eigvals(measured)
        result["spectrum"] = _spectrum(multipliers, spectra.exponents(multipliers, period * config.rate))
        result["radius"], result["closed"] = radii
        result["closed_eigenvalues"] = _pairs(np.linalg.eigvals(closed))
        result["difference"] = spectra.difference(measured, closed)

    steps = max(1, round(config.duration / config.rate))
    first = Pair(*map(jnp.float64, config.start))
    path = np.asarray(jax.jit(lambda first: games.play(known, rule, first, steps))(first))
    distances = np.linalg.norm(path - np.ravel(known.solution), axis=1)
    # A trajectory that has left for good is cut: what cannot be written in JSON cannot be drawn either.
    near = np.cumprod(distances < 1e3).astype(bool)
    kept = path[near][:: max(1, -(-near.sum() // config.points))]
    result["distance"] = float(distances[-1]) if near.all() else None
    # Of the last quarter: the farthest, since what circles passes near now and then.
    result["far"] = float(distances[-(len(distances) // 4) - 1 :].max()) if near.all() else None
    # Whether the last quarter is one point.
    result["still"] = bool(near.all() and np.ptp(path[-(len(path) // 4) - 1 :], axis=0).max() < 1e-3)
    return {**result, "path": kept.round(5).tolist()}


def _spectrum(eigenvalues: np.ndarray, exponents: np.ndarray | None = None) -> Mapping[str, Any]:
    motion = spectra.classify(eigenvalues if exponents is None else exponents)
    decay = motion.decay if np.isfinite(motion.decay) else None
    return {"eigenvalues": _pairs(eigenvalues), "kind": motion.kind, "decay": decay, "frequency": motion.frequency}


def _pairs(eigenvalues: np.ndarray) -> list[list[float]]:
    return [[value.real, value.imag] for value in np.sort_complex(eigenvalues).tolist()]


def _field(known: Known) -> list[Any]:
    """Return the flow on the grid of a portrait, [2, GRID, GRID]: rows of φ, columns of θ."""
    axis = jnp.linspace(-SPAN, SPAN, GRID)

    def flow(theta: jax.Array, phi: jax.Array) -> jax.Array:
        return ravel_pytree(games.velocity(known.game, Pair(theta, phi)))[0]

    rows = jax.vmap(jax.vmap(flow, (0, None)), (None, 0))
    return np.asarray(jax.jit(rows)(axis, axis)).transpose(2, 0, 1).round(5).tolist()


def _verdict(config: Config, played: Mapping[str, Any]) -> tuple[str, str]:
    """Say in two words what becomes of a game, and the colour of it.

    The spectrum decides where it can. To first order it cannot say what a centre does in the end, nor where an
    unstable equilibrium's trajectories go: these are seen.
    """
    begin, far = float(np.hypot(*config.start)), played["far"]
    if played["spectrum"] is None:
        if far is None:
            return "leaves", OUT
        if far < 0.01 * begin:
            return "arrives", IN
        return ("rests elsewhere" if played["still"] else "does not arrive"), AROUND
    words, colour = VERDICTS[played["spectrum"]["kind"]]
    if colour != IN and far is not None and far < 0.9 * begin:
        return ("creeps in", AROUND) if colour == AROUND else ("to a cycle", AROUND)
    return words, colour


def _report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the tables, and the portraits of the games that are finished."""
    rules = config.rules or (*RULES, *PLAIN_RULES)
    found = {
        (game, rule): result["rules"][rule]
        for game, result in results.items()
        for rule in rules
        if rule in result["rules"]
    }
    differences = [played["difference"] for played in found.values() if played["difference"] is not None]
    lines = [
        f"Plain steps of rate {config.rate:g}, {config.duration:g} units of time from {config.start}. Spectral radius "
        "of one step at the equilibrium; below 1 it converges. The saddles are named by alpha, beta, gamma.",
        "",
        _row("game", *rules),
        _row(*["---"] * (len(rules) + 1)),
        *(_row(GAMES[game].title, *(_short(config, found.get((game, rule))) for rule in rules)) for game in results),
        "",
    ]
    if differences:
        lines += [
            f"Measured and closed forms of {len(differences)} steps: their characteristic polynomials differ by at "
            f"most {max(differences):.1e}.",
            "",
        ]
    lines += [
        _row("game", "rule", "radius", "closed form", "kind", "frequency", "flow's", "far at the end", "converges"),
        _row(*["---"] * 9),
        *(_details(config, results[game]["flow"], game, rule, played) for (game, rule), played in found.items()),
    ]
    return Report("\n".join(lines), {"portraits": _portraits(config, rules, results)})


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _short(config: Config, played: Mapping[str, Any] | None) -> str:
    if played is None:
        return ""
    return _verdict(config, played)[0] if played["radius"] is None else f"{played['radius']:.4f}"


def _details(config: Config, flow: Mapping[str, Any] | None, game: str, rule: str, played: Mapping[str, Any]) -> str:
    far = "left" if played["far"] is None else f"{played['far']:.2g}"
    cells = ["-"] * 4
    if played["spectrum"] is not None:
        spectrum = played["spectrum"]
        cells = [f"{played['radius']:.6f}", f"{played['closed']:.6f}", spectrum["kind"], f"{spectrum['frequency']:.4f}"]
    turn = "-" if flow is None else f"{flow['frequency']:.4f}"
    converges = "yes" if _verdict(config, played)[1] == IN else "no"
    return _row(GAMES[game].title, rule, *cells, turn, far, converges)


def _portraits(config: Config, rules: tuple[str, ...], results: Mapping[str, Mapping[str, Any]]) -> Any:
    """Draw a row for each finished game of the figure and a column for each rule."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, wspace=0.0, hspace=0.0)
    rows = [game for game in config.portraits if game in results]
    figure = Figure(figsize=(1.45 * len(rules) + 1.1, 1.62 * max(1, len(rows)) + 0.9), dpi=130, layout=layout)
    panels = figure.subplots(max(1, len(rows)), len(rules), squeeze=False, sharex=True, sharey=True)
    axis, line = np.linspace(-SPAN, SPAN, GRID), None
    for row, game in zip(panels, rows, strict=False):
        # Integrated once a row: the flow is the game's, whatever the rule.
        drawn = row[0].streamplot(axis, axis, *np.asarray(results[game]["field"]), density=0.6, num_arrows=0)
        streams = [stream for stream in drawn.lines.get_segments() if np.ptp(stream, axis=0).max() > 0.8]
        drawn.lines.remove()
        middles = np.array([stream[len(stream) // 2] for stream in streams])
        headings = np.array([stream[len(stream) // 2 + 1] for stream in streams]) - middles
        headings /= np.maximum(np.linalg.norm(headings, axis=1, keepdims=True), 1e-12)
        for panel, rule in zip(row, rules, strict=True):
            panel.add_collection(LineCollection(streams, colors="0.82", linewidths=0.6, zorder=1))
            panel.quiver(
                *(*middles.T, *headings.T),
                **{"color": "0.7", "pivot": "mid", "scale": 18, "width": 0.012, "headwidth": 6, "headlength": 6},
                headaxislength=5,
                zorder=1,
            )
            played = results[game]["rules"].get(rule)
            if played is None:
                continue
            path = np.asarray(played["path"])
            line = LineCollection(
                list(np.stack([path[:-1], path[1:]], axis=1)), cmap="viridis", linewidths=1.1, zorder=2
            )
            line.set_array(np.linspace(0, config.duration, max(1, len(path) - 1)))
            line.set_clim(0, config.duration)
            panel.add_collection(line)
            panel.plot(*path[0], "o", color="white", markeredgecolor="k", markersize=3.5, zorder=3)
            panel.plot(0, 0, "+", color="k", markersize=5, markeredgewidth=0.8, zorder=3)
            words, colour = _verdict(config, played)
            radius = "" if played["radius"] is None else f"  {played['radius']:.3f}"
            panel.set_title(words + radius, fontsize=7, color=colour, pad=2)
        row[0].set_ylabel(f"{GAMES[game].title}\nφ", fontsize=8, labelpad=5)
    for panel in panels.flat:
        panel.set(xlim=(-SPAN, SPAN), ylim=(-SPAN, SPAN), xticks=[], yticks=[], aspect="equal")
    for panel, rule in zip(panels[0], rules, strict=True):
        panel.annotate(
            rule.replace("_", " "), (0.5, 1.0), (0, 14), xycoords="axes fraction", textcoords="offset points",
            ha="center", va="bottom", fontsize=9, fontweight="bold",
        )  # fmt: skip
    for panel in panels[-1]:
        panel.set_xlabel("θ", fontsize=8, labelpad=1)
    if line is not None:
        bar = figure.colorbar(line, ax=panels, fraction=0.012, pad=0.008, aspect=50)
        bar.set_label("time", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure
