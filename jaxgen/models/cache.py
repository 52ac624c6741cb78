"""The keys and values of tokens that were read before, and attention of one more token to them."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int32, Integer

from jaxgen.models.attention import UNSEEN

Cache = dict[str, tuple[Array, ...]]
"""`key` and `value`, each in parts [batch, heads, time, depth], one after the other: so CPUs needn't read all of it."""

# The shortest part, and how many there are at most. Several texts of a prompt have as many times the tokens in a part.
_LEAST_TIME, _LEAST_TIME_OF_SEVERAL, _MOST_PARTS = 64, 16, 8


def as_cache(keys_and_values: Sequence[Float[Array, "batch time heads depth"]]) -> Cache:
    """Makes a cache of one part of projected keys and values."""
    key, value = ((jnp.swapaxes(heads, 1, 2),) for heads in keys_and_values)
    return {"key": key, "value": value}


def with_room(cache: Cache, time: int) -> Cache:
    """Cuts a cache of one part into several, which together have room for `time` tokens; the rest of it is zeros."""

    def cut(parts: tuple[Array, ...]) -> tuple[Array, ...]:
        (whole,) = parts
        return _cut(jnp.pad(whole, ((0, 0), (0, 0), (0, time - whole.shape[2]), (0, 0))), _LEAST_TIME)

    return {name: cut(parts) for name, parts in cache.items()}


