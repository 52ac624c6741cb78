"""Word vectors: two tables, of the vectors of words and of what is foretold, and what is made of their rows."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray
from jaxgen.models.layers import check_sizes

# Rows of tables: they can be cut over 2, 4, ... 128 devices.
_MULTIPLE = 128


class WordVectors(nn.Module):
    """The tables that Word2Vec learns (Mikolov et al. 2013): `input`, the words' vectors, and `output`.

    They begin as in its C code: `input` uniform within 1/2 over the embedding's size, `output` zero. FastText
    (Bojanowski et al. 2017) has vectors of n-grams behind those of words in `input`, uniform within 1 over the size.

    Attributes:
        vocabulary_size: words.
        embedding_size: of each word's vector.
        buckets: vectors of n-grams; 0 for Word2Vec.

    Raises:
        UsageError: when it is made, for impossible sizes.
    """

    vocabulary_size: int
    embedding_size: int = 100
    buckets: int = 0

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(vocabulary_size=(self.vocabulary_size,), embedding_size=(self.embedding_size,))
        if self.buckets < 0:
            raise UsageError(f"buckets must be at least 0, not {self.buckets}")
        super().__post_init__()

    @nn.compact
    def __call__(self, words: Integer[AnyArray, "*batch"]) -> Float[Array, "*batch embedding_size"]:
        """Gives rows of `input`: the vectors of words, or of n-grams."""
        bound = (1.0 if self.buckets else 0.5) / self.embedding_size
        shape = (_divisible(self.vocabulary_size + self.buckets), self.embedding_size)
        table = self.param("input", _within(bound), shape)
        self.param("output", nn.initializers.zeros, (_divisible(self.vocabulary_size), self.embedding_size))
        return table[words]


class BiasedWordVectors(nn.Module):
    """The tables of GloVe (Pennington et al. 2014): `input` and `output`, a vector and last a bias for each word.

    All begin as in its C code, uniform within 1/2 over one more than the embedding's size.

    Attributes:
        vocabulary_size: words.
        embedding_size: of each word's vector.

    Raises:
        UsageError: when it is made, for impossible sizes.
    """

    vocabulary_size: int
    embedding_size: int = 100

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(vocabulary_size=(self.vocabulary_size,), embedding_size=(self.embedding_size,))
        super().__post_init__()

    @nn.compact
    def __call__(self, words: Integer[AnyArray, "*batch"]) -> Float[Array, "*batch embedding_size"]:
        """Gives the vectors of words: both tables', added up."""
        width = self.embedding_size + 1
        own, other = (
            self.param(name, _within(0.5 / width), (_divisible(self.vocabulary_size), width))
            for name in ("input", "output")
        )
        return (own[words] + other[words])[..., :-1]


def _divisible(size: int) -> int:
    """Rounds the rows of a table up to what it takes to cut them over as many devices as there may be."""
    return -(-size // _MULTIPLE) * _MULTIPLE


def _within(bound: float) -> nn.initializers.Initializer:
    def init(rng: Key[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


def context_mask(
    left: Integer[Array, "groups size"], right: Integer[Array, "groups size"], window: int, others: int
) -> Float[Array, "groups size others"]:
    """Tells which words are the context of which: 1 where they are.

    Args:
        left: how many words before each word of a group are its context.
        right: how many after it.
        window: words that stand before and after each group, beside its own: the last axis begins with them.
        others: size of the last axis; what comes after these words is no context.
    """
    size = left.shape[1]
    distance = jnp.arange(others) - window - jnp.arange(size)[:, None]
    before = (distance < 0) & (-distance <= left[..., None].astype(jnp.int32))
    after = (distance > 0) & (distance <= right[..., None].astype(jnp.int32))
    return (before | after).astype(jnp.float32)


@jax.custom_vjp
def mean_of_context(
    vectors: Float[Array, "blocks size_and_windows width"],
    counted: Float[Array, "blocks size_and_windows"],
    left: Integer[Array, "blocks size"],
    right: Integer[Array, "blocks size"],
) -> Float[Array, "blocks size width"]:
    """Gives the mean of each word's context, whose gradient is that of the sum, as in word2vec's C code.

    So each vector of a context moves as far as the mean does, however many there are.

    Args:
        vectors: of a block's words, and of a window before and after them.
        counted: in which part each counts.
        left: how many words before each are its context.
        right: how many after it.
    """
    total = _sum_of_context(counted[..., None] * vectors, left, right)
    count = _sum_of_context(counted[..., None], left, right)
    return total / jnp.where(count > 0, count, 1)


def _mean_forwards(vectors: Array, counted: Array, left: Array, right: Array) -> tuple[Array, Any]:
    return mean_of_context(vectors, counted, left, right), (counted, left, right)


def _mean_backwards(residuals: Any, gradient: Array) -> tuple[Array, None, None, None]:
    counted, left, right = residuals
    size = counted.shape[1]
    window = (size - left.shape[1]) // 2
    # Beyond the block's own words there is none that anything is the context of.
    gradient, left, right = (
        jnp.pad(leaf, ((0, 0), (2 * window, 2 * window), (0, 0))[: leaf.ndim])
        for leaf in (gradient, left, right)
    )
    total = jnp.zeros(())
    for distance in range(1, window + 1):
        later, earlier = (slice(begin, begin + size) for begin in (window + distance, window - distance))
        total += jnp.where((left[:, later] >= distance)[..., None], gradient[:, later], 0)
        total += jnp.where((right[:, earlier] >= distance)[..., None], gradient[:, earlier], 0)
    return counted[..., None] * total, None, None, None


mean_of_context.defvjp(_mean_forwards, _mean_backwards)


def _sum_of_context(values: Array, left: Array, right: Array) -> Array:
    """Adds up what is near each word, by shifting: on CPUs faster than a product with a matrix of mostly zeros."""
    size = left.shape[1]
    window = (values.shape[1] - size) // 2
    total = jnp.zeros(())
    for distance in range(1, window + 1):
        before, after = (values[:, begin : begin + size] for begin in (window - distance, window + distance))
        total += jnp.where((left >= distance)[..., None], before, 0)
        total += jnp.where((right >= distance)[..., None], after, 0)
    return total


@jax.custom_vjp
def mean_of_parts(
    rows: Float[Array, "blocks parts width"],
    owner: Integer[Array, "blocks parts"],
    count: Integer[Array, "blocks words"],
) -> Float[Array, "blocks words width"]:
    """Gives the mean of each word's own vector and its n-grams', whose gradient is that of the sum, as in fastText.

    Args:
        rows: the vectors.
        owner: which word of its block each is a part of, in order; beyond the last one for padding.
        count: parts of each word.
    """

    def of_block(rows: Array, owner: Array) -> Array:
        return jax.ops.segment_sum(rows, owner, count.shape[1] + 1, indices_are_sorted=True)[:-1]

    return jax.vmap(of_block)(rows, owner) / jnp.maximum(count, 1)[..., None]


def _parts_forwards(rows: Array, owner: Array, count: Array) -> tuple[Array, Array]:
    return mean_of_parts(rows, owner, count), owner


def _parts_backwards(owner: Array, gradient: Array) -> tuple[Array, None, None]:
    padded = jnp.pad(gradient, ((0, 0), (0, 1), (0, 0)))
    return jnp.take_along_axis(padded, owner[..., None], axis=1), None, None


mean_of_parts.defvjp(_parts_forwards, _parts_backwards)
