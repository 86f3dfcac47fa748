"""MAML on sinusoids by PyTorch's libraries, as their users run it: the work of an outer step of `sinusoid_maml`.

Run by `maml_speed` with a Python that has them: reads a number of outer steps a line, and answers with the seconds.
"""

import sys
import warnings

warnings.filterwarnings("ignore")

import torch
from answering import answer
from torch import nn
from torch.nn.functional import mse_loss

TASKS, SHOTS = 25, 10


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


def sinusoids() -> tuple[torch.Tensor, torch.Tensor]:
    amplitude = 0.1 + 4.9 * torch.rand(TASKS, 1, 1)
    x = 10 * torch.rand(TASKS, 2 * SHOTS, 1) - 5
    return x, amplitude * torch.sin(x - torch.pi * torch.rand(TASKS, 1, 1))


def learn2learn():
    from learn2learn.algorithms import MAML

    model = MAML(network(), lr=0.01)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)

    def step() -> None:
        x, y = sinusoids()
        optimiser.zero_grad()
        loss = 0.0
        for task in range(TASKS):
            learner = model.clone()
            learner.adapt(mse_loss(learner(x[task, :SHOTS]), y[task, :SHOTS]))
            loss = loss + mse_loss(learner(x[task, SHOTS:]), y[task, SHOTS:])
        (loss / TASKS).backward()
        optimiser.step()

    return step


def torchopt():
    import torchopt

    model = network()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    inner = torchopt.MetaSGD(model, lr=0.01)

    def step() -> None:
        x, y = sinusoids()
        optimiser.zero_grad()
        loss = 0.0
        begin = torchopt.extract_state_dict(model, by="reference"), torchopt.extract_state_dict(inner, by="reference")
        for task in range(TASKS):
            inner.step(mse_loss(model(x[task, :SHOTS]), y[task, :SHOTS]))
            loss = loss + mse_loss(model(x[task, SHOTS:]), y[task, SHOTS:])
            torchopt.recover_state_dict(model, begin[0])
            torchopt.recover_state_dict(inner, begin[1])
        (loss / TASKS).backward()
        optimiser.step()

    return step


def higher():
    from higher import innerloop_ctx

    model = network()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    inner = torch.optim.SGD(model.parameters(), 0.01)

    def step() -> None:
        x, y = sinusoids()
        optimiser.zero_grad()
        for task in range(TASKS):
            with innerloop_ctx(model, inner, copy_initial_weights=False) as (learner, differentiable):
                differentiable.step(mse_loss(learner(x[task, :SHOTS]), y[task, :SHOTS]))
                (mse_loss(learner(x[task, SHOTS:]), y[task, SHOTS:]) / TASKS).backward()
        optimiser.step()

    return step


def functional():
    """The fastest that is known here: `torch.func`, one vmap over tasks."""
    from torch.func import functional_call, grad, vmap

    model = network()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)

    def error(params, x, y):
        return mse_loss(functional_call(model, params, (x,)), y)

    def query(params, x, y):
        slopes = grad(error)(params, x[:SHOTS], y[:SHOTS])
        return error({name: value - 0.01 * slopes[name] for name, value in params.items()}, x[SHOTS:], y[SHOTS:])

    def step() -> None:
        optimiser.zero_grad()
        params = dict(model.named_parameters())
        vmap(query, in_dims=(None, 0, 0))(params, *sinusoids()).mean().backward()
        optimiser.step()

    return step


if __name__ == "__main__":
    step = {f.__name__: f for f in (learn2learn, torchopt, higher, functional)}[sys.argv[1]]()
    answer(step)
