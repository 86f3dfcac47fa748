"""Perceptrons of which a share of the units is left, against perceptrons of that width."""

import jax
import numpy as np
import optax
import pytest

from gan_jax import gan, latents, objectives, penalties, rules
from gan_jax.base import Pair
from gan_jax.networks import mlp

KEY = jax.random.key(3)


def pair(width):
    return Pair(
        mlp.generator(2, (2,), widths=(width, width)), mlp.discriminator((2,), widths=(width, width), dropout=0.0)
    )


def model(width):
    return gan.gan(
        pair(width),
        latents.normal(2),
        hyper=(),
        objective=lambda hyper: objectives.non_saturating(0.0),
        penalty=lambda hyper: penalties.r1(0.3),
        rule=lambda hyper: rules.alternating(Pair(optax.adam(1e-2), optax.adam(1e-2)), d_steps=2),
        ema=0.9,
    )


def left(params, units):
    """The weights of the first units of each hidden layer."""
    layers = params["layers"]
    last = len(layers) - 1
    return {
        "layers": {
            depth: {
                "kernel": layer["kernel"][slice(units if depth else None), slice(units if depth < last else None)],
                "bias": layer["bias"][slice(units if depth < last else None)],
            }
            for depth, layer in layers.items()
        }
    }


@pytest.mark.slow
@pytest.mark.parametrize(("share", "units"), [(0.25, 2), (0.3, 3), (1.0, 8)])
def test_what_is_left_trains_as_a_network_of_that_width_does(share, units):
    wide, small = model(8), model(units)
    begun = wide.init((), KEY)
    narrow = Pair(*(mlp.narrow(params, share) for params in begun.point.params))
    states = [wide.init((), KEY, narrow), small.init((), KEY, Pair(*(left(each, units) for each in narrow)))]
    steps = [jax.jit(each.step) for each in (wide, small)]
    for index in range(4):
        key = jax.random.fold_in(KEY, index)
        batch = {"x": jax.random.normal(key, (2, 6, 2))}
        states = [step((), key, state, batch)[0] for step, state in zip(steps, states, strict=True)]
    for mine, theirs in zip(states[0].point.params, states[1].point.params, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), left(mine, units), theirs)
        rest = sum(leaf.size for leaf in jax.tree.leaves(mine)) - sum(leaf.size for leaf in jax.tree.leaves(theirs))
        assert sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(mine)) == rest, "the others are without weights"


@pytest.mark.slow
def test_it_begins_at_the_deviations_of_a_network_of_that_width():
    network = mlp.discriminator((2,), widths=(512, 512), dropout=0.0)
    layers = mlp.narrow(network.init(KEY)[0], 0.25)["layers"]
    # The inverse root of what comes in, as `nnx.Linear` begins.
    for depth, inputs, outputs in ((0, 2, 128), (1, 128, 128), (2, 128, 1)):
        kernel = np.asarray(layers[depth]["kernel"])[:inputs, :outputs]
        np.testing.assert_allclose(kernel.std(), inputs**-0.5, rtol=0.15)


def test_what_cannot_be_narrowed_is_refused():
    params, _ = mlp.discriminator((2,), widths=(4,), dropout=0.0).init(KEY)
    for share in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="share="):
            mlp.narrow(params, share)
    labelled, _ = mlp.discriminator((2,), widths=(4,), dropout=0.0, classes=3).init(KEY)
    with pytest.raises(ValueError, match="projection"):
        mlp.narrow(labelled, 0.5)


@pytest.mark.slow
def test_everything_is_left_of_a_share_of_1():
    params, _ = mlp.perceptron(3, 1, widths=(5, 4)).init(KEY)
    jax.tree.map(np.testing.assert_array_equal, mlp.narrow(params, 1.0), params)
