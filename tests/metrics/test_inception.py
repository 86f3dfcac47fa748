"""Weights are read from each format, none of them is executed, and the network is torch-fidelity's.

torch-fidelity is no dependency: GAN_JAX_PEERS names a Python that has it.
"""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.data import images
from gan_jax.metrics import inception
from gan_jax.metrics.inception import weights
from gan_jax.networks.inception import shapes

PEERS = os.environ.get("GAN_JAX_PEERS")
NEEDED = {"a.weight": (2, 3), "a.bias": (3,)}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in NEEDED.items()}


def npz(path, leaves):
    np.savez(path, **leaves)


def safetensors(path, leaves, dtype="F32"):
    header, buffer = {"__metadata__": {"format": "pt"}}, b""
    for name, leaf in leaves.items():
        offsets = [len(buffer), len(buffer) + leaf.nbytes]
        header[name] = {"dtype": dtype, "shape": leaf.shape, "data_offsets": offsets}
        buffer += leaf.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + buffer)


class Storage:
    """Numbers that a pickle names, and keeps elsewhere."""

    def __init__(self, key, numbers):
        self.key, self.numbers = key, np.asarray(numbers)


class Tensor:
    """What PyTorch pickles of a tensor."""

    def __init__(self, storage, offset, shape, strides):
        self.place = storage, offset, shape, strides, False, OrderedDict()

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.place


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return "storage", sys.modules["torch"].FloatStorage, obj.key, "cpu", obj.numbers.size


@pytest.fixture
def torch(monkeypatch):
    """Modules with the names that a pickle of PyTorch's refers to; none of them is there when it is read."""

    def pickled(value):
        package, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
        package.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
        utils._rebuild_tensor_v2 = lambda *place: None
        utils._rebuild_tensor_v2.__module__ = "torch._utils"
        utils._rebuild_tensor_v2.__qualname__ = utils._rebuild_tensor_v2.__name__ = "_rebuild_tensor_v2"
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "torch", package)
            patch.setitem(sys.modules, "torch._utils", utils)
            file = io.BytesIO()
            Pickler(file, protocol=2).dump(value)
            return file.getvalue()

    return pickled


