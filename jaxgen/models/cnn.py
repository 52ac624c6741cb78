"""The classic convolutional net: convolution - pool - convolution - pool - dense - logits."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxgen.errors import UsageError, unknown
from jaxgen.metrics import AnyArray
from jaxgen.models.convolution import Convolution, average_pool, max_pool
from jaxgen.models.feed_forward import FeedForward
from jaxgen.models.layers import (
    BatchNorm,
    activation_function,
    check_dropout,
    check_sizes,
    dtype_name,
)

_POOLINGS = {"max": max_pool, "average": average_pool}
_PADDINGS = ("VALID", "SAME")


class ConvNet(nn.Module):
    """Stages of convolution (stride 1), activation and 2 x 2 pooling; then a `FeedForward`.

    With the defaults, 28 x 28 pixels become 26, 13, 11 and 5 x 5 x 64, then 128, then the logits. Kernels
    start as Glorot's uniform distribution and biases at zero, as in Keras: see
    `jaxgen.models.layers.kernel_init`.

    Attributes:
        channels: of the convolutions, one a stage.
        convolutions: how many of them a stage has, each with its activation, before it pools.
        kernel_size: height and width of the convolutions' kernels.
        padding: `VALID`, none, or `SAME`, with zeros, so that convolutions keep the size.
        pooling: `max` or `average`, of 2 x 2 with stride 2; an odd last row or column is dropped.
        widths: of the hidden dense layers.
        num_classes: width of the output.
        activation: by name, everywhere; see `jaxgen.models.layers.ACTIVATIONS`.
        dropout: part of each hidden dense layer's activations that is dropped in training (rng `dropout`).
        batch_norm: whether to normalise convolutions and hidden layers over the batch (`batch_stats`).
        axis_name: the mapped axis over which batch statistics are taken, under `pmap` or `shard_map`.
        dtype: to compute in, by name or as a dtype; None is float32. Parameters and logits are float32.

    Raises:
        UsageError: when it is made, for unknown names, or sizes and rates out of range; when it is called,
            for images that are too small.
    """

    channels: Sequence[int] = (32, 64)
    kernel_size: int = 3
    pooling: str = "max"
    widths: Sequence[int] = (128,)
    num_classes: int = 10
    activation: str = "relu"
    dropout: float = 0.0
    batch_norm: bool = False
    convolutions: int = 1
    padding: str = "VALID"
    axis_name: str | tuple[str, ...] | None = None
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(
            channels=self.channels,
            convolutions=(self.convolutions,),
            kernel_size=(self.kernel_size,),
            widths=self.widths,
            num_classes=(self.num_classes,),
        )
        check_dropout(self.dropout)
        activation_function(self.activation)
        if self.pooling not in _POOLINGS:
            raise unknown("pooling", self.pooling, _POOLINGS)
        if self.padding not in _PADDINGS:
            raise unknown("padding", self.padding, _PADDINGS)
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Shaped[AnyArray, "batch height width channels"],
        *,
        train: bool = False,
        mask: Shaped[AnyArray, " batch"] | None = None,
    ) -> Float[Array, "batch num_classes"]:
        """Gives float32 logits [batch, num_classes].

        Args:
            inputs: images, any numbers, used as they are: scaling pixels is the task's business.
            train: whether dropout drops, and batch norm uses and gathers the batch's statistics.
            mask: what is zero on padding rows (the batch's `weight` will do): batch norm leaves them out.
        """
        self._check_image_size(*inputs.shape[1:3])
        activate = activation_function(self.activation)
        # The maximum commutes with ReLU and with adding a bias, and after pooling there is a quarter to do.
        commute = self.pooling == "max" and self.activation == "relu"
        hidden = jnp.asarray(inputs, self.dtype or jnp.float32)
        for stage, features in enumerate(self.channels):
            for index in range(self.convolutions):
                last = index == self.convolutions - 1
                pool = last and commute and not self.batch_norm
                name = f"{stage}_{index}" if index else f"{stage}"
                layer = Convolution(features, self.kernel_size, pool, self.dtype, name=f"conv_{name}")
                hidden = layer(self._pad(hidden))
                if self.batch_norm:
                    norm = BatchNorm(axis_name=self.axis_name, name=f"norm_{name}")
                    hidden = norm(hidden, train=train, mask=mask)
                if last and not pool and commute:
                    hidden = max_pool(hidden)
                hidden = activate(hidden)
            if not commute:
                hidden = _POOLINGS[self.pooling](hidden)
        return self._head()(hidden, train=train, mask=mask)

    def _pad(
        self, hidden: Float[Array, "batch height width features"]
    ) -> Float[Array, "batch rows columns features"]:
        if self.padding == "VALID":
            return hidden
        side = ((self.kernel_size - 1) // 2, self.kernel_size // 2)
        return jnp.pad(hidden, ((0, 0), side, side, (0, 0)))

    def _head(self) -> FeedForward:
        return FeedForward(
            widths=self.widths,
            num_classes=self.num_classes,
            activation=self.activation,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name="head",
        )

    def _check_image_size(self, height: int, width: int) -> None:
        size = min(height, width)
        lost = 0 if self.padding == "SAME" else self.convolutions * (self.kernel_size - 1)
        for _ in self.channels:
            size = (size - lost) // 2
        if size < 1:
            raise UsageError(
                f"images of {height} x {width} are too small for {len(self.channels)} stages with kernels of "
                f"{self.kernel_size} x {self.kernel_size}: use fewer channels, a smaller kernel_size, SAME padding, "
                "or larger images"
            )
