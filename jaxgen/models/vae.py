"""Variational autoencoders: an encoder to a Gaussian over latents, and a decoder to what pixels are drawn from."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Shaped

from jaxgen.errors import UsageError, sizes, unknown
from jaxgen.metrics import AnyArray
from jaxgen.models.convolution import convolve_padded
from jaxgen.models.layers import activation_function, check_sizes, kernel_init
from jaxgen.models.pixels import from_patches, to_patches

LIKELIHOODS = ("bernoulli", "gaussian")


class Posterior(NamedTuple):
    """A Gaussian over the latents of each image, of independent components.

    Attributes:
        mean: [batch, latents].
        log_variance: [batch, latents].
    """

    mean: Float[Array, "batch latents"]
    log_variance: Float[Array, "batch latents"]


class Decoded(NamedTuple):
    """What pixels are drawn from.

    Attributes:
        outputs: [batch, height, width, channels]; logits of a 1 (Bernoulli), or means (Gaussian).
        log_scale: scalar; of a Gaussian, the logarithm of its standard deviation, else 0.
    """

    outputs: Float[Array, "batch height width channels"]
    log_scale: Float[Array, ""]


class VAE(nn.Module):
    """What variational autoencoders are alike in (Kingma & Welling 2014); see the two below.

    A family makes in `setup` the parts `encoder`, from floats and labels to features, and `decoder`, from latents and
    labels to outputs.

    Attributes:
        image_shape: height, width and channels.
        num_latents: size of the latent vector, whose prior is the standard normal.
        num_classes: classes that encoder and decoder are told; 0 for none.
        likelihood: `bernoulli`, of pixels that are 0 or 1, or `gaussian`, with one standard deviation, that is
            learned.

    Raises:
        UsageError: when it is made, for unknown names and sizes out of range; when it is called, for images of another
            shape, and for labels that are missing or not asked for.
    """

    image_shape: Sequence[int]
    num_latents: int = 50
    num_classes: int = 0
    likelihood: str = "bernoulli"

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(image_shape=self.image_shape, num_latents=(self.num_latents,))
        if len(self.image_shape) != 3:
            raise UsageError(
                f"image_shape is height, width and channels, not {', '.join(map(str, self.image_shape))}"
            )
        if self.num_classes < 0:
            raise UsageError(f"num_classes is {self.num_classes}; it must be 0 (none are told) or more")
        if self.likelihood not in LIKELIHOODS:
            raise unknown("likelihood", self.likelihood, LIKELIHOODS)
        super().__post_init__()

    def setup_heads(self) -> None:
        """Makes what all families end with."""
        self.posterior = nn.Dense(2 * self.num_latents, kernel_init=kernel_init)
        if self.likelihood == "gaussian":
            self.log_scale = self.param("log_scale", nn.initializers.zeros, (), jnp.float32)

    def __call__(
        self,
        images: Shaped[AnyArray, "batch height width channels"],
        labels: Integer[AnyArray, " batch"] | None = None,
    ) -> tuple[Posterior, Decoded]:
        """Gives the posterior of images, and what its mean is decoded to."""
        posterior = self.encode(images, labels)
        return posterior, self.decode(posterior.mean, labels)

    def encode(
        self,
        images: Shaped[AnyArray, "batch height width channels"],
        labels: Integer[AnyArray, " batch"] | None = None,
    ) -> Posterior:
        """Gives the posterior of images.

        Args:
            images: any numbers, used as they are: scaling pixels is the task's business.
            labels: classes, where there are `num_classes` of them.
        """
        if images.shape[1:] != tuple(self.image_shape):
            raise UsageError(
                f"the model takes images of {sizes(self.image_shape)}, not {sizes(images.shape[1:])}"
            )
        features = self.encoder(jnp.asarray(images, jnp.float32), self._classes(labels))
        mean, log_variance = jnp.split(self.posterior(features), 2, axis=-1)
        return Posterior(mean, log_variance)

    def decode(
        self,
        latents: Float[AnyArray, "batch latents"],
        labels: Integer[AnyArray, " batch"] | None = None,
    ) -> Decoded:
        """Gives what the pixels are drawn from, given latents and, where they are told, classes."""
        classes = self._classes(labels)
        inputs = [jnp.asarray(latents, jnp.float32), *([] if classes is None else [classes])]
        outputs = self.decoder(jnp.concatenate(inputs, axis=-1))
        log_scale = self.log_scale if self.likelihood == "gaussian" else jnp.zeros(())
        return Decoded(outputs.reshape(-1, *self.image_shape), log_scale)

    def _classes(self, labels: Integer[AnyArray, " batch"] | None) -> Float[Array, "batch classes"] | None:
        if (labels is None) == bool(self.num_classes):
            raise UsageError(
                f"the model knows {self.num_classes} classes: give it labels"
                if self.num_classes
                else "the model knows no classes: give it no labels"
            )
        return None if labels is None else jax.nn.one_hot(labels, self.num_classes)


class DenseVAE(VAE):
    """A VAE of dense layers, as in Kingma & Welling 2014, appendix C, and Burda et al. 2016, section 5.

    Attributes:
        widths: of the encoder's hidden layers; the decoder's are the same in the opposite order.
        activation: by name; see `jaxgen.models.layers.ACTIVATIONS`. Or `glu`: a linear layer times the sigmoid of
            another one of the same inputs (Dauphin et al. 2017, equation 1; as in Tomczak & Welling 2018).
    """

    widths: Sequence[int] = (400, 400)
    activation: str = "tanh"

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(widths=self.widths)
        if self.activation != "glu":
            activation_function(self.activation)
        super().__post_init__()

    def setup(self) -> None:
        """Makes the parts."""
        self.encoder = _DenseLayers(self.widths, self.activation)
        self.decoder = _DenseLayers(self.widths[::-1], self.activation, outputs=math.prod(self.image_shape))
        self.setup_heads()


class _DenseLayers(nn.Module):
    widths: Sequence[int]
    activation: str
    outputs: int = 0

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch ..."], classes: Float[Array, "batch classes"] | None = None
    ) -> Float[Array, "batch features"]:
        hidden = inputs.reshape(inputs.shape[0], -1)
        if classes is not None:
            hidden = jnp.concatenate([hidden, classes], axis=-1)
        for layer, width in enumerate(self.widths):
            linear = nn.Dense(width, kernel_init=kernel_init, name=f"hidden_{layer}")(hidden)
            if self.activation == "glu":
                gate = nn.Dense(width, kernel_init=kernel_init, name=f"gate_{layer}")(hidden)
                hidden = linear * nn.sigmoid(gate)
            else:
                hidden = activation_function(self.activation)(linear)
        return (
            nn.Dense(self.outputs, kernel_init=kernel_init, name="output")(hidden) if self.outputs else hidden
        )


class ConvolutionalVAE(VAE):
    """A VAE of 3 x 3 convolutions.

    Each stage of the encoder halves height and width: 2 x 2 pixels become one with four times the channels (space to
    depth), which is convolved to the stage's channels; residual blocks follow. The decoder mirrors it, and its last
    convolution makes 2 x 2 pixels of each one (sub-pixel convolution, Shi et al. 2016).

    Attributes:
        channels: of the stages.
        blocks: residual blocks a stage, of two convolutions.
        width: of the dense layer between the convolutions and the latents.
        activation: by name.
    """

    channels: Sequence[int] = (32, 64)
    blocks: int = 0
    width: int = 256
    activation: str = "silu"

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(channels=self.channels, width=(self.width,))
        if self.blocks < 0:
            raise UsageError(f"blocks is {self.blocks}; it must be at least 0")
        activation_function(self.activation)
        super().__post_init__()
        factor = 2 ** len(self.channels)
        if any(size % factor for size in self.image_shape[:2]):
            raise UsageError(
                f"images of {self.image_shape[0]} x {self.image_shape[1]} can't be halved {len(self.channels)} times: "
                f"give fewer stages (channels), or images (--image-size) whose sides are multiples of {factor}"
            )

    def setup(self) -> None:
        """Makes the parts."""
        self.encoder = _ConvolutionalEncoder(self.channels, self.blocks, self.width, self.activation)
        self.decoder = _ConvolutionalDecoder(
            self.image_shape, self.channels, self.blocks, self.width, self.activation
        )
        self.setup_heads()


class _Convolution(nn.Module):
    """A 3 x 3 convolution that keeps the size."""

    features: int
    init: Any = kernel_init

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch h w features"]:
        kernel = self.param("kernel", self.init, (3, 3, inputs.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return convolve_padded(inputs, kernel) + bias


class _Block(nn.Module):
    """A residual block without norms; it begins as the identity (Zhang et al. 2019, section 3)."""

    activation: str

    @nn.compact
    def __call__(self, inputs: Float[Array, "batch h w features"]) -> Float[Array, "batch h w features"]:
        activate = activation_function(self.activation)
        hidden = _Convolution(inputs.shape[-1], name="first")(activate(inputs))
        return inputs + _Convolution(inputs.shape[-1], nn.initializers.zeros, name="second")(activate(hidden))


class _ConvolutionalEncoder(nn.Module):
    channels: Sequence[int]
    blocks: int
    width: int
    activation: str

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        classes: Float[Array, "batch classes"] | None,
    ) -> Float[Array, "batch features"]:
        activate = activation_function(self.activation)
        hidden = images
        for stage, features in enumerate(self.channels):
            hidden = activate(hidden) if stage else hidden
            hidden = _Convolution(features, name=f"down_{stage}")(to_patches(hidden))
            for block in range(self.blocks):
                hidden = _Block(self.activation, name=f"block_{stage}_{block}")(hidden)
        flat = activate(hidden).reshape(hidden.shape[0], -1)
        if classes is not None:
            flat = jnp.concatenate([flat, classes], axis=-1)
        return activate(nn.Dense(self.width, kernel_init=kernel_init, name="dense")(flat))


class _ConvolutionalDecoder(nn.Module):
    image_shape: Sequence[int]
    channels: Sequence[int]
    blocks: int
    width: int
    activation: str

    @nn.compact
    def __call__(self, inputs: Float[Array, "batch inputs"]) -> Float[Array, "batch height width channels"]:
        activate = activation_function(self.activation)
        height, width, colours = self.image_shape
        factor = 2 ** len(self.channels)
        shape = (height // factor, width // factor, self.channels[-1])
        hidden = activate(nn.Dense(self.width, kernel_init=kernel_init, name="dense_0")(inputs))
        hidden = nn.Dense(math.prod(shape), kernel_init=kernel_init, name="dense_1")(hidden).reshape(
            -1, *shape
        )
        below = (colours, *self.channels)
        for stage in reversed(range(len(self.channels))):
            for block in range(self.blocks):
                hidden = _Block(self.activation, name=f"block_{stage}_{block}")(hidden)
            hidden = _Convolution(4 * below[stage], name=f"up_{stage}")(activate(hidden))
            hidden = from_patches(hidden)
        return hidden
