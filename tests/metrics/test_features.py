"""The shipped extractors are what their records say, and what is no extractor is refused in a line."""

import json
import os
import pickle
import re
import tempfile
from functools import partial
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.data import images
from gan_jax.metrics import features
from gan_jax.networks.classifier import classifier
from gan_jax.training import lookup

SHIPPED = sorted((resources.files("gan_jax.metrics") / "weights").iterdir())
PREPARED = Path(os.environ.get("TFDS_DATA_DIR", Path(__file__).parents[3] / "shared/data/tfds"))
FLOORS = {  # what a record may not fall below
    "digits": {"test_accuracy": 0.99},
    "fashion": {"test_accuracy": 0.92},
    "omniglot": {"test_accuracy": 0.8, "one_shot_accuracy": 0.85},
}
SMALL = {"family": "small", "size": 8, "channels": 3, "classes": 4, "width": 2, "features": 5, "normalise": True}


def small(seed=0, record=SMALL):
    structure = {name: record[name] for name in ("width", "features", "normalise") if name in record}
    init = classifier(record["size"], record["channels"], record["classes"], **structure).init
    return jax.jit(init)(jax.random.key(seed))  # eager initialisation takes seconds


def pixels(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def prepared(data):
    """Return a real set, or skip."""
    if not (PREPARED / data).is_dir():
        pytest.skip(f"{data} is not prepared: set TFDS_DATA_DIR to where it is")
    return images.load(data, PREPARED, size=28)


def share(right, expected, count=None):
    """Whether a share of `count`, or of Booleans, is the expected one within four standard errors."""
    right = np.asarray(right)
    return abs(right.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / (count or right.size))


EXPERIMENT = lookup.load(lookup.find("features"))
SMALL_EXTRACTOR = features.rounded(small(), SMALL)
WARPED = jax.jit(partial(EXPERIMENT.warped, size=0.2))
SHIFTED = jax.jit(partial(EXPERIMENT.augmented, config=EXPERIMENT.Config(shift=1)))


# What is shipped


def test_each_family_has_its_extractor():
    assert {path.name for path in SHIPPED} == {f"{family}.npz" for family in features.FAMILIES.values()}
    assert set(FLOORS) == set(features.FAMILIES.values())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_weights_are_small_and_their_record_is_whole(path):
    assert path.stat().st_size < 1.5e6
    record = features.read(path).record
    assert {"family", "trained_on", "command", "sha256"} <= set(record)
    assert record["family"] == path.stem
    for name, floor in FLOORS[path.stem].items():
        assert floor <= record[name] <= 1


@pytest.mark.slow
def test_the_extractor_of_digits_reads_the_embedded_digits():
    source = images.load("digits", size=28)
    extractor = features.extractor("digits")
    found, probabilities = extractor.all(np.asarray(images.to_float(source.test.image)))
    assert found.shape == (1000, 128)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=1) == source.test.label).mean() >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("data", ["mnist", "fashion_mnist"])
def test_real_images_are_read_as_often_as_the_record_says(data):
    test, extractor = prepared(data).test, features.extractor(data)
    _, probabilities = extractor.all(np.asarray(images.to_float(test.image[:500])))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert share(probabilities.argmax(axis=1) == test.label[:500], extractor.record["test_accuracy"])


@pytest.mark.slow
def test_characters_that_were_held_out_are_read_as_often_as_the_record_says():
    _, held, _ = EXPERIMENT.parts(prepared("omniglot"))
    extractor = features.extractor("omniglot")
    chosen = np.random.default_rng(0).choice(len(held.image), 500, replace=False)
    _, probabilities = extractor.all(np.asarray(images.to_float(held.image[chosen])))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert share(probabilities.argmax(axis=1) == held.label[chosen], extractor.record["test_accuracy"])


@pytest.mark.slow
def test_characters_that_were_never_seen_are_told_apart_by_one_example():
    """Twenty at a time, of which one image each is known: the second image of each is nearest to its own."""
    test, extractor = prepared("omniglot").test, features.extractor("omniglot")
    mixed = np.random.default_rng(0).permutation(np.unique(test.label))[:640]  # neighbours are of one alphabet
    pairs = np.array([np.flatnonzero(test.label == label)[:2] for label in mixed])
    known, asked = (extractor.all(np.asarray(images.to_float(test.image[at])))[0] for at in pairs.T)
    distances = np.linalg.norm(asked.reshape(32, 20, 1, -1) - known.reshape(32, 1, 20, -1), axis=-1)
    assert share(distances.argmin(axis=2) == np.arange(20), extractor.record["one_shot_accuracy"])


@pytest.mark.parametrize("data", ["cifar10", "folder:mnist", ""])
def test_no_score_across_families(data):
    with pytest.raises(ValueError, match=f"'{data}'.*digits, fashion_mnist, mnist, omniglot"):
        features.extractor(data)


# Writing and reading


