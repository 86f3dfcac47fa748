"""RL² on Bernoulli bandits: the published table, beside strategies of a person's in the same code.

Command: gan-jax train bandit_rl2
Result: RL², ours over the published value: at 10 pulls of 5, 10 and 50 arms 6.64, 6.67 and 6.68 ± .07, .991, .995 and
    .982 of it; at 100 pulls 77.1 ± .5, 81.8 ± .4 and 80.7 ± .4, .980, .980 and .951. Strategies agree with the paper,
    but for optimistic Thompson sampling of 50 arms, 73.3 ± .3 where 67.7 is published (docs/bandit_rl2/report.md)
Cost: 9 to 18 minutes a setting of RL² on one core of an AMD EPYC beside other work; the strategies take a minute to 20,
    most of it Thompson sampling

Duan et al. 2016 (arXiv 1611.02779), section 3.1: the total reward of n pulls of k arms whose probabilities are uniform,
averaged over instances. The learner is proximal policy optimisation where the paper has trust regions; its actions are
sampled in testing too. Hyperparameters of strategies are chosen by a grid in each setting, as in the paper, on
instances of their own. Of optimistic Thompson sampling the paper says that it "samples N times from the posterior, and
takes the one with the highest probability". Read as a vote of ten samples it earns about what is reported, more at 100
pulls of 50 arms; read as the highest of ten samples of each arm it does not (5.99 ± .12 at 10 pulls of 5 arms, 1,000
instances).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from gan_jax.arithmetic import require_counts, require_nonnegative, require_positive
from gan_jax.base import Environment, Report, Study
from gan_jax.meta import rl2, strategies
from gan_jax.meta.environments import Agent, bandits, evaluate, trial
from gan_jax.training import studies

CHUNK = 10  # steps in one compiled call
CHOOSE, TEST = np.uint32(2**32 - 2), np.uint32(2**32 - 1)  # folded into a key, where training folds in the step
VOTES = 10  # samples of optimistic Thompson sampling; how many the paper took is not published
EXACT = 100  # pulls up to which the table of Gittins indices is made: its size is their third power


class Baseline(NamedTuple):
    """A strategy: its title, how it is made of a setting and a hyperparameter, and the grid of that, if it has one."""

    title: str
    make: Callable[..., Agent]
    grid: tuple[float, ...] = ()


BASELINES = {
    "random": Baseline("random", lambda pulls, arms: strategies.uniform((arms,))),
    "gittins": Baseline("Gittins", lambda pulls, arms: strategies.gittins(arms, pulls)),
    "thompson": Baseline("TS", lambda pulls, arms: strategies.thompson(arms)),
    "optimistic": Baseline("OTS", lambda pulls, arms: strategies.thompson(arms, samples=VOTES)),
    "ucb1": Baseline(
        "UCB1", lambda pulls, arms, width: strategies.ucb1(arms, width), (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)
    ),
    "epsilon_greedy": Baseline(
        "ε-greedy", lambda pulls, arms, epsilon: strategies.epsilon_greedy(arms, epsilon), (0.01, 0.02, 0.05, 0.1, 0.2)
    ),
    "greedy": Baseline("greedy", lambda pulls, arms: strategies.epsilon_greedy(arms)),
}
# Table 1 of the paper, by (pulls, arms), in the order of the strategies; the last is RL².
PUBLISHED = {
    setting: dict(zip((*BASELINES, "rl2"), row, strict=True))
    for setting, row in {
        (10, 5): (5.0, 6.6, 5.7, 6.5, 6.7, 6.6, 6.6, 6.7),
        (10, 10): (5.0, 6.6, 5.5, 6.2, 6.7, 6.6, 6.6, 6.7),
        (10, 50): (5.1, 6.5, 5.2, 5.5, 6.6, 6.5, 6.5, 6.8),
        (100, 5): (49.9, 78.3, 74.7, 77.9, 78.0, 75.4, 74.8, 78.7),
        (100, 10): (49.9, 82.8, 76.7, 81.4, 82.4, 77.4, 77.1, 83.5),
        (100, 50): (49.8, 85.2, 64.5, 67.7, 84.3, 78.3, 78.0, 84.9),
        (500, 5): (249.8, 405.8, 402.0, 406.7, 405.8, 388.2, 380.6, 401.6),
        (500, 10): (249.0, 437.8, 429.5, 438.9, 437.1, 408.0, 395.0, 432.5),
        (500, 50): (249.6, 463.7, 427.2, 437.6, 457.6, 413.6, 402.8, 438.9),
    }.items()
}


PAPER = (
    "Published: Duan et al. 2016, RL² with 256 units, from up to 1,000 steps of learning of 250,000 steps of the "
    "environment each, 250 million."
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which settings are played, and how the recurrent policy is learned."""

    pulls: tuple[int, ...] = (10, 100)
    """Pulls in a trial."""
    arms: tuple[int, ...] = (5, 10, 50)
    """Arms of a bandit."""
    budget: int = 50_000_000
    """Pulls that the policy learns from in each setting."""
    hidden: int = 64
    """Width of the memory; the paper has 256."""
    trials: int = 512
    """Trials played in a step, at most."""
    batch: int = 12_800
    """Pulls played in a step, at most."""
    epochs: int = 3
    """Times that a step's trials are learned from."""
    minibatches: int = 8
    """Parts of the trials that make an update each."""
    rate: float = 3e-3
    """Adam's rate, which falls linearly to zero."""
    discount: float = 0.99
    """Of rewards within a trial, for each step."""
    trace: float = 0.95
    """The lambda of generalised advantages."""
    value_weight: float = 0.5
    """Weight of the value's error, which is in units of a trial's worth, and so the smaller the longer a trial is."""
    entropy: float = 0.05
    """Weight of the policy's entropy, which falls linearly to zero."""
    span: int | None = None
    """Steps for which the memory keeps what it holds at first, as `rl2.Config` has it; None is the whole trial."""
    tested: int = 4000
    """Instances of each setting that are played in testing; as many more choose hyperparameters."""


