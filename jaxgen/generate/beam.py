"""Beam search: the likeliest texts, looked for along several at once, for every autoregressive model.

The rules are those of Hugging Face's `GenerationMixin._beam_search`, so that the same model gives the same texts there.
Where that library goes on with hypotheses that can't be (of fewer tokens to choose from than beams), here they have a
score of minus infinity and never come back.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int32, Integer

from jaxgen.errors import UsageError
from jaxgen.generate.contract import DecodeOutput, Decoder
from jaxgen.generate.decode import Generated, zero_behind
from jaxgen.generate.loop import asked, check_stop_tokens, is_any_of, make_room, put, repeat_rows
from jaxgen.generate.prompts import Request, check_numbers, prepare
from jaxgen.generate.text import Text, make_rows, read_chunk
from jaxgen.metrics import AnyArray
from jaxgen.models.cache import several_texts, taken_texts

_BLOCK = 64


@dataclass(frozen=True)
class Beams(Generated):
    """The best texts found; those of a prompt lie next to each other, the best one first.

    Attributes:
        scores: what they are ranked by, see `beam_search`; minus infinity, with a length of 0, where there are fewer
            texts than were asked for.
    """

    scores: Float32[np.ndarray, " batch"] = field(kw_only=True)


def beam_search(
    decoder: Decoder,
    params: Any,
    model_state: Any,
    prompt: Integer[AnyArray, "prompts time"],
    prompt_lengths: Integer[AnyArray, " prompts"],
    *,
    max_tokens: int,
    num_beams: int,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    num_returned: int = 1,
    stop_tokens: tuple[int, ...] = (),
    text: Text | None = None,
    inputs: Any = None,
    extras: bool = False,
) -> Beams:
    """Looks for the continuations with the highest scores.

    Each prompt has `num_beams` running hypotheses, and as many finished ones apart from them: those that ended with a
    stop token while they were among the `num_beams` likeliest, and at `max_tokens` all. A finished one's score is its
    log-probability divided by (its number of new tokens, stop token included) ** `length_penalty`.

    It is compiled once for each decoder, stop tokens, early stopping, number of rows and of beams, and bucket of
    lengths. Where the parameters lie on all devices of a mesh, each device searches for its part of the prompts, if
    these can be shared evenly.

    Args:
        decoder: the model.
        params: its parameters.
        model_state: its other variables.
        prompt: tokens, padded at their end with anything; see `pad_prompts`.
        prompt_lengths: those of each row that aren't padding.
        max_tokens: new tokens of a row, at most.
        num_beams: hypotheses that are followed; with one the search is greedy.
        length_penalty: above 0 favours long texts, below 0 short ones; 0 ranks by the log-probability itself.
        early_stopping: when a prompt is done with. True: as soon as there are `num_beams` finished hypotheses. False:
            when there are, and the likeliest running one, ended now, would not be better than the worst of them.
            "never": as False, but it is ended at the length that is best for it, `max_tokens` where the penalty is
            above 0; then none of the running ones can become better.
        num_returned: texts for each prompt, at most `num_beams`.
        stop_tokens: each ends the hypothesis that takes it.
        text: to have texts as well.
        inputs: of an encoder, see `Decoder.prefill`.
        extras: whether to give those, too.

    Returns:
        Tokens [prompts * num_returned, max_tokens], and what belongs to them.

    Raises:
        UsageError: for numbers below 1, more texts than beams, a penalty that is no number, an unknown way to stop
            early, stop strings, and what `generate` refuses.
    """
    check_numbers(max_tokens=max_tokens, num_beams=num_beams, num_returned=num_returned)
    if num_returned > num_beams:
        raise UsageError(f"{num_returned} texts of {num_beams} beams: ask for fewer, or for more beams")
    if not math.isfinite(length_penalty):
        raise UsageError(f"length penalty is {length_penalty}; it must be a finite number")
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise UsageError(f'early stopping is {early_stopping!r}; it must be True, False or "never"')
    if text is not None and text.stop_strings:
        raise UsageError("beam search ends at stop tokens alone: leave stop strings out")
    request = prepare(prompt, prompt_lengths, max_tokens, decoder.max_length)
    search = _Search(
        decoder,
        num_beams,
        tuple(stop_tokens),
        ends_when_full=early_stopping is True or num_beams == 1,
        hopes_for_last=early_stopping == "never" and length_penalty > 0,
        extras=extras,
        mesh=_mesh_of(params, len(request.prompt)),
    )
    lengths = np.arange(1, request.new_tokens + 1, dtype=np.float64)
    found = _run(
        search,
        params,
        model_state,
        inputs,
        request.prompt,
        request.lengths,
        (lengths**length_penalty).astype(np.float32),
        max_tokens,
        max_length=request.max_length,
    )
    return _collect(found, num_returned, max_tokens, text, request)


@dataclass(frozen=True)
class _Search:
    """What is compiled in."""

    decoder: Decoder
    num_beams: int
    stop_tokens: tuple[int, ...]
    ends_when_full: bool
    hopes_for_last: bool
    extras: bool
    mesh: Mesh | None

    @property
    def candidates(self) -> int:
        """Continuations that are looked at: enough to go on with, even if every beam ends by every stop token."""
        return max(2, 1 + len(set(self.stop_tokens))) * self.num_beams


@struct.dataclass
class _Ends:
    """The last tokens of hypotheses; those before are found by going back from beam to beam."""

    scores: Float32[Array, "prompts hypotheses"]
    lengths: Int32[Array, "prompts hypotheses"]
    parents: Int32[Array, "prompts hypotheses"]
    tokens: Int32[Array, "prompts hypotheses"]
    log_probs: Float32[Array, "prompts hypotheses"]
    stopped: Bool[Array, "prompts hypotheses"]


@struct.dataclass
class _Found:
    """The search so far: the beams' scores now, their tokens at each step, the beams that these were taken from.

    The position is in an array of one, so that devices with prompts of their own each have one.
    """

    position: Int32[Array, " devices"]
    scores: Float32[Array, "prompts beams"]
    tokens: Int32[Array, "prompts time beams"]
    log_probs: Float32[Array, "prompts time beams"]
    parents: Int32[Array, "prompts time beams"]
    extras: Any
    finished: _Ends
    searching: Bool[Array, " prompts"]


@functools.partial(jax.jit, static_argnames=("search", "max_length"))
def _run(
    search: _Search,
    params: Any,
    model_state: Any,
    inputs: Any,
    prompt: Int32[Array, "prompts time"],
    lengths: Int32[Array, " prompts"],
    divisors: Float32[Array, " new_tokens"],
    max_tokens: int | Int32[Array, ""],
    *,
    max_length: int,
) -> _Found:
    """Reads the prompts, once each, and goes on until all are done with; on each device of a mesh for its own."""
    given = (params, model_state, inputs, prompt, lengths, divisors, max_tokens)
    if search.mesh is None:
        return _run_here(search, max_length, *given)
    run = functools.partial(_run_here, search, max_length)
    rows = P(search.mesh.axis_names)
    specs = (P(), P(), rows, rows, rows, P(), P())
    return jax.shard_map(run, mesh=search.mesh, in_specs=specs, out_specs=rows, check_vma=False)(*given)


def _mesh_of(params: Any, prompts: int) -> Mesh | None:
    """Gives the mesh on all of whose devices parameters lie, where it can share prompts evenly; None for one device."""
    leaf = next(iter(jax.tree.leaves(params)), None)
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not sharding.is_fully_addressable:
        return None
    mesh = sharding.mesh
    if not isinstance(mesh, Mesh) or not sharding.is_fully_replicated:
        return None
    return mesh if mesh.size > 1 and prompts % mesh.size == 0 else None


def _run_here(
    search: _Search,
    max_length: int,
    params: Any,
    model_state: Any,
    inputs: Any,
    prompt: Int32[Array, "prompts time"],
    lengths: Int32[Array, " prompts"],
    divisors: Float32[Array, " new_tokens"],
    max_tokens: int | Int32[Array, ""],
) -> _Found:
    output, cache = search.decoder.prefill(params, model_state, inputs, prompt, lengths, max_length)
    check_stop_tokens(search.stop_tokens, output.logits.shape[-1])
    output = repeat_rows(asked(output, search.extras), search.num_beams)
    cache = several_texts(cache, search.num_beams)

    def goes_on(loop: Any) -> Array:
        found = loop[1]
        return (found.position[0] < max_tokens) & found.searching.any()

    def step(loop: Any) -> Any:
        (output, cache), found = loop
        found = _extend(search, found, output, divisors, max_tokens)
        taken = found.position[0] - 1
        cache = taken_texts(cache, found.parents[:, taken])
        tokens = found.tokens[:, taken].reshape(-1)
        output, cache = search.decoder.decode_step(params, model_state, tokens, cache)
        return (asked(output, search.extras), cache), found

    start = _nothing(search, output, len(prompt), len(divisors))
    return lax.while_loop(goes_on, step, ((output, cache), start))[1]


def _nothing(search: _Search, output: DecodeOutput, prompts: int, new_tokens: int) -> _Found:
    """Begins with one beam: the others would be the same."""
    shape = (prompts, search.num_beams)
    none, numbers = jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32)
    return _Found(
        position=jnp.zeros(1, jnp.int32),
        scores=none.at[:, 0].set(0),
        tokens=make_room(numbers, new_tokens),
        log_probs=make_room(none, new_tokens),
        parents=make_room(numbers, new_tokens),
        extras=make_room(output.extras, new_tokens),
        finished=_Ends(none, numbers, numbers, numbers, jnp.zeros(shape), jnp.zeros(shape, bool)),
        searching=jnp.ones(prompts, bool),
    )


def _extend(
    search: _Search,
    found: _Found,
    output: DecodeOutput,
    divisors: Float32[Array, " new_tokens"],
    max_tokens: int | Int32[Array, ""],
) -> _Found:
    """Takes one step: the likeliest continuations of all beams, those that end and those that go on."""
    beams, position = search.num_beams, found.position[0]
    log_probs = jax.nn.log_softmax(output.logits.astype(jnp.float32))
    vocabulary = log_probs.shape[-1]
    log_probs = log_probs.reshape(-1, beams * vocabulary)
    totals = log_probs + jnp.repeat(found.scores, vocabulary, axis=1)
    totals, chosen = highest(totals, min(search.candidates, beams * vocabulary))
    tokens = chosen % vocabulary
    stopped = is_any_of(tokens, search.stop_tokens)
    ends = stopped | (position + 1 == max_tokens)
    counted = ends & (jnp.arange(chosen.shape[1]) < beams) & found.searching[:, None]
    candidates = _Ends(
        scores=jnp.where(counted, totals / divisors[position], -jnp.inf),
        lengths=jnp.full_like(chosen, position + 1),
        parents=chosen // vocabulary,
        tokens=tokens,
        log_probs=jnp.take_along_axis(log_probs, chosen, axis=1),
        stopped=stopped,
    )
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), found.finished, candidates)
    finished = _take(both, lax.top_k(both.scores, beams)[1])
    scores, going = lax.top_k(jnp.where(ends, -jnp.inf, totals), beams)
    running = _take(candidates, going)
    hoped = divisors[max_tokens - 1] if search.hopes_for_last else divisors[position]
    worst = finished.scores[:, -1]
    searching = found.searching & (scores[:, 0] / hoped > worst)
    if search.ends_when_full:
        searching &= jnp.isneginf(worst)
    written = (found.tokens, found.log_probs, found.parents, found.extras)
    now = (running.tokens, running.log_probs, running.parents, output.extras)
    tokens, log_probs, parents, extras = put(written, now, position)
    return _Found(found.position + 1, scores, tokens, log_probs, parents, extras, finished, searching)


def highest(
    values: Float32[Array, "rows columns"], count: int
) -> tuple[Float32[Array, "rows count"], Int32[Array, "rows count"]]:
    """Gives the highest values of each row and their columns, as `lax.top_k`, which CPUs take six times as long for.

    They are in the `count` blocks whose highest values are the highest; of equal ones the first comes first, too.
    """
    rows, columns = values.shape
    if columns < count * _BLOCK:
        found, places = lax.top_k(values, count)
        return found, places
    room = -columns % _BLOCK
    filled = jnp.pad(values, ((0, 0), (0, room)), constant_values=-jnp.inf).reshape(rows, -1, _BLOCK)
    blocks = jnp.sort(lax.top_k(filled.max(axis=-1), count)[1])
    found = jnp.take_along_axis(filled, blocks[..., None], axis=1).reshape(rows, -1)
    found, places = lax.top_k(found, count)
    return found, jnp.take_along_axis(blocks, places // _BLOCK, axis=1) * _BLOCK + places % _BLOCK


def _take(ends: _Ends, places: Int32[Array, "prompts places"]) -> _Ends:
    return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, places, axis=1), ends)


def _collect(found: _Found, num_returned: int, max_tokens: int, text: Text | None, request: Request) -> Beams:
    """Goes back from the last token of each of the best to its first one; on the host."""
    prompts, beams = found.scores.shape
    row, place = np.divmod(np.arange(prompts * num_returned), num_returned)
    last: dict[str, Any] = jax.device_get(vars(found.finished))
    last = {name: leaf[row, place] for name, leaf in last.items()}
    kept_tokens, kept_log_probs, parents = jax.device_get((found.tokens, found.log_probs, found.parents))
    lengths = np.where(np.isneginf(last["scores"]), 0, last["lengths"])
    tokens, log_probs = (np.zeros((len(row), max_tokens), kind) for kind in (np.int32, np.float32))
    taken_from = np.zeros_like(tokens)
    beam = last["parents"]
    for position in reversed(range(int(found.position.max()))):
        is_last, before = position == lengths - 1, position < lengths - 1
        at = (row, position, beam)
        tokens[:, position] = np.where(is_last, last["tokens"], kept_tokens[at])
        log_probs[:, position] = np.where(is_last, last["log_probs"], kept_log_probs[at])
        beam = np.where(before, parents[at], beam)
        taken_from[:, position] = beam
    time = np.arange(max_tokens)

    def of_rows(leaf: Array) -> np.ndarray:
        return zero_behind(np.asarray(leaf)[row[:, None] * beams + taken_from, time], lengths)

    tokens, log_probs = zero_behind(tokens, lengths), zero_behind(log_probs, lengths)
    stopped = last["stopped"] & (lengths > 0)
    rows = make_rows(text, request.prompt, request.lengths, num_returned)
    read_chunk(rows, tokens, lengths, stopped)
    return Beams(
        tokens,
        lengths,
        log_probs,
        stopped,
        jax.tree.map(of_rows, found.extras),
        tuple(one.piece(last=True) for one in rows),
        scores=last["scores"],
    )
