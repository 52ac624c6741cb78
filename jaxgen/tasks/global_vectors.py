"""GloVe: vectors whose dot products tell how often words stand near each other."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, Key

from jaxgen.data.cooccurrence import Cooccurrences
from jaxgen.data.corpus import read_vocabulary
from jaxgen.embeddings.keyed_vectors import KeyedVectors
from jaxgen.errors import UsageError
from jaxgen.metrics import Mean
from jaxgen.models.word_vectors import BiasedWordVectors
from jaxgen.optim import OptimizerConfig
from jaxgen.tasks.base import check_words, init_model
from jaxgen.train.context import Batch, Context, Outputs, Params
from jaxgen.train.gradients import GradientMethod, RowAdaGrad, RowOptimizer, rows


@dataclass(frozen=True)
class GlobalVectors:
    """GloVe (Pennington et al. 2014): least squares of w.c + biases - log X, weighted by min(1, X / x_max)^alpha.

    A batch is `pair` int32 [batch, 2], a word and its context, and `count` float32 [batch], X. A loss is of the rows
    that a batch touches: give `fit` the task's `gradient` and `row_optimizer`.

    Attributes:
        model: the tables.
        x_max: counts from which on pairs have the full weight.
        alpha: how the weights of others fall off.

    Raises:
        UsageError: when it is made, for values that aren't positive.
    """

    model: BiasedWordVectors
    x_max: float = 100.0
    alpha: float = 0.75

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        if not (self.x_max > 0 and self.alpha > 0):
            raise UsageError(f"x_max and alpha must be positive, not {self.x_max} and {self.alpha}")

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the tables."""
        return init_model(self.model, rng, jax.ShapeDtypeStruct((1,), jnp.int32))

    def check(self, source: Any) -> None:
        """Checks that a data source is of counts, and of the model's vocabulary.

        Raises:
            UsageError: where it isn't.
        """
        if not isinstance(source.reader, Cooccurrences):
            raise UsageError(
                f"{source.name} isn't made of counts: see jaxgen.data.cooccurrence.cooccurrence_source"
            )
        check_words(source, self.model.vocabulary_size)

    def initial_carry(self, batch_size: int) -> Any:
        """Has none."""
        return ()

    def touched(self, batch: Batch) -> dict[str, Int32[Array, " touched"]]:
        """Names the rows of the tables that a batch touches."""
        words, contexts = jnp.asarray(batch["pair"]).T
        return {"input": words, "output": contexts}

    @property
    def gradient(self) -> GradientMethod:
        """The gradient with respect to these rows."""
        return rows(self.touched)

    def row_optimizer(self, config: OptimizerConfig, pairs_per_step: int) -> RowOptimizer:
        """Makes the optimiser: AdaGrad, whose learning rate is that of a pair.

        Args:
            config: AdaGrad, with a constant learning rate.
            pairs_per_step: that a batch has.

        Raises:
            UsageError: for another optimiser.
        """
        if config != OptimizerConfig("adagrad", config.schedule) or config.schedule.name != "constant":
            raise UsageError(
                "GloVe is trained by --optimizer adagrad alone, with a constant learning rate, without clipping and "
                "weight decay"
            )
        rate = config.schedule.learning_rate * pairs_per_step
        return RowOptimizer({name: RowAdaGrad(rate) for name in ("input", "output")}, optax.identity())

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives half the weighted squared differences, a pair; what fills up an epoch counts as pairs."""
        word, other = params["input"], params["output"]
        count = jnp.asarray(batch["count"])
        product = (word[:, :-1] * other[:, :-1]).sum(axis=1)
        difference = product + word[:, -1] + other[:, -1] - jnp.log(count)
        weight = jnp.minimum(1.0, count / self.x_max) ** self.alpha * jnp.asarray(batch["weight"])
        total = (weight * difference**2).sum() / 2
        return {"least_squares": Mean(total, jnp.float32(count.size))}, Outputs({}, model_state, carry)

    def vectors(self, params: Params) -> Float[Array, "words width"]:
        """Gives the words' vectors, in the order of the vocabulary: both tables', added up."""
        both: Array = params["input"] + params["output"]
        return both[: self.model.vocabulary_size, :-1]

    def keyed_vectors(self, params: Params, run: Any) -> KeyedVectors:
        """Gives the vectors of a `SavedRun` by word."""
        vocabulary = read_vocabulary(run.directory.vocabulary_path)
        return KeyedVectors(vocabulary.words, np.asarray(self.vectors(params)), vocabulary.counts)
