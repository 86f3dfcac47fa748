"""MAML through a GAN in PyTorch, as fast as is known here: the work of an outer step of `omniglot_maml_gan`.

Ten steps of alternating Adam with R1 on eight images, differentiated to second order, for eight tasks; the outer loss
is the energy distance of samples to other images at three scales, under clipped Adam.

Run by `maml_speed` as `maml_torch.py` is. `check FILE` reads weights, images and latents instead and prints the outer
loss of one task and the sum of squares of each of its gradients, as JSON.
"""

import json
import sys

import torch
from answering import answer
from torch.func import grad, vmap
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, leaky_relu, linear, softplus, unfold

SIDE, LATENT, WIDTH = 28, 32, 16
TASKS, SHOTS, QUERIES, STEPS = 8, 8, 8, 10
RATE, BETA1, BETA2, EPSILON, R1 = 2e-3, 0.5, 0.999, 1e-8, 0.1


def initial(width: int = WIDTH) -> dict[str, torch.Tensor]:
    """Both players' weights, by name; convolutions as PyTorch lays them out."""
    shapes = {
        "g.stem.weight": (49 * 2 * width, LATENT),
        "g.stem.bias": (49 * 2 * width,),
        "g.up0.weight": (2 * width, width, 4, 4),
        "g.up0.bias": (width,),
        "g.up1.weight": (width, 1, 4, 4),
        "g.up1.bias": (1,),
        "g.norm0.scale": (2 * width,),
        "g.norm0.shift": (2 * width,),
        "g.norm1.scale": (width,),
        "g.norm1.shift": (width,),
        "d.down0.weight": (width, 1, 4, 4),
        "d.down0.bias": (width,),
        "d.down1.weight": (2 * width, width, 4, 4),
        "d.down1.bias": (2 * width,),
        "d.head.weight": (1, 49 * 2 * width),
        "d.head.bias": (1,),
    }
    made = {}
    for name, shape in shapes.items():
        made[name] = torch.randn(shape) * 0.02 if name.endswith("weight") else torch.zeros(shape)
        if name.endswith("scale"):
            made[name] += 1.0
    return made


def native_up(x, weight, bias):
    return conv_transpose2d(x, weight, bias, stride=2, padding=1)


def native_down(x, weight, bias):
    return conv2d(x, weight, bias, stride=2, padding=1)


