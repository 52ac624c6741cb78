"""Sources: what they give, and how each thing that can be wrong is told."""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgen.data import from_arrays, load
from jaxgen.errors import JaxgenError, UsageError


def message(raised: pytest.ExceptionInfo[JaxgenError]) -> str:
    text = str(raised.value)
    assert "\n" not in text and len(text) < 600
    return text


def test_stored_source(data_dir: Path) -> None:
    source = load("digits", "test", data_dir=data_dir)
    assert len(source) == 360 and source.num_classes == 10 and source.class_names == tuple("0123456789")
    assert (source.name, source.split, source.shape) == ("digits", "test", (28, 28, 1)) and source.version
    whole = source.arrays()
    assert whole["image"].dtype == np.uint8 and whole["image"].shape == (360, 28, 28, 1)
    assert whole["label"].dtype == np.int32 and whole["label"].shape == (360,)
    some = source.gather(np.array([5, 0, 5, 359]))
    for key, values in some.items():
        np.testing.assert_array_equal(values, whole[key][[5, 0, 5, 359]])
    np.testing.assert_array_equal(source[-1]["image"], whole["image"][359])
    assert sum(1 for _ in source) == 360, "iteration ends with the last example"
    for wrong in ([360], [-1], []):
        with pytest.raises(IndexError):
            source.gather(wrong)


def test_small_splits_are_held_and_large_ones_read_on(data_dir: Path) -> None:
    source = load("digits", "test", data_dir=data_dir)
    held = source.held()
    assert (held.version, held.shape, held.class_names) == (source.version, source.shape, source.class_names)
    for name, values in source.arrays().items():
        np.testing.assert_array_equal(held.gather(range(len(source)))[name], values)
    assert held.arrays()["image"] is held.held().arrays()["image"], "nothing is read again"
    assert source.held(most_bytes=10) is source


def test_splits_in_tfds_notation(data_dir: Path) -> None:
    whole = load("digits", "train", data_dir=data_dir).arrays()["label"]
    parts = [
        load("digits", f"train[{part}]", data_dir=data_dir).arrays()["label"] for part in (":90%", "90%:")
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(load("digits", "train[1400:]", data_dir=data_dir)) == 37
    assert len(load("digits", "train+test", data_dir=data_dir)) == 1797


def test_images_are_resized(data_dir: Path) -> None:
    source = load("digits", "test[:3]", data_dir=data_dir, image_size=[14, 12])
    assert source.image_size == (14, 12) and source.shape == (14, 12, 1)
    assert source.arrays()["image"].shape == (3, 14, 12, 1)


@pytest.mark.parametrize("split", ["tests", "train[:90%", "train[5000:]", "train[:0]", "train[9:3]", ""])
def test_unknown_split(split: str, data_dir: Path) -> None:
    with pytest.raises(UsageError) as raised:
        load("digits", split, data_dir=data_dir)
    assert f"digits has no split {split!r}; it has train (1437), test (360), first1437" in message(raised)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fashon_mnist", "unknown data set or folder 'fashon_mnist'; did you mean fashion_mnist"),
        ("digit", "unknown data set or folder 'digit'; did you mean digits"),
        ("qqqqqqqq", r"unknown data set or folder 'qqqqqqqq'; known: \w+, \w+"),
        ("digits/small", "digits has no configurations, so there is no digits/small: leave out /small"),
        ("emnist/leters", "unknown configuration of emnist 'leters'; did you mean letters"),
        ("two words", "'two words' is no name of a data set"),
        ("../digits", r"there is no folder .*/\.\./digits"),
        ("", "is no name of a data set"),
        ("mnist:9.9.9", "mnist cannot be loaded at version 9.9.9, only: 3.0.1"),
        ("coco", "can't open the data set coco: its builder needs TensorFlow"),
        ("imdb_reviews", r"imdb_reviews is no image-classification set, it has text \(Text\), label"),
        ("celeb_a", r"celeb_a is no image-classification set, it has image \(Image\), landmarks"),
    ],
)
def test_unknown_set(name: str, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(JaxgenError) as raised:
        load(name, "train", data_dir=tmp_path / "new")
    assert re.search(told, message(raised))
    assert not (tmp_path / "new").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["mnist", "emnist/letters", "cifar10"])
def test_no_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there
    started = time.monotonic()
    with pytest.raises(JaxgenError) as raised:
        load(name, "train", data_dir=tmp_path / "new")
    assert time.monotonic() - started < 5
    told = message(raised)
    assert told.startswith(
        f"{name} is not prepared in {tmp_path / 'new'} and can't be downloaded (no network?)"
    )
    assert "--data digits" in told and f"`jaxgen data prepare {name}" in told
    assert ("--from DIR" in told) == (name != "cifar10")
    assert not (tmp_path / "new").exists(), "nothing is left behind"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_unwritable_directory(name: str, tmp_path: Path) -> None:
    """Its owner has taken the permission away; root, who could write there all the same, respects it."""
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(JaxgenError) as raised:
            load(name, "train", data_dir=tmp_path)
        assert list(tmp_path.iterdir()) == []
    finally:
        tmp_path.chmod(0o755)
    told = f"{name} is not prepared in {tmp_path}, and nothing can be written there (Permission denied)"
    assert message(raised).startswith(told)
    (tmp_path / "file").touch()
    with pytest.raises(JaxgenError, match="nothing can be written there") as raised:
        load(name, "train", data_dir=tmp_path / "file")
    assert "--data-dir" in message(raised)


