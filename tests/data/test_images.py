"""Laws of image sets in memory: loading, scaling, drawing, and their digest; the real sets where they lie."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.data import images, order, sources
from gan_jax.data.images import Images, Split

PREPARED = Path(os.environ.get("TFDS_DATA_DIR", Path(__file__).parents[3] / "shared/data/tfds"))


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def prepared(name):
    """Return a real set, or skip."""
    if not (PREPARED / name).is_dir():
        pytest.skip(f"{name} is not prepared: set TFDS_DATA_DIR to where it is")
    return images.load(name, PREPARED)


def numbered(total, channels=1, labelled=True):
    """Return a split whose pixels and labels are the positions of its examples."""
    image = np.arange(total, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, channels), np.uint8)
    return Split("train", image, np.arange(total, dtype=np.int32) if labelled else None)


def as_set(train, test=None):
    return Images("set", "1", train, test or numbered(3)._replace(name="test"), 10)


# Pixels


def test_every_pixel_survives_the_round_trip():
    pixels = np.arange(256, dtype=np.uint8)
    scaled = images.to_float(pixels)
    assert scaled.dtype == jnp.float32 and images.to_uint8(scaled).dtype == jnp.uint8
    np.testing.assert_allclose(scaled, np.linspace(-1, 1, 256), atol=1e-6)
    np.testing.assert_array_equal(images.to_uint8(scaled), pixels)


def test_pixels_are_rounded_to_the_nearest_and_clipped():
    step = 2 / 255
    values = np.array([-9.0, -1 - 1e-3, -1 + 0.49 * step, -1 + 0.51 * step, 1 - 0.49 * step, 1.5, np.inf], np.float32)
    assert images.to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255, 255]


# Batches


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_the_examples_that_the_order_names(channels):
    split = numbered(50, channels)
    arrays, draw = images.batches(split, 8, 3)
    key = jax.random.key(0)
    batch = jax.jit(draw)(arrays, key, 5)
    expected = np.asarray(order.indices(key, 5, 24, 50)).reshape(3, 8)
    assert batch["label"].dtype == jnp.int32 and batch["image"].dtype == jnp.float32
    np.testing.assert_array_equal(batch["label"], expected)
    assert batch["image"].shape == (3, 8, 2, 3, channels)
    scaled = np.broadcast_to(expected[..., None, None, None] / 127.5 - 1, batch["image"].shape)
    np.testing.assert_allclose(batch["image"], scaled, atol=1e-6)


def test_images_are_kept_as_rows_of_bytes_and_copied_by_nobody_before_they_are_put():
    split = numbered(50)
    arrays, _ = images.batches(split, 8)
    kinds = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    assert kinds == {"image": ((50, 6), jnp.uint8), "label": ((50,), jnp.int32)}
    assert np.shares_memory(arrays["image"], split.image)


def test_an_unlabelled_split_yields_no_labels():
    arrays, draw = images.batches(numbered(50, labelled=False), 8)
    assert set(arrays) == set(draw(arrays, jax.random.key(0), 0)) == {"image"}


@pytest.mark.parametrize("size, count", [(0, 1), (1, 0), (-2, -2), (11, 1), (4, 3)])
def test_a_step_that_the_split_cannot_feed_is_refused(size, count):
    with pytest.raises(ValueError, match=f"draws {count} batches of {size} from the 10 images of 'train'"):
        images.batches(numbered(10), size, count)


def test_a_step_may_take_the_whole_split():
    arrays, draw = images.batches(numbered(10), 5, 2)
    assert sorted(draw(arrays, jax.random.key(1), 3)["label"].ravel().tolist()) == list(range(10))


# The digest


def test_the_digest_follows_all_that_is_measured_against():
    split = numbered(4)
    whole = images.digest(as_set(split))
    assert len(whole) == 64 and whole == images.digest(as_set(numbered(4)))
    pixel = split.image.copy()
    pixel[3, 1, 2, 0] += 1
    others = [
        as_set(split._replace(image=pixel)),
        as_set(split._replace(image=split.image.reshape(4, 3, 2, 1))),
        as_set(split._replace(label=split.label[::-1])),
        as_set(split._replace(label=split.label.astype(np.uint32))),
        as_set(split._replace(label=None)),
        as_set(split._replace(name="valid")),
        as_set(split, numbered(4)._replace(name="test")),
    ]
    assert len({whole, *map(images.digest, others)}) == len(others) + 1


def test_the_digest_reads_values_and_not_memory():
    split = numbered(4)
    turned = np.asfortranarray(split.image)
    assert images.digest(as_set(split._replace(image=turned))) == images.digest(as_set(split))


# Loading


@pytest.mark.parametrize("size", [0, -1])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        images.load(size=size)


@pytest.mark.slow
def test_the_digits_are_the_default_and_are_read_once(monkeypatch):
    first = images.load()
    assert first.train.image.shape == (4000, 28, 28, 1) and first.test.image.shape == (1000, 28, 28, 1)
    assert (first.name, first.classes, first.train.name, first.test.name) == ("digits", 10, "train", "test")
    once = sources.digits()._replace(read=lambda size: pytest.fail("the digits were parsed again"))
    monkeypatch.setattr(sources, "find", lambda *_: once)
    assert images.digest(images.load()) == images.digest(first)


@pytest.mark.slow
def test_another_size_is_another_entry_of_the_cache():
    assert images.load(size=14).train.image.shape == (4000, 14, 14, 1)
    assert images.load().train.image.shape == (4000, 28, 28, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", pytest.param("fashion_mnist", marks=pytest.mark.full)])
def test_the_real_sets_have_their_published_sizes(name):
    loaded = prepared(name)
    assert loaded.train.image.shape == (60000, 28, 28, 1) and loaded.test.image.shape == (10000, 28, 28, 1)
    assert loaded.classes == 10 and np.bincount(loaded.test.label).shape == (10,)
    if name == "fashion_mnist":
        assert np.all(np.bincount(loaded.train.label) == 6000)


@pytest.mark.slow
def test_the_embedded_digits_are_mnists():
    mnist = prepared("mnist")
    known = {image.tobytes() for split in (mnist.train, mnist.test) for image in split.image}
    assert all(image.tobytes() in known for image in images.load().train.image)


@pytest.mark.full
def test_omniglots_splits_hold_different_characters():
    omniglot = prepared("omniglot")
    train, test = set(omniglot.train.label.tolist()), set(omniglot.test.label.tolist())
    assert (len(train), len(test), len(train & test), omniglot.classes) == (964, 659, 0, 1623)
    assert np.all(np.bincount(omniglot.train.label)[sorted(train)] == 20)
    assert set(np.unique(omniglot.train.image[:100])) == {0, 255} and omniglot.train.image.mean() < 64
