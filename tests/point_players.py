"""Dense players of adversarial games, for points in the plane and other small images."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


class PointGenerator(nn.Module):
    """Makes points in the plane, as images of one pixel with two channels; or other images that are as small."""

    image_shape: tuple[int, ...] = (1, 1, 2)
    latent_size: int = 4
    num_classes: int = 0
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, latents, labels=None, *, train=False, mask=None):
        hidden = with_classes(latents, labels, self.num_classes)
        for width in self.widths:
            hidden = nn.relu(nn.Dense(width)(hidden))
        return nn.Dense(math.prod(self.image_shape))(hidden).reshape(-1, *self.image_shape)


class PointDiscriminator(nn.Module):
    num_classes: int = 0
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, images, labels=None, *, train=False, mask=None):
        hidden = with_classes(images.reshape(len(images), -1), labels, self.num_classes)
        for width in self.widths:
            hidden = nn.leaky_relu(nn.Dense(width)(hidden), 0.2)
        return nn.Dense(1)(hidden)[:, 0]


def with_classes(inputs, labels, num_classes):
    return jnp.concatenate([inputs, jax.nn.one_hot(labels, num_classes)], axis=1) if num_classes else inputs
