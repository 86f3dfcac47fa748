"""Laws of stacked digits: which three make a picture, that a draw is what the table says, and the law of its labels."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.data import images, order, stacked
from gan_jax.data.images import Images, Split


def numbered(total, classes=10, channels=1, labelled=True):
    """Return a set whose pixels are the positions of its examples, and whose labels are those modulo the classes."""
    image = np.arange(total, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, channels), np.uint8)
    split = Split("train", image, np.arange(total, dtype=np.int32) % classes if labelled else None)
    return Images("set", "1", split, split, classes if labelled else 0)


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_a_picture_has_a_digit_in_each_channel_and_its_label_has_their_digits(shape):
    made = stacked.stack(numbered(50), 200)
    index = np.arange(7, 7 + np.prod(shape)).reshape(shape)
    batch = jax.jit(stacked.examples)(stacked.batches(made, 1).arrays, index)
    assert batch["image"].shape == (*shape, 2, 3, 3) and batch["image"].dtype == jnp.float32
    assert batch["label"].shape == shape and batch["label"].dtype == jnp.int32
    for place in np.ndindex(shape):
        first, second, third = (int(single) for single in made.triple[index[place]])
        expected = np.broadcast_to(np.array([first, second, third]) / 127.5 - 1, (2, 3, 3))
        np.testing.assert_allclose(batch["image"][place], expected, atol=1e-6)
        assert batch["label"][place] == int(f"{first % 10}{second % 10}{third % 10}")


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_labels_are_numbers_to_the_base_of_the_classes(classes):
    made = stacked.stack(numbered(50, classes), 100)
    label = stacked.examples(stacked.batches(made, 1).arrays, np.arange(100))["label"]
    assert made.classes == classes**3
    for row, number in zip(made.triple % classes, label, strict=True):
        assert int("".join(map(str, row)), classes) == number


def test_a_batch_is_the_pictures_that_the_order_names():
    made = stacked.stack(numbered(20), 50)
    arrays, draw = stacked.batches(made, 8, 3)
    key = jax.random.key(0)
    batch = jax.jit(draw)(arrays, key, 5)
    expected = made.triple[np.asarray(order.indices(key, 5, 24, 50)).reshape(3, 8)]
    np.testing.assert_allclose(batch["image"][:, :, 0, 0], expected / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(batch["label"], (expected % 10) @ [100, 10, 1])


def test_which_three_is_a_hash_of_the_position():
    made = stacked.stack(numbered(7), 30)
    for position in (0, 1, 29):
        words = hashlib.sha256(str(position).encode()).digest()
        numbers = [int.from_bytes(words[8 * i : 8 * i + 8], "little") % 7 for i in range(3)]
        assert made.triple[position].tolist() == numbers
    # A shorter set is the beginning of a longer one.
    np.testing.assert_array_equal(stacked.stack(numbered(7), 12).triple, made.triple[:12])


def test_the_default_is_pacgans_and_its_singles_are_drawn_uniformly_and_independently():
    made = stacked.stack(numbered(100))
    assert made.triple.shape == (128_000, 3) and made.triple.dtype == np.int32
    counts = np.bincount(made.triple[:, 1:] @ [100, 1], minlength=100**2)  # of pairs, 12.8 expected
    assert abs(np.sum((counts - 12.8) ** 2 / 12.8) - 9999) < 5 * np.sqrt(2 * 9999)
    for channel in range(3):
        counts = np.bincount(made.triple[:, channel], minlength=100)
        assert abs(np.sum((counts - 1280) ** 2 / 1280) - 99) < 5 * np.sqrt(2 * 99)
    assert np.abs(np.corrcoef(made.triple.T) - np.eye(3)).max() < 5 / np.sqrt(128_000)


def test_single_images_and_the_table_lie_on_the_device_and_no_picture_does():
    arrays, _ = stacked.batches(stacked.stack(numbered(50), 200), 8)
    assert all(isinstance(array, jax.Array) for array in arrays.values())
    kinds = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    assert kinds["image"] == ((50, 2, 3, 1), jnp.uint8) and kinds["triple"] == ((200, 3), jnp.int32)


def test_the_embedded_digits_stack():
    made = stacked.stack(images.load("digits"), 1000)
    batch = stacked.examples(stacked.batches(made, 1).arrays, np.arange(1000))
    assert made.name == "digits" and made.classes == 1000 and batch["image"].shape == (1000, 28, 28, 3)
    assert 550 < len(np.unique(batch["label"])) < 720  # 1 - 1/e of the modes, for 1,000 even draws


@pytest.mark.parametrize("source", [numbered(5, labelled=False), numbered(5, channels=3)])
def test_sets_without_labels_or_in_colour_are_refused(source):
    with pytest.raises(ValueError, match="set cannot be stacked"):
        stacked.stack(source)


@pytest.mark.parametrize("size, count", [(0, 1), (1, 0), (-2, -2), (11, 1), (4, 3)])
def test_a_step_that_the_set_cannot_feed_is_refused(size, count):
    with pytest.raises(ValueError, match=f"draws {count} batches of {size} from 10 stacks of 'set'"):
        stacked.batches(stacked.stack(numbered(5), 10), size, count)
    with pytest.raises(ValueError, match="total=0"):
        stacked.stack(numbered(5), 0)
