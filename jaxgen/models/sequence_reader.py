"""A recurrent net that reads a sequence and writes at its last steps."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxgen.metrics import AnyArray
from jaxgen.models.layers import Dropout, check_dropout, check_sizes, dtype_name, kernel_init
from jaxgen.models.recurrent import Recurrent


class SequenceReader(nn.Module):
    """Embedded tokens, a `Recurrent` over them, and logits from its hidden states at the last steps.

    Attributes:
        vocabulary_size: of inputs and outputs.
        output_length: the steps, up to the last one, at which a token is written.
        hidden_size: of each recurrent layer.
        cell: `elman`, `gru` or `lstm`.
        num_layers: recurrent layers.
        dropout: part of a layer's outputs that is dropped in training, before the next layer and before the logits.
        chrono_span: see `Recurrent`.
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
    chrono_span: float | None = None
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(vocabulary_size=(self.vocabulary_size,), output_length=(self.output_length,))
        check_dropout(self.dropout)
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    def setup(self) -> None:
        """Makes the layers."""
        # Of unit variance: much smaller inputs say too little to the gates, and learning which came first takes ages.
        init = nn.initializers.normal(1.0)
        self.embedding = nn.Embed(
            self.vocabulary_size, self.hidden_size, dtype=self.dtype, embedding_init=init
        )
        self.layers = Recurrent(
            self.hidden_size,
            self.cell,
            self.num_layers,
            dropout=self.dropout,
            chrono_span=self.chrono_span,
            dtype=self.dtype,
        )
        self.dropped = Dropout(self.dropout)
        self.output = nn.Dense(self.vocabulary_size, dtype=self.dtype, kernel_init=kernel_init)

    def __call__(
        self, inputs: Integer[AnyArray, "batch time"], *, train: bool = False
    ) -> Float[Array, "batch output_length vocabulary_size"]:
        """Gives float32 logits of each output.

        Args:
            inputs: token numbers.
            train: whether dropout drops.
        """
        hidden = self.read(self.embed(inputs), train=train)
        written = self.dropped(hidden[:, -self.output_length :], train=train)
        return self.output(written).astype(jnp.float32)

    def embed(self, inputs: Integer[AnyArray, "batch time"]) -> Float[Array, "batch time hidden_size"]:
        """Gives what the recurrent layers read of tokens."""
        return self.embedding(inputs)

    def read(
        self, embedded: Float[AnyArray, "batch time hidden_size"], *, train: bool = False
    ) -> Float[Array, "batch time hidden_size"]:
        """Gives the last layer's hidden state at each step.

        Args:
            embedded: what `embed` gave.
            train: whether dropout drops.
        """
        return self.layers(embedded, train=train)[0]
