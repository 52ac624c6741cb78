"""Recurrent models that read a text first: step by step as at once, ragged as alone, along beams, with attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_params

from jaxgen.generate import Decoder, EncoderDecoder, Sampler, beam_search, generate
from jaxgen.models import RecurrentEncoderDecoder

VOCABULARY, LONGEST, STOP = 13, 9, 3
SIZES = {"vocabulary_size": VOCABULARY, "embedding_size": 8, "hidden_size": 8}
MODELS = {
    "additive": {},
    "dot_unfed": {"attention_kind": "dot", "cell": "gru", "num_layers": 2, "input_feeding": False},
    "none": {"attention_kind": "none", "num_layers": 2},
    "copying": {"copies": True, "num_layers": 2},
}
RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.integers(0, VOCABULARY, (3, LONGEST)), jnp.int32)
SOURCES = {
    "tokens": jnp.asarray(RNG.integers(0, VOCABULARY, (3, 7)), jnp.int32),
    "lengths": jnp.array([7, 4, 1]),
}
PROMPT_LENGTHS = np.array([4, 1, 5])
PROMPT = np.where(np.arange(5) < PROMPT_LENGTHS[:, None], TOKENS[:, :5], 7)
GREEDY = {"sampler": Sampler(greedy=True)}


@functools.cache
def made(kind):
    model = RecurrentEncoderDecoder(**SIZES, **MODELS[kind])
    return EncoderDecoder(model), random_params(model, TOKENS, TOKENS, deviation=0.7)


def written(kind, how, row=None, sources=SOURCES, **options):
    decoder, params = made(kind)
    rows = slice(None) if row is None else slice(row, row + 1)
    inputs = jax.tree.map(lambda leaf: leaf[rows], sources)
    rng = (jax.random.key(0),) if how is generate else ()
    told = (decoder, params, {}, PROMPT[rows], PROMPT_LENGTHS[rows], *rng)
    return how(*told, max_tokens=8, stop_tokens=(STOP,), inputs=inputs, **options)


@pytest.mark.parametrize("kind", MODELS)
def test_each_step_is_as_all_at_once(kind):
    decoder, params = made(kind)
    assert isinstance(decoder, Decoder) and decoder.max_length is None
    expected = jax.nn.log_softmax(
        jax.jit(
            lambda params: decoder.model.apply(
                {"params": params}, SOURCES["tokens"], TOKENS, source_lengths=SOURCES["lengths"]
            )
        )(params)
    )
    prompt, prompt_lengths = jnp.asarray(PROMPT, jnp.int32), jnp.asarray(PROMPT_LENGTHS, jnp.int32)
    begin = jax.jit(lambda: decoder.prefill(params, {}, SOURCES, prompt, prompt_lengths, LONGEST))
    step = jax.jit(lambda tokens, cache: decoder.decode_step(params, {}, tokens, cache))
    output, cache = begin()
    assert all(len(leaf) == 3 for leaf in jax.tree.leaves(cache))
    rows = np.arange(3)
    for lengths in (PROMPT_LENGTHS + number for number in range(LONGEST - 5)):
        found = jax.nn.log_softmax(output.logits)
        np.testing.assert_allclose(found, expected[rows, lengths - 1], rtol=1e-4, atol=1e-4)
        output, cache = step(TOKENS[rows, lengths], cache)


@pytest.mark.parametrize("kind", ["additive", "copying"])
def test_a_ragged_batch_is_its_rows_alone_greedily_and_along_beams(kind):
    beams = {"num_beams": 3, "num_returned": 2, "length_penalty": 0.7}
    together = written(kind, generate, **GREEDY), written(kind, beam_search, **beams)
    for row in range(3):
        alone = written(kind, generate, row, **GREEDY), written(kind, beam_search, row, **beams)
        for whole, one in zip(together, alone, strict=True):
            count = len(one.tokens)
            rows = slice(count * row, count * (row + 1))
            np.testing.assert_array_equal(one.tokens, whole.tokens[rows])
            np.testing.assert_allclose(one.log_probs, whole.log_probs[rows], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(alone[1].scores, together[1].scores[2 * row : 2 * row + 2], atol=1e-4)


@pytest.mark.parametrize("kind", ["additive", "none"])
def test_one_beam_is_greedy_and_padding_of_sources_changes_nothing(kind):
    greedy = written(kind, generate, **GREEDY)
    padding = jnp.arange(7) >= SOURCES["lengths"][:, None]
    spoilt = {**SOURCES, "tokens": jnp.where(padding, 9, SOURCES["tokens"])}
    for other in (written(kind, beam_search, num_beams=1), written(kind, generate, sources=spoilt, **GREEDY)):
        np.testing.assert_array_equal(other.tokens, greedy.tokens)
        np.testing.assert_allclose(other.log_probs, greedy.log_probs, atol=1e-5)


@pytest.mark.parametrize(("kind", "how"), [("dot_unfed", "greedy"), ("copying", "beams")])
def test_extras_are_the_attention_with_which_each_token_was_written(kind, how):
    options = GREEDY if how == "greedy" else {"num_beams": 3}
    got = written(kind, generate if how == "greedy" else beam_search, extras=True, **options)
    decoder, params = made(kind)
    attention = got.extras["attention"]
    assert attention.shape == (3, 8, 7)
    for row, length in enumerate(PROMPT_LENGTHS):
        source = SOURCES["tokens"][row : row + 1, : SOURCES["lengths"][row]]
        text = np.concatenate([PROMPT[row, :length], got.tokens[row, : got.lengths[row]]])[None]
        weights = decoder.model.apply({"params": params}, source, text, method="attention")["cross"]
        expected = weights[0, 0, 0, length - 1 : -1]
        count, places = expected.shape
        np.testing.assert_allclose(attention[row, :count, :places], expected, atol=1e-4)
        assert not attention[row, count:].any() and not attention[row, :, places:].any()


def test_a_model_without_attention_has_no_extras():
    assert written("none", generate, extras=True, **GREEDY).extras == {}
