"""Tests between runs: against a slow count, and on texts of which it is known which are better."""

import numpy as np
import pytest

from jaxgen.significance import RESAMPLES, of_means, paired_bootstrap
from jaxgen.text_scores import bleu

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def sentences(count, seed):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, 8)) for _ in range(count)]


def spoilt(texts, part, seed):
    """Gives texts of which a part of the words are others."""
    random = np.random.default_rng(seed)
    return [" ".join("x" if random.random() < part else word for word in text.split()) for text in texts]


def test_means_agree_with_a_slow_count():
    random = np.random.default_rng(0)
    first, other = random.random(30), random.random(30) + 0.1
    found = of_means({"a": first, "b": other})
    draws = np.random.default_rng(12345).choice(30, size=(RESAMPLES, 30))
    means = np.array([[np.mean([scores[i] for i in draw]) for scores in (first, other)] for draw in draws])
    distances = abs(means[:, 1] - means[:, 0])
    difference = other.mean() - first.mean()
    further = sum(distance - distances.mean() > abs(difference) for distance in distances)
    assert found["b"].difference == pytest.approx(difference)
    assert found["b"].p_value == (further + 1) / (RESAMPLES + 1)
    ordered = sorted(means[:, 0])
    assert found["a"].high - found["a"].low == pytest.approx(ordered[-26] - ordered[25])
    assert found["a"].low < first.mean() < found["a"].high
    assert found["a"].difference is None and found["a"].p_value is None


def test_bleu_tells_better_texts_from_luckier_ones():
    targets = sentences(60, 0)
    texts = {"a": spoilt(targets, 0.3, 1), "better": spoilt(targets, 0.1, 2), "same": spoilt(targets, 0.3, 3)}
    found = paired_bootstrap(texts, targets, "bleu")
    assert list(found) == ["bleu", "chrf"]
    for name, standings in found.items():
        assert standings["better"].p_value < 0.01 < 0.1 < standings["same"].p_value
        for run, standing in standings.items():
            assert standing.score == pytest.approx(bleu(texts[run], targets)[name])
            assert standing.low < standing.score < standing.high
        difference = standings["better"].score - standings["a"].score
        assert standings["better"].difference == pytest.approx(difference) and difference > 0


@pytest.mark.parametrize(("kind", "name"), [("rouge", "rougeL"), ("exact", "exact_accuracy")])
def test_scores_of_each_text_tell_it_too(kind, name):
    targets = sentences(60, 0)
    texts = {"a": spoilt(targets, 0.3, 1), "better": spoilt(targets, 0.02, 2)}
    standing = paired_bootstrap(texts, targets, kind)[name]["better"]
    assert standing.difference > 0 and standing.p_value < 0.01


@pytest.mark.parametrize("kind", ["bleu", "rouge", "exact"])
def test_no_difference_is_no_finding(kind):
    targets = sentences(20, 0)
    texts = spoilt(targets, 0.3, 1)
    for standings in paired_bootstrap({"a": texts, "b": list(texts)}, targets, kind).values():
        assert standings["b"].difference == 0 and standings["b"].p_value == 1
