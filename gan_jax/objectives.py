"""What each player minimises: pairs of functions of logits, `(real [B], fake [B]) -> [B]`.

Logits, never probabilities: D = σ(logit), and every logarithm is a softplus, so values and slopes
are finite wherever float32 is. The mean over the batch is the caller's.
"""

from collections.abc import Callable
from functools import wraps

import chex
import jax.numpy as jnp
from jax.nn import relu, softplus
from jaxtyping import Array, Float

from gan_jax.arithmetic import allowed
from gan_jax.base import Objective

Logits = Float[Array, " B"]
Label = int | float | Float[Array, ""]


def minimax(smoothing: Label = 0.0) -> Objective:
    """Make the saturating, zero-sum pair: min over G, max over D of E log D(x) + E log(1 − D(G(z))).

    The generator keeps the only term that it moves, log(1 − D) = −softplus(fake); its slope vanishes
    where the discriminator is sure of a fake.

    Args:
        smoothing: ε in [0, 1), real examples are labelled 1 − ε (one-sided; Salimans et al. 2016, section 3.4).

    Raises:
        ValueError: a smoothing outside [0, 1).

    Goodfellow et al. 2014 (arXiv 1406.2661), eq. 1.
    """
    return checked(
        generator=lambda real, fake: -_cross_entropy(fake, 0.0),
        discriminator=_classifier(_cross_entropy, smoothing),
    )


def non_saturating(smoothing: Label = 0.0) -> Objective:
    """Make the pair whose generator maximises E log D(G(z)): its loss is softplus(−fake), of slope −σ(−fake).

    The discriminator is that of `minimax`. The two generators share a fixed point, not the dynamics.

    Args:
        smoothing: ε in [0, 1), real examples are labelled 1 − ε (one-sided; Salimans et al. 2016, section 3.4).

    Raises:
        ValueError: a smoothing outside [0, 1).

    Goodfellow et al. 2014 (arXiv 1406.2661), section 3.
    """
    return checked(
        generator=lambda real, fake: _cross_entropy(fake, 1.0),
        discriminator=_classifier(_cross_entropy, smoothing),
    )


def wasserstein() -> Objective:
    """Make the zero-sum pair of a critic: it minimises fake − real, the generator −fake.

    The negated discriminator's mean is the distance W₁ only for a 1-Lipschitz critic, which is the
    business of `gan_jax.penalties`.

    Arjovsky et al. 2017 (arXiv 1701.07875), eq. 2.
    """
    return checked(generator=lambda real, fake: -fake, discriminator=lambda real, fake: fake - real)


def hinge() -> Objective:
    """Make the margin pair: max(0, 1 − real) + max(0, 1 + fake), against −fake for the generator.

    Lim & Ye 2017 (arXiv 1705.02894); Miyato et al. 2018 (arXiv 1802.05957), eqs. 16 and 17.
    """
    return checked(
        generator=lambda real, fake: -fake,
        discriminator=lambda real, fake: relu(1.0 - real) + relu(1.0 + fake),
    )


def least_squares(smoothing: Label = 0.0) -> Objective:
    """Make LSGAN's pair with labels a = 0, b = 1, c = 1: ½(real − 1)² + ½ fake², against ½(fake − 1)².

    The "logit" is the regressed label itself: the undecided critic says ½, not 0.

    Args:
        smoothing: ε in [0, 1), b = 1 − ε while a and c stay (one-sided; Salimans et al. 2016, section 3.4).

    Raises:
        ValueError: a smoothing outside [0, 1).

    Mao et al. 2017 (arXiv 1611.04076), eq. 9.
    """
    return checked(
        generator=lambda real, fake: _squared_error(fake, 1.0),
        discriminator=_classifier(_squared_error, smoothing),
    )


def relativistic() -> Objective:
    """Make the pairwise relativistic pair (RpGAN): softplus(fake − real), against softplus(real − fake).

    Both depend on the difference within each pair alone, so the i-th real and the i-th fake belong
    together; the critic's level is free. This is the loss of R3GAN, there with `r1` and `r2`.

    Jolicoeur-Martineau 2018 (arXiv 1807.00734), section 4; Huang et al. 2024 (arXiv 2501.05441), eq. 2.
    """
    return checked(
        generator=lambda real, fake: softplus(real - fake),
        discriminator=lambda real, fake: softplus(fake - real),
    )


def _cross_entropy(logits: Logits, label: Label) -> Logits:
    # Not softplus(x) − label·x: its difference of large numbers rounds small slopes to zero.
    return label * softplus(-logits) + (1.0 - label) * softplus(logits)


def _squared_error(logits: Logits, label: Label) -> Logits:
    return 0.5 * jnp.square(logits - label)


def _classifier(loss: Callable[[Logits, Label], Logits], smoothing: Label) -> Callable[[Logits, Logits], Logits]:
    """Label real examples 1 − smoothing and fakes 0: a smoothed fake side would reward present errors."""
    if not allowed(smoothing, lambda share: 0 <= share < 1):
        raise ValueError(f"smoothing={smoothing} is outside [0, 1): 0 is none, 0.1 labels real examples 0.9")
    return lambda real, fake: loss(real, 1.0 - smoothing) + loss(fake, 0.0)


def checked(
    generator: Callable[[Logits, Logits], Logits], discriminator: Callable[[Logits, Logits], Logits]
) -> Objective:
    """Make an objective of a generator's and a discriminator's function of (real [B], fake [B]); no other shape passes.

    [4] against [4, 1] would otherwise broadcast to [4, 4] in silence.

    Raises (when called):
        AssertionError: logits that are not two vectors of one length.
    """

    def door(loss: Callable[[Logits, Logits], Logits]) -> Callable[[Logits, Logits], Logits]:
        @wraps(loss)
        def per_example(real: Logits, fake: Logits) -> Logits:
            chex.assert_rank([real, fake], 1)
            chex.assert_equal_shape([real, fake])
            return loss(real, fake)

        return per_example

    return Objective(generator=door(generator), discriminator=door(discriminator))


OBJECTIVES = {f.__name__: f for f in (minimax, non_saturating, wasserstein, hinge, least_squares, relativistic)}
