"""The loop that writes, for every autoregressive model: `generate` in one go, `stream` chunk by chunk.

Both run the same two compiled functions. `_start` reads the prompts and draws each row's first token; `_advance` goes on
until there are so many tokens, a number that it takes as an argument, or all rows have ended. What is drawn depends on
nothing but the key, the prompt's place in the batch, the sample's number and the token's position: not on the chunks, on
the other rows, or on what shapes are padded to.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32, Integer, Key

from jaxgen.errors import UsageError
from jaxgen.generate.contract import DecodeOutput, Decoder
from jaxgen.generate.prompts import Request, prepare
from jaxgen.generate.sampling import Sampler, check_token
from jaxgen.generate.text import Row, Text, read_chunk
from jaxgen.metrics import AnyArray

_CHECK_EVERY = 32  # tokens between looks for stop strings


@dataclass(frozen=True)
class Generated:
    """What was written, or a chunk of it; NumPy arrays. The samples of a prompt lie next to each other.

    Attributes:
        tokens: without the prompt; 0 behind a row's end.
        lengths: tokens of each row. A stop token counts, and so does the token that completes a stop string.
        log_probs: of the tokens, under the model's own distribution, whatever they were drawn from; 0 behind a row's end.
        stopped: whether a row's last token here is a stop token.
        extras: what the model gave beside the logits that a token was drawn from, as [batch, time, ...]; zero behind a
            row's end. Empty unless it was asked for.
        texts: of each row, without stop tokens and from a stop string on; in a chunk, what is new. Empty without `text`.
    """

    tokens: Int32[np.ndarray, "batch time"]
    lengths: Int32[np.ndarray, " batch"]
    log_probs: Float32[np.ndarray, "batch time"]
    stopped: Bool[np.ndarray, " batch"]
    extras: Any
    texts: tuple[str, ...] = ()


def generate(
    decoder: Decoder,
    params: Any,
    model_state: Any,
    prompt: Integer[AnyArray, "prompts time"],
    prompt_lengths: Integer[AnyArray, " prompts"],
    rng: Key[Array, ""],
    *,
    max_tokens: int,
    sampler: Sampler | None = None,
    stop_tokens: tuple[int, ...] = (),
    text: Text | None = None,
    inputs: Any = None,
    num_samples: int = 1,
    extras: bool = False,
) -> Generated:
    """Writes on from prompts; see `stream`, which takes the same and gives the same in chunks.

    Returns:
        Tokens [prompts * num_samples, max_tokens], and what belongs to them.

    Raises:
        UsageError: as `stream` does.
    """
    chunk = _CHECK_EVERY if text is not None and text.stop_strings else max(1, max_tokens)
    chunks = list(
        stream(
            decoder,
            params,
            model_state,
            prompt,
            prompt_lengths,
            rng,
            max_tokens=max_tokens,
            chunk=chunk,
            sampler=sampler,
            stop_tokens=stop_tokens,
            text=text,
            inputs=inputs,
            num_samples=num_samples,
            extras=extras,
        )
    )

    def joined(*parts: np.ndarray) -> np.ndarray:
        missing = max_tokens - sum(part.shape[1] for part in parts)
        whole = np.concatenate(parts, axis=1)
        return np.pad(whole, ((0, 0), (0, missing), *((0, 0),) * (whole.ndim - 2)))

    return Generated(
        tokens=joined(*(c.tokens for c in chunks)),
        lengths=np.sum([c.lengths for c in chunks], axis=0, dtype=np.int32),
        log_probs=joined(*(c.log_probs for c in chunks)),
        stopped=np.any([c.stopped for c in chunks], axis=0),
        extras=jax.tree.map(joined, *(c.extras for c in chunks)),
        texts=tuple(map("".join, zip(*(c.texts for c in chunks), strict=True))),
    )


def stream(
    decoder: Decoder,
    params: Any,
    model_state: Any,
    prompt: Integer[AnyArray, "prompts time"],
    prompt_lengths: Integer[AnyArray, " prompts"],
    rng: Key[Array, ""],
    *,
    max_tokens: int,
    chunk: int = 16,
    sampler: Sampler | None = None,
    stop_tokens: tuple[int, ...] = (),
    text: Text | None = None,
    inputs: Any = None,
    num_samples: int = 1,
    extras: bool = False,
) -> Iterator[Generated]:
    """Writes on from prompts, and gives what is written chunk by chunk, as it comes.

    It is compiled once for each decoder, sampler, stop tokens, number of rows, and bucket of lengths: those of prompts and
    of new tokens are padded to powers of two.

    Args:
        decoder: the model.
        params: its parameters.
        model_state: its other variables.
        prompt: tokens, padded at their end with anything; see `pad_prompts`.
        prompt_lengths: those of each row that aren't padding.
        rng: the key that everything is drawn with.
        max_tokens: new tokens of a row, at most.
        chunk: tokens that are given at a time; what is written doesn't depend on it.
        sampler: how tokens are drawn; by default from the model's own distribution.
        stop_tokens: each ends the row that draws it.
        text: to have texts as well, and to end rows at stop strings.
        inputs: of an encoder, see `Decoder.prefill`.
        num_samples: rows that are written for each prompt.
        extras: whether to give those, too.

    Returns:
        The chunks, until all rows have ended.

    Raises:
        UsageError: for an empty prompt, numbers below 1, more tokens than the model's window, or stop tokens and biases
            of tokens that the vocabulary doesn't have; before anything is computed, but for the last.
    """
    for name, value in (("max tokens", max_tokens), ("num samples", num_samples), ("chunk", chunk)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    request = prepare(prompt, prompt_lengths, max_tokens, decoder.max_length)
    rows = []
    if text is not None:
        told = zip(request.prompt, request.lengths, strict=True)
        rows = [Row(text, tokens[:length]) for tokens, length in told for _ in range(num_samples)]
    how = _How(decoder, sampler or Sampler(), tuple(stop_tokens), num_samples, extras)
    return _chunks(how, params, model_state, request, inputs, rng, max_tokens, chunk, rows)


@dataclass(frozen=True)
class _How:
    """What is compiled in."""

    decoder: Decoder
    sampler: Sampler
    stop_tokens: tuple[int, ...]
    num_samples: int
    extras: bool


@struct.dataclass
class _Written:
    """What has been written so far, on the device; `position` tokens of each row, ended or not."""

    position: Int32[Array, ""]
    tokens: Int32[Array, "batch time"]
    log_probs: Float32[Array, "batch time"]
    lengths: Int32[Array, " batch"]
    ended: Bool[Array, " batch"]
    stopped: Bool[Array, " batch"]
    last: Int32[Array, " batch"]
    counts: Any
    uniforms: Any
    extras: Any


def _chunks(
    how: _How,
    params: Any,
    model_state: Any,
    request: Request,
    inputs: Any,
    rng: Key[Array, ""],
    max_tokens: int,
    chunk: int,
    rows: list[Row],
) -> Iterator[Generated]:
    cache, written = _start(
        how,
        params,
        model_state,
        inputs,
        request.prompt,
        request.lengths,
        rng,
        request.new_tokens,
        request.max_length,
    )
    lengths, given, ended = 0, 0, False
    while not ended:
        until = min(given + chunk, max_tokens)
        cache, written = _advance(how, params, model_state, cache, written, until)
        position = int(written.position)
        new_lengths, stopped = np.array(written.lengths) - lengths, np.array(written.stopped)
        stopped &= new_lengths > 0
        tokens = np.array(written.tokens)[:, given:position]
        ends = read_chunk(rows, tokens, new_lengths, stopped)
        if (ends >= 0).any():
            at_string = ends >= 0
            new_lengths = np.where(at_string, ends, new_lengths).astype(np.int32)
            stopped &= ~at_string
            written = written.replace(
                lengths=jnp.asarray(lengths + new_lengths), ended=written.ended | at_string
            )
        row_ended = np.array(written.ended) | (position == max_tokens)
        ended = bool(row_ended.all())
        yield _cut(
            written,
            slice(given, position),
            new_lengths,
            stopped,
            tuple(row.piece(last=bool(end)) for row, end in zip(rows, row_ended, strict=True))
            if rows
            else (),
        )
        given, lengths = position, lengths + new_lengths


def _cut(
    written: _Written,
    positions: slice,
    lengths: Int32[np.ndarray, " batch"],
    stopped: Bool[np.ndarray, " batch"],
    texts: tuple[str, ...],
) -> Generated:
    """Takes a chunk to the host, with zeros behind the rows' ends."""
    inside = np.arange(positions.stop - positions.start) < lengths[:, None]

    def take(leaf: Array) -> np.ndarray:
        part = np.asarray(leaf)[:, positions]
        return np.where(
            inside.reshape(*inside.shape, *(1,) * (part.ndim - 2)), part, np.zeros((), part.dtype)
        )

    return Generated(
        take(written.tokens),
        lengths,
        take(written.log_probs),
        stopped,
        jax.tree.map(take, written.extras),
        texts,
    )


