"""Generators and discriminators of adversarial training: DCGAN and its residual kin."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Shaped

from jaxgen.errors import UsageError, unknown
from jaxgen.metrics import AnyArray
from jaxgen.models.convolution import average_pool
from jaxgen.models.gan_layers import (
    ClassEmbedding,
    ConditionalBatchNorm,
    Dense,
    ImageConvolution,
    SelfAttention,
    check_image_size,
)
from jaxgen.models.layers import BatchNorm, check_sizes
from jaxgen.models.pixels import doubled

_BLOCKS = ("dcgan", "residual")
_CONDITIONINGS = ("embedding", "batch_norm")
_SLOPE = 0.2


class Generator(nn.Module):
    """Makes square images of noise: a dense layer to a small image, then stages that double its height and width.

    With the block `dcgan` a stage is a transposed convolution of 4 x 4 with batch norm and ReLU before it (Radford et
    al. 2016): with the defaults 7 x 7 x 128, 14 x 14 x 64, 28 x 28 x 1. With `residual` it is two convolutions of
    3 x 3 beside a shortcut (Miyato et al. 2018, appendix), and a last convolution of 3 x 3 makes the image.

    Attributes:
        image_shape: (height, width, channels).
        latent_size: numbers of noise that an image is made of.
        num_classes: classes that can be asked for; 0 for none.
        channels: before each stage with `dcgan`, after each with `residual`; one number a stage.
        block: `dcgan` or `residual`.
        batch_norm: whether to normalise before each activation (`batch_stats`).
        spectral_norm: whether all kernels are used with a spectral norm of one (`spectral`).
        attention: whether there is self-attention after the first stage.
        conditioning: how the class is told: `embedding`, added to the dense layer's output, or `batch_norm`, a scale
            and shift of each class after each batch norm.
        axis_name: the mapped axis over which batch statistics are taken, under `pmap` or `shard_map`.

    Raises:
        UsageError: when it is made, for unknown names, sizes out of range, and images that can't be made.
    """

    image_shape: Sequence[int] = (28, 28, 1)
    latent_size: int = 100
    num_classes: int = 0
    channels: Sequence[int] = (128, 64)
    block: str = "dcgan"
    batch_norm: bool = True
    spectral_norm: bool = False
    attention: bool = False
    conditioning: str = "embedding"
    axis_name: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(channels=self.channels, latent_size=(self.latent_size,), image_shape=self.image_shape)
        _check_names(self.block, self.conditioning)
        if len(self.image_shape) != 3:
            raise UsageError(f"image_shape is height, width and channels, not {tuple(self.image_shape)}")
        if self.num_classes < 0:
            raise UsageError(f"num_classes is {self.num_classes}; it must be 0 (none are told) or more")
        check_image_size(self.image_shape[:2], len(self.channels), "generator")
        if self.conditioning == "batch_norm" and self.num_classes and not self.batch_norm:
            raise UsageError(
                "conditioning by batch norm needs batch_norm=True; or take conditioning='embedding'"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "batch latent"],
        labels: Int32[AnyArray, " batch"] | None = None,
        *,
        train: bool = False,
        mask: Shaped[AnyArray, " batch"] | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Gives images from -1 to 1.

        Args:
            latents: standard normal noise.
            labels: the classes to make; None where there are none.
            train: whether batch norm uses and gathers the batch's statistics.
            mask: what is zero on rows that these leave out.
        """
        base = self.image_shape[0] >> len(self.channels)
        width = base * base * self.channels[0]
        hidden = Dense(width, self.spectral_norm, name="dense")(latents, train=train)
        if self.num_classes and self.conditioning == "embedding":
            hidden += ClassEmbedding(self.num_classes, width, name="classes")(labels, train=train)
        hidden = hidden.reshape(-1, base, base, self.channels[0])
        for stage in range(len(self.channels)):
            hidden = self._stage(hidden, labels, stage, train=train, mask=mask)
            if stage == 0 and self.attention:
                hidden = SelfAttention(self.spectral_norm, name="attention")(hidden, train=train)
        if self.block == "residual":
            hidden = self._activate(hidden, labels, "norm", train=train, mask=mask)
            last = ImageConvolution(self.image_shape[2], 3, "keep", self.spectral_norm, name="image")
            hidden = last(hidden, train=train)
        return jnp.tanh(hidden)

    def _stage(self, hidden: Array, labels: Any, stage: int, *, train: bool, mask: Any) -> Array:
        normed = self._activate(hidden, labels, f"norm_{stage}", train=train, mask=mask)
        if self.block == "dcgan":
            features = [*self.channels, self.image_shape[2]][stage + 1]
            layer = ImageConvolution(features, 4, "double", self.spectral_norm, name=f"conv_{stage}")
            return layer(normed, train=train)
        features = self.channels[stage]
        first = ImageConvolution(features, 3, "keep", self.spectral_norm, name=f"conv_{stage}_0")
        second = ImageConvolution(features, 3, "keep", self.spectral_norm, name=f"conv_{stage}_1")
        inner = first(doubled(normed), train=train)
        inner = self._activate(inner, labels, f"norm_{stage}_1", train=train, mask=mask)
        # A convolution of 1 x 1 commutes with repeating pixels, and before it there is a quarter to do.
        shortcut = Dense(features, self.spectral_norm, name=f"shortcut_{stage}")(hidden, train=train)
        return doubled(shortcut) + second(inner, train=train)

    def _activate(self, hidden: Array, labels: Any, name: str, *, train: bool, mask: Any) -> Array:
        if self.batch_norm:
            by_class = self.num_classes if self.conditioning == "batch_norm" else 0
            norm = ConditionalBatchNorm(by_class, self.axis_name, name=name)
            hidden = norm(hidden, labels, train=train, mask=mask)
        return nn.relu(hidden)


