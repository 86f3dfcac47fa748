"""Which samples are measured, and against what."""

import json

import jax
import numpy as np
import pytest

from gan_jax import evaluation
from gan_jax.data import images, mixtures
from gan_jax.metrics import features
from gan_jax.metrics.features import Extractor
from gan_jax.training import lookup


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    """Features that another version of the code has left are none to test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def tiny(data, **fields):
    """A GAN of images at its smallest, its source and an initial state."""
    module = lookup.load(lookup.find("mnist_dcgan"))
    program = module.build(module.Config(batch=2, width=2, **fields), data)
    return program, images.load(data, size=28), program.init(jax.random.key(0))


@pytest.mark.slow
def test_an_untrained_generator_is_as_far_as_the_untrained_one():
    program, source, state = tiny("digits")
    card = program.measure(jax.random.key(1), state, 600)
    assert 0.5 < card["frechet"]["generator"] / card["frechet"]["untrained"] < 2
    assert card["frechet"]["real"] < 0.05 * card["frechet"]["untrained"]
    assert card["reference"]["sha256"] == images.digest(source)
    assert (card["reference"]["split"], card["reference"]["held_out"]) == ("train", "test")
    assert card["counts"] == {"reference": 4000, "held_out": 1000, "samples": 600}
    assert card["extractor"]["sha256"] == features.extractor("digits").digest
    assert "label_accuracy" not in card


@pytest.mark.slow
def test_the_untrained_weights_are_not_made_of_the_latents_numbers(monkeypatch):
    seen = []
    program, _, state = tiny("digits")
    kept = evaluation.draw

    def spy(sample, key, state, n, label=None):
        seen.append((key, state))
        return kept(sample, key, state, n, label)

    monkeypatch.setattr(evaluation, "draw", spy)
    program.measure(jax.random.key(1), state, 500)
    (key, _), (_, untrained) = seen
    # The first batch's latents come from fold_in(key, 0), the generator's weights from the first half of init's key.
    latent_key, _ = jax.random.split(jax.random.fold_in(key, 0))
    latents = np.asarray(jax.random.normal(latent_key, (500, 64))).ravel()
    weights = np.asarray(untrained.average.params["stem"]["kernel"]).ravel()
    n = min(len(latents), len(weights))
    assert abs(np.corrcoef(latents[:n], weights[:n])[0, 1]) < 6 / np.sqrt(n)


@pytest.mark.slow
def test_a_conditional_gan_is_asked_for_each_class_equally_often(monkeypatch):
    program, _, state = tiny("digits", conditional=True)
    asked = []
    monkeypatch.setattr(
        evaluation, "draw", lambda sample, key, state, n, label: asked.append(label) or np.zeros((n, 28, 28, 1))
    )
    card = program.measure(jax.random.key(0), state, 150)
    assert all(np.array_equal(np.bincount(label), np.full(10, 15)) for label in asked)
    assert 0 <= card["label_accuracy"] <= 1


@pytest.mark.slow
def test_samples_are_drawn_in_batches_of_their_own_keys():
    program, _, state = tiny("digits")

    key = jax.random.key(3)
    many = evaluation.draw(program.sample, key, state, 700)
    assert many.shape == (700, 28, 28, 1)
    np.testing.assert_array_equal(evaluation.draw(program.sample, key, state, 510), many[:510])
    assert not np.array_equal(many[:200], many[500:])
    rows = evaluation.draw(program.sample, key, state, 516, frames=12)
    assert rows.shape == (516, 28, 28, 1)
    with pytest.raises(ValueError, match="1001 samples are no whole number of rows of 12: give a multiple of 12"):
        evaluation.draw(program.sample, key, state, 1001, frames=12)


# By another extractor


class Pictures:
    """A model whose images all have one level: about that of the state, 0 before training."""

    hyper = None

    def __init__(self, classes=0):
        self.classes = classes

    def init(self, hyper, key):
        return np.float32(0)

    def sample(self, key, state, n, label):
        return state + 0.1 * jax.random.uniform(key, (n, 1, 1, 1), minval=-1) * np.ones((1, 2, 3, 1))


class Stand:
    """A stand-in for an extractor of other classes; its one feature is an image's mean. It counts what it reads."""

    def __init__(self, digest="ab"):
        self.read = 0
        record = {"family": "inception", "file_sha256": "cd", "standard": False}
        self.extractor = Extractor("stand-in", digest, 1, record, self.apply)

    def apply(self, images):
        self.read += len(images)
        means = np.asarray(images).mean(axis=(1, 2))
        return means, np.concatenate([means, -means], axis=1)


def noise(seed=0, train=40, test=20):
    """Return a set of noise that no extractor is shipped for."""
    rng = np.random.default_rng(seed)
    # Both splits of the same name: what is kept of one must not be taken for the other.
    splits = [
        images.Split("all", rng.integers(0, 256, (count, 2, 3, 1)).astype(np.uint8), None) for count in (train, test)
    ]
    return images.Images("noise", "1", *splits, 0)


def by(stand, source, n=30, classes=0, progress=None):
    measure = evaluation.images(Pictures(classes), source)._replace(extractor=stand.extractor, progress=progress)
    return measure(jax.random.key(0), np.float32(0.5), n)


