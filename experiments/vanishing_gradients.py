"""Why a perfect discriminator teaches nothing: slopes of Jensen-Shannon and of Wasserstein between far Gaussians.

Command: gan-jax train vanishing_gradients
Result: at 8 deviations the minimax slope falls from 1e-2 to 5e-4 as the discriminator trains, the non-saturating one
    rises from 0.5 to 6.3, WGAN-GP's stays at 1.4. Means of three critics
Cost: 52 s of CPU time on an AMD EPYC core

Data N(0, 1), generator z + θ: its one parameter is the distance. Exact values and slopes at each distance, those that
trained critics give, and along the training of its critic the generator's slope and the share of examples whose slope
has vanished, under the saturating pair, the non-saturating one and Wasserstein's with a gradient penalty (Arjovsky &
Bottou 2017, arXiv 1701.04862; Arjovsky et al. 2017, arXiv 1701.07875).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_jax.arithmetic import require_counts, require_positive
from gan_jax.base import Objective, Regularizer, Report, Study
from gan_jax.diagnostics.saturation import saturation
from gan_jax.divergences import Normal, divergence, lipschitz, quadrature
from gan_jax.networks import mlp
from gan_jax.objectives import minimax, non_saturating, wasserstein
from gan_jax.penalties import wgan_gp


@dataclass(frozen=True, kw_only=True)
class Config:
    """The distances, the critics and how they are trained."""

    distances: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
    """Distances of the generator's mean from the data's, in their common deviation."""
    watched: float = 8.0
    """The distance whose slopes are shown along training: one of the distances."""
    critics: int = 3
    """Independent critics at each distance."""
    widths: tuple[int, ...] = (32, 32)
    """Hidden layers of a critic."""
    batch: int = 256
    """Real samples, and fakes, in one update."""
    updates: int = 4000
    """Updates of a critic, with the generator fixed."""
    rate: float = 1e-3
    """Adam's learning rate."""
    penalty: float = 10.0
    """Weight of the gradient penalty."""
    measured: int = 200
    """Points of the curve along training."""


SMALLEST = Config(distances=(1.0, 2.0), watched=2.0, critics=2, widths=(4,), batch=4, updates=2, measured=2)

TITLES = {"minimax": "minimax", "non_saturating": "non-saturating", "wasserstein": "WGAN-GP"}
OPTIMAL = {"minimax": "optimal", "non_saturating": "optimal", "wasserstein": "optimal for point masses"}
COLOURS = {"minimax": "tab:blue", "non_saturating": "tab:orange", "wasserstein": "tab:green"}


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study: the exact curves, the classifiers and the critics."""
    if data is not None:
        raise ValueError(f"data set {data!r}: this study compares Gaussians in closed form, give none")
    if config.watched not in config.distances:
        raise ValueError(f"watched={config.watched} is none of the distances {config.distances}: add it")
    require_counts(critics=config.critics, batch=config.batch, updates=config.updates, measured=config.measured)
    if config.updates % config.measured:
        raise ValueError(f"measured={config.measured} does not divide {config.updates} updates: give a divisor")
    require_positive(rate=config.rate)
    cells = {
        "exact": partial(_exact, config),
        # The saturating and the non-saturating generator face the same discriminator.
        "classifier": partial(_train, config, {"minimax": minimax(), "non_saturating": non_saturating()}, None),
        "critic": partial(_train, config, {"wasserstein": wasserstein()}, wgan_gp(config.penalty)),
    }
    return Study(cells, partial(_report, config))


def _exact(config: Config, directory: Path) -> Mapping[str, Any]:
    """Compute the curves over distance that optimal critics give, in float64: slopes fall below float32's rounding."""
    with jax.enable_x64(True):
        distances = jnp.linspace(0.0, 1.1 * max(config.distances), 111)
        data = Normal(0.0, 1.0)

        def jensen_shannon(distance: jax.Array) -> jax.Array:
            return divergence("jensen_shannon").between(data, Normal(distance, 1.0)) / 2.0

        def non_saturating_slope(distance: jax.Array) -> jax.Array:
            """E_q of the slope of −log D, where the optimal logit d²/2 − dx has the slope −d."""
            points, weights = quadrature(Normal(distance, 1.0))
            return jnp.sum(weights * jax.nn.sigmoid(distance * points - jnp.square(distance) / 2.0)) * distance

        value, slope = jax.vmap(jax.value_and_grad(jensen_shannon))(distances)
        return {
            "distances": distances.tolist(),
            "jensen_shannon": value.tolist(),
            "slopes": {
                "minimax": (2.0 * slope).tolist(),  # the game's value is 2·JS − log 4
                "non_saturating": jax.vmap(non_saturating_slope)(distances).tolist(),
                # W₁'s own slope is 1. Of point masses, which Gaussians far apart are to it, a slope s on the way
                # gains sd − λ(s − 1)² under the penalty: most at 1 + d/2λ.
                "wasserstein": (1.0 + distances / (2.0 * config.penalty)).tolist(),
            },
        }


