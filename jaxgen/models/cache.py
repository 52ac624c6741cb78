"""The keys and values of tokens that were read before, and attention of one more token to them."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxgen.models.attention import UNSEEN

Cache = dict[str, tuple[Array, ...]]
"""`key` and `value`, each in parts [batch, heads, time, depth], one after the other: so CPUs needn't read all of it."""

# The shortest part, and how many there are at most.
_LEAST_TIME, _MOST_PARTS = 64, 8


def as_cache(keys_and_values: Sequence[Float[Array, "batch time heads depth"]]) -> Cache:
    """Makes a cache of one part of projected keys and values."""
    key, value = ((jnp.swapaxes(heads, 1, 2),) for heads in keys_and_values)
    return {"key": key, "value": value}


def with_room(cache: Cache, time: int) -> Cache:
    """Cuts a cache of one part into several, which together have room for `time` tokens; the rest of it is zeros."""
    part = max(_LEAST_TIME, -(-time // _MOST_PARTS))
    bounds = [*range(0, time, part), time]

    def cut(parts: tuple[Array, ...]) -> tuple[Array, ...]:
        (whole,) = parts
        filled = jnp.pad(whole, ((0, 0), (0, 0), (0, time - whole.shape[2]), (0, 0)))
        return tuple(filled[:, :, begin:end] for begin, end in itertools.pairwise(bounds))

    return {name: cut(parts) for name, parts in cache.items()}


def room(cache: Cache) -> int:
    """Gives how many tokens a cache has room for."""
    return sum(part.shape[2] for part in cache["key"])


def write_to_cache(cache: Cache, new: Cache, lengths: Integer[Array, " batch"]) -> Cache:
    """Writes one token's keys and values a row behind the first `lengths` of its cache; where it is full, nothing."""
    rows = jnp.arange(len(lengths))

    def write(parts: tuple[Array, ...], now: Array) -> tuple[Array, ...]:
        written, begin = [], 0
        for part in parts:
            time = part.shape[2]
            place = lengths - begin
            place = jnp.where((place >= 0) & (place < time), place, time)  # behind the end nothing is written
            written.append(part.at[rows, :, place].set(now[:, :, 0], mode="drop"))
            begin += time
        return tuple(written)

    return {name: write(parts, new[name][0]) for name, parts in cache.items()}


def attend_to_cache(
    query: Float[Array, "batch heads depth"],
    cache: Cache,
    lengths: Integer[Array, " batch"],
    *,
    scale: float | None = None,
    bias: Float[Array, "batch heads keys"] | None = None,
) -> Float[Array, "batch heads depth"]:
    """Gives the attention of one query a row to the first `lengths` keys of its cache."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    count = len(cache["key"])
    attend = [functools.partial(_attend_to_parts, number + 1, scale) for number in range(count)]
    if count == 1:
        return attend[0](query, cache, lengths, bias)
    filled = (lengths.max() - 1) // cache["key"][0].shape[2]

    def to_filled(*inputs: Any) -> Array:
        return lax.switch(filled, attend, *inputs)

    # Accelerators read all of it in less time than a branch takes.
    return lax.platform_dependent(query, cache, lengths, bias, cpu=to_filled, default=attend[-1])


def weights_of_cache(
    query: Float[Array, "batch heads depth"],
    cache: Cache,
    lengths: Integer[Array, " batch"],
    *,
    scale: float | None = None,
) -> Float[Array, "batch heads keys"]:
    """Gives the weights that one query a row gives to the keys of its cache, 0 behind `lengths`."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return _weights(scale, query, cache["key"], lengths, None).reshape(*query.shape[:2], -1)


def _weights(
    scale: float, query: Array, keys: tuple[Array, ...], lengths: Array, bias: Array | None
) -> Float[Array, "batch kv_heads group keys"]:
    batch, _, depth = query.shape
    grouped = query.reshape(batch, keys[0].shape[1], -1, depth)

    def score(key: Array) -> Array:
        return jnp.einsum("bkgd,bksd->bkgs", grouped, key, preferred_element_type=jnp.float32)

    scores = jnp.concatenate([score(key) for key in keys], axis=-1) * scale
    time = scores.shape[-1]
    if bias is not None:
        scores += bias[..., :time].reshape(scores.shape)
    visible = jnp.arange(time) < lengths[:, None]
    return jax.nn.softmax(jnp.where(visible[:, None, None], scores, UNSEEN))


def _attend_to_parts(
    count: int, scale: float, query: Array, cache: Cache, lengths: Array, bias: Array | None
) -> Array:
    """Attends to the first parts of a cache."""
    keys, values = cache["key"][:count], cache["value"][:count]
    weights = _weights(scale, query, keys, lengths, bias).astype(query.dtype)
    # In float32, so that parts are added up no less exactly than one would be.
    begin, attended = 0, jnp.zeros((*weights.shape[:3], query.shape[-1]), jnp.float32)
    for value in values:
        end, part = begin + value.shape[2], weights[..., begin : begin + value.shape[2]]
        attended += jnp.einsum("bkgs,bksd->bkgd", part, value, preferred_element_type=jnp.float32)
        begin = end
    return attended.astype(query.dtype).reshape(query.shape)
