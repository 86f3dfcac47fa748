"""Exams that a user's own objective, penalty or rule passes in one line, and the strategies behind properties.

    def test_mine():
        check_objective(my_objective())
        check_regularizer(my_penalty(10.0))
        check_rule(lambda rates: my_rule(Pair(*map(optax.sgd, rates))))

An exam is deterministic and raises AssertionError with a sentence that says what was broken. It
asks what every game here relies upon and nothing of taste: closed forms are the author's own tests.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from gan_jax import games
from gan_jax.base import Batch, Game, Key, Loss, Metrics, Objective, Pair, Point, Regularizer, Stats, UpdateRule
from gan_jax.games import Known, spectra

try:
    from hypothesis import strategies as st
    from hypothesis.extra.numpy import arrays
except ModuleNotFoundError as error:
    raise ImportError("gan_jax.testing needs Hypothesis, which gan-jax does not: pip install hypothesis") from error


def keys() -> st.SearchStrategy[Key]:
    """Draw a typed key."""
    return st.integers(0, 2**31 - 1).map(jax.random.key)


def logits(batch: int = 4, bound: float = 1e4) -> st.SearchStrategy[Float[Array, " B"]]:
    """Draw float32 logits [batch] in ±bound, without subnormals, which XLA flushes to zero.

    One batch size for all examples of a property keeps them to one compilation.
    """
    limit = float(np.float32(bound))
    elements = st.floats(-limit, limit, width=32, allow_subnormal=False)
    return arrays(np.float32, batch, elements=elements).map(jnp.asarray)


def quadratic_games() -> st.SearchStrategy[Known]:
    """Draw quadratic games of one to three coordinates a player, zero-sum or general-sum, with the answer at hand."""
    sizes = st.integers(1, 3)
    return st.builds(games.random_quadratic, keys(), sizes, sizes, zero_sum=st.booleans())


def bilinear_games() -> st.SearchStrategy[Known]:
    """Draw games θᵀΓφ of one to three coordinates a player, the entries of Γ in ±2."""
    shapes = st.tuples(st.integers(1, 3), st.integers(1, 3))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-2, 2))).map(games.bilinear)


def rates(largest: float = 0.5) -> st.SearchStrategy[Pair[float]]:
    """Draw a rate for each player, in [0, largest]."""
    return st.builds(Pair, *(2 * [st.floats(0, largest, allow_subnormal=False)]))


def check_objective(objective: Objective, *, zero_sum: bool = False, bound: float = 1e4) -> None:
    """Examine a pair of losses on a grid of logits that reaches to ±bound and ±bound/10.

    Both losses give one number per example, finite with finite slopes, and permuting the examples
    jointly permutes the numbers. Where the discriminator errs (real ≤ 0 ≤ fake) its loss never
    falls with a fake logit nor rises with a real one; where a fake is found out (fake ≤ 0) the
    generator's loss never rises with it. Each of these slopes is strict where the logits are ±½ or
    ±1, hence "saturating" is allowed and a flipped sign is not. Beyond, nothing is asked: labels
    may be smoothed by up to ½, and least squares pulls back what overshoots.

    Args:
        objective: the pair.
        zero_sum: also ask that the players' slopes on a fake logit are opposite.
        bound: the largest logit, for objectives such as KL's that grow exponentially.

    Raises:
        AssertionError: the first of these laws that is broken.
    """
    steps = np.array([0.0, 0.5, 1.0, bound / 10, bound], np.float32)
    grid = np.unique(np.concatenate([-steps, steps]))
    real, fake = (jnp.asarray(axis.ravel()) for axis in np.meshgrid(grid, grid))
    order = np.random.default_rng(0).permutation(len(real))
    on_real, on_fake = {}, {}
    for player, loss in zip(objective._fields, objective, strict=True):
        values = jax.jit(loss)(real, fake)
        assert values.shape == real.shape, f"the {player}'s loss has shape {values.shape}, not {real.shape}: no mean"
        assert jnp.isfinite(values).all(), f"the {player}'s loss is not finite in ±{bound:g}"
        permuted = loss(real[order], fake[order])
        assert np.allclose(permuted, values[order], rtol=1e-5), f"the {player}'s loss depends on the order of examples"
        slopes = jax.grad(_summed(loss), argnums=(0, 1))(real, fake)
        assert jnp.isfinite(jnp.stack(slopes)).all(), f"the {player}'s slope is not finite in ±{bound:g}"
        on_real[player], on_fake[player] = slopes

    errs, found_out = (real <= 0) & (fake >= 0), fake <= 0
    moderate = np.isin(abs(real), (0.5, 1.0)) & np.isin(abs(fake), (0.5, 1.0))
    laws = {
        "the discriminator's loss must fall with a real logit below 0": (-on_real["discriminator"], errs),
        "the discriminator's loss must rise with a fake logit above 0": (on_fake["discriminator"], errs),
        "the generator's loss must fall with a fake logit below 0": (-on_fake["generator"], found_out),
    }
    for law, (push, where) in laws.items():
        kept = ~where | jnp.where(moderate, push > 0, push >= 0)
        worst = jnp.argmin(kept)
        assert kept.all(), f"{law}: not so at real {real[worst]:g}, fake {fake[worst]:g}"
    if zero_sum:
        opposite = np.allclose(on_fake["generator"], -on_fake["discriminator"], rtol=1e-5, atol=1e-6)
        assert opposite, "the game is not zero-sum: the players' slopes on a fake logit are not opposite"


def check_regularizer(regularizer: Regularizer) -> None:
    """Examine a penalty on a smooth critic of vectors [B, 3] and of images [B, 2, 2, 1].

    It gives one number per example, finite and not negative, the same for the same key and under jit, and others for
    other examples; its gradient with respect to the critic's parameters is finite, also where the critic is flat, and
    reaches them; and unless it depends on the key, permuting the examples permutes it.

    Raises:
        AssertionError: the first of these laws that is broken.
    """
    for shape in ((4, 3), (4, 2, 2, 1)):
        key, other, *draws = jax.random.split(jax.random.key(0), 5)
        real, fake, weights = (jax.random.normal(draw, shape) for draw in draws)

        def penalty(weights: Array, key: Key, real: Array, fake: Array) -> Array:
            features = tuple(range(1, real.ndim))
            return regularizer(key, lambda x: jnp.sum(jnp.sin(weights[:1] * x), axis=features), real, fake)

        values = penalty(weights, key, real, fake)
        assert values.shape == shape[:1], f"the penalty of {shape} inputs has shape {values.shape}, not {shape[:1]}"
        assert jnp.isfinite(values).all(), f"the penalty is not finite: {values}"
        assert (values >= 0).all(), f"the penalty is negative: {values}"
        compiled = jax.jit(penalty)(weights, key, real, fake)
        assert np.allclose(compiled, values, rtol=1e-4), "the penalty differs under jit, or between calls with one key"
        assert not np.allclose(penalty(weights, key, 2 * real, 2 * fake), values), "the penalty sees no examples"
        slope = jax.grad(_summed(penalty))
        smooth, flat = (slope(parameters, key, real, fake) for parameters in (weights, jnp.zeros_like(weights)))
        assert (smooth != 0).any(), "the penalty does not reach the critic's parameters: is a gradient stopped?"
        for critic, slopes in (("a smooth", smooth), ("a flat", flat)):
            assert jnp.isfinite(slopes).all(), f"the gradient of the penalty is not finite on {critic} critic"
        if jnp.array_equal(penalty(weights, other, real, fake), values):
            permuted = penalty(weights, key, real[::-1], fake[::-1])
            assert np.allclose(permuted, values[::-1], rtol=1e-4), "the penalty depends on the order of examples"


def check_rule(
    make: Callable[[Pair[Any]], UpdateRule],
    matrix: Callable[[Known, Pair[float]], np.ndarray] | None = None,
    *,
    period: int = 1,
) -> None:
    """Examine an update rule on games with known answers; what it must do with batches, stats and keys, too.

    A step gives back a point of the same structure, shapes and types, and can be compiled with its rates traced. At
    an equilibrium the parameters stay; at rates of zero nobody moves, and at one rate of zero the other player alone.
    On a strongly convex-concave game it converges. It takes as many batches as it says, uses each and refuses others,
    draws anew with each key, keeps of a player's loss that player's stats alone, and passes on the metrics of both.

    Args:
        make: `rates -> rule` under plain gradient steps: `lambda rates: my_rule(Pair(*map(optax.sgd, rates)))`.
        matrix: `(known, rates) -> ` the step on a linear game, in the coordinates of `spectra`, or, for a rule with
            memory, another matrix of the same eigenvalues but for zeros. The rule, differentiated in float64, must be
            that matrix, or have its spectrum where it remembers more than parameters, on a bilinear game, quadratic
            games of unequal dimensions and the Dirac-GAN.
        period: after how many steps the rule repeats itself, if each is not like the last.

    Raises:
        AssertionError: the first of these laws that is broken.
    """
    with jax.enable_x64(True):
        general = games.random_quadratic(jax.random.key(1), 3, 1, zero_sum=False)
        dirac = games.GAMES["dirac_r1"]()
        _check_moves(make, (general, dirac))
        _check_convergence(make, games.saddle(2.0, 1.5, 0.5))
        known = (games.bilinear(0.8), games.random_quadratic(jax.random.key(0), 2, 3), general, dirac)
        if matrix is not None:
            rates = Pair(0.05, 0.3)
            for game in known:
                measured, expected = spectra.linearise(game, make(rates), steps=period), matrix(game, rates)
                _check_spectrum(measured, expected)
                if len(measured) == len(expected) == sum(np.size(leaf) for leaf in jax.tree.leaves(game.solution)):
                    # Steps in another order have the same eigenvalues.
                    assert np.allclose(measured, expected, atol=1e-9), "the step is another matrix of the same spectrum"
    _check_data(make)


def _check_moves(make: Callable[[Pair[Any]], UpdateRule], known: tuple[Known, ...]) -> None:
    """Where a step may not go, and that it gives back what it was given."""
    for game in known:
        away = jax.tree.map(lambda leaf: jnp.asarray(leaf) + 0.3, game.solution)

        def after(rates: Pair[float], params: Pair[Any], game: Known = game) -> Point:
            rule = make(rates)
            point = games.start(game, rule, params)
            for _ in range(2):  # the second step has something to remember
                point, _ = rule.step(game.game, jax.random.key(0), point, {})
            return point

        after = jax.jit(after)  # of the rates too: one compilation serves all of them
        still = after(Pair(0.1, 0.2), game.solution).params
        for stays, solved in zip(jax.tree.leaves(still), jax.tree.leaves(game.solution), strict=True):
            assert np.allclose(stays, solved, atol=1e-12), "an equilibrium does not stay where it is"
        for rates in (Pair(0.0, 0.0), Pair(0.0, 0.1), Pair(0.1, 0.0)):
            moved = after(rates, away).params
            for player, rate, mine, before in zip(Pair._fields, rates, moved, away, strict=True):
                at_rest = all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (mine, before)), strict=True))
                assert at_rest or rate > 0, f"the {player} moves at a rate of zero"
                assert not at_rest or rate == 0, f"the {player} does not move when the other's rate is zero"
        rule = make(Pair(0.1, 0.2))
        start = games.start(game, rule, away)
        stepped = jax.eval_shape(lambda start: rule.step(game.game, jax.random.key(0), start, {})[0], start)  # noqa: B023
        shapes = [jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), p) for p in (start, stepped)]
        assert shapes[0] == shapes[1], f"a step changes the point's structure: {shapes[0]} becomes {shapes[1]}"


def _check_convergence(make: Callable[[Pair[Any]], UpdateRule], known: Known) -> None:
    away = jax.tree.map(lambda leaf: jnp.asarray(leaf) + 0.5, known.solution)
    path = np.asarray(games.play(known, make(Pair(0.1, 0.1)), away, 300))
    distance = np.linalg.norm(path[-1]) / np.linalg.norm(path[0])
    assert distance < 1e-2, f"a strongly convex-concave game is not solved: {distance:.2g} of the distance is left"


def _check_spectrum(measured: np.ndarray, expected: np.ndarray) -> None:
    largest, wanted = (abs(np.linalg.eigvals(matrix)).max() for matrix in (measured, expected))
    assert spectra.difference(measured, expected) < 1e-9, (
        f"the linearised step is not the matrix: spectral radius {largest:.6f}, and {wanted:.6f} on paper"
    )


def _check_data(make: Callable[[Pair[Any]], UpdateRule]) -> None:
    """Which batches are taken, whose stats are kept, and that both players' metrics come out."""

    def loss(player: str) -> Loss:
        def value(
            params: Pair[Array], stats: Pair[Stats], key: Key, batch: Batch
        ) -> tuple[Array, tuple[Pair[Stats], Metrics]]:
            mine = getattr(params, player)
            cost = jnp.square(mine - batch["x"].mean()) + 0.1 * mine * jax.random.normal(key)
            own, foreign = 1.0, 1000.0
            seen = (old + (own if name == player else foreign) for name, old in zip(Pair._fields, stats, strict=True))
            return cost, (Pair(*seen), {f"{player}/loss": cost})

        return value

    game = Game(Pair(*(loss(player) for player in Pair._fields)))
    rule = make(Pair(0.1, 0.1))
    assert isinstance(rule.batches, int) and rule.batches >= 1, f"batches={rule.batches} is not a whole number above 0"
    params = Pair(jnp.float32(0.0), jnp.float32(0.0))
    point = Point(params, Pair(jnp.float32(10.0), jnp.float32(20.0)), rule.init(params))

    def step(batch: Batch, seed: int = 0) -> tuple[Point, Metrics]:
        return rule.step(game, jax.random.key(seed), point, batch)

    batch = {"x": jnp.ones((rule.batches, 4))}
    (after, metrics), (other, _) = (jax.jit(partial(step, seed=seed))(batch) for seed in (0, 1))
    for player, one, two in zip(Pair._fields, after.params, other.params, strict=True):
        assert one != two, f"the {player}'s loss draws the same whatever the key"
    used = jax.jit(jax.jacobian(lambda batch: jnp.stack(step(batch)[0].params)))(batch)["x"]
    for index, slope in enumerate(jnp.abs(used).sum(axis=(0, 2))):
        assert slope > 0, f"batch {index} of {rule.batches} is not used"
    for player, before, now in zip(Pair._fields, point.stats, after.stats, strict=True):
        assert now >= before + 1, f"the {player}'s new stats are not kept"
        assert now < before + 1000, f"the {player}'s stats come from the other player's loss"
    missing = [player for player in Pair._fields if f"{player}/loss" not in metrics]
    assert not missing, f"the metrics of the {' and the '.join(missing)} are lost"
    for count in (rule.batches - 1, rule.batches + 1):
        try:
            jax.eval_shape(step, {"x": jnp.ones((count, 4))})
        except (AssertionError, ValueError):
            continue
        raise AssertionError(f"{count} batches are taken in silence, where the rule says {rule.batches}")


def _summed(loss: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *arguments: jnp.sum(loss(*arguments))
