"""The measured half of a metric card: what a generator of images is worth, and against what.

A distance means nothing without its scale, so three stand together: the generator's, that of an
untrained one, and that of real images that the generator was not trained on.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gan_jax.metrics import frechet
from gan_jax.metrics.coverage import coverage
from gan_jax.metrics.entropy import entropies, inception_score
from gan_jax.metrics.features import Extractor
from gan_jax.metrics.kernel import KID, kid
from gan_jax.metrics.memory import memory

_BLOCK = 1000  # of the kernel distance: its published size
_MOST = 10_000  # samples of each side whose neighbours are sought: the cost is quadratic
# Without these a score cannot be compared with another; each is a place in the card.
_NEEDED = ("seed", "n", "step", "measured.reference", "provenance.versions", "provenance.code.sha256")
_NEEDED_OF_IMAGES = tuple(
    f"measured.{name}"
    for name in (
        "extractor.sha256",
        *("counts.reference", "counts.held_out", "counts.samples"),
        *("reference.data", "reference.sha256", "reference.split", "reference.held_out", "reference.preprocessing"),
    )
)


def images(
    extractor: Extractor,
    reference: Float[np.ndarray, "N H W C"],
    held_out: Float[np.ndarray, "M H W C"],
    generated: Float[np.ndarray, "n H W C"],
    untrained: Float[np.ndarray, "n H W C"],
    asked: Int[np.ndarray, " n"] | None = None,
) -> Mapping[str, Any]:
    """Return the card's measures of generated images; all images lie in [-1, 1].

    Args:
        extractor: of the data's family.
        reference: real images, the training split, that all three distances are measured to.
        held_out: real images that were not trained on.
        generated, untrained: samples of the trained generator, and of the same network with initial values.
        asked: the labels that the generated images were asked for, if any.

    Returns:
        frechet: the three distances, and `gap_closed`, the share of the way from the untrained generator to real
            images that training went. kid: the kernel distance of the generator and of real images, with standard
            errors. coverage: precision and recall at 3 neighbours, density and coverage at
            5, of at most 10,000 images a side. inception: the score in this extractor's classes, and the two entropies
            behind it, in nats. memory: how much nearer than held-out images the generated ones are to the training
            set. classes: the share of samples that the extractor sees in each class, how many classes have any, and the
            largest share. confidence: the median of the extractor's highest probability. label_accuracy: the share of
            samples seen as what was asked for; only with `asked`.

    Raises:
        ValueError: fewer images of some kind than features, whose covariance would be singular.
    """
    real, _ = extractor.all(reference)
    for name, given in (("reference", reference), ("held-out", held_out), ("generated", generated)):
        if len(given) <= real.shape[1]:
            raise ValueError(
                f"{len(given)} {name} images are too few for {real.shape[1]} features: take {real.shape[1] + 1} or more"
            )
    target = frechet.moments(real)
    made, probabilities = extractor.all(generated)
    unseen, _ = extractor.all(held_out)
    trained, before, floor = (
        frechet.distance(frechet.moments(features), target) for features in (made, extractor.all(untrained)[0], unseen)
    )
    near, wide = (coverage(real[:_MOST], made[:_MOST], neighbours=neighbours) for neighbours in (3, 5))
    copies = memory(made, real, unseen)
    uncertain = entropies(probabilities)
    seen = probabilities.argmax(axis=1)
    shares = np.bincount(seen, minlength=probabilities.shape[1]) / len(seen)
    card = {
        "extractor": {
            "name": extractor.name,
            "sha256": extractor.digest,
            "test_accuracy": extractor.record.get("test_accuracy"),
        },
        "counts": {"reference": len(reference), "held_out": len(held_out), "samples": len(generated)},
        "frechet": {
            "generator": trained,
            "untrained": before,
            "real": floor,
            "gap_closed": (before - trained) / (before - floor),
        },
        "kid": {name: _kid(some, real)._asdict() for name, some in (("generator", made), ("real", unseen))},
        "coverage": {
            "precision": near.precision,
            "recall": near.recall,
            "density": wide.density,
            "coverage": wide.coverage,
        },
        "inception": {
            "score": inception_score(probabilities, splits=min(10, len(probabilities)))._asdict(),
            "conditional_entropy": uncertain.conditional,
            "marginal_entropy": uncertain.marginal,
        },
        "memory": {"ratio": copies.ratio, "share": copies.share},
        "classes": {
            "covered": int((shares > 0).sum()),
            "largest_share": float(shares.max()),
            "shares": [float(share) for share in shares],
        },
        "confidence": float(np.median(probabilities.max(axis=1))),
    }
    return card if asked is None else {**card, "label_accuracy": float((seen == asked).mean())}


def _kid(features: np.ndarray, real: np.ndarray) -> KID:
    """The kernel distance in blocks of the published size, or of half the samples: an error takes two."""
    return kid(features, real, block=min(_BLOCK, len(features) // 2, len(real) // 2))


def check(card: Mapping[str, Any]) -> None:
    """Check that a card says all that its numbers depend on: no score is shown without its protocol.

    Raises:
        ValueError: the first place that is missing.
    """
    places = _NEEDED + (_NEEDED_OF_IMAGES if "frechet" in card.get("measured", {}) else ())
    for place in places:
        at: Any = card
        for name in place.split("."):
            at = at.get(name) if isinstance(at, Mapping) else None
        if at is None or at in ("", {}):
            raise ValueError(f"the metric card lacks {place}, without which its scores cannot be compared")
