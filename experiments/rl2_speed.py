"""How many environment steps of RL² a second, beside recurrent PPO in PyTorch on the same bandit, in turns.

Command: GAN_JAX_PEERS=PYTHON gan-jax train rl2_speed
Result: learning and playing, ours over PyTorch's on two AMD EPYC cores: 102 times one environment after another, 6.1
    a list of environments (aimed at: 50), 2.2 all in tensors, .82 the same compiled (aimed at: 2); 3,540 updates of a
    GAN a second as RL² learns to control it (docs/rl2_speed/report.md)
Cost: 7.5 minutes on two AMD EPYC cores

The work is that of `bandit_rl2` at 10 pulls of 5 arms, its learner and updates, with 512 trials and 48 units.
"learning" is all of it, rollouts and updates; "rollout" is playing alone. PyTorch has four ways
(`experiments/peers/ppo_torch.py` says how): trials one after another, as its public RL² does; environments in a list
and a policy for all of them, as recurrent PPO is commonly written; all in tensors, with gradients by hand; and that
compiled by `torch.compile`. Each has one thread or all, whichever is faster for it. A test holds both sides to the same
loss, gradients and weights after two steps of learning (tests/meta/test_peers_rl2.py). PyTorch keeps log-probabilities
and values of a rollout, where ours reads them again when it learns.

Nobody else has an environment made of a GAN, that of `gan_control_rl2`: its row is ours alone.

PYTHON is that of an environment with PyTorch and a C++ compiler. Let the machine be quiet: PyTorch's threads wait for
each other.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.base import Environment, Key, Metrics, Program, Report, Study
from gan_jax.meta import rl2
from gan_jax.meta.environments import bandits, play, total, trial
from gan_jax.meta.tasks import NOTHING
from gan_jax.training import lookup, turns
from gan_jax.training.turns import Runner

PEERS = {
    "one": "one environment after another",
    "loop": "a list of environments",
    "vectorised": "all in tensors",
    "compiled": "all in tensors, compiled",
}
ALONE, GAN = "alone", "gan"  # cells without a peer: where none is asked for, and where there is none
TITLES = PEERS | {ALONE: "none"}
WORKS = {"learning": "learning", "rollout": "rollout alone"}
SHARED = ("hidden", "epochs", "minibatches", "rate", "discount", "trace", "value_weight", "entropy")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Who is compared, on what, and for how long."""

    peers: tuple[str, ...] = tuple(PEERS)
    """The others; none measures this library alone."""
    gan: bool = True
    """Whether the control of a GAN is measured too."""
    rounds: int = 7
    """Turns of each."""
    seconds: float = 2.0
    """About how long a turn is."""
    pulls: int = 10
    """Pulls in a trial."""
    arms: int = 5
    """Arms of a bandit."""
    trials: int = 512
    """Trials played in a step of learning, at most: `bandit_rl2` bounds its steps too."""
    hidden: int = 48
    """Width of the memory."""


SMALLEST = Config(peers=(), gan=False, rounds=2, seconds=0.01, pulls=2, arms=2)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; its bandits are sampled."""
    if data is not None:
        raise ValueError(f"--data {data}: bandits are sampled, leave the option out")
    lookup.require_known("peer", config.peers, PEERS)
    turns.require_pace(config.rounds, config.seconds)
    parts = lookup.load(lookup.find("bandit_rl2"))
    options = parts.Config(pulls=(config.pulls,), arms=(config.arms,), trials=config.trials, hidden=config.hidden)
    parts.learner(options, trial(bandits(config.arms), config.pulls))  # so that it is refused here, if it is
    python = turns.interpreter(config.peers)
    cells: dict[str, Any] = {
        name: partial(cell, config, parts, options, name, python) for name in config.peers or (ALONE,)
    }
    if config.gan:
        cells[GAN] = partial(controlled, config)
    return Study(cells, partial(report, config))


def setting(parts: Any, options: Any) -> dict[str, float]:
    """Return the numbers of `bandit_rl2`, at the first of its settings, that PyTorch is told."""
    (pulls, *_), (arms, *_), defaults = options.pulls, options.arms, rl2.Config()
    environment = trial(bandits(arms), pulls)
    return {
        "pulls": pulls,
        "arms": arms,
        "trials": parts.trials(options, environment),
        **{name: getattr(options, name) for name in SHARED},
        "clip": defaults.clip,
        "steps": parts.updates(options, environment),
    }


def rollouts(environment: Environment, learner: rl2.RL2, trials: int) -> Program:
    """Return a learner's rollouts as what the loop runs; a state holds the last one, so that all of it is played."""

    def played(key: Key, params: rl2.Weights) -> Any:
        keys = jax.random.split(key, trials)
        return jax.vmap(partial(play, environment, learner.agent(params)), out_axes=1)(keys)

    def init(key: Key) -> Any:
        params = learner.init(key).params
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(played, key, params))
        return params, nothing

    def step(key: Key, state: Any, batch: Any) -> tuple[Any, Metrics]:
        params, _ = state
        moments = played(key, params)
        return (params, moments), {"rl2/reward": jax.vmap(total, in_axes=1)(moments).mean()}

    return Program(init, step, NOTHING, lambda key, state: {})


