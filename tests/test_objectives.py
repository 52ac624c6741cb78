"""Objectives: what is hidden is distributed as the papers' own slow loops have it, and nothing is lost."""

import collections
import functools
import itertools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UsageError
from jaxgen.objectives import (
    content_rngs,
    corrupt_spans,
    mask_tokens,
    spans_shapes,
    spans_shapes_for,
    split_prefix,
)

MASK, VOCABULARY, PADDING, CLS, SEP = 4, 30, 0, 2, 3
FIRST_SENTINEL, END = 99, 1


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def chi_square(observed, expected):
    """Gives how many standard deviations the statistic is above its mean: below 4 all but surely."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    freedom = len(observed) - 1
    return (((observed - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.fixture(scope="module")
def masked():
    """4,000 texts of 18 tokens and two special ones, and 4 of padding."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((4000, 24), np.int32)
    tokens[:, 0], tokens[:, 19] = CLS, SEP
    tokens[:, 1:19] = rng.integers(5, VOCABULARY, (4000, 18))
    maskable = np.zeros(tokens.shape, bool)
    maskable[:, 1:19] = True
    mask = jax.jit(
        lambda rngs: mask_tokens(rngs, tokens, maskable, mask_token=MASK, vocabulary_size=VOCABULARY)
    )
    return tokens, maskable, jax.device_get(mask(keys(4000)))


def test_of_the_chosen_tokens_eight_of_ten_are_masked_and_one_is_any(masked):
    tokens, maskable, found = masked
    assert found.positions.shape == found.labels.shape == found.weights.shape == (4000, 4), (
        "0.15 * 24, rounded"
    )
    assert (found.weights.sum(axis=1) == 3).all(), "0.15 * 18, rounded"
    rows, slots = np.nonzero(found.weights)
    positions = found.positions[rows, slots]
    assert maskable[rows, positions].all()
    assert (np.diff(found.positions[:, :3], axis=1) > 0).all()
    restored = found.inputs.copy()
    restored[rows, positions] = found.labels[rows, slots]
    np.testing.assert_array_equal(restored, tokens)
    read, labels = found.inputs[rows, positions], found.labels[rows, slots]
    # Any token may by chance be the mask, or the one that was there.
    shares = {
        "mask": 0.8 + 0.1 / VOCABULARY,
        "same": 0.1 + 0.1 / VOCABULARY,
        "other": 0.1 * (1 - 2 / VOCABULARY),
    }
    counts = [(read == MASK).sum(), (read == labels).sum(), ((read != MASK) & (read != labels)).sum()]
    assert chi_square(counts, [share * len(read) for share in shares.values()]) < 4
    other = np.bincount(read[(read != MASK) & (read != labels)], minlength=VOCABULARY)
    assert other[:4].min() > 0 and other[5:].min() > 0, "any of the vocabulary"
    places = np.bincount(positions, minlength=24)[1:19]
    assert chi_square(places, np.full(18, len(read) / 18)) < 4


def test_pairs_of_places_are_alike(masked):
    *_, found = masked
    pairs = collections.Counter(
        pair for row in found.positions[:, :3] for pair in itertools.combinations(row, 2)
    )
    assert len(pairs) == math.comb(18, 2)
    assert chi_square([*pairs.values()], np.full(len(pairs), 3 * 4000 / len(pairs))) < 4


def test_few_tokens_have_one_hidden_and_none_has_none():
    maskable = np.arange(6) < np.array([[0], [1], [3], [6]])
    tokens = np.full((4, 6), 9, np.int32)
    mask = functools.partial(mask_tokens, mask_token=MASK, vocabulary_size=VOCABULARY)
    found = jax.device_get(jax.jit(lambda rngs: mask(rngs, tokens, maskable, fraction=0.5))(keys(4)))
    assert found.weights.sum(axis=1).tolist() == [0, 1, 2, 3]
    assert found.positions[0].tolist() == [0, 0, 0] and found.inputs[0].tolist() == [9] * 6
    with pytest.raises(UsageError, match=r"fraction of tokens to mask is 0.0; it must be above 0"):
        mask(keys(4), tokens, maskable, fraction=0.0)


def choose_words_slowly(generator, sizes, count):
    """BERT's create_pretraining_data.py: gives which words are chosen."""
    order = list(range(len(sizes)))
    generator.shuffle(order)
    total, chosen = 0, []
    for word in order:
        if total >= count:
            break
        if total + sizes[word] > count:
            continue
        total += sizes[word]
        chosen.append(word)
    return tuple(sorted(chosen))