class Discriminator(nn.Module):
    """Tells real images from made ones: stages that halve the height and width, then one number.

    With the block `dcgan` a stage is a convolution of 4 x 4 with stride 2 and a leaky ReLU (slope 0.2), and all
    features of the last one are read by a dense layer: with the defaults 14 x 14 x 64, 7 x 7 x 128, 1. With `residual`
    it is two convolutions of 3 x 3 beside a shortcut, then pooling, and the features are summed over the image. Of
    classes it is a projection discriminator (Miyato & Koyama 2018, equation 3): to the number is added the product of
    the features with a vector of the class.

    Attributes:
        num_classes: classes that images are said to be of; 0 for none.
        channels: of the stages.
        block: `dcgan` or `residual`.
        batch_norm: whether to normalise (`batch_stats`) all but the first stage; with no penalties, see
            `jaxgen.tasks.AdversarialImages`.
        spectral_norm: whether all kernels are used with a spectral norm of one (`spectral`).
        attention: whether there is self-attention after the first stage.
        axis_name: the mapped axis over which batch statistics are taken, under `pmap` or `shard_map`.

    Raises:
        UsageError: when it is made, for unknown names and sizes out of range; when it is called, for images that
            can't be halved so often.
    """

    num_classes: int = 0
    channels: Sequence[int] = (64, 128)
    block: str = "dcgan"
    batch_norm: bool = False
    spectral_norm: bool = False
    attention: bool = False
    axis_name: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(channels=self.channels)
        _check_names(self.block)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        labels: Int32[AnyArray, " batch"] | None = None,
        *,
        train: bool = False,
        mask: Shaped[AnyArray, " batch"] | None = None,
    ) -> Float[Array, " batch"]:
        """Gives a logit for each image, the higher the more it is taken for real.

        Args:
            images: from -1 to 1.
            labels: the classes they are said to be of; None where there are none.
            train: whether batch norm uses and gathers the batch's statistics, and spectral norm iterates.
            mask: what is zero on rows that the statistics leave out.
        """
        check_image_size(images.shape[1:3], len(self.channels), "discriminator")
        hidden = images
        stage_of_kind = self._convolved if self.block == "dcgan" else self._residual
        for stage, features in enumerate(self.channels):
            hidden = stage_of_kind(hidden, features, stage, train=train, mask=mask)
            if stage == 0 and self.attention:
                hidden = SelfAttention(self.spectral_norm, name="attention")(hidden, train=train)
        summed = self.block == "residual"
        hidden = _leaky_relu(hidden).sum(axis=(1, 2)) if summed else hidden.reshape(hidden.shape[0], -1)
        logits = Dense(1, self.spectral_norm, name="dense")(hidden, train=train)[:, 0]
        if not self.num_classes:
            return logits
        of_class = ClassEmbedding(
            self.num_classes, hidden.shape[-1], spectral_norm=self.spectral_norm, name="classes"
        )
        return logits + (hidden * of_class(labels, train=train)).sum(axis=-1)

    def _convolved(self, hidden: Array, features: int, stage: int, *, train: bool, mask: Any) -> Array:
        layer = ImageConvolution(features, 4, "halve", self.spectral_norm, name=f"conv_{stage}")
        hidden = layer(hidden, train=train)
        return _leaky_relu(self._normalised(hidden, stage, f"norm_{stage}", train=train, mask=mask))

    def _residual(self, hidden: Array, features: int, stage: int, *, train: bool, mask: Any) -> Array:
        inner = hidden
        for index in range(2):
            if stage or index:  # pixels themselves are not cut off
                name = f"norm_{stage}_{index}"
                inner = _leaky_relu(self._normalised(inner, stage, name, train=train, mask=mask))
            layer = ImageConvolution(features, 3, "keep", self.spectral_norm, name=f"conv_{stage}_{index}")
            inner = layer(inner, train=train)
        shortcut = Dense(features, self.spectral_norm, name=f"shortcut_{stage}")
        return shortcut(average_pool(hidden), train=train) + average_pool(inner)

    def _normalised(self, hidden: Array, stage: int, name: str, *, train: bool, mask: Any) -> Array:
        if not self.batch_norm or stage == 0:
            return hidden
        return BatchNorm(axis_name=self.axis_name, name=name)(hidden, train=train, mask=mask)


def _leaky_relu(hidden: Array) -> Array:
    return nn.leaky_relu(hidden, _SLOPE)


def _check_names(block: str, conditioning: str = "embedding") -> None:
    if block not in _BLOCKS:
        raise unknown("block", block, _BLOCKS)
    if conditioning not in _CONDITIONINGS:
        raise unknown("conditioning", conditioning, _CONDITIONINGS)