def patches_down(x, weight, bias):
    """The same as one matrix product over patches, which vmap maps to a batched product."""
    columns = unfold(x, 4, padding=1, stride=2)
    return (weight.flatten(1) @ columns + bias[:, None]).unflatten(2, (x.shape[2] // 2, -1))


def patches_up(x, weight, bias):
    """A sub-pixel convolution: a product over patches of 3x3 for the four phases of the output."""
    batch, _, height, width = x.shape
    columns = unfold(x, 3, padding=1)  # [B, I·9, H·W]
    phases = []
    for row in range(2):
        for column in range(2):
            # Output (2i + r) is fed by inputs i - 1 + r and i + r, through kernel rows 3 - r and 1 - r.
            place = torch.zeros(4, 4, 3, 3)
            for a, k in ((row, 3 - row), (row + 1, 1 - row)):
                for b, m in ((column, 3 - column), (column + 1, 1 - column)):
                    place[k, m, a, b] = 1.0
            phases.append(torch.einsum("iokm,kmab->oiab", weight, place).flatten(1))
    kernel = torch.stack(phases)  # [4, O, I·9]
    outputs = kernel.shape[1]
    made = (kernel.flatten(0, 1) @ columns).unflatten(1, (2, 2, outputs)).unflatten(4, (height, width))
    return made.permute(0, 3, 4, 1, 5, 2).reshape(batch, outputs, 2 * height, 2 * width) + bias[:, None, None]


def normalised(x, scale, shift):
    axes = (1, 2, 3)
    mean, variance = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale[:, None, None] + shift[:, None, None]


def work(up, down):
    """Return `(params, support, query, latents) -> outer loss` of one task, latents [2 STEPS + 1, n, LATENT]."""

    def generator(params, z):
        x = linear(z, params["g.stem.weight"], params["g.stem.bias"]).unflatten(1, (7, 7, -1)).permute(0, 3, 1, 2)
        for level in range(2):
            x = normalised(x, params[f"g.norm{level}.scale"], params[f"g.norm{level}.shift"]).relu()
            x = up(x, params[f"g.up{level}.weight"], params[f"g.up{level}.bias"])
        return x.tanh()

    def discriminator(params, x):
        for level in range(2):
            x = leaky_relu(down(x, params[f"d.down{level}.weight"], params[f"d.down{level}.bias"]), 0.2)
        return linear(x.permute(0, 2, 3, 1).flatten(1), params["d.head.weight"], params["d.head.bias"])[:, 0]

    def discriminator_loss(mine, theirs, real, z):
        fake = generator(theirs, z)
        slopes = grad(lambda x: discriminator(mine, x).sum())(real)
        penalty = 0.5 * R1 * slopes.square().sum((1, 2, 3)).mean()
        return softplus(-discriminator(mine, real)).mean() + softplus(discriminator(mine, fake)).mean() + penalty

    def generator_loss(mine, theirs, z):
        return softplus(-discriminator(theirs, generator(mine, z))).mean()

    def moved(params, slopes, moments, step):
        new, kept = {}, {}
        for name, value in params.items():
            slope, (first, second) = slopes[name], moments[name]
            first, second = BETA1 * first + (1 - BETA1) * slope, BETA2 * second + (1 - BETA2) * slope * slope
            kept[name] = (first, second)
            root = torch.sqrt(second / (1 - BETA2**step) + EPSILON) + EPSILON
            new[name] = value - RATE * (first / (1 - BETA1**step)) / root
        return new, kept

    def outer(params, support, query, latents):
        players = [{name: value for name, value in params.items() if name[0] == which} for which in "gd"]
        zeros = [{name: (torch.zeros_like(value),) * 2 for name, value in player.items()} for player in players]
        (g, d), (g_moments, d_moments) = players, zeros
        for step in range(1, STEPS + 1):
            d, d_moments = moved(d, grad(discriminator_loss)(d, g, support, latents[2 * step - 2]), d_moments, step)
            g, g_moments = moved(g, grad(generator_loss)(g, d, latents[2 * step - 1]), g_moments, step)
        return energy_distance(scales(generator(g, latents[2 * STEPS])), scales(query))

    return outer


def scales(x):
    """Pixels, and means over blocks of 2x2 and 4x4 times the side of a block."""
    return torch.cat([x.flatten(1), 2 * avg_pool2d(x, 2).flatten(1), 4 * avg_pool2d(x, 4).flatten(1)], 1)


def energy_distance(x, y):
    def distances(x, y):
        squares = (x[:, None] - y[None]).square().sum(2)
        same = squares <= 0
        return torch.where(same, 0.0, torch.sqrt(torch.where(same, 1.0, squares)))

    n, m = len(x), len(y)
    return 2 * distances(x, y).mean() - distances(x, x).sum() / (n * (n - 1)) - distances(y, y).sum() / (m * (m - 1))


def prepared(name: str):
    """Return an outer step by name."""
    params = {name: value.requires_grad_() for name, value in initial().items()}
    optimiser = torch.optim.Adam(params.values(), 1e-3)
    task = work(*((patches_up, patches_down) if "patches" in name else (native_up, native_down)))
    pictures = torch.rand(64, SHOTS + QUERIES, 1, SIDE, SIDE) * 2 - 1

    def step() -> None:
        optimiser.zero_grad()
        drawn = pictures[torch.randint(len(pictures), (TASKS,))]
        support, query = drawn[:, :SHOTS], drawn[:, SHOTS:]
        latents = torch.randn(TASKS, 2 * STEPS + 1, SHOTS, LATENT)
        if "loop" in name:
            for each in range(TASKS):  # the graph of one task at a time
                (task(params, support[each], query[each], latents[each]) / TASKS).backward()
        else:
            vmap(task, in_dims=(None, 0, 0, 0))(params, support, query, latents).mean().backward()
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        optimiser.step()

    return step


def check(path: str) -> None:
    """Print the outer loss and the gradients' squares for given numbers, by each way of convolving."""
    import numpy as np

    torch.set_default_dtype(torch.float64)
    given = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    support, query, z = (given.pop(name) for name in ("support", "query", "latents"))
    found = {}
    for name, ways in {"native": (native_up, native_down), "patches": (patches_up, patches_down)}.items():
        params = {key: value.clone().requires_grad_() for key, value in given.items()}
        loss = work(*ways)(params, support, query, z.expand(2 * STEPS + 1, *z.shape))
        loss.backward()
        squares = {key: value.grad.square().sum().item() for key, value in params.items()}
        found[name] = {"loss": loss.item(), "squares": squares}
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "check":
        check(sys.argv[2])
        sys.exit()
    step = prepared(sys.argv[1])
    answer(step)
