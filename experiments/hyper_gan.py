"""Hyperparameters of GANs that are learned over tasks: both rates, beta1, R1's weight and smoothing.

Command: gan-jax train hyper_gan
Result: after 100 and 1,000 updates defaults come to .183 ± .048 and .049 ± .024, a person's way to .102 ± .054 and
    .041 ± .018, random search to .096 ± .075 and .192 ± .385, the gradient through 10 updates to .093 ± .019 and
    .073 ± .028, through all 100 to .107 ± .063 and .031 ± .013, PES over 1,000 to .082 ± .039 and .037 ± .034,
    truncated ES over 1,000 to .093 ± .036 and .026 ± .007 (docs/hyper_gan/report.md)
Cost: two and a half hours on a core of an AMD EPYC beside another training: nine minutes random search, 16 and 34 the
    gradients, 11 to 34 evolution; a differentiated update took nine times a plain one

A task is a mixture of three Gaussians at random places, known by 256 points: a GAN is trained on them from fresh
parameters, which nobody learns, by alternating Adam with R1, and judged by the energy distance of its samples to points
that it has not seen. What is learned are the five numbers of its training, by the gradient through all of it (Maclaurin
et al. 2015, arXiv 1502.03492), by evolution strategies on pieces of it that correct for each other (PES, Vicol et al.
2021, arXiv 2112.13835) or that do not, beside random search, and one number after another as people do. All of them
spend as many updates of GANs on tasks to learn from, an outer gradient counted as four of each update that it goes
through. Then everything is tested on other tasks, at the horizon of learning and at ten times that: numbers that are
best over few steps need not be best over many (short-horizon bias, Wu et al. 2018, arXiv 1803.02021).

What that costs: numbers that were searched for at 100 updates, by random search or PES, are nearly twice as good as the
defaults there, and at 1,000 four to eight times as bad in two seeds of three, whose discriminator's rate is ten to a
hundred times as high. What mitigates it: to learn over 1,000, by truncated ES, which halves the defaults' distance at
both horizons; or to stay near what works, as the gradient through all of 100 does.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_jax import fewshot, latents, objectives, penalties, rules
from gan_jax.base import Key, Learner, Metrics, Pair, Program, Report, Study, Task
from gan_jax.gan import GAN, GANState, Hypers, adam, gan
from gan_jax.meta import evolution, inner, maml, tasks
from gan_jax.meta import hyper as hypers
from gan_jax.meta.hyper import Interval, Space
from gan_jax.metrics import sliced
from gan_jax.metrics.spread import interval
from gan_jax.networks import mlp
from gan_jax.training import lookup, studies

TITLES = {
    "defaults": "defaults",
    "by_hand": "one number after another",
    "search": "random search",
    "gradient_short": "outer gradient, a tenth of the horizon",
    "gradient": "outer gradient",
    "pes": "PES",
    "pes_long": "PES, ten times the horizon",
    "es_long": "truncated ES, ten times the horizon",
}
NAMES = ("generator's rate", "discriminator's rate", "beta1", "R1", "smoothing")
BACKWARD = 4  # what an update counts that is differentiated, in operations; by time it came to nine
WORST = 5.0  # an energy distance that nothing which has not diverged comes to
RATE = Interval(1e-5, 1e-1, log=True)
_BOUNDS: Any = (Pair(RATE, RATE), Interval(0.0, 0.95), Interval(1e-4, 10.0, log=True), Interval(0.0, 0.3))
BOUNDS = Hypers(*_BOUNDS)  # of rates, beta1, penalty, smoothing
# What a person tries, a number after another, the others as they are best by then.
TRIED = {
    "rates": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "penalty": (0.001, 0.01, 0.1, 1.0),
    "beta1": (0.0, 0.5, 0.9),
    "smoothing": (0.0, 0.1),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared, and for how long."""

    methods: tuple[str, ...] = tuple(TITLES)
    """The rows."""
    trials: int = 3
    """Seeds of each, in one program where it learns."""
    horizon: int = 100
    """Updates of a GAN that are learned for; ten times as many are tested besides."""
    updates: int = 200
    """Outer steps of the gradient through the whole horizon; what the others may do follows from their cost."""
    tasks: int = 16
    """Tasks in an outer step, and pairs of perturbations."""
    pieces: int = 10
    """Pieces of a training that evolution perturbs one by one."""
    rate: float = 0.05
    """Adam's rate of the outer loop, on coordinates between bounds."""
    sigma: float = 0.2
    """Of evolution's perturbations, of coordinates."""
    shots: int = 256
    """Points that a GAN is trained on."""
    batch: int = 64
    """Of them in a step."""
    widths: tuple[int, ...] = (32, 32)
    """Hidden layers of both networks."""
    tested: int = 40
    """Unseen tasks of each seed."""
    points: int = 256
    """Samples, and points of a query, that judge."""


