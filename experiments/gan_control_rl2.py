"""RL² in control of GAN training, beside the ways in which people tune it: fixed, scheduled, searched for, evolved.

Command: gan-jax train gan_control_rl2
Result: after 500 updates on 20 unseen mixtures alike those learned from, .027 ± .008 in RL²'s first training and
    .031 ± .024 in its second, .020 ± .007 at its mean numbers replayed whatever is seen, .028 ± .014 under a linear
    policy that evolution has learned, .033 ± .009 at numbers that an outer gradient has learned, .076 ± .017 at the
    defaults, .052 ± .033 at the best of a grid for 65 times the updates, trained again, .021 ± .009 by population-based
    training for 16 times; on crowded ones .026 ± .005, .023 ± .006, .022 ± .005, .033 ± .009, .033 ± .006, .061 ± .014,
    .064 ± .025 and .020 ± .006 (docs/gan_control_rl2/report.md). The same policies train a DCGAN on unseen digits:
    --sets digits --learned docs/gan_control_rl2 and smaller numbers (docs/gan_control_images/report.md)
Cost: a step of RL² of 64 trials, 64,000 updates of GANs, takes 18.5 s of a core of an AMD EPYC, and 12 million
    updates, the budget of a row that learns, about an hour; 83 minutes beside other work. An update on digits takes 19
    ms there at a quarter of the batch, the grid of 16 points 26 minutes

A GAN is trained on an unseen task in ten pieces, before each of which a tuner turns both rates, beta1, R1's weight and
the number of discriminator steps, down, up or not at all. It sees what a practitioner does: losses, outputs,
saturation, accuracy, the sizes of the gradients and their ratio, its own numbers, the last score and the progress; it
is rewarded by what the logarithm of the score falls by, an energy distance of samples to points that the GAN has not
seen. RL² (Duan et al. 2016, arXiv 1611.02779) has two episodes in a task, the first to find out. What it has learned
drives the training of any other GAN, as the first episode of a trial: gan-jax train ring --controller RUN.

Mixtures are learned from random shapes of two to five modes, and tested on others (set "alike") and on ten narrow modes
(set "crowded"). In the set "varied" tasks differ in how many points are known and in the networks' width too. Digits,
which are learned from seven classes and tested on the three others, are images, of which an update takes forty times as
long: --learned RUN tests on them, or on "varied", what was learned on mixtures.
"""

import math
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
from jax import Array, lax
from jax.custom_batching import sequential_vmap

from gan_jax import fewshot, latents, objectives, penalties, rules
from gan_jax.arithmetic import require_counts, require_nonnegative, require_positive
from gan_jax.base import Batch, Environment, Hyper, Key, Learner, Metrics, Pair, Program, Report, Study, Task
from gan_jax.data import episodes as classes_of
from gan_jax.data import images
from gan_jax.diagnostics.gradients import gradients
from gan_jax.gan import GAN, GANState, adam, gan
from gan_jax.meta import control, inner, rl2, tasks, tuners
from gan_jax.meta.control import Controller, Dial, Panel, Start
from gan_jax.meta.environments import Agent, trial
from gan_jax.meta.tuners import Tuner
from gan_jax.metrics.spread import interval
from gan_jax.networks import dcgan, mlp
from gan_jax.training import lookup, models, studies

TITLES = {
    "constant": "defaults",
    "cosine": "cosine decay of the rates",
    "balance": "discriminator's rate by the losses' gap",
    "gradient": "numbers that an outer gradient has learned",
    "evolution": "numbers that evolution strategies have learned",
    "random": "random search",
    "grid": "grid",
    "population": "population-based training",
    "schedule": "linear policy, by evolution",
    "rl2": "RL²",
    "replayed": "RL²'s mean numbers, whatever is seen",
}
# Both rates, beta1, R1's weight and discriminator steps, as docs/hyper_gan/report.md has them, smoothing left out: of
# the outer gradient and of truncated evolution strategies, three seeds each, from so many updates of GANs in all.
NUMBERS = {"gradient": (0.0014, 0.0032, 0.16, 0.79, 1.0), "evolution": (0.0015, 0.0054, 0.24, 1.6, 1.0)}
HYPER_GAN = 3 * 1_280_000
LEARNED = ("schedule", "rl2")
SEARCHES = ("random", "grid")
FIRST = "RL², first episode"
# Of an energy distance: less is noise, and more is nothing that trains.
LIMITS = {**dict.fromkeys(("mixtures", "varied"), (1e-3, 5.0)), "digits": (1e-2, 100.0)}
BALANCED = "rates.discriminator"
RATES = ("rates.generator", BALANCED)
LOSSES = Pair("generator/loss", "discriminator/loss")
CHOOSE, TEST = np.uint32(2**32 - 2), np.uint32(2**32 - 1)  # folded into a key, where training folds in the step
RESAMPLES = 2000


