"""The shipped extractors are what their records say."""

from importlib import resources

import numpy as np
import pytest

from gan_jax.data import images
from gan_jax.metrics import features

SHIPPED = sorted((resources.files("gan_jax.metrics") / "weights").iterdir())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_weights_are_small_and_their_record_is_whole(path):
    assert path.stat().st_size < 2e6
    record = features.read(path).record
    assert record["test_accuracy"] >= 0.99
    assert {"family", "trained_on", "command", "sha256"} <= set(record)


def test_the_extractor_of_digits_reads_the_embedded_digits():
    source = images.load("digits", size=28)
    extractor = features.extractor("digits")
    found, probabilities = extractor.all(np.asarray(images.to_float(source.test.image)))
    assert found.shape == (1000, 128)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=1) == source.test.label).mean() >= 0.99


def test_features_do_not_depend_on_how_the_images_are_batched():
    extractor = features.extractor("mnist")
    image = np.random.default_rng(0).uniform(-1, 1, (7, 28, 28, 1)).astype(np.float32)
    for one, other in zip(extractor.all(image, batch=3), extractor.all(image), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_changed_weight_is_noticed(tmp_path):
    with np.load(SHIPPED[0]) as file:
        arrays = {name: file[name] for name in file.files}
    name = next(name for name in arrays if name != "record")
    arrays[name] = arrays[name] + np.float16(1)
    np.savez(tmp_path / "digits.npz", **arrays)
    with pytest.raises(ValueError, match=r"digits\.npz holds weights with the hash"):
        features.read(tmp_path / "digits.npz")


def test_no_score_across_families():
    with pytest.raises(ValueError, match="'fashion_mnist'.*digits, mnist"):
        features.extractor("fashion_mnist")
