"""How sure a classifier is of samples, and how evenly it sees its classes: the Inception score and its two halves."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gan_jax.metrics._samples import require_samples, shuffled

_TOLERANCE = 1e-3  # of a row's sum: half precision's


class Score(NamedTuple):
    """The mean of the Inception score over the parts of the samples, and the deviation among these."""

    mean: float
    std: float


class Entropies(NamedTuple):
    """In nats, in [0, log C].

    conditional: E H(p(y|x)), 0 where the classifier is sure of each sample.
    marginal: H(E p(y|x)), log C where it sees all classes equally often.
    """

    conditional: float
    marginal: float


def entropy(probabilities: Float[np.ndarray, "*shape C"]) -> Float[np.ndarray | np.floating, "*shape"]:
    """Compute H(p) = −Σ p log p in nats over the last axis, with 0 log 0 = 0."""
    return -np.sum(probabilities * np.log(np.where(probabilities > 0, probabilities, 1.0)), axis=-1)


def entropies(probabilities: Float[np.ndarray, "N C"]) -> Entropies:
    """Compute the two entropies of class probabilities [N, C], in float64.

    Their gap is the mutual information of sample and class, the logarithm of the Inception score.

    Raises:
        ValueError: no samples, or rows that are no probabilities.
    """
    probabilities = _checked(probabilities)
    return Entropies(float(entropy(probabilities).mean()), float(entropy(probabilities.mean(axis=0))))


def inception_score(probabilities: Float[np.ndarray, "N C"], *, splits: int = 10, seed: int = 0) -> Score:
    """Compute exp E KL(p(y|x) ‖ p(y)), in [1, C]: high where each sample has a sure class, and all classes occur.

    The mean and the deviation (not the standard error) over equal parts of the samples in a random order, as in
    torch-fidelity; torchmetrics divides the variance by splits − 1. A part of n samples has a score of at most n, and
    a smaller part a smaller one: scores compare at one number of samples and of splits, and within one classifier.

    Args:
        probabilities: [N, C] of the classes given each sample.
        splits: how many parts.
        seed: of the order, without which parts of samples in an order (by class) would be none of the whole.

    Raises:
        ValueError: splits that are not from 1 to N, or rows that are no probabilities.

    Salimans et al. 2016 (arXiv 1606.03498).
    """
    probabilities = _checked(probabilities)
    if not 1 <= splits <= len(probabilities):
        raise ValueError(f"splits={splits}: give 1 to {len(probabilities)}, the number of samples")
    halves = (entropies(part) for part in np.array_split(shuffled(probabilities, seed), splits))
    scores = np.exp([marginal - conditional for conditional, marginal in halves])
    return Score(float(scores.mean()), float(scores.std()))


def _checked(probabilities: np.ndarray) -> np.ndarray:
    require_samples(probabilities=probabilities)
    probabilities = np.asarray(probabilities, np.float64)
    sums = probabilities.sum(axis=1)
    worst = sums[np.abs(sums - 1).argmax()]
    if probabilities.min() < 0:
        raise ValueError(f"probabilities has a value of {probabilities.min():g}: give those of a softmax")
    if abs(worst - 1) > _TOLERANCE:
        raise ValueError(f"probabilities has a row with the sum {worst:g}: give those of a softmax")
    return probabilities
