"""Sequences: rows of tokens with special ones around them, and passages of a text."""

import numpy as np
import pytest

from jaxgen.data.passages import evaluation_passages, training_passages
from jaxgen.data.sequences import Row, SequenceFormat, Table
from jaxgen.data.streams import tokens_of
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Characters
from jaxgen.errors import JaxgenError, UsageError

ALPHABET = Characters("_[]abcdef")
FORM = SequenceFormat(ALPHABET, 8, target_length=5, first=(1,), last=(2,))


def written(rows):
    return [ALPHABET.decode(np.asarray(row)) for row in rows]


def table(*rows, class_names=()):
    rows = [Row(*row, f"t.tsv, line {number}") for number, row in enumerate(rows, start=1)]
    return Table("t.tsv", {"train": rows, "test": rows[:1]}, class_names, "1")


def test_rows_with_classes():
    found = table(("abc", "y"), ("f", "x"), ("abcdef", "y"), class_names=("x", "y")).sources(FORM)
    examples = found["train"].arrays()
    assert written(examples["tokens"]) == ["[abc]___", "[f]_____", "[abcdef]"]
    assert examples["lengths"].tolist() == [5, 3, 8] and examples["label"].tolist() == [1, 0, 1]
    assert found["train"].num_classes == 2 and found["train"].class_names == ("x", "y")
    assert len(found["test"]) == 1 and found["train"].streams == 0
    turned = found["train"].gather([2, 0])
    assert written(turned["tokens"]) == ["[abcdef]", "[abc]___"]


def test_rows_with_texts_to_write():
    found = table(("abc", "fed"), ("f", "a"), ("abcdef", "cccc")).sources(FORM)["train"]
    examples = found.arrays()
    labels = examples["labels"]
    assert labels.dtype == np.int32 and labels[1].tolist() == [3, 2, -1, -1, -1]
    assert [ALPHABET.decode(row[row >= 0]) for row in labels] == ["fed]", "a]", "cccc]"]
    assert found.num_classes == len(ALPHABET.vocabulary)


def test_texts_that_are_too_long_are_refused_or_cut_off():
    long = table(("abc", "a"), ("abcdefa", "b"))
    with pytest.raises(
        UsageError, match=r"t\.tsv, line 2: the text has 7 tokens, and there is room for 6: .*--truncate"
    ):
        long.sources(FORM)
    with pytest.raises(UsageError, match=r"t\.tsv, line 1: the text has 5 tokens, and there is room for 4"):
        table(("abc", "abcde")).sources(FORM)
    cut = SequenceFormat(ALPHABET, 8, target_length=5, first=(1,), last=(2,), truncate=True)
    examples = table(("abcdefa", "abcde")).sources(cut)["train"].arrays()
    assert written(examples["tokens"]) == ["[abcdef]"] and written(examples["labels"]) == ["abcd]"]
    with pytest.raises(
        UsageError, match=r"sequences of 2 tokens .* have no room for a text beside 2 special tokens"
    ):
        SequenceFormat(ALPHABET, 2, first=(1,), last=(2,))
    with pytest.raises(UsageError, match=r"t\.tsv, line 1: the text has characters"):
        table(("xyz", "a")).sources(FORM)


def test_passages_begin_at_every_token_or_side_by_side():
    text = Text("made up", "train", ("abcdef", "fedcbaabc"), "1")
    whole = "abcdeffedcbaabc"
    train, test = training_passages(text, FORM), evaluation_passages(text, FORM)
    assert written(train.arrays()["tokens"]) == [f"[{whole[place : place + 6]}]" for place in range(10)]
    assert (train.arrays()["lengths"] == 8).all()
    assert written(test.arrays()["tokens"]) == ["[abcdef]", "[fedcba]", "[abc]___"]
    assert test.arrays()["lengths"].tolist() == [8, 8, 5]
    assert ALPHABET.decode(tokens_of(test)) == whole
    with pytest.raises(JaxgenError, match="has 5 tokens to train on, fewer than a sequence of 6"):
        training_passages(Text("made up", "train", ("abcde",), "1"), FORM)
    with pytest.raises(JaxgenError, match="has no text to evaluate on in test"):
        evaluation_passages(Text("made up", "test", ("a",), "1"), FORM)
