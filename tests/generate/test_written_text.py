"""Texts: stop strings that span tokens, pieces that stay as they are, prompts that the text goes on from."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import Table

from jaxgen.data.tokenizers import Bytes, Words
from jaxgen.errors import UsageError
from jaxgen.generate import Sampler, Text, generate, pad_prompts, stream

RNG = jax.random.key(0)
SYLLABLES = ["the ", "end", " of", " a", " st", "ory", ", en", "d of", " all", ".\n"]


def decode(ids):
    return "".join(SYLLABLES[number] for number in ids)


def table():
    return jnp.asarray(np.random.default_rng(3).normal(size=(10, 10)) * 1.5, jnp.float32)


def written(text, chunk=None, max_tokens=40, **options):
    prompt, lengths = pad_prompts([[0], [4, 5], [8]])
    given = (Table(), table(), {}, prompt, lengths, RNG)
    options = {"max_tokens": max_tokens, "num_samples": 2, "text": text, **options}
    if chunk is None:
        return generate(*given, **options)
    return list(stream(*given, chunk=chunk, **options))


@pytest.mark.parametrize("stops", [("end of",), ("story", "d of al"), (".\n", "\n")])
def test_texts_end_before_the_first_stop_string(stops):
    free = written(Text(decode))
    got = written(Text(decode, stops))
    ends = []
    for row in range(6):
        ids = free.tokens[row, : free.lengths[row]].tolist()
        counts = [n for n in range(len(ids) + 1) if any(stop in decode(ids[:n]) for stop in stops)]
        length = min(counts, default=len(ids))
        text = decode(ids[:length])
        assert got.lengths[row] == length
        assert got.tokens[row].tolist() == ids[:length] + [0] * (40 - length)
        assert not got.log_probs[row, length:].any() and got.log_probs[row, :length].all()
        assert (
            got.texts[row] == text[: min((text.index(stop) for stop in stops if stop in text), default=None)]
        )
        assert free.texts[row] == decode(ids)
        ends.append(length)
    assert min(ends) < 40 and not got.stopped.any()


@pytest.mark.parametrize("chunk", [1, 3, 16, 40])
def test_texts_do_not_depend_on_the_chunks(chunk):
    text, options = Text(decode, ("end of", " all.")), {"stop_tokens": (9,)}
    whole = written(text, **options)
    parts = written(text, chunk, **options)
    assert whole.stopped.any() and not whole.stopped.all()
    for row in range(6):
        assert "".join(part.texts[row] for part in parts) == whole.texts[row]
        ids = np.concatenate([part.tokens[row, : part.lengths[row]] for part in parts])
        assert ids.tolist() == whole.tokens[row, : whole.lengths[row]].tolist()
        assert sum(part.stopped[row] for part in parts) == whole.stopped[row]
        assert not whole.texts[row].endswith(SYLLABLES[9])  # a stop token is no text


def sure(ids, vocabulary):
    """A table that writes these tokens, for certain, each of which occurs once."""
    logits = np.zeros((vocabulary, vocabulary), np.float32)
    for now, following in itertools.pairwise(ids):
        logits[now, following] = 100
    return jnp.asarray(logits)


def pieces(ids, tokenizer, stops=(), prompt=1):
    parts = stream(
        Table(),
        sure(ids, len(tokenizer.vocabulary)),
        {},
        np.array([ids[:prompt]]),
        np.array([prompt]),
        RNG,
        max_tokens=len(ids) - prompt,
        chunk=1,
        sampler=Sampler(greedy=True),
        text=Text(tokenizer.decode, stops),
    )
    return [part.texts[0] for part in parts]


def test_pieces_wait_for_whole_characters():
    ids = Bytes().encode("aé→b").tolist()
    assert pieces(ids, Bytes()) == ["", "é", "", "", "→", "b"]
    assert "".join(pieces(ids[:-2], Bytes())) == "é\ufffd"  # it has to end somewhere


def test_pieces_wait_while_a_stop_string_may_begin():
    ids = Bytes().encode("a\nUser").tolist()
    assert pieces(ids, Bytes(), ("\nUser:",)) == ["", "", "", "", "\nUser"]
    assert pieces(ids, Bytes(), ("\nUse",)) == ["", "", "", ""]
    assert pieces(ids, Bytes(), ("\nUx",)) == ["", "", "\nUs", "e", "r"]
    assert pieces(Bytes().encode("aé!").tolist(), Bytes(), ("é?",)) == ["", "", "é!"]


def test_text_goes_on_from_its_prompt():
    """Where words have spaces between them, the first one has, too."""
    tokenizer = Words.train(["all is well , romeo"])
    ids = [tokenizer.numbers[word] for word in ("all", "is", "well", ",", "romeo")]
    assert pieces(ids, tokenizer) == [" is", " well", ",", " romeo"]
    assert pieces(ids, tokenizer, prompt=3) == [",", " romeo"]


def test_empty_stop_string_is_refused():
    with pytest.raises(UsageError, match="a stop string is empty"):
        Text(decode, ("a", ""))