@pytest.mark.slow
def test_a_card_by_another_extractor_has_its_distances_and_none_of_its_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path))
    source = noise()
    card = by(Stand(), source, classes=2)
    assert not {"classes", "confidence", "label_accuracy"} & set(card)
    assert card["extractor"] == {"name": "stand-in", "sha256": "ab", "file_sha256": "cd", "standard": False}
    assert card["counts"] == {"reference": 40, "held_out": 20, "samples": 30}
    # Of one feature, the distance is (difference of means)^2 + (difference of deviations)^2.
    train, test = (split.image.astype(np.float64).mean(axis=(1, 2, 3)) / 127.5 - 1 for split in source[2:4])
    expected = (train.mean() - test.mean()) ** 2 + (train.std(ddof=1) - test.std(ddof=1)) ** 2
    assert card["frechet"]["real"] == pytest.approx(expected, rel=1e-3)
    assert card["frechet"]["generator"] == pytest.approx((0.5 - train.mean()) ** 2, rel=0.3)
    assert card["frechet"]["untrained"] < 0.3 * card["frechet"]["generator"]
    json.dumps(card, allow_nan=False)


def test_features_of_real_images_are_taken_once_by_each_extractor_of_each_set(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path))
    first, again, other, changed = Stand(), Stand(), Stand("other"), Stand()
    card = by(first, noise())
    assert by(again, noise()) == card
    by(other, noise())
    by(changed, noise(seed=1))
    every = 2 * 30 + 40 + 20
    assert [stand.read for stand in (first, again, other, changed)] == [every, 2 * 30, every, every]
    monkeypatch.setattr(evaluation, "FORMAT", evaluation.FORMAT + 1)
    by(again, noise())
    assert again.read == 2 * 30 + every


@pytest.mark.parametrize(
    ("counts", "kind"),
    [({"n": 1}, "generated"), ({"source": noise(train=1)}, "reference"), ({"source": noise(test=1)}, "held-out")],
)
def test_too_few_images_are_refused_before_any_is_read(counts, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path))
    stand = Stand()
    with pytest.raises(ValueError, match=f"1 {kind} images are too few for 1 features: take 2 or more"):
        by(stand, **{"source": noise(), **counts})
    assert stand.read == 0 and not list(tmp_path.iterdir())


def test_progress_names_each_set_that_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path))
    told, source = [], noise(train=140)
    by(Stand(), source, progress=lambda *said: told.append(said))
    real = [("test", 0, 20), ("train", 0, 140), ("train", 100, 140)]
    drawn = [("generated", 0, 30), ("untrained", 0, 30)]
    assert told == drawn + real
    by(Stand(), source, progress=lambda *said: told.append(said))
    assert told == drawn + real + drawn


# Points


def test_points_of_the_mixture_itself_cover_it():
    ring = mixtures.ring()

    class Model:
        @staticmethod
        def sample(key, state, n, label):
            return mixtures.sample(ring, key, (n,))

    card = evaluation.points(Model, ring)(jax.random.key(0), None, 2500)
    assert card["modes"]["covered"] == card["reference"]["modes"] == 8
    assert card["modes"]["high_quality"] > 0.97


@pytest.mark.slow
def test_the_score_of_points_of_the_mixture_itself_is_the_noise_of_sampling():
    ring = mixtures.ring()

    class Model:
        @staticmethod
        def sample(key, state, n):
            return mixtures.sample(ring, key, (n,)) + state[None, :]

    score = evaluation.score_points(Model, ring, samples=2000)
    same, shifted = (score(jax.random.key(0), np.array([offset, 0.0], np.float32)) for offset in (0.0, 0.5))
    # A shift by v moves each projection by θ·v, whose mean size on the circle is 2|v|/π.
    assert same["sliced_wasserstein"] < 0.05
    np.testing.assert_allclose(shifted["sliced_wasserstein"], 2 * 0.5 / np.pi, rtol=0.15)
    assert (same["modes"], shifted["high_quality"]) == (8, 0.0)
    assert next(iter(same)) == "sliced_wasserstein"  # by which a run is stopped


@pytest.mark.slow
def test_the_score_of_images_is_the_cards_distance_and_sees_a_collapse():
    _, source, _ = tiny("digits")

    class Model:
        classes = 0

        @staticmethod
        def sample(key, state, n):
            index = jax.random.randint(key, (n,), 0, state)
            return images.to_float(source.test.image)[index]

    score = evaluation.score_images(Model, source, samples=600, reference=1500)
    many, one = (score(jax.random.key(0), many) for many in (1000, 1))
    assert many["frechet"] < 0.05 * one["frechet"]
    assert many["diversity"] > 0.8 and many["coverage"] > 0.8
    assert one["diversity"] < 0.01 and one["coverage"] < 0.05


def test_samples_that_are_not_finite_have_no_score():
    _, source, _ = tiny("digits")

    class Model:
        @staticmethod
        def sample(key, state, n):
            return np.full((n, *state.shape), np.nan) + state[None]

    for score, shape in (
        (evaluation.score_images(Model, source, samples=10), (28, 28, 1)),
        (evaluation.score_points(Model, mixtures.ring(), samples=10), (2,)),
    ):
        assert all(np.isnan(value) for value in score(jax.random.key(0), np.zeros(shape)).values())


def test_images_that_no_extractor_reads_have_no_score():
    _, source, _ = tiny("digits")
    assert evaluation.score_images(None, source._replace(name="folder:somewhere")) is None