@pytest.mark.slow
def test_what_is_written_is_read_back_and_was_measured_before(tmp_path):
    weights, image = small(), pixels((6, 8, 8, 3))
    record = {**SMALL, "command": "by hand"}
    digest = features.write(tmp_path / "small.npz", weights, record)
    read = features.read(tmp_path / "small.npz")
    before = features.rounded(weights, record)
    assert read.record == before.record == {**record, "sha256": digest}
    assert (read.name, read.digest) == (before.name, before.digest) == ("small", digest)
    net = classifier(8, 3, 4, width=2, features=5, normalise=True)
    halves = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16).astype(np.float32), weights)
    expected, _ = net.apply(*halves, image, train=False)
    for one, two, three in zip(read.apply(image), before.apply(image), expected, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_allclose(one, three, atol=1e-6)


@pytest.mark.slow
def test_a_record_may_leave_the_classifiers_own_structure_out(tmp_path):
    """As that of the digits does."""
    record = {"family": "plain", "size": 4, "channels": 1, "classes": 2}
    features.write(tmp_path / "plain.npz", small(record=record), record)
    found, probabilities = features.read(tmp_path / "plain.npz").all(pixels((3, 4, 4, 1)))
    assert (found.shape, probabilities.shape) == ((3, 128), (3, 2))


def test_weights_that_half_precision_cannot_hold_are_not_written(tmp_path):
    params, stats = small()
    params["head"]["bias"] = np.full(4, 1e6)
    with pytest.raises(ValueError, match="head.*not finite in half precision"):
        features.write(tmp_path / "small.npz", (params, stats), SMALL)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of a file that is whole, and its digest."""
    path = tmp_path_factory.mktemp("written") / "small.npz"
    digest = features.write(path, small(), SMALL)
    return path.read_bytes(), digest


def refusal(path):
    """The line with which a file is refused; it names the file and what would do."""
    with pytest.raises(ValueError) as caught:
        features.read(path)
    message = str(caught.value)
    assert str(path) in message and "make features" in message and "\n" not in message
    return message


@given(st.data())
def test_a_file_that_was_damaged_is_refused_or_does_no_harm(written, data):
    whole, digest = written
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "small.npz"
        path.write_bytes(damaged)
        try:
            assert features.read(path).digest == digest  # what a zip says of dates and rights may change
        except ValueError:
            refusal(path)


@given(st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_is_refused(written, part):
    whole, _ = written
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "small.npz"
        path.write_bytes(whole[: int(part * len(whole))])
        refusal(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_flipped_bit_of_a_weight_is_noticed(path, tmp_path):
    with np.load(path) as file:
        arrays = dict(file)
    bits = arrays["[0]['head']['bias']"].view(np.uint16)
    bits[0] ^= 1
    np.savez(tmp_path / path.name, **arrays)
    assert "hash" in refusal(tmp_path / path.name)


class Bomb:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["array", "record", "file"])
def test_no_pickle_is_executed(kind, tmp_path):
    path, trace = tmp_path / "small.npz", tmp_path / "executed"
    bomb = np.array([Bomb(trace)], dtype=object)
    if kind == "file":
        path.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        record = bomb if kind == "record" else json.dumps({**SMALL, "sha256": ""})
        np.savez(path, allow_pickle=True, **{"[0]['head']['bias']": bomb, "record": record})
    refusal(path)
    assert not trace.exists()


def test_a_leaf_too_few_too_many_or_of_another_shape_is_named(tmp_path):
    path = tmp_path / "small.npz"
    for change, expected in (
        (lambda head: head.pop("bias"), r"\['bias'\] is missing, where its record asks for \(4,\)"),
        (lambda head: head.update(more=np.zeros(1)), r"\['more'\] is \(1,\), where its record asks for none"),
        (lambda head: head.update(bias=np.zeros(5)), r"\['bias'\] is \(5,\), where its record asks for \(4,\)"),
    ):
        params, stats = small()
        change(params["head"])
        features.write(path, (params, stats), SMALL)
        assert re.search(expected, refusal(path))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"width": 3}, "where its record asks for"),
        ({"size": "eight"}, ""),
        ({"size": 9}, "9 is not a multiple of 4"),
        ({"classes": None}, ""),
        ({"family": ...}, "no 'family'"),
        ({"channels": ...}, "no 'channels'"),
    ],
)
def test_a_record_that_does_not_describe_the_weights_is_refused(change, expected, tmp_path):
    record = {name: value for name, value in {**SMALL, **change}.items() if value is not ...}
    features.write(tmp_path / "small.npz", small(), record)
    assert expected in refusal(tmp_path / "small.npz")


def test_a_file_that_is_not_there_or_no_archive_is_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "small.npz")
    np.save(tmp_path / "small.npy", np.zeros(3))
    refusal(tmp_path / "small.npy")
    np.savez(tmp_path / "bare.npz", weight=np.zeros(3))
    assert "record" in refusal(tmp_path / "bare.npz")


# Images


@pytest.mark.slow
def test_features_do_not_depend_on_how_the_images_are_batched():
    extractor, image = features.rounded(small(), SMALL), pixels((7, 8, 8, 3))
    for one, other in zip(extractor.all(image, batch=3), extractor.all(image), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_progress_is_told_before_each_batch():
    told = []
    found, _ = SMALL_EXTRACTOR.all(pixels((7, 8, 8, 3)), batch=3, progress=lambda *counts: told.append(counts))
    assert told == [(0, 7), (3, 7), (6, 7)]
    assert found.shape == (7, SMALL_EXTRACTOR.features)


@given(st.integers(0, 3 * 8 * 8 * 3 - 1), st.sampled_from([np.nan, np.inf, -np.inf, 1.02, -1.02, 255.0]))
def test_one_pixel_that_is_none_is_refused(place, value):
    image = pixels((3, 8, 8, 3))
    image.flat[place] = value
    with pytest.raises(ValueError, match=r"small reads pixels in \[-1, 1\], not from"):
        SMALL_EXTRACTOR.all(image)


@pytest.mark.parametrize("value", [-1.005, 1.005])
def test_rounding_past_the_range_is_no_offence(value):
    found, probabilities = SMALL_EXTRACTOR.all(np.full((1, 8, 8, 3), value, np.float32))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_no_images_and_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="no images"):
        SMALL_EXTRACTOR.all(np.zeros((0, 8, 8, 3), np.float32))
    for shape in ((2, 8, 8, 1), (2, 12, 12, 3)):
        with pytest.raises(ValueError, match=r"small reads images of \(8, 8, 3\), not of"):
            SMALL_EXTRACTOR.all(np.zeros(shape, np.float32))


def test_an_extractor_that_names_no_size_reads_any():
    any_size = features.Extractor("any", "", 1, {}, lambda image: (image.mean(axis=(1, 2)), image.mean(axis=(1, 2))))
    for side in (3, 5):
        found, _ = any_size.all(np.full((2, side, side, 1), 0.5, np.float32))
        np.testing.assert_array_equal(found, np.full((2, 1), 0.5))


# The experiment that makes them


def split(label, name="train"):
    label = np.asarray(label, np.int32)
    return images.Split(name, np.arange(len(label), dtype=np.uint8)[:, None, None, None], label)


def test_a_test_split_of_the_same_classes_is_what_is_tested_on():
    source = images.Images("set", "1", split([0, 1, 1]), split([1], "test"), 2)
    assert EXPERIMENT.parts(source) == (source.train, source.test, None)


@given(st.permutations([0] * 6 + [2] * 7 + [5] * 5))
def test_where_the_test_split_has_other_classes_four_of_each_are_held_out(label):
    source = images.Images("set", "1", split(label), split([1, 3], "test"), 6)
    train, held, unseen = EXPERIMENT.parts(source)
    assert unseen is source.test
    np.testing.assert_array_equal(np.bincount(held.label), [4, 0, 4, 0, 0, 4])
    np.testing.assert_array_equal(np.bincount(train.label), [2, 0, 3, 0, 0, 1])
    for part in (train, held):  # the image is its position
        np.testing.assert_array_equal(np.asarray(label)[part.image.ravel()], part.label)
    assert sorted([*train.image.ravel(), *held.image.ravel()]) == list(range(18))


def test_a_set_without_labels_is_refused():
    bare = split([0, 1])._replace(label=None)
    with pytest.raises(ValueError, match="set has no labels"):
        EXPERIMENT.parts(images.Images("set", "1", bare, bare, 0))


def test_one_shot_accuracy_of_perfect_and_of_blind_features():
    label = np.repeat(np.arange(40), 5)
    assert EXPERIMENT.one_shot(np.eye(40)[label], label, episodes=50) == 1
    blind = np.random.default_rng(1).normal(size=(200, 3))
    assert share(EXPERIMENT.one_shot(blind, label, episodes=1000), 1 / 20, 1000)


@given(st.integers(0, 2**32 - 1))
def test_a_warp_is_a_linear_map_about_the_centre(seed):
    """Two ramps, one down and one across, show where each pixel was taken from."""
    places = np.stack(np.meshgrid(np.arange(28.0), np.arange(28.0), indexing="ij"), axis=-1)
    ramps = np.broadcast_to(places, (32, 28, 28, 2)).astype(np.float32)
    seen = np.asarray(WARPED(jax.random.key(seed), ramps))[:, 6:22, 6:22].reshape(32, -1, 2) - 13.5
    inside = places[6:22, 6:22].reshape(-1, 2) - 13.5
    maps = np.stack([np.linalg.lstsq(inside, one, rcond=None)[0] for one in seen])
    np.testing.assert_allclose(inside @ maps, seen, atol=1e-3)
    entries = maps - np.eye(2)
    assert -0.2 - 1e-5 <= entries.min() < -0.1 and 0.1 < entries.max() <= 0.2 + 1e-5


@given(st.integers(0, 2**32 - 1))
def test_a_shifted_image_is_one_of_nine(seed):
    image = pixels((300, 6, 6, 1), seed)
    moved = np.asarray(SHIFTED(jax.random.key(seed), image))
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    candidates = np.stack([padded[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)], axis=1)
    same = (candidates == moved[:, None]).all(axis=(2, 3, 4))
    assert same.any(axis=1).all() and same.any(axis=0).all()
