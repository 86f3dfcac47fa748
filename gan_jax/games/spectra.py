"""Spectra near an equilibrium: what a step of each rule is as a matrix, on paper and measured, and what it means.

With A the matrix of the flow (`Known.jacobian`) and H the diagonal matrix of the players' rates, the
gradients at w are −A(w − w*), so a step of any rule of gradients is a polynomial in A and H, or a
companion matrix where the rule remembers. `STEPS` holds these in NumPy's float64 and without JAX, by
the names of the rules; each raises a ValueError for a game without a smooth equilibrium. `linearise`
differentiates the rule itself. That the two agree is the exam of a rule, on games of any dimension.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Complex, Float

from gan_jax.base import Pair, Point, UpdateRule
from gan_jax.games.known import KEY_SEED, Known, start

Matrix = Float[np.ndarray, "d d"]


class Motion(NamedTuple):
    """What a spectrum says of the motion that is left in the end: that of its leading, slowest, modes.

    kind: "stable node" or "stable focus" (spirals in), "centre" (circles), "unstable node", "unstable focus", "saddle"
        (leaves straight in some directions and approaches in others), or "degenerate" (stands still to first order).
    decay: the rate −max Re λ at which distances shrink, e^(−decay·t); negative where they grow.
    frequency: the largest |Im λ| among the leading modes, in radians per unit of time.
    """

    kind: str
    decay: float
    frequency: float


def classify(exponents: ArrayLike, *, tolerance: float = 1e-6) -> Motion:
    """Say what motion the eigenvalues of a flow make: node, focus, centre, saddle, and how fast.

    A mode e^(λt) leads if no other has a larger real part. In two dimensions this is the textbook's
    classification. It is one of spectra: a defective zero drifts, although its kind is "degenerate".

    Args:
        exponents: the eigenvalues, complex; of a step those that `exponents` returns.
        tolerance: what counts as zero, and as equal. A double eigenvalue is known to half the digits of its matrix.

    Raises:
        ValueError: no eigenvalues, NaNs among them, or a tolerance that is not positive.
    """
    values = np.ravel(np.asarray(exponents, complex))
    if not values.size or np.isnan(values).any():
        raise ValueError(f"no motion has the exponents {values}: give one or more, and no NaN")
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} would call rounding a motion: give one above 0, such as 1e-6")
    growth = float(values.real.max())
    if growth == -np.inf:  # all modes of a step are gone at once
        return Motion("stable node", np.inf, 0.0)
    frequency = float(abs(values.imag[values.real >= growth - tolerance]).max())
    turns = frequency > tolerance
    if abs(growth) <= tolerance:
        kind = "centre" if turns else "degenerate"
    elif growth < 0:
        kind = "stable focus" if turns else "stable node"
    elif turns:
        kind = "unstable focus"
    else:
        kind = "saddle" if values.real.min() < -tolerance else "unstable node"
    return Motion(kind, -growth, frequency)


def exponents(multipliers: ArrayLike, rate: float = 1.0) -> Complex[np.ndarray, " d"]:
    """Return log(λ)/rate of the eigenvalues λ of a step: those of the flow that does the same in the time `rate`.

    A zero, of a mode that is gone after one step, becomes −∞. A negative eigenvalue turns by half a circle a step.

    Args:
        multipliers: the eigenvalues of a step.
        rate: the step's time, the rate of its players; 1 measures in steps.

    Raises:
        ValueError: a rate that is not positive and finite.
    """
    if not 0 < rate < float("inf"):
        raise ValueError(f"rate={rate} is not a time: give a finite one above 0, 1 measures in steps")
    values = np.ravel(np.asarray(multipliers, complex))
    sizes = abs(values)
    logarithms = np.log(sizes, out=np.full(sizes.shape, -np.inf), where=sizes > 0)
    # Assembled, for −∞ + 0i divided by a real is NaN in complex arithmetic.
    result = np.empty(values.shape, complex)
    result.real, result.imag = logarithms / rate, np.angle(values) / rate
    return result


def linearise(known: Known, rule: UpdateRule, *, steps: int = 1) -> Float[np.ndarray, "s s"]:
    """Measure the matrix of a rule's step at the solution, by automatic differentiation.

    Its coordinates are the parameters in the order of `Pair`, then every float that the rule carries: previous
    gradients, momenta, slow weights, without which a rule with memory is no map. Counters are held where they are
    after one step, since a first step is often unlike the others: it has nothing to remember. It is measured in
    the precision that is on: call it in `with jax.enable_x64(True):` for float64.

    Args:
        known: the game; of one without a smooth equilibrium derivatives are those that JAX gives at the kink.
        rule: any rule that consumes no data.
        steps: how many consecutive steps make the map, for rules of which each n-th step is another.

    Raises:
        ValueError: fewer than 1 step.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} is no map to measure: give at least 1")

    def step(point: Point, _: None = None) -> tuple[Point, None]:
        return rule.step(known.game, jax.random.key(KEY_SEED), point, {})[0], None

    here = jax.jit(lambda point: step(point)[0])(start(known, rule))
    leaves, structure = jax.tree.flatten(here)
    moving = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    vector, unravel = ravel_pytree([leaf for leaf, moves in zip(leaves, moving, strict=True) if moves])

    def stepped(vector: Array) -> Array:
        floats = iter(unravel(vector))
        placed = [next(floats) if moves else leaf for leaf, moves in zip(leaves, moving, strict=True)]
        after, _ = jax.lax.scan(step, jax.tree.unflatten(structure, placed), length=steps)
        return ravel_pytree([leaf for leaf, moves in zip(jax.tree.leaves(after), moving, strict=True) if moves])[0]

    return np.asarray(jax.jit(jax.jacfwd(stepped))(vector), np.float64)


