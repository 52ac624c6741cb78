"""Moving digits: digits that stay inside of their frames and bounce, none of them in two splits, always the same."""

import shutil

import jax
import numpy as np
import pytest

from jaxgen.data import load
from jaxgen.data.moving import MovingReader, draw_motions, fly
from jaxgen.errors import UsageError


def digits_of(source):
    return source.reader.digits.reshape(-1, 28 * 28)


def test_sets(data_dir):
    sizes = {"train": 10_000, "validation": 1_000, "test": 1_000}
    found = {}
    for split, size in sizes.items():
        source = load("moving_digits/digits", split, data_dir=data_dir)
        assert len(source) == size and source.shape == (20, 64, 64, 1)
        found[split] = {digit.tobytes() for digit in digits_of(source)}
        scans = load("digits", "test" if split == "test" else "train", data_dir=data_dir).arrays()["image"]
        assert found[split] <= {scan.tobytes() for scan in scans}
    train, validation, test = found.values()
    assert len(train) > 1200 and len(validation) > 140 and len(test) > 350
    assert not (train & validation or train & test or validation & test), "no digit is in two splits"


def test_sequences_are_always_the_same(data_dir, tmp_path):
    again = load("moving_digits/digits", "test", data_dir=tmp_path).gather(range(9))["video"]
    once = load("moving_digits/digits", "test", data_dir=data_dir)
    np.testing.assert_array_equal(once.gather(range(9))["video"], again)
    assert len(np.unique(once.gather(range(200))["video"], axis=0)) == 200
    part = load("moving_digits/digits", "test[5:]", data_dir=data_dir)
    np.testing.assert_array_equal(part[0]["video"], again[5])


def test_digits_fly_straight_and_bounce():
    """Beside a simulation, step by step, that turns a digit's direction wherever it meets a wall."""
    _, start, velocity = draw_motions(10, 200, seed=3)
    room, num_frames = (36, 12), 60
    places = fly(start, velocity, room, num_frames)
    assert places.min() == 0 and places[..., 0].max() == 36 and places[..., 1].max() == 12
    at, way, bounces = start.astype(float), velocity.astype(float), 0
    for frame in range(num_frames):
        np.testing.assert_allclose(places[frame], at * np.array(room), atol=0.5 + 1e-6)
        at = at + way
        beyond = (at < 0) | (at > 1)
        at = np.where(at < 0, -at, np.where(at > 1, 2 - at, at))
        way = np.where(beyond, -way, way)
        bounces += beyond.sum()
    assert bounces > 1000
    speed = np.linalg.norm(velocity, axis=-1)
    assert speed.min() >= 0.05 and speed.max() <= 0.15 and abs(velocity.mean()) < 0.01


def test_frames_show_both_digits_whole(data_dir):
    source = load("moving_digits/digits", "test", data_dir=data_dir)
    video, reader = source.gather(range(50))["video"], source.reader
    for sequence, frame in np.ndindex(50, 20):
        expected = np.zeros((64, 64), np.uint8)
        places = reader.places[sequence, frame].tolist()
        for (row, column), digit in zip(places, reader.digits[sequence], strict=True):
            layer = np.pad(digit, ((row, 64 - 28 - row), (column, 64 - 28 - column)))
            expected = np.maximum(expected, layer)
        np.testing.assert_array_equal(video[sequence, frame, ..., 0], expected)
    assert reader.places.max() == 36


def test_frames_that_are_drawn_on_a_device_are_the_same(data_dir):
    for name in ("moving_digits/digits", "moving_digits/digits/28/3", "moving_digits/digits/200/2"):
        source = load(name, "test", data_dir=data_dir)
        rows = np.array([3, 999, 3, 0])
        drawn = jax.jit(source.gather_on_device)(source.device_arrays(), rows)
        assert drawn.keys() == {"video"} and drawn["video"].dtype == np.uint8
        np.testing.assert_array_equal(drawn["video"], source.gather(rows)["video"])
    # Digits of another form, as of one's own.
    digits = np.random.default_rng(0).integers(0, 256, (3, 1, 5, 8), np.uint8)
    places = np.random.default_rng(1).integers(0, 5, (3, 4, 1, 2), np.uint8)
    reader = MovingReader(digits, places, 12)
    drawn = jax.jit(reader.gather_on_device)(reader.device_arrays(), np.arange(3))
    np.testing.assert_array_equal(drawn["video"], reader(np.arange(3))["video"])


def test_digits_are_taken_from_where_they_lie(data_dir, tmp_path, monkeypatch):
    """Where nothing may be written, the set goes to the cache, and the digits stay where they are."""
    load("digits", "test", data_dir=data_dir)
    shutil.copytree(data_dir / "digits", tmp_path / "sets" / "digits")
    (tmp_path / "sets").chmod(0o555)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(load("moving_digits/digits", "test")) == 1_000
    assert [path.name for path in (tmp_path / "cache" / "jaxgen").iterdir()] == ["moving_digits"]
    (tmp_path / "sets").chmod(0o755)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("moving_digits/digits/27/20", "test", r"digits of 28 x 28 don't fly about in frames of 27 x 27"),
        ("moving_digits/digits/284/20", "test", r"take frames of 28 to 283"),
        ("moving_digits/digits/64/1", "test", r"1 frames a sequence are too few"),
        ("moving_digits/digit", "test", r"unknown set of digits 'digit'; did you mean digits"),
        ("moving_digits/digits/64/20/3", "test", r"looks like moving_digits/mnist/64/20"),
        ("moving_digits/digits", "tset", r"has no split 'tset'; it has train \(10000\)"),
    ],
)
def test_what_can_not_be_is_one_line(name, split, message, data_dir):
    with pytest.raises(UsageError, match=message) as raised:
        load(name, split, data_dir=data_dir)
    assert "\n" not in str(raised.value)
