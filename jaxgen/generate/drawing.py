"""The arithmetic of sampling, as CPUs like it: a draw without cumulative sums, and the likeliest without sorting."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

Logits = Float[Array, "batch vocabulary"]


def draw(logits: Logits, uniforms: Float[Array, " batch"]) -> Int32[Array, " batch"]:
    """Draws from softmax(logits) by the inverse of its distribution function, at one uniform number a row.

    The vocabulary is cut into blocks: first a block is drawn, then a token of it. Cumulative sums are slow on CPUs,
    these are short, and each is one small product with a triangle of ones.
    """
    vocabulary = logits.shape[-1]
    blocks, _ = _weigh(logits)
    block, uniforms = _draw_index(blocks.sum(axis=-1), uniforms)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    index, _ = _draw_index(inside, uniforms)
    return jnp.minimum(block * blocks.shape[-1] + index, vocabulary - 1)  # which only NaN would exceed


def log_normalizer(logits: Logits) -> Float[Array, " batch"]:
    """Gives the logarithm of the sum of exponentials, by what `draw` computes of the same logits, too."""
    blocks, highest = _weigh(logits)
    return jnp.log(blocks.sum(axis=-1).sum(axis=-1)) + highest[:, 0]


def _weigh(logits: Logits) -> tuple[Float[Array, "batch blocks width"], Float[Array, "batch 1"]]:
    """Gives exp(logits - highest) in blocks, and the highest; without padding, where the vocabulary has a divisor."""
    batch, vocabulary = logits.shape
    root = math.isqrt(vocabulary - 1) + 1
    width = next((width for width in range(root, 2 * root) if vocabulary % width == 0), root)
    highest = logits.max(axis=-1, keepdims=True)
    logits = jnp.pad(logits, ((0, 0), (0, -vocabulary % width)), constant_values=-jnp.inf)
    return jnp.exp(logits - highest).reshape(batch, -1, width), highest


def _draw_index(
    weights: Float[Array, "batch width"], uniforms: Float[Array, " batch"]
) -> tuple[Int32[Array, " batch"], Float[Array, " batch"]]:
    """Gives an index a row, and where between the index's two borders the uniform number lies, in [0, 1)."""
    triangle = jnp.triu(jnp.ones((weights.shape[1],) * 2))
    sums = jnp.matmul(weights, triangle, precision=lax.Precision.HIGHEST)
    # By rounding, the sum may grow where the weight is 0: such a token must not be drawn.
    sums = jnp.where(weights > 0, sums, 0)
    wanted = uniforms[:, None] * sums.max(axis=-1, keepdims=True)
    index = first(sums > wanted)
    weight, above = (jnp.take_along_axis(a, index[:, None], axis=1) for a in (weights, sums - wanted))
    return index, jnp.clip(1 - above / weight, 0, 1 - 2**-24)[:, 0]


def first(chosen: Array) -> Int32[Array, " batch"]:
    """Gives each row's first true column, the last without one; on CPUs several times as fast as `argmax`."""
    width = chosen.shape[-1]
    return jnp.where(chosen, jnp.arange(width, dtype=jnp.int32), width - 1).min(axis=-1)


def keep_first(
    logits: Logits,
    order: Logits,
    least: float | int | Float[Array, "batch 1"],
    weights: Logits | None = None,
    lightest: Callable[[Array], Array] = jnp.ones_like,
) -> Logits:
    """Keeps the fewest tokens, lowest `order` first, whose weights add up to `least`; all of the last one's order.

    That is found by bisection: some 17 sums over the vocabulary, where `lax.top_k` and `sort` take 20 to 30 times as
    long on CPUs. In a loop the products with ones are the fastest sums there.

    Args:
        logits: to keep or to rule out.
        order: of each token, at least 0; infinite for those that are ruled out already.
        least: see above.
        weights: of the tokens; by default each weighs 1.
        lightest: gives a bound that no weight of a token up to an order lies below. Where the weights between two
            orders are less than two of it, there is one token between them, and no need to look closer.
    """
    highest = jnp.where(order < jnp.inf, order, 0).max(axis=-1, keepdims=True)
    ones = jnp.ones((order.shape[-1], 1))

    def weigh(kept: Array) -> Array:
        kept = kept.astype(jnp.float32) if weights is None else jnp.where(kept, weights, 0)
        return jnp.matmul(kept, ones, precision=lax.Precision.HIGHEST)

    def middle(low: Array, high: Array) -> Array:
        return low + (high - low) / 2

    def is_open(loop: Any) -> Array:
        low, high, low_weight, high_weight = loop
        several = high_weight - low_weight >= 1.5 * lightest(high)
        return (several & (low < middle(low, high)) & (middle(low, high) < high)).any()

    def halve(loop: Any) -> Any:
        low, high, low_weight, high_weight = loop
        half = middle(low, high)
        weight = weigh(order <= half)
        enough = weight >= least
        low, high = jnp.where(enough, low, half), jnp.where(enough, half, high)
        low_weight = jnp.where(enough, low_weight, weight)
        return low, high, low_weight, jnp.where(enough, weight, high_weight)

    start = (
        jnp.full_like(highest, -1),
        highest,
        jnp.zeros_like(highest),
        weigh(order <= highest),
    )
    last = lax.while_loop(is_open, halve, start)[1]
    return jnp.where(order <= last, logits, -jnp.inf)