def difference(one: Matrix, other: Matrix) -> float:
    """Return by how much the eigenvalues of two matrices differ, but for zeros: in their characteristic polynomials.

    A rule's memory may add zeros; and coefficients have no order, nor lose digits where an eigenvalue is double.
    """
    size = max(len(one), len(other))
    polynomials = [np.pad(np.poly(matrix), (0, size - len(matrix))) for matrix in (one, other)]
    return float(abs(np.subtract(*polynomials)).max())


def simultaneous(known: Known, rates: Pair[float]) -> Matrix:
    """Return I + HA, with H of the rates."""
    flow = _moves(known, rates)
    return np.eye(len(flow)) + flow


def alternating(known: Known, rates: Pair[float], *, d_steps: int = 1) -> Matrix:
    """Return (I + P_G HA)(I + P_D HA)^d_steps, with H of the rates and P the projection on a player.

    On bilinear games it is of determinant 1: Gidel et al. 2019 (arXiv 1807.04740) measure and prove that it neither
    converges nor diverges there, while the product of the rates, times `d_steps`, is below 4 over the largest squared
    singular value of the game's matrix.
    """
    generator, discriminator = _halves(known, rates)
    return generator @ np.linalg.matrix_power(discriminator, d_steps)


def extragradient(known: Known, rates: Pair[float]) -> Matrix:
    """Return I + HA(I + HA), with H of the rates."""
    flow = _moves(known, rates)
    return np.eye(len(flow)) + flow + flow @ flow


def optimistic(known: Known, rates: Pair[float]) -> Float[np.ndarray, "2*d 2*d"]:
    """Return the companion matrix of w⁺ = w + HA(2w − w⁻), with H of the rates, in the coordinates (w, w⁻).

    A rule that remembers a gradient instead of w⁻ has the same spectrum, up to zeros.
    """
    flow = _moves(known, rates)
    one = np.eye(len(flow))
    return np.block([[one + 2 * flow, -flow], [one, 0 * one]])


def consensus(known: Known, rates: Pair[float], *, weight: float = 1.0) -> Matrix:
    """Return I + H(A − c·AᵀA) of rates H and weight c, as ½‖Aw‖² has the gradient AᵀAw."""
    a = _flow(known)
    return np.eye(len(a)) + _rates(known, rates) @ (a - weight * a.T @ a)


