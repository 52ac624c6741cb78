"""Blocks of words: what is kept, what is near what, and what negatives are drawn."""

from dataclasses import replace

import numpy as np
import pytest

from jaxgen.data import corpus
from jaxgen.data.corpus import encode_corpus
from jaxgen.data.orders import order_of
from jaxgen.data.pipeline import read_batch
from jaxgen.data.word_blocks import AliasTable, BlockFormat, WordBlocks, keep_probabilities, word_source
from jaxgen.data.word_parts import NgramFormat, WordParts
from jaxgen.embeddings.ngrams import fnv1a, ngrams
from jaxgen.errors import JaxgenError, UsageError


def made(lines, min_count=1):
    return encode_corpus("lines", lambda: iter(lines), min_count)


@pytest.fixture
def distinct(monkeypatch):
    """A corpus in many pieces, in which every word is another one: it tells where it stood."""
    monkeypatch.setattr(corpus, "_PIECE", 20)
    random = np.random.default_rng(0)
    lengths = random.integers(1, 14, 40)
    words = iter(f"{number:04}" for number in range(lengths.sum()))
    lines = [[next(words) for _ in range(length)] for length in lengths]
    return made(lines), lines


def pairs_of(found, given, blocks):
    """The pairs of words, a word and its context, that blocks have by their masks."""
    numbers = found.vocabulary.words
    pairs = []
    for words, left, right in zip(blocks["words"], blocks["left"], blocks["right"], strict=True):
        for group, lefts, rights in zip(words, left, right, strict=True):
            for place, (before, after) in enumerate(zip(lefts.tolist(), rights.tolist(), strict=True)):
                own = place + given.window
                near = [*range(own - before, own), *range(own + 1, own + after + 1)]
                pairs += [(int(numbers[group[own]]), int(numbers[group[other]])) for other in near]
    return pairs


def test_pairs_are_those_of_a_slow_loop(distinct):
    found, lines = distinct
    assert len(found.bounds) > 8
    given = BlockFormat(window=1, subsample=0.0, block_size=12, group_size=4, negatives_per_group=2)
    reader = WordBlocks(found, given, seed=3)
    pairs = pairs_of(found, given, reader(np.arange(len(reader))))
    expected = [
        (int(line[i]), int(line[j]))
        for line in lines
        for i in range(len(line))
        for j in (i - 1, i + 1)
        if 0 <= j < len(line)
    ]
    assert pairs == expected


def test_windows_are_drawn_from_one_to_the_widest_and_end_with_sentences(distinct):
    found, lines = distinct
    given = BlockFormat(window=4, subsample=0.0, block_size=12, group_size=4, negatives_per_group=2)
    reader = WordBlocks(found, given, seed=3)
    everything = [pairs_of(found, given, reader.of_epoch(e)(np.arange(len(reader)))) for e in range(60)]
    sentence = {int(word): number for number, line in enumerate(lines) for word in line}
    assert all(sentence[a] == sentence[b] for pairs in everything for a, b in pairs)
    counts = dict.fromkeys(range(1, 5), 0)
    for pairs in everything:
        assert len(set(pairs)) == len(pairs)
        for a, b in pairs:
            counts[abs(a - b)] += 1
    # A window reaches a distance d with the probability (5 - d) / 4.
    for distance, count in counts.items():
        possible = 2 * 60 * sum(max(0, len(line) - distance) for line in lines)
        share = (5 - distance) / 4
        assert abs(count - possible * share) <= 5 * np.sqrt(possible * share * (1 - share))


def test_blocks_do_not_hang_on_how_they_are_read(distinct):
    found, _ = distinct
    given = BlockFormat(window=3, subsample=0.001, block_size=8, group_size=4, negatives_per_group=2)
    whole = WordBlocks(found, given, seed=3).of_epoch(2)(np.arange(len(WordBlocks(found, given, 3))))
    single = WordBlocks(found, given, seed=3).of_epoch(2)
    for row in np.random.default_rng(0).permutation(len(single)):
        for name, values in single(np.array([row])).items():
            np.testing.assert_array_equal(values[0], whole[name][row])
    for other in (WordBlocks(found, given, 3).of_epoch(1), WordBlocks(found, given, 4).of_epoch(2)):
        changed = other(np.arange(len(single)))
        assert not np.array_equal(changed["words"], whole["words"])
        assert not np.array_equal(changed["negatives"], whole["negatives"])


def test_a_word_counts_no_more_than_so_many_times_in_a_block():
    found = made([["a", "b", "a", "a", "c", "a", "b", "a"]] * 3)
    given = BlockFormat(window=2, subsample=0.0, block_size=8, group_size=4, most_repeats=4)
    block = WordBlocks(found, given, seed=0)(np.array([1]))
    # Five times a in the block, and two at its ends; b twice in it, and once before it.
    parts = {found.vocabulary.numbers[word]: part for word, part in {"a": 4 / 7, "b": 1, "c": 1}.items()}
    for words, counted in zip(block["words"][0], block["counted"][0], strict=True):
        np.testing.assert_allclose(counted, [parts[int(word)] for word in words], rtol=1e-6)


