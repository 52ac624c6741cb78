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
from jaxgen.generate.sampling import History, Sampler, check_token
from jaxgen.models.cache import Shared


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
    history: Any
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
    vocabulary = output.logits.shape[-1]
    check_stop_tokens(how.stop_tokens, vocabulary)
    counts = history = None
    if how.sampler.needs_counts:
        valid = (jnp.arange(prompt.shape[1]) < lengths[:, None]).astype(jnp.int32)
        counts = jnp.zeros((len(prompt), vocabulary), jnp.int32)
        counts = counts.at[jnp.arange(len(prompt))[:, None], prompt].add(valid)
    if how.sampler.needs_history:
        history = History(jnp.pad(prompt, ((0, 0), (0, new_tokens))), lengths)
    output, cache, counts, history = repeat_rows(
        (asked(output, how.extras), cache, counts, history), how.num_samples
    )
    batch = len(output.logits)
    written = Written(
        position=jnp.int32(0),
        tokens=jnp.zeros((batch, new_tokens), jnp.int32),
        log_probs=jnp.zeros((batch, new_tokens), jnp.float32),
        lengths=jnp.zeros(batch, jnp.int32),
        ended=jnp.zeros(batch, bool),
        stopped=jnp.zeros(batch, bool),
        counts=counts,
        history=history,
        extras=make_room(output.extras, new_tokens),
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
    one_row = len(written.tokens) == 1
    ready = turned_kernels(params) if one_row else params

    def goes_on(loop: tuple[Any, Written]) -> Array:
        return (loop[1].position < until) & ~loop[1].ended.all()

    def step(loop: tuple[Any, Written]) -> tuple[Any, Written]:
        (output, cache), written = loop
        token, written = _write(how, written, output, uniforms)
        own = turned_kernels(ready) if one_row else ready
        output, cache = how.decoder.decode_step(own, model_state, token, cache)
        return (asked(output, how.extras), cache), written

    return lax.while_loop(goes_on, step, (read, written))


def turned_kernels(params: Any) -> Any:
    """Transposes what is called `kernel` and has two axes; twice gives back what was there.

    Of a single row XLA's products on CPUs read kernels column by column, and would turn them all anew for each token:
    half of the time of a GPT of 6 layers. Turned before the loop, and named the old way in it, they lie as is wanted.
    """

    def turn(path: Any, leaf: Any) -> Any:
        named = path[-1:] == (jax.tree_util.DictKey("kernel"),)
        return leaf.T if named and leaf.ndim == 2 else leaf

    return jax.tree_util.tree_map_with_path(turn, params)


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
    drawn_at = None if uniforms is None else uniforms[:, position]
    token = how.sampler(logits, written.counts, drawn_at, written.history)
    log_prob = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0] - log_normalizer(logits)
    is_stop = is_any_of(token, how.stop_tokens) & ~written.ended
    counts = written.counts
    if counts is not None:
        counts += token[:, None] == jnp.arange(logits.shape[-1])
    return token, Written(
        position=position + 1,
        tokens=put(written.tokens, token, position),
        log_probs=put(written.log_probs, log_prob, position),
        lengths=written.lengths + ~written.ended,
        ended=written.ended | is_stop,
        stopped=written.stopped | is_stop,
        counts=counts,
        history=None if written.history is None else written.history.and_then(token),
        extras=put(written.extras, output.extras, position),
    )


def asked(output: DecodeOutput, extras: bool) -> DecodeOutput:
    """Leaves out the extras that nobody asked for."""
    return DecodeOutput(output.logits, output.extras if extras else {})


def repeat_rows(tree: Any, times: int) -> Any:
    """Gives each row so often, next to each other, but for what is shared."""

    def repeat(node: Any) -> Any:
        return node if isinstance(node, Shared) else jnp.repeat(node, times, axis=0)

    return jax.tree.map(repeat, tree, is_leaf=lambda node: isinstance(node, Shared))


def make_room(now: Any, time: int) -> Any:
    """Gives zeros [batch, time, ...] for leaves [batch, ...]."""
    return jax.tree.map(lambda leaf: jnp.zeros((len(leaf), time, *leaf.shape[1:]), leaf.dtype), now)


def put(whole: Any, now: Any, position: Int32[Array, ""]) -> Any:
    """Writes leaves [batch, ...] at a position of leaves [batch, time, ...]."""

    def one(whole: Array, now: Array) -> Array:
        return lax.dynamic_update_index_in_dim(whole, now, position, axis=1)

    return jax.tree.map(one, whole, now)


def is_any_of(tokens: Int32[Array, "..."], wanted: tuple[int, ...]) -> Bool[Array, "..."]:
    """Tells which tokens are among those wanted."""
    return jnp.isin(tokens, jnp.array(wanted, jnp.int32))


def check_stop_tokens(tokens: tuple[int, ...], vocabulary_size: int) -> None:
    """Refuses stop tokens that the vocabulary doesn't have."""
    for token in tokens:
        check_token("stop token", token, vocabulary_size)
