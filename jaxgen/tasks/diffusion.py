"""Diffusion: a net learns to tell noise from image in mixtures of both, and images are made from noise by it."""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key

from jaxgen import losses
from jaxgen.errors import UsageError, sizes, unknown
from jaxgen.generate.diffusion import SAMPLERS, guided, sample
from jaxgen.metrics import Mean
from jaxgen.noise_schedules import (
    add_noise,
    check_schedule,
    check_target,
    levels,
    make_target,
)
from jaxgen.tasks.base import apply_model, check_arrays, init_model, pixel_rngs, signed_pixels
from jaxgen.train.context import Batch, Context, Outputs, Params

# What each example's key is folded with.
_TIME, _NOISE, _DROPPED = range(3)


@dataclass(frozen=True)
class Diffusion:
    """Learns `image` [batch, height, width, channels], for `label` int32 [batch] where the net has classes.

    Images of bytes become -1 to 1; floats are in that range already. The loss is the mean squared error of the target
    at times drawn evenly (Ho et al. 2020, equation 14; with the target `flow` Lipman et al. 2023, equation 23).

    Attributes:
        model: from noisy images, times [batch] and labels [batch] (or None) to a prediction of the images' shape; see
            `jaxgen.models.UNet`.
        image_shape: height, width and channels.
        num_classes: that the model has; 0 where it is unconditional.
        target: what is predicted: `epsilon`, `v`, `x0` or `flow`.
        schedule: `linear`, `cosine` or `straight`; see `jaxgen.noise_schedules.levels`.
        label_dropout: part of the labels that is withheld in training, so that the net learns to do without, too
            (classifier-free guidance, Ho & Salimans 2022, algorithm 1).
        guidance: what is sampled with where nothing else is asked for: 1 for the conditional prediction as it is.
        sampling_steps: likewise.
        sampler: `ddim` or `ancestral`; see `jaxgen.generate.diffusion.sample`.
        class_names: names of the classes; numbers when empty.

    Raises:
        UsageError: when it is made, for unknown names and values out of range.
    """

    model: nn.Module
    image_shape: tuple[int, int, int]
    num_classes: int = 0
    target: str = "v"
    schedule: str = "cosine"
    label_dropout: float = 0.1
    guidance: float = 1.0
    sampling_steps: int = 50
    sampler: str = "ddim"
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what can't be trained or sampled."""
        check_schedule(self.schedule)
        check_target(self.target, self.schedule)
        if self.sampler not in SAMPLERS:
            raise unknown("sampler", self.sampler, SAMPLERS)
        if not 0 <= self.label_dropout < 1:
            raise UsageError(f"label_dropout is {self.label_dropout}; it must be at least 0 and below 1")
        if self.num_classes and not self.label_dropout and self.guidance != 1:
            raise UsageError(
                f"guidance {self.guidance} needs a net that also learns without labels: give it a label_dropout"
            )
        _check_guidance(self.guidance)
        if self.sampling_steps < 1:
            raise UsageError(f"sampling_steps must be at least 1, not {self.sampling_steps}")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape of one image's noise: the image's own."""
        return self.image_shape

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the model's parameters and state for images of the example's shape."""
        inputs = jax.ShapeDtypeStruct((1, *example["image"].shape[1:]), jnp.float32)
        told = {"times": jax.ShapeDtypeStruct((1,), jnp.float32)}
        if self.num_classes:
            told["labels"] = jax.ShapeDtypeStruct((1,), jnp.int32)
        return init_model(self.model, rng, inputs, **told)

    def check(self, source: Any) -> None:
        """Checks that a data source fits: images of this shape, and labels where the net has classes.

        Raises:
            UsageError: where it doesn't.
        """
        example = check_arrays(source, ("image", "label") if self.num_classes else ("image",))
        if example["image"].shape != self.image_shape:
            theirs, ours = sizes(example["image"].shape), sizes(self.image_shape)
            raise UsageError(f"the images of {source.name} are {theirs}, but the task's are {ours}")
        if self.num_classes and source.num_classes > self.num_classes:
            raise UsageError(
                f"{source.name} has {source.num_classes} classes, but the net {self.num_classes}"
            )
        if hasattr(self.model, "check_image_size"):
            self.model.check_image_size(*self.image_shape[:2])

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Has no recurrent state."""
        return ()

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives the mean squared error over all elements of the target; each example draws its own time and noise."""
        images = signed_pixels(batch["image"])
        # In evaluation each image has its own time and noise, so that figures of different states and runs compare.
        rngs = context.example_rngs() if context.train else pixel_rngs(jax.random.key(0), batch["image"])
        times = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _TIME)))(rngs)
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, _NOISE), images.shape[1:]))(
            rngs
        )
        labels = None
        if self.num_classes:
            labels = batch["label"]
            if context.train and self.label_dropout:
                drawn = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _DROPPED)))(rngs)
                labels = jnp.where(drawn < self.label_dropout, self.num_classes, labels)
        at = levels(self.schedule, times)
        noisy = add_noise(images, noise, at)
        told = {"times": times, "labels": labels}
        predicted, model_state = apply_model(self.model, params, model_state, noisy, context, **told)
        error = losses.mean_squared_error(
            predicted, make_target(self.target, images, noise, at), batch.get("weight")
        )
        return {"mse": error}, Outputs(model_state=model_state, carry=carry)

    def generate(
        self,
        params: Params,
        model_state: Any,
        rng: Key[Array, ""],
        latents: Float[Array, "batch height width channels"],
        labels: Int32[Array, " batch"] | None,
        *,
        guidance: float | None = None,
        steps: int | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Makes images in [0, 1] from noise.

        Args:
            params: the trained parameters.
            model_state: the net's other variables.
            rng: of what the sampler draws.
            latents: standard normal.
            labels: what to show; None where the net is unconditional.
            guidance: 1 for the conditional prediction as it is, 0 for the unconditional one, and more than 1 for images
                that show their class more clearly, and differ less; the task's by default.
            steps: of the sampler; the task's by default.

        Raises:
            UsageError: for guidance or labels where the net is unconditional, and for no labels where it isn't.
        """
        samples = sample(
            self._predictor(params, model_state, labels, guidance),
            latents,
            rng,
            target=self.target,
            schedule=self.schedule,
            steps=self.sampling_steps if steps is None else steps,
            sampler=self.sampler,
        )
        return jnp.clip((samples + 1) / 2, 0, 1)

    def _predictor(
        self, params: Params, model_state: Any, labels: Int32[Array, " batch"] | None, guidance: float | None
    ) -> Any:
        """Makes the function from noisy images and times to a prediction, which `sample` takes."""
        variables = {"params": params, **model_state}
        if not self.num_classes:
            if guidance is not None or labels is not None:
                raise UsageError("the net is unconditional: it knows neither classes nor guidance")
            return lambda noisy, times: self.model.apply(variables, noisy, times)
        if labels is None:
            raise UsageError(f"the net makes images of {self.num_classes} classes: say which")
        guidance = self.guidance if guidance is None else guidance
        _check_guidance(guidance)
        if guidance != 1 and not self.label_dropout:
            raise UsageError("the net was trained with labels alone: it can't be guided")
        none = jnp.full_like(labels, self.num_classes)
        if guidance in (0, 1):
            told = labels if guidance else none
            return lambda noisy, times: self.model.apply(variables, noisy, times, told)

        def predict(noisy: Array, times: Array) -> Array:
            # One call with both, since larger products are faster ones.
            twice = (jnp.concatenate([part, part]) for part in (noisy, times))
            both: Any = self.model.apply(variables, *twice, jnp.concatenate([labels, none]))
            conditional, unconditional = jnp.split(both, 2)
            return guided(conditional, unconditional, guidance)

        return predict


def _check_guidance(guidance: float) -> None:
    if not math.isfinite(guidance):
        raise UsageError(f"guidance is {guidance}; it must be a number")
