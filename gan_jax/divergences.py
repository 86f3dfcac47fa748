"""How far apart two distributions are: f-divergences and the games they yield, and integral probability metrics.

An f-divergence D_f(p‖q) = E_q f(p/q) has the variational bound E_p T − E_q f*(T) ≤ D_f(p‖q), tight at T = f'(p/q)
(Nguyen et al. 2008, arXiv 0809.0853; Nowozin et al. 2016, arXiv 1606.00709). A critic reaches it with raw outputs
v in R through an output activation g, T = g(v), and only g and f*∘g are ever computed in a game: closed forms that
are finite wherever float32 is. An integral probability metric is E_p h − E_q h at its largest over a class of
functions h, and depends on the distance between supports where every f-divergence has long saturated.

p is the data and q the generator. The squared Wasserstein-2 distance of Gaussians is `gan_jax.metrics.frechet`.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
from jax.nn import softplus
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import ndtr, xlog1py, xlogy
from jaxtyping import Array, Float

from gan_jax.base import Objective
from gan_jax.objectives import checked

Scalar = float | Float[Array, ""]
Kernel = Callable[[Float[Array, "N D"], Float[Array, "M D"]], Float[Array, "N M"]]
Elementwise = Callable[[Array], Array]


class Normal(NamedTuple):
    """A Gaussian on the line: its mean and its standard deviation."""

    mean: Scalar
    std: Scalar


class MultivariateNormal(NamedTuple):
    """A Gaussian of a mean [D] and a positive definite covariance [D, D]."""

    mean: Float[Array, " D"]
    covariance: Float[Array, "D D"]


class Divergence(NamedTuple):
    """An f-divergence and what a critic needs to bound it.

    f: a convex function of the density ratio u ≥ 0; f(1) = 0 but for `gan`.
    conjugate: f*(t), the supremum over u ≥ 0 of ut − f(u); +∞ outside its domain.
    activation: g, increasing, from raw outputs in R into the domain of the conjugate.
    composed: f*∘g of raw outputs, in a closed form that neither cancels nor overflows before its value does.
    optimal: the tight T = f'(p/q), as a function of log p/q.
    between: `(p, q) -> D_f(p‖q)` of two Gaussians on the line.
    limit: raw outputs in ±limit have finite values and slopes in float32.
    """

    f: Elementwise
    conjugate: Elementwise
    activation: Elementwise
    composed: Elementwise
    optimal: Elementwise
    between: Callable[[Normal, Normal], Float[Array, ""]]
    limit: float = math.inf


def kl() -> Divergence:
    """Make KL(p‖q): f = u log u, f* = e^(t−1), g = v, f*∘g = e^(v−1), tight at 1 + log r."""
    return Divergence(
        f=lambda u: xlogy(u, u),
        conjugate=lambda t: jnp.exp(t - 1.0),
        activation=lambda v: v,
        composed=lambda v: jnp.exp(v - 1.0),
        optimal=lambda log_ratio: 1.0 + log_ratio,
        between=_kl_between,
        limit=80.0,
    )


def reverse_kl() -> Divergence:
    """Make KL(q‖p): f = −log u, f* = −1 − log(−t) for t < 0, g = −e^(−v), f*∘g = v − 1, tight at −1/r."""
    return Divergence(
        f=lambda u: -jnp.log(u),
        conjugate=_extended(lambda t: -1.0 - jnp.log(-t), upper=0.0),
        activation=lambda v: -jnp.exp(-v),
        composed=lambda v: v - 1.0,
        optimal=lambda log_ratio: -jnp.exp(-log_ratio),
        between=lambda p, q: _kl_between(q, p),
        limit=80.0,
    )


def pearson() -> Divergence:
    """Make Pearson's χ², E_q (r − 1)²: f = (u − 1)², f* = t²/4 + t, g = v, tight at 2(r − 1).

    Below t = −2 no ratio u ≥ 0 attains the parabola and f* stays −f(0) = −1. The branch that the paper's table omits
    matters to the generator: the parabola's slope there would push fakes that are found out the wrong way.
    """

    def conjugate(t: Array) -> Array:
        clipped = jnp.maximum(t, -2.0)
        return jnp.square(clipped) / 4.0 + clipped

    return Divergence(
        f=lambda u: jnp.square(u - 1.0),
        conjugate=conjugate,
        activation=lambda v: v,
        composed=conjugate,
        optimal=lambda log_ratio: 2.0 * jnp.expm1(log_ratio),
        between=_chi_square_between,
        limit=1e18,
    )


def neyman() -> Divergence:
    """Make Neyman's χ², Pearson's of (q, p): f = (1 − u)²/u, f* = 2 − 2√(1 − t) for t ≤ 1.

    g = 1 − e^(−v), f*∘g = 2 − 2e^(−v/2), tight at 1 − 1/r².
    """
    return Divergence(
        f=lambda u: jnp.square(1.0 - u) / u,
        conjugate=_extended(lambda t: 2.0 - 2.0 * jnp.sqrt(1.0 - t), upper=1.0),
        activation=lambda v: -jnp.expm1(-v),
        composed=lambda v: -2.0 * jnp.expm1(-v / 2.0),
        optimal=lambda log_ratio: -jnp.expm1(-2.0 * log_ratio),
        between=lambda p, q: _chi_square_between(q, p),
        limit=80.0,
    )


def squared_hellinger() -> Divergence:
    """Make the squared Hellinger distance ∫(√p − √q)²: f = (√u − 1)², f* = t/(1 − t) for t < 1.

    g = 1 − e^(−v), f*∘g = e^v − 1, tight at 1 − 1/√r. Without the factor ½ of some authors: at most 2.
    """
    return Divergence(
        f=lambda u: jnp.square((u - 1.0) / (jnp.sqrt(u) + 1.0)),
        conjugate=_extended(lambda t: t / (1.0 - t), upper=1.0),
        activation=lambda v: -jnp.expm1(-v),
        composed=jnp.expm1,
        optimal=lambda log_ratio: -jnp.expm1(-log_ratio / 2.0),
        between=_squared_hellinger_between,
        limit=80.0,
    )


def jensen_shannon() -> Divergence:
    """Make 2·JS(p, q), the scale of Nowozin et al.: f = u log u − (u + 1) log((1 + u)/2).

    f* = −log(2 − e^t) for t < log 2, g = log 2 − softplus(−v), f*∘g = softplus(v) − log 2, tight at log(2r/(1 + r)).
    At most 2 log 2, reached by all distributions of disjoint supports, whatever lies between them. Gaussians are
    compared by quadrature, to 1e-6 unless one is over 20 times as wide as the other.
    """
    return Divergence(
        # u log(2u/(1 + u)) − log((1 + u)/2), by the excess over one: the definition cancels about u = 1.
        f=lambda u: xlog1py(u, (u - 1.0) / (u + 1.0)) - jnp.log1p((u - 1.0) / 2.0),
        conjugate=_extended(lambda t: -math.log(2.0) - jnp.log(-jnp.expm1(t - math.log(2.0))), upper=math.log(2.0)),
        activation=lambda v: math.log(2.0) - softplus(-v),
        composed=lambda v: softplus(v) - math.log(2.0),
        optimal=lambda log_ratio: math.log(2.0) - softplus(-log_ratio),
        between=lambda p, q: _gan_between(p, q) + 2.0 * math.log(2.0),
    )


def gan() -> Divergence:
    """Make 2·JS(p, q) − log 4, the value of the game of Goodfellow et al.: f = u log u − (u + 1) log(u + 1).

    f* = −log(1 − e^t) for t < 0, g = −softplus(−v), the logarithm of D = σ(v), f*∘g = softplus(v), tight at
    log(r/(1 + r)). It yields `objectives.minimax`, or `objectives.non_saturating`. Not zero between equals, but −log 4.
    """
    return Divergence(
        f=lambda u: -xlog1py(u, 1.0 / u) - jnp.log1p(u),
        conjugate=_extended(lambda t: -jnp.log(-jnp.expm1(t)), upper=0.0),
        activation=lambda v: -softplus(-v),
        composed=softplus,
        optimal=lambda log_ratio: -softplus(-log_ratio),
        between=_gan_between,
    )


def total_variation() -> Divergence:
    """Make the total variation ½∫|p − q|: f = ½|u − 1|, f* = t for |t| ≤ ½, g = ½ tanh v, tight at ½ sign(r − 1).

    Below t = −½ the conjugate stays −½. No finite raw output reaches the optimum.
    """
    return Divergence(
        f=lambda u: 0.5 * jnp.abs(u - 1.0),
        conjugate=_extended(lambda t: jnp.maximum(t, -0.5), upper=0.5),
        activation=lambda v: 0.5 * jnp.tanh(v),
        composed=lambda v: 0.5 * jnp.tanh(v),
        optimal=lambda log_ratio: 0.5 * jnp.sign(log_ratio),
        between=_total_variation_between,
    )


DIVERGENCES = {
    f.__name__: f for f in (kl, reverse_kl, pearson, neyman, squared_hellinger, jensen_shannon, gan, total_variation)
}


def divergence(name: str) -> Divergence:
    """Return the f-divergence of a name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DIVERGENCES:
        raise ValueError(f"unknown divergence {name!r}: there is {', '.join(DIVERGENCES)}")
    return DIVERGENCES[name]()


