"""Steps of GANs in PyTorch, as fast as is known here: the works of `gan_speed`, one step of each player.

`WORK WAY OPTIONS` is run as `maml_torch.py` is, with a work of WORKS and a way of WAYS; OPTIONS are those of `Options`,
as JSON.
`check WORK FILE` reads weights, images and latents instead and prints both losses and the sum of squares of each
gradient, as JSON.

Weights have the names that they have in gan_jax. A step draws its images from an array on the device; the generator
answers to the fakes that the discriminator has seen, so they are made once; the discriminator's weights take no
gradient then; Adam is fused; the generator is averaged.
"""

import itertools
import json
import sys
from dataclasses import dataclass

import torch
from answering import answer
from torch import nn
from torch.func import functional_call, vjp
from torch.nn.functional import avg_pool2d, conv2d, interpolate, leaky_relu, relu, softplus
from torch.nn.utils.parametrizations import spectral_norm


@dataclass(frozen=True)
class Options:
    """Sizes, and where and in what precision it is computed."""

    batch: int = 64
    width: int = 64
    device: str = "cpu"
    dtype: str = "float32"


WAYS = ("eager", "channels_last", "compiled", "compiled_channels_last", "graphed")


class Linear(nn.Linear):
    """As `nn.Linear`; images are flattened, or made, channels first where gan_jax has them last."""

    def __init__(self, inputs, outputs, side=0, made=False):
        super().__init__(inputs, outputs)
        self.side, self.made = side, made

    def load(self, kernel, bias):
        if self.side and self.made:
            kernel = kernel.reshape(len(kernel), self.side**2, -1).swapaxes(1, 2).reshape(len(kernel), -1)
            bias = bias.reshape(self.side**2, -1).T.ravel()
        elif self.side:
            kernel = kernel.reshape(self.side**2, -1, kernel.shape[1]).swapaxes(0, 1).reshape(len(kernel), -1)
        return {"weight": kernel.T, "bias": bias}


class Down(nn.Conv2d):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 4, 2, 1)

    def load(self, kernel, bias):
        return {"weight": kernel.transpose(3, 2, 0, 1), "bias": bias}


class Same(nn.Conv2d):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 3, 1, 1)

    load = Down.load


class Up(nn.ConvTranspose2d):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 4, 2, 1)

    def load(self, kernel, bias):  # PyTorch's is the gradient of a convolution, which turns the kernel round
        return {"weight": kernel[::-1, ::-1].transpose(2, 3, 0, 1), "bias": bias}


class Norm(nn.BatchNorm2d):
    def load(self, scale, shift):
        return {"weight": scale[0], "bias": shift[0]}


class Perceptron(nn.Module):
    def __init__(self, widths, shape):
        super().__init__()
        self.layers = nn.ModuleList([Linear(i, o) for i, o in itertools.pairwise(widths)])
        self.shape = shape

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = leaky_relu(layer(x), 0.2)
        x = self.layers[-1](x)
        return x.unflatten(1, self.shape).tanh() if self.shape else x[:, 0]


class DCGenerator(nn.Module):
    def __init__(self, latent, width):
        super().__init__()
        widths = [4 * width, 2 * width, width, 1]
        self.stem = Linear(latent, 16 * widths[0], side=4, made=True)
        self.norms = nn.ModuleList([Norm(features) for features in widths[:-1]])
        self.ups = nn.ModuleList([Up(i, o) for i, o in itertools.pairwise(widths)])

    def forward(self, z):
        x = self.stem(z).unflatten(1, (-1, 4, 4))
        for norm, up in zip(self.norms, self.ups, strict=True):
            x = up(relu(norm(x)))
        return x.tanh()


class DCDiscriminator(nn.Module):
    def __init__(self, width, normalise):
        super().__init__()
        widths = [1, width, 2 * width, 4 * width]
        self.downs = nn.ModuleList([Down(i, o) for i, o in itertools.pairwise(widths)])
        self.norms = nn.ModuleList([Norm(features) for features in widths[2:]] if normalise else [])
        self.head = Linear(16 * widths[-1], 1, side=4)

    def forward(self, x):
        for level, down in enumerate(self.downs):
            x = down(x)
            if len(self.norms) and level:
                x = self.norms[level - 1](x)
            x = leaky_relu(x, 0.2)
        return self.head(x.flatten(1))[:, 0]


class UpBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norms = nn.ModuleList([Norm(width), Norm(width)])
        self.first, self.second = Same(width, width), Same(width, width)
        self.shortcut = Linear(width, width)

    def forward(self, x):
        residual = self.first(interpolate(relu(self.norms[0](x)), scale_factor=2))
        residual = self.second(relu(self.norms[1](residual)))
        return residual + interpolate(pointwise(self.shortcut, x), scale_factor=2)