class Numbers(NamedTuple):
    """What is tuned: both rates, beta1, R1's weight, and how many steps of the discriminator count."""

    rates: Pair[float]
    beta1: float
    penalty: float
    d_steps: float


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared, on what, and for how long."""

    sets: tuple[str, ...] = ("mixtures",)
    """Of "mixtures", "varied" (mixtures of which a sixteenth of the shots is known or more, to networks of a quarter of
    the units or more) and "digits"."""
    tuners: tuple[str, ...] = tuple(TITLES)
    """The rows; "replayed" takes "rl2" before it."""
    learned: str = ""
    """A run of this study, on this machine: what its set "mixtures" has learned is tested in place of learning anew."""
    updates: int = 50
    """Updates of a GAN before a tuner acts again."""
    horizon: int = 10
    """Actions in a training."""
    episodes: int = 2
    """Trainings on a task that RL² has."""
    budget: int = 12_000_000
    """Updates of GANs that RL² and the linear policy learn from."""
    hidden: int = 32
    """Width of RL²'s memory."""
    trials: int = 64
    """Trials played in a step of RL², and pairs in one of evolution."""
    rate: float = 3e-3
    """Adam's rate of RL², which falls linearly to zero."""
    entropy: float = 0.01
    """Weight of the policy's entropy, which falls linearly to zero."""
    evolution_rate: float = 0.05
    """Adam's rate of evolution."""
    drawn: bool = False
    """Whether a training begins at numbers drawn between the bounds, and not at the defaults."""
    lattice: tuple[int, ...] = (4, 4, 2, 2)
    """Points of the grid: of both rates, of beta1, of R1's weight, and of the discriminator's steps, which stay at 1
    where they are left out; random search has as many points in all, and draws the steps too."""
    repeats: int = 1
    """Trainings by whose mean score each of these points is judged."""
    members: int = 16
    """Of a population."""
    gains: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Of the controller of the losses' gap, which chooses on tasks to learn from."""
    tested: int = 20
    """Unseen tasks of each set; as many others choose the gain."""
    d_steps: int = 3
    """The most steps of the discriminator; all are computed, however many count."""
    shots: int = 256
    """Points that a GAN is trained on; an eighth as many images."""
    points: int = 256
    """Points that score; an eighth as many images. As many samples of either."""
    batch: int = 64
    """Examples in a batch."""
    widths: tuple[int, ...] = (32, 32)
    """Hidden layers of both networks on mixtures."""
    width: int = 8
    """Channels of the finest features on images."""


SMALLEST = Config(
    tuners=("constant", "rl2"),
    updates=1,
    horizon=2,
    budget=16,
    hidden=2,
    trials=4,
    lattice=(2, 1, 1, 1),
    tested=2,
    d_steps=1,
    shots=4,
    points=4,
    batch=2,
    widths=(3,),
)


