"""A task that generates images without a network: each class's mean image, with noise from the latents and the key."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.errors import UsageError
from jaxgen.metrics import Mean
from jaxgen.train.context import Outputs


@dataclass(frozen=True)
class Drawing:
    """Learns the mean image of each class, or of all; `noise` is the part of an image that is drawn."""

    num_classes: int = 10
    image_shape: tuple[int, ...] = (28, 28, 1)
    noise: float = 0.2

    @property
    def latent_shape(self):
        return self.image_shape

    def init(self, rng, example):
        return {"means": jnp.full((max(1, self.num_classes), *self.image_shape), 0.5)}, {}

    def initial_carry(self, batch_size):
        return ()

    def loss(self, params, model_state, carry, batch, context):
        images = batch["image"] / 255
        errors = jnp.sum((self._means(params, batch["label"]) - images) ** 2, axis=(1, 2, 3))
        return {"loss": Mean(jnp.sum(batch["weight"] * errors), jnp.sum(batch["weight"]))}, Outputs(
            {}, model_state, carry
        )

    def generate(self, params, model_state, rng, latents, labels, *, guidance=None, steps=None):
        if steps is not None:
            raise UsageError("the task has no steps")
        drawn = jax.random.normal(rng, latents.shape)
        strength = self.noise / (1 if guidance is None else guidance)
        means = params["means"][:1] if labels is None else params["means"][labels]
        return jnp.clip(means + strength * (latents + 0.1 * drawn), 0, 1)

    def _means(self, params, labels):
        return params["means"][labels if self.num_classes else jnp.zeros_like(labels)]


@dataclass(frozen=True)
class Encoding(Drawing):
    """One with the further methods of a variational autoencoder."""

    def reconstruct(self, params, model_state, rng, images, labels=None):
        return (images + params["means"][0 if labels is None else labels]) / 2

    def bound(self, params, model_state, rng, batch, num_samples):
        weights = batch["weight"]
        return Mean(jnp.sum(weights * (100.0 - num_samples)), jnp.sum(weights))