class DownBlock(nn.Module):
    def __init__(self, inputs, outputs, halve, pixels=False):
        super().__init__()
        self.first, self.second = Same(inputs, outputs), Same(outputs, outputs)
        self.shortcut = Linear(inputs, outputs) if halve else None
        self.pixels = pixels

    def forward(self, x):
        residual = self.second(relu(self.first(x if self.pixels else relu(x))))
        if self.shortcut is None:
            return residual + x
        return avg_pool2d(residual, 2) + pointwise(self.shortcut, avg_pool2d(x, 2))


def pointwise(layer, x):
    return conv2d(x, layer.weight[..., None, None], layer.bias)


class ResGenerator(nn.Module):
    def __init__(self, latent, width):
        super().__init__()
        self.stem = Linear(latent, 16 * width, side=4, made=True)
        self.blocks = nn.ModuleList([UpBlock(width) for _ in range(3)])
        self.norm, self.head = Norm(width), Same(width, 1)

    def forward(self, z):
        x = self.stem(z).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            x = block(x)
        return self.head(relu(self.norm(x))).tanh()


class ResDiscriminator(nn.Module):
    def __init__(self, width):
        super().__init__()
        first = [DownBlock(1, width, True, pixels=True), DownBlock(width, width, True)]
        self.blocks = nn.ModuleList([*first, DownBlock(width, width, False), DownBlock(width, width, False)])
        self.head = Linear(width, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(relu(x).sum((2, 3)))[:, 0]


def normalised(network):
    """Spectral normalisation of all kernels."""
    for module in network.modules():
        if hasattr(module, "load") and not isinstance(module, Norm):
            spectral_norm(module)
    return network


def non_saturating(real, fake):
    return softplus(-real).mean() + softplus(fake).mean()


def hinge(real, fake):
    return relu(1 - real).mean() + relu(1 + fake).mean()


@dataclass(frozen=True)
class Work:
    latent: int
    side: int
    networks: object  # (width) -> the pair
    losses: tuple  # of the discriminator, of the generator
    betas: tuple
    rate: float = 2e-4
    penalty: float = 0.0


LOGISTIC = non_saturating, lambda fake: softplus(-fake).mean()
WORKS = {
    "mlp": Work(
        100,
        28,
        lambda width: (
            Perceptron((100, 4 * width, 8 * width, 16 * width, 784), (1, 28, 28)),
            Perceptron((784, 16 * width, 8 * width, 4 * width, 1), ()),
        ),
        LOGISTIC,
        (0.5, 0.999),
    ),
    "dcgan": Work(
        100, 32, lambda width: (DCGenerator(100, width), DCDiscriminator(width, True)), LOGISTIC, (0.5, 0.999)
    ),
    "dcgan_r1": Work(
        100,
        32,
        lambda width: (DCGenerator(100, width), DCDiscriminator(width, False)),
        LOGISTIC,
        (0.5, 0.999),
        penalty=10.0,
    ),
    "sngan": Work(
        128,
        32,
        lambda width: (ResGenerator(128, width), normalised(ResDiscriminator(width))),
        (hinge, lambda fake: -fake.mean()),
        (0.0, 0.9),
    ),
}


def losses(work, generator, discriminator):
    """Return both losses: `(real, fake) -> scalar` and `(fake) -> scalar`."""
    for_discriminator, for_generator = work.losses

    def discriminator_loss(real, fake):
        if not work.penalty:
            return for_discriminator(discriminator(real), discriminator(fake))
        # One pass for logits and slopes; by torch.func, which torch.compile follows where autograd's it does not.
        params = dict(discriminator.named_parameters())
        logits, pullback = vjp(lambda x: functional_call(discriminator, params, (x,)), real)
        (slopes,) = pullback(torch.ones_like(logits))
        penalty = 0.5 * work.penalty * slopes.square().sum((1, 2, 3)).mean()
        return for_discriminator(logits, discriminator(fake)) + penalty

    return discriminator_loss, lambda fake: for_generator(discriminator(fake))


def prepared(name, way, options):
    """Return a step."""
    work, device = WORKS[name], torch.device(options.device)
    if device.type == "cuda":  # as JAX multiplies there by default
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if "channels_last" in way else torch.contiguous_format
    players = [each.to(device, memory_format=layout) for each in work.networks(options.width)]
    pictures = torch.randint(0, 256, (5000, 1, work.side, work.side), dtype=torch.uint8, device=device)

    def draw():
        drawn = torch.randint(len(pictures), (options.batch,), device=device)
        real = (pictures[drawn].float() / 127.5 - 1).contiguous(memory_format=layout)
        return real, torch.randn(options.batch, work.latent, device=device)

    step, _ = stepping(work, players, draw, way, options)
    return graphed(step) if way == "graphed" else step


def graphed(step):
    """A whole step as one CUDA graph, which is recorded once and played again."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def stepping(work, players, draw, way, options):
    """Return a step of both players, and the average of the generator, which it moves in place."""
    generator, discriminator = players
    average = [value.detach().clone() for value in [*generator.parameters(), *floats(generator)]]
    settings = {"betas": work.betas, "fused": True, "capturable": way == "graphed"}
    optimisers = [torch.optim.Adam(player.parameters(), work.rate, **settings) for player in players]
    generate = generator
    for_discriminator, for_generator = losses(work, generator, discriminator)
    if way.startswith("compiled"):
        # Not with CUDA graphs, which free the fakes that the generator's move still needs once the other's is done.
        mode = "max-autotune-no-cudagraphs" if options.device == "cuda" else None
        generate, for_discriminator, for_generator = (
            torch.compile(function, mode=mode) for function in (generate, for_discriminator, for_generator)
        )
    context = torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == "bfloat16")

    def step():
        real, z = draw()
        with context:
            fake = generate(z)
            loss = for_discriminator(real, fake.detach())
        optimisers[1].zero_grad()
        loss.backward()
        optimisers[1].step()
        discriminator.requires_grad_(False)
        with context:
            loss = for_generator(fake)
        optimisers[0].zero_grad()
        loss.backward()
        optimisers[0].step()
        discriminator.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(average, [*generator.parameters(), *floats(generator)], 0.005)

    return step, average


def floats(network):
    return [value for value in network.buffers() if value.is_floating_point()]


def check(name, path):
    """Print both losses, and the squares of gradients and of what a step moves, by gan_jax's names."""
    import numpy as np

    torch.set_default_dtype(torch.float64)
    given, work = dict(np.load(path)), WORKS[name]
    players = work.networks(int(given.pop("width")))
    real, z = (torch.from_numpy(given.pop(word)) for word in ("real", "latents"))
    owners = []
    for which, player in zip(("generator", "discriminator"), players, strict=True):
        for path, module in player.named_modules():
            if not hasattr(module, "load"):
                continue
            names = ("scale", "shift") if isinstance(module, Norm) else ("kernel", "bias")
            stem = "/".join((which, *path.split(".")))
            arrays = [given.pop(f"{stem}/{leaf}") for leaf in names]
            values = {key: torch.from_numpy(value.copy()) for key, value in module.load(*arrays).items()}
            parametrised = hasattr(module, "parametrizations")
            weight = module.parametrizations.weight.original if parametrised else module.weight
            with torch.no_grad():
                weight.copy_(values["weight"])
                module.bias.copy_(values["bias"])
            if parametrised:
                norm, matrix = module.parametrizations.weight[0], values["weight"].flatten(1)
                norm._u.copy_(torch.from_numpy(given.pop(f"{stem}/vector")))
                norm._v.copy_(nn.functional.normalize(matrix.T @ norm._u, dim=0))
            owners += [(f"{stem}/{names[0]}", weight), (f"{stem}/{names[1]}", module.bias)]
    assert not given, given.keys()
    fake = players[0](z)
    for_discriminator, for_generator = losses(work, *players)
    result = {}
    for which, loss in {
        "discriminator": for_discriminator(real, fake.detach()),
        "generator": for_generator(fake),
    }.items():
        mine = {name: value for name, value in owners if name.startswith(which)}
        slopes = torch.autograd.grad(loss, list(mine.values()))
        squares = {name: slope.square().sum().item() for name, slope in zip(mine, slopes, strict=True)}
        result[which] = {"loss": loss.item(), "squares": squares}
    before = {name: value.detach().clone() for name, value in owners}
    step, average = stepping(work, players, lambda: (real, z), "eager", Options())
    kept = [value.clone() for value in average]
    step()
    result["moved"] = {name: (value - before[name]).square().sum().item() for name, value in owners}
    named = {id(value): name for name, value in owners}
    pairs = zip(players[0].parameters(), average, kept, strict=False)  # what follows are moments
    result["average"] = {named[id(value)]: (new - old).square().sum().item() for value, new, old in pairs}
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1] == "check":
        check(*sys.argv[2:])
        sys.exit()
    options = Options(**json.loads(sys.argv[3]))
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    step = prepared(*sys.argv[1:3], options)
    answer(step, wait)