class Family(NamedTuple):
    """A GAN and the tasks on which it is controlled.

    judge: what scores the GAN. limits: of the score. panel: its dials. watch: how its metrics are seen.
    environments: the tasks to learn from, "train", and those of each set that is tested on.
    """

    judge: fewshot.Judge
    limits: tuple[float, float]
    panel: Panel
    watch: Mapping[str, Callable[[Array], Array]]
    environments: Mapping[str, Environment]


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study: a cell for each tuner and set."""
    if data is not None:
        raise ValueError(f"--data {data}: name the sets by --sets, and leave the option out")
    lookup.require_known("set", config.sets, FAMILIES)
    lookup.require_known("tuner", config.tuners, TITLES)
    if config.tested < 2 or config.trials % 4 or config.trials < 4:
        raise ValueError(f"{config.tested} tasks and {config.trials} trials: give 2 or more, and a multiple of 4")
    counted = ("updates", "horizon", "episodes", "budget", "hidden", "repeats", "members", "d_steps", "shots", "points")
    require_counts(**{name: getattr(config, name) for name in (*counted, "batch", "width")})
    require_positive(rate=config.rate, evolution_rate=config.evolution_rate)
    require_nonnegative(entropy=config.entropy)
    if "balance" in config.tuners and not config.gains:
        raise ValueError("gains=(): give one gain or more, such as 0.3, or leave the row 'balance' out")
    if not 0 < len(config.lattice) <= 5 or min(config.lattice) < 1:
        raise ValueError(f"lattice={config.lattice}: give the points of up to five dials, 1 or more of each")
    if config.learned:
        for family in config.sets:
            parts = FAMILIES[family](config)
            for name in LEARNED:
                if name in config.tuners:
                    controller(config, parts, name, learned(config.learned, "mixtures", name))
    return Study(
        cells={
            f"{family}-{name}": partial(cell, config, family, name) for family in config.sets for name in config.tuners
        },
        report=partial(report, config),
        controller=partial(driver, config),
    )


def assemble(config: Config, networks: Pair, latent: int) -> GAN:
    """Return the GAN whose numbers are tuned."""
    return gan(
        networks,
        latents.normal(latent),
        hyper=Numbers(Pair(1e-3, 1e-3), 0.5, 0.1, 1.0),
        objective=lambda hyper: objectives.non_saturating(0.0),
        penalty=lambda hyper: penalties.r1(hyper.penalty),
        rule=lambda hyper: rules.alternating(adam(hyper), d_steps=config.d_steps, active=hyper.d_steps),
        ema=0.0,
    )


def mixtures(config: Config) -> Family:
    """Return small perceptrons on mixtures in the plane."""
    alike = shapes(config)
    crowded = tasks.blobs(config.shots, config.points, modes=10, std=(0.03, 0.1))
    sets = {"train": alike, "alike": alike, "crowded": crowded}
    return controlled(config, perceptrons(config), sets, config.points, LIMITS["mixtures"])


def varied(config: Config) -> Family:
    """Return perceptrons of different widths on mixtures that different numbers of points are known of."""
    alike = shapes(config)

    def draw(arrays: Any, key: Key) -> Task:
        task_key, points_key, width_key = jax.random.split(key, 3)
        task = alike.draw(arrays, task_key)
        # Halves of halves, so that each of a power of two is there equally often.
        few = jnp.maximum(config.shots >> jax.random.randint(points_key, (), 0, 5), 1)
        share = 0.5 ** jax.random.randint(width_key, (), 0, 3)
        points = task.support["x"][jnp.arange(config.shots) % few]
        return task._replace(support={"x": points, "width": jnp.full(config.shots, share)})

    different = tasks.Tasks(alike.arrays, draw)
    sets = {"train": different, "alike": different}
    return controlled(config, perceptrons(config), sets, config.points, LIMITS["varied"], begin=narrowed)


def perceptrons(config: Config) -> GAN:
    """Return the GAN of points in the plane."""
    generator = mlp.generator(2, (2,), widths=config.widths)
    return assemble(config, Pair(generator, mlp.discriminator((2,), widths=config.widths, dropout=0.0)), 2)


def shapes(config: Config) -> tasks.Tasks:
    """Return mixtures of two to five modes."""
    kinds = [tasks.blobs(config.shots, config.points, modes=modes, std=(0.05, 0.3)) for modes in (2, 3, 4, 5)]

    def draw(_: Any, key: Key) -> Task:
        kind_key, task_key = jax.random.split(key)
        kind = jax.random.randint(kind_key, (), 0, len(kinds))
        return lax.switch(kind, [partial(each.draw, each.arrays) for each in kinds], task_key)

    return tasks.Tasks({}, draw)


def narrowed(learner: Learner, hyper: Hyper, key: Key, task: Task) -> GANState:
    """Begin a GAN with the share of its units that the task says."""
    params = learner.get_params(learner.init(hyper, key))
    return learner.init(hyper, key, Pair(*(mlp.narrow(each, task.support["width"][0]) for each in params)))


def digits(config: Config) -> Family:
    """Return a small DCGAN on the classes of the embedded digits."""
    shots, points = max(2, config.shots // 8), max(2, config.points // 8)
    divided = classes_of.divide(images.load("digits"))
    model = assemble(
        config,
        Pair(
            dcgan.generator(32, 28, 1, width=config.width, norm="layer"),
            dcgan.discriminator(28, 1, width=config.width, normalise=False),
        ),
        32,
    )
    sets = {
        "train": tasks.classes(divided.train, shots, points),
        "unseen classes": tasks.classes(divided.held_out, shots, points),
    }
    family = controlled(config, model, sets, points, LIMITS["digits"], fewshot.scales)
    if jax.default_backend() != "cpu":
        return family
    # One after another: there convolutions of many GANs at once, each of its own weights, take twice as long.
    each = {
        name: made._replace(reset=sequential_vmap(made.reset), step=sequential_vmap(made.step))
        for name, made in family.environments.items()
    }
    return family._replace(environments=each)


FAMILIES = {f.__name__: f for f in (mixtures, varied, digits)}


def controlled(
    config: Config,
    model: GAN,
    sets: Mapping[str, tasks.Tasks],
    points: int,
    limits: tuple[float, float],
    features: Callable[[Array], Array] | None = None,
    begin: Callable[[Learner, Hyper, Key, Task], GANState] | None = None,
) -> Family:
    """Return the environments in which a GAN is trained."""
    rate, most = Dial(1e-4, 3e-2), float(config.d_steps)
    steps = Dial(1.0, most, 1.0, log=False) if most > 1 else None
    dials: Any = (Pair(rate, rate), Dial(0.0, 0.9, 0.2, log=False), Dial(1e-3, 10.0, 3.0), steps)
    panel = control.panel(model.hyper, Numbers(*dials))

    def probe(hyper: Hyper, key: Key, state: GANState, batch: Batch) -> Metrics:
        first = jax.tree.map(lambda x: x[0], batch)
        return gradients(model.game(hyper), key, state.point, first)

    shares = ("discriminator/real", "discriminator/fake", "discriminator/accuracy")
    watch = {
        **dict.fromkeys(LOSSES, jax.nn.soft_sign),
        **dict.fromkeys((*shares, "generator/saturated", "discriminator/saturated"), lambda share: 2 * share - 1),
        **dict.fromkeys(
            ("generator/gradient", "discriminator/gradient", "generator/gradient_ratio"),
            lambda size: jnp.tanh(0.3 * jnp.log(size + 1e-6)),
        ),
    }
    judge = fewshot.distance(model, points, features=features)
    learner = model.learner(judge)
    make = partial(
        control.control,
        learner,
        score=judge,
        watch=watch,
        actions=panel,
        updates=config.updates,
        horizon=config.horizon,
        feed=inner.resampled(config.d_steps, config.batch),
        limits=limits,
        reward=control.log_ratio,
        start=partial(control.anywhere, panel) if config.drawn else None,
        begin=None if begin is None else partial(begin, learner),
        probe=probe,
    )
    return Family(judge, limits, panel, watch, {name: make(tasks=each) for name, each in sets.items()})


def cell(config: Config, family: str, name: str, directory: Path) -> Mapping[str, Any]:
    """Learn what a row has to learn, and let it tune GANs on the unseen tasks of each set."""
    parts, start = FAMILIES[family](config), time.monotonic()
    row = learn(config, parts, family, name, directory)
    if isinstance(row, dict):
        return row
    learning = time.monotonic() - start
    tested = test(config, parts, name, row.tuner)
    seconds = {"learning": round(learning, 1), "testing": round(time.monotonic() - start - learning, 1)}
    return {"tested": tested, "task": per_task(config, name), "before": row.spent, "seconds": seconds, **row.record}


class Row(NamedTuple):
    """A tuner; None where it is a search. Updates of GANs that it was learned from, and what is kept of it."""

    tuner: Tuner | None
    spent: int
    record: Mapping[str, Any] = {}  # read only


def learn(config: Config, parts: Family, family: str, name: str, directory: Path) -> Row | dict[str, Any]:
    """Return a row's tuner; in its place what stopped its learning."""
    if name == "constant":
        return Row(tuners.constant(), 0)
    if name == "cosine":
        return Row(tuners.cosine(parts.panel, RATES, config.horizon), 0)
    if name in NUMBERS:
        return Row(tuners.constant(jnp.array(NUMBERS[name])), HYPER_GAN)
    if name == "balance":
        return balanced(config, parts)
    if name == "replayed":
        own = (str(directory.parents[1]), family)  # <run>/cells/<name>
        return replayed(config, parts, learned(*((config.learned, "mixtures") if config.learned else own), "rl2"))
    if name not in LEARNED:
        return Row(None, 0)
    if config.learned:
        there = learned(config.learned, "mixtures", name)
        return Row(tuners.of_agent(controller(config, parts, name, there), trial=True), there["before"])
    environment = trial(parts.environments["train"], config.episodes if name == "rl2" else 1)
    each = environment.horizon * config.updates * config.trials * (2 if name == "schedule" else 1)
    steps = max(1, round(config.budget / each))
    program, read = learner(config, environment, name, steps)
    every = max(program.chunk, steps // 20)
    trained = studies.train(program, jax.random.key(0), directory, steps=steps, every=every)
    if trained.stop:
        return {"updates": trained.step, "stopped": trained.stop.reason}
    weights = read(trained.state)
    record = {
        "weights": jax.tree.map(lambda x: np.round(np.asarray(x, float), 6).tolist(), weights._asdict()),
        "signature": control.signature(parts.panel, parts.watch)._asdict(),
    }
    return Row(tuners.of_agent(controller(config, parts, name, record), trial=True), steps * each, record)


def learned(run: str, family: str, name: str) -> Mapping[str, Any]:
    """Return the result of the cell of a run in which a row has learned.

    Raises:
        ValueError: there is no such run, or it has not.
    """
    there = models.results(Path(run)).get(f"{family}-{name}", {})
    if "weights" not in there:
        why = there.get("stopped", "is not done")
        raise ValueError(f"{run}: {TITLES[name]} has not learned there, {family}-{name}: {why}")
    return there


def learner(
    config: Config, environment: Environment, name: str, steps: int
) -> tuple[Program, Callable[[Any], NamedTuple]]:
    """Return the program that learns a policy, and what reads its weights off a state."""
    if name == "schedule":
        optimiser = optax.adam(config.evolution_rate)
        return tuners.schedule(environment, optimiser, pairs=config.trials, steps=steps), lambda state: state[0]
    options = rl2.Config(
        hidden=config.hidden,
        trials=config.trials,
        trace=0.9,
        entropy_weight=optax.linear_schedule(config.entropy, 0.0, steps),
        span=2,  # as it was measured; `bandit_rl2` learns sooner with the whole trial
    )
    rate = optax.linear_schedule(config.rate, 0.0, steps * options.epochs * options.minibatches)
    mine = rl2.rl2(environment, optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate)), options)
    return rl2.program(mine, steps=steps), lambda state: state.params


