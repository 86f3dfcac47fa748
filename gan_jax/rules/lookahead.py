"""Lookahead: after some steps of any rule, both players move part of the way back to where they began."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gan_jax.arithmetic import allowed, require_counts
from gan_jax.base import Batch, Game, Key, Metrics, Pair, Params, Point, UpdateRule
from gan_jax.rules.alternating import alternating


class Lookahead(NamedTuple):
    """What the rule carries.

    inner: what the inner rule carries. slow: the joint point at which the present round began.
    count: how many steps have been made, an int32 scalar.
    """

    inner: Any
    slow: Pair[Params]
    count: Array


def lookahead(rule: UpdateRule, *, every: int = 5, weight: float | Array = 0.5) -> UpdateRule:
    """Follow a rule, and after every `every` steps move both players jointly back towards where the round began.

    With M the map of the rule, a round is

        fast = M(M(... M(slow))),    slow⁺ = slow + weight (fast − slow)

    and the next one starts from slow⁺ (Chavdarova et al. 2021, arXiv 2006.14567, algorithm 1). On a game where M is
    a matrix a round is (1 − weight) I + weight M^every: it pulls the spectrum of a rotation into the unit circle.

    What the inner rule carries (moments, counters) goes on through the rounds, and so do the players' stats.
    Rounds nest: `lookahead(lookahead(rule, every=5), every=1000)` is the paper's nested variant.

    Args:
        rule: any rule; the new one takes as many batches a step and returns its metrics.
        every: how many steps of the rule make a round.
        weight: how much of a round is kept, in (0, 1]; 1 is the rule itself.

    Raises:
        ValueError: if `rule` is no update rule, `every` is not a whole number of at least 1, or `weight` is not in
            (0, 1].
    """
    if not isinstance(rule, UpdateRule):
        raise ValueError(f"lookahead follows an update rule, not a {type(rule).__name__}: alternating(...) would do")
    require_counts(every=every)
    if not allowed(weight, lambda share: 0 < share <= 1):
        raise ValueError(f"weight={weight!r} is not a number in (0, 1]: 0.5 is usual, 1 is no lookahead")

    def init(params: Pair[Params]) -> Lookahead:
        # A copy: a state is donated, and a buffer cannot be given away twice.
        return Lookahead(rule.init(params), jax.tree.map(jnp.copy, params), jnp.int32(0))

    def step(game: Game, key: Key, point: Point, batch: Batch) -> tuple[Point, Metrics]:
        outer: Lookahead = point.rule
        fast, metrics = rule.step(game, key, point._replace(rule=outer.inner), batch)
        count = outer.count + 1
        due = count % every == 0

        def back(slow: Array, fast: Array) -> Array:
            # In this form a point that the rule leaves where it is stays so to the last bit.
            return jnp.where(due, (slow + weight * (fast - slow)).astype(fast.dtype), fast)

        params = jax.tree.map(back, outer.slow, fast.params)
        slow = jax.tree.map(lambda slow, new: jnp.where(due, new, slow), outer.slow, params)
        return Point(params, fast.stats, Lookahead(fast.rule, slow, count)), metrics

    return UpdateRule(rule.batches, init, step)


def lookahead_minmax(
    optimisers: Pair[optax.GradientTransformation],
    *,
    every: int = 5,
    weight: float | Array = 0.5,
    d_steps: int = 1,
    lazy: int = 1,
) -> UpdateRule:
    """Alternate as GANs usually do, with `lookahead` over it.

    Chavdarova et al. 2021 (arXiv 2006.14567), algorithm 1.

    Args:
        optimisers: any of optax's that need no more than gradients, one for each player.
        every, weight: as `lookahead` takes them.
        d_steps, lazy: as `alternating` takes them.

    Raises:
        ValueError: as these two do.
    """
    return lookahead(alternating(optimisers, d_steps=d_steps, lazy=lazy), every=every, weight=weight)