@functools.partial(jax.jit, static_argnames=("how", "new_tokens", "max_length"))
def _start(
    how: _How,
    params: Any,
    model_state: Any,
    inputs: Any,
    prompt: Int32[Array, "prompts time"],
    lengths: Int32[Array, " prompts"],
    rng: Key[Array, ""],
    new_tokens: int,
    max_length: int,
) -> tuple[Any, _Written]:
    """Reads the prompts once each, and draws the first token of each row."""
    output, cache = how.decoder.prefill(params, model_state, inputs, prompt, lengths, max_length)
    # Copied, as the loop takes the cache's memory: what is in it as it came in belongs to the caller.
    output, cache = jax.tree.map(
        lambda leaf: jnp.copy(jnp.repeat(leaf, how.num_samples, axis=0)), (output, cache)
    )
    batch, vocabulary = output.logits.shape
    for token in how.stop_tokens:
        check_token("stop token", token, vocabulary)
    counts = None
    if how.sampler.needs_counts:
        valid = jnp.arange(prompt.shape[1]) < lengths[:, None]
        counts = jnp.zeros((len(prompt), vocabulary), jnp.int32)
        counts = counts.at[jnp.arange(len(prompt))[:, None], prompt].add(valid.astype(jnp.int32))
        counts = jnp.repeat(counts, how.num_samples, axis=0)
    uniforms = None if how.sampler.greedy else _uniforms(rng, len(prompt), how.num_samples, new_tokens)
    extras = output.extras if how.extras else {}
    none = jnp.zeros(batch, bool)
    written = _Written(
        position=jnp.int32(0),
        tokens=jnp.zeros((batch, new_tokens), jnp.int32),
        log_probs=jnp.zeros((batch, new_tokens), jnp.float32),
        lengths=jnp.zeros(batch, jnp.int32),
        ended=none,
        stopped=none,
        last=jnp.zeros(batch, jnp.int32),
        counts=counts,
        uniforms=uniforms,
        extras=jax.tree.map(lambda leaf: jnp.zeros((batch, new_tokens, *leaf.shape[1:]), leaf.dtype), extras),
    )
    return cache, _write(how, written, output)


