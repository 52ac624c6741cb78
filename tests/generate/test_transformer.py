"""Transformers that write: with the cache as without it, alone as in a batch, and without copies of the cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_params

from jaxgen.errors import UsageError
from jaxgen.generate import (
    CausalDecoder,
    Decoder,
    EncoderDecoder,
    Sampler,
    generate,
    loop,
    pad_prompts,
    score,
)
from jaxgen.models import GPT, T5, EncoderDecoderTransformer

pytestmark = pytest.mark.usefixtures("compiled_quickly")

VOCABULARY, LONGEST = 13, 12
SIZES = {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 4, "embedding_size": 16}
MODELS = {
    "gpt2": GPT(**SIZES, context_length=40),
    "llama": GPT(
        **SIZES,
        context_length=40,
        positions="rotary",
        norm="rms",
        activation="swiglu",
        use_bias=False,
        num_kv_heads=2,
        tied=False,
    ),
    "sinusoidal": GPT(**SIZES, context_length=40, positions="sinusoidal"),
    "t5": T5(**SIZES, head_size=5, feed_forward_size=24, num_buckets=8, max_distance=9),
    "t5_v1_1": T5(
        **SIZES, head_size=5, feed_forward_size=24, num_decoder_layers=3, activation="geglu", tied=False
    ),
    "vaswani": EncoderDecoderTransformer(**SIZES),
    "vaswani_learned": EncoderDecoderTransformer(
        **SIZES,
        source_vocabulary_size=VOCABULARY,
        positions="learned",
        context_length=40,
        num_decoder_layers=1,
        tied=False,
    ),
}
CAUSAL = ("gpt2", "llama", "sinusoidal")
# In bfloat16 a number has eight bits, and sums of other shapes are rounded in other places.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2**-5}
RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.integers(0, VOCABULARY, (3, LONGEST)), jnp.int32)
SOURCES = {
    "tokens": jnp.asarray(RNG.integers(0, VOCABULARY, (3, 9)), jnp.int32),
    "lengths": jnp.array([9, 4, 1]),
}
PROMPT_LENGTHS = jnp.array([4, 1, 6])


@functools.cache
def made(kind, dtype="float32"):
    """A decoder and its parameters."""
    model = MODELS[kind].clone(dtype=dtype)
    decoder = CausalDecoder(model) if kind in CAUSAL else EncoderDecoder(model)
    inputs = (TOKENS,) if kind in CAUSAL else (TOKENS, TOKENS)
    return decoder, random_params(model, *inputs, deviation=0.1)


def inputs_of(decoder, rows=slice(None)):
    return jax.tree.map(lambda leaf: leaf[rows], SOURCES) if isinstance(decoder, EncoderDecoder) else None


def uncached(decoder, params, tokens):
    """Logits of whole texts, by the model itself."""
    if isinstance(decoder, EncoderDecoder):
        source, lengths = SOURCES["tokens"], SOURCES["lengths"]
        return decoder.model.apply({"params": params}, source, tokens, source_lengths=lengths)
    return decoder.model.apply({"params": params}, tokens)[0]


def test_decoders_keep_the_contract():
    for kind in MODELS:
        decoder, params = made(kind)
        assert isinstance(decoder, Decoder)

        def leaves(params, decoder=decoder):
            inputs = inputs_of(decoder)
            return jax.tree.leaves(decoder.prefill(params, {}, inputs, TOKENS, PROMPT_LENGTHS, 20))

        assert all(leaf.shape[0] == 3 for leaf in jax.eval_shape(leaves, params))
    windows = {kind: made(kind)[0].max_length for kind in MODELS}
    assert windows["gpt2"] == windows["vaswani_learned"] == 40
    assert windows["t5"] is None and windows["vaswani"] is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", MODELS)
def test_with_the_cache_each_step_is_as_without(kind, dtype):
    decoder, params = made(kind, dtype)
    expected = np.asarray(jax.jit(functools.partial(uncached, decoder))(params, TOKENS))
    padding = jnp.arange(6) >= PROMPT_LENGTHS[:, None]
    prompt = jnp.where(padding, 7, TOKENS[:, :6])

    @jax.jit
    def begin(params, prompt):
        return decoder.prefill(params, {}, inputs_of(decoder), prompt, PROMPT_LENGTHS, LONGEST)

    step = jax.jit(lambda params, tokens, cache: decoder.decode_step(params, {}, tokens, cache))
    output, cache = begin(params, prompt)
    tolerance = TOLERANCE[dtype] * np.abs(expected).max()
    for lengths in (PROMPT_LENGTHS + number for number in range(LONGEST - 6)):
        rows = np.arange(3)
        np.testing.assert_allclose(output.logits, expected[rows, lengths - 1], atol=tolerance)
        output, cache = step(params, TOKENS[rows, lengths], cache)


@pytest.mark.parametrize("kind", ["llama", "t5", "vaswani"])
def test_a_row_of_a_batch_is_what_is_written_alone(kind):
    decoder, params = made(kind)
    prompts = [TOKENS[row, :length].tolist() for row, length in enumerate(PROMPT_LENGTHS)]
    options = {"max_tokens": 14, "sampler": Sampler.of(temperature=0.0), "stop_tokens": (3,)}
    got = generate(
        decoder, params, {}, *pad_prompts(prompts), jax.random.key(0), inputs=inputs_of(decoder), **options
    )
    for row, prompt in enumerate(prompts):
        alone = generate(
            decoder,
            params,
            {},
            *pad_prompts([prompt]),
            jax.random.key(0),
            inputs=inputs_of(decoder, slice(row, row + 1)),
            **options,
        )
        np.testing.assert_array_equal(alone.tokens[0], got.tokens[row])
        np.testing.assert_allclose(alone.log_probs[0], got.log_probs[row], atol=1e-4)
    written = [[*prompt, *got.tokens[row, : got.lengths[row]].tolist()] for row, prompt in enumerate(prompts)]
    scores = score(decoder, params, {}, *pad_prompts(written), inputs=inputs_of(decoder))
    for row, prompt in enumerate(prompts):
        new = scores[row, len(prompt) : len(written[row])]
        np.testing.assert_allclose(new, got.log_probs[row, : got.lengths[row]], atol=1e-4)


@pytest.mark.parametrize(("kind", "block"), [("t5", 0), ("t5_v1_1", 1), ("vaswani_learned", 0)])
def test_extras_are_the_attention_of_the_last_block_but_one(kind, block):
    decoder, params = made(kind)
    prompt = np.asarray(TOKENS[:, :6])
    told = (decoder, params, {}, prompt, np.asarray(PROMPT_LENGTHS))
    greedy = {"max_tokens": 5, "sampler": Sampler.of(temperature=0.0), "stop_tokens": (3,)}
    got = generate(*told, jax.random.key(0), **greedy, inputs=inputs_of(decoder), extras=True)
    attention = got.extras["attention"]
    of_whole_text = jax.jit(functools.partial(decoder.model.apply, method="attention"))
    for row, length in enumerate(PROMPT_LENGTHS):
        source = SOURCES["tokens"][row : row + 1, : SOURCES["lengths"][row]]
        text = np.concatenate([prompt[row, :length], got.tokens[row, : got.lengths[row]]])[None]
        weights = of_whole_text({"params": params}, source, text)["cross"]
        read = slice(int(length) - 1, text.shape[1] - 1)
        expected = weights[0, block, :, read].mean(axis=0)
        written, places = expected.shape
        np.testing.assert_allclose(attention[row, :written, :places], expected, atol=1e-5)
        assert not attention[row, written:].any() and not attention[row, :, places:].any()


def test_what_is_padding_in_a_source_changes_nothing():
    decoder, params = made("t5")
    padding = jnp.arange(9) >= SOURCES["lengths"][:, None]

    def written(fill):
        inputs = {**SOURCES, "tokens": jnp.where(padding, fill, SOURCES["tokens"])}
        return generate(
            decoder,
            params,
            {},
            np.zeros((3, 1), np.int32),
            np.ones(3, np.int32),
            jax.random.key(0),
            max_tokens=8,
            inputs=inputs,
        )

    clean, spoilt = written(0), written(9)
    np.testing.assert_array_equal(clean.tokens, spoilt.tokens)
    np.testing.assert_array_equal(clean.log_probs, spoilt.log_probs)


def test_the_loop_writes_into_its_cache_and_copies_none():
    """What a step needs beside the cache is less than the cache of one layer."""
    decoder, params = CausalDecoder(MODELS["llama"].clone(context_length=1024)), made("llama")[1]
    how = loop.How(decoder, Sampler.of(temperature=0.0), (), 1, False)
    prompt, lengths = np.zeros((8, 16), np.int32), np.full(8, 16, np.int32)
    options = {"new_tokens": 1008, "max_length": 1024}
    read, written = loop.start(how, params, {}, None, prompt, lengths, **options)
    leaves, tree = jax.tree.flatten((read, written))

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(leaves):
        read, written = jax.tree.unflatten(tree, leaves)
        return jax.tree.leaves(loop.advance(how, params, {}, read, written, None, 500))

    compiled = advance.lower(leaves).compile()
    cache = sum(part.nbytes for part in read[1]["layers"][0]["own"].cache["key"])
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * cache


def test_more_than_the_window_is_refused():
    decoder, params = made("gpt2")
    with pytest.raises(UsageError, match="window of 40"):
        generate(decoder, params, {}, *pad_prompts([[1] * 30]), jax.random.key(0), max_tokens=11)
