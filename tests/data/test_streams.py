"""Streams: examples that go on where others stopped, and every token of a held-out text once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.orders import BatchOrder
from jaxgen.data.pipeline import evaluation_batches, training_batches
from jaxgen.data.streams import (
    EVALUATION_STREAMS,
    TextFormat,
    evaluation_streams,
    make_tokenizer,
    training_streams,
)
from jaxgen.data.subwords import BERT_TOKENS, t5_tokens
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Bytes, Characters, Words
from jaxgen.errors import JaxgenError, UsageError


def text_of(*documents, split="train"):
    return Text("made up", split, documents, "1")


def letters(count, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("abcdefgh"), count))


FORMAT = TextFormat(Characters("abcdefgh"), sequence_length=5, streams=3)


def test_training_streams_go_on_from_batch_to_batch():
    whole = letters(100)
    source = training_streams(text_of(whole), FORMAT)
    assert len(source) == 18, "99 labels are 6 whole batches of 3 x 5"
    order = BatchOrder(len(source), 3, seed=0, shuffle=False)
    batches = [source.gather(order(step)[0]) for step in range(6)]
    tokens, labels = (
        np.concatenate([batch[name] for batch in batches], axis=1) for name in ("tokens", "labels")
    )
    for row in range(3):
        assert FORMAT.tokenizer.decode(tokens[row]) == whole[30 * row : 30 * row + 30]
        assert FORMAT.tokenizer.decode(labels[row]) == whole[30 * row + 1 : 30 * row + 31]
    assert [batch["stream_start"].tolist() for batch in batches] == [[True] * 3] + [[False] * 3] * 5
    assert all(batch["characters"].tolist() == [5, 5, 5] for batch in batches)
    again = source.gather(order(6)[0])
    assert again["stream_start"].all() and (again["tokens"] == batches[0]["tokens"]).all()


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(2, 400),
    sequence_length=st.integers(1, 30),
    batch_size=st.integers(EVALUATION_STREAMS, 24),
)
def test_evaluation_counts_every_token_once(count, sequence_length, batch_size):
    whole = letters(count, seed=count)
    given = TextFormat(Characters("abcdefgh"), sequence_length, 3)
    source = evaluation_streams(text_of(whole), given)
    rows = [[] for _ in range(batch_size)]
    for batch in evaluation_batches(source, batch_size):
        counted = (batch["labels"] >= 0) & (batch["weight"][:, None] > 0)
        for row, labels, tokens, which in zip(rows, batch["labels"], batch["tokens"], counted, strict=True):
            row += [*zip(tokens[which].tolist(), labels[which].tolist(), strict=True)]
    pairs = [pair for row in rows for pair in row]
    encoded = given.tokenizer.encode(whole).tolist()
    assert pairs == [*itertools.pairwise(encoded)], "in order, stream by stream"


def test_characters_add_up_to_the_text():
    words = text_of("one two  three. " * 40, "four\n" * 30)
    given = TextFormat(Words.train(words.documents), 7, 2)
    source = evaluation_streams(words, given)
    tokens = sum(len(given.tokenizer.encode(document)) for document in words.documents)
    assert source.arrays()["characters"].sum() == pytest.approx(len(words) * (tokens - 1) / tokens)


def test_documents_starts_are_told_where_asked_for():
    documents = [letters(n, seed=n) for n in (7, 1, 30, 12)]
    given = TextFormat(FORMAT.tokenizer, 5, 2, document_starts=True)
    arrays = evaluation_streams(text_of(*documents), given).arrays()
    starts = arrays["document_start"].reshape(-1, EVALUATION_STREAMS, 5).swapaxes(0, 1).reshape(-1)
    there = arrays["labels"].reshape(-1, EVALUATION_STREAMS, 5).swapaxes(0, 1).reshape(-1) >= 0
    # Those whose next token is a document's first have no label.
    assert np.flatnonzero(starts[there]).tolist() == [0, 6, 35]
    assert there.sum() == sum(map(len, documents)) - 1 - 3
    assert "document_start" not in training_streams(text_of(*documents), FORMAT)[0]


def test_loops_of_ones_own_read_streams_in_order():
    source = training_streams(text_of(letters(100)), FORMAT)
    batches = list(training_batches(source, 3))
    order = BatchOrder(len(source), 3, seed=0, shuffle=False)
    for step, batch in enumerate(batches):
        np.testing.assert_array_equal(batch["tokens"], source.gather(order(step)[0])["tokens"])
    for call in (training_batches, evaluation_batches):
        with pytest.raises(UsageError, match="is cut into 3 streams"):
            next(call(source, 2))


def test_text_that_is_too_short():
    with pytest.raises(
        JaxgenError, match=r"has 15 tokens to train on, fewer than a batch of 3 sequences of 5: .*smaller"
    ):
        training_streams(text_of(letters(15)), FORMAT)
    assert len(training_streams(text_of(letters(16)), FORMAT)) == 3
    for nothing in (text_of("a", split="test"), text_of(split="test")):
        with pytest.raises(JaxgenError, match="has no text to evaluate on in test"):
            evaluation_streams(nothing, FORMAT)
    with pytest.raises(UsageError, match="must be at least 1"):
        TextFormat(FORMAT.tokenizer, 0, 3)


def test_tokenizers_learn_from_the_training_text_but_for_alphabets():
    texts = [text_of("ab ab c"), text_of("xy xy xy", split="test")]
    assert make_tokenizer("characters", texts, 10, True).characters == " abcxy"
    assert set(make_tokenizer("words", texts, 10, True).words) == {"<unk>", "ab", "c"}
    assert make_tokenizer("bytes", texts, 10, True) == Bytes()
    with pytest.raises(UsageError, match="unknown tokenizer 'word'; did you mean words"):
        make_tokenizer("word", texts, 10, True)
    pieces = make_tokenizer("wordpiece", texts, 30, True).vocabulary
    assert pieces[0] == "[UNK]" and "ab" in pieces and "x" not in pieces
    assert not any(
        "x" in token and "y" in token for token in make_tokenizer("bpe", texts, 300, True).vocabulary
    )


def test_tokenizers_with_special_tokens():
    texts = [text_of("Ab ab c", "[MASK] ab")]
    bert = make_tokenizer("wordpiece", texts, 30, False, BERT_TOKENS)
    assert bert.special == BERT_TOKENS and {"Ab", "##b"} <= set(bert.vocabulary)
    for kind in ("bpe", "unigram"):
        t5 = make_tokenizer(kind, texts, 300, True, t5_tokens(4))
        assert t5.vocabulary[:3] == ["<pad>", "</s>", "<unk>"] and t5.vocabulary[-1] == "<extra_id_0>"
    for kind in ("characters", "bytes", "words"):
        with pytest.raises(
            UsageError,
            match=rf"a tokenizer of {kind} has no special tokens, such as \[PAD\]: take bpe, unigram",
        ):
            make_tokenizer(kind, texts, 300, True, BERT_TOKENS)