SMALLEST = Config(
    methods=("gradient_short", "pes"),
    trials=2,
    horizon=10,
    updates=1,
    tasks=2,
    pieces=5,
    shots=4,
    batch=2,
    widths=(3,),
    tested=2,
    points=4,
)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; its data are sampled."""
    if data is not None:
        raise ValueError(f"--data {data}: mixtures are sampled, leave the option out")
    lookup.require_known("method", config.methods, TITLES)
    if config.trials < 2 or config.tested < 2 or config.updates < 1:
        raise ValueError(f"{config.trials} trials of {config.updates} updates, {config.tested} tested: give 2, 1, 2")
    if config.pieces < 1 or config.horizon % config.pieces or config.horizon % 10:
        raise ValueError(f"a horizon of {config.horizon} in {config.pieces} pieces: give a multiple of both and of ten")
    model = assemble(config)
    return Study(
        cells={name: partial(cell, config, model, name) for name in config.methods}, report=partial(report, config)
    )


def assemble(config: Config) -> GAN:
    """Return the GAN whose numbers are learned."""
    return gan(
        Pair(
            mlp.generator(2, (2,), widths=config.widths),
            mlp.discriminator((2,), widths=config.widths, dropout=0.0),
        ),
        latents.normal(2),
        hyper=Hypers(rates=Pair(1e-3, 1e-3), beta1=0.5, penalty=0.1, smoothing=0.01),
        objective=lambda hyper: objectives.non_saturating(hyper.smoothing),
        penalty=lambda hyper: penalties.r1(hyper.penalty),
        rule=lambda hyper: rules.alternating(adam(hyper, epsilon_root=1e-8)),
        ema=0.0,
    )


class Problem(NamedTuple):
    """What rows share: the GAN as a learner, the numbers between their bounds, what a step is fed, and the tasks."""

    learner: Learner
    space: Space
    feed: inner.Feed
    tasks: tasks.Tasks


def problem(config: Config, model: GAN) -> Problem:
    """Return what the rows share."""
    learner = model.learner(bounded(fewshot.distance(model, config.points)))
    unseen = tasks.blobs(config.shots, config.points)
    return Problem(learner, hypers.space(learner.hyper, BOUNDS), inner.resampled(1, config.batch), unseen)


def bounded(judge: fewshot.Judge) -> fewshot.Judge:
    """Return a judge of what may have diverged: at most `WORST`."""

    def judged(hyper: Any, key: Key, state: GANState, query: Any) -> jax.Array:
        found = judge(hyper, key, state, query)
        return jnp.where(jnp.isfinite(found), jnp.minimum(found, WORST), WORST)

    return judged


def cell(config: Config, model: GAN, name: str, directory: Path) -> Mapping[str, Any]:
    """Learn a row's numbers from each seed, and train GANs with them on unseen tasks."""
    keys, start = jax.random.split(jax.random.key(0), config.trials), time.monotonic()
    shared = problem(config, model)
    if name == "defaults":
        found, spent = _repeated(model.hyper._replace(smoothing=0.0), config.trials), 0
    elif name in ("by_hand", "search"):
        found, spent = {"by_hand": by_hand, "search": search}[name](config, shared, keys)
    else:
        program, spent, read = outer_loop(config, shared, name)
        trained = studies.train(program, keys, directory, steps=program.steps)
        if trained.stop:
            return {"updates": trained.step, "stopped": trained.stop.reason}
        found = jax.vmap(lambda state: hypers.hyper(shared.space, read(state)))(trained.state)
    seconds = time.monotonic() - start
    tested = {
        str(steps): {measure: [round(float(value), 5) for value in values] for measure, values in measured.items()}
        for steps, measured in tester(config, model, shared)(keys, found).items()
    }
    numbers = np.stack(jax.tree.leaves(found), axis=1)  # [seeds, 5]
    numbers = [[float(f"{value:.4g}") for value in row] for row in numbers]
    return {"tested": tested, "numbers": numbers, "spent": spent, "seconds": round(seconds, 1)}


