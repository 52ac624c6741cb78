"""The loop that writes: two compiled functions, and what goes from one to the next."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from jaxgen.generate.contract import DecodeOutput, Decoder
from jaxgen.generate.drawing import log_normalizer
from jaxgen.generate.sampling import Sampler, check_token


@dataclass(frozen=True)
class How:
    """What is compiled in."""

    decoder: Decoder
    sampler: Sampler
    stop_tokens: tuple[int, ...]
    num_samples: int
    extras: bool


@struct.dataclass
class Written:
    """What has been written so far, on the device; `position` tokens of each row, ended or not."""

    position: Int32[Array, ""]
    tokens: Int32[Array, "batch time"]
    log_probs: Float32[Array, "batch time"]
    lengths: Int32[Array, " batch"]
    ended: Bool[Array, " batch"]
    stopped: Bool[Array, " batch"]
    counts: Any
    extras: Any


@functools.partial(jax.jit, static_argnames=("how", "new_tokens", "max_length"))
def start(
    how: How,
    params: Any,
    model_state: Any,
    inputs: Any,
    prompt: Int32[Array, "prompts time"],
    lengths: Int32[Array, " prompts"],
    *,
    new_tokens: int,
    max_length: int,
) -> tuple[tuple[DecodeOutput, Any], Written]:
    """Reads the prompts, once each, and makes room for what will be written.

    Returns:
        What was read: the output and the cache, a row for each sample; and what was written, nothing yet.
    """
    output, cache = how.decoder.prefill(params, model_state, inputs, prompt, lengths, max_length)

    def repeat(leaf: Array) -> Array:
        return jnp.repeat(leaf, how.num_samples, axis=0)

    output, cache = jax.tree.map(repeat, (_asked(how, output), cache))
    batch, vocabulary = output.logits.shape
    for token in how.stop_tokens:
        check_token("stop token", token, vocabulary)
    counts = None
    if how.sampler.needs_counts:
        valid = (jnp.arange(prompt.shape[1]) < lengths[:, None]).astype(jnp.int32)
        counts = jnp.zeros((len(prompt), vocabulary), jnp.int32)
        counts = repeat(counts.at[jnp.arange(len(prompt))[:, None], prompt].add(valid))

    def room(leaf: Array) -> Array:
        return jnp.zeros((batch, new_tokens, *leaf.shape[1:]), leaf.dtype)

    written = Written(
        position=jnp.int32(0),
        tokens=room(jnp.zeros(batch, jnp.int32)),
        log_probs=room(jnp.zeros(batch, jnp.float32)),
        lengths=jnp.zeros(batch, jnp.int32),
        ended=jnp.zeros(batch, bool),
        stopped=jnp.zeros(batch, bool),
        counts=counts,
        extras=jax.tree.map(room, output.extras),
    )
    return (output, cache), written


@functools.partial(jax.jit, static_argnames="how", donate_argnames="read")
def advance(
    how: How,
    params: Any,
    model_state: Any,
    read: tuple[DecodeOutput, Any],
    written: Written,
    uniforms: Float[Array, "batch time"] | None,
    until: int | Int32[Array, ""],
) -> tuple[tuple[DecodeOutput, Any], Written]:
    """Goes on until there are so many tokens, or all rows have ended."""

    def goes_on(loop: tuple[Any, Written]) -> Array:
        return (loop[1].position < until) & ~loop[1].ended.all()

    def step(loop: tuple[Any, Written]) -> tuple[Any, Written]:
        (output, cache), written = loop
        token, written = _write(how, written, output, uniforms)
        output, cache = how.decoder.decode_step(params, model_state, token, cache)
        return (_asked(how, output), cache), written

    return lax.while_loop(goes_on, step, (read, written))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def draw_uniforms(
    rng: Key[Array, ""], prompts: int, samples: int, positions: int
) -> Float[Array, "batch time"]:
    """Draws all numbers ahead, by a key for each prompt, sample and position: a row's don't depend on the shapes."""

    def fold(keys: Array, count: int) -> Array:
        every = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
        return every(keys, jnp.arange(count)).reshape(-1)

    keys = fold(fold(fold(rng[None], prompts), samples), positions)
    return jax.vmap(jax.random.uniform)(keys).reshape(prompts * samples, positions)


def _write(
    how: How, written: Written, output: DecodeOutput, uniforms: Float[Array, "batch time"] | None
) -> tuple[Int32[Array, " batch"], Written]:
    """Draws each row's next token, and notes what belongs to it. Rows that have ended go on, beyond their length."""
    position, logits = written.position, output.logits.astype(jnp.float32)
    token = how.sampler(logits, written.counts, None if uniforms is None else uniforms[:, position])
    log_prob = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0] - log_normalizer(logits)
    is_stop = jnp.isin(token, jnp.array(how.stop_tokens, jnp.int32)) & ~written.ended
    counts = written.counts
    if counts is not None:
        counts += token[:, None] == jnp.arange(logits.shape[-1])

    def put(whole: Array, now: Array) -> Array:
        return lax.dynamic_update_index_in_dim(whole, now, position, axis=1)

    return token, Written(
        position=position + 1,
        tokens=put(written.tokens, token),
        log_probs=put(written.log_probs, log_prob),
        lengths=written.lengths + ~written.ended,
        ended=written.ended | is_stop,
        stopped=written.stopped | is_stop,
        counts=counts,
        extras=jax.tree.map(put, written.extras, output.extras),
    )


def _asked(how: How, output: DecodeOutput) -> DecodeOutput:
    return DecodeOutput(output.logits, output.extras if how.extras else {})
