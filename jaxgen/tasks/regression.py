"""Regression: one number from a row of features, standardised by what the training split taught."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen import losses, metrics
from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray, Mean
from jaxgen.tasks.base import apply_model, infer, init_model
from jaxgen.train.context import Batch, Context, Outputs, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Regression:
    """Predicts `target` float32 [batch] from `features` float32 [batch, features].

    The model sees standardised features and learns the standardised target; `loss` is in those units, the
    metrics `mse` and `r2` are in the target's own.

    Attributes:
        model: a module from features to [batch, 1].
        objective: `mse` or `huber`.
        feature_mean: mean of each feature over the training split; empty for none.
        feature_scale: standard deviation of each feature.
        target_mean: mean of the target.
        target_scale: standard deviation of the target.
    """

    model: nn.Module
    objective: Literal["mse", "huber"] = "mse"
    feature_mean: tuple[float, ...] = ()
    feature_scale: tuple[float, ...] = ()
    target_mean: float = 0.0
    target_scale: float = 1.0

    def standardised(self, examples: dict[str, np.ndarray]) -> "Regression":
        """Makes the task whose statistics are those of a training split; a constant feature is left alone."""
        features, target = examples["features"].astype(np.float64), examples["target"].astype(np.float64)
        scale = features.std(axis=0)
        return replace(
            self,
            feature_mean=tuple(features.mean(axis=0).tolist()),
            feature_scale=tuple(np.where(scale > 0, scale, 1.0).tolist()),
            target_mean=float(target.mean()),
            target_scale=float(target.std()) or 1.0,
        )

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the model's parameters and state for rows of the example's length."""
        return init_model(
            self.model, rng, jax.ShapeDtypeStruct((1, example["features"].shape[1]), jnp.float32)
        )

    def check(self, source: Any) -> None:
        """Checks that a data source fits: features, as many as the statistics have, and a target.

        Raises:
            UsageError: where it doesn't.
        """
        example = source[0]
        if "features" not in example or "target" not in example:
            raise UsageError(
                f"{source.name} is no regression set: it has {', '.join(example)}, not features and target"
            )
        features = example["features"].shape[0]
        if self.feature_mean and len(self.feature_mean) != features:
            raise UsageError(
                f"{source.name} has {features} features, the task was made for {len(self.feature_mean)}"
            )

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Has no recurrent state."""
        return ()

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives the objective as one term, with `mse` and `r2` in the target's units."""
        targets, weights = batch["target"], batch.get("weight")
        outputs, model_state = apply_model(
            self.model, params, model_state, self.scale(batch["features"]), context, weights
        )
        outputs = outputs[:, 0]
        predictions = outputs * self.target_scale + self.target_mean
        reported = {
            "mse": losses.mean_squared_error(predictions, targets, weights),
            "r2": metrics.r2(predictions, targets, weights, offset=self.target_mean),
        }
        compare = losses.mean_squared_error if self.objective == "mse" else losses.huber
        term = compare(outputs, (targets - self.target_mean) / self.target_scale, weights)
        return {self.objective: term}, Outputs(reported, model_state, carry)

    def scale(self, features: Float[AnyArray, "batch features"]) -> Float[Array, "batch features"]:
        """Standardises the features."""
        if not self.feature_mean:
            return jnp.asarray(features)
        return (jnp.asarray(features) - jnp.array(self.feature_mean)) / jnp.array(self.feature_scale)

    def predict(self, params: Params, model_state: Any, batch: Batch) -> dict[str, Array]:
        """Gives `prediction` [batch] in the target's units."""
        outputs = infer(self.model, params, model_state, self.scale(batch["features"]))
        return {"prediction": outputs[:, 0] * self.target_scale + self.target_mean}

    def plots(
        self, params: Params, examples: dict[str, Any], predictions: dict[str, Any]
    ) -> "dict[str, Figure]":
        """Draws predicted against true values."""
        from jaxgen import plots

        return {"predictions": plots.predicted_against_true(examples["target"], predictions["prediction"])}
