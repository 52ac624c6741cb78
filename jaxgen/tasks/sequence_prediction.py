"""Sequence prediction: from one sequence of tokens to another one of a fixed length."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxgen import losses, metrics
from jaxgen.errors import UsageError
from jaxgen.gradient_flow import gradient_norms
from jaxgen.metrics import Mean
from jaxgen.models.cells import CELLS
from jaxgen.models.sequence_reader import SequenceReader
from jaxgen.tasks.base import apply_model, infer, init_model
from jaxgen.train.context import Batch, Context, Outputs, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Examples whose gradients are averaged for a picture.
_MEASURED = 64


@dataclass(frozen=True)
class SequencePrediction:
    """Predicts `target` int32 [batch, output length] from `input` int32 [batch, time]; `weight` [batch].

    Attributes:
        model: a module from tokens to logits [batch, output length, vocabulary].
        characters: a character for each token, for plots and tables.
        input_reversed: whether inputs are written from right to left.
    """

    model: nn.Module
    characters: str = ""
    input_reversed: bool = False

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the model's parameters and state for inputs of the example's length."""
        return init_model(self.model, rng, jax.ShapeDtypeStruct((1, example["input"].shape[1]), jnp.int32))

    def check(self, source: Any) -> None:
        """Checks that a data source fits: inputs, and targets of the model's length and vocabulary.

        Raises:
            UsageError: where it doesn't.
        """
        example = source[0]
        if "input" not in example or "target" not in example:
            raise UsageError(
                f"{source.name} has no pairs of sequences: it has {', '.join(example)}, not input and target"
            )
        outputs = jax.eval_shape(self._outputs, example["input"])
        if outputs.shape[0] != len(example["target"]):
            raise UsageError(
                f"{source.name} has targets of {len(example['target'])} tokens, the model writes {outputs.shape[0]}"
            )
        if source.num_classes > outputs.shape[1]:
            raise UsageError(
                f"{source.name} has {source.num_classes} tokens, but the model has {outputs.shape[1]} outputs"
            )

    def _outputs(self, inputs: Array) -> Array:
        params, model_state = init_model(self.model, jax.random.key(0), jnp.asarray(inputs)[None])
        return infer(self.model, params, model_state, jnp.asarray(inputs)[None])[0]

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Has no recurrent state between batches."""
        return ()

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives the cross-entropy of the tokens, their accuracy, and the part of targets that are met exactly."""
        logits, model_state = apply_model(self.model, params, model_state, batch["input"], context)
        targets, weights = batch["target"], batch.get("weight")
        right = (jnp.argmax(logits, axis=-1) == targets).all(axis=-1)
        reported = {
            "accuracy": metrics.accuracy(logits, targets, weights),
            "exact": Mean.of(right, weights),
        }
        return {"cross_entropy": losses.cross_entropy(logits, targets, weights)}, Outputs(
            reported, model_state, carry
        )

    def predict(self, params: Params, model_state: Any, batch: Batch) -> dict[str, Array]:
        """Gives the most probable tokens, `prediction` int32 [batch, output length]."""
        logits = infer(self.model, params, model_state, jnp.asarray(batch["input"]))
        return {"prediction": jnp.argmax(logits, axis=-1).astype(jnp.int32)}

    def plots(
        self, params: Params, examples: dict[str, Any], predictions: dict[str, Any]
    ) -> "dict[str, Figure]":
        """Writes out examples with what was predicted, mistakes first; of a `SequenceReader` also its gradients by lag.

        Args:
            params: the trained parameters.
            examples: a split as NumPy arrays, `input` and `target`.
            predictions: what `predict` gave for it.
        """
        from jaxgen import plots

        inputs = self._written(examples["input"], self.input_reversed)
        targets, predicted = map(self._written, (examples["target"], predictions["prediction"]))
        figures = {"predictions": plots.predicted_sequences(inputs, targets, predicted)}
        if isinstance(self.model, SequenceReader):
            figures["gradient_by_lag"] = self._gradient_plot(self.model, params, examples["input"])
        return figures

    def _gradient_plot(self, model: SequenceReader, params: Params, inputs: Any) -> "Figure":
        """Draws how far the model's gradients reach, and those of untrained models with each kind of cell."""
        from jaxgen import recurrent_plots

        tokens = jnp.asarray(inputs[:_MEASURED])
        rng = jax.random.key(0)

        @functools.partial(jax.jit, static_argnums=0)
        def norms(model: SequenceReader, params: Params) -> Array:
            bound = model.bind({"params": params})
            return gradient_norms(bound.read, bound.embed(tokens), rng)

        fresh = {name: model.clone(cell=name) for name in CELLS}
        untrained = {name: norms(net, init_model(net, rng, tokens)[0]) for name, net in fresh.items()}
        trained = {model.cell: norms(model, params)}
        return recurrent_plots.gradient_by_lag(*jax.device_get((trained, untrained)))

    def _written(self, tokens: Any, backwards: bool = False) -> list[str]:
        if not self.characters:
            return [" ".join(str(token) for token in (row[::-1] if backwards else row)) for row in tokens]
        texts = ["".join(self.characters[token] for token in row) for row in tokens]
        return [(text[::-1] if backwards else text).strip() for text in texts]
