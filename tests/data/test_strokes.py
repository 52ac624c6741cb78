"""Light strokes on a dark ground: recognised in training data, and found in pictures of digits on paper."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import from_arrays, load
from jaxgen.data.strokes import Strokes, as_strokes, find_strokes

MNIST = Strokes(background=0, extent=0.7143, width=0.0823)


@pytest.fixture(scope="module")
def digits(data_dir: Path) -> np.ndarray:
    return load("digits", "test[:40]", data_dir=data_dir).arrays()["image"][..., 0]


def on_paper(
    digit: np.ndarray,
    rng: np.random.Generator,
    *,
    enlargement: float = 7.0,
    shade: float = 0.2,
    noise: float = 6.0,
) -> np.ndarray:
    """Draws a digit in dark ink somewhere on a larger, greyish, shaded, noisy sheet."""
    side = round(28 * enlargement)
    ink = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)) / 255
    sheet = np.zeros((round(1.5 * side), round(1.8 * side)))
    top, left = rng.integers(0, sheet.shape[0] - side), rng.integers(0, sheet.shape[1] - side)
    sheet[top : top + side, left : left + side] = ink
    levels = (225 - 175 * sheet) * np.linspace(1, 1 - shade, sheet.shape[1])
    return (levels + rng.normal(0, noise, sheet.shape)).clip(0, 255).astype(np.uint8)


def test_found_in_training_data(data_dir: Path) -> None:
    found = find_strokes(load("digits", "train", data_dir=data_dir))
    assert found is not None and found.background == 0
    assert found.extent == pytest.approx(20 / 28, abs=0.04)
    assert 2 < 28 * found.width < 6
    resized = find_strokes(load("digits", "train", data_dir=data_dir, image_size=(20, 20)))
    assert resized is not None and resized.extent is None, "whole pictures were resized: so shall others be"


def test_not_found_elsewhere(digits: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (50, 28, 28), np.uint8)
    colour = np.repeat(digits[..., None], 3, -1)
    for images in (255 - digits, noise, colour, np.zeros((50, 28, 28), np.uint8), digits / np.float32(255)):
        assert find_strokes(from_arrays({"image": images, "label": np.zeros(len(images), int)})) is None
    off_centre = np.pad(digits, ((0, 0), (0, 28), (0, 28)))
    found = find_strokes(from_arrays({"image": off_centre}))
    assert found is not None and found.extent is None


def test_only_dark_on_light_is_inverted(digits: np.ndarray) -> None:
    for digit in digits:
        same, inverted = as_strokes(digit, (28, 28), MNIST)
        assert not inverted and (same == digit).all(), "of the model's size it stays as it is"
        same, inverted = as_strokes(255 - digit, (28, 28), MNIST)
        assert inverted and (same == digit).all()
        small = np.asarray(Image.fromarray(digit).resize((60, 60)))
        assert not as_strokes(small, (28, 28), MNIST)[1]


@pytest.mark.parametrize(
    "change", [{}, {"enlargement": 2.0}, {"enlargement": 30.0}, {"shade": 0.5}, {"noise": 20.0}]
)
def test_digits_on_paper_look_like_the_set(change: dict[str, float], digits: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    for digit in digits[:10]:
        drawn, inverted = as_strokes(on_paper(digit, rng, **change), (28, 28), MNIST)
        assert inverted and drawn.shape == (28, 28)
        rows, columns = np.nonzero(drawn > 64)
        assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 22
        centre = [(drawn.sum(axis) * (np.arange(28) + 0.5)).sum() / drawn.sum() for axis in (1, 0)]
        assert np.abs(np.array(centre) - 14).max() < 1
        assert (drawn == 0).mean() > 0.35, "the ground is even"
        # The digit itself, drawn in the same place, is much the same picture.
        expected, _ = as_strokes(np.pad(digit, 3), (28, 28), MNIST)
        assert np.corrcoef(drawn.ravel(), expected.ravel())[0, 1] > 0.85


def test_thin_strokes_are_made_as_wide_as_the_sets() -> None:
    page = np.full((400, 300), 240, np.uint8)
    page[100:300, 150:153] = 30
    drawn, _ = as_strokes(page, (28, 28), MNIST)
    assert 1.5 < drawn[14].astype(int).sum() / 255 < 3.5
    assert drawn.max() == 255


def test_empty_page_is_resized() -> None:
    rng = np.random.default_rng(0)
    page = (200 + rng.normal(0, 4, (300, 200))).astype(np.uint8)
    drawn, inverted = as_strokes(page, (28, 28), MNIST)
    assert not inverted and drawn.shape == (28, 28)
    assert abs(drawn.astype(int) - 200).max() < 20


def test_other_sizes_keep_the_proportions(digits: np.ndarray) -> None:
    drawn, _ = as_strokes(on_paper(digits[0], np.random.default_rng(0)), (56, 70), MNIST)
    rows, columns = np.nonzero(drawn > 64)
    assert np.ptp(rows) + 1 <= 42 and np.ptp(columns) + 1 <= 52
    assert max((np.ptp(rows) + 1) / 40, (np.ptp(columns) + 1) / 50) > 0.9
