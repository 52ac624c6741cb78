"""A classifier that reads images as sequences of rows."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxgen.metrics import AnyArray
from jaxgen.models.layers import Dropout, check_dropout, check_sizes, dtype_name, kernel_init
from jaxgen.models.recurrent import Recurrent


class RowReader(nn.Module):
    """A `Recurrent` over an image's rows, top to bottom, and logits from its last hidden state.

    Attributes:
        hidden_size: of each recurrent layer, in each direction.
        num_classes: width of the output.
        cell: `elman`, `gru` or `lstm`.
        num_layers: recurrent layers.
        bidirectional: whether they read from bottom to top, too.
        dropout: part of a layer's outputs that is dropped in training, before the next layer and before the logits.
        recurrent_dropout: see `Recurrent`.
        layer_norm: see `Recurrent`.
        dtype: to compute in, by name or as a dtype; None is float32. Parameters and logits are float32.

    Raises:
        UsageError: when it is made or first called, for unknown names, or sizes and rates out of range.
    """

    hidden_size: int = 128
    num_classes: int = 10
    cell: str = "gru"
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    layer_norm: bool = False
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(num_classes=(self.num_classes,))
        check_dropout(self.dropout)
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
            inputs: images, any numbers, used as they are.
            train: whether dropout drops.
            mask: not needed: no row of a batch depends on another one.
        """
        batch, height, width, channels = inputs.shape
        rows = jnp.asarray(inputs, jnp.float32).reshape(batch, height, width * channels)
        layers = Recurrent(
            self.hidden_size,
            self.cell,
            self.num_layers,
            self.bidirectional,
            self.dropout,
            self.recurrent_dropout,
            layer_norm=self.layer_norm,
            dtype=self.dtype,
            name="layers",
        )
        _, carry = layers(rows, train=train)
        last = carry[-2:] if self.bidirectional else carry[-1:]
        features = jnp.concatenate([state["hidden"] for state in last], axis=-1)
        features = Dropout(self.dropout)(features, train=train)
        dense = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=kernel_init, name="output")
        return dense(features).astype(jnp.float32)