def controller(config: Config, parts: Family, name: str, record: Mapping[str, Any]) -> Agent:
    """Return the agent that was recorded, which acts in trials.

    Raises:
        ValueError: it was trained for other observations or actions than these.
    """
    trained = control.Signature(**{kind: tuple(names) for kind, names in record["signature"].items()})
    control.require_same(trained, control.signature(parts.panel, parts.watch))
    environment = trial(parts.environments["train"], config.episodes)
    weights = {part: jnp.asarray(value) for part, value in record["weights"].items()}
    if name == "schedule":
        return tuners.linear_agent(environment, tuners.Linear(**weights))
    return rl2.rl2(environment, optax.identity(), rl2.Config(hidden=len(weights["value"]))).agent(
        rl2.Weights(**weights)
    )


def driver(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Controller:
    """Return what RL² has learned, on the first of the sets on which it has, as what drives the training of any GAN.

    Raises:
        ValueError: it has learned nothing yet.
    """
    learned = [family for family in config.sets if "weights" in results.get(f"{family}-rl2", {})]
    if not learned:
        cells = " or ".join(f"{family}-rl2" for family in config.sets)
        raise ValueError(
            f"RL² has not learned to control: a study with the cell {cells}, finished and not stopped, has"
        )
    parts = FAMILIES[learned[0]](config)
    agent = controller(config, parts, "rl2", results[f"{learned[0]}-rl2"])
    low, high = parts.limits
    return Controller(agent, parts.panel, parts.watch, math.log(high / low), config.horizon)


def balanced(config: Config, parts: Family) -> Row:
    """Return the controller of the losses' gap, at the best of its gains on tasks to learn from."""
    environment = parts.environments["train"]
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), CHOOSE), config.tested)

    def final(tuner: Tuner) -> float:
        def one(key: Key) -> Array:
            draw_key, run_key = jax.random.split(key)
            return tuners.follow(environment, tuner, run_key, environment.draw(draw_key)).score[-1, -1]

        return float(jax.jit(jax.vmap(one))(keys).mean())

    made = {gain: tuners.balance(parts.panel, BALANCED, LOSSES, gain) for gain in config.gains}
    best = min(made, key=lambda gain: final(made[gain]))
    spent = len(made) * config.tested * config.horizon * config.updates
    return Row(made[best], spent, {"gain": best})