def test_whole_words_are_chosen_as_bert_does():
    sizes = [1, 2, 4, 1, 3, 2]
    words = np.repeat(np.arange(6), sizes)
    tokens = np.concatenate([[CLS], 5 + words, [SEP, PADDING]]).astype(np.int32)
    continues = np.concatenate([[True], np.diff(words, prepend=-1) == 0, [False, False]])
    maskable = np.isin(np.arange(16), range(1, 14))
    count = round(0.3 * 13)
    draws = 4000
    repeated = [np.repeat(array[None], draws, axis=0) for array in (tokens, maskable, continues)]

    @jax.jit
    def mask(rngs):
        return mask_tokens(
            rngs,
            *repeated[:2],
            continues=repeated[2],
            mask_token=MASK,
            vocabulary_size=VOCABULARY,
            fraction=0.3,
        )

    found = jax.device_get(mask(keys(draws)))
    observed = collections.Counter()
    for labels, weights in zip(found.labels, found.weights, strict=True):
        chosen = collections.Counter((labels[weights > 0] - 5).tolist())
        assert all(number == sizes[word] for word, number in chosen.items()), "whole words"
        observed[tuple(sorted(chosen))] += 1
    generator = random.Random(0)
    expected = collections.Counter(choose_words_slowly(generator, sizes, count) for _ in range(40 * draws))
    assert observed.keys() <= expected.keys() and len(expected) == 6
    sets = sorted(expected)
    assert chi_square([observed[s] for s in sets], [expected[s] / 40 for s in sets]) < 4


def spans_slowly(generator, length, fraction=0.15, span_length=3.0):
    """The paper's random_spans_noise_mask."""
    padded = max(length, 2)
    hidden = min(max(int(np.round(np.float32(padded) * np.float32(fraction))), 1), padded - 1)
    count = max(int(np.round(np.float32(hidden) / np.float32(span_length))), 1)

    def segments(items):
        begins = [number < count - 1 for number in range(items - 1)]
        generator.shuffle(begins)
        bounds = [0, *(place + 1 for place, begin in enumerate(begins) if begin), items]
        return [end - begin for begin, end in itertools.pairwise(bounds)]

    sizes = zip(segments(padded - hidden), segments(hidden), strict=True)
    return [in_span for gap, span in sizes for in_span in [False] * gap + [True] * span][:length]


def fold_slowly(tokens, replaced):
    result, sentinel = [], FIRST_SENTINEL
    for place, token in enumerate(tokens):
        if not replaced[place]:
            result.append(token)
        elif place == 0 or not replaced[place - 1]:
            result.append(sentinel)
            sentinel -= 1
    return [*result, END]


@functools.lru_cache
def corruption(**options):
    return jax.jit(
        lambda rngs, tokens, lengths: corrupt_spans(
            rngs, tokens, lengths, first_sentinel=FIRST_SENTINEL, end_token=END, **options
        )
    )


def corrupted(tokens, lengths, **options):
    return jax.device_get(corruption(**options)(keys(len(tokens)), tokens, lengths))


def spans_of(inputs, targets):
    """Puts inputs and targets together again; gives the text, and which of it was hidden."""
    assert inputs[-1] == targets[-1] == END
    spans = {}
    for token in targets[:-1]:
        if token > 50:
            spans[token] = []
            latest = spans[token]
        else:
            latest.append(token)
    text, hidden = [], []
    for token in inputs[:-1]:
        part = spans.pop(token) if token > 50 else [token]
        text += part
        hidden += [token > 50] * len(part)
    assert not any(spans.values())
    return text, hidden


def test_corrupted_spans_of_texts_of_all_lengths_hold_the_whole_text():
    lengths = np.minimum(np.arange(1, 401), 150)
    tokens = np.random.default_rng(0).integers(5, 50, (400, 150)).astype(np.int32)
    found = corrupted(tokens, lengths)
    shapes = spans_shapes(150)
    assert found.inputs.shape == (400, shapes.inputs) and found.targets.shape == (400, shapes.targets)
    for row, length in enumerate(lengths):
        count = int(found.weights[row].sum())
        inputs, targets = found.inputs[row, : found.input_lengths[row]], found.targets[row, :count]
        assert (found.inputs[row, len(inputs) :] == 0).all() and (found.targets[row, count:] == 0).all()
        assert (found.weights[row, :count] == 1).all()
        text, hidden = spans_of(inputs.tolist(), targets.tolist())
        assert text == tokens[row, :length].tolist()
        slow = spans_slowly(random.Random(0), length)
        assert sum(hidden) == sum(slow) and not hidden[0]
        if length > 1:
            assert inputs.tolist() == fold_slowly(text, hidden)
            assert targets.tolist() == fold_slowly(text, [not h for h in hidden])
            assert len(inputs) == len(fold_slowly(text, slow)), "as many spans"
    assert found.input_lengths[-1] == shapes.inputs and found.weights[-1].all()