SMALLEST = Config(pulls=(3,), arms=(2,), budget=16, hidden=4, trials=4, minibatches=2, tested=4)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study: two cells for each setting, of the strategies and of RL²."""
    if data is not None:
        raise ValueError(f"--data {data}: bandits are sampled, leave the option out")
    cells: dict[str, Any] = {}
    for pulls in config.pulls:
        for arms in config.arms:
            environment = trial(bandits(arms), pulls)
            learner(config, environment)  # so that it is refused here, if it is
            used = {name: baseline for name, baseline in BASELINES.items() if name != "gittins" or pulls <= EXACT}
            cells[f"strategies-{pulls}-{arms}"] = partial(compared, config, environment, used, (pulls, arms))
            cells[f"rl2-{pulls}-{arms}"] = partial(learned, config, environment)
    return Study(cells, partial(report, config))


def trials(config: Any, environment: Environment) -> int:
    """Return how many trials are played in a step: a multiple of the minibatches, and one for each at least."""
    require_counts(trials=config.trials, batch=config.batch, minibatches=config.minibatches)
    most = min(config.trials, config.batch / environment.horizon)
    return config.minibatches * max(1, int(most / config.minibatches))


def updates(config: Any, environment: Environment) -> int:
    """Return how many steps of the learner come closest to the steps of the environment that are asked for."""
    return max(1, round(config.budget / (trials(config, environment) * environment.horizon)))


def learner(config: Any, environment: Environment) -> rl2.RL2:
    """Return the learner of a setting."""
    if config.tested < 2:
        raise ValueError(f"tested={config.tested}: an interval takes 2 instances or more")
    require_counts(budget=config.budget, epochs=config.epochs)
    require_positive(rate=config.rate)
    require_nonnegative(entropy=config.entropy)
    steps = updates(config, environment)
    rate = optax.linear_schedule(config.rate, 0.0, steps * config.epochs * config.minibatches)
    options = rl2.Config(
        hidden=config.hidden,
        trials=trials(config, environment),
        epochs=config.epochs,
        minibatches=config.minibatches,
        discount=config.discount,
        trace=config.trace,
        value_weight=config.value_weight,
        entropy_weight=optax.linear_schedule(config.entropy, 0.0, steps),
        span=config.span,
    )
    return rl2.rl2(environment, optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate)), options)


def learned(config: Any, environment: Environment, directory: Path) -> Mapping[str, Any]:
    """Train a policy across tasks, and play it in unseen ones."""
    key, mine, steps = jax.random.key(0), learner(config, environment), updates(config, environment)
    chunk = min(CHUNK, steps)
    every = max(chunk, steps // 50)
    trained = studies.train(rl2.program(mine, steps=steps, chunk=chunk), key, directory, steps=steps, every=every)
    if trained.stop:
        return {"updates": trained.step, "stopped": trained.stop.reason}
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    rates = [row["images_per_second"] for row in rows if row["images_per_second"]]
    played = trials(config, environment) * environment.horizon
    test = jax.jit(lambda key, params: evaluate(environment, mine.agent(params), key, config.tested))
    estimate = test(jax.random.fold_in(key, TEST), trained.state.params)
    return {
        **_plain(estimate),
        "steps": trained.step * played,
        "hidden": config.hidden,
        "steps_per_second": round(float(np.median(rates)) * played) if rates else None,
        "curve": [[row["step"] * played, round(row["rl2/reward"], 3)] for row in rows],
    }


def compared(
    config: Any,
    environment: Environment,
    baselines: Mapping[str, Baseline],
    setting: tuple[int, ...],
    directory: Path,
) -> Mapping[str, Any]:
    """Play each strategy in the same unseen tasks, at the best of its grid in others."""
    key, found = jax.random.key(0), {}

    def played(baseline: Baseline, which: np.uint32, *value: Any) -> Any:
        agent = baseline.make(*setting, *value)
        return evaluate(environment, agent, jax.random.fold_in(key, which), config.tested)

    for name, baseline in baselines.items():
        play, best = jax.jit(partial(played, baseline)), ()
        if baseline.grid:
            best = (max(baseline.grid, key=lambda value: float(play(CHOOSE, value).mean)),)
        found[name] = {**_plain(play(TEST, *best)), "value": best[0] if best else None}
    return found


def _plain(estimate: Any) -> dict[str, float]:
    return {"mean": round(float(estimate.mean), 4), "interval": round(float(estimate.interval), 4)}


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the tables, published values beside ours, and curves of learning."""
    settings = [(pulls, arms) for pulls in config.pulls for arms in config.arms]
    titles = {name: baseline.title for name, baseline in BASELINES.items()}
    text = [
        f"Total reward over {config.tested:,} instances ± 95 % interval; pulls n, arms k. {PAPER}",
        "",
        *table(("n", "k"), settings, PUBLISHED, results),
        "",
        "Strategies, published / ours; in brackets the best of a grid: UCB1's width, and ε.",
        "",
        *table_of_strategies(("n", "k"), settings, titles, PUBLISHED, results),
    ]
    shown = {name: titles[name] for name in ("gittins", "ucb1", "greedy")}
    drawn = figure(settings, "{0} pulls, {1} arms", shown, PUBLISHED, results)
    return Report("\n".join(text), {"curves": drawn} if drawn else {})


