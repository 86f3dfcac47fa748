"""Consensus optimisation: both players descend, beside their own losses, the size of the joint gradient."""

from typing import Any

import jax
import optax

from gan_jax.base import Pair, Params, UpdateRule
from gan_jax.rules import fields


def consensus(rates: Pair[Any], weight: Any = 1.0, *, lazy: int = 1) -> UpdateRule:
    """Move both players at once against v + weight·∇½‖v‖², where v is the pair of their gradients.

    With the Jacobian Dv of the field the step is w⁺ = w − h(v + weight·(Dv)ᵀv). On the bilinear game f = xy, a step of
    rate h has modulus √((1 − h·weight)² + h²), which is below 1 for h < 2·weight/(1 + weight²).
    Mescheder et al. 2017 (arXiv 1705.10461), section 4.

    Args:
        rates: a rate for each player; the adjustment is scaled by it as the gradient is.
        weight: of the size of the gradient; it may be traced. By default 1, with which the unit bilinear game
            converges at every rate below 1. A step overshoots where rate·weight·‖Dv‖² is above 2: small rates bear
            larger weights, and stiff penalties smaller ones.
        lazy: penalties are added every `lazy`-th step, times `lazy`, and are part of v.

    Raises:
        ValueError: if `rates` is no pair of them, `weight` is a number that is negative or not finite, or `lazy` is not
            a whole number of at least 1.
    """
    fields.check_weight(weight)

    def direction(field: fields.Field, params: Pair[Params]) -> tuple[Pair[Params], Any]:
        slopes, pull, aux = jax.vjp(field, params, has_aux=True)
        # ∇½‖v‖² = (Dv)ᵀv: pulling v back through the field that gave it.
        (adjustment,) = pull(slopes)
        return optax.tree.add_scale(slopes, weight, adjustment), aux

    return fields.plain_steps(rates, direction, lazy=lazy)
