"""The loop that writes, for every autoregressive model: `generate` in one go, `stream` chunk by chunk.

Both run the same two compiled functions, `loop.start` and `loop.advance`. What is drawn depends on nothing but the key,
the prompt's place in the batch, the sample's number and the token's position: not on the chunks, on the other rows, or
on what shapes are padded to.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, Integer, Key, Shaped

from jaxgen.generate.contract import Decoder
from jaxgen.generate.loop import How, Written, advance, draw_uniforms, start
from jaxgen.generate.prompts import Request, check_numbers, prepare
from jaxgen.generate.sampling import Sampler, check_token
from jaxgen.generate.text import Row, Text, make_rows, read_chunk
from jaxgen.metrics import AnyArray

_CHECK_EVERY = 32  # tokens between looks for stop strings


@dataclass(frozen=True)
class Generated:
    """What was written, or a chunk of it; NumPy arrays. The samples of a prompt lie next to each other.

    Attributes:
        tokens: without the prompt; 0 behind a row's end.
        lengths: tokens of each row. A stop token counts, and so does the token that completes a stop string.
        log_probs: of the tokens, under the model's own distribution, whatever they were drawn from; 0 behind a row's
            end.
        stopped: whether a row's last token here is a stop token.
        extras: what the model gave beside the logits that a token was drawn from, as [batch, time, ...]; zero behind a
            row's end. Empty unless it was asked for.
        texts: of each row, up to a stop token or stop string; in a chunk, what is new. Empty without `text`.
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
        lengths=np.stack([c.lengths for c in chunks]).sum(axis=0, dtype=np.int32),
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

    It is compiled once for each decoder, sampler, stop tokens, number of rows, and bucket of lengths: those of prompts
    and of new tokens are padded to powers of two.

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
        UsageError: for an empty prompt, numbers below 1, more tokens than the model's window, or prompts, stop tokens
            and biases of tokens that the vocabulary doesn't have; before anything is computed, but for the last.
    """
    check_numbers(max_tokens=max_tokens, num_samples=num_samples, chunk=chunk)
    request = prepare(prompt, prompt_lengths, max_tokens, decoder.max_length)
    rows = make_rows(text, request.prompt, request.lengths, num_samples)
    how = How(decoder, sampler or Sampler(), tuple(stop_tokens), num_samples, extras)
    return _chunks(how, params, model_state, request, inputs, rng, max_tokens, chunk, rows)


def _chunks(
    how: How,
    params: Any,
    model_state: Any,
    request: Request,
    inputs: Any,
    rng: Key[Array, ""],
    max_tokens: int,
    chunk: int,
    rows: list[Row],
) -> Iterator[Generated]:
    read, written = start(
        how,
        params,
        model_state,
        inputs,
        request.prompt,
        request.lengths,
        new_tokens=request.new_tokens,
        max_length=request.max_length,
    )
    prompts, vocabulary = len(request.lengths), read[0].logits.shape[-1]
    within = np.arange(request.prompt.shape[1]) < request.lengths[:, None]
    for token in (request.prompt[within].min(), request.prompt[within].max()):
        check_token("prompt token", int(token), vocabulary)
    uniforms = None
    if not how.sampler.greedy:
        uniforms = draw_uniforms(rng, prompts, how.num_samples, request.new_tokens)
    lengths = np.zeros(prompts * how.num_samples, np.int32)
    given, ended = 0, False
    while not ended:
        until = min(given + chunk, max_tokens)
        read, written = advance(how, params, model_state, read, written, uniforms, until)
        position = int(written.position)
        new_lengths, stopped = np.array(written.lengths) - lengths, np.array(written.stopped)
        stopped &= new_lengths > 0
        tokens = np.array(written.tokens)[:, given:position]
        ends = read_chunk(rows, tokens, new_lengths, stopped) if rows else np.full(len(lengths), -1)
        if (at_string := ends >= 0).any():
            new_lengths = np.where(at_string, ends, new_lengths).astype(np.int32)
            stopped &= ~at_string
            written = dataclasses.replace(
                written, lengths=jnp.asarray(lengths + new_lengths), ended=written.ended | at_string
            )
        row_ended = np.array(written.ended) | (position == max_tokens)
        texts = tuple(row.piece(last=bool(row_ended[number])) for number, row in enumerate(rows))
        yield _cut(written, slice(given, position), new_lengths, stopped, texts)
        given, lengths, ended = position, lengths + new_lengths, bool(row_ended.all())


def _cut(
    written: Written,
    positions: slice,
    lengths: Int32[np.ndarray, " batch"],
    stopped: Bool[np.ndarray, " batch"],
    texts: tuple[str, ...],
) -> Generated:
    """Takes a chunk to the host, with zeros behind the rows' ends."""

    def take(leaf: Array) -> np.ndarray:
        return zero_behind(np.asarray(leaf)[:, positions], lengths)

    return Generated(
        take(written.tokens),
        lengths,
        take(written.log_probs),
        stopped,
        jax.tree.map(take, written.extras),
        texts,
    )


def zero_behind(
    rows: Shaped[np.ndarray, "batch time ..."], lengths: Int32[np.ndarray, " batch"]
) -> np.ndarray:
    """Gives the rows with zeros behind their ends."""
    inside = np.arange(rows.shape[1]) < lengths[:, None]
    kept = inside.reshape(*inside.shape, *(1,) * (rows.ndim - 2))
    return np.where(kept, rows, np.zeros((), rows.dtype))
