"""The standard Fréchet inception distance: its network with weights from a file that the user supplies.

The weights are not shipped. The file may be the published `.pth`, an `.npz` or a `.safetensors`, with the names and
shapes of `networks.inception.shapes`. Nothing in it is executed: a PyTorch file holds pickles, which can call any
function, so only the names that a `state_dict` needs are admitted, and PyTorch's stand for functions written here.
"""

import hashlib
import io
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from gan_jax.arithmetic import to_uint8
from gan_jax.metrics.features import Extractor, digest
from gan_jax.networks import inception

# The file that the published scores were measured with, at its usual place in PyTorch's libraries.
STANDARD = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_BATCH = 50  # images whose feature maps are in memory at once: about 2 GB on a CPU
_CONVERT = "load it where it came from and save its state_dict as .safetensors or .npz"

Weights = Mapping[str, np.ndarray]


def read(path: Path) -> Extractor:
    """Return the extractor of the standard distance, with weights from a file.

    It reads images [B, H, W, C] in [-1, 1] of any size, gray or in colour, rounds them to 256 levels as
    if they had been saved, and resizes them to 299x299. The features are the 2048 of the last pooling. The logits,
    of 1008 classes, are without the last layer's bias, as in the published Inception score.

    The digest is that of the weights, whatever the file's format. The record names the file and its own SHA-256, and
    says whether it is the `standard` one, byte by byte; scores by other weights cannot be compared with published
    ones.

    Raises:
        ValueError: if there is no such file, or as `weights` does.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file: give the Inception weights of the Fréchet distance")
    leaves = weights(path, inception.shapes())
    with path.open("rb") as file:
        own = hashlib.file_digest(file, "sha256").hexdigest()
    # An argument, not a constant of the program: XLA would fold and keep 90 MB of constants.
    params = jax.device_put({**leaves, "fc.bias": np.zeros_like(leaves["fc.bias"])})

    @jax.jit
    def batch(params: Mapping[str, Array], images: Array) -> tuple[Array, Array]:
        return inception.apply(params, inception.preprocess(to_uint8(images)))

    def apply(images: Float[np.ndarray | Array, "B H W C"]) -> tuple[np.ndarray, np.ndarray]:
        parts = [batch(params, images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        features, logits = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in (0, 1))
        return features, logits

    record = {
        "family": "inception",
        "file": path.name,
        "file_sha256": own,
        "standard": own == STANDARD,
        "preprocessing": f"256 levels, resized to {inception.SIZE}x{inception.SIZE} as TensorFlow 1 does",
    }
    return Extractor("inception", digest(leaves), inception.FEATURES, record, apply)


def weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Return the arrays of these names and shapes from a file, in single precision; others in it are ignored.

    The format is told by the suffix: .npz, .safetensors, and .pth or .pt for what `torch.save` writes of a
    `state_dict`, now (a zip archive) or before PyTorch 1.6.

    Raises:
        ValueError: the suffix, the first name that is missing, has another shape or is not of floating point, what a
            pickle in the file asked for that is not admitted, or that the file is damaged.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise ValueError(f"{path.name}: weights are read from {', '.join(_READERS)}")
    try:
        leaves = reader(path, shapes)
    except _Refused as refused:
        raise ValueError(f"{path.name} {refused}") from None
    except Exception as error:  # a damaged file: pickle, zipfile, JSON and NumPy raise a dozen errors
        raise ValueError(f"{path.name} cannot be read as {path.suffix}: {error}") from error
    for name, shape in shapes.items():
        _check(path, name, leaves.get(name), shape)
    return {name: np.ascontiguousarray(leaves[name], np.float32) for name in shapes}


def _check(path: Path, name: str, leaf: np.ndarray | None, shape: tuple[int, ...]) -> None:
    if leaf is None:
        raise ValueError(f"{path.name} has no {name}, which the network needs in the shape {shape}")
    if leaf.shape != shape:
        raise ValueError(f"{path.name} has {name} of shape {leaf.shape}, and the network needs {shape}")
    if leaf.dtype.kind != "f":
        raise ValueError(f"{path.name} has {name} of {leaf.dtype}, and the network needs floating point")


def _npz(path: Path, names: Mapping[str, Any]) -> Weights:
    # The file is opened here because np.load forgets to close one whose end is missing.
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return {name: file[name] for name in names if name in file.files}


_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}


def _safetensors(path: Path, names: Mapping[str, Any]) -> Weights:
    """Eight bytes that say how long the header is; a header in JSON; the arrays, at offsets behind it."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header, buffer = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
    leaves = {}
    for name in names:
        if about := header.get(name):
            if about["dtype"] not in _SAFETENSORS:
                raise _Refused(f"has {name} of {about['dtype']}: save it as F32")
            start, end = about["data_offsets"]
            leaves[name] = np.frombuffer(buffer[start:end], _SAFETENSORS[about["dtype"]]).reshape(about["shape"])
    return leaves


