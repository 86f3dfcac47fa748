"""Unrolled steps: the generator descends its loss at the discriminator of some steps ahead."""

from typing import Any

import jax
import optax

from gan_jax.base import Batch, Game, Key, Loss, Metrics, Pair, Params, Point, Stats, UpdateRule
from gan_jax.rules import gradients
from gan_jax.rules.simultaneous import simultaneous


def unrolled(optimisers: Pair[optax.GradientTransformation], *, unroll: int = 5, lazy: int = 1) -> UpdateRule:
    """Move both players at once, the generator against the gradient of its loss after `unroll` discriminator steps.

    With φ₀ = φ and φ₍ᵢ₊₁₎ the discriminator after a step of its own optimiser from φᵢ, the generator θ descends
    d/dθ L_G(θ, φ_unroll(θ)), through all these steps, and the discriminator makes one step from φ. Both move from the
    present point, as in Metz et al. 2017 (arXiv 1611.02163), equations 7 to 11; with `unroll=0` this is `simultaneous`.

    The steps ahead see the step's batch, start from the discriminator's present optimiser state and statistics, and
    use the key of its own move, so the first of them is that move; what comes of them is dropped. The generator's
    penalty, like its loss, is taken at the discriminator ahead, and metrics are those of what each player descends.

    Args:
        optimisers: any of optax's that need no more than gradients, one for each player. The discriminator's is
            differentiated: the slope of √ at 0 is infinite, so Adam and its kin need `eps_root` > 0 (say 1e-8), or a
            parameter without a gradient makes the generator's gradient NaN.
        unroll: how many steps ahead. They are unrolled in the trace too, and time and memory grow with them.
        lazy: penalties are added on every `lazy`-th move of their player, times `lazy`; steps ahead count on.

    Raises:
        ValueError: if `optimisers` is no pair of them, `unroll` is not a whole number of at least 0, or `lazy` not one
            of at least 1; when played, if the game has `slices`.
    """
    if isinstance(unroll, bool) or not isinstance(unroll, int) or unroll < 0:
        raise ValueError(f"unroll={unroll!r} is not a whole number of at least 0")
    both = simultaneous(optimisers, lazy=lazy)

    def step(game: Game, key: Key, point: Point, batch: Batch) -> tuple[Point, Metrics]:
        if game.slices > 1:
            raise ValueError(
                f"unrolled steps see the whole batch, and the game cuts it into {game.slices}: take 1 slice"
            )
        # What `gradients.field` gives the discriminator.
        own = jax.random.fold_in(key, Pair._fields.index("discriminator"))

        def ahead(function: Loss) -> Loss:
            def value(params: Pair[Params], stats: Pair[Stats], key: Key, batch: Batch) -> Any:
                future = Point(params, stats, point.rule)
                for _ in range(unroll):
                    count = future.rule.count.discriminator
                    slope, new, _ = gradients.gradient(
                        game, "discriminator", own, future.params, future.stats, batch, count, lazy
                    )
                    future = gradients.move(optimisers, "discriminator", future, slope, new)
                return function(future.params, future.stats, key, batch)

            return value

        penalty = game.penalties.generator
        surrogate = game._replace(
            losses=game.losses._replace(generator=ahead(game.losses.generator)),
            penalties=game.penalties._replace(generator=None if penalty is None else ahead(penalty)),
        )
        return both.step(surrogate, key, point, batch)

    return both._replace(step=step)