@functools.partial(jax.jit, static_argnames="how", donate_argnames="cache")
def _advance(
    how: _How, params: Any, model_state: Any, cache: Any, written: _Written, until: Int32[Array, ""]
) -> tuple[Any, _Written]:
    """Goes on until there are so many tokens, or all rows have ended."""

    def goes_on(loop: tuple[Any, _Written]) -> Array:
        return (loop[1].position < until) & ~loop[1].ended.all()

    def step(loop: tuple[Any, _Written]) -> tuple[Any, _Written]:
        cache, written = loop
        output, cache = how.decoder.decode_step(params, model_state, written.last, cache)
        return cache, _write(how, written, output)

    return lax.while_loop(goes_on, step, (cache, written))


def _write(how: _How, written: _Written, output: DecodeOutput) -> _Written:
    """Draws each row's next token, and notes what belongs to it. Rows that have ended go on, beyond their length."""
    position, logits = written.position, output.logits.astype(jnp.float32)
    uniforms = None if written.uniforms is None else written.uniforms[:, position]
    token = how.sampler(logits, written.counts, uniforms)
    log_prob = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
    is_stop = jnp.isin(token, jnp.array(how.stop_tokens, jnp.int32)) & ~written.ended
    counts = written.counts
    if counts is not None:
        counts += token[:, None] == jnp.arange(logits.shape[-1])

    def put(whole: Array, now: Array) -> Array:
        return lax.dynamic_update_index_in_dim(whole, now, position, axis=1)

    return written.replace(
        position=position + 1,
        tokens=put(written.tokens, token),
        log_probs=put(written.log_probs, log_prob),
        lengths=written.lengths + ~written.ended,
        ended=written.ended | is_stop,
        stopped=written.stopped | is_stop,
        last=token,
        counts=counts,
        extras=jax.tree.map(put, written.extras, output.extras if how.extras else {}),
    )


def _uniforms(rng: Key[Array, ""], prompts: int, samples: int, positions: int) -> Float[Array, "batch time"]:
    """Draws all numbers ahead: a key for each prompt, sample and position, so that a row's don't depend on the shapes."""

    def fold(keys: Array, count: int) -> Array:
        return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, jnp.arange(count)).reshape(
            -1
        )

    keys = fold(fold(fold(rng[None], prompts), samples), positions)
    return jax.vmap(jax.random.uniform)(keys).reshape(prompts * samples, positions)