def _train(
    config: Config, objectives: Mapping[str, Objective], penalty: Regularizer | None, directory: Path
) -> Mapping[str, Any]:
    """Train critics of one kind at every distance at once; a cell is under a minute, so it keeps nothing on the way."""
    critic = mlp.discriminator((1,), widths=config.widths, dropout=0.0)
    optimiser = optax.adam(config.rate, b1=0.5, b2=0.9)
    loss = next(iter(objectives.values())).discriminator
    noise, weights = quadrature(Normal(0.0, 1.0))
    # Of equal weight, so that a share of them is one of the distribution.
    quantiles = jax.scipy.stats.norm.ppf((jnp.arange(1000) + 0.5) / 1000)

    def outputs(params: Any, x: jax.Array) -> jax.Array:
        return critic.apply(params, {}, x[:, None], train=False)[0]

    def measure(params: Any, distance: jax.Array) -> dict[str, Any]:
        """The critic's value and the generators' slopes as expectations, free of sampling noise."""

        def generator_loss(pair: Objective, distance: jax.Array) -> jax.Array:
            return jnp.sum(weights * pair.generator(outputs(params, noise), outputs(params, noise + distance)))

        real, fake = outputs(params, noise), outputs(params, noise + distance)
        points = jnp.concatenate([noise, noise + distance])[::4]
        saturated = {
            name: saturation(pair, outputs(params, quantiles), outputs(params, quantiles + distance))
            for name, pair in objectives.items()
        }
        return {
            "saturated": {
                "discriminator": next(iter(saturated.values()))["discriminator/saturated"],
                **{name: found["generator/saturated"] for name, found in saturated.items()},
            },
            "value": -jnp.sum(weights * loss(real, fake)),
            "steepest": lipschitz(points[:, None], outputs(params, points)),
            **{name: jax.grad(partial(generator_loss, pair))(distance) for name, pair in objectives.items()},
        }

    def critic_loss(params: Any, key: jax.Array, distance: jax.Array) -> jax.Array:
        real_key, fake_key, penalty_key = jax.random.split(key, 3)
        real = jax.random.normal(real_key, (config.batch,))
        fake = distance + jax.random.normal(fake_key, (config.batch,))
        value = jnp.mean(loss(outputs(params, real), outputs(params, fake)))
        if penalty is None:
            return value
        return value + jnp.mean(penalty(penalty_key, partial(outputs, params), real, fake))

    def update(distance: jax.Array, state: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
        params, moments = state
        steps, moments = optimiser.update(jax.grad(critic_loss)(params, key, distance), moments)
        return (optax.apply_updates(params, steps), moments), None

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    @partial(jax.vmap, in_axes=(None, 0))
    def train(distance: jax.Array, key: jax.Array) -> dict[str, Any]:
        init_key, key = jax.random.split(key)
        params, _ = critic.init(init_key)
        keys = jax.random.split(key, (config.measured, config.updates // config.measured))

        def stretch(state: tuple[Any, Any], keys: jax.Array) -> tuple[tuple[Any, Any], dict[str, Any]]:
            state, _ = jax.lax.scan(partial(update, distance), state, keys)
            return state, measure(state[0], distance)

        return jax.lax.scan(stretch, (params, optimiser.init(params)), keys)[1]

    keys = jax.random.split(jax.random.key(0), config.critics)
    curves = train(jnp.asarray(config.distances), keys)  # [distances, critics, measured]
    curves = jax.tree.map(lambda curve: np.asarray(curve, float), curves)
    each = config.updates // config.measured
    return {
        "updates": [each * (index + 1) for index in range(config.measured)],
        **{name: jax.tree.map(np.ndarray.tolist, curves.pop(name)) for name in ("value", "steepest", "saturated")},
        "slopes": {name: np.abs(curve).tolist() for name, curve in curves.items()},
    }


def _report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Make the table of slopes over distance, and a figure: values, slopes, and both slopes and saturation in time."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(10, 8.2), layout="constrained")
    values, slopes, training, vanished = figure.subplots(2, 2).flat
    for axes, title in (
        (values, "distance measured (dots: trained critics)"),
        (slopes, "the generator's slope (dots: trained critics)"),
        (training, f"the slope as critics train, at distance {config.watched:g}"),
        (vanished, f"share of examples without a slope, at distance {config.watched:g}"),
    ):
        axes.set_title(title, fontsize=11)
    for axes in (values, slopes):
        axes.set_xlabel("distance of the generator from the data, in deviations")
    training.set_xlabel("updates of the critic (dashed: the optimal critic)")
    vanished.set_xlabel("updates of the critic (dotted: the critic itself)")
    slopes.set_ylabel("|slope|")
    training.set_ylabel("|slope|")

    if "exact" in results:
        exact = results["exact"]
        values.plot(exact["distances"], exact["jensen_shannon"], color=COLOURS["minimax"])
        values.plot(exact["distances"], exact["distances"], color=COLOURS["wasserstein"])
        values.axhline(np.log(2), color="grey", linestyle=":")
        farthest = exact["distances"][-1]
        values.text(
            farthest, np.log(2) + 0.15, "log 2: supports that are disjoint", color="grey", fontsize=9, ha="right"
        )
        for name, curve in exact["slopes"].items():
            # Not from distance zero, where all but one of them vanish.
            slopes.plot(exact["distances"][1:], curve[1:], color=COLOURS[name])
            level = np.interp(config.watched, exact["distances"], curve)
            training.axhline(level, color=COLOURS[name], linestyle="--", linewidth=1)
    for kind, colour in (("classifier", COLOURS["minimax"]), ("critic", COLOURS["wasserstein"])):
        if kind not in results:
            continue
        result = results[kind]
        found, steepest = (np.array(result[name])[..., -1] for name in ("value", "steepest"))
        # The game's value is 2·JS - log 4; the distance's dual value is that of a critic made 1-Lipschitz.
        found = (found + np.log(4)) / 2 if kind == "classifier" else found / steepest
        values.plot(*_points(config, found), "o", color=colour, markersize=4)
        for name, curves in result["slopes"].items():
            curves = np.array(curves)
            slopes.plot(*_points(config, curves[..., -1]), "o", color=COLOURS[name], markersize=4)
            watched = curves[config.distances.index(config.watched)]
            training.plot(result["updates"], watched.T, color=COLOURS[name], linewidth=1, alpha=0.8)
        for name, curves in result["saturated"].items():
            watched = np.array(curves)[config.distances.index(config.watched)]
            line = {"color": colour, "linestyle": ":"} if name == "discriminator" else {"color": COLOURS[name]}
            vanished.plot(result["updates"], watched.T, linewidth=1, alpha=0.8, **line)
    slopes.set_yscale("log")
    training.set_yscale("log")
    for axes in (training, vanished):
        axes.set_xscale("log")
    vanished.set_ylim(-0.03, 1.03)
    # Named by colour and not by what was drawn: a report may be of a few cells.
    for axes, place, names in (
        (values, "upper left", {"minimax": "Jensen-Shannon", "wasserstein": "Wasserstein-1"}),
        (slopes, "lower left", TITLES),
    ):
        handles = [Line2D([], [], color=COLOURS[name], label=label) for name, label in names.items()]
        axes.legend(handles=handles, loc=place, frameon=False)
    return Report("\n".join(_table(config, results)), {"vanishing_gradients": figure})


def _points(config: Config, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each critic's number against its distance, from [distances, critics]."""
    return np.repeat(config.distances, found.shape[1]), found.ravel()


def _table(config: Config, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    trained = [name for kind in ("classifier", "critic") if kind in results for name in results[kind]["slopes"]]
    rows = [
        f"| distance | {' | '.join(f'{TITLES[name]}: trained | {OPTIMAL[name]}' for name in trained)} |",
        f"|---|{'---|---|' * len(trained)}",
    ]
    for index, distance in enumerate(config.distances):
        row = [f"{distance:g}"]
        for name in trained:
            result = results["critic" if name == "wasserstein" else "classifier"]
            row.append(f"{np.mean(np.array(result['slopes'][name])[index, :, -1]):.3g}")
            exact = results.get("exact")
            row.append(f"{np.interp(distance, exact['distances'], exact['slopes'][name]):.3g}" if exact else "")
        rows.append(f"| {' | '.join(row)} |")
    return rows