def _cut(whole: Array, least: int) -> tuple[Array, ...]:
    time = whole.shape[2]
    bounds = [*range(0, time, max(least, -(-time // _MOST_PARTS))), time]
    return tuple(whole[:, :, begin:end] for begin, end in itertools.pairwise(bounds))


def room(cache: Cache) -> int:
    """Gives how many tokens a cache has room for."""
    return sum(part.shape[-2] for part in cache["key"])


def write_to_cache(cache: Cache, new: Cache, lengths: Integer[Array, " batch"]) -> Cache:
    """Writes one token's keys and values a row behind the first `lengths` of its cache; where it is full, nothing."""
    rows = jnp.arange(len(lengths))

    def write(parts: tuple[Array, ...], now: Array) -> tuple[Array, ...]:
        return tuple(
            part.at[rows, :, place].set(now[:, :, 0], mode="drop") for part, place in _places(parts, lengths)
        )

    return {name: write(parts, new[name][0]) for name, parts in cache.items()}


def _places(parts: tuple[Array, ...], lengths: Array) -> Iterator[tuple[Array, Array]]:
    """Gives each part with where in it the token behind `lengths` stands; in other parts behind their ends."""
    begin = 0
    for part in parts:
        time = part.shape[-2]
        place = lengths - begin
        yield part, jnp.where((place >= 0) & (place < time), place, time)
        begin += time


def attend_to_cache(
    query: Float[Array, "batch heads depth"],
    cache: Cache,
    lengths: Integer[Array, " rows"],
    *,
    scale: float | None = None,
    bias: Float[Array, "batch heads keys"] | None = None,
) -> Float[Array, "batch heads depth"]:
    """Gives the attention of one query a row to the first `lengths` keys of its cache.

    Where the cache has fewer rows, as many queries, one after the other, share each of them; there is then no bias.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    of_row = _by_row(query, cache)
    attended = _to_filled(
        lambda count: functools.partial(_attend_to_parts, count, scale),
        cache,
        lengths,
        (of_row, cache, lengths, bias),
    )
    return _by_query(attended, query)


def _to_filled(attend: Any, cache: Cache, lengths: Array, inputs: tuple[Any, ...]) -> Array:
    """Calls what attends to so many parts, as many as are filled."""
    attends = [attend(number + 1) for number in range(len(cache["key"]))]
    if len(attends) == 1:
        return attends[0](*inputs)
    filled = (lengths.max() - 1) // cache["key"][0].shape[-2]

    def to_filled(*inputs: Any) -> Array:
        return lax.switch(filled, attends, *inputs)

    # Accelerators read all of it in less time than a branch takes.
    return lax.platform_dependent(*inputs, cpu=to_filled, default=attends[-1])


def _by_row(query: Array, cache: Cache) -> Float[Array, "rows kv_heads queries depth"]:
    """Puts the queries side by side that ask the same keys."""
    rows, heads = cache["key"][0].shape[:2]
    grouped = query.reshape(rows, -1, heads, query.shape[1] // heads, query.shape[2])
    return jnp.moveaxis(grouped, 1, 3).reshape(rows, heads, -1, query.shape[2])


def _by_query(attended: Float[Array, "rows kv_heads queries width"], query: Array) -> Array:
    """Gives each query what is its own."""
    rows, heads, _, width = attended.shape
    grouped = attended.reshape(rows, heads, query.shape[1] // heads, -1, width)
    return jnp.moveaxis(grouped, 3, 1).reshape(*query.shape[:2], width)


def weights_of_cache(
    query: Float[Array, "batch heads depth"],
    cache: Cache,
    lengths: Integer[Array, " rows"],
    *,
    scale: float | None = None,
) -> Float[Array, "batch heads keys"]:
    """Gives the weights that one query a row gives to the keys of its cache, 0 behind `lengths`."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return _by_query(_weights(scale, _by_row(query, cache), cache["key"], lengths, None), query)


def _weights(
    scale: float,
    query: Float[Array, "rows kv_heads queries depth"],
    keys: tuple[Array, ...],
    lengths: Array,
    bias: Array | None,
) -> Float[Array, "rows kv_heads queries keys"]:
    scores = jnp.concatenate([_scores(query, key) for key in keys], axis=-1) * scale
    time = scores.shape[-1]
    if bias is not None:
        scores += bias[..., :time].reshape(scores.shape)
    visible = jnp.arange(time) < lengths[:, None]
    return jax.nn.softmax(jnp.where(visible[:, None, None], scores, UNSEEN))


def _scores(query: Array, key: Array) -> Array:
    return jnp.einsum("bkqd,bksd->bkqs", query, key, preferred_element_type=jnp.float32)


def _attend_to_parts(
    count: int, scale: float, query: Array, cache: Cache, lengths: Array, bias: Array | None
) -> Array:
    """Attends to the first parts of a cache."""
    weights = _weights(scale, query, cache["key"][:count], lengths, bias)
    return _averages(weights, cache["value"][:count]).astype(query.dtype)


def _averages(weights: Array, values: tuple[Array, ...]) -> Float[Array, "rows kv_heads queries depth"]:
    # In float32, so that parts are added up no less exactly than one would be.
    begin, attended = 0, jnp.zeros((*weights.shape[:3], values[0].shape[-1]), jnp.float32)
    for value in values:
        part = weights[..., begin : begin + value.shape[2]].astype(value.dtype)
        attended += jnp.einsum("bkqs,bksd->bkqd", part, value, preferred_element_type=jnp.float32)
        begin += value.shape[2]
    return attended


@struct.dataclass
class Shared:
    """What is known of a prompt, and the same for all texts that go on from it, such as its source: a row each prompt.

    In a cache it is not repeated for these texts, and stays where it is when they change places.
    """

    of_prompts: Any


@struct.dataclass
class Own:
    """The keys and values of texts, each in a row of its own."""

    cache: Cache

    def write(self, new: Cache, lengths: Integer[Array, " batch"]) -> "Own":
        """Writes those of one token a row, see `write_to_cache`."""
        return Own(write_to_cache(self.cache, new, lengths))

    def attend(
        self, query: Float[Array, "batch heads depth"], lengths: Integer[Array, " batch"], **options: Any
    ) -> Float[Array, "batch heads depth"]:
        """Attends, see `attend_to_cache`."""
        return attend_to_cache(query, self.cache, lengths, **options)

    def several(self, times: int) -> "Several":
        """Gives the same for so many texts that go on from each."""

        def repeat(parts: tuple[Array, ...]) -> tuple[Array, ...]:
            whole = jnp.concatenate(parts, axis=2)
            parts = _cut(whole, _LEAST_TIME_OF_SEVERAL)
            return tuple(
                jnp.broadcast_to(part[:, :, None], (*part.shape[:2], times, *part.shape[2:]))
                for part in parts
            )

        cache = {name: repeat(parts) for name, parts in self.cache.items()}
        shape = (len(self.cache["key"][0]), times, room(self.cache))
        return Several(cache, jnp.broadcast_to(jnp.arange(times, dtype=jnp.int32)[:, None], shape))


@struct.dataclass
class Several:
    """The keys and values of several texts of each prompt, such as beams, that go on from one another.

    What was read stays where it is. A text knows in the place of which one each of its tokens was read, and sees these
    alone: to copy keys and values from beam to beam took as long as all products of a step.

    Attributes:
        cache: in parts [prompts, heads, texts, time, depth].
        places: of each token of a text, [prompts, texts, time].
    """

    cache: Cache
    places: Int32[Array, "prompts texts time"]

    def write(self, new: Cache, lengths: Integer[Array, " batch"]) -> "Several":
        """Writes those of one token a text, each in the text's own place."""
        prompts, texts, time = self.places.shape
        lengths = lengths.reshape(prompts, texts)[:, 0]
        rows = jnp.arange(prompts)
        own = jnp.arange(texts, dtype=jnp.int32)[None]
        places = jnp.where(jnp.arange(time) == lengths[:, None, None], own[..., None], self.places)

        def write(parts: tuple[Array, ...], now: Array) -> tuple[Array, ...]:
            now = jnp.moveaxis(now[:, :, 0].reshape(prompts, texts, *now.shape[1:2], -1), 1, 2)
            return tuple(
                part.at[rows, :, :, place].set(now, mode="drop") for part, place in _places(parts, lengths)
            )

        return Several({name: write(parts, new[name][0]) for name, parts in self.cache.items()}, places)

    def attend(
        self,
        query: Float[Array, "batch heads depth"],
        lengths: Integer[Array, " batch"],
        *,
        scale: float | None = None,
        bias: Float[Array, "batch heads keys"] | None = None,
    ) -> Float[Array, "batch heads depth"]:
        """Gives the attention of one query a text to the first `lengths` keys of the tokens that are its own."""
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        of_prompts, by_key = _by_row(query, self.cache), None
        if bias is not None:
            by_key = _by_row(bias, self.cache)
        attended = _to_filled(
            lambda count: functools.partial(_attend_to_several, count, scale),
            self.cache,
            lengths,
            (of_prompts, self, lengths, by_key),
        )
        return _by_query(attended, query)

    def taken(self, parents: Int32[Array, "prompts texts"]) -> "Several":
        """Goes on with texts that may be others, and some of them more than once."""
        return Several(self.cache, jnp.take_along_axis(self.places, parents[..., None], axis=1))


def _attend_to_several(
    count: int, scale: float, query: Array, several: Several, lengths: Array, bias: Array | None
) -> Array:
    """Attends to the first parts: all texts to the keys of all, of which each sees its own."""
    prompts, texts, _ = several.places.shape
    keys, values = (
        [part.reshape(*part.shape[:2], -1, part.shape[-1]) for part in several.cache[name][:count]]
        for name in ("key", "value")
    )
    scores, visible, begin = [], [], 0
    for part, key in zip(several.cache["key"], keys, strict=False):
        size = part.shape[3]
        found = _scores(query, key).reshape(*query.shape[:2], -1, texts, texts, size) * scale
        if bias is not None:
            of_part = bias[..., begin : begin + size]
            found += of_part.reshape(*found.shape[:4], 1, size)
        places = several.places[:, :, None, begin : begin + size]
        own = places == jnp.arange(texts)[:, None]
        filled = begin + jnp.arange(size) < lengths.reshape(prompts, texts, 1, 1)
        scores.append(found.reshape(*query.shape[:2], -1, texts, texts * size))
        visible.append((own & filled).reshape(prompts, texts, -1))
        begin += size
    seen = jnp.concatenate(visible, axis=-1)[:, None, None]
    weights = jax.nn.softmax(jnp.where(seen, jnp.concatenate(scores, axis=-1), UNSEEN))
    weights = weights.reshape(*query.shape[:3], -1)
    return _averages(weights, tuple(values)).astype(query.dtype)


def several_texts(tree: Any, times: int) -> Any:
    """Gives a cache of prompts for so many texts of each, next to each other."""

    def several(node: Any) -> Any:
        if isinstance(node, Shared):
            return node
        return node.several(times) if isinstance(node, Own) else jnp.repeat(node, times, axis=0)

    return jax.tree.map(several, tree, is_leaf=_is_special)


def taken_texts(tree: Any, parents: Int32[Array, "prompts texts"]) -> Any:
    """Gives a cache of several texts of each prompt as they go on from those in these places."""
    prompts, texts = parents.shape
    rows = (jnp.arange(prompts)[:, None] * texts + parents).reshape(-1)

    def taken(node: Any) -> Any:
        if isinstance(node, Shared):
            return node
        return node.taken(parents) if isinstance(node, Several) else node[rows]

    return jax.tree.map(taken, tree, is_leaf=_is_special)


def _is_special(node: Any) -> bool:
    return isinstance(node, Shared | Own | Several)
