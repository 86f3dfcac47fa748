"""Augmentations against hand formulas, with the draws recovered from what they did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.augment import (
    AUGMENTATIONS,
    brightness,
    colour,
    compose,
    contrast,
    cutout,
    diffaugment,
    instance_noise,
    saturation,
    translation,
)
from gan_jax.testing import keys

SHAPE = (6, 8, 16, 3)  # wider than high, so that exchanged axes show
COMPILED = {name: jax.jit(factory()) for name, factory in AUGMENTATIONS.items()}

every_augmentation = pytest.mark.parametrize("name", AUGMENTATIONS)


def pixels(key, shape=SHAPE):
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def greys(x):
    return np.mean(x, axis=-1, keepdims=True)


def means(x):
    return np.mean(x, axis=(1, 2, 3), keepdims=True)


def factors(x, y, centre):
    """Recover f of y − m = f(x − m) for each image, by least squares."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    centred = x - centre(x)
    return np.sum(centred * (y - centre(x)), axis=(1, 2, 3)) / np.sum(centred**2, axis=(1, 2, 3))


@every_augmentation
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_shape_and_precision_are_kept_with_jit_and_without(name, dtype):
    x = pixels(jax.random.key(0)).astype(dtype)
    y = AUGMENTATIONS[name]()(jax.random.key(1), x)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    compiled = COMPILED[name](jax.random.key(1), x)
    np.testing.assert_allclose(
        compiled.astype(jnp.float32), y.astype(jnp.float32), atol=1e-6 if dtype == jnp.float32 else 0.1
    )


@every_augmentation
def test_a_key_determines_the_draws_and_two_keys_differ(name):
    x, augment = pixels(jax.random.key(0)), COMPILED[name]
    np.testing.assert_array_equal(augment(jax.random.key(1), x), augment(jax.random.key(1), x))
    assert not np.array_equal(augment(jax.random.key(1), x), augment(jax.random.key(2), x))


@every_augmentation
def test_each_example_has_a_draw_of_its_own(name):
    same = jnp.tile(pixels(jax.random.key(0))[:1], (40, 1, 1, 1))
    different = {np.asarray(image).tobytes() for image in COMPILED[name](jax.random.key(3), same)}
    # Of 15 shifts of a translation, 40 draws leave fewer than 10 with a chance of less than 1 in 10⁴.
    assert len(different) >= (10 if name == "translation" else 30)


@every_augmentation
@given(key=keys())
def test_an_example_depends_on_the_key_its_place_and_itself_alone(name, key):
    x, augment = pixels(key), COMPILED[name]
    y, place = augment(key, x), 2
    others = jnp.where((jnp.arange(len(x)) == place)[:, None, None, None], x, 5.0)
    np.testing.assert_array_equal(augment(key, others)[place], y[place])
    np.testing.assert_allclose(augment(key, x[: place + 1]), y[: place + 1], atol=1e-6)  # whatever comes after


@every_augmentation
def test_a_stack_of_batches_is_augmented_under_vmap(name):
    x, draws = pixels(jax.random.key(0), (3, *SHAPE)), jax.random.split(jax.random.key(1), 3)
    stacked = jax.jit(jax.vmap(AUGMENTATIONS[name]()))(draws, x)
    for key, one, y in zip(draws, x, stacked, strict=True):
        np.testing.assert_allclose(y, COMPILED[name](key, one), atol=1e-6)


@every_augmentation
def test_gradients_reach_every_image_and_no_augmentation_is_more_than_affine(name):
    """Each is y = A x + b for one key: A(x − x′) = y − y′, and the pullback is A's transpose."""
    key, x, other, g = jax.random.key(4), *pixels(jax.random.key(5), (3, *SHAPE))
    y, pullback = jax.vjp(lambda x: COMPILED[name](key, x), x)
    (slope,) = pullback(g)
    difference = y - COMPILED[name](key, other)
    np.testing.assert_allclose(jnp.vdot(slope, x - other), jnp.vdot(g, difference), rtol=1e-3, atol=1e-3)
    assert (jnp.abs(slope).max(axis=(1, 2, 3)) > 0.01).all()


@given(key=keys())
def test_brightness_adds_one_number_to_each_image(key):
    x = pixels(key)
    shifts = np.asarray(COMPILED["brightness"](key, x) - x)
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1, :1, :1], SHAPE), atol=1e-6)
    assert (abs(shifts) <= 0.5 + 1e-6).all()


@pytest.mark.parametrize(("make", "centre"), [(saturation, greys), (contrast, means)])
@given(key=keys())
def test_saturation_and_contrast_scale_the_distance_from_a_mean(make, centre, key):
    x = pixels(key)
    y = COMPILED[make.__name__](key, x)
    f = factors(x, y, centre)[:, None, None, None]
    m = centre(np.asarray(x, np.float64))
    np.testing.assert_allclose(y, m + f * (x - m), atol=1e-5)
    np.testing.assert_allclose(centre(y), m, atol=1e-6)


