"""A folder of pictures as a source: its splits, classes and shapes, and everything that can be wrong with it."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import folder, load, sources
from jaxgen.errors import JaxgenError, UsageError


def draw(path: Path, seed: int, shape: tuple[int, ...] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 60 grey pictures each."""
    for index in range(60):
        draw(tmp_path / "photos" / "cat" / f"{index}.png", index)
        draw(tmp_path / "photos" / "ant" / f"{index}.png", 1000 + index)
    return tmp_path / "photos"


def parts(path: Path) -> dict[str, set[bytes]]:
    return {
        split: {image.tobytes() for image in load(f"{path}/", split).arrays()["image"]}
        for split in folder.split_names(str(path))
    }


def refused(path: Path, split: str = "train", **options: object) -> str:
    with pytest.raises(JaxgenError) as raised:
        load(f"{path}/", split, **options)
    text = str(raised.value)
    assert "\n" not in text and text.isprintable()
    return text


def test_classes_are_the_sorted_folders(photos: Path) -> None:
    source = load(str(photos), "train")
    assert source.class_names == ("ant", "cat") and source.num_classes == 2
    assert source.name == str(photos) and source.shape == (8, 6, 1)
    whole = source.arrays()
    cats = {np.array(Image.open(photos / "cat" / f"{n}.png")).tobytes() for n in range(60)}
    assert whole["image"].dtype == np.uint8 and whole["label"].dtype == np.int32
    assert {image.tobytes() in cats for image, label in zip(*whole.values(), strict=True) if label == 1} == {
        True
    }
    some = source.gather([3, 0])
    np.testing.assert_array_equal(some["image"], whole["image"][[3, 0]])
    np.testing.assert_array_equal(some["label"], whole["label"][[3, 0]])


def test_a_tenth_is_held_out_by_its_bytes(photos: Path) -> None:
    before = parts(photos)
    assert before.keys() == {"train", "validation"}
    assert sum(map(len, before.values())) == 120 and 4 <= len(before["validation"]) <= 24
    assert not before["train"] & before["validation"]
    for index in range(200, 260):
        draw(photos / "cat" / f"{index}.png", index)
    after = parts(photos)
    assert before["train"] < after["train"] and before["validation"] <= after["validation"], "none has moved"


def test_equal_pictures_lie_on_one_side(photos: Path) -> None:
    for path in (photos / "cat").iterdir():
        shutil.copy(path, photos / "ant" / f"again_{path.name}")
        shutil.copy(path, photos / "cat" / f"again_{path.name}")
    both = parts(photos)
    assert not both["train"] & both["validation"]


def test_names_of_files_change_nothing(photos: Path) -> None:
    before = load(str(photos), "train")
    for path in list((photos / "cat").iterdir()):
        path.rename(path.with_name(f"x{hash(path.name)}.png"))
    after = load(str(photos), "train")
    assert before.version == after.version
    np.testing.assert_array_equal(before.arrays()["image"], after.arrays()["image"])
    draw(photos / "cat" / "one_more.png", 5000)
    assert load(str(photos), "train").version != before.version


@pytest.mark.parametrize("count", [2, 3])
def test_tiny_classes_are_on_both_sides(count: int, tmp_path: Path) -> None:
    for seed in range(20):
        root = tmp_path / str(seed)
        for index in range(count):
            draw(root / "a" / f"{index}.png", 100 * seed + index)
            draw(root / "b" / f"{index}.png", 100 * seed + 50 + index)
        for split in ("train", "validation"):
            assert set(load(f"{root}/", split).arrays()["label"].tolist()) == {0, 1}


def test_class_with_a_single_picture_is_trained_on(tmp_path: Path) -> None:
    for seed in range(20):
        root = tmp_path / str(seed)
        draw(root / "a" / "0.png", 100 * seed)
        draw(root / "b" / "0.png", 100 * seed + 50)
        draw(root / "b" / "1.png", 100 * seed + 51)
        assert load(f"{root}/", "train").arrays()["label"].tolist() == [0, 1]
        assert load(f"{root}/", "validation").arrays()["label"].tolist() == [1]


@pytest.mark.parametrize("validation", ["validation", "val", None])
def test_splits_in_folders(validation: str | None, photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    root.mkdir()
    shutil.move(photos, root / "train")
    for index in range(5):
        draw(root / "test" / "cat" / f"{index}.png", 3000 + index)
        if validation:
            draw(root / validation / "ant" / f"{index}.png", 4000 + index)
    found = parts(root)
    assert list(found) == ["train", "validation", "test"]
    assert len(found["test"]) == 5
    assert load(f"{root}/", "test").arrays()["label"].tolist() == [1] * 5
    if validation:
        assert (len(found["train"]), len(found["validation"])) == (120, 5)
    else:
        assert len(found["train"]) + len(found["validation"]) == 120 and len(found["validation"]) >= 4


@pytest.mark.parametrize("split", ["test", "train[:90%]", "train+validation"])
def test_unknown_split(split: str, photos: Path) -> None:
    text = refused(photos, split)
    assert f"photos has no split {split!r}; it has train (" in text and "validation (" in text
    assert ("parts such as train[:90%] are for prepared sets only" in text) == ("[" in split)


def test_what_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "mine", "emnist/letters"):
        (tmp_path / name).mkdir(parents=True)
    assert [folder.is_folder(name) for name in ("./x", "~/x", "/x", "x/", "mine", "../x", "digits/")] == [
        True
    ] * 7
    assert [folder.is_folder(name) for name in ("digits", "emnist/letters", "yours", "")] == [False] * 4
    assert len(load("digits", "test", data_dir=data_dir)) == 360, "a folder of that name doesn't hide the set"
    assert refused(tmp_path / "gone") == f"there is no folder {tmp_path / 'gone'}"
    (tmp_path / "file.zip").touch()
    with pytest.raises(UsageError, match=r"file\.zip is a file: --data takes a folder"):
        load("./file.zip", "train")


