"""Pairs of sentences: true ones stand so in the text, the others are of other documents, and all fit."""

import itertools

import numpy as np
import pytest

from jaxgen.data.sentence_pairs import sentence_pairs
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Words
from jaxgen.errors import JaxgenError, UsageError

CLS, SEP, PADDING = 9001, 9002, 9003


def text_of(*sizes, seed=0):
    """Makes documents of so many sentences, in which no word stands twice."""
    random, names = np.random.default_rng(seed), map("w{:04}".format, itertools.count())
    documents = [
        " ".join(" ".join(itertools.islice(names, int(random.integers(1, 8)))) + "." for _ in range(size))
        for size in sizes
    ]
    return Text("made up", "train", tuple(documents), "1")


def format_of(text, length=24, **others):
    tokenizer = Words.train(text.documents, 2000)
    return SequenceFormat(tokenizer, length, first=(CLS,), last=(SEP,), padding=PADDING, **others)


TEXT = text_of(20, 1, 30, 2, 17)
FORM = format_of(TEXT)


def runs(examples):
    """Gives the two runs of each row, and checks what is around them."""
    for tokens, length, types in zip(*(examples[n] for n in ("tokens", "lengths", "type_ids")), strict=True):
        middle, end = np.flatnonzero(tokens == SEP)
        assert tokens[0] == CLS and end == length - 1 and (tokens[length:] == PADDING).all()
        assert types.tolist() == [0] * (middle + 1) + [1] * (end - middle) + [0] * (len(tokens) - length)
        assert middle > 1 and end > middle + 1
        yield tokens[1:middle], tokens[middle + 1 : end]


def place(run, tokens):
    (found,) = [at for at in range(len(tokens)) if tokens[at : at + len(run)].tolist() == run.tolist()]
    return found


def test_true_pairs_are_contiguous_and_the_others_of_other_documents():
    examples = sentence_pairs(TEXT, FORM).arrays()
    encoded = [FORM.tokenizer.encode(document) for document in TEXT.documents]
    tokens = np.concatenate(encoded)
    document = np.repeat(np.arange(len(encoded)), [len(one) for one in encoded])
    end = FORM.tokenizer.encode(".")[0]
    for (first, second), is_next in zip(runs(examples), examples["is_next"], strict=True):
        begin, other = place(first, tokens), place(second, tokens)
        assert (begin + len(first) == other) == bool(is_next)
        assert (document[begin] == document[other]) == bool(is_next)
        # The first run ends with a sentence, the second one begins with one.
        assert first[-1] == end and (other == 0 or tokens[other - 1] == end)
    assert {name: array.dtype for name, array in examples.items()} == dict.fromkeys(
        ("tokens", "lengths", "type_ids", "is_next"), np.int32
    )
    assert examples["lengths"].max() == 24 and len({len(first) for first, _ in runs(examples)}) > 5


def test_half_of_the_pairs_are_true_and_each_sentence_begins_one():
    source = sentence_pairs(TEXT, FORM)
    assert len(source) == 19 + 29 + 1 + 16
    assert source.arrays()["is_next"].sum() == 33


def test_pairs_are_the_same_each_time():
    source, again, other = (sentence_pairs(TEXT, FORM, seed) for seed in (0, 0, 1))
    examples, rows = source.arrays(), np.array([7, 3, 60])
    for name, array in again.gather(rows).items():
        np.testing.assert_array_equal(array, examples[name][rows])
    assert (other.arrays()["is_next"] != examples["is_next"]).any()


def test_what_is_too_long_is_cut_off_at_the_far_ends():
    text = text_of(40, 40)
    given = format_of(text, 9)
    examples = sentence_pairs(text, given).arrays()
    assert examples["lengths"].max() == 9
    tokens = np.concatenate([given.tokenizer.encode(document) for document in text.documents])
    for (first, second), is_next in zip(runs(examples), examples["is_next"], strict=True):
        if is_next:
            joined = np.concatenate([first, second])
            assert place(joined, tokens) >= 0 and min(len(first), len(second)) >= 1


def test_a_single_document_gives_pairs_from_elsewhere():
    text = text_of(25)
    given = format_of(text)
    examples = sentence_pairs(text, given).arrays()
    tokens = given.tokenizer.encode(text.documents[0])
    assert examples["is_next"].sum() == 12
    for (first, second), is_next in zip(runs(examples), examples["is_next"], strict=True):
        begin, other = place(first, tokens), place(second, tokens)
        assert (begin + len(first) == other) if is_next else not begin <= other <= begin + len(first)


def test_sentences_end_with_marks_and_paragraphs():
    text = Text("made up", "train", ("One 1.5. Two! (Three?) four\nfour\n\nFive",), "1")
    assert len(sentence_pairs(text, format_of(text))) == 4


def test_words_are_told_where_asked_for():
    given = SequenceFormat(FORM.tokenizer, 24, whole_words=True)
    assert sentence_pairs(TEXT, given).arrays()["continues"].shape == (65, 24)


def test_what_cannot_be_is_one_line():
    for sizes in ((2,), (1, 1, 1)):
        text = text_of(*sizes)
        with pytest.raises(JaxgenError, match=rf"made up has {sum(sizes)} sentences in train, too few"):
            sentence_pairs(text, format_of(text))
    with pytest.raises(UsageError, match="sequences of 4 tokens have no room for two sentences"):
        sentence_pairs(TEXT, format_of(TEXT, 4))
