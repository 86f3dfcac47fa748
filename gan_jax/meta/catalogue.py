"""The meta-learners by name, made alike of one setting: the rows of a table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from gan_jax.base import Learner, MetaLearner
from gan_jax.meta import baselines
from gan_jax.meta import maml as through
from gan_jax.meta import reptile as toward
from gan_jax.meta.hyper import Interval, Space, space
from gan_jax.meta.inner import Feed
from gan_jax.meta.rates import Where, only, per_parameter, with_rates


class Setting(NamedTuple):
    """What the rows of a table have in common.

    learner: takes the inner steps, at the rates of its `hyper`.
    joint: takes the steps of joint pre-training.
    optimiser: of the outer loop.
    steps: of the inner loop.
    feed, pool: what an inner step is given of a support, and a step of joint training of all examples.
    space: the hyperparameters that "learned" learns besides the initialisation.
    where: the rates are in `hyper` (see `meta.rates`). interval: in which those of Meta-SGD lie.
    head: says of a parameter's path whether ANIL adapts it.
    levels, unroll: of the inner loop, see `inner.loop`.
    """

    learner: Learner
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


def scratch(setting: Setting) -> MetaLearner:
    """Each task from fresh parameters."""
    return baselines.scratch(setting.learner, **_common(setting))


def joint(setting: Setting) -> MetaLearner:
    """Joint pre-training and fine-tuning."""
    return baselines.joint(setting.joint, pool=setting.pool, finer=setting.learner, **_common(setting))


def reptile(setting: Setting) -> MetaLearner:
    """Reptile."""
    return toward.reptile(setting.learner, setting.optimiser, **_common(setting))


def fomaml(setting: Setting) -> MetaLearner:
    """First-order MAML."""
    return through.fomaml(setting.learner, setting.optimiser, **_common(setting))


def maml(setting: Setting) -> MetaLearner:
    """MAML, at the fixed rates of the learner."""
    return _second_order(setting, setting.learner)


def meta_sgd(setting: Setting) -> MetaLearner:
    """Meta-SGD: MAML with a learned rate for each parameter."""
    learner = with_rates(setting.learner, setting.where, per_parameter)
    fixed = jax.tree.map(lambda _: None, setting.learner.hyper)
    return _second_order(setting, learner, space(learner.hyper, setting.where(fixed, lambda _: setting.interval)))


def anil(setting: Setting) -> MetaLearner:
    """ANIL: MAML that adapts the heads alone."""
    return _second_order(setting, with_rates(setting.learner, setting.where, only(setting.head)))


def learned(setting: Setting) -> MetaLearner:
    """MAML with learned hyperparameters."""
    return _second_order(setting, setting.learner, setting.space)


META_LEARNERS = {f.__name__: f for f in (scratch, joint, reptile, fomaml, maml, meta_sgd, anil, learned)}


def _common(setting: Setting) -> dict[str, Any]:
    return {"steps": setting.steps, "feed": setting.feed, "unroll": setting.unroll}


def _second_order(setting: Setting, learner: Learner, space: Space | None = None) -> MetaLearner:
    return through.maml(learner, setting.optimiser, space=space, levels=setting.levels, **_common(setting))
