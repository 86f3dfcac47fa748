"""The card of an extractor that can be computed by hand."""

import copy

import numpy as np
import pytest

from gan_jax.metrics import card
from gan_jax.metrics.features import Extractor

CORNERS = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)


def toy(images):
    """Features are the first two pixels; the logits favour the class that the third pixel names."""
    flat = np.asarray(images).reshape(len(images), -1)
    logits = np.log(0.7) * np.ones((len(images), 3))
    logits[np.arange(len(images)), flat[:, 2].astype(int)] = np.log(2.6)
    return flat[:, :2], logits.astype(np.float32)


EXTRACTOR = Extractor("toy", "abc", 2, {"test_accuracy": 1.0, "size": 1, "channels": 3, "classes": 3}, toy)


def pictures(mean, classes):
    """Two squares of corners, one twice the other, about a mean in the plane of features."""
    points = np.concatenate([CORNERS, 2 * CORNERS]) + np.float32(mean)
    named = np.tile(np.asarray(classes, np.float32), 2)[:, None]
    return (np.concatenate([points, named], axis=1)).reshape(8, 1, 1, 3)


def measured(reference, held_out, generated, untrained, asked=None, extractor=EXTRACTOR):
    """Return the card of four sets of pictures. The toy's pixels are features: they need not lie in [-1, 1]."""
    (real, _), (unseen, _), (made, logits), (before, _) = map(toy, (reference, held_out, generated, untrained))
    odds = np.exp(logits)
    return card.images(extractor, real, unseen, made, before, odds / odds.sum(axis=1, keepdims=True), asked)


def test_by_hand():
    reference = pictures((0, 0), [0, 1, 2, 0])
    made = measured(
        reference,
        held_out=pictures((1, 0), [0, 1, 2, 0]),
        generated=pictures((2, 0), [0, 0, 0, 1]),
        untrained=pictures((0, 5), [0, 0, 0, 0]),
        asked=np.array([0, 0, 2, 1] * 2),
    )
    # Equal covariances: the distance is that of the means, squared.
    expected = {"generator": 4, "untrained": 25, "real": 1, "gap_closed": 21 / 24}
    assert made["frechet"] == pytest.approx(expected, abs=1e-6)
    assert made["classes"] == {"covered": 2, "largest_share": 0.75, "shares": [0.75, 0.25, 0.0]}
    assert made["confidence"] == pytest.approx(2.6 / 4.0)
    assert made["label_accuracy"] == 0.75
    assert made["extractor"] == {"name": "toy", "sha256": "abc", "test_accuracy": 1.0}
    assert made["counts"] == {"reference": 8, "held_out": 8, "samples": 8}
    # Each image's odds are 26 : 7 : 7, and three in four name class 0.
    each, all_in_all = np.array([26, 7, 7]) / 40, (3 * np.array([26, 7, 7]) + np.array([7, 26, 7])) / 160
    for name, law in (("conditional_entropy", each), ("marginal_entropy", all_in_all)):
        assert made["inception"][name] == pytest.approx(-np.sum(law * np.log(law)), rel=1e-5)


def test_the_data_themselves_are_precise_and_complete_and_copies():
    reference = pictures((0, 0), [0, 1, 2, 0])
    shifted = pictures((0.1, 0), [0, 1, 2, 0])
    made = measured(reference, shifted, reference, pictures((9, 9), [0, 0, 0, 0]))
    assert [made["coverage"][name] for name in ("precision", "recall", "coverage")] == [1, 1, 1]
    assert made["memory"] == {"ratio": 0.0, "share": 1.0}
    assert made["frechet"]["gap_closed"] > 1  # nearer to the data than unseen data are


def test_labels_are_judged_only_where_some_were_asked_for():
    same = pictures((0, 0), [0, 1, 2, 0])
    made = measured(same, pictures((1, 0), [0, 0, 0, 0]), same, pictures((3, 0), [0, 0, 0, 0]))
    assert "label_accuracy" not in made
    assert made["frechet"]["gap_closed"] == pytest.approx(9 / 8)


def test_an_extractor_of_other_classes_says_nothing_of_them():
    """And what its record says of its file stands on the card."""
    record = {"file": "w.pth", "file_sha256": "cd", "standard": False, "preprocessing": "p"}
    sides = [pictures((mean, 0), [0, 1, 2, 0]) for mean in range(4)]
    own = measured(*sides, np.zeros(8, int))
    made = measured(*sides, np.zeros(8, int), EXTRACTOR._replace(record=record))
    assert set(own) - set(made) == {"classes", "confidence", "label_accuracy"}
    assert {name: made[name] for name in made if name != "extractor"} == {
        name: own[name] for name in made if name != "extractor"
    }
    about = {"file_sha256": "cd", "standard": False, "preprocessing": "p"}
    assert made["extractor"] == {"name": "toy", "sha256": "abc", **about}


@pytest.mark.parametrize(("place", "kind"), [(0, "reference"), (1, "held-out"), (2, "generated")])
def test_fewer_images_than_features_are_refused(place, kind):
    sides = [pictures((0, 0), [0, 1, 2, 0]) for _ in range(4)]
    sides[place] = sides[place][:2]
    sides[3] = sides[3][: len(sides[2])]
    with pytest.raises(ValueError, match=f"2 {kind} images are too few for 2 features: take 3 or more"):
        measured(*sides)


COMPLETE = {
    "seed": 0,
    "n": 10,
    "step": 0,
    "measured": {
        "frechet": {},
        "extractor": {"sha256": "ab"},
        "counts": {"reference": 1, "held_out": 2, "samples": 3},
        "reference": {"data": "d", "sha256": "cd", "split": "train", "held_out": "test", "preprocessing": "p"},
    },
    "provenance": {"versions": {"jax": "1"}, "code": {"sha256": "ef"}},
}
PLACES = [
    *(("seed",), ("n",), ("step",), ("provenance", "versions"), ("provenance", "code", "sha256")),
    *(("measured", "extractor", "sha256"), ("measured", "reference", "split"), ("measured", "counts", "samples")),
    ("measured", "reference", "preprocessing"),
]


@pytest.mark.parametrize("place", PLACES, ids=".".join)
@pytest.mark.parametrize("nothing", ["", None, {}], ids=repr)
def test_no_score_without_its_protocol(place, nothing):
    card.check(COMPLETE)
    lacking = copy.deepcopy(COMPLETE)
    at = lacking
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = nothing
    with pytest.raises(ValueError, match=f"the metric card lacks {'.'.join(place)}"):
        card.check(lacking)


@pytest.mark.parametrize("score", ["frechet", "modes"])
def test_a_distance_names_what_it_is_from_and_other_measures_need_not(score):
    card.check({**COMPLETE, "measured": {"accuracy": 0.9}})
    with pytest.raises(ValueError, match="seed"):
        card.check({"measured": {"accuracy": 0.9}})
    with pytest.raises(ValueError, match=r"the metric card lacks measured\.(extractor|reference)"):
        card.check({**COMPLETE, "measured": {score: {}}})
    mixture = {"modes": {}, "reference": {"data": "ring", "modes": 8, "std": 0.02}}
    card.check({**COMPLETE, "measured": mixture})