@pytest.mark.parametrize(("make", "centre"), [(saturation, greys), (contrast, means)])
@given(key=keys())
def test_the_slopes_of_saturation_and_contrast_pass_through_the_mean(make, centre, key):
    """The transpose of x ↦ m + f(x − m) is g ↦ m(g) + f(g − m(g)), as the mean is its own."""
    x, g = pixels(key, (2, *SHAPE))
    y, pullback = jax.vjp(lambda x: COMPILED[make.__name__](key, x), x)
    f = factors(x, y, centre)[:, None, None, None]
    m = centre(np.asarray(g, np.float64))
    np.testing.assert_allclose(pullback(g)[0], m + f * (g - m), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "low", "high"), [(brightness, -0.5, 0.5), (saturation, 0.0, 2.0), (contrast, 0.5, 1.5)]
)
def test_the_draws_of_colour_are_uniform(make, low, high):
    count = 4000
    x = jnp.tile(pixels(jax.random.key(0), (1, 2, 2, 3)), (count, 1, 1, 1))
    y = COMPILED[make.__name__](jax.random.key(6), x)
    draws = (
        np.asarray((y - x)[:, 0, 0, 0]) if make is brightness else factors(x, y, greys if make is saturation else means)
    )
    # Each decile holds 400, of standard deviation 19.
    counts, _ = np.histogram(draws, bins=10, range=(low, high))
    assert counts.sum() >= count - 1  # one may be rounded to the other side of an end
    assert (abs(counts - 400) < 5 * 19).all()


def test_a_grey_image_has_no_saturation():
    x = pixels(jax.random.key(0), (4, 3, 3, 1))
    np.testing.assert_array_equal(saturation()(jax.random.key(1), x), x)


def moved(image, row, column):
    """Shift an image down and to the right, by NumPy and with zeros."""
    height, width, _ = image.shape
    out = np.zeros_like(image)
    source = image[max(0, -row) : height - max(0, row), max(0, -column) : width - max(0, column)]
    out[max(0, row) : height + min(0, row), max(0, column) : width + min(0, column)] = source
    return out


def shifts(image, rows=1, columns=2):
    """List every move of an image of 8 by 16, by an eighth at most."""
    return {
        moved(image, row, column).tobytes(): (row, column)
        for row in range(-rows, rows + 1)
        for column in range(-columns, columns + 1)
    }


@given(key=keys())
def test_translation_moves_by_whole_pixels_and_fills_with_zeros(key):
    x = pixels(key) + 2.0  # no pixel is 0
    for image, out in zip(np.asarray(x), np.asarray(COMPILED["translation"](key, x)), strict=True):
        assert out.tobytes() in shifts(image)


def test_every_shift_is_equally_likely():
    count = 6000
    x = pixels(jax.random.key(0), (1, *SHAPE[1:])) + 2.0
    table = shifts(np.asarray(x[0]))
    moves = np.asarray(COMPILED["translation"](jax.random.key(7), jnp.tile(x, (count, 1, 1, 1))))
    found = [table[image.tobytes()] for image in moves]
    cells = {cell: found.count(cell) for cell in table.values()}
    assert len(cells) == 15
    # 400 of 6000 each, of standard deviation √(400·14/15) ≈ 19.
    assert all(abs(number - 400) < 5 * 19 for number in cells.values()), cells


@given(key=keys())
def test_the_slope_of_translation_is_the_pixels_that_stay_in_view(key):
    x = pixels(key) + 2.0
    y, pullback = jax.vjp(lambda x: COMPILED["translation"](key, x), x)
    (slope,) = pullback(jnp.ones_like(y))
    for image, out, mask in zip(np.asarray(x), np.asarray(y), np.asarray(slope), strict=True):
        row, column = shifts(image)[out.tobytes()]
        np.testing.assert_array_equal(mask, moved(np.ones_like(image), -row, -column))