def symplectic(known: Known, rates: Pair[float], *, weight: float = 1.0) -> Matrix:
    """Return I + H(I + (c/2)(A − Aᵀ))A of rates H and weight c, without alignment."""
    a = _flow(known)
    return np.eye(len(a)) + _rates(known, rates) @ (a + weight / 2 * (a - a.T) @ a)


def competitive(known: Known, rates: Pair[float]) -> Matrix:
    """Return I + (I − HO)⁻¹HA of rates H, O the part of A off the players' blocks: each step answers the other's."""
    flow = _moves(known, rates)
    cut = known.sizes.generator
    across = flow.copy()
    across[:cut, :cut] = across[cut:, cut:] = 0.0
    one = np.eye(len(flow))
    return one + np.linalg.solve(one - across, flow)


def unrolled(known: Known, rates: Pair[float], *, unroll: int = 5) -> Matrix:
    """Return I + P_D HA − P_G H(Uᵏ)ᵀ∇²L_G Uᵏ, where U = I + P_D HA is a step ahead of the discriminator.

    H is of the rates, and k is `unroll`. The generator descends its loss at Uᵏw, so this needs that loss's Hessian in
    the discriminator too.
    """
    _, discriminator = _halves(known, rates)
    cut = known.sizes.generator
    ahead = np.linalg.matrix_power(discriminator, unroll)
    step = discriminator.copy()
    step[:cut] -= rates.generator * (ahead.T @ _hessians(known).generator @ ahead)[:cut]
    return step


def negative_momentum(
    known: Known, rates: Pair[float], *, momentum: float = -0.5, d_steps: int = 1
) -> Float[np.ndarray, "2*d 2*d"]:
    """Return the product of both players' heavy-ball moves w⁺ = w + HAw + β(w − w⁻), in the coordinates (w, w⁻).

    H is of the rates, and β the momentum; the discriminator's move comes first, and `d_steps` times.
    """
    flow = _moves(known, rates)
    one, moves = np.eye(len(flow)), []
    for mine in np.eye(2):
        own = np.diag(np.repeat(mine, known.sizes))
        moves.append(np.block([[one + own @ flow + momentum * own, -momentum * own], [own, one - own]]))
    generator, discriminator = moves
    return generator @ np.linalg.matrix_power(discriminator, d_steps)


def lookahead_minmax(
    known: Known, rates: Pair[float], *, every: int = 5, weight: float = 0.5, d_steps: int = 1
) -> Matrix:
    """Return `lookahead`, of this weight, of `alternating` at these rates and `d_steps`.

    It is the matrix of a round, hence of `every` steps.
    """
    return lookahead(alternating(known, rates, d_steps=d_steps), every=every, weight=weight)


def lookahead(step: Matrix, *, every: int = 5, weight: float = 0.5) -> Matrix:
    """Return (1 − a)I + aMᵏ, a round of k = `every` steps M of a rule without memory: the `weight` a is kept of it."""
    return (1 - weight) * np.eye(len(step)) + weight * np.linalg.matrix_power(step, every)


def _hessians(known: Known) -> Pair[Matrix]:
    if known.hessians is None:
        raise ValueError("the game has no smooth equilibrium, hence no matrix: measure its trajectories")
    return known.hessians


def _flow(known: Known) -> Matrix:
    _hessians(known)
    return np.asarray(known.jacobian)


def _rates(known: Known, rates: Pair[float]) -> Matrix:
    return np.diag(np.repeat(np.asarray(rates, np.float64), known.sizes))


def _moves(known: Known, rates: Pair[float]) -> Matrix:
    return _rates(known, rates) @ _flow(known)


def _halves(known: Known, rates: Pair[float]) -> Pair[Matrix]:
    """Return the matrices of a move of each player alone."""
    still = Pair(rates._replace(discriminator=0.0), rates._replace(generator=0.0))
    return Pair(*(simultaneous(known, mine) for mine in still))


STEPS: dict[str, Callable[..., np.ndarray]] = {
    f.__name__: f
    for f in (
        *(simultaneous, alternating, extragradient, optimistic, lookahead_minmax),
        *(negative_momentum, consensus, symplectic, competitive, unrolled),
    )
}

# How many of a rule's steps its matrix stands for, where it is not one.
PERIODS = {"lookahead_minmax": 5}