def zipped(path, pickled, storages=(), byteorder="little"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("saved/data.pkl", pickled)
        archive.writestr("saved/byteorder", byteorder)
        for storage in storages:
            archive.writestr(f"saved/data/{storage.key}", storage.numbers.tobytes())


def legacy(path, torch, value, storages=(), magic=0x1950A86A20F9469CFC6C, little=True):
    keys = [storage.key for storage in storages]
    parts = [torch(each) for each in (magic, 1001, {"little_endian": little}, value, keys)]
    parts += [struct.pack("<q", storage.numbers.size) + storage.numbers.tobytes() for storage in storages]
    path.write_bytes(b"".join(parts))


def state_dict(leaves):
    """Return tensors as PyTorch has them, row after row, and their storages."""
    storages = {name: Storage(str(i), leaf) for i, (name, leaf) in enumerate(leaves.items())}
    tensors = OrderedDict(
        (name, Tensor(storages[name], 0, leaf.shape, tuple(stride // 4 for stride in leaf.strides)))
        for name, leaf in leaves.items()
    )
    tensors._metadata = OrderedDict(version=1)  # every state_dict carries such
    return tensors, list(storages.values())


def write(path, leaves, kind, torch):
    if kind == "zip":
        tensors, storages = state_dict(leaves)
        zipped(path, torch(tensors), storages)
    elif kind == "legacy":
        legacy(path, torch, *state_dict(leaves))
    else:
        {"npz": npz, "safetensors": safetensors}[kind](path, leaves)


KINDS = {"zip": ".pth", "legacy": ".pt", "npz": ".npz", "safetensors": ".safetensors"}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_a_file_is_read_as_it_was_written(tmp_path, torch, kind):
    path, leaves = tmp_path / f"w{KINDS[kind]}", arrays()
    write(path, {**leaves, "another": np.ones(2, np.float32)}, kind, torch)
    found = weights(path, NEEDED)
    assert set(found) == set(NEEDED)
    for name, leaf in found.items():
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, leaves[name])


@each_kind
def test_the_first_leaf_that_does_not_fit_is_named(tmp_path, torch, kind):
    path, leaves = tmp_path / f"w{KINDS[kind]}", arrays()
    write(path, {"a.weight": leaves["a.weight"]}, kind, torch)
    with pytest.raises(ValueError, match=r"^w\.\w+ has no a\.bias, .* shape \(3,\)"):
        weights(path, NEEDED)
    write(path, {"a.weight": leaves["a.weight"].T.copy(), "a.bias": leaves["a.bias"][:2]}, kind, torch)
    with pytest.raises(ValueError, match=r"a\.weight of shape \(3, 2\), and the network needs \(2, 3\)"):
        weights(path, NEEDED)


@each_kind
@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_truncated_file_is_damaged(tmp_path, torch, kind, kept):
    path = tmp_path / f"w{KINDS[kind]}"
    write(path, arrays(), kind, torch)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"^w\.\w+ cannot be read as \.\w+: "):
        weights(path, NEEDED)


def test_formats_are_told_by_their_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"w\.h5: weights are read from \.pth, \.pt, \.npz, \.safetensors"):
        weights(tmp_path / "w.h5", NEEDED)


@pytest.mark.parametrize(("dtype", "like"), [("F16", np.float16), ("F64", np.float64)])
def test_other_precisions_become_single(tmp_path, dtype, like):
    path, leaves = tmp_path / "w.safetensors", {name: leaf.astype(like) for name, leaf in arrays().items()}
    safetensors(path, leaves, dtype)
    for name, leaf in weights(path, NEEDED).items():
        np.testing.assert_array_equal(leaf, leaves[name].astype(np.float32))


@pytest.mark.parametrize(("dtype", "message"), [("I64", "of int64"), ("BF16", "of BF16: save it as F32")])
def test_what_is_no_weight_is_refused(tmp_path, dtype, message):
    path = tmp_path / "w.safetensors"
    safetensors(path, {name: np.zeros(shape, np.int64) for name, shape in NEEDED.items()}, dtype)
    with pytest.raises(ValueError, match=f"a.weight {message}"):
        weights(path, NEEDED)


# Pickles.


class Call:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize(("function", "command"), [(os.system, "touch {}"), (exec, "open('{}', 'w').close()")])
def test_a_pickle_that_calls_is_refused_and_calls_nothing(tmp_path, torch, kind, function, command):
    path, mark = tmp_path / "w.pth", tmp_path / "mark"
    call = Call(function, command.format(mark))
    pickle.loads(torch(call))
    mark.unlink()  # it was there: the pickle does what it is feared for
    tensors, storages = state_dict(arrays())
    tensors["z"] = call
    if kind == "zip":
        zipped(path, torch(tensors), storages)
    else:
        legacy(path, torch, tensors, storages)
    with pytest.raises(ValueError, match=rf"^w\.pth asks for \w+\.{function.__name__}, .* was not read: load it"):
        weights(path, NEEDED)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("torch.load", "torch.hub.load", "torch.FloatStorage.from_file", "torch.serialization._get_layout"),
        *("collections.OrderedDict.fromkeys", "collections.namedtuple", "builtins.dict", "numpy.ndarray"),
        *("gan_jax.metrics.inception._Tensor", "torch._utils._rebuild_parameter"),
    ],
)
def test_a_pickle_gets_no_other_name(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    if "OrderedDict" in module or "Storage" in module:  # an attribute of an admitted name
        module, _, owner = module.rpartition(".")
        attribute = f"{owner}.{attribute}"
    opcodes = [pickle.SHORT_BINUNICODE + bytes([len(word)]) + word.encode() for word in (module, attribute)]
    zipped(tmp_path / "w.pth", pickle.PROTO + b"\4" + b"".join(opcodes) + pickle.STACK_GLOBAL + pickle.STOP)
    with pytest.raises(ValueError, match=f"asks for {name}, which"):
        weights(tmp_path / "w.pth", NEEDED)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_tensors_may_share_a_storage_and_be_transposed(tmp_path, torch, kind):
    path, numbers = tmp_path / "w.pth", Storage("0", np.arange(9, dtype=np.float32))
    tensors = {"a.weight": Tensor(numbers, 1, (2, 3), (1, 2)), "a.bias": Tensor(numbers, 6, (3,), (1,))}
    if kind == "zip":
        zipped(path, torch(tensors), [numbers])
    else:
        legacy(path, torch, tensors, [numbers])
    found = weights(path, NEEDED)
    np.testing.assert_array_equal(found["a.weight"], [[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(found["a.bias"], [6, 7, 8])


@pytest.mark.parametrize(
    ("offset", "strides"), [(1, (3, 1)), (-1, (3, 1)), (0, (4, 1)), (5, (-3, -1)), (7, (0, 0)), (0, (2**62, 1))]
)
def test_a_tensor_stays_within_its_storage(tmp_path, torch, offset, strides):
    path, numbers = tmp_path / "w.pth", Storage("0", np.arange(6, dtype=np.float32))
    zipped(path, torch({"a.weight": Tensor(numbers, offset, (2, 3), strides)}), [numbers])
    with pytest.raises(ValueError, match=r"^w\.pth has a\.weight, which reaches beyond its storage"):
        weights(path, NEEDED)


def test_a_huge_tensor_of_few_numbers_is_not_made(tmp_path, torch):
    path, numbers = tmp_path / "w.pth", Storage("0", np.zeros(1, np.float32))
    zipped(path, torch({"a.weight": Tensor(numbers, 0, (2**20, 2**20), (0, 0))}), [numbers])
    with pytest.raises(ValueError, match=r"a\.weight of shape \(1048576, 1048576\)"):
        weights(path, NEEDED)


def test_files_of_other_machines_and_other_pickles_are_refused(tmp_path, torch):
    path, (tensors, storages) = tmp_path / "w.pth", state_dict(arrays())
    for saved, message in (
        (lambda: zipped(path, torch({}), byteorder="big"), "big-endian"),
        (lambda: legacy(path, torch, {}, little=False), "big-endian"),
        (lambda: legacy(path, torch, {}, magic=1), "not a file of torch.save"),
        (lambda: zipped(path, torch({"a.weight": 1})), "a.weight, which is no tensor"),
        (lambda: zipped(path, torch({"a.weight": Tensor(("O", "0"), 0, (2, 3), (3, 1))}), storages), "cannot be read"),
        (lambda: legacy(path, torch, {"model": tensors}, storages), "holds more than one state_dict"),
    ):
        saved()
        with pytest.raises(ValueError, match=message):
            weights(path, NEEDED)


# The extractor.


def whole(path, numbers, torch, kind="zip"):
    """Write a file of the network's names, all tensors of which begin where one storage does."""
    storage = Storage("0", numbers)
    tensors = OrderedDict()
    for name, shape in shapes().items():
        strides = tuple(int(np.prod(shape[place + 1 :])) for place in range(len(shape)))
        tensors[name] = Tensor(storage, 0, shape, strides)
    if kind == "zip":
        zipped(path, torch(tensors), [storage])
    else:
        legacy(path, torch, tensors, [storage])


LARGEST = 2048 * 1008


@pytest.mark.slow
def test_the_digest_is_that_of_the_weights(tmp_path, torch):
    numbers = np.random.default_rng(0).uniform(0.5, 1, LARGEST).astype(np.float32)
    for kind in ("zip", "legacy"):
        whole(tmp_path / f"{kind}.pth", numbers, torch, kind)
    one, other = (inception.read(tmp_path / f"{kind}.pth") for kind in ("zip", "legacy"))
    assert one.digest == other.digest
    assert one.record["file_sha256"] != other.record["file_sha256"]
    assert one.record["file"] == "zip.pth" and not one.record["standard"]
    numbers.view(np.uint32)[-1] ^= 1
    whole(tmp_path / "flipped.pth", numbers, torch)
    assert inception.read(tmp_path / "flipped.pth").digest != one.digest


@pytest.mark.slow
def test_images_are_read_as_saved_pictures_in_parts(tmp_path, torch, monkeypatch):
    def means(params, x):
        return x.mean((1, 2)), jnp.broadcast_to(params["fc.bias"] + params["fc.weight"][0, 0], (len(x), 1008))

    monkeypatch.setattr("gan_jax.networks.inception.apply", means)
    whole(tmp_path / "w.pth", np.ones(LARGEST, np.float32), torch)
    image = np.random.default_rng(0).uniform(-1.2, 1.2, (2 * 50 + 3, 2, 2, 1)).astype(np.float32)
    features, logits = inception.read(tmp_path / "w.pth").apply(image)
    pixels = np.asarray(images.to_uint8(image), np.float64)[..., 0]
    # 150 of 299 points lie before the second pixel, evenly from 0 up; the others are at it.
    second = (np.arange(150) * 2 / 299).sum() / 299 + 149 / 299
    share = np.array([1 - second, second])
    expected = (np.einsum("nhw,h,w->n", pixels, share, share) - 128) / 128
    np.testing.assert_allclose(features, np.repeat(expected[:, None], 3, 1), atol=1e-4)
    np.testing.assert_array_equal(logits, np.ones((103, 1008)))  # without the bias


def test_no_file_is_no_extractor(tmp_path):
    with pytest.raises(ValueError, match="w.pth is no file"):
        inception.read(tmp_path / "w.pth")


# torch-fidelity.

# Writes its network with random weights in both of PyTorch's formats, and what it makes of images.
PROGRAM = """
import sys
import numpy as np, torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class Random(FeatureExtractorInceptionV3):
    def load_state_dict(self, *_, **__):
        for name, leaf in self.state_dict().items():
            if name.endswith(("running_var", "bn.weight")):
                leaf.uniform_(0.5, 1.5)
            elif leaf.ndim > 1:
                torch.nn.init.kaiming_normal_(leaf, nonlinearity="relu")
            elif leaf.is_floating_point():
                leaf.normal_(std=0.1)


folder = sys.argv[1]
torch.manual_seed(0)
torch.save({}, f"{folder}/nothing.pth")  # with no file given it would fetch one
net = Random("inception", ["2048", "logits", "logits_unbiased"], feature_extractor_weights_path=f"{folder}/nothing.pth")
torch.save(net.state_dict(), f"{folder}/zip.pth")
torch.save(net.state_dict(), f"{folder}/legacy.pth", _use_new_zipfile_serialization=False)
found = {}
for name, images in np.load(f"{folder}/images.npz").items():
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    features, logits, unbiased = net(images.expand(-1, 3, -1, -1))
    found |= {f"{name}_features": features, f"{name}_logits": logits, f"{name}_unbiased": unbiased}
np.savez(f"{folder}/found.npz", **found)
"""


@pytest.mark.full
@pytest.mark.skipif(PEERS is None, reason="GAN_JAX_PEERS names no Python with torch-fidelity")
def test_the_network_is_that_of_torch_fidelity(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"small": (3, 64, 64, 3), "gray": (1, 28, 28, 1), "large": (1, 320, 400, 3)}
    given = {name: rng.integers(0, 256, shape, np.uint8) for name, shape in sizes.items()}
    np.savez(tmp_path / "images.npz", **given)
    assert PEERS is not None
    ran = subprocess.run([PEERS, "-W", "ignore", "-c", PROGRAM, tmp_path], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    extractor, same = (inception.read(tmp_path / f"{kind}.pth") for kind in ("zip", "legacy"))
    assert extractor.digest == same.digest
    bias = weights(tmp_path / "zip.pth", {"fc.bias": (1008,)})["fc.bias"]
    with np.load(tmp_path / "found.npz") as found:
        for name, image in given.items():
            features, logits = extractor.apply(images.to_float(image))
            for ours, kind in ((features, "features"), (logits, "unbiased"), (logits + bias, "logits")):
                theirs = found[f"{name}_{kind}"]
                assert theirs.std() > 0.1, "a network whose outputs are all alike shows nothing"
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
