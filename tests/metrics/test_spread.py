import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.metrics.spread import interval

# Student's t at .975, from a printed table, by the degrees of freedom.
TABLE = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 29: 2.045}


@pytest.mark.parametrize("freedom", TABLE)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 10))
def test_it_is_the_standard_error_times_students_t(freedom, seed, scale):
    values = scale * np.random.default_rng(seed).standard_normal(freedom + 1)
    error = np.sqrt(np.sum((values - values.mean()) ** 2) / freedom / (freedom + 1))
    assert interval(values) == pytest.approx(TABLE[freedom] * error, rel=3e-4)