def replayed(config: Config, parts: Family, there: Mapping[str, Any]) -> Row:
    """Return the schedule of what RL² does on the mean over tasks to learn from, in a first training.

    What RL² gains over it comes from what it sees, and what both gain over the defaults from the schedule.
    """
    environment, tuner = (
        parts.environments["train"],
        tuners.of_agent(controller(config, parts, "rl2", there), trial=True),
    )

    def one(key: Key) -> Array:
        draw_key, run_key = jax.random.split(key)
        course = tuners.follow(environment, tuner, run_key, environment.draw(draw_key))
        return jax.vmap(partial(control.places, parts.panel))(course.numbers[0])

    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), CHOOSE), config.tested)
    mean = jax.jit(jax.vmap(one))(keys).mean(axis=0)
    schedule = jax.vmap(partial(control.at, parts.panel))(mean)
    spent = config.tested * config.horizon * config.updates
    return Row(tuners.setting(lambda first, episode: schedule[episode.step]), there["before"] + spent)


def per_task(config: Config, name: str) -> int:
    """Return how many updates of GANs a row spends on a new task, the training that is scored included."""
    count = dict.fromkeys(SEARCHES, int(np.prod(config.lattice)) * config.repeats + 1)
    count |= {"population": config.members, "rl2": config.episodes}
    return count.get(name, 1) * config.horizon * config.updates