def objective(divergence: Divergence, *, saturating: bool = True) -> Objective:
    """Make the pair of an f-divergence: the critic minimises −g(real) + f*(g(fake)), the generator −f*(g(fake)).

    The saturating pair is zero-sum, and the negated mean of the critic's loss is the bound of `variational`. Both
    losses are finite for raw outputs in ±divergence.limit, and beyond it as far as their exponentials: real outputs
    may fall to −88 where g is one, and fakes rise to 88 where f*∘g is.

    Args:
        divergence: one of the catalogue's, or your own.
        saturating: False lets the generator minimise −g(fake) instead, as it does in `objectives.non_saturating`.

    Nowozin et al. 2016 (arXiv 1606.00709), section 3, and 3.2 for the alternative.
    """
    believed = divergence.composed if saturating else divergence.activation
    return checked(
        generator=lambda real, fake: -believed(fake),
        discriminator=lambda real, fake: divergence.composed(fake) - divergence.activation(real),
    )


def variational(
    divergence: Divergence,
    real: Float[Array, " N"],
    fake: Float[Array, " M"],
    *,
    real_weights: Float[Array, " N"] | None = None,
    fake_weights: Float[Array, " M"] | None = None,
) -> Float[Array, ""]:
    """Compute the bound E_p g(v) − E_q f*(g(v)) from raw outputs of a critic.

    It is below D_f(p‖q) as an expectation; an average over samples scatters to both sides of its own.

    Args:
        divergence: the f-divergence that is bounded.
        real: outputs [N] under p.
        fake: outputs [M] under q; of any other number than N.
        real_weights, fake_weights: of a quadrature, each summing to one; equal unless given.
    """
    chex.assert_rank([real, fake], 1)
    real_mean = jnp.average(divergence.activation(real), weights=real_weights)
    return real_mean - jnp.average(divergence.composed(fake), weights=fake_weights)


