"""Laws of images by class: who lies where, that draws are different ones and fair, and which classes are held out."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.data import episodes, images
from gan_jax.data.images import Images, Split

PREPARED = Path(os.environ.get("TFDS_DATA_DIR", Path(__file__).parents[3] / "shared/data/tfds"))


def numbered(label, name="train"):
    """Return a split whose pixels are the positions of its examples."""
    image = np.arange(len(label), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    return Split(name, image, np.asarray(label, np.int32))


def as_set(train, test, name="set"):
    return Images(name, "1", numbered(train), numbered(test, "test"), 10)


def positions(image):
    """Return which examples of a numbered split these are, floats and bytes alike."""
    image = np.asarray(image if image.dtype == np.uint8 else images.to_uint8(image))
    assert np.all(image == image[..., :1, :1, :1])
    return image[..., 0, 0, 0]


def members(grouped, row):
    """Return the positions in the split of a class's images."""
    places = grouped.table[row]
    return positions(grouped.image)[places[places >= 0]]


# Grouping


@given(label=st.lists(st.integers(0, 5), min_size=1, max_size=40), data=st.data())
def test_each_class_has_its_images_and_the_table_ends_in_padding(label, data):
    known = sorted(set(label))
    chosen = data.draw(st.one_of(st.none(), st.lists(st.sampled_from(known), min_size=1, unique=True)))
    grouped = episodes.group(numbered(label), chosen)
    assert grouped.name == "train" and grouped.label.tolist() == (known if chosen is None else chosen)
    sizes = [label.count(name) for name in grouped.label]
    assert grouped.table.shape == (len(sizes), max(sizes)) and len(grouped.image) == sum(sizes)
    for row, (name, size) in enumerate(zip(grouped.label, sizes, strict=True)):
        assert np.all(grouped.table[row, :size] >= 0) and np.all(grouped.table[row, size:] == -1)
        assert members(grouped, row).tolist() == [i for i, other in enumerate(label) if other == name]


def test_on_the_device_images_stay_bytes():
    arrays = episodes.on_device(episodes.group(numbered([0, 1, 0])))
    assert all(isinstance(array, jax.Array) for array in arrays.values())
    assert {name: array.dtype for name, array in arrays.items()} == {"image": jnp.uint8, "table": jnp.int32}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_spread_is_even_and_keeps_each_class_whole(count):
    label = np.repeat(np.arange(7), [3, 1, 4, 1, 5, 9, 2])
    grouped = episodes.group(numbered(label), [6, 5, 4, 3, 2, 1, 0])
    few = episodes.spread(grouped, count)
    rows = [grouped.label.tolist().index(name) for name in few.label]
    gaps = np.diff([*rows, 7])
    assert rows[0] == 0 and len(rows) == count and gaps.max() - gaps.min() <= 1
    for new, old in enumerate(rows):
        assert members(few, new).tolist() == members(grouped, old).tolist()
    assert len(few.image) == np.isin(label, few.label).sum()


# Drawing


SIZES, COUNT, DRAWS = [5, 3, 9], 3, 6000


def drawn(seed):
    """Return draws [classes, DRAWS, COUNT] of positions, and which positions each class has."""
    grouped = episodes.group(numbered(np.repeat(np.arange(len(SIZES)), SIZES)[::-1]))
    keys = jax.random.split(jax.random.key(seed), (len(SIZES), DRAWS))

    @jax.jit
    def draw(arrays, keys):
        one_class = jax.vmap(lambda key, row: episodes.examples(arrays, key, row, COUNT), (0, None))
        return jax.vmap(one_class)(keys, jnp.arange(len(SIZES)))

    image = draw(episodes.on_device(grouped), keys)
    assert image.dtype == jnp.float32 and image.min() == -1
    return positions(image), [members(grouped, row) for row in range(len(SIZES))]


def test_a_draw_is_different_images_of_its_class_and_any_order_is_as_likely():
    found, own = drawn(0)
    for size, mine, rows in zip(SIZES, own, found, strict=True):
        assert np.isin(rows, mine).all()
        assert np.all(np.diff(np.sort(rows, axis=1), axis=1) > 0), "an example came twice"
        # Ordered pairs of the first and the last: the one would be of the support, the other of the query.
        first, last = (np.searchsorted(mine, rows[:, place]) for place in (0, -1))
        pairs = np.bincount(first * size + last, minlength=size**2).reshape(size, size)[~np.eye(size, dtype=bool)]
        expected = DRAWS / len(pairs)
        free = len(pairs) - 1
        assert abs(np.sum((pairs - expected) ** 2 / expected) - free) < 5 * np.sqrt(2 * free)


def test_draws_are_a_function_of_the_key():
    first = drawn(1)[0]
    np.testing.assert_array_equal(first, drawn(1)[0])
    assert not np.array_equal(first, drawn(2)[0])


# Which are held out


