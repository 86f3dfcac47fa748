"""Where the game's flow goes from here: leading eigenvalues of its Jacobian, from products with it alone.

The flow is ẇ = F(w) = −(∇_θ L_G, ∇_φ L_D), penalties included, so modes whose eigenvalues have negative real
parts are stable. A product J·v is a derivative forward over a gradient in reverse and costs a few gradients; the
Jacobian is never formed. The key and the stats are held: F is the field on one batch and its draws.

`probe` runs inside jit and returns a small Hessenberg matrix; eigenvalues of matrices that are not symmetric are
the host's: `analyse`. `spectrum` and `rightmost` do both and compile for each game object, so a caller who looks
again and again keeps the game, or compiles `probe` itself.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Complex, Float

from gan_jax.arithmetic import require_counts
from gan_jax.base import Batch, Game, Key, Pair, Point
from gan_jax.diagnostics.gradients import slopes
from gan_jax.games.spectra import classify

Operator = Callable[[Float[Array, " n"]], Float[Array, " n"]]

_CHUNK = 20  # products between two looks at the residual
_LEFT = 32  # eps of the longest product, to which what is left of one after orthogonalisation is nothing
_ROUNDING = 100  # eps of the largest modulus, which are rounding in any other eigenvalue


class Krylov(NamedTuple):
    """An Arnoldi factorisation A·Vₘ = Vₘ₊₁·H: orthonormal vectors as rows, and A as seen in their span.

    basis: [m+1, n]. hessenberg: H, [m+1, m]. After a breakdown at the j-th product, where the first j vectors span an
        invariant subspace, the rest of both is zero.
    """

    basis: Float[Array, "m+1 n"]
    hessenberg: Float[Array, "m+1 m"]


class Ritz(NamedTuple):
    """Approximate eigenvalues, the rightmost first and of a pair that above the axis first.

    values: complex128. residuals: ‖Jx − λx‖ of each with its vector x of norm 1: how much J would have to
        change to make it exact. Of a normal J it bounds the error; otherwise its condition number multiplies it.
    """

    values: Complex[np.ndarray, " m"]
    residuals: Float[np.ndarray, " m"]


class Spectrum(NamedTuple):
    """What is known of a game's Jacobian, all from Ritz values.

    rightmost: the eigenvalue of largest real part, which stands for what is left in the end: stable if negative.
    rightmost_error: its residual over its modulus; near 1 or above, another may lie further right.
    largest: the eigenvalue of largest modulus, which limits the rates. largest_error: as above.
    frequency: the largest |Im λ| among the rightmost, in radians per unit of time: how fast the players circle.
    kind: of motion, as in `Motion`, and no surer than the rightmost; "unknown" where the Jacobian is not finite.
    products: how many products with the Jacobian were spent.
    """

    rightmost: complex
    rightmost_error: float
    largest: complex
    largest_error: float
    frequency: float
    kind: str
    products: int


def arnoldi(operator: Operator, start: Float[Array, " n"], products: int) -> Krylov:
    """Factorise a linear map of vectors [n] by products with it, in a loop.

    Each new vector is orthogonalised twice against all before it, which is enough up to rounding (Giraud et al. 2005).
    Where nothing but rounding is left of it, the span is invariant and the factorisation complete: a breakdown.

    Args:
        operator: the map.
        start: the first vector, of any length but zero.
        products: m, at least 1; n, if that is less, since there are no more directions.

    Raises:
        ValueError: fewer products than 1.

    Arnoldi 1951; Saad 2011 (Numerical Methods for Large Eigenvalue Problems), chapter 6.
    """
    require_counts(products=products)
    products = min(products, start.size)
    return _extend(operator, _begin(start, products), 0, products)


def probe(game: Game, key: Key, point: Point, batch: Batch, *, products: int = 10) -> Float[Array, "m+1 m"]:
    """Return the Hessenberg matrix of the game's Jacobian at a point after a few products: what `analyse` takes.

    The products share one linearisation and run in a loop: unrolled they take as long, and thrice as long to compile.
    XLA's own convolutions are slow in loops on a CPU, so networks there need the lowering `patches`, or `auto`.

    Args:
        key: of the field, and of the start vector.
        batch: one batch, of leaves [B, ...]; 64 examples are plenty.
        products: m, at least 1; the number of parameters, if that is less.

    Raises:
        ValueError: fewer products than 1.
    """
    return arnoldi(_jacobian(game, key, point, batch), _start(key, point), products).hessenberg


def leading(hessenberg: Float[np.ndarray, "m+1 m"]) -> Ritz:
    """Return the eigenvalues of a factorisation and their residuals, on the host.

    Up to a breakdown, if there was one: there the eigenvalues are exact and the residuals zero.
    """
    matrix = np.asarray(hessenberg, np.float64)
    below = np.diagonal(matrix, -1)
    size = int(np.argmin(below != 0)) + 1 if (below == 0).any() else len(below)
    values, vectors = np.linalg.eig(matrix[:size, :size])
    order = np.lexsort((-values.imag, -values.real))
    return Ritz(values[order].astype(complex), below[size - 1] * np.abs(vectors[-1, order]))


def analyse(hessenberg: Float[Array | np.ndarray, "m+1 m"]) -> Spectrum:
    """Return what a probe found, on the host.

    A motion of the size of rounding is none: of a hundred eps of the matrix's type, times the largest modulus.
    """
    matrix = np.asarray(hessenberg)
    products = matrix.shape[1]
    if not np.isfinite(matrix).all():
        nan = float("nan")
        return Spectrum(complex(nan, nan), nan, complex(nan, nan), nan, nan, "unknown", products)
    values, residuals = leading(matrix)
    sizes = np.abs(values)
    errors = np.divide(residuals, sizes, out=np.where(residuals > 0, np.inf, 0.0), where=sizes > 0)
    top = int(sizes.argmax())
    zero = _ROUNDING * float(jnp.finfo(matrix.dtype).eps) * sizes[top]
    motion = classify(values, tolerance=max(zero, np.finfo(np.float64).tiny))
    return Spectrum(
        rightmost=complex(values[0]),
        rightmost_error=float(errors[0]),
        largest=complex(values[top]),
        largest_error=float(errors[top]),
        frequency=motion.frequency,
        kind=motion.kind,
        products=products,
    )


def spectrum(game: Game, key: Key, point: Point, batch: Batch, *, products: int = 10) -> Spectrum:
    """Return what a few products find: `analyse` of a compiled `probe`.

    Of networks' games ten find the eigenvalue of largest modulus, and the rightmost one not always: see their errors.

    Args:
        game: the first call with it compiles. key, point, batch, products: as `probe` takes them.

    Raises:
        ValueError: fewer products than 1.
    """
    return analyse(jax.device_get(_probe(game, key, point, batch, products=products)))


def rightmost(
    game: Game, key: Key, point: Point, batch: Batch, *, tolerance: float = 1e-6, limit: int = 200
) -> Spectrum:
    """Return what as many products find as the rightmost eigenvalue takes to settle.

    That is until its residual is below `tolerance` of its modulus, or below the rounding of the largest one. As with
    every method of this kind, a mode that the start vector does not hold is not seen.

    Args:
        game, key, point, batch: as `spectrum` takes them.
        tolerance: of the relative residual, positive.
        limit: of products, at least 1. Where it is reached before, `rightmost_error` says so. Memory is taken for
            limit + 1 vectors of all parameters.

    Raises:
        ValueError: a tolerance that is not positive, or a limit below 1.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} is never met: give one above 0, such as 1e-6")
    require_counts(limit=limit)
    start = _start(key, point)
    limit = min(limit, start.size)
    krylov = _begin(start, limit)
    for done in range(0, limit, _CHUNK):
        last = min(done + _CHUNK, limit)
        krylov = _grow(game, key, point, batch, krylov, done, last)
        matrix = jax.device_get(krylov.hessenberg)[: last + 1, :last]
        if not np.isfinite(matrix).all():
            break
        values, residuals = leading(matrix)
        rounding = float(jnp.finfo(matrix.dtype).eps) * np.abs(values).max()
        if residuals[0] <= max(tolerance * abs(values[0]), rounding):
            break
    return analyse(matrix)