def test(config: Config, parts: Family, name: str, tuner: Tuner | None) -> Mapping[str, Any]:
    """Tune GANs on the unseen tasks of each set.

    They are the same for all rows, and so is the luck of the training that is scored.
    """
    environment = parts.environments["train"]  # all differ in what they draw alone: one program serves them
    panel = parts.panel
    points = dict(zip((*RATES, "beta1", "penalty", "d_steps"), config.lattice, strict=False))

    def searched(key: Key, start: Start) -> Tuner:
        draw_key, search_key = jax.random.split(key)
        candidates = tuners.grid(panel, points)
        if name == "random":
            candidates = tuners.random(panel, draw_key, len(candidates))
        return tuners.constant(tuners.search(environment, candidates, search_key, start, config.repeats).numbers)

    def one(key: Key, start: Start) -> dict[str, Array]:
        search_key, run_key = jax.random.split(key)
        if name == "population":
            found = tuners.population(environment, panel, run_key, start, config.members)
            best = jnp.argmin(found.score[1:], axis=1)
            numbers = jnp.take_along_axis(found.numbers, best[:, None, None], axis=1)[:, 0]
            # The best is chosen by its score: what it comes to, other samples tell.
            winner = jax.tree.map(lambda x: x[best[-1]], found.final)
            again = parts.judge(control.hyper(panel, winner.numbers), search_key, winner.learner, start.task.query)
            score = found.score.min(axis=1).at[-1].set(jnp.clip(again, *parts.limits))
            return {"score": score[None], "numbers": numbers[None]}
        mine = searched(search_key, start) if tuner is None else tuner
        found = tuners.follow(environment, mine, run_key, start, config.episodes if name == "rl2" else 1)
        return {"score": found.score, "numbers": found.numbers, "clipped": found.clipped}

    # One task after another where each is many trainings.
    mapped = jax.jit(jax.vmap(one) if tuner is not None else lambda *all_of: lax.map(lambda each: one(*each), all_of))
    draw_key, run_key = jax.random.split(jax.random.fold_in(jax.random.key(0), TEST))
    draw_keys, run_keys = (jax.random.split(key, config.tested) for key in (draw_key, run_key))
    return {
        title: described(parts, jax.tree.map(np.asarray, mapped(run_keys, jax.vmap(each.draw)(draw_keys))))
        for title, each in parts.environments.items()
        if title != "train"
    }


