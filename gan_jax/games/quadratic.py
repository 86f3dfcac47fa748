"""Quadratic games: linear fields, whose every rule of gradients is a matrix.

A player's rows of its loss's Hessian are its rows of the field, so these games hold whatever a
linear field can do: nodes, foci, centres and saddles of any dimension, zero-sum or not.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from gan_jax.base import Batch, Game, Key, Metrics, Pair, Params, Stats
from gan_jax.games.known import Known

Block = ArrayLike | Sequence[Any]

# Exact answers ask for exact products, on devices that round to bfloat16 by default too.
_product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def quadratic(
    generator: Block,
    discriminator: Block,
    coupling: Block,
    response: Block | None = None,
    *,
    solution: Pair[Params] | None = None,
) -> Known:
    """Make the quadratic game of the given blocks, zero-sum or general-sum, of any dimensions m and n.

    With (θ, φ) counted from the solution, P the generator's block, Q the discriminator's, K the coupling and R
    the response,

        L_G = ½θᵀPθ + θᵀKφ,    L_D = ½φᵀQφ + φᵀRθ,    A = −[[P, K], [R, Q]].

    Without a response the game is zero-sum: L_G = −L_D = ½θᵀPθ + θᵀKφ − ½φᵀQφ, which is R = −Kᵀ. Of P and Q only
    the symmetric part has a gradient, and only that is kept.

    Args:
        generator: P, [m, m]; positive where the generator's own loss is convex.
        discriminator: Q, [n, n]; positive where the discriminator's own loss is convex.
        coupling: K, [m, n].
        response: R, [n, m].
        solution: where the equilibrium lies; at the origin unless given. The parameters take its shapes, of m and n
            numbers in all.

    Raises:
        ValueError: blocks that do not fit each other or the solution, or that are not finite.

    Letcher et al. 2019 (arXiv 1905.04926); Balduzzi et al. 2018 (arXiv 1802.05642).
    """
    zero_sum = response is None
    p, q, k = (_array(block) for block in (generator, discriminator, coupling))
    r = -k.T if response is None else _array(response)
    if k.ndim != 2:
        raise ValueError(f"a coupling of shape {k.shape}: give a matrix [m, n], generator first")
    m, n = k.shape
    for name, block, shape in (("generator", p, (m, m)), ("discriminator", q, (n, n)), ("response", r, (n, m))):
        if block.shape != shape:
            raise ValueError(f"a {name} of shape {block.shape}: the coupling {k.shape} asks for {shape}")
    p, q = (p + p.T) / 2, (q + q.T) / 2
    for name, block in (("generator", p), ("discriminator", q), ("coupling", k), ("response", r)):
        if isinstance(block, np.ndarray) and not np.isfinite(block).all():
            raise ValueError(f"the {name} is not finite: {block.tolist()}")
    centre: Pair[Any] = Pair(*map(np.zeros, (m, n))) if solution is None else solution
    centre = Pair(*(np.asarray(mine, np.float64) for mine in centre))
    if (centre.generator.size, centre.discriminator.size) != (m, n):
        raise ValueError(f"a solution of shapes {[c.shape for c in centre]}: it needs {m} and {n} numbers")

    def forms(params: Pair[Params]) -> tuple[Array, Array, Array, Array]:
        theta, phi = (jnp.ravel(mine - jnp.asarray(c, mine.dtype)) for mine, c in zip(params, centre, strict=True))

        def form(left: Array, block: Any, right: Array) -> Array:
            return _product("i,ij,j->", left, jnp.asarray(block, left.dtype), right)

        return form(theta, p, theta) / 2, form(phi, q, phi) / 2, form(theta, k, phi), form(phi, r, theta)

    def generator_loss(
        params: Pair[Params], stats: Pair[Stats], key: Key, batch: Batch
    ) -> tuple[Array, tuple[Pair[Stats], Metrics]]:
        mine, other, coupled, _ = forms(params)
        loss = mine + coupled - (other if zero_sum else 0.0)
        return loss, (stats, {"generator/loss": loss})

    def discriminator_loss(
        params: Pair[Params], stats: Pair[Stats], key: Key, batch: Batch
    ) -> tuple[Array, tuple[Pair[Stats], Metrics]]:
        other, mine, _, coupled = forms(params)
        loss = mine + coupled - (other if zero_sum else 0.0)
        return loss, (stats, {"discriminator/loss": loss})

    hessians = None
    if all(isinstance(block, np.ndarray) for block in (p, q, k, r)):
        of_others = (-q, -p) if zero_sum else (np.zeros_like(q), np.zeros_like(p))
        hessians = Pair(np.block([[p, k], [k.T, of_others[0]]]), np.block([[of_others[1], r.T], [r, q]]))
    return Known(Game(Pair(generator_loss, discriminator_loss)), centre, hessians)


def saddle(alpha: float = 1.0, beta: float = 0.2, gamma: float = 0.5) -> Known:
    """Make J(φ, θ) = γφθ − (α/2)φ² + (β/2)θ²: the discriminator φ ascends, the generator θ descends.

    The eigenvalues are −(α+β)/2 ± ½√((α−β)² − 4γ²): a stable node where |α−β| ≥ 2|γ|, a stable focus of angular
    frequency ½√(4γ² − (α−β)²) where it is less, provided that α + β > 0 and γ² + αβ > 0.

    Args:
        alpha: how concave J is in φ.
        beta: how convex J is in θ.
        gamma: the coupling.

    Raises:
        ValueError: numbers that are not finite.
    """
    return quadratic([[beta]], [[alpha]], [[gamma]], solution=Pair(np.zeros(()), np.zeros(())))


def bilinear(gamma: Block = 1.0) -> Known:
    """Make J(θ, φ) = θᵀΓφ: a centre, of eigenvalues ±iσ for each singular value σ of Γ.

    Args:
        gamma: a number, or a matrix [m, n] of the generator's m and the discriminator's n coordinates. Where m ≠ n
            there are |m − n| zeros besides, and a subspace of equilibria.

    Raises:
        ValueError: neither a number nor a matrix, or not finite.

    Gidel et al. 2019 (arXiv 1802.10551).
    """
    coupling = _array(gamma)
    if coupling.ndim == 0:
        none, at = np.zeros((1, 1)), np.zeros(())
        return quadratic(none, none, coupling.reshape(1, 1), solution=Pair(at, at))
    if coupling.ndim != 2:
        raise ValueError(f"gamma of shape {coupling.shape}: give a number or a matrix [m, n]")
    m, n = coupling.shape
    return quadratic(np.zeros((m, m)), np.zeros((n, n)), coupling)


def random_quadratic(
    key: Key | None = None,
    generator_dim: int = 3,
    discriminator_dim: int = 2,
    *,
    curvature: float = 1.0,
    coupling: float = 1.0,
    zero_sum: bool = True,
) -> Known:
    """Draw a quadratic game: P = c·MMᵀ/m, Q = c·NNᵀ/n, K and R of normal entries times the coupling.

    A zero-sum one with curvature is stable, as A + Aᵀ = −2 diag(P, Q) is negative; a general-sum one need not be.

    Args:
        key: of the draw; that of seed 0 unless given.
        generator_dim, discriminator_dim: m and n.
        curvature: c, the size of both players' own blocks; 0 makes a bilinear game.
        coupling: the deviation of the entries of K, and of R.
        zero_sum: whether R is −Kᵀ, and not a draw of its own.

    Raises:
        ValueError: a dimension below 1, or a negative curvature or coupling.
    """
    m, n = generator_dim, discriminator_dim
    for name, dim in (("generator_dim", m), ("discriminator_dim", n)):
        if dim < 1:
            raise ValueError(f"{name}={dim} leaves a player without a move: give at least 1")
    for name, size in (("curvature", curvature), ("coupling", coupling)):
        if not 0 <= size < float("inf"):
            raise ValueError(f"{name}={size} is not a size: give a finite one of at least 0, 0 is none")
    keys = jax.random.split(jax.random.key(0) if key is None else key, 4)
    shapes = ((m, m), (n, n), (m, n), (n, m))
    own, his, k, r = (
        np.asarray(jax.random.normal(draw, shape), np.float64) for draw, shape in zip(keys, shapes, strict=True)
    )
    return quadratic(
        curvature * own @ own.T / m,
        curvature * his @ his.T / n,
        coupling * k,
        None if zero_sum else coupling * r,
    )


def _array(value: Any) -> Any:
    """Return NumPy float64 of plain numbers, and JAX's array of traced ones."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))
    return jnp.asarray(value) if traced else np.asarray(value, np.float64)
