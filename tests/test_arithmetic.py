"""Which numbers may be: Python's and arrays without axes are looked at alike, and what is traced is not."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax import objectives, penalties
from gan_jax.arithmetic import allowed, require_counts, require_nonnegative, require_positive

KINDS = (float, np.float32, np.array, jnp.float32)
NONE = ("1", None, True, [1.0], np.ones(1), jnp.ones(2))


@given(st.floats(width=32))
def test_a_number_is_positive_whatever_holds_it(x):
    for kind in KINDS:
        for require, obeys in ((require_positive, 0 < x < math.inf), (require_nonnegative, 0 <= x < math.inf)):
            if obeys:
                require(rate=kind(x))
            else:
                with pytest.raises(ValueError, match="^rate="):
                    require(rate=kind(x))


@pytest.mark.parametrize("value", NONE)
def test_what_is_not_one_number_is_refused(value):
    for require in (require_positive, require_nonnegative):
        with pytest.raises(ValueError, match="^rate="):
            require(rate=value)


def test_what_is_traced_may_be_anything():
    assert jax.jit(lambda x: x if allowed(x, lambda x: False) else x + 1)(2.0) == 2
    assert jax.vmap(lambda x: x if allowed(x, lambda x: False) else x + 1)(jnp.arange(2.0)).tolist() == [0, 1]
    assert not jax.eval_shape(lambda x: {"one": x} if allowed(x, lambda x: True) else {}, jnp.ones(3))


@pytest.mark.parametrize("count", [0, -1, 1.0, 1.5, True, "1", None])
def test_counts_are_whole_numbers_of_at_least_one(count):
    require_counts(trials=1, tasks=10**9)
    with pytest.raises(ValueError, match=f"^trials={count!r} is not a whole number of at least 1"):
        require_counts(tasks=2, trials=count)


@pytest.mark.parametrize("number", [-1.0, np.array(-1.0), jnp.float32(-1), jnp.float32(jnp.nan), "10", None])
def test_a_weight_that_a_loop_over_settings_hands_in_is_looked_at(number):
    for make in penalties.PENALTIES.values():
        with pytest.raises(ValueError, match="would not be a penalty"):
            make(number)
    with pytest.raises(ValueError, match="outside"):
        objectives.minimax(number)
