"""The recurrent encoder-decoder: an encoder that reads both ways, and a decoder that attends to what it read."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32, Integer

from jaxgen.errors import UsageError, unknown
from jaxgen.metrics import AnyArray
from jaxgen.models.attentive_recurrent import KINDS, AttentiveRecurrent
from jaxgen.models.cache import Shared
from jaxgen.models.cells import CELLS
from jaxgen.models.copying import Copying, copying, log_mixture
from jaxgen.models.layers import Dropout, check_dropout, check_sizes, dtype_name, kernel_init
from jaxgen.models.masks import last
from jaxgen.models.recurrent import Recurrent
from jaxgen.models.recurrent_attention import Source, State


class Encoded(NamedTuple):
    """What was read.

    Attributes:
        tokens: int32 [batch, source time], the source.
        source: what there is to attend to; None without attention.
        state: what the decoder begins with.
    """

    tokens: Array
    source: Source | None
    state: State


class RecurrentEncoderDecoder(nn.Module):
    """Makes texts of texts (Sutskever et al. 2014) with attention (Bahdanau et al. 2015, Luong et al. 2015).

    Where in a step the decoder attends is as in the second paper, with either paper's score. Each layer of the decoder
    begins with what that of the encoder ended with in both directions, projected. With `attention_kind="none"` that is
    all it knows of the source.

    Attributes:
        vocabulary_size: tokens of the texts to write.
        source_vocabulary_size: tokens of the texts to read, which have an embedding of their own; None where both are
            of one vocabulary, and share it.
        embedding_size: of each token's vector.
        hidden_size: of the decoder's layers, and of the encoder's in each direction.
        cell: `elman`, `gru` or `lstm`.
        num_layers: of the encoder, and of the decoder.
        attention_kind: `additive` (Bahdanau), `dot` (Luong; the encoder's states, which are wider, are projected, which
            they call `general`), or `none`.
        input_feeding: whether the attentional vector, of which a token is predicted, is fed to the next step (Luong,
            section 3.3); the decoder is faster without.
        copies: whether tokens may be copied from the source (See et al. 2017): logits are then log-probabilities.
        tied: whether the last layer's weights are the embedding's (Press & Wolf 2017): the embedding is then scaled up
            where it is read, and the attentional vector as wide as it is, else as wide as the hidden state.
        dropout: part of the embeddings, of what layers above the first one read, and of the attentional vector, that is
            dropped in training (rng `dropout`).
        dtype: to compute products in, by name or as a dtype; None is float32. All else is float32.

    Raises:
        UsageError: when it is made, for unknown names, or sizes and rates out of range, and where there is nothing to
            copy by.
    """

    vocabulary_size: int
    source_vocabulary_size: int | None = None
    embedding_size: int = 256
    hidden_size: int = 256
    cell: str = "lstm"
    num_layers: int = 1
    attention_kind: str = "additive"
    input_feeding: bool = True
    copies: bool = False
    tied: bool = True
    dropout: float = 0.0
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        sizes = ("vocabulary_size", "embedding_size", "hidden_size", "num_layers", "source_vocabulary_size")
        check_sizes(**{name: (size,) for name in sizes if (size := getattr(self, name)) is not None})
        check_dropout(self.dropout)
        if self.cell not in CELLS:
            raise unknown("cell", self.cell, CELLS)
        if self.attention_kind not in KINDS:
            raise unknown("attention_kind", self.attention_kind, KINDS)
        if self.copies and not self._attends:
            raise UsageError(
                "what is copied is what attention looks at: give an attention_kind, or copy nothing"
            )
        if self.copies and self.source_vocabulary_size is not None:
            raise UsageError("copying needs one vocabulary: leave source_vocabulary_size out")
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    def setup(self) -> None:
        """Makes the layers."""
        self.token_embedding = self._embedding(self.vocabulary_size)
        if self.source_vocabulary_size is not None:
            self.source_embedding = self._embedding(self.source_vocabulary_size)
        layers = (self.hidden_size, self.cell, self.num_layers)
        self.encoder = Recurrent(*layers, bidirectional=True, dropout=self.dropout, dtype=self.dtype)
        states = len(CELLS[self.cell]().states)
        self.bridge = [
            nn.Dense(states * self.hidden_size, dtype=self.dtype, kernel_init=kernel_init)
            for _ in range(self.num_layers)
        ]
        width = self.embedding_size if self.tied else self.hidden_size
        self.decoder = AttentiveRecurrent(
            features=self.embedding_size,
            hidden_size=self.hidden_size,
            width=width,
            source_width=2 * self.hidden_size,
            cell=self.cell,
            num_layers=self.num_layers,
            kind=self.attention_kind,
            feeds=self.input_feeding and self._attends,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        if self.copies:
            self.gate = nn.Dense(1, kernel_init=kernel_init)
        if not self.tied:
            shape = (width, self.vocabulary_size)
            self.output_kernel = self.param("output_kernel", kernel_init, shape, jnp.float32)
        self.output_bias = self.param(
            "output_bias", nn.initializers.zeros, (self.vocabulary_size,), jnp.float32
        )
        self.drop = Dropout(self.dropout)

    def __call__(
        self,
        source: Integer[AnyArray, "batch source_time"],
        tokens: Integer[AnyArray, "batch time"],
        *,
        source_lengths: Integer[AnyArray, " batch"] | None = None,
        train: bool = False,
    ) -> Float32[Array, "batch time vocabulary_size"]:
        """Gives float32 logits of what follows each token.

        Args:
            source: tokens of the text to read.
            tokens: of the text to write, behind the token that it begins with.
            source_lengths: the tokens that aren't padding, of each source.
            train: whether dropout drops.
        """
        if not self.copies:
            return self.logits(self.features(source, tokens, source_lengths=source_lengths, train=train))
        features, told = self.mixture(source, tokens, source_lengths=source_lengths, train=train)
        at_places = jax.vmap(log_mixture, (1, 1, None), 1)
        return at_places(self.logits(features), told, jnp.asarray(source))

    def features(
        self,
        source: Integer[AnyArray, "batch source_time"],
        tokens: Integer[AnyArray, "batch time"],
        *,
        source_lengths: Integer[AnyArray, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch time width"]:
        """Gives the attentional vectors, which the logits are made of; see the call."""
        return self._written(source, tokens, source_lengths, train)[0]

    def mixture(
        self,
        source: Integer[AnyArray, "batch source_time"],
        tokens: Integer[AnyArray, "batch time"],
        *,
        source_lengths: Integer[AnyArray, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch time width"], Copying]:
        """Gives the same of a model that copies, and what it copies."""
        vectors, scores, embedded = self._written(source, tokens, source_lengths, train)
        return vectors, copying(self._gate(vectors, embedded), scores)

    def encode(
        self,
        source: Integer[AnyArray, "batch source_time"],
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        train: bool = False,
    ) -> Encoded:
        """Reads sources."""
        source = jnp.asarray(source)
        shared = self.source_vocabulary_size is None
        embedded = self._embedded(self.token_embedding if shared else self.source_embedding, source, train)
        states, carries = self.encoder(embedded, lengths=lengths, train=train)
        begin, names = [], CELLS[self.cell]().states
        for number, bridge in enumerate(self.bridge):
            ends = [carry[name] for carry in carries[2 * number : 2 * number + 2] for name in names]
            projected = bridge(jnp.concatenate(ends, axis=-1)).astype(jnp.float32)
            carry = dict(zip(names, jnp.split(projected, len(names), axis=-1), strict=True))
            begin.append({**carry, "hidden": jnp.tanh(carry["hidden"])})
        lengths = None if lengths is None else jnp.asarray(lengths)
        return Encoded(source, self.decoder.source(states, lengths), self.decoder.begin(tuple(begin)))

    def logits(self, features: Float[Array, "*batch width"]) -> Float32[Array, "*batch vocabulary_size"]:
        """Gives float32 logits from what `features` gave; those of what isn't copied."""
        kernel, bias = self.output()
        kernel = kernel.astype(self.dtype or jnp.float32)
        products = jnp.matmul(features.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
        return products + bias

    def output(self) -> tuple[Float[Array, "width vocabulary_size"], Float[Array, " vocabulary_size"]]:
        """Gives the last layer's kernel and bias."""
        kernel = self.token_embedding.embedding.T if self.tied else self.output_kernel
        return jnp.asarray(kernel), jnp.asarray(self.output_bias)

    def attention(
        self,
        source: Integer[AnyArray, "batch source_time"],
        tokens: Integer[AnyArray, "batch time"],
        *,
        source_lengths: Integer[AnyArray, " batch"] | None = None,
    ) -> dict[str, Float32[Array, "batch 1 1 time source_time"]]:
        """Gives the weights that each token gives to the source when the next one is predicted: `cross`.

        They have the axes of those of transformers, one layer of one head.

        Raises:
            UsageError: without attention.
        """
        if not self._attends:
            raise UsageError("this model has no attention to look at: it was made without")
        _, scores, _ = self._written(source, tokens, source_lengths, False)
        return {"cross": jax.nn.softmax(scores)[:, None, None]}

    def prefill(
        self,
        tokens: Integer[AnyArray, "batch time"],
        lengths: Integer[Array, " batch"],
        encoded: Encoded,
        source_lengths: Integer[AnyArray, " batch"],
        max_length: int,
    ) -> tuple[Float32[Array, "batch vocabulary_size"], Float32[Array, "batch source_time"] | None, Any]:
        """Reads what texts begin with.

        Args:
            tokens: padded at their end.
            lengths: those of each row that aren't padding.
            encoded: what `encode` gave.
            source_lengths: known to what was encoded.
            max_length: of no account, since a state takes no room.

        Returns:
            The logits behind each row's last token, the attention with which they were made, None without, and the
            cache: what was encoded, and the state.
        """
        embedded = self._embedded(self.token_embedding, jnp.asarray(tokens), False)
        states, scores = self.decoder.prefill(embedded, encoded.state, encoded.source)
        embedded, state, scores = jax.tree.map(lambda leaf: last(leaf, lengths), (embedded, states, scores))
        of_prompts = Shared((encoded.tokens, encoded.source))
        return self._predicted(embedded, state, scores, {"of_prompts": of_prompts})

    def step(
        self, tokens: Int32[Array, " batch"], cache: Any
    ) -> tuple[Float32[Array, "batch vocabulary_size"], Float32[Array, "batch source_time"] | None, Any]:
        """Reads one more token a row; gives the logits behind it, the attention, and the cache with it."""
        embedded = self._embedded(self.token_embedding, tokens, False)
        _, source = cache["of_prompts"].of_prompts
        state, scores = self.decoder.step(embedded, cache["state"], source)
        return self._predicted(embedded, state, scores, cache)

    def _predicted(
        self, embedded: Array, state: State, scores: Array | None, cache: Any
    ) -> tuple[Array, Array | None, Any]:
        logits, attention = self.logits(state.vector), None
        if scores is not None:
            attention = jax.nn.softmax(scores)
        if self.copies and scores is not None:
            told = copying(self._gate(state.vector, embedded), scores)
            tokens, _ = cache["of_prompts"].of_prompts
            logits = log_mixture(logits, told, jnp.repeat(tokens, len(logits) // len(tokens), axis=0))
        return logits, attention, {**cache, "state": state}

    def _written(
        self, source: AnyArray, tokens: AnyArray, source_lengths: AnyArray | None, train: bool
    ) -> tuple[Array, Any, Array]:
        """Gives the attentional vectors, the scores, and the embedded tokens."""
        encoded = self.encode(source, lengths=source_lengths, train=train)
        embedded = self._embedded(self.token_embedding, jnp.asarray(tokens), train)
        vectors, scores = self.decoder(embedded, encoded.state, encoded.source, train=train)
        return vectors.astype(self.dtype or jnp.float32), scores, embedded

    def _gate(self, vectors: Float[Array, "*batch width"], embedded: Array) -> Float32[Array, "*batch"]:
        """Gives the logit of generating, by the token read, and the vector, which knows of context and state."""
        return self.gate(jnp.concatenate([vectors, embedded], axis=-1).astype(jnp.float32))[..., 0]

    def _embedded(self, embedding: nn.Embed, tokens: Array, train: bool) -> Array:
        vectors = embedding(tokens)
        return self.drop(vectors * self.embedding_size**0.5 if self.tied else vectors, train=train)

    def _embedding(self, count: int) -> nn.Embed:
        init = nn.initializers.normal(self.embedding_size**-0.5 if self.tied else 1.0)
        return nn.Embed(count, self.embedding_size, dtype=self.dtype, embedding_init=init)

    @property
    def _attends(self) -> bool:
        return self.attention_kind != "none"
