"""RL² by recurrent PPO in PyTorch on Bernoulli bandits, as it is commonly written and as fast as is known here.

Run by `rl2_speed` with a Python that has PyTorch, as `NAME WORK SETTING`: who, "learning" or "rollout", and the
fields of a `Setting` as JSON. Reads a number of steps a line, of which one plays all trials and, where it learns, makes
all updates, and answers with the seconds. NAME is one of

one: trials one after another, by a policy for one environment, as in lucaslingle/pytorch_rl2.
loop: a list of environments stepped in Python and a policy for all of them, as in ikostrikov's
    pytorch-a2c-ppo-acktr-gail; NumPy lies between.
vectorised: environments are tensors, all random numbers of a rollout are drawn at once, features lie before the batch,
    so that gates are contiguous, and gradients are written by hand, which needs no tape: an update is 1.7 times as
    fast as by `nn.GRU` and autograd. Advantages are a product with a triangular matrix; nothing waits for a number.
compiled: the same by `torch.compile`, through C++: an update is one call, and 2.4 times as fast again.

The unit is that of gan_jax: the reset gate acts on the candidate's recurrent product, which is PyTorch's too, but
without a bias of its own there. So `nn.GRU`'s second bias is held at zero. Values and log-probabilities of what was
played are kept from the rollout.

`check FILE SETTING` reads weights and trials instead, and prints what `tests/meta/test_peers_rl2.py` compares, as JSON.
"""

import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

warnings.filterwarnings("ignore")

import numpy as np
import torch
from answering import answer
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import one_hot

BETA1, BETA2, EPSILON, NORM = 0.9, 0.999, 1e-8, 0.5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Sizes and numbers, as those of `gan_jax.meta.rl2.Config`; rate and entropy fall to zero in so many steps."""

    pulls: int
    arms: int
    hidden: int
    trials: int
    epochs: int
    minibatches: int
    rate: float
    discount: float
    trace: float
    clip: float
    value_weight: float
    entropy: float
    steps: int

    @property
    def features(self) -> int:
        """Whether an episode has just ended, the last action one-hot, the last reward."""
        return self.arms + 2

    @property
    def unit(self) -> float:
        """What rewards are divided by: a whole trial's worth."""
        return sum(self.discount**step for step in range(self.pulls))

    def left(self, done: float) -> float:
        """The share of rate and entropy that is left after so many steps."""
        return max(0.0, 1 - done / self.steps)


class Trials(NamedTuple):
    """Trials as they were played, each [L, B]."""

    action: Tensor
    reward: Tensor
    log_prob: Tensor
    value: Tensor


def initial(setting: Setting) -> dict[str, Tensor]:
    """Weights by gan_jax's names, in its layout and drawn as there."""
    inputs, hidden, arms = setting.features, setting.hidden, setting.arms
    limit = math.sqrt(6 / (inputs + 3 * hidden))
    return {
        "inputs": torch.empty(inputs, 3 * hidden).uniform_(-limit, limit),
        "recurrent": torch.cat([nn.init.orthogonal_(torch.empty(hidden, hidden)) for _ in range(3)], 1),
        "bias": torch.zeros(3 * hidden),
        "policy": nn.init.orthogonal_(torch.empty(hidden, arms), 0.01),
        "policy_bias": torch.zeros(arms),
        "value": torch.zeros(hidden),
        "value_bias": torch.zeros(()),
    }


# --- as it is commonly written


class Bandit:
    """A trial of a Bernoulli bandit with gym's functions; what is observed is whether an episode has just ended."""

    def __init__(self, arms: int, pulls: int, seed: int) -> None:
        self.arms, self.pulls, self.random = arms, pulls, np.random.default_rng(seed)

    def reset(self):
        self.probabilities, self.done = self.random.random(self.arms), 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = float(self.random.random() < self.probabilities[action])
        self.done += 1
        return np.ones(1, np.float32), reward, self.done == self.pulls, False, {}


