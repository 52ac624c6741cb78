"""Maps of words: where they are, and labels that can be read."""

import itertools
import warnings

import numpy as np
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from jaxgen.errors import UsageError
from jaxgen.plots import save
from jaxgen.word_plots import flat, word_map


def groups(count, of_each, width=20, seed=0):
    """Makes groups of words near to each other, of vectors of any length."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(count, width)), of_each, axis=0)
    vectors = centres + 0.1 * rng.normal(size=centres.shape)
    return vectors * np.exp(rng.normal(size=(len(vectors), 1)))


@pytest.mark.parametrize(("count", "of_each", "kind"), [(3, 3, "principal components"), (5, 8, "t-SNE")])
def test_near_words_are_near_on_the_map(count, of_each, kind):
    vectors = groups(count, of_each)
    places, told = flat(vectors)
    assert told == kind and places.shape == (len(vectors), 2)
    distances = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag(np.full(len(places), np.inf))
    nearest = distances.argmin(axis=1) // of_each
    np.testing.assert_array_equal(nearest, np.arange(len(vectors)) // of_each)
    np.testing.assert_array_equal(flat(vectors)[0], places)


@pytest.mark.parametrize("vectors", [np.ones((4, 3)), np.zeros((15, 1)), np.ones((15, 4))])
def test_words_in_one_place_are_drawn_all_the_same(vectors):
    figure = word_map([f"w{number}" for number in range(len(vectors))], vectors)
    assert len(figure.axes[0].texts) == len(vectors)


def test_labels_do_not_lie_on_each_other_and_stay_inside():
    words = [f"word {number}" for number in range(60)]
    figure = word_map(words, groups(6, 10))
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == sorted(words)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to their points
    shared = (Bbox.intersection(first, second) for first, second in itertools.combinations(boxes, 2))
    covered = sum(box.width * box.height for box in shared if box is not None)
    assert covered < 0.01 * sum(box.width * box.height for box in boxes)
    frame = figure.bbox
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_letters_that_begin_a_formula_are_letters():
    figure = word_map(["$x$", "a" * 90, "b\nc"], np.eye(3))
    assert {text.get_text() for text in figure.axes[0].texts} == {"$x$", "a" * 23 + "…", "b c"}


def test_letters_that_the_font_lacks_are_boxes_without_a_word(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = word_map(["東京", "\U0001f691", "हिन्दी"], np.eye(3))
        save({"map": figure}, tmp_path)


def test_too_few_and_too_many_words_are_refused():
    for count in (2, 401):
        with pytest.raises(UsageError, match=f"a map has 3 to 400 words; {count} are given"):
            word_map(["w"] * count, np.ones((count, 2)))
