"""Few-shot regression of sinusoids by MAML and its kin: the protocol on which they were introduced.

Command: gan-jax train sinusoid_maml
Result: after one step and ten, mean squared error at 5 shots .57 ± .05 and .32 ± .04 (MAML), at 10 shots .35 ± .04 and
    .12 ± .02; Meta-SGD after the one step that it is trained for .41 ± .05 and .25 ± .03. All rows lie below the
    published ones (docs/sinusoid_maml/report.md)
Cost: a row is 20 to 40 s on two AMD EPYC cores, five minutes the table

Finn et al. 2017 (arXiv 1703.03400, section 5.1): y = A sin(x − φ), a perceptron of two hidden layers of 40 with ReLU,
one inner step of descent at rate .01 on the support's squared error, 25 tasks an outer step, Adam of rate 1e-3, 70,000
outer steps. Weights have Flax's initial values where the published code truncates a normal law of deviation .01. Each
method is trained at 5 and at 10 shots and tested at as many on 600 unseen sinusoids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_jax import optimisers
from gan_jax.arithmetic import require_counts
from gan_jax.base import Learner, MetaLearner, Program, Report, Study, Task
from gan_jax.meta import inner, rates, tasks
from gan_jax.meta.hyper import Interval, space
from gan_jax.meta.maml import fomaml, maml
from gan_jax.meta.reptile import reptile
from gan_jax.meta.supervised import squared_error, supervised
from gan_jax.networks import mlp
from gan_jax.training import lookup, studies

TITLES = {"maml": "MAML", "fomaml": "FOMAML", "reptile": "Reptile", "meta_sgd": "Meta-SGD"}
# Li et al. 2017 (arXiv 1707.09835), table 1: tested after one step at as many shots as trained at.
PUBLISHED = {("MAML", 5): "1.13", ("MAML", 10): "0.77", ("Meta-SGD", 5): "0.90", ("Meta-SGD", 10): "0.53"}
CHUNK = 500  # outer steps in one compiled call
ZERO = 4.2517  # the mean squared error of predicting 0: E[A²] / 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared, and for how long."""

    methods: tuple[str, ...] = tuple(TITLES)
    """The rows."""
    shots: tuple[int, ...] = (5, 10)
    """Points of a support, and of a query in training."""
    updates: int = 70_000
    """Outer steps."""
    tasks: int = 25
    """Tasks in an outer step."""
    rate: float = 0.001
    """Adam's rate of the outer loop."""
    inner_rate: float = 0.01
    """Rate of descent of the inner loop; where Meta-SGD's begin."""
    inner_steps: int = 1
    """Steps of the inner loop in training; Reptile takes ten times as many."""
    widths: tuple[int, ...] = (40, 40)
    """Hidden layers."""
    tested: int = 600
    """Unseen tasks."""
    points: int = 100
    """Points of a query in testing."""
    horizons: tuple[int, ...] = (0, 1, 5, 10)
    """Steps of adaptation that are tested."""