def test_frequent_words_are_dropped_at_the_rate_of_the_formula():
    lines = [["the"] * 30 + ["of"] * 10 + ["cat", "dog"] for _ in range(100)]
    found = made(lines)
    given = BlockFormat(window=2, subsample=0.1, block_size=8, group_size=4)
    counts = found.vocabulary.counts.astype(float)
    share = counts / counts.sum() / 0.1
    expected = np.minimum(1, np.sqrt(1 / share) + 1 / share)
    np.testing.assert_allclose(keep_probabilities(found.vocabulary.counts, 0.1), expected)
    assert expected[0] < 0.6
    assert expected[2:].tolist() == [1.0, 1.0]
    reader = WordBlocks(found, given, seed=0)
    epochs = 20
    kept = np.zeros(len(counts))
    for epoch in range(epochs):
        blocks = reader.of_epoch(epoch)(np.arange(len(reader)))
        there = blocks["left"].astype(int) + blocks["right"] > 0
        own = blocks["words"][..., 2:-2]
        kept += np.bincount(own[there], minlength=len(counts))
    for count, probability, seen in zip(counts, expected, kept, strict=True):
        deviation = np.sqrt(epochs * count * probability * (1 - probability))
        assert abs(seen - epochs * count * probability) <= 5 * deviation + 1e-9


def test_negatives_are_drawn_from_the_counts_to_the_power_of_three_quarters():
    lines = [["the"] * 500 + ["of"] * 100 + ["cat"] * 10 + ["dog"] * 3 + ["emu"]]
    found = made(lines)
    reader = WordBlocks(found, BlockFormat(subsample=0.0, block_size=32, negatives_per_group=400), seed=0)
    drawn = np.bincount(reader(np.arange(len(reader)))["negatives"].ravel(), minlength=5)
    expected = np.array([500, 100, 10, 3, 1]) ** 0.75
    expected *= drawn.sum() / expected.sum()
    assert ((drawn - expected) ** 2 / expected).sum() < 25


def test_an_alias_table_stands_for_its_distribution():
    weights = np.array([5.0, 1.0, 0.1, 3.0, 0.0, 2.0])
    table = AliasTable.of(weights)
    mass = np.bincount(np.arange(6), table.kept) + np.bincount(table.other, 1 - table.kept, minlength=6)
    np.testing.assert_allclose(mass / 6, weights / weights.sum(), atol=1e-12)


def test_batches_follow_the_epochs(distinct):
    found, _ = distinct
    given = BlockFormat(window=2, subsample=0.001, block_size=8, group_size=4)
    source = word_source(found, given, seed=5)
    order = order_of(source, 2, seed=5)
    step = order.steps_per_epoch + 1
    batch = read_batch(source, order, step)
    expected = WordBlocks(found, given, seed=5).of_epoch(1)(np.array([2, 3]))
    for name, values in expected.items():
        np.testing.assert_array_equal(batch[name], values)
    assert source.reader.words_per_example * len(source) == pytest.approx(found.num_words)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": 0}, "--window must be between 1 and 255"),
        ({"subsample": -1.0}, "--subsample must be at least 0"),
        ({"block_size": 20, "group_size": 8}, "groups of 8 words don't make up blocks of 20"),
        ({"negatives_per_group": 0}, "at least 1"),
    ],
)
def test_impossible_formats_are_refused(options, told):
    with pytest.raises(UsageError, match=told):
        BlockFormat(**options)


def test_a_corpus_without_context_is_refused():
    with pytest.raises(JaxgenError, match="no sentence of lines has two words"):
        word_source(made([["a"], ["b"], ["a"], ["b"]]), BlockFormat(), seed=0)
    with pytest.raises(UsageError, match="the seed must be 0 or more"):
        word_source(made([["a", "b"]]), BlockFormat(), seed=-1)


def test_words_have_their_n_grams_as_parts(distinct):
    found, _ = distinct
    sizes = NgramFormat(2, 3, buckets=50)
    parts = WordParts.of(found.vocabulary, sizes)
    count = len(found.vocabulary)
    for number in (0, 7, count - 1):
        own = parts.rows[parts.offsets[number] : parts.offsets[number + 1]].tolist()
        grams = ngrams(found.vocabulary.words[number], 2, 3)
        assert own == [number, *(count + fnv1a(gram) % 50 for gram in grams)]
        assert parts.counts[number] == len(own)


def test_blocks_hold_the_parts_of_their_words_as_far_as_there_is_room(distinct):
    found, _ = distinct
    given = BlockFormat(2, 0.001, 8, 4, 2, ngrams=NgramFormat(2, 3, buckets=50))
    plain = WordBlocks(found, replace(given, ngrams=None), seed=3)
    reader = WordBlocks(found, given, seed=3)
    rows = np.arange(len(reader))
    blocks, expected = reader(rows), plain(rows)
    own = blocks["words"][..., 2:-2].reshape(len(rows), -1)
    for block, words in enumerate(own):
        for place, word in enumerate(words):
            held = blocks["parts"][block][blocks["owner"][block] == place]
            bounds = reader.parts.offsets[word : word + 2]
            assert held.tolist() == reader.parts.rows[slice(*bounds)].tolist()
            assert blocks["part_count"][block, place] == len(held)
    np.testing.assert_array_equal(blocks["left"], expected["left"])
    # All words have 10 parts; of 43 places four words take 40.
    narrow = reader.parts.of_blocks(own, 43)
    assert narrow[2].tolist() == [[True] * 4 + [False] * 4] * len(rows)
    np.testing.assert_array_equal(narrow[0][:, :40], blocks["parts"][:, :40])
    assert (narrow[1][:, 40:] == 8).all()
    assert (np.diff(narrow[1], axis=1) >= 0).all()
