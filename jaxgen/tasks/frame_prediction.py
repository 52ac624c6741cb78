"""Prediction of frames: each next one from those before it, and many in a row from what was predicted itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped, UInt8

from jaxgen.errors import UsageError, sizes
from jaxgen.likelihoods import bernoulli_log_likelihood
from jaxgen.metrics import AnyArray, Mean, Metric, calibrated_cross_entropy
from jaxgen.models.conv_lstm import ConvLSTM
from jaxgen.tasks.base import apply_model, check_arrays, infer, init_model
from jaxgen.train.context import Batch, Context, Outputs, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Frames = Float[AnyArray, "batch time height width channels"]


@dataclass(frozen=True)
class FramePrediction:
    """Predicts frames of `video` [batch, time, height, width, channels], bytes or floats from 0 to 1; `weight` [batch].

    It learns to predict each next frame from the true ones before it, by the cross-entropy of its pixels, whose
    brightness is taken for the probability of a 1 (Srivastava et al. 2015, section 4.1; Shi et al. 2015, section 4.1).
    In evaluation it also goes on from the first frames alone, by what it has predicted itself.

    Attributes:
        model: from frames to the logits of each next one, and a carry.
        given: frames that a prediction of the rest begins with.

    Raises:
        UsageError: when it is made, where no frame is given.
    """

    model: ConvLSTM
    given: int = 10

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        if self.given < 1:
            raise UsageError(f"{self.given} given frames are too few to go on from: give 1 at least")

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the model's parameters."""
        frames = jax.ShapeDtypeStruct((1, 1, *example["video"].shape[2:]), jnp.float32)
        return init_model(self.model, rng, frames)

    def check(self, source: Any) -> None:
        """Checks that a data source fits: frames of the model's shape, and more of them than are given.

        Raises:
            UsageError: where it doesn't.
        """
        found = check_arrays(source, ("video",))["video"].shape
        if tuple(found[1:]) != tuple(self.model.frame_shape):
            raise UsageError(
                f"{source.name} has frames of {sizes(found[1:])}, the model is for "
                f"{sizes(self.model.frame_shape)}"
            )
        if found[0] <= self.given:
            raise UsageError(
                f"{source.name} has {found[0]} frames a sequence, which leaves none to predict after the {self.given} "
                f"given ones: more frames, or fewer given ones"
            )

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Has no recurrent state between batches."""
        return ()

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives the cross-entropy of each next frame, in nats a frame.

        Metrics, all of a frame: `mse`, the sum of its pixels' squared errors; in evaluation `rollout_loss` and
        `rollout_mse` of the frames after the given ones, predicted from these alone, and beside all four those of
        copying the last frame that is known: `copying_loss`, `copying_mse`, `rollout_copying_loss` and
        `rollout_copying_mse`. A copied pixel's own brightness is no probability, as being wrong would cost without
        limit: it is read as `jaxgen.metrics.CalibratedCrossEntropy` says, better than any copying can know.
        """
        frames, weights = _pixels(batch["video"]), batch.get("weight")
        if context.train:
            (logits, _), model_state = apply_model(self.model, params, model_state, frames[:, :-1], context)
            cross_entropy, mse = _errors(logits, frames[:, 1:], weights)
            return {"cross_entropy": cross_entropy}, Outputs({"mse": mse}, model_state, carry)
        early, known = infer(self.model, params, model_state, frames[:, : self.given])
        logits = early
        if frames.shape[1] > self.given + 1:
            late, _ = infer(self.model, params, model_state, frames[:, self.given : -1], carry=known)
            logits = jnp.concatenate([early, late], axis=1)
        cross_entropy, mse = _errors(logits, frames[:, 1:], weights)
        reported: dict[str, Metric] = {"mse": mse, **_of_copying("", frames[:, :-1], frames[:, 1:], weights)}
        rest = frames[:, self.given :]
        rolled_out = self._go_on(params, model_state, early[:, -1], known, rest.shape[1])
        reported["rollout_loss"], reported["rollout_mse"] = _errors(rolled_out, rest, weights)
        last = jnp.broadcast_to(frames[:, self.given - 1 : self.given], rest.shape)
        reported |= _of_copying("rollout_", last, rest, weights)
        return {"cross_entropy": cross_entropy}, Outputs(reported, model_state, carry)

    def rollout(
        self, params: Params, model_state: Any, frames: Shaped[AnyArray, "..."], steps: int
    ) -> Frames:
        """Predicts the next `steps` frames, from 0 to 1, each from those that are given and those it predicted before.

        What is fed back are the pixels' probabilities: nothing is drawn.
        """
        logits, carry = infer(self.model, params, model_state, _pixels(frames))
        return jax.nn.sigmoid(self._go_on(params, model_state, logits[:, -1], carry, steps))

    def predict(
        self, params: Params, model_state: Any, batch: Batch
    ) -> dict[str, UInt8[Array, "batch rest height width channels"]]:
        """Gives the frames after the given ones, `prediction` uint8, predicted from these alone."""
        video = jnp.asarray(batch["video"])
        steps = video.shape[1] - self.given
        frames = self.rollout(params, model_state, video[:, : self.given], steps)
        return {"prediction": jnp.rint(255 * frames).astype(jnp.uint8)}

    def plots(
        self, params: Params, examples: dict[str, Any], predictions: dict[str, Any]
    ) -> "dict[str, Figure]":
        """Draws the error of each frame beside that of copying, and the frames of some sequences.

        Args:
            params: the trained parameters.
            examples: a split as NumPy arrays, `video`.
            predictions: what `predict` gave for it.
        """
        from jaxgen import video_plots

        truth, predicted = examples["video"], predictions["prediction"]
        return {
            "error_by_frame": video_plots.error_by_frame(truth, predicted),
            "rollouts": video_plots.rollouts(truth, predicted),
        }

    def _go_on(
        self, params: Params, model_state: Any, logits: Array, carry: Any, steps: int
    ) -> Float[Array, "batch steps height width channels"]:
        """Gives the logits of the next frames, the first of which are known already, feeding back what is predicted."""

        def step(loop: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], Array]:
            logits, carry = loop
            frame = jax.nn.sigmoid(logits)[:, None]
            following, carry = infer(self.model, params, model_state, frame, carry=carry)
            return (following[:, 0], carry), logits

        # The last step's own prediction is not needed, and its time is lost: 1 of 10.
        _, logits = jax.lax.scan(step, (logits, carry), length=steps)
        return jnp.moveaxis(logits, 0, 1)


