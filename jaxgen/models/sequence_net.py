"""An encoder that reads a sequence, and a decoder that writes another one from the state that is left."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxgen.metrics import AnyArray
from jaxgen.models.layers import Dropout, check_dropout, check_sizes, dtype_name, kernel_init
from jaxgen.models.recurrent import Recurrent


class SequenceNet(nn.Module):
    """Reads tokens, and writes as many as it is told to: the last hidden state is what the decoder sees at each step.

    The encoder-decoder of Cho et al. (2014) without feedback: what the decoder has written isn't given back to it.

    Attributes:
        vocabulary_size: of inputs and outputs.
        output_length: tokens that are written.
        hidden_size: of encoder and decoder.
        cell: `elman`, `gru` or `lstm`.
        num_layers: of encoder and decoder each.
        dropout: part of the state that is dropped in training, and of the outputs between layers (rng `dropout`).
        dtype: to compute in, by name or as a dtype; None is float32. Parameters and logits are float32.

    Raises:
        UsageError: when it is made or first called, for unknown names, or sizes and rates out of range.
    """

    vocabulary_size: int
    output_length: int
    hidden_size: int = 128
    cell: str = "lstm"
    num_layers: int = 1
    dropout: float = 0.0
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(vocabulary_size=(self.vocabulary_size,), output_length=(self.output_length,))
        check_dropout(self.dropout)
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, inputs: Integer[AnyArray, "batch time"], *, train: bool = False
    ) -> Float[Array, "batch output_length vocabulary_size"]:
        """Gives float32 logits of each output.

        Args:
            inputs: token numbers.
            train: whether dropout drops.
        """
        options = {
            "cell": self.cell,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
            "dtype": self.dtype,
        }
        embedded = nn.Embed(self.vocabulary_size, self.hidden_size, dtype=self.dtype, name="embedding")(
            inputs
        )
        _, carry = Recurrent(self.hidden_size, **options, name="encoder")(embedded, train=train)
        state = Dropout(self.dropout)(carry[-1]["hidden"], train=train)
        repeated = jnp.repeat(state[:, None], self.output_length, axis=1)
        written, _ = Recurrent(self.hidden_size, **options, name="decoder")(repeated, train=train)
        dense = nn.Dense(self.vocabulary_size, dtype=self.dtype, kernel_init=kernel_init, name="output")
        return dense(written).astype(jnp.float32)
