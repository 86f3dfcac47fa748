"""Symplectic gradient adjustment: turn the joint gradient by the part of its Jacobian that only rotates."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gan_jax.base import Pair, Params, UpdateRule
from gan_jax.rules import fields


def symplectic(rates: Pair[Any], weight: Any = 1.0, *, align: bool = False, lazy: int = 1) -> UpdateRule:
    """Move both players at once against ξ + λAᵀξ, where ξ is the pair of their gradients.

    A = ½(J − Jᵀ) is the antisymmetric part of the Jacobian J of ξ. In a potential game A = 0 and the step is the plain
    one; in a Hamiltonian game J = A, and Aᵀξ is the gradient of the Hamiltonian H = ½‖ξ‖².
    Balduzzi et al. 2018 (arXiv 1802.05642), algorithm 1.

    Args:
        rates: a rate for each player; the adjustment is scaled by it as the gradient is.
        weight: |λ|; it may be traced. By default 1, as in the paper.
        align: False for λ = weight. True for λ = weight·sign(⟨ξ, ∇H⟩⟨Aᵀξ, ∇H⟩/d + 1/10) with ∇H = Jᵀξ and d the number
            of parameters: the sign that bends the step towards stable fixed points and away from unstable ones. The
            paper's 1/10 makes it positive where the products vanish.
        lazy: penalties are added every `lazy`-th step, times `lazy`, and are part of ξ.

    Raises:
        ValueError: if `rates` is no pair of them, `weight` is a number that is negative or not finite, or `lazy` is not
            a whole number of at least 1.
    """
    fields.check_weight(weight)

    def direction(field: fields.Field, params: Pair[Params]) -> tuple[Pair[Params], Any]:
        # One linearisation serves both products: ξ is pushed through it, and pulled back through its transpose.
        slopes, push, aux = jax.linearize(field, params, has_aux=True)
        (pulled,) = jax.linear_transpose(push, params)(slopes)
        adjustment = jax.tree.map(lambda back, forth: (back - forth) / 2, pulled, push(slopes))
        scale = weight
        if align:
            products = optax.tree.vdot(slopes, pulled) * optax.tree.vdot(adjustment, pulled)
            scale = weight * jnp.sign(products / optax.tree.size(params) + 0.1)
        return optax.tree.add_scale(slopes, scale, adjustment), aux

    return fields.plain_steps(rates, direction, lazy=lazy)
