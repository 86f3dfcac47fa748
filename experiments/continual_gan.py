"""One task after another: how well each is learned and how much is lost, with and without meta-learning.

Command: gan-jax train continual_gan
Result: an online stream is followed at an energy distance of .053 ± .008 from what MAML learned, .179 ± .051 from fresh
    parameters; independent mixtures at .220 ± .022 and .285 ± .020, and all rows forget them alike, .98 to 1.15
    (docs/continual_gan/report.md)
Cost: five minutes, on a core of an AMD EPYC beside other work

The GAN of `mixture_maml_gan` is adapted to a stream of mixtures in the plane and never begins anew: it goes on from
where the last task left it. Continual streams are of independent mixtures, online ones of one that drifts. Rows differ
in where they begin and at what rates: fresh parameters, joint pre-training, or an initialisation, rates and a weight of
R1 that MAML learned on single tasks. Each takes the best of four multiples of its rates, chosen on streams of its own
by how well tasks are learned. Forgetting is that of `meta.tasks.forgetting`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax import fewshot
from gan_jax.base import Learner, Program, Report, Study
from gan_jax.meta import hyper as hypers
from gan_jax.meta import inner, tasks
from gan_jax.meta.catalogue import META_LEARNERS, Setting
from gan_jax.meta.tasks import Stream
from gan_jax.training import lookup, studies

FAR = 100.0  # a distance at which an adaptation has diverged
TITLES = {"scratch": "fresh parameters", "joint": "joint pre-training", "learned": "MAML, learned rates and R1"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which streams, and how they are followed."""

    methods: tuple[str, ...] = tuple(TITLES)
    """The rows."""
    updates: int = 1500
    """Outer steps; joint pre-training takes `inner_steps` of the setting times as many."""
    length: int = 12
    """Tasks in a stream."""
    streams: int = 20
    """Streams of each kind."""
    adapted: int = 10
    """Steps on each task."""
    period: float = 100.0
    """Tasks in which an online mixture turns once."""
    smallest: bool = False
    """Whether the setting is the smallest of `mixture_maml_gan`, for a test."""


