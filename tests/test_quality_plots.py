"""Quality by length: what is in the bins, and what is drawn of them."""

import itertools

import numpy as np
import pytest

from jaxgen.quality_plots import length_bins, quality_by_length
from jaxgen.text_scores import exact
from jaxgen.written_pairs import WrittenPairs


def pairs(lengths, word="w ", seed=0):
    random = np.random.default_rng(seed)
    sources = tuple((word * length).strip() for length in lengths)
    hypotheses = tuple(text if random.random() < 0.6 else "?" for text in sources)
    return WrittenPairs(sources, hypotheses, sources)


@pytest.mark.parametrize("seed", range(6))
def test_bins_hold_all_texts_once_in_order_and_enough_each(seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, (3, 12, 40)[seed % 3], size=(90, 400)[seed % 2])
    bins = length_bins(lengths)
    places = np.concatenate([found.places for found in bins])
    assert sorted(places) == list(range(len(lengths)))
    assert 2 <= len(bins) <= 8 and all(len(found.places) >= 20 for found in bins)
    for found, after in itertools.pairwise(bins):
        assert found.shortest <= found.longest < after.shortest
    for found in bins:
        inside = lengths[found.places]
        assert (inside.min(), inside.max()) == (found.shortest, found.longest)


def test_few_of_the_longest_go_with_those_before():
    lengths = np.array([1] * 30 + [2] * 30 + [9] * 5)
    assert [(found.shortest, found.longest) for found in length_bins(lengths)] == [(1, 1), (2, 9)]
    assert length_bins(lengths[:10]) == []


def test_each_point_is_the_score_of_its_texts_alone():
    lengths = np.repeat([1, 2, 3, 5], 25)
    runs = {"a": pairs(lengths), "b": pairs(lengths, seed=1)}
    figure = quality_by_length(runs, "exact", "test")
    above, below = figure.axes
    for line, run in zip(above.lines, runs.values(), strict=True):
        wanted = [
            exact(run.hypotheses[start : start + 25], run.targets[start : start + 25])["exact_accuracy"]
            for start in range(0, 100, 25)
        ]
        np.testing.assert_array_equal(line.get_ydata(), wanted)
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 5])
    assert [text.get_text() for text in below.texts] == ["25"] * 4
    assert below.get_xlabel() == "words of the source" and above.get_xscale() == "linear"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_single_words_are_told_by_their_letters():
    figure = quality_by_length({"a": pairs(np.repeat([1, 4], 30), word="w")}, "exact", "test")
    assert figure.axes[1].get_xlabel() == "characters of the source" and not figure.legends


def test_far_longer_texts_get_an_axis_on_which_the_others_are_not_squeezed():
    figure = quality_by_length({"a": pairs(np.repeat([1, 2, 4, 90], 30))}, "exact", "test")
    assert figure.axes[0].get_xscale() == "log"


def test_too_few_texts_are_not_drawn():
    assert quality_by_length({"a": pairs([1, 2, 3])}, "exact", "test") is None
    assert quality_by_length({"a": pairs([2] * 90)}, "exact", "test") is None