class Policy(nn.Module):
    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.gru = nn.GRU(setting.features, setting.hidden)
        self.actor, self.critic = nn.Linear(setting.hidden, setting.arms), nn.Linear(setting.hidden, 1)
        self.gru.bias_hh_l0.requires_grad_(False).zero_()

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Categorical, Tensor, Tensor]:
        """Read inputs [L, B, F] from a memory [1, B, H]."""
        memories, memory = self.gru(x, memory)
        return Categorical(logits=self.actor(memories)), self.critic(memories)[..., 0], memory

    def named(self, read: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """What is read of each parameter, in gan_jax's layout."""
        gru, actor, critic = self.gru, self.actor, self.critic
        return {
            "inputs": read(gru.weight_ih_l0).T,
            "recurrent": read(gru.weight_hh_l0).T,
            "bias": read(gru.bias_ih_l0),
            "policy": read(actor.weight).T,
            "policy_bias": read(actor.bias),
            "value": read(critic.weight)[0],
            "value_bias": read(critic.bias)[0],
        }


class Common:
    """Modules, autograd and environments in Python: `together` of them are stepped at a time."""

    def __init__(self, setting: Setting, together: int) -> None:
        self.setting, self.together, self.done = setting, together, 0
        self.policy = Policy(setting)
        self.load(initial(setting))
        learned = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.Adam(learned, setting.rate, (BETA1, BETA2), EPSILON)
        updates = setting.epochs * setting.minibatches
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda done: setting.left(done / updates))
        self.environments = [Bandit(setting.arms, setting.pulls, seed) for seed in range(setting.trials)]

    def load(self, weights: dict[str, Tensor]) -> None:
        for name, value in self.policy.named(lambda parameter: parameter.data).items():
            value.copy_(weights[name])

    def weights(self) -> dict[str, Tensor]:
        return self.policy.named(lambda parameter: parameter.data)

    @torch.no_grad()
    def play(self) -> Trials:
        groups = range(0, self.setting.trials, self.together)
        played = [self.stepped(self.environments[first : first + self.together]) for first in groups]
        return Trials(*(torch.cat(parts, 1) for parts in zip(*played, strict=True)))

    def stepped(self, environments: list[Bandit]) -> Trials:
        count, arms, moments = len(environments), self.setting.arms, []
        observation = np.stack([environment.reset()[0] for environment in environments])
        chosen, reward = torch.zeros(count, arms), torch.zeros(count, 1)
        memory = torch.zeros(1, count, self.setting.hidden)
        for _ in range(self.setting.pulls):
            x = torch.cat([torch.as_tensor(observation).to(reward), chosen, reward], -1)
            distribution, value, memory = self.policy(x[None], memory)
            action = distribution.sample()[0]
            log_prob = distribution.log_prob(action[None])[0]
            results = [environment.step(each) for environment, each in zip(environments, action.numpy(), strict=True)]
            observation = np.stack([result[0] for result in results])
            rewards = torch.as_tensor(np.array([result[1] for result in results])).to(reward)
            moments.append((action, rewards, log_prob, value[0]))
            chosen, reward = one_hot(action, arms).to(reward), rewards[:, None]
        return Trials(*map(torch.stack, zip(*moments, strict=True)))

    @torch.no_grad()
    def read(self, action: Tensor, reward: Tensor) -> Trials:
        """What the policy says of trials."""
        memory = torch.zeros(1, action.shape[1], self.setting.hidden)
        distribution, value, _ = self.policy(self.inputs(action, reward), memory)
        return Trials(action, reward, distribution.log_prob(action), value)

    def inputs(self, action: Tensor, reward: Tensor) -> Tensor:
        """What the policy read before each step, [L, B, F]."""
        flags = torch.ones_like(reward)[..., None]
        after = torch.cat([flags, one_hot(action, self.setting.arms).to(reward), reward[..., None]], -1)
        return torch.cat([torch.zeros_like(after[:1]), after[:-1]])

    def lessons(self, trials: Trials) -> tuple[Tensor, Tensor]:
        """Standardised advantages, and targets of the value."""
        setting, advantages = self.setting, []
        rewards, value = trials.reward / setting.unit, trials.value
        following = advantage = torch.zeros_like(value[0])
        for step in reversed(range(setting.pulls)):
            error = rewards[step] + setting.discount * following - value[step]
            advantage = error + setting.discount * setting.trace * advantage
            following = value[step]
            advantages.insert(0, advantage)
        advantages = torch.stack(advantages)
        targets = advantages + value
        return (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8), targets

    def loss(self, x, action, played, advantage, target, weight) -> Tensor:
        setting = self.setting
        distribution, value, _ = self.policy(x, torch.zeros(1, x.shape[1], setting.hidden))
        ratio = torch.exp(distribution.log_prob(action) - played)
        clipped = torch.clamp(ratio, 1 - setting.clip, 1 + setting.clip)
        policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        value_loss = 0.5 * (value - target).pow(2).mean()
        return policy_loss + setting.value_weight * value_loss - weight * distribution.entropy().mean()

    def gradient(self, trials: Trials, advantage: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of all trials at once, and its gradients."""
        x, weight = self.inputs(trials.action, trials.reward), self.setting.entropy
        loss = self.loss(x, trials.action, trials.log_prob, advantage, target, weight)
        self.optimiser.zero_grad()
        loss.backward()
        return loss, self.policy.named(lambda parameter: parameter.grad)

    def learn(self, trials: Trials, order: Callable[[int], Tensor] = torch.randperm) -> None:
        setting, (action, reward, log_prob, _) = self.setting, trials
        x, lessons = self.inputs(action, reward), self.lessons(trials)
        weight = setting.entropy * setting.left(self.done)
        for _ in range(setting.epochs):
            for part in order(setting.trials).chunk(setting.minibatches):
                loss = self.loss(*(each[:, part] for each in (x, action, log_prob, *lessons)), weight)
                self.optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.policy.parameters(), NORM)
                self.optimiser.step()
                self.scheduler.step()
        self.done += 1


# --- as fast as is known here: all is [L, features, B], and the weights are one vector


class Part(NamedTuple):
    """What an update learns from: inputs [L, F, B] and actions one-hot [L, A, B]; all else is [L, B]."""

    x: Tensor
    chosen: Tensor
    played: Tensor
    advantage: Tensor
    target: Tensor


def split(setting: Setting, flat: Tensor) -> list[Tensor]:
    """Maps of the inputs, of the memory and their bias, and of the heads, value last, and their bias."""
    gates, heads = 3 * setting.hidden, setting.arms + 1
    shapes = [(gates, setting.features), (gates, setting.hidden), (gates, 1), (heads, setting.hidden), (heads, 1)]
    parts = flat.split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def named(setting: Setting, flat: Tensor) -> dict[str, Tensor]:
    """The parts of a vector by gan_jax's names, in its layout."""
    inputs, recurrent, bias, heads, heads_bias = split(setting, flat)
    return {
        "inputs": inputs.T,
        "recurrent": recurrent.T,
        "bias": bias[:, 0],
        "policy": heads[:-1].T,
        "policy_bias": heads_bias[:-1, 0],
        "value": heads[-1],
        "value_bias": heads_bias[-1, 0],
    }


def doubled(setting: Setting, maps: list[Tensor]) -> list[Tensor]:
    """Maps with the candidate's rows twice as large: tanh(x) is 2 σ(2 x) - 1, and PyTorch's tanh five times as slow."""
    factor = torch.ones_like(maps[0][:, :1])
    factor[2 * setting.hidden :] = 2
    return [each * factor for each in maps]


def unit(recurrent: Tensor, memory: Tensor, driven: Tensor) -> tuple[Tensor, ...]:
    """A step of the gated recurrent unit by doubled maps: the memory, both gates, the candidate, its product."""
    hidden = len(memory)
    product = recurrent @ memory
    gates = torch.sigmoid(driven[: 2 * hidden] + product[: 2 * hidden])
    candidate = 2 * torch.sigmoid(torch.addcmul(driven[2 * hidden :], gates[:hidden], product[2 * hidden :])) - 1
    return torch.lerp(candidate, memory, gates[hidden:]), gates, candidate, product[2 * hidden :]


def forward(setting: Setting, flat: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Logits and value [L, A + 1, B]; memories [L + 1, H, B]; and what `unit` gives besides."""
    steps, _, batch = x.shape
    *maps, heads, heads_bias = split(setting, flat)
    inputs, recurrent, bias = doubled(setting, maps)
    driven = torch.baddbmm(bias.expand(steps, -1, batch), inputs.expand(steps, -1, -1), x)
    memory, kept = x.new_zeros(setting.hidden, batch), []
    memories = [memory]
    for step in range(steps):
        memory, *rest = unit(recurrent, memory, driven[step])
        memories.append(memory)
        kept.append(rest)
    memories = torch.stack(memories)
    outputs = torch.baddbmm(heads_bias.expand(steps, -1, batch), heads.expand(steps, -1, -1), memories[1:])
    return outputs, memories, *map(torch.stack, zip(*kept, strict=True))


def gradient(setting: Setting, flat: Tensor, part: Part, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a part, and its gradient as a vector."""
    hidden, steps, count = setting.hidden, len(part.x), part.played.numel()
    _, recurrent, _, heads, _ = split(setting, flat)
    outputs, memories, gates, candidate, product = forward(setting, flat, part.x)
    logs = outputs[:, :-1].log_softmax(1)
    chances = logs.exp()
    ratio = torch.exp((logs * part.chosen).sum(1) - part.played)
    free, clipped = ratio * part.advantage, ratio.clamp(1 - setting.clip, 1 + setting.clip) * part.advantage
    entropy, error = -(chances * logs).sum(1), outputs[:, -1] - part.target
    loss = (-torch.minimum(free, clipped) + 0.5 * setting.value_weight * error.square() - weight * entropy).mean()

    slope = torch.where(free <= clipped, -free, 0.0)[:, None]  # by the action's log-probability
    by_logits = slope * (part.chosen - chances) + weight * chances * (logs + entropy[:, None])
    by_outputs = torch.cat([by_logits, setting.value_weight * error[:, None]], 1) / count
    by_memories = heads.T.expand(steps, -1, -1) @ by_outputs
    by_heads = (by_outputs @ memories[1:].transpose(1, 2)).sum(0)

    # By what the gates and the candidate are functions of, for each unit by which the memory changes.
    reset, update = gates[:, :hidden], gates[:, hidden:]
    to_candidate = (1 - update) * (1 - candidate * candidate)
    to_product = to_candidate * reset
    to_reset = 0.5 * to_product * product * (1 - reset)  # the product is a doubled one
    to_update = (memories[:-1] - candidate) * update * (1 - update)
    factors = torch.stack([to_reset, to_update, to_product], 1)
    now, slopes, products = by_memories[-1], [], []
    for step in reversed(range(steps)):
        slopes.append(now)
        products.append((factors[step] * now).flatten(0, 1))
        if step:
            earlier = torch.addcmul(by_memories[step - 1], now, update[step])
            now = torch.addmm(earlier, recurrent.T, products[-1])
    by_product = torch.stack(products[::-1])
    by_candidate = to_candidate * torch.stack(slopes[::-1])
    by_driven = torch.cat([by_product[:, : 2 * hidden], by_candidate], 1)

    def along(x: Tensor) -> Tensor:  # one product over all steps and trials
        return x.transpose(0, 1).flatten(1)

    found = [
        (by_driven @ part.x.transpose(1, 2)).sum(0),
        along(by_product[1:]) @ along(memories[1:-1]).T,
        by_driven.sum((0, 2)),
        by_heads,
        by_outputs.sum((0, 2)),
    ]
    return loss, torch.cat([each.flatten() for each in found])


def update(
    setting: Setting, flat: Tensor, first: Tensor, second: Tensor, numbers: Tensor, part: Part
) -> tuple[Tensor, ...]:
    """A step of clipped Adam; numbers are its rate over the first bias, the second bias and the entropy's weight."""
    rate, bias, weight = numbers.unbind()
    _, slope = gradient(setting, flat, part, weight)
    slope = slope * (NORM / torch.linalg.vector_norm(slope).clamp(min=NORM))
    first = torch.lerp(first, slope, 1 - BETA1)
    second = torch.lerp(second, slope * slope, 1 - BETA2)
    return flat - rate * first / ((second / bias).sqrt() + EPSILON), first, second


def rollout(setting: Setting, flat: Tensor, chances: Tensor, gumbel: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
    """Play bandits of chances [A, B]; random numbers are [L, A, B] and [L, B]. Returns the fields of `Trials`."""
    *maps, heads, heads_bias = split(setting, flat)
    inputs, recurrent, bias = doubled(setting, maps)
    batch, arms = chances.shape[1], torch.arange(setting.arms)[:, None]
    x, memory = chances.new_zeros(setting.features, batch), chances.new_zeros(setting.hidden, batch)
    flags, moments = chances.new_ones(1, batch), []
    for step in range(setting.pulls):
        memory, *_ = unit(recurrent, memory, torch.addmm(bias, inputs, x))
        outputs = torch.addmm(heads_bias, heads, memory)
        action = (outputs[:-1] + gumbel[step]).argmax(0, keepdim=True)
        chosen = (action == arms).to(chances)
        reward = (uniform[step] < (chosen * chances).sum(0)).to(chances)
        x = torch.cat([flags, chosen, reward[None]])
        moments.append((action[0], reward, outputs))
    action, reward, outputs = map(torch.stack, zip(*moments, strict=True))
    log_prob = outputs[:, :-1].log_softmax(1).gather(1, action[:, None])[:, 0]
    return action, reward, log_prob, outputs[:, -1]


class Fast:
    """Tensors only. Where it is compiled, an update is one function, and so is a rollout."""

    def __init__(self, setting: Setting, compiled: bool) -> None:
        self.setting, self.done = setting, 0
        self.flat = torch.zeros(sum(each.numel() for each in initial(setting).values()))
        self.first, self.second = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.load(initial(setting))
        steps = torch.arange(setting.pulls)
        apart = steps - steps[:, None]
        self.sums = torch.triu((setting.discount * setting.trace) ** apart.to(self.flat))
        self.update, self.rollout = (self.made(function, compiled) for function in (update, rollout))

    def made(self, function: Callable, compiled: bool) -> Callable:
        ready = partial(function, self.setting)
        options = {"cpp_wrapper": True}  # calls between kernels are C++ too
        return torch.compile(ready, fullgraph=True, dynamic=False, options=options) if compiled else ready

    def load(self, weights: dict[str, Tensor]) -> None:
        for name, value in named(self.setting, self.flat).items():
            value.copy_(weights[name])

    def weights(self) -> dict[str, Tensor]:
        return named(self.setting, self.flat)

    @torch.inference_mode()
    def play(self) -> Trials:
        size = (self.setting.pulls, self.setting.arms, self.setting.trials)
        chances, gumbel = torch.rand(size[1:]), -torch.empty(size).exponential_().log()
        return Trials(*self.rollout(self.flat, chances, gumbel, torch.rand(size[0], size[2])))

    @torch.inference_mode()
    def read(self, action: Tensor, reward: Tensor) -> Trials:
        """What the policy says of trials."""
        x, chosen = self.inputs(action, reward)
        outputs, *_ = forward(self.setting, self.flat, x)
        return Trials(action, reward, (outputs[:, :-1].log_softmax(1) * chosen).sum(1), outputs[:, -1])

    def inputs(self, action: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
        """What the policy read before each step, [L, F, B], and the actions one-hot [L, A, B]."""
        chosen = (action[:, None] == torch.arange(self.setting.arms)[:, None]).to(reward)
        after = torch.cat([torch.ones_like(reward)[:, None], chosen, reward[:, None]], 1)
        return torch.cat([torch.zeros_like(after[:1]), after[:-1]]), chosen

    def lessons(self, trials: Trials) -> tuple[Tensor, Tensor]:
        """Standardised advantages, and targets of the value."""
        setting, value = self.setting, trials.value
        errors = trials.reward / setting.unit - value
        errors[:-1] += setting.discount * value[1:]
        advantages = self.sums @ errors
        deviation, mean = torch.std_mean(advantages, correction=0)
        return (advantages - mean) / (deviation + 1e-8), advantages + value

    @torch.inference_mode()
    def gradient(self, trials: Trials, advantage: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of all trials at once, and its gradients."""
        part = Part(*self.inputs(trials.action, trials.reward), trials.log_prob, advantage, target)
        loss, slope = gradient(self.setting, self.flat, part, torch.tensor(self.setting.entropy))
        return loss, named(self.setting, slope)

    @torch.inference_mode()
    def learn(self, trials: Trials) -> None:
        setting = self.setting
        whole = (*self.inputs(trials.action, trials.reward), trials.log_prob, *self.lessons(trials))
        # Trials are exchangeable: these parts are as random as any.
        cut = [each.unflatten(-1, (setting.minibatches, -1)).movedim(-2, 0).contiguous() for each in whole]
        weight, updates = setting.entropy * setting.left(self.done), setting.epochs * setting.minibatches
        for index in range(updates):
            done = self.done * updates + index
            rate = setting.rate * setting.left(done / updates)
            numbers = torch.tensor([rate / (1 - BETA1 ** (done + 1)), 1 - BETA2 ** (done + 1), weight])
            part = Part(*(each[index % setting.minibatches] for each in cut))
            self.flat, self.first, self.second = self.update(self.flat, self.first, self.second, numbers, part)
        self.done += 1


VERSIONS = {
    "one": partial(Common, together=1),
    "loop": lambda setting: Common(setting, setting.trials),
    "vectorised": partial(Fast, compiled=False),
    "compiled": partial(Fast, compiled=True),
}


def settle(step: Callable[[], None]) -> None:
    """Give PyTorch as many threads as it is faster with: one, or all."""

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        step()  # warm
        start, steps = time.perf_counter(), 0
        while time.perf_counter() < start + 0.5:
            step()
            steps += 1
        return (time.perf_counter() - start) / steps

    torch.set_num_threads(min((1, torch.get_num_threads()), key=seconds))


def check(path: str, setting: Setting) -> None:
    """Print what each version makes of given weights and trials, and what it plays."""
    torch.set_default_dtype(torch.float64)
    given = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    actions, rewards, played = (given.pop(name) for name in ("actions", "rewards", "played"))
    found = {}
    for name, make in VERSIONS.items():
        torch.manual_seed(0)
        version = make(setting)
        version.load(given)
        own = version.play()
        trials = version.read(actions[0], rewards[0])
        advantage, target = version.lessons(trials)
        loss, slopes = version.gradient(trials._replace(log_prob=played), advantage, target)
        found[name] = {
            "log_prob": trials.log_prob,
            "value": trials.value,
            "advantage": advantage,
            "target": target,
            "loss": loss,
            "slopes": {name: slope.clone() for name, slope in slopes.items()},
            "own": own._asdict(),
        }
        for played_then in zip(actions, rewards, strict=True):
            version.learn(version.read(*played_then), *([torch.arange] if isinstance(version, Common) else []))
        found[name]["learned"] = version.weights()
    print(json.dumps(found, default=lambda tensor: tensor.tolist()))


if __name__ == "__main__":
    if sys.argv[1] == "check":
        check(sys.argv[2], Setting(**json.loads(sys.argv[3])))
        sys.exit()
    version = VERSIONS[sys.argv[1]](Setting(**json.loads(sys.argv[3])))
    works = {"learning": lambda: version.learn(version.play()), "rollout": version.play}
    step = works[sys.argv[2]]
    settle(step)
    answer(step)