class _Refused(Exception):
    """What a file is refused for, to stand behind its name."""


class _Tensor(NamedTuple):
    """Where a tensor lies: the type and key of its storage; offset, shape and strides in numbers."""

    storage: tuple[str, str]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_STORAGES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8"}


class _Unpickler(pickle.Unpickler):
    """Reads a `state_dict` whose tensors are places in storages.

    Every callable that a pickle gets is immutable or made anew, so that it cannot leave anything behind either.
    """

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, shape, strides)
            case "torch", _ if name in _STORAGES:
                return _STORAGES[name]
        raise _Refused(f"asks for {module}.{name}, which no table of weights needs, and was not read: {_CONVERT}")

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, *_ = pid
        return dtype, key


def _torch(path: Path, names: Mapping[str, Any]) -> Weights:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\3\4"
        file.seek(0)
        return _zipped(file, names) if zipped else _legacy(file, names)


def _zipped(file: BinaryIO, names: Mapping[str, Any]) -> Weights:
    """An archive: NAME/data.pkl has the table, NAME/data/KEY the numbers of a storage."""
    with zipfile.ZipFile(file) as archive:
        (table,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = table.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise _Refused(f"was saved by a big-endian machine: {_CONVERT}")
        tensors = _Unpickler(io.BytesIO(archive.read(table))).load()
        read = cache(lambda key: archive.read(f"{root}data/{key}"))
        return _arrays(tensors, names, lambda dtype, key: np.frombuffer(read(key), dtype))


def _legacy(file: BinaryIO, names: Mapping[str, Any]) -> Weights:
    """Five pickles: a magic number, a version, the machine, the table, the keys; then the storages of these keys."""
    magic, _, machine, tensors, keys = (_Unpickler(file).load() for _ in range(5))
    if magic != 0x1950A86A20F9469CFC6C:
        raise _Refused(f"is not a file of torch.save: {_CONVERT}")
    if not machine["little_endian"]:
        raise _Refused(f"was saved by a big-endian machine: {_CONVERT}")
    places = [tensor.storage for tensor in tensors.values() if isinstance(tensor, _Tensor)]
    dtypes = {key: np.dtype(dtype) for dtype, key in places}
    if not set(keys) <= set(dtypes):
        raise _Refused(f"holds more than one state_dict: {_CONVERT}")
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        storages[key] = file.read(count * dtypes[key].itemsize)
    return _arrays(tensors, names, lambda dtype, key: np.frombuffer(storages[key], dtype))


def _arrays(tensors: Mapping[str, Any], names: Mapping[str, Any], storage: Callable[[str, str], np.ndarray]) -> Weights:
    """Return views of the storages; nothing is copied before the shapes are checked."""
    leaves = {}
    for name in names:
        tensor = tensors.get(name)
        if tensor is None:
            continue
        if not isinstance(tensor, _Tensor):
            raise _Refused(f"has {name}, which is no tensor")
        numbers = storage(*tensor.storage)[tensor.offset :]
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
        backward = min((tensor.offset, *tensor.shape, *tensor.strides)) < 0
        if backward or (math.prod(tensor.shape) and last >= len(numbers)):
            raise _Refused(f"has {name}, which reaches beyond its storage")
        bytes_apart = [stride * numbers.itemsize for stride in tensor.strides]
        leaves[name] = np.lib.stride_tricks.as_strided(numbers, tensor.shape, bytes_apart, writeable=False)
    return leaves


_READERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Weights]] = {
    ".pth": _torch,
    ".pt": _torch,
    ".npz": _npz,
    ".safetensors": _safetensors,
}
