"""Images by class, for tasks that are learned from a few of them: distinct ones are drawn inside the compiled step.

A meta-learner is judged on classes that it was not trained on. `HELD_OUT` says for each set which they are, once
and for all, and `divide` keeps them apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int, Int32, UInt8

from gan_jax.base import Key
from gan_jax.data.images import Images, Split, to_float

HELD_OUT: Mapping[str, tuple[int, ...] | None] = {
    "digits": (7, 8, 9),
    "mnist": (7, 8, 9),
    # The kin of coats and sneakers are trained on; nothing that is trained on looks like a bag.
    "fashion_mnist": (4, 7, 8),
    # All 659 characters of the test split: they are of other alphabets than the 964 of the train split.
    "omniglot": None,
}


class Grouped(NamedTuple):
    """The images of G classes, class after class; the largest has M.

    name: of the split that they come from.
    label: what the set calls each class.
    table: where each class's images lie, and -1 past the last of a class of fewer than M.
    """

    name: str
    label: Int32[np.ndarray, " G"]
    image: UInt8[np.ndarray, "N H W C"]
    table: Int32[np.ndarray, "G M"]


class Division(NamedTuple):
    """What is meta-trained on, and what is only ever adapted to."""

    train: Grouped
    held_out: Grouped


def group(split: Split, classes: Iterable[int] | None = None) -> Grouped:
    """Return the images of these classes in this order, by default of all classes by their labels.

    Raises:
        ValueError: the split is unlabelled, no class is asked for, one is asked for twice, or one has no images.
    """
    label = _labels(split)
    known = np.unique(label)
    wanted = known.tolist() if classes is None else [int(name) for name in classes]
    if not wanted:
        raise ValueError(f"no classes of {split.name!r} are asked for: tasks need at least 1")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"classes {wanted} name one twice: each makes tasks of its own, so name it once")
    for name in wanted:
        if name not in known:
            there = f"its {len(known)} lie in {known[0]} ... {known[-1]}" if len(known) else "it has no images"
            raise ValueError(f"{split.name!r} has no class {name}: {there}")
    return _laid_out(split.name, wanted, split.image, [np.flatnonzero(label == name) for name in wanted])


def divide(images: Images, held_out: Sequence[int] | None = None) -> Division:
    """Return the train split's images of the classes that are trained on, and the test split's of those held out.

    Which are held out is fixed (`HELD_OUT`) unless `held_out` says otherwise. An image of a class held out that lies
    in the train split is in neither part, so no extractor that was trained on that split has seen what is judged.

    Raises:
        ValueError: the set is unlabelled, has no classes that are fixed or lacks one of them, or none is left to train.
    """
    base = images.name.partition(":")[0]  # "mnist:3.0.1" is mnist
    if held_out is None and base not in HELD_OUT:
        raise ValueError(
            f"which classes of {images.name!r} are held out is not fixed, only for {', '.join(HELD_OUT)}: give held_out"
        )
    test = group(images.test, HELD_OUT[base] if held_out is None else held_out)
    left = np.setdiff1d(_labels(images.train), test.label)
    if not len(left):
        raise ValueError(f"all classes of {images.name!r} are held out: leave at least 1 to train on")
    return Division(group(images.train, left), test)


def spread(grouped: Grouped, count: int) -> Grouped:
    """Return `count` of the classes, evenly spaced in their order: a choice that no seed changes.

    Raises:
        ValueError: `count` is less than 1 or more than there are.
    """
    total = len(grouped.label)
    if not 1 <= count <= total:
        raise ValueError(f"{count} classes of the {total} of {grouped.name!r}: take between 1 and {total}")
    rows = np.arange(count) * total // count
    where = [row[row >= 0] for row in grouped.table[rows]]
    return _laid_out(grouped.name, grouped.label[rows], grouped.image, where)


def require(grouped: Grouped, count: int) -> None:
    """Refuse classes of which one has fewer than `count` images.

    Raises:
        ValueError: the smallest does not suffice.
    """
    sizes = np.sum(grouped.table >= 0, axis=1)
    least = int(np.argmin(sizes))
    if sizes[least] < count:
        few = f"class {grouped.label[least]} of {grouped.name!r} has {sizes[least]} images and a task takes {count}"
        raise ValueError(f"{few}, all different: ask for at most {sizes[least]} shots and queries, or leave it out")


def on_device(grouped: Grouped) -> dict[str, Array]:
    """Return what `examples` draws from, on the device: {"image": uint8 [N, H, W, C], "table": int32 [G, M]}."""
    return {"image": jnp.asarray(grouped.image), "table": jnp.asarray(grouped.table)}


def examples(
    arrays: Mapping[str, Array], key: Key, row: Int[Array, ""] | int, count: int
) -> Float32[Array, "count H W C"]:
    """Return `count` different images of the class in a row of the table, in random order, in [-1, 1].

    Each such order is as likely as any other. `arrays` are those of `on_device`. That the class has as many is for
    the caller to `require`: its size is not known inside a compiled function.
    """
    places = arrays["table"][row]
    chosen = jax.random.choice(key, places, (count,), replace=False, p=places >= 0)
    return to_float(arrays["image"][chosen])


def _laid_out(name: str, label: Sequence[int] | np.ndarray, image: np.ndarray, where: Sequence[np.ndarray]) -> Grouped:
    """Copy each class's images, which lie at these places, one class after the other."""
    sizes = np.array([len(places) for places in where])
    table = np.full((len(where), sizes.max()), -1, np.int32)
    table[np.arange(sizes.max())[None] < sizes[:, None]] = np.arange(sizes.sum())
    return Grouped(name, np.asarray(label, np.int32), image[np.concatenate(where)], table)


def _labels(split: Split) -> Int32[np.ndarray, " N"]:
    if split.label is None:
        raise ValueError(f"the split {split.name!r} is unlabelled: tasks are made of classes, so give a labelled set")
    return split.label
