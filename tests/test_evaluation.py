"""Which samples are measured, and against what."""

import jax
import numpy as np

from gan_jax import evaluation
from gan_jax.data import images, mixtures
from gan_jax.metrics import features
from gan_jax.training import lookup


def tiny(data, **fields):
    """A GAN of images at its smallest, its source and an initial state."""
    module = lookup.load(lookup.find("mnist_dcgan"))
    program = module.build(module.Config(batch=2, width=2, **fields), data)
    return program, images.load(data, size=28), program.init(jax.random.key(0))


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


def test_a_conditional_gan_is_asked_for_each_class_equally_often(monkeypatch):
    program, _, state = tiny("digits", conditional=True)
    asked = []
    monkeypatch.setattr(
        evaluation, "draw", lambda sample, key, state, n, label: asked.append(label) or np.zeros((n, 28, 28, 1))
    )
    card = program.measure(jax.random.key(0), state, 150)
    assert all(np.array_equal(np.bincount(label), np.full(10, 15)) for label in asked)
    assert 0 <= card["label_accuracy"] <= 1


def test_samples_are_drawn_in_batches_of_their_own_keys():
    program, _, state = tiny("digits")

    key = jax.random.key(3)
    many = evaluation.draw(program.sample, key, state, 700)
    assert many.shape == (700, 28, 28, 1)
    np.testing.assert_array_equal(evaluation.draw(program.sample, key, state, 510), many[:510])
    assert not np.array_equal(many[:200], many[500:])


def test_points_of_the_mixture_itself_cover_it():
    ring = mixtures.ring()

    class Model:
        @staticmethod
        def sample(key, state, n, label):
            return mixtures.sample(ring, key, (n,))

    card = evaluation.points(Model, ring)(jax.random.key(0), None, 2500)
    assert card["modes"]["covered"] == card["reference"]["modes"] == 8
    assert card["modes"]["high_quality"] > 0.97
