"""Word vectors: two tables, of the vectors of words and of what is foretold, and what is made of their rows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray
from jaxgen.models.layers import check_sizes


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
        shape = (self.vocabulary_size + self.buckets, self.embedding_size)
        table = self.param("input", _within(bound), shape)
        self.param("output", nn.initializers.zeros, (self.vocabulary_size, self.embedding_size))
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
            self.param(name, _within(0.5 / width), (self.vocabulary_size, width))
            for name in ("input", "output")
        )
        return (own[words] + other[words])[..., :-1]


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
    vectors: Float[Array, "groups others width"],
    context: Float[Array, "groups size others"],
    count: Float[Array, "groups size"],
) -> Float[Array, "groups size width"]:
    """Gives the mean of each word's context, whose gradient is that of the sum, as in word2vec's C code.

    So each vector of a context moves as far as the mean does, however many there are.

    Args:
        vectors: of all that may be context.
        context: in which part each counts.
        count: the sum of these.
    """
    return jnp.einsum("gio,god->gid", context, vectors) / jnp.where(count > 0, count, 1)[..., None]


def _mean_forwards(vectors: Array, context: Array, count: Array) -> tuple[Array, Array]:
    return mean_of_context(vectors, context, count), context


def _mean_backwards(context: Array, gradient: Array) -> tuple[Array, None, None]:
    turned = jax.lax.optimization_barrier(jnp.swapaxes(context, 1, 2))  # as in `losses.negative_sampling`
    return jnp.einsum("goi,gid->god", turned, gradient), None, None


mean_of_context.defvjp(_mean_forwards, _mean_backwards)


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