def described(parts: Family, found: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
    """Return what is kept of the trainings on the tasks of a set, episode by episode."""
    rates = np.exp(np.log(found["numbers"][..., :2]).mean(axis=0))  # [E, L, 2], geometric means over tasks
    return {
        "score": np.round(found["score"].astype(float), 5).tolist(),  # [tested, E, L + 1]
        "rates": [[[float(f"{rate:.4g}") for rate in step] for step in episode] for episode in rates],
        "clipped": int(found["clipped"].sum()) if "clipped" in found else None,
        "collapsed": int((found["score"][..., -1] >= parts.limits[1]).sum()),
    }


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return a table for each set, scores along training, and what tuners do to the rates."""
    text, curves = [], {}
    for family in config.sets:
        done = {name: results.get(f"{family}-{name}", {}) for name in config.tuners}
        titles = next((list(result["tested"]) for result in done.values() if "tested" in result), [])
        for title in titles or ["pending"]:
            rows = {}
            for name, result in done.items():
                if "tested" in result:
                    rows |= rows_of(name, result, title)
            text += [*table(config, f"{family}, {title}", done, rows, LIMITS[family][1]), ""]
            if rows:
                curves[f"{family}, {title}"] = rows
    return Report("\n".join(text), {"training": figure(config, curves)} if curves else {})


class Line(NamedTuple):
    """A row of a table: scores [tested, L + 1], mean rates [L, 2], updates on a new task and before it.

    clipped: turns beyond a bound, in all episodes; None where they were not counted.
    """

    score: np.ndarray
    rates: np.ndarray
    task: int
    before: int
    clipped: int | None = None


def rows_of(name: str, result: Mapping[str, Any], title: str) -> dict[str, Line]:
    """Return a cell's rows by their titles: RL² has two, of its first episode and its last."""
    tested = result["tested"][title]
    score, rates = np.array(tested["score"]), np.array(tested["rates"])
    count = score.shape[1]
    last = Line(score[:, -1], rates[-1], result["task"], result["before"], tested["clipped"])
    first = {FIRST: Line(score[:, 0], rates[0], result["task"] // count, result["before"])} if count > 1 else {}
    return first | {TITLES[name]: last}


def table(
    config: Config, title: str, done: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Line], limit: float
) -> list[str]:
    """Return the table of a set; a score at its limit is a training that has collapsed."""
    steps = config.horizon * config.updates
    count = "one training" if config.repeats == 1 else f"{config.repeats} trainings"
    text = [
        f"## {title}",
        "",
        f"After {steps:,} updates, over {config.tested} unseen tasks: energy distance, mean ± 95 % interval, median; "
        f"collapsed trainings, whose score is {limit:g}; regret of the means, (score - best)/(defaults - best), with "
        "a 95 % interval by bootstrap over tasks, where best is the best of the grid's "
        f"{int(np.prod(config.lattice))} points in {count} of each, trained again from another seed"
        + (", all with one step of the discriminator to an update" if len(config.lattice) < 5 else "")
        + f"; updates of the scored training until the defaults' final score, the mean over tasks, {steps:,} where it "
        "is not reached, and in how many: what was searched for before counts in the next column alone, and of a "
        "population it is the best member's; updates of GANs on a new task, the scored training included, and before "
        "it; how often a dial was turned beyond its bound and clipped, in all trainings of a row. An update has one "
        f"step of the generator and 1 to {config.d_steps} of the discriminator."
        + (" What is learned was learned on mixtures." if config.learned else ""),
        "",
        "| tuner | score | median | collapsed | regret, % | updates to the defaults' score | reached "
        "| updates on a task | before | clipped |",
        "| --- |" + " ---: |" * 9,
    ]
    default, best = (rows.get(TITLES[name]) for name in ("constant", "grid"))
    for name, row in rows.items():
        final = row.score[:, -1]
        regret, reach = "", ["", ""]
        if default is not None:
            regret = "" if best is None else _regret(final, default.score[:, -1], best.score[:, -1])
            first, reached = reaching(row.score, default.score[:, -1], config.updates)
            reach = [f"{first.mean():.0f} ± {interval(first):.0f}", f"{reached.mean():.0%}"]
        score = [f"{final.mean():.4f} ± {interval(final):.4f}", f"{np.median(final):.4f}", str((final >= limit).sum())]
        clipped = "" if row.clipped is None else f"{row.clipped}"
        entries = [*score, regret, *reach, f"{row.task:,}", f"{row.before:,}", clipped]
        text.append(f"| {name} | {' | '.join(entries)} |")
    missing = [name for name, result in done.items() if "tested" not in result]
    return text + [f"| {TITLES[name]} | {done[name].get('stopped', 'pending')} |" + " |" * 8 for name in missing]


def reaching(score: np.ndarray, target: np.ndarray, updates: int) -> tuple[np.ndarray, np.ndarray]:
    """Return after how many updates each task's score [tested, L + 1] is first at its target or below, and whether."""
    below = score <= target[:, None]
    reached = np.asarray(below.any(axis=1))
    return np.where(reached, below.argmax(axis=1), score.shape[1] - 1) * updates, reached


def _regret(final: np.ndarray, default: np.ndarray, best: np.ndarray) -> str:
    """The regret of the means in per cent, and its interval; none where the defaults are not worse than the best.

    Resampled tasks of which the defaults are no worse have none either: the interval is of the others, and says so.
    """

    def ratio(place: np.ndarray) -> np.ndarray:
        gap = (default - best)[place].mean(axis=-1)
        return 100 * (final - best)[place].mean(axis=-1) / np.where(gap > 0, gap, np.nan)

    everything = np.arange(len(final))
    drawn = np.random.default_rng(0).integers(len(final), size=(RESAMPLES, len(final)))
    value, resampled = ratio(everything), ratio(drawn)
    if np.isnan(value):
        return "none: the defaults are no worse"
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    without = np.isnan(resampled).mean()
    rest = f"; none in {without:.0%} of resamples" if without else ""
    return f"{value:z.0f} ({low:z.0f} to {high:z.0f}{rest})"


def figure(config: Config, curves: Mapping[str, Mapping[str, Line]]) -> Any:
    """Return scores along training for each set, and the rates that each tuner trains at."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(11, 3.2 * len(curves)), layout="constrained")
    axes = drawn.subplots(len(curves), 3, squeeze=False)
    colours = dict(zip(TITLES.values(), (*(f"C{i}" for i in range(10)), "black"), strict=True))
    colours[FIRST] = colours[TITLES["rl2"]]
    for (title, rows), line in zip(curves.items(), axes, strict=True):
        for name, row in rows.items():
            look = {"color": colours[name], "linestyle": ":" if name == FIRST else "-", "label": name}
            updates = np.arange(config.horizon + 1) * config.updates
            line[0].plot(updates, row.score.mean(axis=0), **look)
            for ax, rates in zip(line[1:], row.rates.T, strict=True):
                ax.step(updates[:-1], rates, where="post", **look)
        line[0].set_title(title, fontsize=9)
        for ax, what in zip(line, ("energy distance", "generator's rate", "discriminator's rate"), strict=True):
            ax.set(yscale="log", xlabel="updates", ylabel=what)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7)
    return drawn