def quadrature(p: Normal, *, nodes: int = 513, reach: float = 8.0) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Return points [N] and weights [N] of E_p: the trapezoidal rule, exact to rounding for smooth integrands.

    Args:
        p: a Gaussian on the line.
        nodes: how many points, N.
        reach: the standard deviations to either side; the weights sum to one whatever lies beyond.

    Raises:
        ValueError: fewer than two nodes, or a reach that is not positive.
    """
    if nodes < 2:
        raise ValueError(f"nodes={nodes}: a trapezoidal rule has at least 2")
    _require_positive(reach=reach)
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


def wasserstein_1d(x: Float[Array, " N"], y: Float[Array, " M"]) -> Float[Array, ""]:
    """Compute the Wasserstein-1 distance of two samples on the line, exactly: ∫|F_x − F_y|.

    With as many points on both sides it is the mean of |x₍ᵢ₎ − y₍ᵢ₎| over the sorted samples. Its slope is that of the
    transport, ±1/N at each point, at any distance.

    Args:
        x: points [N].
        y: points [M]; of any other number than N.

    Raises:
        ValueError: an empty sample.
    """
    chex.assert_rank([x, y], 1)
    _require_points(1, x, y)
    x, y = jnp.sort(x), jnp.sort(y)
    both = jnp.sort(jnp.concatenate([x, y]))
    # Between two neighbours of the merged sample both distribution functions are constant.
    above, below = (jnp.searchsorted(side, both[:-1], side="right") / len(side) for side in (x, y))
    return jnp.sum(jnp.abs(above - below) * jnp.diff(both))


def kantorovich_rubinstein(
    real: Float[Array, " N"], fake: Float[Array, " M"], lipschitz: Scalar = 1.0
) -> Float[Array, ""]:
    """Compute the dual value (E_p h − E_q h)/‖h‖_L from outputs of a critic h: at most W₁(p, q).

    Args:
        real: outputs [N] under p.
        fake: outputs [M] under q.
        lipschitz: the critic's Lipschitz constant. That of `lipschitz` over all points of both samples makes this a
            lower bound of the distance between the samples.

    Villani 2009, theorem 5.10 and its particular case 5.16; Arjovsky et al. 2017 (arXiv 1701.07875), eq. 2.
    """
    chex.assert_rank([real, fake], 1)
    return (jnp.mean(real) - jnp.mean(fake)) / lipschitz


def lipschitz(points: Float[Array, "N D"], values: Float[Array, " N"]) -> Float[Array, ""]:
    """Estimate a critic's Lipschitz constant from below: its steepest chord, |hᵢ − hⱼ| / ‖xᵢ − xⱼ‖ at its largest.

    Pairs of equal points are left out. Some function with this constant has these values (McShane's extension).

    Args:
        points: [N, D].
        values: of the critic at the points, [N].
    """
    chex.assert_rank([points, values], [2, 1])
    squares = _squared_distances(points, points)
    rises = jnp.abs(values[:, None] - values[None, :])
    return jnp.max(jnp.where(squares > 0, rises / _safe_sqrt(squares, otherwise=1.0), 0.0))


def gaussian_kernel(bandwidth: Scalar = 1.0) -> Kernel:
    """Make k(x, y) = exp(−‖x − y‖² / (2σ²)) of a bandwidth σ.

    Raises:
        ValueError: a bandwidth that is not positive and finite.
    """
    _require_positive(bandwidth=bandwidth)
    return lambda x, y: jnp.exp(-_squared_distances(x, y) / (2.0 * jnp.square(bandwidth)))


def rational_quadratic_kernel(shape: Scalar = 1.0) -> Kernel:
    """Make k(x, y) = (1 + ‖x − y‖² / (2α))^(−α) of a shape α: a mixture of Gaussian kernels of all bandwidths.

    Raises:
        ValueError: a shape that is not positive and finite.

    Bińkowski et al. 2018 (arXiv 1801.01401).
    """
    _require_positive(shape=shape)
    return lambda x, y: jnp.exp(-shape * jnp.log1p(_squared_distances(x, y) / (2.0 * shape)))


def energy_kernel() -> Kernel:
    """Make k(x, y) = −‖x − y‖, conditionally positive definite; its slope is zero between equal points.

    Sejdinovic et al. 2013 (arXiv 1207.6076).
    """
    return lambda x, y: -_safe_sqrt(_squared_distances(x, y))


KERNELS = {f.__name__: f for f in (gaussian_kernel, rational_quadratic_kernel, energy_kernel)}


def maximum_mean_discrepancy(
    x: Float[Array, "N D"], y: Float[Array, "M D"], kernel: Kernel, *, unbiased: bool = True
) -> Float[Array, ""]:
    """Estimate MMD²(p, q) = E k(x, x') + E k(y, y') − 2 E k(x, y) from samples.

    Args:
        x: points [N, D].
        y: points [M, D].
        kernel: `([N, D], [M, D]) -> [N, M]`.
        unbiased: leave out the pairs of a point with itself. The mean over samples is then MMD² itself, and one
            estimate may be negative. The biased one is never, and is the distance between the samples.

    Raises:
        ValueError: too few points: an unbiased estimate takes two on each side.

    Gretton et al. 2012 (JMLR 13), eqs. 3 and 5.
    """
    chex.assert_rank([x, y], 2)
    chex.assert_equal(x.shape[1], y.shape[1])
    _require_points(2 if unbiased else 1, x, y)

    def within(points: Array) -> Array:
        gram, n = kernel(points, points), len(points)
        return jnp.sum(gram, where=~np.eye(n, dtype=bool)) / (n * (n - 1)) if unbiased else jnp.mean(gram)

    return within(x) + within(y) - 2.0 * jnp.mean(kernel(x, y))


def energy_distance(x: Float[Array, "N D"], y: Float[Array, "M D"], *, unbiased: bool = True) -> Float[Array, ""]:
    """Estimate 2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖ from samples: MMD² of the energy kernel.

    Args:
        x: points [N, D].
        y: points [M, D].
        unbiased: as in `maximum_mean_discrepancy`.

    Raises:
        ValueError: too few points.

    Székely & Rizzo 2013 (Journal of Statistical Planning and Inference 143).
    """
    return maximum_mean_discrepancy(x, y, energy_kernel(), unbiased=unbiased)


def _extended(formula: Elementwise, *, upper: float) -> Elementwise:
    """Extend a conjugate by +∞ above the end of its domain."""

    def conjugate(t: Array) -> Array:
        inside = t <= upper
        # Both branches of a `where` are differentiated, so the formula must see nothing but its domain.
        return jnp.where(inside, formula(jnp.where(inside, t, upper - 1.0)), jnp.inf)

    return conjugate


def _kl_between(p: Normal, q: Normal) -> Array:
    excess = jnp.square(p.std / q.std) - 1.0
    return 0.5 * (excess - jnp.log1p(excess) + jnp.square((p.mean - q.mean) / q.std))


def _chi_square_between(p: Normal, q: Normal) -> Array:
    """∫p²/q − 1: infinite where q's tails are too light, at σ_p² ≥ 2σ_q²."""
    gap, ratio = (p.mean - q.mean) / q.std, jnp.square(p.std / q.std)
    finite = ratio < 2.0
    room = jnp.where(finite, 2.0 - ratio, 1.0)
    logarithm = jnp.square(gap) / room - 0.5 * jnp.log(ratio * room)
    return jnp.where(finite, jnp.expm1(logarithm), jnp.inf)


def _squared_hellinger_between(p: Normal, q: Normal) -> Array:
    scale = jnp.square(p.std) + jnp.square(q.std)
    widths = 0.5 * jnp.log1p(-jnp.square(p.std - q.std) / scale)  # of 2σ_pσ_q / (σ_p² + σ_q²)
    return -2.0 * jnp.expm1(widths - jnp.square(p.mean - q.mean) / (4.0 * scale))


def _gan_between(p: Normal, q: Normal) -> Array:
    """E_p log D + E_q log(1 − D) at the optimal D = p/(p + q), each by a quadrature of its own Gaussian.

    A common grid would lose narrow Gaussians that are far apart.
    """

    def log_share(one: Normal, other: Normal) -> Array:
        points, weights = quadrature(one)
        log_ratio = _log_density(one, points) - _log_density(other, points)
        return jnp.sum(weights * -softplus(-log_ratio))

    return log_share(p, q) + log_share(q, p)


def _total_variation_between(p: Normal, q: Normal) -> Array:
    """P(A) − Q(A) for the set A where p exceeds q, an interval or its complement; half a line if equally wide."""
    # In units of q, p is N(m, s²) and the densities cross at the roots of ax² + 2mx − c.
    m, s = (p.mean - q.mean) / q.std, jnp.asarray(p.std / q.std)
    a, c = jnp.square(s) - 1.0, jnp.square(m) + 2.0 * jnp.square(s) * jnp.log(s)
    root = s * _safe_sqrt(jnp.square(m) + 2.0 * a * jnp.log(s))
    side = -(m + jnp.where(m < 0, -root, root))

    def excess(x: Array) -> Array:
        return ndtr((x - m) / s) - ndtr(x)

    near = excess(-c / jnp.where(side == 0, 1.0, side))
    far = jnp.where(a == 0, 0.0, excess(side / jnp.where(a == 0, 1.0, a)))
    return jnp.abs(near - far)


def _log_density(p: Normal, x: Array) -> Array:
    """Up to the constant that all Gaussians share."""
    return -0.5 * jnp.square((x - p.mean) / p.std) - jnp.log(p.std)


def _log_diagonal(root: Float[Array, "D D"]) -> Float[Array, " D"]:
    return jnp.log(jnp.diagonal(root))


def _squared_distances(x: Float[Array, "N D"], y: Float[Array, "M D"]) -> Float[Array, "N M"]:
    # Of differences, which XLA fuses into the sum: ‖x‖² + ‖y‖² − 2xy cancels, and its zeros are none.
    return jnp.sum(jnp.square(x[:, None, :] - y[None, :, :]), axis=-1)


def _safe_sqrt(squares: Array, otherwise: float = 0.0) -> Array:
    """The root, and at zero another value and a slope of zero: both branches of a `where` are differentiated."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), otherwise)


def _require_positive(**values: Scalar) -> None:
    """Refuse Python numbers that are not positive and finite; traced values pass."""
    for name, value in values.items():
        if isinstance(value, Real) and not 0.0 < value < math.inf:
            raise ValueError(f"{name}={value} must be positive and finite")


def _require_points(least: int, *samples: Array) -> None:
    for sample in samples:
        if len(sample) < least:
            raise ValueError(f"a sample of {len(sample)} points is too small: give at least {least}")