@pytest.mark.parametrize(
    ("name", "expected"),
    [("digits", [7, 8, 9]), ("mnist", [7, 8, 9]), ("mnist:3.0.1", [7, 8, 9]), ("fashion_mnist", [4, 7, 8])],
)
def test_three_of_ten_classes_are_held_out_and_come_from_the_test_split(name, expected):
    label = np.tile(np.arange(10), 3)
    whole = as_set(label, label[:20], name)
    train, held_out = episodes.divide(whole)
    assert held_out.label.tolist() == expected and sorted([*train.label, *held_out.label]) == list(range(10))
    assert (train.name, held_out.name) == ("train", "test")
    assert (train.table.shape, held_out.table.shape) == ((7, 3), (3, 2))
    assert sorted(positions(train.image)) == [i for i in range(30) if label[i] in train.label]
    assert sorted(positions(held_out.image)) == [i for i in range(20) if label[i] in held_out.label]


def test_all_characters_of_omniglots_test_split_are_held_out():
    train, held_out = episodes.divide(as_set([5, 0, 5, 2], [3, 3, 9], "omniglot"))
    assert train.label.tolist() == [0, 2, 5] and held_out.label.tolist() == [3, 9]


def test_which_are_held_out_can_be_said():
    train, held_out = episodes.divide(as_set([0, 1, 2, 3], [0, 1, 2, 3], "folder:pets"), (3, 1))
    assert train.label.tolist() == [0, 2] and held_out.label.tolist() == [3, 1]


@pytest.mark.slow
def test_the_embedded_digits_divide():
    train, held_out = episodes.divide(images.load("digits"))
    assert train.image.shape == (2800, 28, 28, 1) and held_out.image.shape == (300, 28, 28, 1)
    episodes.require(train, 400)
    episodes.require(held_out, 100)


@pytest.mark.slow
def test_real_omniglot_has_twenty_drawings_of_each_character():
    if not (PREPARED / "omniglot").is_dir():
        pytest.skip("omniglot is not prepared: set TFDS_DATA_DIR to where it is")
    train, held_out = episodes.divide(images.load("omniglot", PREPARED, size=28))
    assert train.table.shape == (964, 20) and held_out.table.shape == (659, 20)
    assert not set(train.label) & set(held_out.label)
    for part in (train, held_out):
        episodes.require(part, 20)
    few = episodes.spread(held_out, 20)
    arrays, keys = episodes.on_device(few), jax.random.split(jax.random.key(0), 20)
    draw = jax.jit(jax.vmap(lambda key, row: episodes.examples(arrays, key, row, 20)))
    drawings = np.asarray(draw(keys, jnp.arange(20)))
    assert drawings.shape == (20, 20, 28, 28, 1)
    for row, found in enumerate(drawings):
        known = {image.tobytes() for image in few.image[few.table[row]]}
        assert {image.tobytes() for image in np.asarray(images.to_uint8(found))} == known


# What is refused


@pytest.mark.parametrize(
    ("split", "classes", "word"),
    [
        (numbered([0, 1])._replace(label=None), None, "'train' is unlabelled"),
        (numbered([0, 1, 4]), (1, 3), "'train' has no class 3: its 3 lie in 0 ... 4"),
        (numbered([]), (1,), "no class 1: it has no images"),
        (numbered([]), None, "no classes of 'train'"),
        (numbered([0, 1]), (), "no classes of 'train'"),
        (numbered([0, 1]), (1, 0, 1), "name one twice"),
    ],
)
def test_classes_that_are_not_there_are_refused(split, classes, word):
    with pytest.raises(ValueError, match=word):
        episodes.group(split, classes)


def test_a_class_too_small_is_named():
    grouped = episodes.group(numbered([3, 3, 3, 8, 8, 5, 5, 5]))
    episodes.require(grouped, 2)
    with pytest.raises(ValueError, match="class 8 of 'train' has 2 images and a task takes 3.* at most 2 shots"):
        episodes.require(grouped, 3)


@pytest.mark.parametrize(
    ("whole", "held_out", "word"),
    [
        (
            as_set([0, 1], [0, 1], "folder:pets"),
            None,
            "'folder:pets' are held out is not fixed.*: give held_out",
        ),
        (as_set([0, 1], [0, 1]), (0, 1), "all classes of 'set' are held out"),
        (as_set([0, 1], [0, 1]), (2,), "'test' has no class 2"),
        (as_set([0, 1], [0, 1], "digits"), None, "'test' has no class 7"),
    ],
)
def test_divisions_that_cannot_be_are_refused(whole, held_out, word):
    with pytest.raises(ValueError, match=word):
        episodes.divide(whole, held_out)


@pytest.mark.parametrize("count", [0, 3])
def test_a_spread_over_too_many_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} classes of the 2 of 'train'"):
        episodes.spread(episodes.group(numbered([0, 1])), count)
