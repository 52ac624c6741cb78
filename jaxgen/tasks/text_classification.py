"""Text classification: cross-entropy over classes, accuracy and calibration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxgen import losses, metrics
from jaxgen.errors import UsageError
from jaxgen.metrics import Mean, Metric
from jaxgen.tasks.base import check_text, init_model, read_text
from jaxgen.train.context import Batch, Context, Outputs, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TextClassification:
    """Classifies `tokens` int32 [batch, time]: `label` int32 [batch].

    A batch may say more: `lengths` int32 [batch], the tokens that aren't padding; `type_ids` int32 [batch, time]; and
    `weight` [batch].

    Attributes:
        model: a module that is called as `(tokens, *, lengths, token_types, train)`, of which the last three are
            optional, and gives logits [batch, classes], alone or as `classification` of several heads, as `BERT` does.
        label_smoothing: part of each label that is spread evenly over all classes.
        class_names: names for plots and tables; numbers when empty.
        tokenizer: fingerprint of the tokenizer that the tokens are of.
    """

    model: nn.Module
    label_smoothing: float = 0.0
    class_names: tuple[str, ...] = ()
    tokenizer: str = ""

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the model's parameters; they don't hang on the length of the texts."""
        return init_model(self.model, rng, jax.ShapeDtypeStruct((1, 2), jnp.int32))

    def check(self, source: Any) -> None:
        """Checks that a data source has texts with labels, and no more classes than the model has outputs.

        Raises:
            UsageError: where it hasn't.
        """
        check_text(source, ("tokens", "label"), self.tokenizer)
        outputs = jax.eval_shape(self._outputs, {"tokens": source[0]["tokens"][None]}).shape[-1]
        if source.num_classes > outputs:
            raise UsageError(
                f"{source.name} has {source.num_classes} classes, but the model has {outputs} outputs: "
                f"give it num_classes={source.num_classes}"
            )

    def _outputs(self, batch: Batch) -> Array:
        params, model_state = self.init(jax.random.key(0), batch)
        return self._logits(params, model_state, batch, None)

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Has no recurrent state."""
        return ()

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives the cross-entropy, and the accuracy; in evaluation also the calibration."""
        labels, weights = batch["label"], batch.get("weight")
        logits = self._logits(params, model_state, batch, context)
        reported: dict[str, Metric] = {"accuracy": metrics.accuracy(logits, labels, weights)}
        if not context.train:
            reported["calibration_error"] = metrics.calibration_error(logits, labels, weights)
        nats = losses.cross_entropy(logits, labels, weights, self.label_smoothing)
        return {"cross_entropy": nats}, Outputs(reported, model_state, carry)

    def _logits(self, params: Params, model_state: Any, batch: Batch, context: Context | None) -> Array:
        found = read_text(
            self.model,
            params,
            model_state,
            context,
            None,
            batch["tokens"],
            lengths=batch.get("lengths"),
            token_types=batch.get("type_ids"),
        )
        return found["classification"] if isinstance(found, Mapping) else found

    def predict(self, params: Params, model_state: Any, batch: Batch) -> dict[str, Array]:
        """Gives `probabilities` [batch, classes] and `prediction` int32 [batch]."""
        logits = self._logits(params, model_state, batch, None)
        return {"probabilities": jax.nn.softmax(logits), "prediction": logits.argmax(-1).astype(jnp.int32)}

    def plots(
        self, params: Params, examples: dict[str, Any], predictions: dict[str, Any]
    ) -> "dict[str, Figure]":
        """Draws the confusion matrix.

        Args:
            params: the trained parameters.
            examples: a split as NumPy arrays, `tokens` and `label`.
            predictions: what `predict` gave for it.
        """
        from jaxgen import plots

        names = self.class_names or tuple(str(c) for c in range(predictions["probabilities"].shape[-1]))
        return {
            "confusion_matrix": plots.confusion_matrix(examples["label"], predictions["prediction"], names)
        }
