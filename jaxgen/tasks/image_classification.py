"""Image classification: cross-entropy or mean squared error over classes, accuracy and calibration."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from jaxgen import losses, metrics
from jaxgen.augment import Augmentation, mix, mixup_partners, mixup_shares
from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray, Mean, Metric
from jaxgen.tasks.base import apply_model, infer, init_model
from jaxgen.train.context import Batch, Context, Outputs, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ImageClassification:
    """Classifies images: `image` [batch, height, width, channels], `label` int32 [batch], `weight` [batch].

    Attributes:
        model: a module from images to logits [batch, classes].
        objective: `cross_entropy`, or `mse`: mean squared error of the outputs against one-hot targets.
        label_smoothing: part of each label that is spread evenly over all classes.
        pixel_range: what the byte values 0 and 255 become; images that are floats already are left alone.
        class_names: names for plots and tables; numbers when empty.
        augmentation: random changes of the images in training.
    """

    model: nn.Module
    objective: Literal["cross_entropy", "mse"] = "cross_entropy"
    label_smoothing: float = 0.0
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    class_names: tuple[str, ...] = ()
    augmentation: Augmentation = field(default_factory=Augmentation)

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the model's parameters and state for images of the example's shape."""
        images = example["image"]
        return init_model(self.model, rng, jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32))

    def check(self, source: Any) -> None:
        """Checks that a data source fits: images, and no more classes than the model has outputs.

        Raises:
            UsageError: where it doesn't.
        """
        example = source[0]
        if "image" not in example or "label" not in example:
            raise UsageError(
                f"{source.name} is no image-classification set: it has {', '.join(example)}, not image and label"
            )
        outputs = jax.eval_shape(self._outputs, example).shape[-1]
        if source.num_classes > outputs:
            raise UsageError(
                f"{source.name} has {source.num_classes} classes, but the model has {outputs} outputs: "
                f"give it num_classes={source.num_classes}"
            )

    def _outputs(self, example: Batch) -> Array:
        images = self.scale(jnp.asarray(example["image"])[None])
        params, model_state = init_model(self.model, jax.random.key(0), images)
        return infer(self.model, params, model_state, images)

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Has no recurrent state."""
        return ()

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives the objective as one term, and the accuracy; in evaluation also top-5 and calibration.

        In training the images are augmented. Mixup mixes within the block at hand, so under `pmap` and with
        microbatches the mixtures are equal only in distribution; the accuracy is that against the label
        with the larger share.
        """
        images, labels, weights = self.scale(batch["image"]), batch["label"], batch.get("weight")
        mixture = None
        if context.train:
            rngs = context.example_rngs()
            images = self.augmentation(rngs, images, background=self.pixel_range[0])
            if self.augmentation.mixup:
                shares = mixup_shares(rngs, self.augmentation.mixup)
                partners = mixup_partners(jnp.ones(shares.shape) if weights is None else weights)
                images, mixture = mix(images, partners, shares), (labels[partners], shares)
        outputs, model_state = apply_model(self.model, params, model_state, images, context, weights)
        reported: dict[str, Metric] = {"accuracy": metrics.accuracy(outputs, labels, weights)}
        if not context.train:
            if outputs.shape[-1] > 10:  # of ten classes the right one is nearly always among five
                reported["top_5_accuracy"] = metrics.top_k_accuracy(outputs, labels, 5, weights)
            if self.objective == "cross_entropy":
                reported["calibration_error"] = metrics.calibration_error(outputs, labels, weights)
        term = self._term(outputs, labels, weights)
        if mixture is not None:
            term = self._mixed_term(outputs, labels, weights, *mixture)
        return {self.objective: term}, Outputs(reported, model_state, carry)

    def _mixed_term(
        self, outputs: Array, labels: Array, weights: Array | None, others: Array, shares: Array
    ) -> Mean:
        # An example of weight w is one of weight share * w with its own label, and one of the rest with the other.
        weights = jnp.ones(shares.shape) if weights is None else weights
        return self._term(outputs, labels, shares * weights) + self._term(
            outputs, others, (1 - shares) * weights
        )

    def _term(self, outputs: Array, labels: Array, weights: Array | None) -> Mean:
        if self.objective == "cross_entropy":
            return losses.cross_entropy(outputs, labels, weights, self.label_smoothing)
        num_classes = outputs.shape[-1]
        targets = jax.nn.one_hot(labels, num_classes)
        targets = (1 - self.label_smoothing) * targets + self.label_smoothing / num_classes
        return losses.mean_squared_error(outputs, targets, weights)

    def scale(self, images: Shaped[AnyArray, "..."]) -> Float[Array, "..."]:
        """Maps bytes to floats in `pixel_range`."""
        if images.dtype != jnp.uint8:
            return jnp.asarray(images, jnp.float32)
        low, high = self.pixel_range
        return jnp.asarray(images, jnp.float32) * ((high - low) / 255) + low

    def predict(self, params: Params, model_state: Any, batch: Batch) -> dict[str, Array]:
        """Gives `probabilities` [batch, classes] and `prediction` int32 [batch].

        Trained with mean squared error the outputs are clipped and normalised, so that they add up to one.
        """
        outputs = infer(self.model, params, model_state, self.scale(batch["image"]))
        if self.objective == "cross_entropy":
            probabilities = jax.nn.softmax(outputs)
        else:
            clipped = jnp.clip(outputs, 1e-6, None)
            probabilities = clipped / clipped.sum(-1, keepdims=True)
        return {"probabilities": probabilities, "prediction": outputs.argmax(-1).astype(jnp.int32)}

    def plots(
        self, params: Params, examples: dict[str, Any], predictions: dict[str, Any]
    ) -> "dict[str, Figure]":
        """Draws the confusion matrix, the worst mistakes, and the first layer's filters.

        Args:
            params: the trained parameters.
            examples: a split as NumPy arrays, `image` and `label`.
            predictions: what `predict` gave for it.
        """
        from jaxgen import plots

        images, labels = examples["image"], examples["label"]
        names = self.class_names or tuple(str(c) for c in range(predictions["probabilities"].shape[-1]))
        figures = {
            "confusion_matrix": plots.confusion_matrix(labels, predictions["prediction"], names),
            "mistakes": plots.worst_mistakes(images, labels, predictions["probabilities"], names),
        }
        filters = plots.first_layer_filters(params, images.shape[1:])
        return figures if filters is None else {**figures, "filters": filters}