def _pixels(
    frames: Shaped[AnyArray, "batch time height width channels"],
) -> Float[Array, "batch time height width channels"]:
    """Gives floats from 0 to 1."""
    return jnp.asarray(frames, jnp.float32) / (255 if frames.dtype == jnp.uint8 else 1)


def _errors(logits: Frames, truth: Frames, weights: Shaped[AnyArray, " batch"] | None) -> tuple[Mean, Mean]:
    """Gives the cross-entropy and the squared error of frames, each summed over its pixels."""
    frames = logits.shape[:2]
    pixels = (frames[0] * frames[1], *logits.shape[2:])
    nats = -bernoulli_log_likelihood(logits.reshape(pixels), truth.reshape(pixels))
    squares = ((jax.nn.sigmoid(logits) - truth) ** 2).sum(axis=(2, 3, 4))
    return Mean.of(nats.reshape(frames), weights), Mean.of(squares, weights)


def _of_copying(
    prefix: str, copied: Frames, truth: Frames, weights: Shaped[AnyArray, " batch"] | None
) -> dict[str, Metric]:
    squares = ((copied - truth) ** 2).sum(axis=(2, 3, 4))
    mse = Mean.of(squares, weights)
    return {
        f"{prefix}copying_loss": calibrated_cross_entropy(copied, truth, mse.count, weights),
        f"{prefix}copying_mse": mse,
    }
