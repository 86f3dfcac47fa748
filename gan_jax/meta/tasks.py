"""Distributions of tasks, streams of tasks whose distribution moves, and what a stream makes a learner forget.

A distribution draws one task of a key, inside jit and under vmap. Support and query are independent points of what
is sampled, and different images where there are only so many.

Those of `TASKS` are sampled and take shots and queries; those of `IMAGE_TASKS` take the images of classes before them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from gan_jax.arithmetic import require_counts, require_positive
from gan_jax.base import Batch, Batches, Key, Task
from gan_jax.data import mixtures
from gan_jax.data.episodes import Grouped, examples, on_device, require
from gan_jax.data.mixtures import Mixture

Range = tuple[float, float]


class Tasks(NamedTuple):
    """A distribution of tasks.

    arrays: what is kept on the device; {} where tasks are sampled.
    draw: `(arrays, key) -> task`, one of them: leaves [K, ...].
    """

    arrays: Any
    draw: Callable[[Any, Key], Task]


class Stream(NamedTuple):
    """One task after another, as a function of (key, time): any of them can be drawn again, bit for bit.

    The key is the stream's and tells one from another; time counts 0, 1, 2, ... Under vmap over keys this draws as
    many streams at once, and `Batches(*stream)` is one of them.

    arrays: what is kept on the device; {} where tasks are sampled.
    draw: `(arrays, key, time) -> task`: leaves [K, ...].
    """

    arrays: Any
    draw: Callable[[Any, Key, Int[Array, ""] | int], Task]


def sample(tasks: Tasks, key: Key, count: int) -> Task:
    """Return `count` independent tasks, stacked: leaves [count, K, ...]. The i-th is that of the i-th split key."""
    return jax.vmap(tasks.draw, in_axes=(None, 0))(tasks.arrays, jax.random.split(key, count))


def batches(tasks: Tasks, count: int) -> Batches:
    """Return the endless stream of `count` stacked tasks a step: what a meta-learner is fed with.

    Raises:
        ValueError: `count` is less than 1.
    """
    if count < 1:
        raise ValueError(f"a step draws {count} tasks: it takes at least 1")

    def draw(arrays: Any, key: Key, step: Array) -> Task:
        return sample(tasks._replace(arrays=arrays), jax.random.fold_in(key, step), count)

    return Batches(tasks.arrays, draw)


# The stream of what draws all that it learns from by itself.
NOTHING = Batches({}, lambda arrays, key, step: {})


def sinusoids(
    shots: int = 10,
    queries: int = 10,
    *,
    amplitude: Range = (0.1, 5.0),
    phase: Range = (0.0, math.pi),
    inputs: Range = (-5.0, 5.0),
) -> Tasks:
    """Regress y = A sin(x − φ) from a few points: batches {"x": [K, 1], "y": [K, 1]}.

    A and φ are uniform over the ranges `amplitude` and `phase`, and so is x over `inputs` for each point. Under the
    defaults, which are Finn et al.'s, predicting 0 has a mean squared error of E[A²] / 2 = 4.2517.

    Raises:
        ValueError: no shots or queries, or a range that is not finite or ends before it begins.

    Finn et al. 2017 (arXiv 1703.03400).
    """
    require_counts(shots=shots, queries=queries)
    _require_ranges(amplitude=amplitude, phase=phase, inputs=inputs)

    def draw(_: Any, key: Key) -> Task:
        amplitude_key, phase_key, input_key = jax.random.split(key, 3)
        x = _uniform(input_key, inputs, (shots + queries, 1))
        y = _uniform(amplitude_key, amplitude) * jnp.sin(x - _uniform(phase_key, phase))
        return _parted({"x": x, "y": y}, shots)

    return Tasks({}, draw)


def scattered(
    key: Key,
    modes: int = 3,
    *,
    reach: float | Array = 2.0,
    std: Range = (0.1, 0.3),
    turns: float | Array = 0.0,
) -> Mixture:
    """Return a mixture of random shape: `modes` centres uniform over the square ±reach, one deviation over `std`.

    With `turns` the centres move at constant speeds, each coordinate of each at one of its own, and are thrown back
    by the square's sides: a path goes from one side to the other and back in one to two turns. At any one time
    they are where they might be at any other: uniform over the square and independent. What changes is continuous
    in `turns`: no coordinate moves by more than 4·reach in a turn.
    """
    place_key, speed_key, std_key = jax.random.split(key, 3)
    start = jax.random.uniform(place_key, (modes, 2))
    speed = _uniform(speed_key, (0.5, 1.0), (modes, 2))
    # A triangle wave of a uniform phase is uniform, where a sine would stay near the sides.
    wave = 2 * jnp.abs(2 * ((start + speed * turns) % 1.0) - 1) - 1
    return Mixture("scattered", reach * wave, _uniform(std_key, std))


def blobs(shots: int = 32, queries: int = 32, *, modes: int = 3, reach: float = 2.0, std: Range = (0.1, 0.3)) -> Tasks:
    """Learn a mixture of Gaussians in the plane, of random shape (`scattered`): batches {"x": [K, 2]}.

    `modes`, `reach` and `std` are as `scattered` takes them.

    Raises:
        ValueError: no shots, queries or modes, a reach that is not positive and finite, or a range of deviations that
            is not so or ends before it begins.
    """
    require_counts(shots=shots, queries=queries)
    _require_scattered(modes, reach, std)

    def draw(_: Any, key: Key) -> Task:
        shape_key, point_key = jax.random.split(key)
        return _points(scattered(shape_key, modes, reach=reach, std=std), point_key, shots, queries)

    return Tasks({}, draw)


def classes(grouped: Grouped, shots: int, queries: int) -> Tasks:
    """Learn to generate one class, which is drawn uniformly: batches {"image": [K, H, W, C]} in [-1, 1].

    Raises:
        ValueError: no shots or queries, or a class of fewer images than both together.
    """
    total = len(_required(grouped, shots, queries).label)

    def draw(arrays: Mapping[str, Array], key: Key) -> Task:
        class_key, image_key = jax.random.split(key)
        return of_class(arrays, image_key, jax.random.randint(class_key, (), 0, total), shots, queries)

    return Tasks(on_device(grouped), draw)


def of_class(arrays: Mapping[str, Array], key: Key, row: Int[Array, ""] | int, shots: int, queries: int) -> Task:
    """Return the task of a given class, by its row in the table: what `classes` draws one of.

    `arrays` are those of `episodes.on_device`; that the class has enough images, `shots` and `queries` together, is for
    the caller to `require`.
    """
    return _parted({"image": examples(arrays, key, row, shots + queries)}, shots)


def episodes(grouped: Grouped, shots: int, queries: int, *, ways: int = 5) -> Tasks:
    """Tell `ways` classes apart: batches {"image": [N·K, H, W, C] in [-1, 1], "label": [N·K]}, ways N, shots K.

    The classes are different ones, drawn uniformly and called 0, ..., N - 1 in random order. Support and query are
    K images of each, label after label.

    Raises:
        ValueError: no shots or queries, fewer than 2 ways or more than there are classes, or a class of fewer images
            than shots and queries together.

    Vinyals et al. 2016 (arXiv 1606.04080).
    """
    total = len(_required(grouped, shots, queries).label)
    if not 2 <= ways <= total:
        raise ValueError(f"{ways} ways of the {total} classes of {grouped.name!r}: tell between 2 and {total} apart")

    def draw(arrays: Mapping[str, Array], key: Key) -> Task:
        class_key, image_key = jax.random.split(key)
        chosen = jax.random.choice(class_key, total, (ways,), replace=False)
        draw_class = jax.vmap(lambda key, row: of_class(arrays, key, row, shots, queries))
        drawn = draw_class(jax.random.split(image_key, ways), chosen)
        return Task(*(_labelled(part["image"]) for part in drawn))

    return Tasks(on_device(grouped), draw)


TASKS = {f.__name__: f for f in (sinusoids, blobs)}
IMAGE_TASKS = {f.__name__: f for f in (classes, episodes)}


def turning(mixture: Mixture, shots: int, queries: int, *, period: float = 1000.0) -> Stream:
    """Follow a mixture that turns about the origin, once in `period` tasks: batches {"x": [K, 2]}, fresh each time.

    Raises:
        ValueError: no shots or queries, or a period that is not positive and finite.
    """
    require_counts(shots=shots, queries=queries)
    require_positive(period=period)

    def draw(_: Any, key: Key, time: Int[Array, ""] | int) -> Task:
        angle = 2 * math.pi * (time / period)
        (x, y), cosine, sine = mixture.centres.T, jnp.cos(angle), jnp.sin(angle)
        # Not a matrix product, which a TPU would round to bfloat16.
        turned = jnp.stack([cosine * x - sine * y, sine * x + cosine * y], axis=1)
        return _points(mixture._replace(centres=turned), jax.random.fold_in(key, time), shots, queries)

    return Stream({}, draw)


def drifting(
    shots: int = 32,
    queries: int = 32,
    *,
    modes: int = 3,
    reach: float = 2.0,
    std: Range = (0.1, 0.3),
    period: float = 1000.0,
) -> Stream:
    """Follow a mixture of `blobs` whose centres drift, one turn of `scattered` in `period` tasks: {"x": [K, 2]}.

    At any one time this is a task of `blobs`. Points are fresh each time.

    Raises:
        ValueError: as `blobs` does, or a period that is not positive and finite.
    """
    require_counts(shots=shots, queries=queries)
    _require_scattered(modes, reach, std)
    require_positive(period=period)

    def draw(_: Any, key: Key, time: Int[Array, ""] | int) -> Task:
        shape_key, point_key = jax.random.split(key)
        mixture = scattered(shape_key, modes, reach=reach, std=std, turns=time / period)
        return _points(mixture, jax.random.fold_in(point_key, time), shots, queries)

    return Stream({}, draw)


def sequence(tasks: Tasks) -> Stream:
    """Return independent tasks of a distribution, one after another."""
    return Stream(tasks.arrays, lambda arrays, key, time: tasks.draw(arrays, jax.random.fold_in(key, time)))


def one_by_one(grouped: Grouped, shots: int, queries: int) -> Stream:
    """Return `classes` one after another in random order: each comes once before any comes again, in the same order.

    Raises:
        ValueError: as `classes` does.
    """
    total = len(_required(grouped, shots, queries).label)

    def draw(arrays: Mapping[str, Array], key: Key, time: Int[Array, ""] | int) -> Task:
        order_key, image_key = jax.random.split(key)
        # Classes are few: `data.order` is for many examples, and among six it prefers some by a tenth.
        row = jax.random.permutation(order_key, total)[time % total]
        return of_class(arrays, jax.random.fold_in(image_key, time), row, shots, queries)

    return Stream(on_device(grouped), draw)


class Retention(NamedTuple):
    """What learning one task after another comes to, in the units of the scores.

    learned: the mean score of a task right after it was learned.
    final: the mean score of all tasks after the last.
    forgetting: how much worse the tasks before the last are in the end than they were at their best, on average.
    """

    learned: float
    final: float
    forgetting: float


def forgetting(scores: Float[np.ndarray, "T T"] | Sequence[Sequence[float]]) -> Retention:
    """Return how well T tasks were learned one after another, and how much of them was lost.

    scores[i, j] is how task j is done after task i was learned, lower is better; what lies above the diagonal is not
    read. Forgetting is the mean over j < T - 1 of

        scores[T - 1, j] − min over j ≤ i < T - 1 of scores[i, j],

    negative where the last task made earlier ones better than they ever were. Of `scores[:t, :t]` it is that after t
    tasks. A score that is not finite makes what it enters so.

    Raises:
        ValueError: scores that are no square matrix, or of fewer than two tasks.

    Chaudhry et al. 2018 (arXiv 1801.10112), for accuracies, where the best is also taken over times before j.
    """
    matrix = np.asarray(scores, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"scores have the shape {matrix.shape}: give [T, T] of at least 2 tasks")
    best = [matrix[task:-1, task].min() for task in range(len(matrix) - 1)]
    with np.errstate(invalid="ignore"):  # what diverged both times is lost by inf − inf
        lost = matrix[-1, :-1] - best
    return Retention(float(np.diag(matrix).mean()), float(matrix[-1].mean()), float(lost.mean()))


def _parted(batch: Batch, shots: int) -> Task:
    return Task(jax.tree.map(lambda leaf: leaf[:shots], batch), jax.tree.map(lambda leaf: leaf[shots:], batch))


def _points(mixture: Mixture, key: Key, shots: int, queries: int) -> Task:
    return _parted({"x": mixtures.sample(mixture, key, (shots + queries,))}, shots)


def _labelled(image: Float[Array, "N K H W C"]) -> Batch:
    """Name classes by their place, and make one batch of them."""
    ways, shots = image.shape[:2]
    return {"image": image.reshape(-1, *image.shape[2:]), "label": jnp.repeat(jnp.arange(ways), shots)}


def _uniform(key: Key, limits: Range, shape: tuple[int, ...] = ()) -> Array:
    low, high = limits
    return jax.random.uniform(key, shape, minval=low, maxval=high)


def _require_ranges(**ranges: Range) -> None:
    for name, (low, high) in ranges.items():
        if not -math.inf < low <= high < math.inf:
            raise ValueError(f"{name}=({low}, {high}) is no range: give two finite numbers, the smaller first")


def _require_scattered(modes: int, reach: float, std: Range) -> None:
    require_counts(modes=modes)
    _require_ranges(std=std)
    require_positive(reach=reach, std=std[0])


def _required(grouped: Grouped, shots: int, queries: int) -> Grouped:
    require_counts(shots=shots, queries=queries)
    require(grouped, shots + queries)
    return grouped
