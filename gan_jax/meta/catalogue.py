"""The meta-learners by name, made alike of one setting: the rows of a table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from gan_jax.arithmetic import Scalar
from gan_jax.base import Learner, MetaLearner
from gan_jax.meta import baselines, inner
from gan_jax.meta import maml as gradients
from gan_jax.meta import reptile as towards
from gan_jax.meta.hyper import Interval, Space, space
from gan_jax.meta.inner import Feed
from gan_jax.meta.rates import Where, only, over_steps, per_array, per_parameter, scaled, with_rates


class Setting(NamedTuple):
    """What the rows of a table have in common.

    learner: takes the inner steps, at the rates of its `hyper`, and judges.
    direct: the same, judged by a loss that reaches all its parameters: FOMAML's gradient is that of the loss alone, and
        a distance between samples and a query moves no discriminator.
    joint: takes the steps of joint pre-training.
    optimiser: of the outer loop.
    steps: of the inner loop.
    feed, pool: what an inner step is given of a support, and a step of joint training of all examples.
    space: the hyperparameters that "learned" learns besides the initialisation.
    where: the rates are in `hyper` (see `meta.rates`). interval: in which those of Meta-SGD lie.
    head: says of a parameter's path whether ANIL adapts it.
    levels, unroll: of the inner loop, see `inner.loop`.
    at_once: tasks that are computed side by side, see `outer.outer`.
    """

    learner: Learner
    direct: Learner
    joint: Learner
    optimiser: optax.GradientTransformation
    steps: int
    feed: Feed
    pool: Feed
    space: Space
    where: Where
    interval: Interval
    head: Callable[[str], bool]
    levels: int = 1
    unroll: int = 1
    at_once: int | None = None


def at_multiple(setting: Setting, multiple: Scalar) -> Setting:
    """Return the setting whose inner steps are taken at a multiple of whatever rates they have, learned or not."""
    learner, direct = (scaled(each, setting.where, multiple) for each in (setting.learner, setting.direct))
    return setting._replace(learner=learner, direct=direct)


def scratch(setting: Setting) -> MetaLearner:
    """Each task from fresh parameters."""
    return baselines.scratch(setting.learner, **_common(setting))


def joint(setting: Setting) -> MetaLearner:
    """Joint pre-training and fine-tuning."""
    return baselines.joint(setting.joint, pool=setting.pool, finer=setting.learner, **_common(setting))


def reptile(setting: Setting) -> MetaLearner:
    """Reptile."""
    return towards.reptile(setting.learner, setting.optimiser, at_once=setting.at_once, **_common(setting))


def fomaml(setting: Setting) -> MetaLearner:
    """First-order MAML."""
    return gradients.fomaml(setting.direct, setting.optimiser, at_once=setting.at_once, **_common(setting))


def maml(setting: Setting) -> MetaLearner:
    """MAML, at the fixed rates of the learner."""
    return _second_order(setting, setting.learner)


def meta_sgd(setting: Setting) -> MetaLearner:
    """Meta-SGD: MAML with a learned rate for each parameter."""
    learner = with_rates(setting.learner, setting.where, per_parameter)
    return _second_order(setting, learner, _bounded(setting, learner))


def per_step(setting: Setting) -> MetaLearner:
    """MAML with a learned rate for each array of parameters at each inner step, as in MAML++."""
    learner = with_rates(setting.learner, setting.where, per_array)
    steps = max(setting.steps, 1)
    learner = learner._replace(hyper=setting.where(learner.hyper, lambda rates: over_steps(rates, steps)))
    return _second_order(setting, learner, _bounded(setting, learner), at=inner.per_step)


def anil(setting: Setting) -> MetaLearner:
    """ANIL: MAML that adapts the heads alone."""
    return _second_order(setting, with_rates(setting.learner, setting.where, only(setting.head)))


def learned(setting: Setting) -> MetaLearner:
    """MAML with learned hyperparameters."""
    return _second_order(setting, setting.learner, setting.space)


TITLES = {
    "scratch": "scratch",
    "joint": "joint pre-training, fine-tuned",
    "reptile": "Reptile",
    "fomaml": "FOMAML",
    "maml": "MAML",
    "meta_sgd": "Meta-SGD",
    "per_step": "MAML, rates of each step and array",
    "anil": "ANIL",
    "learned": "MAML, learned rates and R1",
}
META_LEARNERS = {f.__name__: f for f in (scratch, joint, reptile, fomaml, maml, meta_sgd, per_step, anil, learned)}


def _common(setting: Setting) -> dict[str, Any]:
    return {"steps": setting.steps, "feed": setting.feed, "unroll": setting.unroll}


def _second_order(setting: Setting, learner: Learner, space: Space | None = None, **options: Any) -> MetaLearner:
    options |= {"levels": setting.levels, "at_once": setting.at_once, **_common(setting)}
    return gradients.maml(learner, setting.optimiser, space=space, **options)


def _bounded(setting: Setting, learner: Learner) -> Space:
    """The space of a learner's rates alone, whatever tree they are."""
    fixed = jax.tree.map(lambda _: None, setting.learner.hyper)
    return space(learner.hyper, setting.where(fixed, lambda _: setting.interval))
