"""Word embeddings: skip-gram and CBOW with negative sampling, a block of a text at a time."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int32, Key

from jaxgen import losses
from jaxgen.data.corpus import read_vocabulary
from jaxgen.data.word_blocks import WordBlocks
from jaxgen.embeddings.fasttext_binary import Arguments
from jaxgen.embeddings.keyed_vectors import KeyedVectors
from jaxgen.embeddings.ngrams import Ngrams
from jaxgen.errors import UsageError, unknown
from jaxgen.metrics import Mean
from jaxgen.models.word_vectors import WordVectors, context_mask, mean_of_context, mean_of_parts
from jaxgen.optim import OptimizerConfig
from jaxgen.tasks.base import check_words, init_model
from jaxgen.train.context import Batch, Context, Outputs, Params
from jaxgen.train.gradients import GradientMethod, RowOptimizer, RowSGD, rows

METHODS = ("skipgram", "cbow", "fasttext")


@dataclass(frozen=True)
class WordEmbedding:
    """Word2Vec (Mikolov et al. 2013): words foretell their context, or a context its word, among negatives.

    FastText (Bojanowski et al. 2017) is skip-gram with vectors that are the mean of a word's own and its n-grams'.

    The words of a group share their negatives, each with the weight that makes up `negatives` of them a pair in
    expectation. A loss is of the rows that a batch touches: give `fit` the task's `gradient` and `row_optimizer`.

    Attributes:
        model: the tables.
        method: `skipgram`, `cbow`, or `fasttext` for a model with buckets of n-grams.
        negatives: a pair of words, or of a context and its word.

    Raises:
        UsageError: when it is made, for an unknown method, or no negatives.
    """

    model: WordVectors
    method: str = "skipgram"
    negatives: int = 5

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if (self.method == "fasttext") != (self.model.buckets > 0):
            raise UsageError("buckets of n-grams are for the method fasttext, and it needs them")
        if self.negatives < 1:
            raise UsageError(f"--negatives must be at least 1, not {self.negatives}")

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the tables."""
        return init_model(self.model, rng, jax.ShapeDtypeStruct((1,), jnp.int32))

    def check(self, source: Any) -> None:
        """Checks that a data source is of blocks, and of the model's vocabulary.

        Raises:
            UsageError: where it isn't.
        """
        if not isinstance(source.reader, WordBlocks):
            raise UsageError(
                f"{source.name} isn't made of blocks of words: see jaxgen.data.word_blocks.word_source"
            )
        check_words(source, self.model.vocabulary_size)
        ngrams = source.reader.given.ngrams
        buckets = 0 if ngrams is None else ngrams.buckets
        if buckets != self.model.buckets:
            raise UsageError(
                f"{source.name} has {buckets} buckets of n-grams, the model {self.model.buckets}"
            )

    def initial_carry(self, batch_size: int) -> Any:
        """Has none."""
        return ()

    def touched(self, batch: Batch) -> dict[str, Int32[Array, " touched"]]:
        """Names the rows of the tables that a batch touches, group by group."""
        groups = _Groups.of(batch)
        inputs, outputs = groups.words[:, groups.own], groups.words
        if self.method == "cbow":
            inputs, outputs = _strung(batch["words"], groups.window), inputs
        if self.method == "fasttext":
            inputs = jnp.asarray(batch["parts"])
        others = jnp.concatenate([outputs, groups.negatives], axis=1)
        return {"input": inputs.reshape(-1), "output": others.reshape(-1)}

    @property
    def gradient(self) -> GradientMethod:
        """The gradient with respect to these rows."""
        return rows(self.touched)

    def row_optimizer(self, config: OptimizerConfig, words_per_step: int) -> RowOptimizer:
        """Makes the optimiser: the learning rate is that of a pair, and the gradients of a step's pairs add up.

        Args:
            config: plain gradient descent, with a schedule.
            words_per_step: that the blocks of a batch have.

        Raises:
            UsageError: for another optimiser.
        """
        usual = OptimizerConfig("sgd", config.schedule)
        if config != usual:
            raise UsageError(
                "word vectors are trained by --optimizer sgd alone, without clipping and weight decay"
            )
        schedule = config.schedule.build()

        def of_mean(step: Array) -> Any:
            return words_per_step * schedule(step)

        return RowOptimizer({name: RowSGD(of_mean) for name in ("input", "output")}, optax.identity())

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives the nats a word, of all its pairs and their negatives; what fills up an epoch counts as words."""
        groups = _Groups.of(batch)
        inputs = self._inputs(params["input"], batch, groups)
        outputs = params["output"].reshape(len(inputs), -1, self.model.embedding_size)
        own, drawn, total = groups.counted[:, groups.own], groups.negatives.shape[1], jnp.float32(0)
        if self.method == "cbow":
            pairs = own * (groups.left + groups.right > 0)
            # A word is paired with one other: no product of matrices.
            scores = (inputs * outputs[:, : own.shape[1]]).sum(axis=2)
            total += (pairs * jax.nn.softplus(-scores)).sum()
            outputs = outputs[:, own.shape[1] :]
            attract = jnp.zeros((*own.shape, drawn))
        else:
            near = context_mask(groups.left, groups.right, groups.window, outputs.shape[1])
            attract = near * jnp.pad(groups.counted, ((0, 0), (0, drawn)))[:, None] * own[..., None]
            pairs = attract.sum(axis=2)
        is_drawn = jnp.arange(outputs.shape[1]) >= outputs.shape[1] - drawn
        repel = jnp.where(is_drawn, pairs[..., None] * (self.negatives / drawn), 0)
        total += losses.negative_sampling(inputs, outputs, attract, repel)
        return {"negative_sampling": Mean(total, jnp.float32(own.size))}, Outputs({}, model_state, carry)

    def fasttext_parts(
        self, params: Params, run: Any
    ) -> tuple[Float32[np.ndarray, "words width"], Arguments]:
        """Gives what fastText's file holds beside the vectors of a `SavedRun`: the output table, and the settings."""
        told, config = run.config["data"]["words"], run.config
        epoch = -(-config["data"]["num_examples"]["train"] // config["training"]["batch_size"])
        arguments = Arguments(
            window=told["window"],
            epochs=max(1, round(config["steps"] / epoch)),
            minimum_count=int(read_vocabulary(run.directory.vocabulary_path).counts.min()),
            negatives=self.negatives,
            subsampling=told["subsample"],
        )
        return np.asarray(params["output"])[: self.model.vocabulary_size], arguments

    def _inputs(self, rows: Array, batch: Batch, groups: "_Groups") -> Float[Array, "groups size width"]:
        """Makes the vector that foretells, of each word of each group."""
        shape = (*groups.left.shape, self.model.embedding_size)
        if self.method == "cbow":
            counted = _strung(batch["counted"], groups.window)
            sides = (groups.left.reshape(len(counted), -1), groups.right.reshape(len(counted), -1))
            return mean_of_context(rows.reshape(*counted.shape, -1), counted, *sides).reshape(shape)
        if self.method == "fasttext":
            owner = jnp.asarray(batch["owner"])
            rows = mean_of_parts(rows.reshape(*owner.shape, -1), owner, jnp.asarray(batch["part_count"]))
        return rows.reshape(shape)

    def vectors(self, params: Params) -> Float[Array, "words width"]:
        """Gives the words' own vectors, in the order of the vocabulary; FastText's n-grams have others behind them."""
        table: Array = params["input"]
        return table[: self.model.vocabulary_size]

    def keyed_vectors(self, params: Params, run: Any) -> KeyedVectors:
        """Gives the vectors of a `SavedRun` by word; of FastText also of words that it hasn't seen."""
        vocabulary = read_vocabulary(run.directory.vocabulary_path)
        if self.method != "fasttext":
            return KeyedVectors(vocabulary.words, np.asarray(self.vectors(params)), vocabulary.counts)
        told = run.config["data"]["words"]["ngrams"]
        size = self.model.vocabulary_size
        words, buckets, _ = np.split(np.asarray(params["input"]), [size, size + self.model.buckets])
        ngrams = Ngrams(words, buckets, told["shortest"], told["longest"])
        return KeyedVectors.of_ngrams(vocabulary.words, ngrams, vocabulary.counts)


def _strung(leaf: Any, window: int) -> Array:
    """Puts what groups have of their words and of those beside them in a row [blocks, window + block + window]."""
    leaf = jnp.asarray(leaf)
    own = leaf[:, :, window:-window].reshape(len(leaf), -1)
    return jnp.concatenate([leaf[:, 0, :window], own, leaf[:, -1, -window:]], axis=1)


class _Groups(NamedTuple):
    """The groups of all blocks of a batch.

    Attributes:
        words: [groups, window + size + window].
        counted: the part in which each counts; nothing of what pads a batch.
        left: [groups, size].
        right: [groups, size].
        negatives: [groups, negatives].
    """

    words: Int32[Array, "groups others"]
    counted: Float[Array, "groups others"]
    left: Int32[Array, "groups size"]
    right: Int32[Array, "groups size"]
    negatives: Int32[Array, "groups drawn"]

    @classmethod
    def of(cls, batch: Batch) -> "_Groups":
        """Strings the groups of a batch's blocks together."""
        weight = jnp.asarray(batch["weight"], jnp.float32)
        parts = {name: jnp.asarray(batch[name]) for name in cls._fields}
        parts["counted"] = parts["counted"] * weight[:, None, None]
        return cls(**{name: part.reshape(-1, part.shape[-1]) for name, part in parts.items()})

    @property
    def window(self) -> int:
        """Words on either side of a group."""
        return (self.words.shape[1] - self.left.shape[1]) // 2

    @property
    def own(self) -> slice:
        """Where a group's own words are among its words."""
        return slice(self.window, self.window + self.left.shape[1])
