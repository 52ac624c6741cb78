"""Where tokens stand: sinusoidal positions, rotations of queries and keys, and T5's biases by distance.

Learned positions are an embedding, and need no code.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Integer, Shaped

from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray


def sinusoidal(positions: Shaped[AnyArray, "*batch"], width: int) -> Float[Array, "*batch width"]:
    """Gives sines (even features) and cosines (odd ones) of positions (Vaswani et al. 2017, section 3.5).

    Raises:
        UsageError: for an odd width.
    """
    _check_even("the width of sinusoidal positions", width)
    angles = _angles(positions, width, 10_000.0)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*angles.shape[:-1], width)


class Rotation(NamedTuple):
    """Cosines and sines by which pairs of features are turned, float32 [batch or 1, time, 1, depth / 2]."""

    cosine: Float[Array, "rows time 1 half"]
    sine: Float[Array, "rows time 1 half"]


def rotation(positions: Integer[AnyArray, "rows time"], depth: int, base: float = 10_000.0) -> Rotation:
    """Gives the rotations of positions (Su et al. 2021, equation 15).

    Args:
        positions: of each token; one row does for all.
        depth: features of a head.
        base: of the wavelengths, which go from 2 pi to 2 pi base.

    Raises:
        UsageError: for an odd depth.
    """
    _check_even("the depth of rotated heads", depth)
    angles = _angles(positions, depth, base)[:, :, None]
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(
    heads: Float[Array, "batch time heads depth"], by: Rotation
) -> Float[Array, "batch time heads depth"]:
    """Turns feature i of the first half with feature i of the second, as Llama does; in float32."""
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    turned = (first * by.cosine - second * by.sine, second * by.cosine + first * by.sine)
    return jnp.concatenate(turned, axis=-1).astype(heads.dtype)


class RelativeBias(nn.Module):
    """Adds to each head's scores a number that depends on how far the key is from the query (Raffel et al. 2020, 2.1).

    Attributes:
        num_heads: of the attention.
        num_buckets: of distances; half of them one distance each, the others ever wider.
        max_distance: all from here on are in the last bucket.
        bidirectional: whether keys ahead have buckets of their own; else they count as distance 0.
    """

    num_heads: int
    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    embedding_init: nn.initializers.Initializer = nn.initializers.normal(1.0)

    def setup(self) -> None:
        """Makes the table."""
        shape = (self.num_buckets, self.num_heads)
        self.embedding = self.param("embedding", self.embedding_init, shape, jnp.float32)

    def __call__(self, queries: int, keys: int) -> Float[Array, "1 heads queries keys"]:
        """Gives the bias of all queries and keys of a sequence, both from position 0 on."""
        buckets = self._buckets(jnp.arange(1 - queries, keys))
        # A product, not a gather, and rows that are shifted by reshaping: the gradient has no scatter.
        values = (buckets[:, None] == jnp.arange(self.num_buckets)).astype(jnp.float32) @ self.embedding
        return _diagonals(values.T, queries, keys)[None]

    def at(self, distances: Integer[Array, "batch keys"]) -> Float[Array, "batch heads keys"]:
        """Gives the bias of one query a row, by each key's position less that of the query."""
        return jnp.swapaxes(self.embedding[self._buckets(distances)], 1, 2)

    def _buckets(self, distances: Integer[Array, "..."]) -> Int32[Array, "..."]:
        count, ahead = self.num_buckets, jnp.zeros_like(distances)
        if self.bidirectional:
            count //= 2
            ahead, distances = jnp.where(distances > 0, count, 0), jnp.abs(distances)
        else:
            distances = jnp.maximum(-distances, 0)
        exact = count // 2
        part = jnp.log(jnp.maximum(distances, exact) / exact) / math.log(self.max_distance / exact)
        wide = jnp.minimum(exact + (part * (count - exact)).astype(jnp.int32), count - 1)
        return ahead + jnp.where(distances < exact, distances, wide)


def _diagonals(
    values: Float[Array, "heads distances"], queries: int, keys: int
) -> Float[Array, "heads queries keys"]:
    """Lays values by distance, from 1 - queries on, out so that row i begins with distance -i."""
    heads, distances = values.shape
    # Rows of one more than they are cut to: each begins one place earlier in what is repeated.
    turned = jnp.roll(jnp.pad(values, ((0, 0), (0, 1))), 1 - queries, axis=1)
    rows = jnp.broadcast_to(turned[:, None], (heads, queries, distances + 1)).reshape(heads, -1)
    return rows[:, : queries * distances].reshape(heads, queries, distances)[:, :, :keys]


def _angles(positions: Shaped[AnyArray, "*batch"], width: int, base: float) -> Float[Array, "*batch half"]:
    frequencies = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    return jnp.asarray(positions, jnp.float32)[..., None] * frequencies


def _check_even(what: str, size: int) -> None:
    if size % 2:
        raise UsageError(f"{what} must be even, not {size}: features are turned in pairs")
