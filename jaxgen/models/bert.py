"""BERT: a stack of blocks that see both ways, and heads on top of it."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Integer

from jaxgen.errors import UsageError, unknown
from jaxgen.metrics import AnyArray
from jaxgen.models.attention import AttentionInit
from jaxgen.models.layers import Dropout, check_sizes, dtype_name
from jaxgen.models.masks import Masks
from jaxgen.models.stack import Stack
from jaxgen.models.transformer import (
    ACTIVATIONS,
    Architecture,
    FeedForwardInit,
    Surroundings,
    check_context,
    check_fields,
)

HEADS = ("classification", "masked", "next_sentence", "spans", "tokens")
POSITIONS = ("learned", "none")


class BERT(nn.Module):
    """Reads whole texts (Devlin et al. 2019); the defaults are the base size.

    Attributes:
        vocabulary_size: tokens.
        context_length: tokens of a text, at most.
        num_layers: blocks.
        num_heads: of attention.
        embedding_size: width of all that goes from block to block.
        feed_forward_size: width inside of the feed-forward layers; None for four times the embedding.
        num_token_types: kinds of tokens, such as those of the first and of the second sentence.
        heads: what there is on top: `masked` predicts masked tokens, `next_sentence` whether the second one followed
            the first, `classification` a class of the text, `tokens` a class of each token, `spans` where an answer
            begins and ends.
        num_classes: of `classification` and `tokens`.
        pooler: whether there is the layer over the first token that `next_sentence` and `classification` read.
        positions: `learned`, or `none`, for what has no order.
        activation: `gelu_erf`, `gelu` (the tanh form, faster) or `relu`.
        norm_epsilon: added to the variance.
        initializer_range: standard deviation of the initial weights; the paper's is for a width of 768 or more.
        dropout: part of the embeddings, of the attention's weights and of the outputs of each part of a block, and of
            what a head of classes reads, that is dropped in training (rng `dropout`).
        remat: whether what is inside of a block is computed again for the gradient, and not kept.
        scan_layers: whether the blocks are one loop, which compiles faster.
        attention_block: queries at a time, for long contexts; 0 for all at once.
        dtype: to compute in, by name or as a dtype; None is float32. Parameters and logits are float32.

    Raises:
        UsageError: when it is made or first called, for unknown names, or sizes and rates out of range.
    """

    vocabulary_size: int
    context_length: int = 512
    num_layers: int = 12
    num_heads: int = 12
    embedding_size: int = 768
    feed_forward_size: int | None = None
    num_token_types: int = 2
    heads: Sequence[str] = ("masked",)
    num_classes: int = 2
    pooler: bool = True
    positions: str = "learned"
    activation: str = "gelu_erf"
    norm_epsilon: float = 1e-12
    initializer_range: float = 0.02
    dropout: float = 0.1
    remat: bool = False
    scan_layers: bool = False
    attention_block: int = 0
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_fields(self)
        check_sizes(num_token_types=(self.num_token_types,), num_classes=(self.num_classes,))
        if ACTIVATIONS[self.activation][1]:
            raise UsageError(
                f"BERT's feed-forward layers have no gate for {self.activation}; use gelu or relu"
            )
        if self.initializer_range <= 0:
            raise UsageError(f"initializer_range is {self.initializer_range}; it must be positive")
        if self.positions not in POSITIONS:
            raise unknown("positions", self.positions, POSITIONS)
        for head in self.heads:
            if head not in HEADS:
                raise unknown("head", head, HEADS)
            if head in ("next_sentence", "classification") and not self.pooler:
                raise UsageError(f"the head {head} reads what the pooler gives; leave pooler on")
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    def setup(self) -> None:
        """Makes the layers."""
        init = self._init
        architecture = Architecture(
            width=self.embedding_size,
            num_heads=self.num_heads,
            head_size=self.embedding_size // self.num_heads,
            feed_forward_size=self.feed_forward_size or 4 * self.embedding_size,
            attention_init=AttentionInit(query=init, key_value=init, output=init),
            feed_forward_init=FeedForwardInit(up=init, down=init),
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            post_norm=True,
            dropout=self.dropout,
            attention_block=self.attention_block,
            dtype=self.dtype,
        )
        self.token_embedding = self._embedding(self.vocabulary_size)
        self.token_type_embedding = self._embedding(self.num_token_types)
        if self.positions == "learned":
            self.position_embedding = self._embedding(self.context_length)
        self.embedding_norm = architecture.make_norm()
        self.layers = Stack(architecture, self.num_layers, self.remat, self.scan_layers)
        self.drop = Dropout(self.dropout)
        if self.pooler:
            self.pool = self._dense(self.embedding_size)
        if "masked" in self.heads:
            self.masked_dense = self._dense(self.embedding_size)
            self.masked_norm = architecture.make_norm()
            shape = (self.vocabulary_size,)
            self.output_bias = self.param("output_bias", nn.initializers.zeros, shape, jnp.float32)
        classes = {"classification": self.num_classes, "tokens": self.num_classes}
        self.head = {
            name: self._dense(classes.get(name, 2)) for name in sorted(self.heads) if name != "masked"
        }

    def __call__(
        self,
        tokens: Integer[AnyArray, "batch time"],
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        token_types: Integer[AnyArray, "batch time"] | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        """Gives all there is to have: `features`, `pooled`, and each head's logits, by name.

        Args:
            tokens: token numbers.
            lengths: the tokens that aren't padding, of each row.
            token_types: of each token; all are of the first by default.
            train: whether dropout drops.
        """
        features = self.features(tokens, lengths=lengths, token_types=token_types, train=train)
        found = {"features": features}
        if self.pooler:
            found["pooled"] = self.pooled(features)
        for name in self.heads:
            if name == "masked":
                found[name] = self.logits(self.masked_features(features))
            else:
                found[name] = self.classes(name, features, train=train)
        return found

    def features(
        self,
        tokens: Integer[AnyArray, "batch time"],
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        token_types: Integer[AnyArray, "batch time"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch time width"]:
        """Gives what the last block gives for each token; see the call."""
        embedded, around = self._embedded(jnp.asarray(tokens), lengths, token_types)
        return self.layers(self.drop(embedded, train=train), around, train=train)

    def pooled(self, features: Float[Array, "batch time width"]) -> Float[Array, "batch width"]:
        """Gives a vector of each text, made of the first token's features."""
        return nn.tanh(self.pool(features[:, 0]))

    def masked_features(self, features: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Gives what the logits of masked tokens are made of; only those that are asked for need be given."""
        activation, _ = ACTIVATIONS[self.activation]
        return self.masked_norm(activation(self.masked_dense(features)))

    def logits(self, features: Float[Array, "*batch width"]) -> Float32[Array, "*batch vocabulary_size"]:
        """Gives float32 logits from what `masked_features` gave."""
        kernel, bias = self.output()
        return jnp.matmul(features, kernel.astype(features.dtype), preferred_element_type=jnp.float32) + bias

    def output(self) -> tuple[Float[Array, "width vocabulary_size"], Float[Array, " vocabulary_size"]]:
        """Gives the masked head's last kernel, which is the embedding's, and its bias."""
        return jnp.asarray(self.token_embedding.embedding.T), jnp.asarray(self.output_bias)

    def classes(
        self, head: str, features: Float[Array, "batch time width"], *, train: bool = False
    ) -> Float32[Array, "batch *time classes"]:
        """Gives a head's float32 logits from `features`.

        Those of `next_sentence` are that it follows and that it doesn't [batch, 2]; of `classification` a class of each
        text; of `tokens` a class of each token; of `spans` that an answer begins there, and that it ends
        [batch, time, 2].
        """
        read = self.pooled(features) if head in ("next_sentence", "classification") else features
        if head in ("classification", "tokens"):
            read = self.drop(read, train=train)
        return self.head[head](read).astype(jnp.float32)

    def attention(
        self,
        tokens: Integer[AnyArray, "batch time"],
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        token_types: Integer[AnyArray, "batch time"] | None = None,
    ) -> Float32[Array, "batch layers heads time time"]:
        """Gives the weights that each token (the second last axis) gives to those that it sees."""
        return self.layers.weights(*self._embedded(jnp.asarray(tokens), lengths, token_types))["own"]

    def _embedded(
        self, tokens: Array, lengths: AnyArray | None, token_types: AnyArray | None
    ) -> tuple[Float[Array, "batch time width"], Surroundings]:
        check_context(tokens, self.context_length)
        types = jnp.zeros((1, 1), jnp.int32) if token_types is None else jnp.asarray(token_types)
        embedded = self.token_embedding(tokens) + self.token_type_embedding(types)
        if self.positions == "learned":
            embedded += self.position_embedding(jnp.arange(tokens.shape[1]))
        masks = Masks(None if lengths is None else jnp.asarray(lengths))
        return self.embedding_norm(embedded), Surroundings(masks)

    @property
    def _init(self) -> nn.initializers.Initializer:
        return nn.initializers.truncated_normal(self.initializer_range)

    def _embedding(self, count: int) -> nn.Embed:
        return nn.Embed(count, self.embedding_size, dtype=self.dtype, embedding_init=self._init)

    def _dense(self, width: int) -> nn.Dense:
        return nn.Dense(width, dtype=self.dtype, kernel_init=self._init)
