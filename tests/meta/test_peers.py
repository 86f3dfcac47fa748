"""MAML through a GAN beside PyTorch: from the same weights, images and latents the same loss and the same gradients.

PyTorch is no dependency: GAN_JAX_PEERS names a Python that has it.
"""

import json
import os
import subprocess
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.meta.catalogue import META_LEARNERS
from gan_jax.training import lookup

PEERS = os.environ.get("GAN_JAX_PEERS")

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(PEERS is None, reason="GAN_JAX_PEERS names no Python with PyTorch"),
]


def named(params):
    """Both players' arrays under PyTorch's names, in its layouts."""
    made = {}
    for which, player in zip("gd", params, strict=True):
        for path, value in jax.tree_util.tree_leaves_with_path(player):
            words = [str(getattr(step, "key", getattr(step, "idx", step))) for step in path]
            stem = words[0].rstrip("s") + words[1] if words[0] in ("ups", "downs", "norms") else words[0]
            leaf = words[-1].replace("kernel", "weight")
            value = np.asarray(value)
            if words[0] == "ups":  # PyTorch's is the gradient of a convolution, which turns the kernel round
                value = value[::-1, ::-1] if leaf == "weight" else value
            if leaf == "weight":
                value = value.transpose({"ups": (2, 3, 0, 1), "downs": (3, 2, 0, 1)}.get(words[0], (1, 0)))
            made[f"{which}.{stem}.{leaf}"] = value
    return made


def test_an_outer_step_has_pytorchs_loss_and_gradients(tmp_path, monkeypatch):
    parts = lookup.load(lookup.find("omniglot_maml_gan"))
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((8, 32))
    support, query = rng.uniform(-1, 1, (2, 8, 28, 28, 1))
    # The latents of every draw are these, and the weights are larger than DCGAN's, so that each gradient counts.
    monkeypatch.setattr(parts, "latents", SimpleNamespace(normal=lambda dimensions: lambda key, n: latents[:n]))
    config = parts.Config(method="maml")
    model = parts.assemble(config, 1)
    setting = parts.setting(config, model, 1)
    params = model.init(model.hyper, jax.random.key(0)).point.params
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float) + 0.05 * rng.standard_normal(leaf.shape), params)
    meta = META_LEARNERS["maml"](setting)
    begun = meta.init(jax.random.key(0))

    def outer(params):
        state = begun._replace(learned=begun.learned._replace(params=params))
        adapted = meta.adapt(jax.random.key(1), state, {"image": jnp.asarray(support)})
        return setting.learner.loss(model.hyper, jax.random.key(2), adapted, {"image": jnp.asarray(query)})

    with jax.enable_x64(True):  # ten steps of Adam make much of a rounding
        loss, slopes = jax.jit(jax.value_and_grad(outer))(jax.tree.map(jnp.asarray, params))
    channels_first = {"support": support.transpose(0, 3, 1, 2), "query": query.transpose(0, 3, 1, 2)}
    np.savez(tmp_path / "given.npz", **named(params), **channels_first, latents=latents)
    script = lookup.shipped() / "peers" / "maml_gan_torch.py"
    run = subprocess.run([PEERS, script, "check", tmp_path / "given.npz"], capture_output=True, text=True, check=True)
    squares = {name: np.square(slope).sum() for name, slope in named(slopes).items()}
    for found in json.loads(run.stdout).values():
        np.testing.assert_allclose(found["loss"], loss, rtol=1e-8)
        assert found["squares"].keys() == squares.keys()
        for name, expected in squares.items():
            np.testing.assert_allclose(found["squares"][name], expected, rtol=1e-6, err_msg=name)
