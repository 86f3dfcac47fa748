"""The contracts: the words in which every other module speaks, and nothing else.

Everything is a differentiable two-player game, and a `Pair` holds one of anything for each
player. A pair of parameters is a pytree: the joint point of the game. An update rule maps a
point of a game to the next one; it knows losses and optimisers, and nothing of images.

Letters for shapes, here and everywhere: `B` batch, `H W C` images (channels last), `T` tasks,
`K` shots, `N` ways, `L` steps of a trajectory. Pixels lie in [-1, 1].
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from jax import Array
from jaxtyping import Float

T = TypeVar("T")

Key = Array  # a typed key: jax.random.key
Params = Any  # a pytree that is differentiated
Stats = Any  # a pytree that is carried: running moments, power-iteration vectors
State = Any  # a pytree that a step takes and returns
Hyper = Any  # a pytree of numbers: both rates, beta1, penalty weights, smoothing
Batch = Mapping[str, Array]  # "image" [B, H, W, C] or "x" [B, ...], optional "label" [B]; {} without data
Metrics = Mapping[str, Array]  # scalars, named "player/quantity"


class Pair(NamedTuple, Generic[T]):
    """One of anything for each player: parameters, stats, losses, optimisers, networks."""

    generator: T
    discriminator: T


class Network(NamedTuple):
    """A network as two pure functions over pytrees.

    init: `key -> (params, stats)`.
    apply: `(params, stats, *inputs, label=None, train, key=None) -> (outputs, stats)`.
    """

    init: Callable[[Key], tuple[Params, Stats]]
    apply: Callable[..., tuple[Any, Stats]]


class Objective(NamedTuple):
    """What the players minimise, as functions of (real [B], fake [B]) logits to [B].

    The mean over the batch is the caller's.
    """

    generator: Callable[[Float[Array, " B"], Float[Array, " B"]], Float[Array, " B"]]
    discriminator: Callable[[Float[Array, " B"], Float[Array, " B"]], Float[Array, " B"]]


@runtime_checkable
class Regularizer(Protocol):
    """A penalty on the critic, per example: `(key, critic, real, fake) -> [B]`.

    `critic` maps a batch of inputs [B, ...] to logits [B].
    """

    def __call__(self, key: Key, critic: Callable[[Array], Array], real: Array, fake: Array) -> Array: ...


@runtime_checkable
class Loss(Protocol):
    """A player's loss: `(params, stats, key, batch) -> (scalar, (stats, metrics))`.

    The stats of both players are threaded and the metrics are returned by every loss, so that
    no second family of functions exists for losses without them.
    """

    def __call__(
        self, params: Pair[Params], stats: Pair[Stats], key: Key, batch: Batch
    ) -> tuple[Array, tuple[Pair[Stats], Metrics]]: ...


class Game(NamedTuple):
    """Two losses, and apart from them two penalties.

    Penalties are apart so that a rule can add one every n-th step, times n. A penalty is called
    with the key of the loss that it is added to: it sees the same fakes.

    axis_name: of the mapped axis along whose devices the batch is divided; None where the batch is all there is.
        Each device calls the losses on its own share, with keys of its own, and gradients are means over the axis.
    slices: into how many parts a batch is cut that are differentiated one after another; gradients are their means.
    """

    losses: Pair[Loss]
    penalties: Pair[Loss | None] = Pair(None, None)
    axis_name: str | None = None
    slices: int = 1


class Point(NamedTuple):
    """Where a game stands.

    params, stats: a tree for each player.
    rule: what the update rule carries: optimiser states, counters, previous gradients.
    """

    params: Pair[Params]
    stats: Pair[Stats]
    rule: Any


class UpdateRule(NamedTuple):
    """A map from a point of a game to the next.

    batches: how many independent batches one step consumes; a batch's leaves are [batches, B, ...].
    init: `params -> rule state`.
    step: `(game, key, point, batch) -> (point, metrics)`.
    """

    batches: int
    init: Callable[[Pair[Params]], Any]
    step: Callable[[Game, Key, Point, Batch], tuple[Point, Metrics]]


class Learner(NamedTuple):
    """Anything that takes a step and can be judged: what meta-learning works on.

    hyper: the defaults.
    init: `(hyper, key, params=None) -> state`, at these parameters or else at fresh ones; whatever else a state
        carries (statistics, optimisers, averages) begins anew.
    step: `(hyper, key, state, batch) -> (state, metrics)`. loss: `(hyper, key, state, batch) -> scalar`.
    get_params, set_params: read the parameters of a state, and replace them and nothing else.
    """

    hyper: Hyper
    init: Callable[..., State]
    step: Callable[[Hyper, Key, State, Batch], tuple[State, Metrics]]
    loss: Callable[[Hyper, Key, State, Batch], Array]
    get_params: Callable[[State], Params]
    set_params: Callable[[State, Params], State]


class Task(NamedTuple):
    """What is learned from, [K, ...], and what it is judged by; stacked tasks have a leading axis [T, ...]."""

    support: Batch
    query: Batch


class MetaLearner(NamedTuple):
    """What learns over a distribution of tasks how to learn one of them.

    init: `key -> state`.
    meta_step: `(key, state, tasks) -> (state, metrics)` with tasks stacked [T, ...].
    adapt: `(key, state, support, ...) -> adapted`, which has learned the task.
    """

    init: Callable[[Key], State]
    meta_step: Callable[[Key, State, Task], tuple[State, Metrics]]
    adapt: Callable[..., Any]


class Environment(NamedTuple):
    """A distribution of tasks to act in; every function is of one of them, pure, and vmapped by the caller.

    It is gymnax's contract, but for the order of arguments, the parameters drawn by the environment itself, several
    heads to an action, and no dictionary of what is not observed.

    draw: `key -> parameters` of a task.
    reset: `(key, parameters) -> (observation [D], state)`, the beginning of an episode.
    step: `(key, parameters, state, action) -> (observation [D], state, reward, done)`. An action is int32 [heads],
        the reward a floating and `done` a boolean scalar. What follows the end of an episode is the caller's.
    choices: of how many each head of an action chooses. observation: the width D, which may be 0.
    horizon: how many steps an episode has at most.
    """

    draw: Callable[[Key], Any]
    reset: Callable[[Key, Any], tuple[Array, State]]
    step: Callable[[Key, Any, State, Array], tuple[Array, State, Array, Array]]
    choices: tuple[int, ...]
    observation: int
    horizon: int


class Batches(NamedTuple):
    """A stream of batches that is a function of (key, step), so that a run can resume exactly.

    arrays: what is kept on the device, put there when training begins; {} where batches are sampled.
    draw: `(arrays, key, step) -> batch` with leaves [batches, B, ...], inside the compiled step; for a meta-learner,
        tasks with leaves [T, K, ...].
    """

    arrays: Any
    draw: Callable[[Any, Key, Array], Any]


class Adapter(NamedTuple):
    """How a meta-learned generator of images is adapted.

    draw: `(key, state, support, steps, n) -> samples [n, H, W, C]`, after so many steps on "image" [K, H, W, C].
    shape: (H, W, C). steps: how many it was learned for.
    data: the name of the image set that it was learned on.
    """

    draw: Callable[[Key, State, Batch, int, int], Array]
    shape: tuple[int, int, int]
    steps: int
    data: str


class Tunable(NamedTuple):
    """A program as a function of its hyperparameters, for what turns them while it trains.

    hyper: the defaults. step: `(hyper, key, state, batch) -> (state, metrics)`.
    game: `(hyper, state) -> (game, point)`.
    sample: `(key, state, n) -> [n, ...]`, from the generator as it stands.
    """

    hyper: Hyper
    step: Callable[[Hyper, Key, State, Any], tuple[State, Metrics]]
    game: Callable[[Hyper, State], tuple[Game, Point]]
    sample: Callable[[Key, State, int], Array]


class Program(NamedTuple):
    """What the training loop runs: a GAN, a classifier, a meta-learner.

    init: `key -> state`. step: `(key, state, batch) -> (state, metrics)`; a meta-learner's batch is a Task, stacked.
    batches: what a step is fed with.
    observe: `(key, state) -> batch` of what a person would look at ("image" or "x"), or {}.
    sample: `(key, state, n, label, frames=1) -> samples [n, ...]`, in rows of so many frames that go from one latent
        to another if they are more than one; None where there is nothing to sample.
    measure: `(key, state, n) -> the measured half of a metric card`, plain Python values.
    score: `(key, state) -> named numbers`, cheap enough for every few hundred steps; the first is a distance, lower is
        better, by which a run is stopped. None where there is none.
    game: `state -> (game, point)`, what diagnostics probe; None for what is no game.
    adapter: of a meta-learned generator of images; None for what does not adapt.
    tunable: what a controller turns; None for what has no hyperparameters that could change while it trains.
    steps: how long it is trained unless the caller says otherwise.
    chunk: how many steps make one compiled call (1 where convolutions would run inside a scan).
    """

    init: Callable[[Key], State]
    step: Callable[[Key, State, Any], tuple[State, Metrics]]
    batches: Batches
    observe: Callable[[Key, State], Batch]
    sample: Callable[..., Array] | None = None
    measure: Callable[[Key, State, int], Mapping[str, Any]] | None = None
    score: Callable[[Key, State], Mapping[str, float]] | None = None
    game: Callable[[State], tuple[Game, Point]] | None = None
    adapter: Adapter | None = None
    tunable: Tunable | None = None
    steps: int = 1000
    chunk: int = 1


class Report(NamedTuple):
    """What a study comes to: a text in Markdown, and figures (matplotlib's) by name."""

    text: str
    figures: Mapping[str, Any] = {}  # read only


class Study(NamedTuple):
    """Named cells that are computed one by one and kept, and what is made of them.

    cells: each `directory -> result`, plain JSON values. The directory is the cell's own, for what it must
        keep to go on after an interruption.
    report: `results -> Report`, of the finished cells by name, however few.
    controller: `results -> meta.control.Controller` for the training of GANs; None for a study that learns none.
    """

    cells: Mapping[str, Callable[[Path], Mapping[str, Any]]]
    report: Callable[[Mapping[str, Mapping[str, Any]]], Report]
    controller: Callable[[Mapping[str, Mapping[str, Any]]], Any] | None = None


class Continue(NamedTuple):
    """A hook's word that training goes on."""


class Stop(NamedTuple):
    """A hook's word that training ends: why, and the command's exit code (0 done, 3 alarm, 75 interrupted)."""

    reason: str
    code: int = 0


class Hook(NamedTuple):
    """What is called between chunks, at the first boundary at or past every `every` steps, and after the last step.

    run: `(step, state, metrics) -> Continue | Stop`, where `step` counts the steps done and `metrics` are the means
        over the last chunk, still on the device.
    """

    every: int
    run: Callable[[int, State, Metrics], Continue | Stop]
