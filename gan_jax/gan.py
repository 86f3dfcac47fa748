"""The assembly: networks, an objective, a penalty and a rule make a GAN, which is a game and a `Learner`.

`hyper` has one door: rates, beta1, penalty weight and smoothing are read only from there, so plain
training, a sweep, MAML and a controller run the same step.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import AxisType, PartitionSpec

from gan_jax import latents, optimisers
from gan_jax.arithmetic import require_counts
from gan_jax.base import (
    Batch,
    Batches,
    Game,
    Hyper,
    Key,
    Learner,
    Loss,
    Metrics,
    Network,
    Objective,
    Pair,
    Params,
    Point,
    Program,
    Regularizer,
    State,
    Stats,
    Tunable,
    UpdateRule,
)
from gan_jax.diagnostics.saturation import saturation


class Hypers(NamedTuple):
    """The numbers of an ordinary GAN; an assembly may take any other pytree.

    rates: both learning rates. beta1: Adam's, for both players, in [0, 1).
    penalty: the penalty's weight. smoothing: of the real labels, in [0, 1).
    """

    rates: Pair[float] = Pair(2e-4, 2e-4)
    beta1: float = 0.5
    penalty: float = 0.0
    smoothing: float = 0.0


class Average(NamedTuple):
    """An exponential moving average of the generator: its parameters and its statistics."""

    params: Params
    stats: Stats


class GANState(NamedTuple):
    """Where the training of a GAN stands.

    point: of the game. average: of the generator, what is sampled from. steps: steps done, an int32 scalar.
    """

    point: Point
    average: Average
    steps: Array

    def current(self) -> "GANState":
        """Return the state whose average is the generator as it stands, so that this is what is sampled from."""
        return self._replace(average=Average(self.point.params.generator, self.point.stats.generator))


class GAN(NamedTuple):
    """A GAN as pure functions.

    hyper: the defaults. game: `hyper -> Game`. rule: `hyper -> UpdateRule`.
    init: `(hyper, key, params=None) -> state`, at a pair of parameters or else at fresh ones.
    step: `(hyper, key, state, batch) -> (state, metrics)`, leaves [batches, B, ...].
    sample: `(key, state, n, label=None, frames=1) -> [n, ...]` from the averaged generator; without labels a
        conditional GAN draws them uniformly. Of more than one frame, each so many samples, a divisor of n, go from one
        latent to another along the great circle between them, at one label.
    classes: how many labels it is conditional on; 0 if none.
    """

    hyper: Hyper
    game: Callable[[Hyper], Game]
    rule: Callable[[Hyper], UpdateRule]
    init: Callable[..., GANState]
    step: Callable[[Hyper, Key, GANState, Batch], tuple[GANState, Metrics]]
    sample: Callable[..., Array]
    classes: int

    def learner(self, loss: Callable[[Hyper, Key, GANState, Batch], Array]) -> Learner:
        """Return the GAN as what meta-learning works on, judged by `loss`; its parameters are the pair's."""
        return Learner(
            self.hyper,
            self.init,
            self.step,
            loss,
            get_params=lambda state: state.point.params,
            set_params=lambda state, params: state._replace(point=state.point._replace(params=params)),
        )

    def program(
        self,
        batches: Callable[[int], Batches],
        *,
        measure: Callable[[Key, State, int], Mapping[str, Any]] | None = None,
        score: Callable[[Key, State], Mapping[str, float]] | None = None,
        steps: int = 1000,
        chunk: int = 1,
    ) -> Program:
        """Return what the training loop runs, at the default hyperparameters.

        Args:
            batches: makes a stream of as many batches a step as it is asked for; the rule says how many.
            measure, score, steps, chunk: Program's fields.
        """

        def observe(key: Key, state: State) -> Batch:
            # A column of each class where the grid stays a picture, else as many as fill one.
            few = 8 <= self.classes <= 16
            n = self.classes**2 if few else 64
            labels = jnp.arange(n) % self.classes if self.classes else None
            samples = self.sample(key, state, n, labels)
            return {"image": samples} if samples.ndim == 4 else {"x": self.sample(key, state, 1024)}

        return Program(
            init=partial(self.init, self.hyper),
            step=partial(self.step, self.hyper),
            batches=batches(self.rule(self.hyper).batches),
            observe=observe,
            sample=self.sample,
            measure=measure,
            score=score,
            game=lambda state: (self.game(self.hyper), state.point),
            tunable=Tunable(
                self.hyper,
                self.step,
                game=lambda hyper, state: (self.game(hyper), state.point),
                sample=lambda key, state, n: self.sample(key, state.current(), n),
            ),
            steps=steps,
            chunk=chunk,
        )


