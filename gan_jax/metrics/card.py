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
# Without these a score cannot be compared with another; each is a place in the card, and some a score's own need.
_NEEDED = ("seed", "n", "step", "provenance.versions", "provenance.code.sha256")
_NEEDED_FOR = {
    "modes": ("reference.data", "reference.modes", "reference.std"),
    "frechet": (
        "extractor.sha256",
        *("counts.reference", "counts.held_out", "counts.samples"),
        *("reference.data", "reference.sha256", "reference.split", "reference.held_out", "reference.preprocessing"),
    ),
}
_RECORDED = ("test_accuracy", "file_sha256", "standard", "preprocessing")  # of an extractor, where its record says so


def images(
    extractor: Extractor,
    reference: Float[np.ndarray, "N F"],
    held_out: Float[np.ndarray, "M F"],
    generated: Float[np.ndarray, "n F"],
    untrained: Float[np.ndarray, "n F"],
    probabilities: Float[np.ndarray, "n C"],
    asked: Int[np.ndarray, " n"] | None = None,
) -> Mapping[str, Any]:
    """Return the card's measures of generated images, from the features of four sets of images.

    Args:
        extractor: what the features were taken with.
        reference: of real images, the training split, that all three distances are measured to.
        held_out: of real images that were not trained on.
        generated, untrained: of samples of the trained generator, and of the same network with initial values.
        probabilities: of the extractor's classes, for the generated images.
        asked: the labels that the generated images were asked for, if any.

    Returns:
        frechet: the three distances, and `gap_closed`, the share of the way from the untrained generator to real
            images that training went. kid: the kernel distance of the generator and of real images, with standard
            errors. coverage: precision and recall at 3 neighbours, density and coverage at
            5, of at most 10,000 images a side. inception: the score in this extractor's classes, and the two entropies
            behind it, in nats. memory: how much nearer than held-out images the generated ones are to the training
            set. And of an extractor whose classes are those of the data (its record names them), classes: the share of
            samples that it sees in each class, how many classes have any, and the largest share. confidence: the median
            of its highest probability. label_accuracy: the share of samples seen as what was asked for; only with
            `asked`.

    Raises:
        ValueError: as `require_enough` does.
    """
    require_enough(extractor, reference=len(reference), held_out=len(held_out), generated=len(generated))
    target = frechet.moments(reference)
    trained, before, floor = (
        frechet.distance(frechet.moments(features), target) for features in (generated, untrained, held_out)
    )
    near, wide = (coverage(reference[:_MOST], generated[:_MOST], neighbours=neighbours) for neighbours in (3, 5))
    copies = memory(generated, reference, held_out)
    uncertain = entropies(probabilities)
    card = {
        "extractor": {
            "name": extractor.name,
            "sha256": extractor.digest,
            **{name: extractor.record[name] for name in _RECORDED if name in extractor.record},
        },
        "counts": {"reference": len(reference), "held_out": len(held_out), "samples": len(generated)},
        "frechet": {
            "generator": trained,
            "untrained": before,
            "real": floor,
            "gap_closed": (before - trained) / (before - floor),
        },
        "kid": {
            name: _kid(features, reference)._asdict()
            for name, features in (("generator", generated), ("real", held_out))
        },
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
    }
    return {**card, **_seen(probabilities, asked)} if "classes" in extractor.record else card


def _seen(probabilities: np.ndarray, asked: np.ndarray | None) -> dict[str, Any]:
    """What the extractor takes the samples for."""
    seen = probabilities.argmax(axis=1)
    shares = np.bincount(seen, minlength=probabilities.shape[1]) / len(seen)
    card = {
        "classes": {
            "covered": int((shares > 0).sum()),
            "largest_share": float(shares.max()),
            "shares": [float(share) for share in shares],
        },
        "confidence": float(np.median(probabilities.max(axis=1))),
    }
    return card if asked is None else {**card, "label_accuracy": float((seen == asked).mean())}


def require_enough(extractor: Extractor, **counts: int) -> None:
    """Refuse fewer images of some kind than features: their covariance would be singular.

    Raises:
        ValueError: the first kind of which there are too few.
    """
    for name, count in counts.items():
        if count <= extractor.features:
            few = f"{count} {name.replace('_', '-')} images are too few for {extractor.features} features"
            raise ValueError(f"{few}: take {extractor.features + 1} or more")


def _kid(features: np.ndarray, real: np.ndarray) -> KID:
    """The kernel distance in blocks of the published size, or of half the samples: an error takes two."""
    return kid(features, real, block=min(_BLOCK, len(features) // 2, len(real) // 2))


def check(card: Mapping[str, Any]) -> None:
    """Check that a card says all that its numbers depend on: no score is shown without its protocol.

    Raises:
        ValueError: the first place that is missing.
    """
    measured = card.get("measured", {})
    own = [f"measured.{place}" for score, places in _NEEDED_FOR.items() if score in measured for place in places]
    for place in (*_NEEDED, *own):
        at: Any = card
        for name in place.split("."):
            at = at.get(name) if isinstance(at, Mapping) else None
        if at is None or at in ("", {}):
            raise ValueError(f"the metric card lacks {place}, without which its scores cannot be compared")
