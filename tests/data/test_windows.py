"""Windows: every offset once, every token of a held-out text once, and documents packed without loss."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.orders import order_of
from jaxgen.data.pipeline import evaluation_batches, training_batches
from jaxgen.data.streams import TextFormat, tokens_of
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Characters
from jaxgen.data.windows import evaluation_windows, packed_windows, training_windows
from jaxgen.errors import JaxgenError

ALPHABET = Characters("abcdefgh")


def text_of(*documents, split="train"):
    return Text("made up", split, documents, "1")


def letters(count, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("abcdefgh"), count))


def form(sequence_length, **options):
    return TextFormat(ALPHABET, sequence_length, 3, **options)


def test_training_windows_begin_at_every_token():
    whole = letters(40)
    source = training_windows(text_of(whole), form(7))
    examples = source.arrays()
    assert len(source) == 33
    for offset, (tokens, labels) in enumerate(zip(examples["tokens"], examples["labels"], strict=True)):
        assert ALPHABET.decode(tokens) == whole[offset : offset + 7]
        assert ALPHABET.decode(labels) == whole[offset + 1 : offset + 8]
    assert (examples["characters"] == 7).all() and examples["stream_start"].all()
    assert "document_start" not in examples
    assert ALPHABET.decode(tokens_of(source)) == whole


def test_batches_of_windows_are_shuffled_and_of_any_size():
    source = training_windows(text_of(letters(500)), form(4))
    assert source.streams == 0 and order_of(source, 5, seed=1).shuffle
    seen = np.concatenate([batch["tokens"] for batch in training_batches(source, 8, seed=1)])
    assert len(seen) == 496
    assert sorted(map(tuple, seen)) == sorted(map(tuple, source.arrays()["tokens"]))
    assert (seen != source.arrays()["tokens"]).any()


@settings(deadline=None, max_examples=40)
@given(count=st.integers(2, 300), sequence_length=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_evaluation_counts_every_token_once_at_any_batch_size(count, sequence_length, batch_size):
    whole = letters(count, seed=count)
    source = evaluation_windows(text_of(whole), form(sequence_length))
    pairs, characters = [], 0.0
    for batch in evaluation_batches(source, batch_size):
        counted = (batch["labels"] >= 0) & (batch["weight"][:, None] > 0)
        pairs += zip(batch["tokens"][counted].tolist(), batch["labels"][counted].tolist(), strict=True)
        characters += (batch["characters"] * batch["weight"]).sum()
    assert pairs == [*itertools.pairwise(ALPHABET.encode(whole).tolist())]
    assert characters == count - 1


@pytest.mark.parametrize("make", [training_windows, evaluation_windows])
def test_documents_starts_are_told_and_not_foreseen(make):
    documents = [letters(n, seed=n) for n in (7, 1, 30, 12)]
    examples = make(text_of(*documents), form(5, document_starts=True)).arrays()
    first = np.cumsum([0, 7, 1, 30])
    stride = 1 if make is training_windows else 5
    for number, (starts, labels) in enumerate(
        zip(examples["document_start"], examples["labels"], strict=True)
    ):
        places = stride * number + np.arange(5)
        assert starts.tolist() == np.isin(places, first).tolist()
        assert (labels < 0).tolist() == (np.isin(places + 1, first) | (places >= 49)).tolist()


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(1, 23), min_size=1, max_size=40), sequence_length=st.integers(1, 12))
def test_packing_loses_nothing_and_mixes_nothing(lengths, sequence_length):
    documents = [letters(length, seed=number) for number, length in enumerate(lengths)]
    if max(lengths) < 2:
        with pytest.raises(JaxgenError, match="has no document of two tokens in train: take longer ones"):
            packed_windows(text_of(*documents), form(sequence_length))
        return
    source = packed_windows(text_of(*documents), form(sequence_length))
    examples = source.arrays()
    pieces = []
    for tokens, labels, starts in zip(
        *(examples[name] for name in ("tokens", "labels", "document_start")), strict=True
    ):
        there = labels >= 0
        assert there[: there.sum()].all(), "what is empty is at the end"
        assert starts[0] and not starts[~there].any()
        begins = [*np.flatnonzero(starts), there.sum()]
        for begin, end in itertools.pairwise(begins):
            assert (tokens[begin + 1 : end] == labels[begin : end - 1]).all(), "one text goes on"
            pieces.append(ALPHABET.decode([*tokens[begin:end].tolist(), int(labels[end - 1])]))
    # Each is a document's, or a part that shares its first token with the one before.
    expected = [
        document[cut : cut + sequence_length + 1]
        for document in documents
        for cut in range(0, len(document) - 1, sequence_length)
    ]
    assert sorted(pieces) == sorted(expected)
    labels = sum(length - 1 for length in lengths)
    assert examples["characters"].sum() == labels
    # Two windows that are half empty could have been one.
    empty = (examples["labels"] < 0).sum(axis=1)
    assert (2 * empty >= sequence_length).sum() <= 1


def test_packing_hardly_leaves_a_place_empty():
    lengths = np.random.default_rng(0).geometric(1 / 40, 3000) + 1
    documents = [letters(length, seed=number) for number, length in enumerate(lengths)]
    source = packed_windows(text_of(*documents), form(128))
    assert (source.arrays()["labels"] >= 0).mean() > 0.995


def test_text_that_is_too_short():
    with pytest.raises(
        JaxgenError, match=r"has 7 tokens to train on, fewer than a sequence of 7 .*smaller --sequence-length"
    ):
        training_windows(text_of(letters(7)), form(7))
    assert len(training_windows(text_of(letters(8)), form(7))) == 1
    for nothing in (text_of("a", split="test"), text_of(split="test")):
        with pytest.raises(JaxgenError, match="has no text to evaluate on in test"):
            evaluation_windows(nothing, form(7))


@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("make", [training_windows, evaluation_windows])
def test_examples_gathered_on_the_device_are_the_hosts_bit_for_bit(make, starts):
    documents = [letters(n, seed=n) for n in (7, 1, 300, 12)]
    source = make(text_of(*documents, split="validation"), form(6, document_starts=starts))
    rows = np.array([len(source) - 1, 0, *range(len(source)), 0], np.int32)
    host = source.gather(rows)
    device = jax.jit(source.gather_on_device)(source.device_arrays(), rows)
    assert host.keys() == device.keys()
    for name, values in host.items():
        assert values.dtype == device[name].dtype, name
        assert values.tobytes() == np.asarray(device[name]).tobytes(), name


def test_device_holds_the_text_and_not_its_windows():
    source = training_windows(text_of(letters(20_000)), form(64))
    assert source.device_bytes < 5 * 20_000 < 64 * len(source)
    packed = packed_windows(text_of(letters(100)), form(64))
    assert packed.device_bytes == sum(values.nbytes for values in packed.arrays().values())
    gathered = packed.gather_on_device(packed.device_arrays(), np.array([1, 0]))
    assert {name: values.tolist() for name, values in gathered.items()} == {
        name: values.tolist() for name, values in packed.gather([1, 0]).items()
    }