SMALLEST = Config(
    methods=("meta_sgd",), shots=(5,), updates=2, tasks=2, widths=(4,), tested=3, points=4, horizons=(0, 1)
)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; its data are sampled."""
    if data is not None:
        raise ValueError(f"--data {data}: sinusoids are sampled, leave the option out")
    lookup.require_known("method", config.methods, TITLES)
    require_counts(updates=config.updates, tasks=config.tasks, inner_steps=config.inner_steps, points=config.points)
    if config.tested < 2:
        raise ValueError(f"tested is {config.tested}: an interval takes 2 tasks or more")
    return Study(
        cells={
            f"{name}-{shots}": partial(cell, config, name, meta_learner(config, name), shots)
            for shots in config.shots
            for name in config.methods
        },
        report=partial(report, config),
    )


def learner(config: Config) -> Learner:
    """Return what is meta-learned: a perceptron that descends the squared error."""
    return supervised(
        mlp.perceptron(1, 1, widths=config.widths),
        squared_error,
        hyper={"rate": config.inner_rate},
        optimiser=lambda hyper: optimisers.sgd(hyper["rate"]),
    )


def meta_learner(config: Config, name: str) -> MetaLearner:
    """Return the meta-learner of a row."""
    plain, outer = learner(config), optax.adam(config.rate)
    options: dict[str, Any] = {"steps": config.inner_steps, "feed": inner.whole()}
    if name == "meta_sgd":
        spread = rates.with_rates(plain, lambda hyper, change: {"rate": change(hyper["rate"])}, rates.per_parameter)
        # The published rates may be negative.
        return maml(spread, outer, space=space(spread.hyper, {"rate": Interval(-1.0, 1.0)}), **options)
    if name == "reptile":
        return reptile(plain, outer, **(options | {"steps": 10 * config.inner_steps}))
    return {"maml": maml, "fomaml": fomaml}[name](plain, outer, **options)


def program(config: Config, meta: MetaLearner, shots: int) -> Program:
    """Return the outer loop as what the training loop runs."""
    stream = tasks.batches(tasks.sinusoids(shots, shots), config.tasks)
    chunk = min(CHUNK, config.updates)
    return Program(meta.init, meta.meta_step, stream, lambda key, state: {}, steps=config.updates, chunk=chunk)


def cell(config: Config, name: str, meta: MetaLearner, shots: int, directory: Path) -> Mapping[str, Any]:
    """Train a row, and test it on unseen sinusoids."""
    key = jax.random.key(0)
    trained = studies.train(program(config, meta, shots), key, directory, steps=config.updates, every=20 * CHUNK)
    if trained.stop:
        return {"updates": trained.step, "stopped": trained.stop.reason}
    plain, test_key = learner(config), jax.random.fold_in(key, 2**32 - 1)
    unseen = tasks.sample(tasks.sinusoids(shots, config.points), test_key, config.tested)

    @partial(jax.jit, static_argnums=0)
    def errors(steps: int, task: Task) -> jax.Array:
        state = meta.adapt(key, trained.state, task.support, steps=steps)
        return plain.loss(plain.hyper, key, state, task.query)

    found = {steps: np.asarray(jax.vmap(partial(errors, steps))(unseen), float) for steps in config.horizons}
    # Rates that were learned for one step may diverge over ten.
    finite = {str(steps): mine for steps, mine in found.items() if np.isfinite(mine).all()}
    return {
        "error": {steps: float(mine.mean()) for steps, mine in finite.items()},
        "interval": {steps: float(1.96 * mine.std(ddof=1) / np.sqrt(len(mine))) for steps, mine in finite.items()},
        "updates": trained.step,
        "shown": curves(config, meta, trained.state, shots),
    }


def curves(config: Config, meta: MetaLearner, state: Any, shots: int) -> Mapping[str, Any]:
    """Return one sinusoid, its support, and what is predicted after each number of steps."""
    network, key = mlp.perceptron(1, 1, widths=config.widths), jax.random.key(1)
    task = tasks.sinusoids(shots, config.points).draw({}, key)
    along = jnp.linspace(-5, 5, 60)[:, None]
    order = np.argsort(np.asarray(task.query["x"])[:, 0])

    def predicted(steps: int) -> jax.Array:
        adapted = meta.adapt(key, state, task.support, steps=steps)
        return network.apply(adapted.params, adapted.stats, along, train=False)[0][:, 0]

    return {
        "support": np.round(np.concatenate([task.support["x"], task.support["y"]], axis=1), 3).tolist(),
        "truth": np.round(np.concatenate([task.query["x"], task.query["y"]], axis=1)[order], 3).tolist(),
        "x": np.round(along[:, 0], 3).tolist(),
        "steps": {
            str(steps): np.round(values, 3).tolist()
            for steps in config.horizons
            if np.isfinite(values := predicted(steps)).all()
        },
    }


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the table, published rows beside ours, and a sinusoid as each method fits it."""
    text = [
        f"Mean squared error over {config.tested} unseen sinusoids ± 95 % interval, after 0 and more steps of "
        f"adaptation; {config.updates:,} outer steps of {config.tasks} tasks; predicting 0 has {ZERO:.2f}. Published: "
        "after one step (Li et al. 2017).",
        "",
        "| method | shots | " + " | ".join(f"after {steps}" for steps in config.horizons) + " | published |",
        "| --- | ---: |" + " ---: |" * (len(config.horizons) + 1),
    ]
    for shots in config.shots:
        for name in config.methods:
            result = results.get(f"{name}-{shots}")
            if result is None or "stopped" in result:
                entries = [result["stopped"] if result else "pending"] + [""] * (len(config.horizons) - 1)
            else:
                entries = [_entry(result, str(horizon)) for horizon in config.horizons]
            published = PUBLISHED.get((TITLES[name], shots), "")
            text.append(f"| {TITLES[name]} | {shots} | " + " | ".join(entries) + f" | {published} |")
    shown = {name: result["shown"] for name, result in results.items() if "shown" in result}
    return Report("\n".join(text), {"curves": _figure(config, shown)} if shown else {})


def _entry(result: Mapping[str, Any], horizon: str) -> str:
    if horizon not in result["error"]:
        return "diverges"
    error, interval = result["error"][horizon], result["interval"][horizon]
    return f"{error:.2f} ± {interval:.2f}" if error < 100 else f"{error:.1e}"


def _figure(config: Config, shown: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    rows, columns = len(config.shots), len(config.methods)
    figure = Figure(figsize=(3 * columns, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
    for row, shots in zip(axes, config.shots, strict=True):
        for ax, name in zip(row, config.methods, strict=True):
            ax.set_title(f"{TITLES[name]}, {shots} shots", fontsize=9)
            result = shown.get(f"{name}-{shots}")
            if result is None:
                continue
            ax.plot(*np.array(result["truth"]).T, color="0.7", linewidth=3, label="sinusoid")
            for index, steps in enumerate(map(str, config.horizons)):
                values = result["steps"].get(steps, [np.nan] * len(result["x"]))
                ax.plot(result["x"], values, color=f"C{index}", linewidth=1, label=f"after {steps} steps")
            ax.plot(*np.array(result["support"]).T, "k^", markersize=5, label="support")
            ax.set_ylim(-6, 6)
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes.flat), key=lambda both: len(both[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    return figure