def gan(
    networks: Pair[Network],
    latent: Callable[[Key, int], Array],
    *,
    hyper: Hyper,
    objective: Callable[[Hyper], Objective],
    rule: Callable[[Hyper], UpdateRule],
    penalty: Callable[[Hyper], Regularizer] | None = None,
    augment: Callable[[Hyper], Callable[[Key, Array], Array]] | None = None,
    pack: int = 1,
    classes: int = 0,
    ema: float = 0.999,
    axis_name: str | None = None,
    slices: int = 1,
) -> GAN:
    """Assemble a GAN.

    Args:
        networks: latents [B, D] to samples [B, ...], and samples to logits [B].
        latent: `(key, n) -> [n, D]`.
        hyper: the defaults of all numbers that may be learned.
        objective, rule, penalty, augment: functions of the hyperparameters. The penalty is the discriminator's; what
            is augmented, and packed, `adversarial` says.
        pack: how many examples the discriminator judges at once.
        classes: how many labels both networks take; 0 for an unconditional GAN.
        ema: the decay of the generator's average, in [0, 1). In early steps t it is (1 + t) / (10 + t), if
            that is smaller, so that the average forgets the initial values.
        axis_name: of the mapped axis over whose devices a batch is divided, if it is: gradients, statistics and
            metrics are then means over it, and its networks' batch normalisation takes the same name.
        slices: into how many parts a batch is cut to save memory; gradients are the means of theirs. Batch
            normalisation sees a part alone.

    Raises:
        ValueError: if `ema`, `pack` or `slices` is out of its range, if a conditional GAN is to pack, or as the
            factories say, for the defaults in `hyper`.
    """
    if isinstance(pack, bool) or not isinstance(pack, int) or pack < 1:
        raise ValueError(f"pack={pack!r} is not a whole number of at least 1: 2 is usual, 1 is none")
    if pack > 1 and classes:
        raise ValueError(f"pack={pack} with classes={classes}: a pack has many labels, pack an unconditional GAN")
    require_counts(slices=slices)
    if not 0 <= ema < 1:
        raise ValueError(f"ema={ema} is not a decay in [0, 1): 0.999 averages about a thousand steps")
    (
        rule(hyper),
        objective(hyper),
        penalty and penalty(hyper),
        augment and augment(hyper),
    )  # so that their defaults are checked here

    def game(hyper: Hyper) -> Game:
        played = adversarial(
            networks,
            latent,
            objective(hyper),
            penalty(hyper) if penalty else None,
            conditional=classes > 0,
            augment=augment(hyper) if augment else None,
            pack=pack,
        )
        return played._replace(axis_name=axis_name, slices=slices)

    def init(hyper: Hyper, key: Key, params: Pair[Params] | None = None) -> GANState:
        keys = Pair(*jax.random.split(key))
        made = Pair(*(network.init(mine) for network, mine in zip(networks, keys, strict=True)))
        fresh, stats = (Pair(*half) for half in zip(*made, strict=True))
        params = fresh if params is None else params
        average = Average(params.generator, stats.generator)
        # A copy: the state is donated, and a buffer cannot be given away twice.
        average = jax.tree.map(jnp.copy, average)
        return GANState(Point(params, stats, rule(hyper).init(params)), average, jnp.int32(0))

    def step(hyper: Hyper, key: Key, state: GANState, batch: Batch) -> tuple[GANState, Metrics]:
        point, metrics = rule(hyper).step(game(hyper), key, state.point, batch)
        decay = jnp.minimum(ema, (1.0 + state.steps) / (10.0 + state.steps))
        new = Average(point.params.generator, point.stats.generator)
        average: Any = optax.incremental_update(new, state.average, step_size=1.0 - decay)
        return GANState(point, average, state.steps + 1), metrics

    def sample(key: Key, state: GANState, n: int, label: Array | int | None = None, frames: int = 1) -> Array:
        if classes == 0 and label is not None:
            raise ValueError(f"label {label} was asked of an unconditional GAN: train a conditional one")
        if isinstance(label, int) and not 0 <= label < classes:
            raise ValueError(f"label {label} is not a class: they are 0...{classes - 1}")
        if frames < 1 or n % frames:
            raise ValueError(f"{n} samples are no whole number of rows of {frames}: give a multiple of {frames}")
        latent_key, label_key = jax.random.split(key)
        z = latent(latent_key, n)
        if frames > 1:
            rows = z.reshape(n // frames, frames, -1)
            path = jax.vmap(latents.slerp, (None, None, 0), out_axes=1)
            z = path(rows[:, 0], rows[:, -1], jnp.linspace(0, 1, frames)).reshape(n, -1)
        if classes:
            drawn = jax.random.randint(label_key, (n // frames,), 0, classes).repeat(frames)
            label = drawn if label is None else jnp.broadcast_to(label, (n,))
        samples, _ = networks.generator.apply(*state.average, z, label=label, train=False)
        return samples

    return GAN(hyper, game, rule, init, step, sample, classes)


def adversarial(
    networks: Pair[Network],
    latent: Callable[[Key, int], Array],
    objective: Objective,
    penalty: Regularizer | None = None,
    *,
    conditional: bool = False,
    augment: Callable[[Key, Array], Array] | None = None,
    pack: int = 1,
) -> Game:
    """Return the game of a generator and a discriminator on batches of data.

    Args:
        networks, latent, objective, penalty, augment: as `gan` takes them, without `hyper`.
            Real and fake are augmented alike before the critic, and the penalty, sees them: `(key, x) -> x`.
        conditional: both networks are given the labels of the batch.
        pack: how many examples the critic judges at once: it is given [B / pack, pack, ...] (Lin et al. 2018,
            arXiv 1712.04086, section 2).

    Raises (when played):
        ValueError: if a batch is no whole number of packs, the generator's samples are not of the shape of the data, or
            the discriminator does not give one logit for each example, [B].

    Fakes get the labels of the batch: both sides then show each class equally often. The penalty is called with
    its loss's key and derives the same latents and masks from it, so XLA computes them once.
    Metrics: "generator/loss", "discriminator/loss", "discriminator/penalty", "discriminator/real" and
        "discriminator/fake", the means of D(x) and D(G(z)) with D the logistic function of the logit, and those of
        `diagnostics.saturation`.
    """

    def play(params: Pair[Params], stats: Pair[Stats], key: Key, batch: Batch) -> tuple[Any, ...]:
        real = batch["image"] if "image" in batch else batch["x"]
        label = batch["label"] if conditional else None
        latent_key, generator_key, real_key, fake_key, penalty_key = jax.random.split(key, 5)
        z = _spread(latent(latent_key, real.shape[0]))
        fake, generator_stats = networks.generator.apply(
            params.generator, stats.generator, z, label=label, train=True, key=generator_key
        )
        if fake.shape != real.shape:
            raise ValueError(
                f"the generator gives {list(fake.shape)} where the data are {list(real.shape)}: give one shape"
            )

        if augment is not None:
            # Not from the split above: without augmentation the numbers of a run stay what they were.
            keys = jax.random.split(jax.random.fold_in(key, 5))
            real, fake = (augment(mine, x) for mine, x in zip(keys, (real, fake), strict=True))
        if pack > 1:
            if real.shape[0] % pack:
                raise ValueError(f"a batch of {real.shape[0]} is no whole number of packs of {pack}")
            real, fake = (x.reshape(-1, pack, *x.shape[1:]) for x in (real, fake))

        def critic(x: Array, stats: Stats, key: Key) -> tuple[Array, Stats]:
            return networks.discriminator.apply(params.discriminator, stats, x, label=label, train=True, key=key)

        real_logits, discriminator_stats = critic(real, stats.discriminator, real_key)
        fake_logits, discriminator_stats = critic(fake, discriminator_stats, fake_key)
        if real_logits.shape != (len(real),):  # [B, 1] would train until it meets something of [B], and broadcasts
            raise ValueError(
                f"the discriminator gives {list(real_logits.shape)} for {len(real)} examples: give logits [B], one "
                "number for each, without an axis more"
            )

        def penalise(regularizer: Regularizer) -> Array:
            return regularizer(penalty_key, lambda x: critic(x, stats.discriminator, real_key)[0], real, fake)

        return real_logits, fake_logits, Pair(generator_stats, discriminator_stats), penalise

    def generator_loss(
        params: Pair[Params], stats: Pair[Stats], key: Key, batch: Batch
    ) -> tuple[Array, tuple[Pair[Stats], Metrics]]:
        real, fake, stats, _ = play(params, stats, key, batch)
        loss = objective.generator(real, fake).mean()
        return loss, (stats, {"generator/loss": loss})

    def discriminator_loss(
        params: Pair[Params], stats: Pair[Stats], key: Key, batch: Batch
    ) -> tuple[Array, tuple[Pair[Stats], Metrics]]:
        real, fake, stats, _ = play(params, stats, key, batch)
        loss = objective.discriminator(real, fake).mean()
        outputs = {"discriminator/real": jax.nn.sigmoid(real).mean(), "discriminator/fake": jax.nn.sigmoid(fake).mean()}
        return loss, (stats, {"discriminator/loss": loss, **outputs, **saturation(objective, real, fake)})

    def discriminator_penalty(
        params: Pair[Params], stats: Pair[Stats], key: Key, batch: Batch
    ) -> tuple[Array, tuple[Pair[Stats], Metrics]]:
        _, _, stats, penalise = play(params, stats, key, batch)
        value = penalise(penalty).mean()
        return value, (stats, {"discriminator/penalty": value})

    penalties: Pair[Loss | None] = Pair(None, discriminator_penalty if penalty else None)
    return Game(Pair(generator_loss, discriminator_loss), penalties)


def _spread(x: Array) -> Array:
    """Return the array divided along its first axis over the devices of the mesh in whose context it is traced, if any.

    A generator's loss need not look at the batch, and without a word every device would compute all of it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    automatic = set(mesh.axis_types) == {AxisType.Auto}  # not within shard_map, where each device has its share
    return lax.with_sharding_constraint(x, PartitionSpec(mesh.axis_names)) if automatic else x


def adam(hyper: Hypers, *, beta2: float = 0.999, epsilon_root: float = 0.0) -> Pair[optax.GradientTransformation]:
    """Return Adam for both players at their own rates and the common beta1.

    `beta2` and `epsilon_root` are those of `optimisers.adam`.

    Raises:
        ValueError: if a rate or `epsilon_root` is negative or not finite, or a beta is not in [0, 1).
    """
    options = {"beta1": hyper.beta1, "beta2": beta2, "epsilon_root": epsilon_root}
    return Pair(*(optimisers.adam(rate, **options) for rate in hyper.rates))


def sgd(hyper: Hypers) -> Pair[optax.GradientTransformation]:
    """Return gradient descent for both players at their own rates; the other numbers are not looked at.

    Raises:
        ValueError: if a rate is negative.
    """
    return Pair(*(optimisers.sgd(rate) for rate in hyper.rates))
