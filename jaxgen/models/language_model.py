"""The recurrent language model: an embedding, recurrent layers, and a layer that predicts the next token."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Shaped

from jaxgen.metrics import AnyArray
from jaxgen.models.cells import Carry
from jaxgen.models.layers import Dropout, check_dropout, check_sizes, dtype_name, kernel_init
from jaxgen.models.recurrent import Recurrent


class RecurrentLanguageModel(nn.Module):
    """Predicts each next token from those before it (Mikolov et al. 2010; dropout as in Zaremba et al. 2014).

    Attributes:
        vocabulary_size: tokens.
        embedding_size: of each token's vector.
        hidden_size: of each recurrent layer.
        cell: `elman`, `gru` or `lstm`.
        num_layers: recurrent layers.
        dense_size: of a layer with ReLU between the recurrent ones and the last; 0 for none.
        dropout: part of all layers' inputs that is dropped in training (rng `dropout`).
        recurrent_dropout: part of the hidden state that is dropped from step to step, the same units at all steps.
        layer_norm: whether the cells' products are normalised.
        tied: whether the last layer's weights are the embedding's (Press & Wolf 2017): then what comes before it is
            projected to the embedding's size, where it has another.
        dtype: to compute in, by name or as a dtype; None is float32. Parameters, carry and logits are float32.
        remat: whether what the recurrent layers keep for the gradient grows with the square root of the length alone.

    Raises:
        UsageError: when it is made or first called, for unknown names, or sizes and rates out of range.
    """

    vocabulary_size: int
    embedding_size: int = 64
    hidden_size: int = 128
    cell: str = "lstm"
    num_layers: int = 1
    dense_size: int = 0
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    layer_norm: bool = False
    tied: bool = False
    dtype: Any = None
    remat: bool = False

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(vocabulary_size=(self.vocabulary_size,), embedding_size=(self.embedding_size,))
        if self.dense_size:
            check_sizes(dense_size=(self.dense_size,))
        check_dropout(self.dropout)
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    def setup(self) -> None:
        """Makes the layers."""
        init = nn.initializers.normal(self.embedding_size**-0.5 if self.tied else 1.0)
        self.embedding = nn.Embed(
            self.vocabulary_size, self.embedding_size, dtype=self.dtype, embedding_init=init
        )
        self.recurrent = Recurrent(
            self.hidden_size,
            self.cell,
            self.num_layers,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            layer_norm=self.layer_norm,
            dtype=self.dtype,
            remat=self.remat,
        )
        if self.dense_size:
            self.dense = nn.Dense(self.dense_size, dtype=self.dtype, kernel_init=kernel_init)
        width = self.dense_size or self.hidden_size
        if self.tied and width != self.embedding_size:
            self.projection = nn.Dense(self.embedding_size, dtype=self.dtype, kernel_init=kernel_init)
        if not self.tied:
            shape = (width, self.vocabulary_size)
            self.output_kernel = self.param("output_kernel", kernel_init, shape, jnp.float32)
        self.output_bias = self.param(
            "output_bias", nn.initializers.zeros, (self.vocabulary_size,), jnp.float32
        )
        self.drop = Dropout(self.dropout)

    def initial_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """Gives the state that a text begins with; see `Recurrent`."""
        layers = Recurrent(self.hidden_size, self.cell, self.num_layers, parent=None)
        return layers.initial_carry(batch_size)

    def __call__(
        self,
        tokens: Integer[AnyArray, "batch time"],
        carry: tuple[Carry, ...] | None = None,
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch time vocabulary_size"], tuple[Carry, ...]]:
        """Gives float32 logits of each next token, and the carry.

        Args:
            tokens: token numbers.
            carry: the state to begin with, such as the last call gave; zeros by default.
            lengths: the tokens that aren't padding, of each row; the carry is that after the last of these.
            train: whether dropout drops.
        """
        features, carry = self.features(tokens, carry, lengths=lengths, train=train)
        return self.logits(features), carry

    def logits(self, features: Float[Array, "*batch width"]) -> Float[Array, "*batch vocabulary_size"]:
        """Gives float32 logits from what `features` gave."""
        kernel, bias = self.output()
        logits = jnp.matmul(features, kernel.astype(features.dtype), preferred_element_type=jnp.float32)
        return logits + bias

    def features(
        self,
        tokens: Integer[AnyArray, "batch time"],
        carry: tuple[Carry, ...] | None = None,
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        starts: Shaped[AnyArray, "batch time"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch time width"], tuple[Carry, ...]]:
        """Gives what the last layer predicts from, and the carry; `starts` as for `Recurrent`."""
        hidden, carry = self.hidden(tokens, carry, lengths=lengths, starts=starts, train=train)
        hidden = self.drop(hidden, train=train)
        if self.dense_size:
            hidden = self.drop(nn.relu(self.dense(hidden)), train=train)
        if self.tied and hidden.shape[-1] != self.embedding_size:
            hidden = self.projection(hidden)
        return hidden, carry

    def hidden(
        self,
        tokens: Integer[AnyArray, "batch time"],
        carry: tuple[Carry, ...] | None = None,
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        starts: Shaped[AnyArray, "batch time"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch time hidden_size"], tuple[Carry, ...]]:
        """Gives the last recurrent layer's hidden state after each token, and the carry."""
        embedded = self.drop(self.embedding(jnp.asarray(tokens)), train=train)
        return self.recurrent(embedded, carry, lengths=lengths, starts=starts, train=train)

    def output(self) -> tuple[Float[Array, "width vocabulary_size"], Float[Array, " vocabulary_size"]]:
        """Gives the last layer's kernel and bias."""
        kernel = self.embedding.embedding.T if self.tied else self.output_kernel
        return jnp.asarray(kernel), jnp.asarray(self.output_bias)
