"""The feed-forward net (multilayer perceptron)."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxgen.metrics import AnyArray
from jaxgen.models.layers import (
    BatchNorm,
    Dropout,
    activation_function,
    check_dropout,
    check_sizes,
    dtype_name,
    kernel_init,
)


class FeedForward(nn.Module):
    """Dense layers with an activation between them: inputs of any shape, flattened, to logits.

    A hidden layer is dense, batch norm (if any), activation, dropout (if any). Kernels start as Glorot's
    uniform distribution and biases at zero, as in Keras: see `jaxgen.models.layers.kernel_init`.

    Attributes:
        widths: of the hidden layers; `()` makes a linear model.
        num_classes: width of the output, which is 1 for the regression of one number.
        activation: by name; see `jaxgen.models.layers.ACTIVATIONS`.
        dropout: part of each hidden layer's activations that is dropped in training (rng `dropout`).
        batch_norm: whether to normalise the hidden layers over the batch (collection `batch_stats`).
        axis_name: the mapped axis over which batch statistics are taken, under `pmap` or `shard_map`.
        dtype: to compute in, by name or as a dtype; None is float32. Parameters and logits are float32.

    Raises:
        UsageError: when it is made, for an unknown activation or dtype, or sizes and rates out of range.
    """

    widths: Sequence[int] = (128,)
    num_classes: int = 10
    activation: str = "relu"
    dropout: float = 0.0
    batch_norm: bool = False
    axis_name: str | tuple[str, ...] | None = None
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(widths=self.widths, num_classes=(self.num_classes,))
        check_dropout(self.dropout)
        activation_function(self.activation)
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Shaped[AnyArray, "batch *features"],  # noqa: F821
        *,
        train: bool = False,
        mask: Shaped[AnyArray, " batch"] | None = None,
    ) -> Float[Array, "batch num_classes"]:
        """Gives float32 logits [batch, num_classes].

        Args:
            inputs: any numbers, used as they are: scaling pixels is the task's business.
            train: whether dropout drops, and batch norm uses and gathers the batch's statistics.
            mask: what is zero on padding rows (the batch's `weight` will do): batch norm leaves them out.
        """
        hidden = jnp.asarray(inputs, self.dtype or jnp.float32)
        hidden = hidden.reshape(hidden.shape[0], math.prod(hidden.shape[1:]))
        for layer, width in enumerate(self.widths):
            hidden = self._dense(width, f"hidden_{layer}")(hidden)
            if self.batch_norm:
                norm = BatchNorm(axis_name=self.axis_name, name=f"norm_{layer}")
                hidden = norm(hidden, train=train, mask=mask)
            hidden = activation_function(self.activation)(hidden)
            hidden = Dropout(self.dropout)(hidden, train=train)
        return self._dense(self.num_classes, "output")(hidden).astype(jnp.float32)

    def _dense(self, width: int, name: str) -> nn.Dense:
        return nn.Dense(width, dtype=self.dtype, kernel_init=kernel_init, name=name)