def test_all_ways_to_lay_spans_are_alike():
    # 5 of 12 in 2 spans: 4 ways to cut the spans, 6 to cut the gaps.
    draws = 4800
    tokens = np.tile(np.arange(5, 17, dtype=np.int32), (draws, 1))
    found = corrupted(tokens, np.full(draws, 12), fraction=0.4, span_length=2.5)
    observed = collections.Counter(
        tuple(spans_of(inputs.tolist(), targets.tolist())[1])
        for inputs, targets in zip(found.inputs, found.targets, strict=True)
    )
    slow = {tuple(spans_slowly(random.Random(seed), 12, 0.4, 2.5)) for seed in range(1000)}
    assert observed.keys() == slow and len(slow) == 24
    assert chi_square([*observed.values()], np.full(24, draws / 24)) < 4


def test_lengths_of_spans_are_those_of_the_papers_code():
    draws, length = 400, 120
    tokens = np.tile(np.arange(length, dtype=np.int32) % 40 + 5, (draws, 1))
    found = corrupted(tokens, np.full(draws, length))
    fast = [
        spans_of(*(row.tolist() for row in pair))[1] for pair in zip(found.inputs, found.targets, strict=True)
    ]
    generator = random.Random(1)
    slow = [spans_slowly(generator, length) for _ in range(20 * draws)]

    def histogram(masks):
        sizes = [len([*run]) for mask in masks for hidden, run in itertools.groupby(mask) if hidden]
        return np.bincount(np.minimum(sizes, 9), minlength=10)[1:]

    assert histogram(fast).sum() == 6 * draws, "18 tokens in 6 spans"
    # Spans of one text aren't independent, but nearly.
    assert chi_square(histogram(fast), histogram(slow) / 20) < 5


def test_shapes_are_those_of_the_paper():
    assert spans_shapes_for(512) == spans_shapes(568) == (568, 28, 512, 114)
    assert spans_shapes(569).inputs == 513
    for length in range(3, 80):
        shapes = spans_shapes_for(length, 0.4, 2.0)
        assert shapes.inputs <= length < spans_shapes(shapes.text + 1, 0.4, 2.0).inputs
    for refused in ({"fraction": 0.0}, {"fraction": 1.0}, {"span_length": 0.5}):
        with pytest.raises(UsageError, match="the length is at least 1, the fraction between 0 and 1"):
            spans_shapes(10, **refused)
        with pytest.raises(UsageError, match="the length is at least 1, the fraction between 0 and 1"):
            spans_shapes_for(10, **refused)
    with pytest.raises(UsageError, match="inputs of 2 tokens have no room"):
        spans_shapes_for(2)


def test_most_of_a_text_may_be_hidden():
    tokens = np.tile(np.arange(5, 25, dtype=np.int32), (8, 1))
    found = corrupted(tokens, np.arange(13, 21), fraction=0.8, span_length=1.0)
    for row, length in enumerate(range(13, 21)):
        inputs = found.inputs[row, : found.input_lengths[row]].tolist()
        targets = found.targets[row, : int(found.weights[row].sum())].tolist()
        assert spans_of(inputs, targets)[0] == tokens[row, :length].tolist()


def test_prefixes_end_everywhere_alike():
    lengths = jnp.array([1, 2] + [9] * 4000)
    found = np.asarray(jax.jit(split_prefix)(keys(4002), lengths))
    assert found[:2].tolist() == [0, 1]
    counts = np.bincount(found[2:], minlength=9)
    assert counts[0] == 0 and len(counts) == 9
    assert chi_square(counts[1:], np.full(8, 500)) < 4


def test_an_example_hangs_on_its_own_key_alone():
    tokens = np.random.default_rng(0).integers(5, 30, (6, 45)).astype(np.int32)
    maskable, lengths = np.ones(tokens.shape, bool), np.arange(40, 46)

    @jax.jit
    def both(rngs, tokens, maskable, lengths):
        masked = mask_tokens(rngs, tokens, maskable, mask_token=MASK, vocabulary_size=VOCABULARY)
        spans = corrupt_spans(rngs, tokens, lengths, first_sentinel=FIRST_SENTINEL, end_token=END)
        return masked, spans

    whole = both(keys(6), tokens, maskable, lengths)
    part = both(keys(6)[2:5], tokens[2:5], maskable[2:5], lengths[2:5])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:5], b), whole, part)
    other = both(keys(6, seed=1), tokens, maskable, lengths)
    assert (other[0].positions != whole[0].positions).any() and (other[1].inputs != whole[1].inputs).any()


def test_keys_of_contents_differ_with_any_token_and_not_with_padding():
    tokens = np.random.default_rng(0).integers(5, 30, (50, 20)).astype(np.int32)
    tokens[1:21] = tokens[0]
    tokens[np.arange(1, 21), np.arange(20)] += 1
    tokens[21] = tokens[0, ::-1]
    found = jax.random.key_data(content_rngs(tokens))
    assert len(np.unique(found, axis=0)) == 50
    padded = jax.random.key_data(content_rngs(np.pad(tokens, ((0, 0), (0, 7)))))
    np.testing.assert_array_equal(found, padded)
