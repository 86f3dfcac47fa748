"""The measured half of a metric card: what a generator of images is worth, and against what.

A distance means nothing without its scale, so three stand together: the generator's, that of an
untrained one, and that of real images that the generator was not trained on.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gan_jax.metrics import frechet
from gan_jax.metrics.features import Extractor


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
            images that training went. classes: the share of samples that the extractor sees in each class, how many
            classes have any, and the largest share. confidence: the median of the extractor's highest probability.
            label_accuracy: the share of samples seen as what was asked for; only with `asked`.
    """
    real, _ = extractor.all(reference)
    target = frechet.moments(real)

    def distance(images: np.ndarray) -> tuple[float, np.ndarray]:
        features, probabilities = extractor.all(images)
        return frechet.distance(frechet.moments(features), target), probabilities

    trained, probabilities = distance(generated)
    before, _ = distance(untrained)
    floor, _ = distance(held_out)
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
        "classes": {
            "covered": int((shares > 0).sum()),
            "largest_share": float(shares.max()),
            "shares": [float(share) for share in shares],
        },
        "confidence": float(np.median(probabilities.max(axis=1))),
    }
    return card if asked is None else {**card, "label_accuracy": float((seen == asked).mean())}