def _start(key: Key, point: Point) -> Float[Array, " n"]:
    here, _ = ravel_pytree(point.params)
    # Not a key of a player's, which are 0 and 1.
    return jax.random.normal(jax.random.fold_in(key, len(Pair._fields)), here.shape, here.dtype)


def _jacobian(game: Game, key: Key, point: Point, batch: Batch) -> Operator:
    here, unravel = ravel_pytree(point.params)

    def flow(w: Array) -> Array:
        return -ravel_pytree(slopes(game, key, point._replace(params=unravel(w)), batch))[0]

    return jax.linearize(flow, here)[1]


def _begin(start: Array, products: int) -> Krylov:
    basis = jnp.zeros((products + 1, start.size), start.dtype).at[0].set(start / jnp.linalg.norm(start))
    return Krylov(basis, jnp.zeros((products + 1, products), start.dtype))


def _extend(operator: Operator, krylov: Krylov, first: int | Array, last: int | Array) -> Krylov:
    """Make the products number `first` to `last` - 1."""

    def product(index: Array, krylov: Krylov) -> Krylov:
        basis, hessenberg = krylov
        image = operator(basis[index])
        rest, shares = _orthogonalise(image, basis)
        rest, more = _orthogonalise(rest, basis)
        size = jnp.linalg.norm(rest)
        # A product is no better than rounding of the longest, so what counts is that and not its own length.
        longest = jnp.maximum(jnp.linalg.norm(image), jnp.max(jnp.abs(hessenberg)))
        over = size <= _LEFT * jnp.finfo(size.dtype).eps * longest
        following = jnp.where(over, 0.0, rest / jnp.where(over, 1.0, size))
        column = (shares + more).at[index + 1].set(jnp.where(over, 0.0, size))
        return Krylov(basis.at[index + 1].set(following), hessenberg.at[:, index].set(column))

    return lax.fori_loop(first, last, product, krylov)


def _orthogonalise(vector: Array, basis: Array) -> tuple[Array, Array]:
    """Return a vector less its shares in a basis, and these; rows yet to come are zeros and take none."""
    shares = jnp.matmul(basis, vector, precision=lax.Precision.HIGHEST)
    return vector - jnp.matmul(shares, basis, precision=lax.Precision.HIGHEST), shares


_probe = jax.jit(probe, static_argnames=("game", "products"))


@partial(jax.jit, static_argnames="game", donate_argnames="krylov")
def _grow(game: Game, key: Key, point: Point, batch: Batch, krylov: Krylov, first: Array, last: Array) -> Krylov:
    return _extend(_jacobian(game, key, point, batch), krylov, first, last)