def cell(config: Config, parts: Any, options: Any, name: str, python: str | None, directory: Path) -> Mapping[str, Any]:
    """Measure ours and a peer in turns, in steps of the environment a second, learning and playing."""
    environment = trial(bandits(config.arms), config.pulls)
    learner, trials = parts.learner(options, environment), parts.trials(options, environment)
    programs = {
        "learning": rl2.program(learner, steps=parts.updates(options, environment)),
        "rollout": rollouts(environment, learner, trials),
    }
    runners: dict[str, Runner] = {}
    with ExitStack() as stack:
        for work, program in programs.items():
            runners[f"{work}, ours"] = turns.compiled(program, parts.CHUNK)
            if name != ALONE:
                script, words = Path(__file__).parent / "peers" / "ppo_torch.py", json.dumps(setting(parts, options))
                other = turns.peer(str(python), script, name, work, words)
                runners[f"{work}, theirs"] = stack.enter_context(other)
        rates = turns.rates(runners, rounds=config.rounds, seconds=config.seconds)
    played = trials * environment.horizon
    per_second = {who: [round(played * rate) for rate in found] for who, found in rates.items()}
    return {
        "machine": turns.machine(),
        "trials": trials,
        "hidden": options.hidden,
        "updates": options.epochs * options.minibatches,
        **per_second,
    }


def controlled(config: Config, directory: Path) -> Mapping[str, Any]:
    """Measure RL² as it learns to control GANs on mixtures, at the sizes of `gan_control_rl2`."""
    parts = lookup.load(lookup.find("gan_control_rl2"))
    options = parts.Config()
    environment = trial(parts.FAMILIES["mixtures"](options).environments["train"], options.episodes)
    played = options.trials * environment.horizon
    steps = max(1, round(options.budget / (played * options.updates)))
    program, _ = parts.learner(options, environment, "rl2", steps)
    rates = turns.rates({"ours": turns.compiled(program)}, rounds=config.rounds, seconds=config.seconds)["ours"]
    return {
        "machine": turns.machine(),
        "trials": options.trials,
        "updates": options.updates,
        "learning, ours": [round(played * rate, 2) for rate in rates],
    }


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the tables of rates and of their ratios, and a figure."""
    text = [f"Environment steps a second, medians of {config.rounds} rounds in turns."]
    bandit = {name: result for name, result in results.items() if name in TITLES}
    if bandit:
        first = next(iter(bandit.values()))
        text += [
            "",
            f"## bandit_rl2, {config.pulls} pulls of {config.arms} arms",
            "",
            f"{first['trials']} trials and {first['updates']} updates a step of learning, {first['hidden']} units; on "
            f"{_machines(bandit)}. The ratio is that of medians, with quartiles of turn against turn.",
            "",
            "| PyTorch | work | theirs | ours, in turn with it | ratio |",
            "| --- | --- | ---: | ---: | ---: |",
        ]
        for name, result in bandit.items():
            for work, title in WORKS.items():
                mine, theirs = result[f"{work}, ours"], result.get(f"{work}, theirs")
                entries = ["-", _median(mine), "-"]
                if theirs:
                    entries = [_median(theirs), _median(mine), str(turns.ratio(mine, theirs))]
                text.append(f"| {TITLES[name]} | {title} | {' | '.join(entries)} |")
    if GAN in results:
        result = results[GAN]
        rates = np.array(result["learning, ours"])
        text += [
            "",
            "## gan_control_rl2, mixtures",
            "",
            f"{result['trials']} trials, {result['updates']} updates of a GAN in a step of its environment; while RL² "
            f"learns, on {_machines({GAN: result})}; quartiles in brackets.",
            "",
            "| environment steps a second | GAN updates a second |",
            "| ---: | ---: |",
            f"| {_quartiles(rates)} | {_quartiles(rates * result['updates'])} |",
        ]
    return Report("\n".join(text), {"speed": _figure(bandit)} if bandit else {})


def _median(rates: Any) -> str:
    return _digits(np.median(rates))


def _quartiles(rates: Any) -> str:
    low, middle, high = map(_digits, np.quantile(rates, (0.25, 0.5, 0.75)))
    return f"{middle} ({low} to {high})"


def _digits(rate: Any) -> str:
    """Three digits, written out."""
    return f"{float(f'{rate:.3g}'):,.7g}"


def _machines(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Where cells were measured: one machine, unless a study was resumed on another."""
    return " and ".join(dict.fromkeys(result["machine"] for result in results.values()))


def _figure(results: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, len(WORKS), sharey=True)
    for ax, (work, title) in zip(axes, WORKS.items(), strict=True):
        for place, result in enumerate(results.values()):
            for who, colour in {"ours": "C0", "theirs": "C1"}.items():
                rates = result.get(f"{work}, {who}", [])
                ax.plot([place] * len(rates), rates, "o", color=colour, alpha=0.6)
        ax.set(xticks=range(len(results)), yscale="log", title=title)
        ax.set_xticklabels([fill(TITLES[name], 15) for name in results], fontsize=7)
    axes[0].set_ylabel("environment steps a second")
    figure.suptitle("gan_jax (blue) and PyTorch (orange)", fontsize=10)
    return figure