def copied(data_dir: Path, to: Path) -> Path:
    load("digits", "test", data_dir=data_dir)
    shutil.copytree(data_dir / "digits", to / "digits")
    (version,) = (to / "digits").iterdir()
    return version


def overwrite(path: Path, size: int, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(at)
        file.write(content)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "altered", "missing"])
def test_damaged_records(damage: str, data_dir: Path, tmp_path: Path) -> None:
    directory = copied(data_dir, tmp_path)
    (path,) = directory.glob("digits-test*")
    size = path.stat().st_size
    match damage:
        case "truncated":
            overwrite(path, size * 2 // 3, 0, b"")
        case "emptied":
            overwrite(path, 0, 0, b"")
        case "altered":
            overwrite(path, size, 65536 + 5000, b"\xff" * 64)
        case "missing":
            path.unlink()
    with pytest.raises(JaxgenError) as raised:
        load("digits", "test", data_dir=tmp_path).arrays()
    told = message(raised)
    assert f"the data set in {directory} is damaged (" in told and "remove this directory" in told


def test_damaged_description(data_dir: Path, tmp_path: Path) -> None:
    directory = copied(data_dir, tmp_path)
    (directory / "dataset_info.json").write_text("{")
    with pytest.raises(JaxgenError) as raised:
        load("digits", "test", data_dir=tmp_path)
    assert f"the data set digits in {tmp_path} is damaged (Failed to load JSON" in message(raised)
    (directory / "dataset_info.json").unlink()
    with pytest.raises(JaxgenError) as raised:
        load("digits", "test", data_dir=tmp_path)
    assert f"{directory} holds no complete data set: remove it" in message(raised)


def test_set_in_another_format(data_dir: Path, tmp_path: Path) -> None:
    directory = copied(data_dir, tmp_path)
    for path in directory.iterdir():
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    information = directory / "dataset_info.json"
    information.write_text(information.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(JaxgenError, match="without TensorFlow; prepare it as array_record") as raised:
        load("digits", "test", data_dir=tmp_path)
    message(raised)


def test_arrays_in_memory() -> None:
    source = from_arrays(
        {"image": np.zeros((4, 5, 6), np.uint8), "label": np.array([0, 2, 1, 0])}, split="test"
    )
    assert source.shape == (5, 6, 1) and source.num_classes == 3 and len(source) == 4
    assert source[1]["image"].shape == (5, 6, 1) and source[1]["label"] == 2
    assert source.arrays()["label"].dtype == np.int32
    rows = from_arrays({"features": [[1.0, 2.0], [3.0, 4.0]], "target": [0.5, 1.5]})
    assert rows.shape == (2,) and rows.num_classes == 0
    assert {value.dtype for value in rows.arrays().values()} == {np.dtype(np.float32)}
    assert rows.gather([1, 0])["target"].tolist() == [1.5, 0.5]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({}, "holds no examples"),
        ({"image": np.zeros((0, 2, 2, 1), np.uint8), "label": np.zeros(0, np.int32)}, "holds no examples"),
        ({"features": np.float32(1.0)}, "holds no examples"),
        ({"image": np.zeros((3, 2, 2, 1)), "label": np.zeros(2, np.int32)}, "lengths: image 3, label 2"),
        ({"label": np.array([0.5, 1.0])}, "labels of the train data must be integers from 0 on"),
        ({"label": np.array([-1, 1])}, "labels of the train data must be integers from 0 on"),
        ({"features": [[1.0], [1.0, 2.0]]}, "'features' of the train data is no array of numbers"),
        ({"features": ["a", "b"]}, "'features' of the train data is no array of numbers"),
    ],
)
def test_arrays_that_are_no_data(arrays: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        from_arrays(arrays)
    assert told in message(raised)


@pytest.mark.shared_data
def test_mnist(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(shared_data / "tfds"))
    train, test = load("mnist", "train"), load("mnist", "test")
    assert (len(train), len(test)) == (60_000, 10_000) and train.version == "3.0.1"
    labels = train.arrays()["label"]
    assert labels[:10].tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    # What tfds decodes by Pillow, one by one, is what is decoded here all at once, and a few at a time.
    import tensorflow_datasets as tfds

    reference = tfds.builder("mnist", data_dir=shared_data / "tfds").as_data_source(split="test")
    rows = np.arange(0, 10_000, 97)
    expected = np.stack([reference[int(row)]["image"] for row in rows])
    np.testing.assert_array_equal(test.arrays()["image"][rows], expected)
    np.testing.assert_array_equal(test.gather(rows)["image"], expected)


@pytest.mark.shared_data
def test_set_without_images(shared_data: Path) -> None:
    with pytest.raises(UsageError, match=r"no image-classification set, it has text \(Text\)") as raised:
        load("tiny_shakespeare", "train", data_dir=shared_data / "tfds")
    message(raised)


def test_default_directory_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedded sets go to a cache then; os.environ decides where both are."""
    (tmp_path / "sets").mkdir(mode=0o555)
    monkeypatch.setitem(os.environ, "TFDS_DATA_DIR", str(tmp_path / "sets"))
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(load("diabetes", "test")) == 89
    assert list((tmp_path / "sets").iterdir()) == []
    assert (tmp_path / "cache" / "jaxgen" / "diabetes").is_dir()
