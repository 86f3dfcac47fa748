"""Laws of tasks: what one is made of, that draws are fair and repeat, how streams move, what forgetting measures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.data import episodes, images, mixtures
from gan_jax.data.images import Split
from gan_jax.meta import tasks
from gan_jax.testing import keys

SHOTS, QUERIES = 3, 5
SIZES = [8, 20, 11, 9, 8, 30]  # of the classes below


def toy():
    """Return six classes whose images hold two bytes: the class and the position in it."""
    label = np.repeat(np.arange(6, dtype=np.int32), SIZES)
    pixels = np.stack([label, np.concatenate([np.arange(size) for size in SIZES])], axis=1)
    return episodes.group(Split("toy", pixels[:, None, :, None].astype(np.uint8), label))


def named(image):
    """Return the classes and the positions of images of the toy."""
    pixels = np.asarray(images.to_uint8(image))[..., 0, :, 0]
    return pixels[..., 0], pixels[..., 1]


TOY = toy()
DISTRIBUTIONS = {
    **{name: build(SHOTS, QUERIES) for name, build in tasks.TASKS.items()},
    **{name: build(TOY, SHOTS, QUERIES) for name, build in tasks.IMAGE_TASKS.items()},
}
STREAMS = {
    "turning": tasks.turning(mixtures.ring(), SHOTS, QUERIES),
    "drifting": tasks.drifting(SHOTS, QUERIES),
    "sequence": tasks.sequence(DISTRIBUTIONS["blobs"]),
    "one_by_one": tasks.one_by_one(TOY, SHOTS, QUERIES),
}
every_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
every_stream = pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
LEAVES = {
    "sinusoids": {"x": (1,), "y": (1,)},
    "blobs": {"x": (2,)},
    "classes": {"image": (1, 2, 1)},
    "episodes": {"image": (1, 2, 1), "label": ()},
}


def equal(task, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), task, other)


def draw_many(tasks_, count, seed=0):
    return jax.device_get(jax.jit(lambda key: tasks.sample(tasks_, key, count))(jax.random.key(seed)))


def both(task, name="x"):
    """Return support and query in a row: [T, shots + queries, ...]."""
    return np.concatenate([task.support[name], task.query[name]], axis=1)


# Every distribution


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_task_has_its_shots_and_its_queries(name):
    ways = 5 if name == "episodes" else 1
    task = jax.eval_shape(DISTRIBUTIONS[name].draw, DISTRIBUTIONS[name].arrays, jax.random.key(0))
    for part, count in zip(task, (SHOTS * ways, QUERIES * ways), strict=True):
        assert {leaf: array.shape for leaf, array in part.items()} == {
            leaf: (count, *shape) for leaf, shape in LEAVES[name].items()
        }
        assert all(array.dtype == (jnp.int32 if leaf == "label" else jnp.float32) for leaf, array in part.items())


@pytest.mark.slow
@every_distribution
def test_batches_are_tasks_of_the_split_keys_of_a_step(distribution):
    arrays, draw = tasks.batches(distribution, 3)
    assert arrays is distribution.arrays
    draw, draw_one = jax.jit(draw), jax.jit(distribution.draw)
    key, other = jax.random.split(jax.random.key(1))
    batch = draw(arrays, key, 5)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(batch))
    for place, task_key in enumerate(jax.random.split(jax.random.fold_in(key, 5), 3)):
        equal(jax.tree.map(lambda leaf: leaf[place], batch), draw_one(arrays, task_key))  # noqa: B023
    for elsewhere in (draw(arrays, key, 6), draw(arrays, other, 5)):
        for name in set(batch.support) - {"label"}:
            assert not np.array_equal(batch.support[name], elsewhere.support[name])
    if arrays:  # those that are given are read, not those that were there at the beginning
        blank = draw({**arrays, "image": jnp.zeros_like(arrays["image"])}, key, 5)
        assert np.all(blank.support["image"] == -1) and np.all(blank.query["image"] == -1)


# Sinusoids


def test_sinusoids_are_finns():
    """Each task is fitted anew: y = a sin x + b cos x, where a = A cos φ and b = -A sin φ."""
    task = draw_many(tasks.sinusoids(), 4000)
    x, y = both(task, "x").astype(float), both(task, "y").astype(float)
    assert x.shape == (4000, 20, 1)
    basis = np.concatenate([np.sin(x), np.cos(x)], axis=2)
    weights = np.linalg.pinv(basis) @ y
    np.testing.assert_allclose(basis @ weights, y, atol=1e-4)
    amplitude = np.hypot(weights[:, 0, 0], weights[:, 1, 0])
    phase = np.arctan2(-weights[:, 1, 0], weights[:, 0, 0])
    for values, low, high in ((amplitude, 0.1, 5.0), (phase, 0.0, math.pi), (x[:, 3, 0], -5.0, 5.0)):
        assert values.min() > low - 1e-3 and values.max() < high + 1e-3
        expected = len(values) / 10
        counts, _ = np.histogram(values, 10, (low, high))
        assert abs(np.sum((counts - expected) ** 2 / expected) - 9) < 5 * np.sqrt(2 * 9)
    unrelated = np.corrcoef(np.stack([amplitude, phase, *x[:, (0, 1, -1), 0].T])) - np.eye(5)
    assert np.abs(unrelated).max() < 5 / np.sqrt(len(x))


def test_predicting_nothing_has_the_published_error():
    error = np.square(draw_many(tasks.sinusoids(), 4000).query["y"]).mean(axis=(1, 2))
    # E[A²] E[sin²(x - φ)]: the first is (5³ - .1³) / (3 · 4.9), the second ½, as φ covers a whole period of sin².
    assert abs((5**3 - 0.1**3) / (3 * 4.9) / 2 - 4.2517) < 1e-4
    assert abs(error.mean() - 4.2517) < 5 * error.std() / np.sqrt(len(error))


def test_ranges_of_sinusoids_can_be_moved():
    task = draw_many(tasks.sinusoids(4, 4, amplitude=(2.0, 2.0), phase=(1.0, 1.0), inputs=(7.0, 8.0)), 5)
    x, y = both(task, "x"), both(task, "y")
    assert x.min() >= 7 and x.max() <= 8
    np.testing.assert_allclose(y, 2 * np.sin(x - 1), atol=1e-5)


# Mixtures of random shape


def shapes(turns):
    """Return the centres [4000, 3, 2] and deviations [4000] of mixtures in ±2."""

    def one(key, turns):
        mixture = tasks.scattered(key, 3, reach=2.0, std=(0.1, 0.3), turns=turns)
        return mixture.centres, mixture.std

    return jax.device_get(jax.jit(jax.vmap(one, (0, None)))(jax.random.split(jax.random.key(3), 4000), turns))


@pytest.mark.parametrize("turns", [0.0, 0.4, 700.3])
def test_at_any_time_centres_are_uniform_over_the_square_and_independent(turns):
    centres, std = shapes(turns)
    for values, low, high in ((centres[:, 1, 0], -2, 2), (centres[:, 2, 1], -2, 2), (std, 0.1, 0.3)):
        assert low <= values.min() and values.max() <= high
        counts, _ = np.histogram(values, 10, (low, high))
        assert abs(np.sum((counts - 400) ** 2 / 400) - 9) < 5 * np.sqrt(2 * 9)
    related = np.corrcoef(np.concatenate([centres.reshape(4000, 6), std[:, None]], axis=1).T) - np.eye(7)
    assert np.abs(related).max() < 5 / np.sqrt(4000)


def test_centres_drift_continuously_each_at_a_speed_of_its_own():
    before, std = shapes(3.2)
    after, same = shapes(3.2 + 1e-3)
    np.testing.assert_array_equal(std, same)
    step = np.abs(after - before)
    # 4·reach a turn at the most and half of it at the least, but for the few that meet a side on the way.
    assert step.max() < 8e-3 * 1.01 and np.mean(step > 4e-3 * 0.99) > 0.99
    assert np.std(step) > 5e-4
    far = np.abs(shapes(3.7)[0] - before)
    assert far.mean() > 0.5


@pytest.mark.slow
def test_points_of_support_and_query_are_of_one_mixture_and_all_different():
    """Deviations are so small that a point tells its centre: the first of the support within .05 stands for it."""
    x = both(draw_many(tasks.blobs(60, 100, modes=3, reach=2.0, std=(1e-3, 5e-3)), 200)).astype(float)
    assert np.abs(x).max() < 2.05 and len(np.unique(x.reshape(-1, 2), axis=0)) == 200 * 160
    stds, modes = [], []
    for points in x:
        near = np.linalg.norm(points[:, None] - points[:60], axis=-1) < 0.05
        assert near.any(axis=1).all(), "a point of the query lies where none of the support does"
        groups = [points[near.argmax(axis=1) == first] for first in np.unique(near.argmax(axis=1))]
        modes.append(len(groups))
        if len(groups) == 3:
            stds.append(np.sqrt(np.mean(np.concatenate([(group - group.mean(axis=0)) ** 2 for group in groups]))))
    assert max(modes) == 3 and np.mean(np.equal(modes, 3)) > 0.9
    assert min(stds) < 1.6e-3 and max(stds) > 4.4e-3
    assert abs(np.mean(stds) - 3e-3) < 5 * 4e-3 / np.sqrt(12 * len(stds)) + 1e-4


# Classes and episodes


@pytest.mark.slow
def test_a_class_is_a_task_and_support_and_query_are_different_images_of_it():
    task = draw_many(DISTRIBUTIONS["classes"], 6000)
    label, place = named(both(task, "image"))
    assert np.all(label == label[:, :1])
    assert np.all(np.diff(np.sort(place, axis=1), axis=1) > 0)
    counts = np.bincount(label[:, 0], minlength=6)
    assert abs(np.sum((counts - 1000) ** 2 / 1000) - 5) < 5 * np.sqrt(2 * 5)


def test_a_given_class_is_drawn_by_its_row():
    arrays, rows = episodes.on_device(TOY), jnp.arange(6)
    draw = jax.jit(jax.vmap(lambda key, row: tasks.of_class(arrays, key, row, SHOTS, QUERIES)))
    task = draw(jax.random.split(jax.random.key(0), 6), rows)
    assert task.support["image"].shape[1] == SHOTS and task.query["image"].shape[1] == QUERIES
    assert np.all(named(both(task, "image"))[0] == rows[:, None])


@pytest.mark.slow
@pytest.mark.parametrize("ways", [2, 6])
def test_an_episodes_labels_are_balanced_and_each_is_one_class(ways):
    task = draw_many(tasks.episodes(TOY, SHOTS, QUERIES, ways=ways), 3000)
    for part, count in zip(task, (SHOTS, QUERIES), strict=True):
        assert np.all(np.sort(part["label"], axis=1) == np.repeat(np.arange(ways), count))
    label, (original, place) = both(task, "label"), named(both(task, "image"))
    classes = np.stack([original[label == way].reshape(3000, -1) for way in range(ways)], axis=1)
    assert np.all(classes == classes[:, :, :1])
    assert np.all(np.diff(np.sort(classes[:, :, 0], axis=1), axis=1) > 0), "two labels are one class"
    pictures = np.sort(original.astype(int) * 100 + place, axis=1)
    assert np.all(np.diff(pictures, axis=1) > 0), "an image came twice"
    # Ordered pairs: which class is called 0 and which 1.
    pairs = np.bincount(classes[:, 0, 0].astype(int) * 6 + classes[:, 1, 0], minlength=36).reshape(6, 6)
    pairs = pairs[~np.eye(6, dtype=bool)]
    assert abs(np.sum((pairs - 100) ** 2 / 100) - 29) < 5 * np.sqrt(2 * 29)


# Streams


@every_stream
def test_a_stream_is_a_function_of_key_and_time_and_never_repeats_itself(stream):
    draw = jax.jit(stream.draw)
    key, other = jax.random.split(jax.random.key(4))
    task = draw(stream.arrays, key, 7)
    name = next(iter(task.support))
    assert task.support[name].shape[0] == SHOTS and task.query[name].shape[0] == QUERIES
    equal(task, draw(stream.arrays, key, 7))
    for elsewhere in (draw(stream.arrays, key, 8), draw(stream.arrays, other, 7)):
        assert not np.array_equal(task.support[name], elsewhere.support[name])


def path(stream, times, key):
    """Return points [L, K, 2] of a stream, and their centres [L, modes, 2] where deviations are nothing."""
    draw = jax.vmap(stream.draw, in_axes=(None, None, 0))
    return both(jax.device_get(jax.jit(draw)(stream.arrays, key, jnp.asarray(times))))


@pytest.mark.slow
@given(keys())
def test_a_mixture_turns_round_once_in_a_period(key):
    corner = mixtures.Mixture("point", jnp.array([[1.0, 0.0]]), 1e-4)
    points = path(tasks.turning(corner, 3, 5, period=8.0), range(17), key)
    angle = 2 * np.pi * np.arange(17) / 8
    expected = np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None]
    np.testing.assert_allclose(points, np.broadcast_to(expected, points.shape), atol=2e-3)
    assert len(np.unique(points.reshape(-1, 2), axis=0)) == 17 * 8


@pytest.mark.slow
@given(keys())
def test_a_drifting_mixture_moves_a_little_at_a_time_and_far_in_the_end(key):
    points = path(tasks.drifting(3, 5, modes=1, reach=2.0, std=(1e-4, 1e-4), period=100.0), range(200), key)
    centres = points.mean(axis=1)
    assert np.abs(points - centres[:, None]).max() < 2e-3
    step = np.abs(np.diff(centres, axis=0))
    assert step.max() < 4 * 2.0 / 100 + 1e-3 and np.median(step, axis=0).min() > 2 * 2.0 / 100 - 1e-3
    assert np.all(np.ptp(centres, axis=0) > 4 - 0.1) and np.abs(centres).max() < 2.01
    noise = (points - centres[:, None]).mean(axis=0)
    assert np.abs(noise).max() < 5 * 1e-4 / np.sqrt(200), "points are not fresh"


def test_a_sequence_is_of_independent_tasks():
    draw, draw_one = jax.jit(STREAMS["sequence"].draw), jax.jit(DISTRIBUTIONS["blobs"].draw)
    key = jax.random.key(6)
    for time in (0, 3):
        equal(draw({}, key, time), draw_one({}, jax.random.fold_in(key, time)))


@pytest.mark.slow
def test_classes_come_one_by_one_and_then_again_in_an_order_of_the_streams():
    stream = STREAMS["one_by_one"]
    draw = jax.vmap(jax.vmap(stream.draw, in_axes=(None, None, 0)), in_axes=(None, 0, None))
    task = jax.jit(draw)(stream.arrays, jax.random.split(jax.random.key(7), 3000), jnp.arange(12))
    image = np.concatenate([task.support["image"], task.query["image"]], axis=2)
    label, place = named(image)
    assert np.all(label == label[..., :1]) and np.all(np.diff(np.sort(place, axis=2), axis=2) > 0)
    label = label[..., 0].astype(int)
    assert np.all(np.sort(label[:, :6], axis=1) == np.arange(6)) and np.array_equal(label[:, 6:], label[:, :6])
    assert np.mean(np.all(image[:, 0] == image[:, 6], axis=(1, 2, 3, 4))) < 0.1, "a class comes with its old images"
    for time in range(6):
        counts = np.bincount(label[:, time], minlength=6)
        assert abs(np.sum((counts - 500) ** 2 / 500) - 5) < 5 * np.sqrt(2 * 5)


# Forgetting


def test_what_is_lost_is_counted_from_the_best_since_it_was_learned():
    nothing = math.nan  # above the diagonal nothing is read
    scores = [
        [3.0, nothing, nothing, nothing],
        [1.0, 5.0, nothing, nothing],
        [2.0, 6.0, 4.0, nothing],
        [7.0, 5.5, 3.0, 8.0],
    ]
    # Lost: 7 - 1, 5.5 - 5 and 3 - 4, of which the last is gained.
    assert tasks.forgetting(scores) == tasks.Retention(learned=5.0, final=23.5 / 4, forgetting=5.5 / 3)
    assert tasks.forgetting(np.array(scores)[:3, :3]) == tasks.Retention(4.0, 4.0, 1.0)


def test_scores_before_a_task_is_learned_are_not_read():
    scores = [[1.0, -100.0, -100.0], [1.0, 1.0, -100.0], [1.0, 2.0, 1.0]]
    assert tasks.forgetting(scores) == tasks.Retention(learned=1.0, final=4 / 3, forgetting=0.5)


@given(st.integers(0, 2**31), st.floats(0.1, 10), st.floats(-5, 5))
def test_forgetting_is_in_the_units_of_the_scores(seed, scale, shift):
    scores = np.random.default_rng(seed).normal(size=(5, 5))
    learned, final, lost = tasks.forgetting(scores)
    expected = tasks.Retention(scale * learned + shift, scale * final + shift, scale * lost)
    np.testing.assert_allclose(tasks.forgetting(scale * scores + shift), expected, atol=1e-9)


def test_a_learner_that_keeps_all_forgets_nothing():
    assert tasks.forgetting(np.tile([4.0, 2.0, 9.0], (3, 1))) == tasks.Retention(5.0, 5.0, 0.0)


def test_scores_that_are_not_finite_are_not_hidden():
    assert math.isnan(tasks.forgetting([[math.nan, 0.0], [1.0, 1.0]]).forgetting)
    assert math.isnan(tasks.forgetting([[math.inf, 0.0], [math.inf, 1.0]]).forgetting)
    assert tasks.forgetting([[1.0, 0.0], [math.inf, 1.0]]).forgetting == math.inf


# What is refused


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: tasks.sinusoids(0, 5), "shots=0"),
        (lambda: tasks.sinusoids(5, -1), "queries=-1"),
        (lambda: tasks.sinusoids(amplitude=(5.0, 0.1)), r"amplitude=\(5.0, 0.1\) is no range"),
        (lambda: tasks.sinusoids(phase=(0.0, math.inf)), "phase="),
        (lambda: tasks.sinusoids(inputs=(math.nan, 1.0)), "inputs="),
        (lambda: tasks.blobs(modes=0), "modes=0"),
        (lambda: tasks.blobs(queries=0), "queries=0"),
        (lambda: tasks.blobs(reach=-1.0), "reach=-1.0"),
        (lambda: tasks.blobs(std=(0.0, 1.0)), "std=0.0"),
        (lambda: tasks.blobs(std=(0.2, 0.1)), "std="),
        (lambda: tasks.drifting(period=0.0), "period=0.0"),
        (lambda: tasks.drifting(shots=0), "shots=0"),
        (lambda: tasks.drifting(modes=0), "modes=0"),
        (lambda: tasks.turning(mixtures.ring(), 1, 1, period=math.inf), "period=inf"),
        (lambda: tasks.turning(mixtures.ring(), 0, 1), "shots=0"),
        (lambda: tasks.classes(TOY, 4, 5), "class 0 of 'toy' has 8 images and a task takes 9"),
        (lambda: tasks.classes(TOY, 4, 0), "queries=0"),
        (lambda: tasks.one_by_one(TOY, 8, 1), "class 0 of 'toy'"),
        (lambda: tasks.episodes(TOY, 8, 1), "class 0 of 'toy'"),
        (lambda: tasks.episodes(TOY, 1, 1, ways=7), "7 ways of the 6 classes of 'toy'"),
        (lambda: tasks.episodes(TOY, 1, 1, ways=1), "1 ways"),
        (lambda: tasks.batches(tasks.blobs(), 0), "draws 0 tasks"),
        (lambda: tasks.forgetting([[1.0]]), "at least 2"),
        (lambda: tasks.forgetting([[1.0, 2.0]]), r"the shape \(1, 2\)"),
        (lambda: tasks.forgetting([1.0, 2.0]), r"the shape \(2,\)"),
    ],
)
def test_what_has_no_meaning_is_refused(build, word):
    with pytest.raises(ValueError, match=word) as refused:
        build()
    assert "\n" not in str(refused.value)