def table(
    head: tuple[str, ...],
    settings: Sequence[tuple[int, ...]],
    published: Mapping[Any, Mapping[str, float]],
    results: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return the table of RL², and how much of what is published is reached or was not run."""
    columns = (*head, "published", "RL²", "ratio", "units", "steps learned from, millions", "steps a second")
    text = ["| " + " | ".join(columns) + " |", "|" + " ---: |" * len(columns)]
    ratios = []
    for setting in settings:
        result = results.get(_name("rl2", setting))
        known = published.get(setting, {}).get("rl2")
        row = [*map(str, setting), "" if known is None else f"{known:.1f}"]
        if result is None or "stopped" in result:
            row += [result["stopped"] if result else "pending"] + [""] * 4
        else:
            speed = result["steps_per_second"]
            ratios += [] if known is None else [result["mean"] / known]
            row += [
                _entry(result),
                "" if known is None else f"{ratios[-1]:.4f}",
                str(result["hidden"]),
                f"{result['steps'] / 1e6:.1f}",
                "" if speed is None else f"{speed:,}",
            ]
        text.append("| " + " | ".join(row) + " |")
    near = sum(ratio >= 0.98 for ratio in ratios)
    missing = ", ".join("-".join(map(str, setting)) for setting in published if setting not in settings)
    said = f"Within 2 % of what is published or above it: {near} of {len(ratios)}."
    return [*text, "", said + (f" Published and not run here: {missing} ({'-'.join(head)})." if missing else "")]


def table_of_strategies(
    head: tuple[str, ...],
    settings: Sequence[tuple[int, ...]],
    titles: Mapping[str, str],
    published: Mapping[Any, Mapping[str, float]],
    results: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return the table of strategies, each entry the published value and ours."""
    text = [
        "| " + " | ".join((*head, *titles.values())) + " |",
        "|" + " ---: |" * (len(head) + len(titles)),
    ]
    for setting in settings:
        result = results.get(_name("strategies", setting), {})
        row = list(map(str, setting))
        for name in titles:
            known = published.get(setting, {}).get(name)
            entry = "-" if known is None else f"{known:.1f}"
            if name in result:
                value = result[name]["value"]
                entry += f" / {_entry(result[name])}" + ("" if value is None else f" ({value:g})")
            row.append(entry)
        text.append("| " + " | ".join(row) + " |")
    return text


def _name(kind: str, setting: tuple[int, ...]) -> str:
    return "-".join((kind, *map(str, setting)))


def _entry(result: Mapping[str, Any]) -> str:
    return f"{result['mean']:.2f} ± {result['interval']:.2f}"


def figure(
    settings: Sequence[tuple[int, ...]],
    title: str,
    titles: Mapping[str, str],
    published: Mapping[Any, Mapping[str, float]],
    results: Mapping[str, Mapping[str, Any]],
) -> Any:
    """Return the curves of learning, beside some strategies and the published value; None before there is a result."""
    from matplotlib.figure import Figure

    there = [setting for setting in settings if {_name("rl2", setting), _name("strategies", setting)} & set(results)]
    if not there:
        return None
    columns = min(3, len(there))
    drawn = Figure(figsize=(3.2 * columns, 2.6 * -(-len(there) // columns)), layout="constrained")
    axes = drawn.subplots(-(-len(there) // columns), columns, squeeze=False)
    for ax in axes.flat[len(there) :]:
        ax.set_visible(False)
    for ax, setting in zip(axes.flat, there, strict=False):
        ax.set_title(title.format(*setting), fontsize=9)
        curve = results.get(_name("rl2", setting), {}).get("curve")
        if curve:
            steps, rewards = np.array(curve, float).T
            ax.plot(steps / 1e6, rewards, "k", label="RL²")
        known = published.get(setting, {}).get("rl2")
        if known is not None:
            ax.axhline(known, color="k", linestyle=":", linewidth=1, label="RL², published")
        for index, name in enumerate(titles):
            result = results.get(_name("strategies", setting), {}).get(name)
            if result:
                ax.axhline(result["mean"], color=f"C{index}", linewidth=1, label=titles[name])
        ax.set_xlabel("millions of steps", fontsize=8)
        ax.tick_params(labelsize=8)
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes.flat), key=lambda both: len(both[1]))
    drawn.legend(handles, labels, loc="outside lower center", ncols=max(1, len(labels)), fontsize=8)
    return drawn