SMALLEST = Config(methods=("learned",), updates=2, length=2, streams=2, adapted=1, smallest=True)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; its data are sampled."""
    if data is not None:
        raise ValueError(f"--data {data}: mixtures are sampled, leave the option out")
    lookup.require_known("method", config.methods, TITLES)
    if min(config.length, config.streams) < 2:
        raise ValueError(f"{config.streams} streams of {config.length} tasks: give 2 or more of each")
    return Study(cells={name: partial(cell, config, name) for name in config.methods}, report=partial(report, config))


def kinds(config: Config, shots: int, points: int) -> Mapping[str, Stream]:
    """Return the streams, whose queries are what is tested."""
    return {
        "continual": tasks.sequence(tasks.blobs(shots, points)),
        "online": tasks.drifting(shots, points, period=config.period),
    }


def cell(config: Config, name: str, directory: Path) -> Mapping[str, Any]:
    """Learn where a stream begins, and follow streams of both kinds."""
    setting_of = lookup.load(lookup.find("mixture_maml_gan"))
    sizes = setting_of.SMALLEST if config.smallest else setting_of.Config()
    model = setting_of.assemble(sizes)
    setting: Setting = setting_of.setting(sizes, model)
    meta, key = META_LEARNERS[name](setting), jax.random.key(0)
    steps = config.updates * (sizes.inner_steps if name == "joint" else 1)
    program = Program(
        meta.init,
        meta.meta_step,
        tasks.batches(tasks.blobs(sizes.shots, sizes.shots), sizes.tasks),
        lambda key, state: {},
        steps=steps,
        chunk=min(setting_of.CHUNK, steps),
    )
    hyper, params = setting.learner.hyper, None
    if name != "scratch":
        trained = studies.train(program, key, directory, steps=steps)
        if trained.stop:
            return {"updates": trained.step, "stopped": trained.stop.reason}
        if name == "joint":
            params = setting.joint.get_params(trained.state)
        else:
            params = trained.state.learned.params
            hyper = hypers.hyper(setting.space, trained.state.learned.hyper)
    judge = model.learner(fewshot.distance(model, sizes.points))
    learner = setting.learner._replace(loss=judge.loss)

    result: dict[str, Any] = {}
    for kind, stream in kinds(config, sizes.shots, sizes.points).items():
        follow = follower(config, learner, setting.feed, params, stream)
        chosen, test = (jax.random.split(jax.random.fold_in(key, 2**32 - place), config.streams) for place in (2, 1))
        tried = {
            multiple: np.diagonal(follow(_scaled(hyper, multiple), chosen), axis1=1, axis2=2).mean()
            for multiple in sizes.multiples
        }
        best = min(sizes.multiples, key=lambda multiple: tried[multiple])
        scores = follow(_scaled(hyper, best), test)
        # One that diverges on a test stream is told by a number that no energy distance here can have.
        result[kind] = {"scores": np.round(np.minimum(scores, 1e6), 4).tolist(), "multiple": best}
    return result


def _scaled(hyper: Any, multiple: float) -> Any:
    return hyper._replace(rates=jax.tree.map(lambda rate: multiple * rate, hyper.rates))


def follower(
    config: Config, learner: Learner, feed: inner.Feed, params: Any, stream: Stream
) -> Callable[[Any, jax.Array], np.ndarray]:
    """Make `(hyper, keys [S]) -> [S, T, T]`: scores of all tasks after each of them; infinite once one has diverged."""
    times = jnp.arange(config.length)
    run = inner.loop(learner, config.adapted, feed=feed)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def scored(hyper: Any, key: jax.Array) -> jax.Array:
        stream_key, begin_key, learn_key, judge_key = jax.random.split(key, 4)
        drawn = jax.vmap(lambda time: stream.draw(stream.arrays, stream_key, time))(times)

        def learn(state: Any, time: jax.Array) -> Any:
            support = jax.tree.map(lambda x: x[time], drawn.support)
            state, _ = run(hyper, jax.random.fold_in(learn_key, time), state, support)
            return state, jax.vmap(lambda query: learner.loss(hyper, judge_key, state, query))(drawn.query)

        return jax.lax.scan(learn, learner.init(hyper, begin_key, params), times)[1]

    def follow(hyper: Any, keys: jax.Array) -> np.ndarray:
        scores = np.asarray(scored(hyper, keys), float)
        # An energy distance is at least 0 but for its noise, and one of points so far apart is none of these mixtures.
        return np.where(np.abs(scores) < FAR, scores, np.inf)

    return follow


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the table, and quality and forgetting along the streams."""
    text = [
        f"Energy distance to unseen points of each task, {config.adapted} steps on each of {config.length}: mean over "
        f"{config.streams} streams ± 95 % interval.",
        "",
        "| stream | begins with | right after learning | all tasks in the end | forgetting | multiple of the rates |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in ("continual", "online"):
        for name in config.methods:
            result = results.get(name)
            if result is None or "stopped" in result:
                text.append(f"| {kind} | {TITLES[name]} | {result['stopped'] if result else 'pending'} |  |  |  |")
                continue
            each = [tasks.forgetting(scores) for scores in result[kind]["scores"]]
            entries = [_entry([getattr(one, field) for one in each]) for field in tasks.Retention._fields]
            text.append(f"| {kind} | {TITLES[name]} | {' | '.join(entries)} | {result[kind]['multiple']:g} |")
    shown = {name: result for name, result in results.items() if "stopped" not in result}
    return Report("\n".join(text), {"streams": _figure(config, shown)} if shown else {})


def _entry(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {1.96 * np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def _figure(config: Config, shown: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    time = np.arange(1, config.length + 1)
    for (above, below), kind in zip(axes.T, ("continual", "online"), strict=True):
        for place, (name, result) in enumerate(shown.items()):
            scores = np.array(result[kind]["scores"])
            for ax, along, values in (
                (above, time, np.diagonal(scores, axis1=1, axis2=2)),
                (below, time[1:], [[tasks.forgetting(one[:t, :t]).forgetting for t in time[1:]] for one in scores]),
            ):
                mean, error = np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
                ax.plot(along, mean, color=f"C{place}", label=TITLES[name])
                ax.fill_between(along, mean - 1.96 * error, mean + 1.96 * error, color=f"C{place}", alpha=0.2, lw=0)
        above.set_title(f"{kind} stream", fontsize=10)
        above.set_ylabel("distance right after learning")
        below.set_ylabel("forgetting")
        below.set_xlabel("tasks so far")
    axes[0, 0].legend(fontsize=8)
    return figure
