"""Nearest rows of a matrix: products of all queries with blocks of rows on the device, and an exact top-k of them."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

# Similarities that are in memory at once, 64 MiB of them. On CPUs, blocks that lie in a cache would be faster by
# little; single queries would then take more than a product.
_AT_ONCE = 1 << 24
_GROUP = 64
# As Levy & Goldberg (2014), equation 4.
_EPSILON = 1e-6


def rows_at_once(words: int, columns: int, count: int) -> int:
    """Gives how many rows a block has, so that its products with so many columns stay within memory."""
    return min(words, max(_AT_ONCE // columns, 1024, count))


@partial(jax.jit, static_argnames=("count", "rows", "multiply"))
def nearest(
    vectors: Float32[Array, "words width"],
    inverse_norms: Float32[Array, " words"],
    terms: Float32[Array, "queries terms width"],
    signs: Int32[Array, " terms"],
    kinds: Int32[Array, " words"],
    excluded: Int32[Array, "queries excluded"],
    limit: Int32[Array, ""],
    *,
    count: int,
    rows: int,
    multiply: bool = False,
) -> tuple[Float32[Array, "queries count"], Int32[Array, "queries count"]]:
    """Finds the rows with the highest scores, exactly, the first one of those that are equal.

    Args:
        vectors: the rows.
        inverse_norms: of each row, 1 / length.
        terms: what each query consists of, each of length 1.
        signs: of each term, 1 or -1; with `multiply`, above or below the fraction.
        kinds: a number for each row, equal for those that are excluded together.
        excluded: kinds that are left out of each query's answer; -1 is none.
        limit: rows that are looked at, from the first.
        count: of rows to find, at most as many as `rows`.
        rows: of a block, see `rows_at_once`.
        multiply: whether the score is the product of the terms' cosines, each brought to 0 to 1, over that of those
            with sign -1 (3CosMul); else it is the sum of the cosines (3CosAdd, where terms are not added up before).

    Returns:
        Scores, from the highest, and the rows' numbers; -inf and any number where there are fewer.
    """
    words, width = vectors.shape
    queries = terms.shape[0]

    def of_block(start: Array) -> Array:
        block = jax.lax.dynamic_slice(vectors, (start, 0), (rows, width))
        # Rows first: on CPUs this is the order in which they lie, and the maximum below is vectorised.
        cosines = jnp.matmul(block, terms.reshape(-1, width).T, precision="highest")
        cosines *= jax.lax.dynamic_slice(inverse_norms, (start,), (rows,))[:, None]
        return _combine(cosines.reshape(rows, queries, -1), signs, multiply)

    def add_block(number: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        # The last block begins earlier than its turn, so that it is whole; what was seen before is left out.
        start = jnp.minimum(number * rows, words - rows)
        places = start + jnp.arange(rows)
        block_kinds = jax.lax.dynamic_slice(kinds, (start,), (rows,))
        left_out = (places < number * rows) | (places >= limit)
        left_out = left_out[:, None] | (block_kinds[:, None, None] == excluded).any(axis=-1)
        values, found = top(jnp.where(left_out, -jnp.inf, of_block(start)), count)
        values = jnp.concatenate([best[0], values], axis=1)
        found = jnp.concatenate([best[1], start + found], axis=1)
        values, chosen = jax.lax.top_k(values, count)
        return values, jnp.take_along_axis(found, chosen, axis=1)

    nothing = jnp.full((queries, count), -jnp.inf), jnp.zeros((queries, count), jnp.int32)
    return jax.lax.fori_loop(0, -(-limit // rows), add_block, nothing)


@partial(jax.jit, static_argnames=("multiply",))
def scores(
    vectors: Float32[Array, "words width"],
    inverse_norms: Float32[Array, " words"],
    terms: Float32[Array, "terms width"],
    signs: Int32[Array, " terms"],
    *,
    multiply: bool = False,
) -> Float32[Array, " words"]:
    """Gives the scores of all rows for one query; arguments are those of `nearest`."""
    cosines = jnp.matmul(vectors, terms.T, precision="highest") * inverse_norms[:, None]
    return _combine(cosines[:, None], signs, multiply)[:, 0]


def _combine(
    cosines: Float32[Array, "rows queries terms"], signs: Int32[Array, " terms"], multiply: bool
) -> Float32[Array, "rows queries"]:
    if not multiply:
        return (cosines * signs).sum(axis=-1)
    parts = (1 + cosines) / 2
    above = jnp.where(signs > 0, parts, 1).prod(axis=-1)
    return above / (jnp.where(signs < 0, parts, 1).prod(axis=-1) + _EPSILON)


def top(
    scores: Float32[Array, "rows queries"], count: int
) -> tuple[Float32[Array, "queries count"], Int32[Array, "queries count"]]:
    """Finds the highest scores of each column, from the highest; of equal ones, those of the first rows.

    A row among the highest is in one of so many groups with the highest maxima, so only these are sorted. They are
    put in order again, so that of equal scores the first stay the first.
    """
    rows, queries = scores.shape
    padded = jnp.pad(scores, ((0, -rows % _GROUP), (0, 0)), constant_values=-jnp.inf)
    groups = padded.reshape(-1, _GROUP, queries)
    _, chosen = jax.lax.top_k(groups.max(axis=1).T, min(count, len(groups)))
    chosen = jnp.sort(chosen, axis=-1)
    candidates = groups[chosen, :, jnp.arange(queries)[:, None]].reshape(queries, -1)
    values, places = jax.lax.top_k(candidates, count)
    group = jnp.take_along_axis(chosen, places // _GROUP, axis=1)
    return values, group * _GROUP + places % _GROUP