def _repeated(hyper: Hypers, count: int) -> Hypers:
    return jax.tree.map(lambda x: jnp.full(count, x), hyper)


def budget(config: Config) -> int:
    """Return how many updates of GANs a row may spend."""
    return BACKWARD * config.updates * config.tasks * config.horizon


def outer_loop(config: Config, shared: Problem, name: str) -> tuple[Program, int, Callable[[Any], Any]]:
    """Return the program that learns, the updates of GANs that it spends, and what reads coordinates off its state."""
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(config.rate))
    if name.startswith("gradient"):
        horizon = config.horizon // 10 if name == "gradient_short" else config.horizon
        meta = maml.tuned(
            shared.learner,
            optimiser,
            steps=horizon,
            feed=shared.feed,
            space=shared.space,
            levels=2 if horizon > 10 else 1,
        )
        each = BACKWARD * config.tasks * horizon
        stream, read = tasks.batches(shared.tasks, config.tasks), lambda state: state.learned.hyper
        init, step = meta.init, meta.meta_step
    else:
        horizon = config.horizon * (10 if name.endswith("long") else 1)
        init, step = evolved(config, shared, optimiser, horizon, biased=name == "es_long")
        members = 3 if name == "es_long" else 2
        each = members * config.tasks * (horizon // config.pieces)
        stream, read = tasks.NOTHING, lambda state: state[0]
    steps = max(1, budget(config) // each)
    chunk = min(steps, 10)
    return Program(init, step, stream, lambda key, state: {}, steps=steps, chunk=chunk), steps * each, read


def evolved(
    config: Config, shared: Problem, optimiser: optax.GradientTransformation, horizon: int, *, biased: bool
) -> tuple[Callable[[Key], Any], Callable[[Key, Any, Any], tuple[Any, Metrics]]]:
    """Return `init` and `step` of an outer loop by evolution strategies, whose state begins with the coordinates."""
    learner, piece = shared.learner, horizon // config.pieces
    run = inner.loop(learner, piece, feed=shared.feed)

    def begin(key: Key) -> tuple[Task, GANState, jax.Array]:
        task_key, init_key = jax.random.split(key)
        task = shared.tasks.draw(shared.tasks.arrays, task_key)
        return task, learner.init(learner.hyper, init_key), jnp.int32(0)

    def unroll(coordinates: Any, key: Key, now: tuple[Task, GANState, jax.Array]) -> tuple[Any, jax.Array]:
        (task, state, start), hyper = now, hypers.hyper(shared.space, coordinates)
        run_key, loss_key = jax.random.split(key)
        state, _ = run(hyper, run_key, state, task.support, start)
        return (task, state, start + piece), learner.loss(hyper, loss_key, state, task.query)

    make = evolution.truncated_es if biased else evolution.pes
    online = make(begin, unroll, sigma=config.sigma, pairs=config.tasks, truncations=config.pieces, stagger=True)

    def init(key: Key) -> Any:
        coordinates = hypers.coordinates(shared.space)
        return coordinates, optimiser.init(coordinates), online.init(coordinates, key)

    def step(key: Key, state: Any, batch: Any) -> tuple[Any, Metrics]:
        coordinates, moments, particles = state
        slope, particles, metrics = online.estimate(coordinates, key, particles)
        updates, moments = optimiser.update(slope, moments, coordinates)
        return (optax.apply_updates(coordinates, updates), moments, particles), {"meta/loss": metrics["loss"]}

    return init, step


def scorer(config: Config, shared: Problem) -> Callable[[Key, Hypers], jax.Array]:
    """Make `(key, hyper [C]) -> [C]`, the mean loss at the horizon over tasks to learn from, the same for all C."""
    learner, run = shared.learner, inner.loop(shared.learner, config.horizon, feed=shared.feed)

    def of_task(key: Key, task: Task, hyper: Hypers) -> jax.Array:
        init_key, run_key, loss_key = jax.random.split(key, 3)
        state, _ = run(hyper, run_key, learner.init(hyper, init_key), task.support)
        return learner.loss(hyper, loss_key, state, task.query)

    @jax.jit
    def score(key: Key, candidates: Hypers) -> jax.Array:
        task_key, run_key = jax.random.split(key)
        drawn = tasks.sample(shared.tasks, task_key, config.tasks)
        each = jax.vmap(of_task, (0, 0, None))
        ran = partial(each, jax.random.split(run_key, config.tasks), drawn)
        return jax.lax.map(lambda hyper: ran(hyper).mean(), candidates)

    return score


def search(config: Config, shared: Problem, keys: Key) -> tuple[Hypers, int]:
    """Return the best of as many random candidates as the budget allows, and what that spent."""
    each = config.tasks * config.horizon
    count, score, best = max(1, budget(config) // each), scorer(config, shared), []
    for key in keys:
        draw_key, score_key = jax.random.split(key)
        drawn = jax.vmap(partial(hypers.random, shared.space))(jax.random.split(draw_key, count))
        place = int(np.argmin(score(score_key, drawn)))
        best.append(jax.tree.map(lambda x, place=place: x[place], drawn))
    return jax.tree.map(lambda *x: jnp.stack(x), *best), count * each


def by_hand(config: Config, shared: Problem, keys: Key) -> tuple[Hypers, int]:
    """Return what a person comes to who tries a few values of one number after another."""
    score, found, runs = scorer(config, shared), [], 0
    for key in keys:
        now = shared.learner.hyper._replace(smoothing=0.0)
        for field, values in TRIED.items():
            given = [Pair(value, value) if field == "rates" else value for value in values]
            candidates = [now._replace(**{field: value}) for value in given]
            stacked = jax.tree.map(lambda *x: jnp.stack([jnp.float32(each) for each in x]), *candidates)
            now = candidates[int(np.argmin(score(key, stacked)))]
            runs += len(values)
        found.append(now)
    spent = runs // len(found) * config.tasks * config.horizon
    return jax.tree.map(lambda *x: jnp.float32(x), *found), spent


def tester(config: Config, model: GAN, shared: Problem) -> Callable[[Key, Hypers], dict[int, dict[str, np.ndarray]]]:
    """Make `(keys [S], hyper [S]) -> ` measures [S], means over unseen tasks, at the horizon and at ten times that."""
    learner, loop = shared.learner, partial(inner.loop, shared.learner, feed=shared.feed)
    first, rest = loop(config.horizon), loop(9 * config.horizon)

    def of_task(hyper: Hypers, key: Key, task: Task) -> list[dict[str, jax.Array]]:
        init_key, run_key, judge_key, sample_key, direction_key = jax.random.split(key, 5)
        soon, _ = first(hyper, run_key, learner.init(hyper, init_key), task.support)
        late, _ = rest(hyper, run_key, soon, task.support, config.horizon)

        def measured(state: GANState) -> dict[str, jax.Array]:
            samples, real = model.sample(sample_key, state.current(), config.points), task.query["x"]
            far = sliced.distance(direction_key, samples, real, directions=64)
            return {"distance": learner.loss(hyper, judge_key, state, task.query), "sliced": jnp.minimum(far, WORST)}

        return [measured(soon), measured(late)]

    @jax.jit
    @jax.vmap
    def of_seed(key: Key, hyper: Hypers) -> list[dict[str, jax.Array]]:
        draw_key, train_key = jax.random.split(jax.random.fold_in(key, np.uint32(2**32 - 1)))
        drawn = tasks.sample(shared.tasks, draw_key, config.tested)
        found = jax.vmap(partial(of_task, hyper))(jax.random.split(train_key, config.tested), drawn)
        return jax.tree.map(lambda x: x.mean(axis=0), found)

    def test(keys: Key, hyper: Hypers) -> dict[int, dict[str, np.ndarray]]:
        found = jax.tree.map(np.asarray, of_seed(keys, hyper))
        return dict(zip((config.horizon, 10 * config.horizon), found, strict=True))

    return test


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the table, and what each row's numbers are beside what they come to."""
    horizons = [str(config.horizon), str(10 * config.horizon)]
    text = [
        f"Energy distance of {config.points} samples to as many unseen points after {' and '.join(horizons)} updates, "
        f"over {config.tested} unseen tasks of each of {config.trials} seeds: mean over seeds ± 95 % interval. The "
        "geometric mean over seeds of each learned number, of beta1 and smoothing the mean.",
        "",
        f"| method | {' | '.join(f'after {steps}' for steps in horizons)} | sliced Wasserstein, same "
        f"| {' | '.join(NAMES)} | GAN updates spent | s |",
        "| --- |" + " ---: |" * (len(horizons) + len(NAMES) + 3),
    ]
    for name in config.methods:
        result = results.get(name)
        if result is None or "stopped" in result:
            row = [result["stopped"] if result else "pending"] + [""] * (len(horizons) + len(NAMES) + 2)
        else:
            tested, numbers = result["tested"], np.array(result["numbers"])
            row = [_entry(tested[steps]["distance"]) for steps in horizons]
            row += [" / ".join(f"{np.mean(tested[steps]['sliced']):.3f}" for steps in horizons)]
            row += [
                f"{np.exp(np.log(column).mean()) if log else column.mean():.2g}"
                for column, log in zip(numbers.T, (True, True, False, True, False), strict=True)
            ]
            row += [f"{result['spent']:,}", f"{result['seconds']:.0f}"]
        text.append(f"| {TITLES[name]} | " + " | ".join(row) + " |")
    done = {name: result for name, result in results.items() if "tested" in result}
    return Report("\n".join(text), {"numbers": _figure(config, done)} if done else {})


def _entry(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {interval(values):.3f}"


def _figure(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, (name, result) in enumerate(results.items()):
        colour, marker = f"C{place}", "o^sDvP*X"[place % 8]
        numbers, tested = np.array(result["numbers"]), result["tested"]
        both = {"color": colour, "marker": marker, "linestyle": "none", "alpha": 0.8, "label": TITLES[name]}
        left.plot(numbers[:, 0], numbers[:, 1], **both)
        right.plot(*(tested[str(steps)]["distance"] for steps in (config.horizon, 10 * config.horizon)), **both)
    left.set(xscale="log", yscale="log", xlabel="generator's rate", ylabel="discriminator's rate")
    limits = [min(left.get_xlim()[0], left.get_ylim()[0]), max(left.get_xlim()[1], left.get_ylim()[1])]
    left.plot(limits, limits, color="0.8", linewidth=0.8, zorder=0)
    right.set(xscale="log", yscale="log", xlabel=f"energy distance after {config.horizon} updates")
    right.set_ylabel(f"after {10 * config.horizon}")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return figure