def test_size_and_channels(photos: Path, data_dir: Path) -> None:
    source = load(str(photos), "train", image_size=(5, 4), image_channels=3)
    assert source.shape == (5, 4, 3) and source.arrays()["image"].shape[1:] == (5, 4, 3)
    assert (source.image_size, source.image_channels) == ((5, 4), 3)
    stored = load("digits", "test[:3]", data_dir=data_dir, image_channels=3)
    assert stored.shape == (28, 28, 3) and stored.arrays()["image"].shape == (3, 28, 28, 3)
    assert (
        stored.arrays()["image"][..., 1]
        == load("digits", "test[:3]", data_dir=data_dir).arrays()["image"][..., 0]
    ).all()
    assert "give a height and a width from 1" in refused(photos, image_size=(0, 4))
    assert "1 channel (grey) or 3 (colour), not 2" in refused(photos, image_channels=2)


def test_large_sets_are_read_when_they_are_needed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = load(str(photos), "train")
    monkeypatch.setattr(folder, "_IN_MEMORY_BYTES", 100)
    read = load(str(photos), "train")
    assert isinstance(kept.reader, sources.InMemory) and not isinstance(read.reader, sources.InMemory)
    for key, values in kept.arrays().items():
        np.testing.assert_array_equal(read.arrays()[key], values)


def test_mixed_sizes(photos: Path) -> None:
    odd = draw(photos / "cat" / "odd.png", 1, (9, 7))
    text = refused(photos)
    assert f"{odd} is 9 x 7" in text and "is 8 x 6" in text and "--image-size" in text
    assert load(str(photos), "train", image_size=(8, 8)).shape == (8, 8, 1)


def test_mixed_channels(photos: Path) -> None:
    odd = draw(photos / "cat" / "odd.png", 1, (8, 6, 3))
    text = refused(photos)
    assert f"{odd} has colour" in text and " is grey" in text and "--image-channels 1" in text
    assert load(str(photos), "train", image_channels=3).shape == (8, 6, 3)


def test_photos_straight_from_the_camera_need_a_size(tmp_path: Path) -> None:
    for name in "ab":
        for level in (0, 255):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (1200, 1000), level).save(tmp_path / name / f"{level}.png")
    assert "are 1000 x 1200, too large to train on: resize them with --image-size" in refused(tmp_path)
    assert load(f"{tmp_path}/", "train", image_size=(10, 12)).shape == (10, 12, 1)


def test_16_bits(photos: Path) -> None:
    for path in (photos / "cat").iterdir():
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 257).save(path)
    assert len(parts(photos)["train"]) > 90
    assert load(str(photos), "train").shape == (8, 6, 1)


def test_folders_without_classes(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    draw(tmp_path / "a.png", 0)
    assert refused(tmp_path).startswith(f"{tmp_path} has no class folders: put the pictures")
    draw(tmp_path / "cat" / "a.png", 0)
    assert f"{tmp_path} has one class only, cat" in refused(tmp_path)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "Thumbs.db").touch()
    assert f"the class folder {tmp_path / 'dog'} is empty" in refused(tmp_path)
    shutil.copy(tmp_path / "cat" / "a.png", tmp_path / "dog")
    assert "has too few pictures: none is left for validation" in refused(tmp_path)


def test_folders_of_splits_that_do_not_fit(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/c"):
        draw(tmp_path / name / "0.png", hash(name) % 1000)
    assert "has the class c in test, but not in train" in refused(tmp_path)
    shutil.rmtree(tmp_path / "test")
    draw(tmp_path / "dog" / "0.png", 1)
    assert f"{tmp_path / 'dog'} lies beside train" in refused(tmp_path)
    shutil.rmtree(tmp_path / "dog")
    draw(tmp_path / "val" / "a" / "0.png", 1)
    draw(tmp_path / "validation" / "a" / "0.png", 1)
    assert "has both validation and val" in refused(tmp_path)


def test_bad_files_are_named_at_the_start(photos: Path) -> None:
    (photos / "cat" / ".hidden").write_text("no picture")
    (photos / "cat" / "Thumbs.db").write_text("no picture")
    assert len(load(str(photos), "train")) > 90
    encoded = (photos / "cat" / "0.png").read_bytes()
    for number in range(9):
        (photos / "cat" / f"cut{number}.png").write_bytes(encoded[: -20 - number])
    (photos / "ant" / "line\nfeed.txt").write_text("no picture")
    assert refused(photos).startswith(
        rf"{photos}/ant/line\nfeed.txt is no PNG, JPEG, BMP or GIF picture: mend"
    )
    (photos / "ant" / "line\nfeed.txt").unlink()
    text = refused(photos)
    assert text.count("is damaged or cut off") == 3, "not all are told"
    assert re.search(rf"; and [456] more files of {photos} can't be used: mend or remove", text)


def test_classes_with_odd_names(tmp_path: Path) -> None:
    names = [b"-v", b"new\nline", b"\xff", "😀".encode(), b"two words"]
    for number, name in enumerate(names):
        for index in range(3):
            draw(tmp_path / os.fsdecode(name) / f"{index}.png", 10 * number + index)
    source = load(f"{tmp_path}/", "train")
    assert source.class_names == ("-v", r"new\nline", "two words", r"\xff", "😀")
    assert all(name.isprintable() for name in source.class_names)
