"""RL² on tabular MDPs: the published table, beside strategies of a person's in the same code.

Command: gan-jax train mdp_rl2
Result: RL², ours over the published value: 144.0 ± 1.7, .922 of it, at 10 episodes, 372.4 ± 4.1, .836, at 25, and the
    curves still climb; with 64 units whose memory began by losing half at each step it came to 136.4 ± 1.8 and
    332.5 ± 4.2 from as many steps. PSRL agrees with the paper, 138.1 ± 1.7 and 410.4 ± 3.7; greedy strategies fall
    short of it by 4 and 6 %. Greed that is told the prior of rewards, which RL² could have learned, earns more than it:
    149.9 ± 1.6 and 424.6 ± 3.6 (docs/mdp_rl2/report.md)
Cost: 38 and 48 minutes a setting of RL² on a core of an AMD EPYC beside other work; the strategies four to eight, most
    of it the sampling of Dirichlet laws

Duan et al. 2016 (arXiv 1611.02779), section 3.2: the total reward of n episodes of 10 steps in MDPs of 10 states and 5
actions, mean rewards N(1, 1) with unit noise, flat Dirichlet transitions. Tables, curves, learner and grids are those
of `bandit_rl2`. Strategies plan each episode in what they know then. Under a prior mean of 0 for rewards posterior
sampling earns what is published; under the true one, 1, greed alone earns far more. UCRL2 and BEB are not run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from gan_jax.base import Report, Study
from gan_jax.meta import strategies
from gan_jax.meta.environments import mdps, trial
from gan_jax.training import lookup

STATES, ACTIONS, HORIZON = 10, 5, 10
SAMPLES = 5  # of optimistic posterior sampling
# Names that are published, in the order of the paper's table 2 by (episodes,), and their titles.
TITLES = {
    "random": "random",
    "psrl": "PSRL",
    "optimistic": "OPSRL",
    "ucrl2": "UCRL2",
    "beb": "BEB",
    "epsilon_greedy": "ε-greedy",
    "greedy": "greedy",
}
PUBLISHED = {
    setting: dict(zip((*TITLES, "rl2"), row, strict=True))
    for setting, row in {
        (10,): (100.1, 138.1, 144.1, 146.6, 150.2, 132.8, 134.8, 156.2),
        (25,): (250.2, 408.8, 425.2, 424.1, 427.8, 377.3, 368.8, 445.7),
        (50,): (499.7, 904.4, 930.7, 918.9, 917.8, 823.3, 769.3, 936.1),
        (75,): (749.9, 1417.1, 1449.2, 1427.6, 1422.6, 1293.9, 1172.9, 1428.8),
        (100,): (999.4, 1939.5, 1973.9, 1942.1, 1935.1, 1778.2, 1578.5, 1913.7),
    }.items()
}
# Ours besides: they know that rewards have mean 1.
INFORMED = {"psrl_informed": "PSRL, informed", "greedy_informed": "greedy, informed"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which settings are played, and how the recurrent policy is learned."""

    episodes: tuple[int, ...] = (10, 25)
    """Episodes in a trial."""
    budget: int = 60_000_000
    """Steps that the policy learns from in each setting."""
    hidden: int = 128
    """Width of the memory; the paper has 256."""
    trials: int = 512
    """Trials played in a step of the learner, at most."""
    batch: int = 16_000
    """Steps played in a step of the learner, at most."""
    epochs: int = 3
    """Times that a step's trials are learned from."""
    minibatches: int = 8
    """Parts of the trials that make an update each."""
    rate: float = 3e-3
    """Adam's rate, which falls linearly to zero."""
    discount: float = 0.99
    """Of rewards within a trial, for each step."""
    trace: float = 0.3
    """The lambda of generalised advantages."""
    value_weight: float = 50.0
    """Weight of the value's error, which is in units of a trial's worth, and so the smaller the longer a trial is."""
    entropy: float = 0.02
    """Weight of the policy's entropy, which falls linearly to zero."""
    span: int | None = None
    """Steps for which the memory keeps what it holds at first, as `rl2.Config` has it; None is the whole trial."""
    tested: int = 1000
    """MDPs of each setting that are played in testing; as many more choose hyperparameters."""


SMALLEST = Config(episodes=(2,), budget=80, hidden=4, trials=4, minibatches=2, tested=3)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study: two cells for each setting, of the strategies and of RL²."""
    if data is not None:
        raise ValueError(f"--data {data}: MDPs are sampled, leave the option out")
    parts = lookup.load(lookup.find("bandit_rl2"))
    cells: dict[str, Any] = {}
    for episodes in config.episodes:
        environment = trial(mdps(STATES, ACTIONS, HORIZON), episodes)
        parts.learner(config, environment)  # so that it is refused here, if it is
        cells[f"strategies-{episodes}"] = partial(parts.compared, config, environment, baselines(parts), ())
        cells[f"rl2-{episodes}"] = partial(parts.learned, config, environment)
    return Study(cells, partial(report, config, parts))


def baselines(parts: ModuleType) -> Mapping[str, Any]:
    """Return the strategies that are run."""
    size = (STATES, ACTIONS, HORIZON)
    made = {
        "random": lambda: strategies.uniform((ACTIONS,)),
        "psrl": lambda: strategies.psrl(*size, prior=0.0),
        "optimistic": lambda: strategies.psrl(*size, samples=SAMPLES, prior=0.0),
        "epsilon_greedy": lambda epsilon: strategies.certainty_equivalent(*size, epsilon, prior=0.0),
        "greedy": lambda: strategies.certainty_equivalent(*size, prior=0.0),
        "psrl_informed": lambda: strategies.psrl(*size),
        "greedy_informed": lambda: strategies.certainty_equivalent(*size),
    }
    grids = {"epsilon_greedy": (0.02, 0.05, 0.1, 0.2)}
    titles = {**TITLES, **INFORMED}
    return {name: parts.Baseline(titles[name], make, grids.get(name, ())) for name, make in made.items()}


def report(config: Config, parts: ModuleType, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the tables, published values beside ours, and curves of learning."""
    settings = [(episodes,) for episodes in config.episodes]
    text = [
        f"Total reward over {config.tested:,} MDPs ± 95 % interval; episodes n. {parts.PAPER}",
        "",
        *parts.table(("n",), settings, PUBLISHED, results),
        "",
        "Strategies, published / ours; in brackets the best ε of a grid. Informed: the prior mean of rewards is the "
        "true one, 1, where the others have 0.",
        "",
        *parts.table_of_strategies(("n",), settings, {**TITLES, **INFORMED}, PUBLISHED, results),
    ]
    shown = {name: {**TITLES, **INFORMED}[name] for name in ("psrl", "optimistic", "greedy_informed")}
    drawn = parts.figure(settings, "{0} episodes", shown, PUBLISHED, results)
    return Report("\n".join(text), {"curves": drawn} if drawn else {})
