import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.networks import inception

# The network in NumPy, from the names of the published file. A name ends in "/" for stride 2 without padding, in "-"
# for stride 1 without; "mean" and "max" are windows of 3x3.
STEM = "Conv2d_1a_3x3/ Conv2d_2a_3x3- Conv2d_2b_3x3 max/ Conv2d_3b_1x1 Conv2d_4a_3x3- max/"
A = "branch1x1 | branch5x5_1 branch5x5_2 | branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 | mean branch_pool"
B = "branch3x3/ | branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3/ | max/"
C = (
    "branch1x1 | branch7x7_1 branch7x7_2 branch7x7_3 | branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4"
    " branch7x7dbl_5 | mean branch_pool"
)
D = "branch3x3_1 branch3x3_2/ | branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4/ | max/"
E = (
    "branch1x1 | branch3x3_1 branch3x3_2a | branch3x3_1 branch3x3_2b | branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a"
    " | branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3b | "
)
BLOCKS = {"5b": A, "5c": A, "5d": A, "6a": B, "6b": C, "6c": C, "6d": C, "6e": C, "7a": D}
BLOCKS |= {"7b": f"{E}mean branch_pool", "7c": f"{E}max branch_pool"}


def windows(x, size, stride, padded, filler=0.0):
    """Return the patches [B, H, W, C, h, w] of images [B, H, W, C]."""
    around = [(side // 2, side // 2) if padded else (0, 0) for side in size]
    x = np.pad(x, [(0, 0), *around, (0, 0)], constant_values=filler)
    return np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))[:, ::stride, ::stride]


def layer(params, place, name, x):
    stride, padded, name = 2 if name[-1] == "/" else 1, name[-1] not in "/-", name.rstrip("/-")
    if name == "max":
        return windows(x, (3, 3), stride, padded, -np.inf).max((-2, -1))
    if name == "mean":
        return np.nanmean(windows(x, (3, 3), stride, padded, np.nan), (-2, -1))
    kernel = params[f"{place}{name}.conv.weight"]
    x = np.tensordot(windows(x, kernel.shape[2:], stride, padded), kernel, ([3, 4, 5], [1, 2, 3]))
    scale, shift, mean, var = (
        params[f"{place}{name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return np.maximum(scale * (x - mean) / np.sqrt(var + 0.001) + shift, 0)


def forward(params, x):
    for block, branches in [("", STEM), *((f"Mixed_{name}.", block) for name, block in BLOCKS.items())]:
        ends = []
        for branch in branches.split(" | "):
            end = x
            for name in branch.split():
                end = layer(params, block, name, end)
            ends.append(end)
        x = np.concatenate(ends, -1)
    features = x.mean((1, 2))
    return features, features @ params["fc.weight"].T + params["fc.bias"]


def drawn(name, shape, rng):
    """Return values under which features neither vanish nor explode."""
    if name.endswith("running_var") or name.endswith("bn.weight"):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return 0.1 * rng.normal(size=shape)
    return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))


@pytest.mark.slow
def test_the_network_is_the_published_one_in_numpy():
    """At 107 pixels, the fewest that leave the last block windows of several."""
    rng = np.random.default_rng(0)
    params = {name: drawn(name, shape, rng).astype(np.float32) for name, shape in inception.shapes().items()}
    images = rng.uniform(-1, 1, (2, 107, 107, 3)).astype(np.float32)
    expected = forward(params, images)
    found = jax.jit(inception.apply)(params, images)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.std(other) > 0.1
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_names_and_sizes_are_those_of_the_published_file():
    shapes = inception.shapes()
    # 566 entries, less the counters of 94 normalisations.
    assert len(shapes) == 566 - 94
    # An Inception v3 has 21,785,568 parameters before its classes, and twice 17,216 running moments.
    sizes = {name: np.prod(shape) for name, shape in shapes.items()}
    assert sum(sizes.values()) == 21_785_568 + 2 * 17_216 + 2049 * 1008
    assert sum(size for name, size in sizes.items() if "running" in name) == 2 * 17_216


def test_kernels_are_rows_or_columns_where_they_are_in_the_published_file():
    kernels = {name.split(".")[-3]: shape[2:] for name, shape in inception.shapes().items() if len(shape) == 4}
    sevens = {"branch7x7_2": (1, 7), "branch7x7_3": (7, 1), "branch7x7x3_2": (1, 7), "branch7x7x3_3": (7, 1)}
    sevens |= {f"branch7x7dbl_{number}": (7, 1) if number % 2 == 0 else (1, 7) for number in (2, 3, 4, 5)}
    threes = {"branch3x3_2a": (1, 3), "branch3x3_2b": (3, 1), "branch3x3dbl_3a": (1, 3), "branch3x3dbl_3b": (3, 1)}
    assert {name: kernel for name, kernel in kernels.items() if kernel[0] != kernel[1]} == sevens | threes


def tensorflow1(image):
    """Return one channel [H, W] at 299x299: pixel i lies at i·H/299, and beyond the last pixel is the last."""
    weights = []
    for length in image.shape:
        matrix = np.zeros((299, length))
        for i in range(299):
            low, share = divmod(i * length, 299)
            matrix[i, low] += 1 - share / 299
            matrix[i, min(low + 1, length - 1)] += share / 299
        weights.append(matrix)
    return weights[0] @ image @ weights[1].T


@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 48, 3), (301, 700, 3), (1, 2, 1)])
def test_images_are_resized_as_by_tensorflow(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = inception.preprocess(jnp.stack([image, image // 2]))
    for one, given in zip(found, (image, image // 2), strict=True):
        expected = np.stack([tensorflow1(given[..., channel % shape[-1]]) for channel in range(3)], -1)
        np.testing.assert_allclose(one, (expected - 128) / 128, atol=1e-4)


def test_images_of_the_right_size_are_only_scaled():
    image = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3), np.uint8)
    np.testing.assert_array_equal(inception.preprocess(jnp.asarray(image)), image.astype(np.float32) / 128 - 1)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="images of 4 channels"):
        inception.preprocess(jnp.zeros((1, 8, 8, 4), jnp.uint8))
