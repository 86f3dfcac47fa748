"""Competitive gradient descent: each player takes the step that answers the other's step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import gmres

from gan_jax.arithmetic import require_counts
from gan_jax.base import Pair, Params, UpdateRule
from gan_jax.rules import fields


def competitive(rates: Pair[Any], *, iterations: int = 10, lazy: int = 1) -> UpdateRule:
    """Move both players at once to the Nash equilibrium of the game's regularised bilinear approximation.

    With losses f(x, y) and g(x, y) the steps Δx, Δy minimise, each given the other,

        Δx·∇x f + Δx·(Dxy f)Δy + ‖Δx‖²/(2ηx)    and    Δy·∇y g + Δy·(Dyx g)Δx + ‖Δy‖²/(2ηy).

    Hence Δx = −ηx p and Δy = −ηy q, where p = ∇x f − ηy(Dxy f)q and q = ∇y g − ηx(Dyx g)p are the gradients that the
    players meet after each other's step, and (1 − ηx ηy (Dxy f)(Dyx g)) p = ∇x f − ηy(Dxy f)∇y g. No step is divided by
    a rate, so a rate of 0 holds its player still. On the bilinear game f = −g = xy with both rates h a step has modulus
    1/√(1 + h²). Schäfer & Anandkumar 2019 (arXiv 1905.12103), algorithm 1, here with a rate for each player.

    The system is solved matrix-free, for the player with fewer parameters; the other answers exactly. It is positive
    definite in a zero-sum game, but not even symmetric in others (a non-saturating GAN's), where conjugate gradients
    are wrong and BiCGSTAB may break down: hence GMRES, which keeps `iterations` + 1 vectors of that player's size. It
    runs in a while loop, in which XLA's convolutions are slow on CPUs. In a game that is not zero-sum the approximation
    may have no single equilibrium, where ηx ηy (Dxy f)(Dyx g) has the eigenvalue 1; smaller rates restore it.

    Args:
        rates: a rate for each player.
        iterations: at most how many of GMRES, each of two Hessian-vector products. As many as the smaller player has
            parameters are exact. In a zero-sum game with ηx ηy ‖Dxy f‖² ≤ 9 the system's condition is at most 10, and
            the default of 10 iterations leaves less than .3 % of the residual.
        lazy: penalties are added every `lazy`-th step, times `lazy`, and are part of their player's loss.

    Raises:
        ValueError: if `rates` is no pair of them, or `iterations` or `lazy` is not a whole number of at least 1.
    """
    require_counts(iterations=iterations)

    def direction(field: fields.Field, params: Pair[Params]) -> tuple[Pair[Params], Any]:
        mine, other = sorted(Pair._fields, key=lambda player: optax.tree.size(getattr(params, player)))

        def across(player: str, opponent: str) -> tuple[Params, Any, Any]:
            # The player's gradient, and what a step of its opponent adds to it. The field's other half is dead code.
            def slope(theirs: Params) -> tuple[Params, Any]:
                slopes, aux = field(params._replace(**{opponent: theirs}))
                return getattr(slopes, player), aux

            return jax.linearize(slope, getattr(params, opponent), has_aux=True)

        my_slope, to_mine, aux = across(mine, other)
        other_slope, to_other, _ = across(other, mine)

        def answered(slope: Params) -> Params:
            """Return what the other meets when I step against `slope`."""
            return optax.tree.sub(other_slope, to_other(_scaled(getattr(rates, mine), slope)))

        def left(slope: Params) -> Params:
            # Linear in `slope`: there and back again by way of the other's answer.
            answer = _scaled(getattr(rates, other), to_other(_scaled(getattr(rates, mine), slope)))
            return optax.tree.sub(slope, to_mine(answer))

        right = optax.tree.sub(my_slope, to_mine(_scaled(getattr(rates, other), other_slope)))
        # One flat vector: leaves of several precisions are solved for in the widest of them.
        flat, unflatten = ravel_pytree(right)
        solution, _ = gmres(
            lambda vector: ravel_pytree(left(unflatten(vector)))[0],
            flat,
            tol=float(jnp.finfo(flat.dtype).eps),
            # Without it GMRES's tolerance is 0/0 at an equilibrium, and a derivative there never begins to be solved.
            atol=float(jnp.finfo(flat.dtype).tiny),
            restart=iterations,
            maxiter=1,
            # "batched" solves normal equations, which squares the condition number.
            solve_method="incremental",
        )
        met = unflatten(solution)
        return Pair(**{mine: met, other: answered(met)}), aux

    return fields.plain_steps(rates, direction, lazy=lazy)


def _scaled(rate: Any, tree: Params) -> Params:
    # A traced rate may be wider than the leaves, and tangents have the leaves' type.
    return jax.tree.map(lambda leaf: (rate * leaf).astype(leaf.dtype), tree)
