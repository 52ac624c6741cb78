"""Compilation of transformers that write: two functions beside the draws, and no more within a bucket of lengths."""

import contextlib

import jax
import numpy as np
import pytest
from weights import random_params

from jaxgen.generate import CausalDecoder, EncoderDecoder, generate, loop, pad_prompts
from jaxgen.models import GPT, T5

VOCABULARY = 17  # of no other test's models, whose compiled functions would serve here as well
SIZES = {"vocabulary_size": VOCABULARY, "num_layers": 1, "num_heads": 2, "embedding_size": 8}
DECODERS = {
    "gpt": CausalDecoder(GPT(**SIZES, context_length=64)),
    "t5": EncoderDecoder(T5(**SIZES, head_size=4, feed_forward_size=8)),
}
COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def compilations():
    """Gives a list of what is compiled meanwhile, operations outside of `jax.jit` among them."""
    found = []

    def listen(event, seconds, **told):
        if event == COMPILED:
            found.append(told.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("kind", DECODERS)
def test_two_functions_serve_a_bucket(kind):
    decoder = DECODERS[kind]
    texts = (np.zeros((1, 2), np.int32),) * (2 if kind == "t5" else 1)
    params = random_params(decoder.model, *texts)

    def write(prompts, max_tokens, source_length, seed):
        prompt, lengths = pad_prompts(prompts)
        sources = {"tokens": np.ones((2, 8), np.int32), "lengths": np.full(2, source_length, np.int32)}
        rng = jax.random.key(seed)
        inputs = sources if kind == "t5" else None
        generate(decoder, params, {}, prompt, lengths, rng, max_tokens=max_tokens, inputs=inputs)

    before = loop.start._cache_size(), loop.advance._cache_size()
    with compilations() as first:
        write([[1], [2, 3]], 3, 8, 0)
    assert (loop.start._cache_size(), loop.advance._cache_size()) == (before[0] + 1, before[1] + 1)
    assert len(first) >= 2, "the listener hears of compilations"
    with compilations() as others:
        write([[1] * 16, [2]], 16, 5, 1)
        write([[4] * 7, [2] * 9], 11, 1, 2)
    assert others == []
    with compilations() as larger:
        write([[1] * 17, [2]], 3, 8, 3)
    assert loop.start._cache_size() == before[0] + 2 and larger


def test_kernels_alone_are_turned_whatever_the_parameters_are():
    matrix = np.ones((2, 3))
    turned = loop.turned_kernels({"layer": {"kernel": matrix, "bias": matrix}, "kernel": matrix[0]})
    assert {name: leaf.shape for name, leaf in turned["layer"].items()} == {"kernel": (3, 2), "bias": (2, 3)}
    assert turned["kernel"].shape == (3,) and loop.turned_kernels(matrix).shape == (2, 3)
