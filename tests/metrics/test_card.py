"""The card of an extractor that can be computed by hand."""

import numpy as np
import pytest

from gan_jax.metrics import card
from gan_jax.metrics.features import Extractor


def toy(images):
    """Features are the first two pixels; the logits favour the class that the third pixel names."""
    flat = np.asarray(images).reshape(len(images), -1)
    logits = np.log(0.7) * np.ones((len(images), 3))
    logits[np.arange(len(images)), flat[:, 2].astype(int)] = np.log(2.6)
    return flat[:, :2], logits.astype(np.float32)


def pictures(mean, classes):
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32) + np.float32(mean)
    return np.concatenate([corners, np.asarray(classes, np.float32)[:, None]], axis=1).reshape(4, 1, 1, 3)


def test_by_hand():
    extractor = Extractor("toy", "abc", {"test_accuracy": 1.0}, toy)
    reference = pictures((0, 0), [0, 1, 2, 0])
    made = card.images(
        extractor,
        reference,
        held_out=pictures((1, 0), [0, 1, 2, 0]),
        generated=pictures((2, 0), [0, 0, 0, 1]),
        untrained=pictures((0, 5), [0, 0, 0, 0]),
        asked=np.array([0, 0, 2, 1]),
    )
    # Equal covariances: the distance is that of the means, squared.
    expected = {"generator": 4, "untrained": 25, "real": 1, "gap_closed": 21 / 24}
    assert made["frechet"] == pytest.approx(expected, abs=1e-6)
    assert made["classes"] == {"covered": 2, "largest_share": 0.75, "shares": [0.75, 0.25, 0.0]}
    assert made["confidence"] == pytest.approx(2.6 / 4.0)
    assert made["label_accuracy"] == 0.75
    assert made["extractor"] == {"name": "toy", "sha256": "abc", "test_accuracy": 1.0}
    assert made["counts"] == {"reference": 4, "held_out": 4, "samples": 4}


def test_labels_are_judged_only_where_some_were_asked_for():
    extractor = Extractor("toy", "abc", {}, toy)
    same = pictures((0, 0), [0, 1, 2, 0])
    made = card.images(extractor, same, pictures((1, 0), [0, 0, 0, 0]), same, pictures((3, 0), [0, 0, 0, 0]))
    assert "label_accuracy" not in made
    assert made["frechet"]["gap_closed"] == pytest.approx(9 / 8)  # nearer to the data than unseen data are
