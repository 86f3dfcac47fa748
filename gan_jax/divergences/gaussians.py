"""Gaussians, and how far apart they are in closed form or by quadrature."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.nn import softplus
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from gan_jax.arithmetic import Scalar, require_positive, safe_sqrt


class Normal(NamedTuple):
    """A Gaussian on the line: its mean and its standard deviation."""

    mean: Scalar
    std: Scalar


class MultivariateNormal(NamedTuple):
    """A Gaussian of a mean [D] and a positive definite covariance [D, D]."""

    mean: Float[Array, " D"]
    covariance: Float[Array, "D D"]


def quadrature(p: Normal, *, nodes: int = 513, reach: float = 8.0) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Return points [N] and weights [N] of E_p: the trapezoidal rule, exact to rounding for smooth integrands.

    Args:
        p: a Gaussian on the line.
        nodes: how many points, N.
        reach: the standard deviations to either side; the weights sum to one whatever lies beyond.

    Raises:
        ValueError: fewer than two nodes, or a reach or a deviation that is not positive.
    """
    if nodes < 2:
        raise ValueError(f"nodes={nodes}: a trapezoidal rule has at least 2")
    require_positive(reach=reach)
    _check(p)
    standard = np.linspace(-reach, reach, nodes)
    weights = np.exp(-np.square(standard) / 2.0)
    return p.mean + p.std * jnp.asarray(standard), jnp.asarray(weights / weights.sum())


def multivariate_kl(p: MultivariateNormal, q: MultivariateNormal) -> Float[Array, ""]:
    """Compute KL(p‖q) = ½[tr(Σ_q⁻¹Σ_p) − D + log|Σ_q|/|Σ_p| + δᵀΣ_q⁻¹δ] of Gaussians, with δ the gap of their means.

    Args:
        p, q: of means [D] and covariances [D, D]. NaN if one is not positive definite.
    """
    root_p, root_q = (jnp.linalg.cholesky(covariance) for covariance in (p.covariance, q.covariance))
    # Triangular, so its diagonal has the determinants; summed by term, nothing cancels that is not small.
    relative = solve_triangular(root_q, root_p, lower=True)
    gap = solve_triangular(root_q, p.mean - q.mean, lower=True)
    excess = jnp.square(jnp.diagonal(relative)) - 1.0
    traces = jnp.sum(jnp.square(jnp.tril(relative, -1))) + jnp.sum(excess - jnp.log1p(excess))
    return 0.5 * (traces + jnp.sum(jnp.square(gap)))


def multivariate_squared_hellinger(p: MultivariateNormal, q: MultivariateNormal) -> Float[Array, ""]:
    """Compute ∫(√p − √q)² = 2 − 2·|Σ_p|^¼ |Σ_q|^¼ |Σ|^(−½) e^(−δᵀΣ⁻¹δ/8) of Gaussians, with Σ = (Σ_p + Σ_q)/2.

    Args:
        p, q: of means [D] and covariances [D, D]. NaN if one is not positive definite.
    """
    root_p, root_q, root = (
        jnp.linalg.cholesky(covariance)
        for covariance in (p.covariance, q.covariance, (p.covariance + q.covariance) / 2.0)
    )
    gap = solve_triangular(root, p.mean - q.mean, lower=True)
    determinants = 0.5 * (_log_diagonal(root_p) + _log_diagonal(root_q)) - _log_diagonal(root)
    return -2.0 * jnp.expm1(jnp.sum(determinants) - jnp.sum(jnp.square(gap)) / 8.0)


def kl(p: Normal, q: Normal) -> Array:
    """Compute KL(p‖q)."""
    _check(p, q)
    excess = jnp.square(p.std / q.std) - 1.0
    return 0.5 * (excess - jnp.log1p(excess) + jnp.square((p.mean - q.mean) / q.std))


def chi_square(p: Normal, q: Normal) -> Array:
    """∫p²/q − 1: infinite where q's tails are too light, at σ_p² ≥ 2σ_q²."""
    _check(p, q)
    gap, ratio = (p.mean - q.mean) / q.std, jnp.square(p.std / q.std)
    finite = ratio < 2.0
    room = jnp.where(finite, 2.0 - ratio, 1.0)
    logarithm = jnp.square(gap) / room - 0.5 * jnp.log(ratio * room)
    return jnp.where(finite, jnp.expm1(logarithm), jnp.inf)


def squared_hellinger(p: Normal, q: Normal) -> Array:
    """Compute ∫(√p − √q)²."""
    _check(p, q)
    scale = jnp.square(p.std) + jnp.square(q.std)
    widths = 0.5 * jnp.log1p(-jnp.square(p.std - q.std) / scale)  # of 2σ_pσ_q / (σ_p² + σ_q²)
    return -2.0 * jnp.expm1(widths - jnp.square(p.mean - q.mean) / (4.0 * scale))


def gan(p: Normal, q: Normal) -> Array:
    """E_p log D + E_q log(1 − D) at the optimal D = p/(p + q), each by a quadrature of its own Gaussian.

    A common grid would lose narrow Gaussians that are far apart. Values are right however far the means are apart;
    slopes by differentiation only up to about 15 deviations, as what they are made of lies between the means, and the
    quadrature reaches 8 to either side: at 16 the slope is 8.6e-15, where 1.56e-14 is right.
    """

    def log_share(one: Normal, other: Normal) -> Array:
        points, weights = quadrature(one)
        log_ratio = _log_density(one, points) - _log_density(other, points)
        return jnp.sum(weights * -softplus(-log_ratio))

    return log_share(p, q) + log_share(q, p)


def total_variation(p: Normal, q: Normal) -> Array:
    """P(A) − Q(A) for the set A where p exceeds q, an interval or its complement; half a line if equally wide."""
    _check(p, q)
    # In units of q, p is N(m, s²) and the densities cross at the roots of ax² + 2mx − c.
    m, s = (p.mean - q.mean) / q.std, jnp.asarray(p.std / q.std)
    a, c = jnp.square(s) - 1.0, jnp.square(m) + 2.0 * jnp.square(s) * jnp.log(s)
    root = s * safe_sqrt(jnp.square(m) + 2.0 * a * jnp.log(s))
    side = -(m + jnp.where(m < 0, -root, root))

    def excess(x: Array) -> Array:
        return ndtr((x - m) / s) - ndtr(x)

    near = excess(-c / jnp.where(side == 0, 1.0, side))
    far = jnp.where(a == 0, 0.0, excess(side / jnp.where(a == 0, 1.0, a)))
    return jnp.abs(near - far)


def _check(*laws: Normal) -> None:
    """Raise a ValueError unless the deviations are positive and finite, where they are known."""
    for law in laws:
        require_positive(std=law.std)


def _log_density(p: Normal, x: Array) -> Array:
    """Up to the constant that all Gaussians share."""
    return -0.5 * jnp.square((x - p.mean) / p.std) - jnp.log(p.std)


def _log_diagonal(root: Float[Array, "D D"]) -> Float[Array, " D"]:
    return jnp.log(jnp.diagonal(root))