def boxes(height, width, rows, columns):
    """List the masks of a box of rows by columns whose middle is in the image, with the odd row on the upper side."""

    def spans(side, size):
        starts = range(-(size // 2), side - size // 2 + (size % 2 == 0))
        return [(np.arange(side) >= start) & (np.arange(side) < start + size) for start in starts]

    return [~np.outer(row, column) for row in spans(height, rows) for column in spans(width, columns)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "ratio", "rows", "columns"), [(4, 4, 0.5, 2, 2), (5, 5, 0.6, 3, 3), (4, 6, 0.3, 1, 2)]
)
def test_cutout_clears_one_box_clipped_to_the_image_anywhere_equally_likely(height, width, ratio, rows, columns):
    count = 6000
    x = pixels(jax.random.key(0), (count, height, width, 2)) + 2.0
    y, pullback = jax.vjp(lambda x: jax.jit(cutout(ratio))(jax.random.key(8), x), x)
    masks = np.asarray(y != 0)
    np.testing.assert_array_equal(y, np.where(masks, x, 0))
    np.testing.assert_array_equal(pullback(jnp.ones_like(y))[0], masks)
    np.testing.assert_array_equal(masks[..., 0], masks[..., 1])
    expected = boxes(height, width, rows, columns)
    found = [mask.tobytes() for mask in masks[..., 0]]
    share = count / len(expected)
    for box in expected:
        assert abs(found.count(box.tobytes()) - share) < 5 * np.sqrt(share)
    assert set(found) == {box.tobytes() for box in expected}


@pytest.mark.parametrize("make", [translation, cutout], ids=lambda make: make.__name__)
def test_ratios_out_of_range_are_refused_and_zero_is_the_identity(make):
    x = pixels(jax.random.key(0))
    np.testing.assert_array_equal(make(0)(jax.random.key(1), x), x)
    for ratio in (-0.1, 1, 2.0, float("nan")):
        with pytest.raises(ValueError, match=rf"{make.__name__}\(ratio={ratio}\)"):
            make(ratio)


@every_augmentation
def test_points_have_noise_and_no_pixels(name):
    points = jnp.ones((5, 2))
    if name == "instance_noise":
        assert instance_noise()(jax.random.key(0), points).shape == points.shape
    else:
        with pytest.raises(AssertionError):
            AUGMENTATIONS[name]()(jax.random.key(0), points)


@pytest.mark.parametrize("shape", [(5000, 3), (500, 5, 6, 1)], ids=str)
def test_noise_is_independent_and_of_its_deviation(shape):
    noise = np.asarray(instance_noise(0.5)(jax.random.key(9), jnp.full(shape, 3.0)), np.float64) - 3.0
    numbers = noise.reshape(shape[0], -1)
    count = numbers.size
    assert abs(numbers.mean()) < 5 * 0.5 / np.sqrt(count)
    assert abs(np.square(numbers).mean() - 0.25) < 5 * 0.25 * np.sqrt(2 / count)
    assert abs(np.mean(numbers**4) - 3 * 0.5**4) < 5 * 0.5**4 * np.sqrt(96 / count)
    for product in (numbers[1:] * numbers[:-1], numbers[:, 1:] * numbers[:, :-1]):  # between examples, and within
        assert abs(product.mean()) < 5 * 0.25 / np.sqrt(product.size)


@pytest.mark.slow
def test_the_deviation_of_noise_may_be_traced():
    x, key = jnp.ones((4, 3)), jax.random.key(10)
    noisy = jax.jit(lambda std: instance_noise(std)(key, x))
    np.testing.assert_array_equal(noisy(0.0), x)
    np.testing.assert_allclose(noisy(0.4) - x, 4 * (noisy(0.1) - x), atol=1e-6)
    np.testing.assert_allclose(jax.jacobian(noisy)(0.1), (noisy(0.1) - x) / 0.1, atol=1e-5)


@pytest.mark.parametrize("std", [-1, -1e-3, float("nan"), float("inf")])
def test_a_deviation_below_zero_is_refused(std):
    with pytest.raises(ValueError, match=rf"instance_noise\(std={std}\)"):
        instance_noise(std)


@given(key=keys(), order=st.permutations(["brightness", "translation", "instance_noise"]))
def test_a_composition_applies_each_in_turn_with_a_key_of_its_own(key, order):
    x = expected = pixels(key)
    for i, name in enumerate(order):
        expected = COMPILED[name](jax.random.fold_in(key, i), expected)
    composed = compose(*(AUGMENTATIONS[name]() for name in order))
    np.testing.assert_allclose(composed(key, x), expected, atol=1e-6)


def test_equal_parts_of_a_composition_draw_independently():
    x, key = jnp.zeros((6, 2, 2, 1)), jax.random.key(11)
    both = compose(brightness(), brightness())(key, x)
    assert not np.isclose(both, 2 * compose(brightness())(key, x)).any()


def test_a_composition_of_nothing_is_the_identity():
    x = pixels(jax.random.key(0))
    np.testing.assert_array_equal(compose()(jax.random.key(1), x), x)


def test_colour_and_diffaugment_are_the_published_compositions():
    x, key = pixels(jax.random.key(0)), jax.random.key(1)
    expected = compose(brightness(), saturation(), contrast())(key, x)
    np.testing.assert_array_equal(colour()(key, x), expected)
    expected = compose(colour(), translation(1 / 8), cutout(1 / 2))(key, x)
    np.testing.assert_array_equal(diffaugment()(key, x), expected)
