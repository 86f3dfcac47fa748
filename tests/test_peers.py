"""GANs beside PyTorch: from the same weights, images and latents the same losses, gradients and moves.

PyTorch is no dependency: GAN_JAX_PEERS names a Python that has it.
"""

import json
import os
import subprocess
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.base import Pair
from gan_jax.networks.lowerings import LOWERINGS
from gan_jax.networks.spectral import Spectral
from gan_jax.training import lookup

PEERS = os.environ.get("GAN_JAX_PEERS")
WIDTH = 3

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(PEERS is None, reason="GAN_JAX_PEERS names no Python with PyTorch"),
]


def named(player, tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {f"{player}/{jax.tree_util.keystr(path, simple=True, separator='/')}": leaf for path, leaf in leaves}


def leading(kernel):
    """The right singular vector of a kernel's largest singular value."""
    return np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))[2][0]


@pytest.mark.parametrize("name", ["mlp", "dcgan", "dcgan_r1", "sngan"])
def test_a_step_has_pytorchs_losses_and_gradients(tmp_path, name):
    parts = lookup.load(lookup.find("gan_speed"))
    work, rng = parts.WORKS[name], np.random.default_rng(0)
    z, real = rng.standard_normal((5, work.latent)), rng.uniform(-1, 1, (5, work.size, work.size, 1))
    found = {}
    for lowering in ("xla", "patches"):
        model = parts.assemble(work, width=WIDTH, lowering=LOWERINGS[lowering](), latent=lambda key, n: jnp.asarray(z))
        point = model.init(model.hyper, jax.random.key(0)).point
        # Weights are larger than the initial ones, so that each gradient counts.
        draw = np.random.default_rng(1)
        params = jax.tree.map(
            lambda leaf, draw=draw: np.asarray(leaf, float) + 0.1 * draw.standard_normal(leaf.shape), point.params
        )
        given = {key: leaf for player in Pair._fields for key, leaf in named(player, getattr(params, player)).items()}
        stats, vectors = point.stats, {}
        if isinstance(stats.discriminator, Spectral):
            exact = {path: leading(given[f"discriminator/{path}"]) for path in stats.discriminator.vectors}
            stats = stats._replace(discriminator=stats.discriminator._replace(vectors=exact))
            vectors = {f"discriminator/{path.removesuffix('kernel')}vector": value for path, value in exact.items()}
        with jax.enable_x64(True):
            game, batch = model.game(model.hyper), {"image": jnp.asarray(real)}
            exactly = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (params, stats))
            for player in Pair._fields:

                def loss(mine, player=player, exactly=exactly, game=game, batch=batch):
                    params, stats = exactly
                    params = params._replace(**{player: mine})
                    value, _ = getattr(game.losses, player)(params, stats, jax.random.key(0), batch)
                    if penalty := getattr(game.penalties, player):
                        value += penalty(params, stats, jax.random.key(0), batch)[0]
                    return value

                value, slopes = jax.jit(jax.value_and_grad(loss))(getattr(exactly[0], player))
                squares = {key: float(jnp.square(leaf).sum()) for key, leaf in named(player, slopes).items()}
                found[lowering, player] = float(value), squares
            state = model.init(model.hyper, jax.random.key(0), exactly[0])
            state = state._replace(point=state.point._replace(stats=exactly[1]))
            each = jax.tree.map(lambda leaf: leaf[None], batch)
            after, _ = jax.jit(partial(model.step, model.hyper))(jax.random.key(0), state, each)
            moved = jax.tree.map(jnp.subtract, after.point.params, exactly[0])
    pixels = real.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "given.npz", **given, **vectors, real=pixels, latents=z, width=WIDTH)
    script = lookup.shipped() / "peers" / "gan_torch.py"
    command = [PEERS, script, "check", name, tmp_path / "given.npz"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not run.returncode, run.stderr
    theirs = json.loads(run.stdout)
    for (lowering, player), (value, squares) in found.items():
        np.testing.assert_allclose(theirs[player]["loss"], value, rtol=1e-10)
        assert theirs[player]["squares"].keys() == squares.keys()
        for key, expected in squares.items():
            np.testing.assert_allclose(
                theirs[player]["squares"][key], expected, rtol=1e-7, atol=1e-25, err_msg=f"{lowering} {key}"
            )
    if name != "sngan":  # PyTorch iterates a vector three times in a step, and ours four times
        moves = {key: leaf for player in Pair._fields for key, leaf in named(player, getattr(moved, player)).items()}
        assert theirs["moved"].keys() == moves.keys()
        for key, leaf in moves.items():
            # Adam makes a step of full length of a gradient that is nothing but rounding.
            if found["patches", key.partition("/")[0]][1][key] > 1e-20:
                np.testing.assert_allclose(theirs["moved"][key], np.square(leaf).sum(), rtol=1e-4, err_msg=key)
                if key in theirs["average"]:
                    expected = 0.005**2 * np.square(leaf).sum()
                    np.testing.assert_allclose(theirs["average"][key], expected, rtol=1e-4, err_msg=key)
        assert {key for key in moves if key.startswith("generator")} == theirs["average"].keys()
