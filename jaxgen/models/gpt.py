"""GPT: a stack of causal blocks that predicts the next token."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int32, Integer, Shaped

from jaxgen.errors import UsageError, unknown
from jaxgen.metrics import AnyArray
from jaxgen.models.attention import AttentionInit
from jaxgen.models.cache import Cache
from jaxgen.models.layers import Dropout, dtype_name
from jaxgen.models.masks import Masks
from jaxgen.models.positions import Rotation, rotation, sinusoidal
from jaxgen.models.stack import Stack
from jaxgen.models.transformer import (
    NORMS,
    Architecture,
    FeedForwardInit,
    Step,
    Surroundings,
    check_context,
    check_fields,
)

POSITIONS = ("learned", "rotary", "sinusoidal", "none")


class GPT(nn.Module):
    """Predicts each next token from those before it: GPT-2 (Radford et al. 2019), by default its smallest size.

    With `positions="rotary"`, `norm="rms"`, `activation="swiglu"`, `use_bias=False` and fewer `num_kv_heads` it is
    Llama (Touvron et al. 2023).

    Attributes:
        vocabulary_size: tokens.
        context_length: tokens of a text, at most.
        num_layers: blocks.
        num_heads: of attention.
        embedding_size: width of all that goes from block to block.
        num_kv_heads: of keys and values, a divisor of `num_heads`; None for as many.
        feed_forward_size: width inside of the feed-forward layers; None for four times the embedding.
        positions: `learned`, `rotary` (Su et al. 2021), `sinusoidal` (Vaswani et al. 2017; the embedding is then
            scaled up, as there) or `none`.
        activation: `gelu` (the tanh form), `gelu_erf`, `relu`, `geglu` or `swiglu`.
        norm: `layer` or `rms`.
        norm_epsilon: added to the variance.
        use_bias: whether linear layers and norms have biases.
        tied: whether the last layer's weights are the embedding's (Press & Wolf 2017).
        rotary_base: of the wavelengths of rotary positions.
        dropout: part of the embeddings, of the attention's weights and of the outputs of each part of a block that is
            dropped in training (rng `dropout`).
        remat: whether what is inside of a block is computed again for the gradient, and not kept.
        scan_layers: whether the blocks are one loop, which compiles faster.
        attention_block: queries at a time, for long contexts; 0 for all at once.
        dtype: to compute in, by name or as a dtype; None is float32. Parameters and logits are float32.

    Raises:
        UsageError: when it is made or first called, for unknown names, or sizes and rates out of range.
    """

    vocabulary_size: int
    context_length: int = 1024
    num_layers: int = 12
    num_heads: int = 12
    embedding_size: int = 768
    num_kv_heads: int | None = None
    feed_forward_size: int | None = None
    positions: str = "learned"
    activation: str = "gelu"
    norm: str = "layer"
    norm_epsilon: float = 1e-5
    use_bias: bool = True
    tied: bool = True
    rotary_base: float = 10_000.0
    dropout: float = 0.0
    remat: bool = False
    scan_layers: bool = False
    attention_block: int = 0
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_fields(self)
        if self.positions not in POSITIONS:
            raise unknown("positions", self.positions, POSITIONS)
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        if self.positions == "rotary" and self.embedding_size // self.num_heads % 2:
            raise UsageError(
                f"rotary positions turn features in pairs, but {self.num_heads} heads of an embedding of "
                f"{self.embedding_size} have an odd {self.embedding_size // self.num_heads}"
            )
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    def setup(self) -> None:
        """Makes the layers, which begin as in GPT-2: the more layers are added up, the less each adds."""
        init = nn.initializers.normal(0.02)
        residual = nn.initializers.normal(0.02 / (2 * self.num_layers) ** 0.5)
        architecture = Architecture(
            width=self.embedding_size,
            num_heads=self.num_heads,
            head_size=self.embedding_size // self.num_heads,
            feed_forward_size=self.feed_forward_size or 4 * self.embedding_size,
            attention_init=AttentionInit(query=init, key_value=init, output=residual),
            feed_forward_init=FeedForwardInit(up=init, down=residual),
            num_kv_heads=self.num_kv_heads,
            activation=self.activation,
            norm=self.norm,
            norm_epsilon=self.norm_epsilon,
            use_bias=self.use_bias,
            causal=True,
            dropout=self.dropout,
            attention_block=self.attention_block,
            dtype=self.dtype,
        )
        self.token_embedding = self._embedding(self.vocabulary_size)
        if self.positions == "learned":
            self.position_embedding = self._embedding(self.context_length)
        self.layers = Stack(architecture, self.num_layers, self.remat, self.scan_layers)
        self.final_norm = architecture.make_norm()
        if not self.tied:
            shape = (self.embedding_size, self.vocabulary_size)
            self.output_kernel = self.param("output_kernel", init, shape, jnp.float32)
        self.drop = Dropout(self.dropout)

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Gives nothing: what is carried on is the text itself."""
        return ()

    def __call__(
        self,
        tokens: Integer[AnyArray, "batch time"],
        carry: tuple[()] | None = None,
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        starts: Shaped[AnyArray, "batch time"] | None = None,
        train: bool = False,
    ) -> tuple[Float32[Array, "batch time vocabulary_size"], tuple[()]]:
        """Gives float32 logits of each next token, and the empty carry.

        Args:
            tokens: token numbers.
            carry: nothing, as `initial_carry` gives it.
            lengths: the tokens that aren't padding, of each row; what follows on padding means nothing.
            starts: true (or not 0) where another text starts within a row: it sees nothing of the one before, and its
                positions begin at 0.
            train: whether dropout drops.
        """
        features, carry = self.features(tokens, carry, lengths=lengths, starts=starts, train=train)
        return self.logits(features), carry

    def features(
        self,
        tokens: Integer[AnyArray, "batch time"],
        carry: tuple[()] | None = None,
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        starts: Shaped[AnyArray, "batch time"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch time width"], tuple[()]]:
        """Gives what the logits are made of, and the empty carry."""
        hidden, carry = self.hidden(tokens, carry, lengths=lengths, starts=starts, train=train)
        return self.final_norm(hidden), carry

    def hidden(
        self,
        tokens: Integer[AnyArray, "batch time"],
        carry: tuple[()] | None = None,
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        starts: Shaped[AnyArray, "batch time"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch time width"], tuple[()]]:
        """Gives what the last block gives, before the last norm, and the empty carry."""
        embedded, around = self._embedded(jnp.asarray(tokens), lengths, starts)
        return self.layers(self.drop(embedded, train=train), around, train=train), ()

    def logits(self, features: Float[Array, "*batch width"]) -> Float32[Array, "*batch vocabulary_size"]:
        """Gives float32 logits from what `features` gave."""
        kernel, _ = self.output()
        return jnp.matmul(features, kernel.astype(features.dtype), preferred_element_type=jnp.float32)

    def output(self) -> tuple[Float[Array, "width vocabulary_size"], Float[Array, " vocabulary_size"]]:
        """Gives the last layer's kernel, and zeros for its bias."""
        kernel = self.token_embedding.embedding.T if self.tied else self.output_kernel
        return jnp.asarray(kernel), jnp.zeros(self.vocabulary_size)

    def attention(
        self,
        tokens: Integer[AnyArray, "batch time"],
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        starts: Shaped[AnyArray, "batch time"] | None = None,
    ) -> Float32[Array, "batch layers heads time time"]:
        """Gives the weights that each token (the second last axis) gives to those that it sees."""
        return self.layers.weights(*self._embedded(jnp.asarray(tokens), lengths, starts))["own"]

    def prefill(
        self, tokens: Integer[AnyArray, "batch time"], lengths: Integer[AnyArray, " batch"]
    ) -> tuple[Float[Array, "batch time width"], tuple[dict[str, Cache], ...]]:
        """Gives `features` and each block's keys and values."""
        hidden, caches = self.layers.prefill(*self._embedded(jnp.asarray(tokens), lengths, None))
        return self.final_norm(hidden), caches

    def step(
        self,
        tokens: Int32[Array, " batch"],
        caches: tuple[dict[str, Any], ...],
        lengths: Int32[Array, " batch"],
    ) -> tuple[Float[Array, "batch width"], tuple[dict[str, Any], ...]]:
        """Reads one more token a row behind `lengths` others; gives its features, and the caches with it."""
        positions = lengths[:, None]
        hidden = self._placed(self.token_embedding(tokens[:, None]), positions)[:, 0]
        hidden, caches, _ = self.layers.step(hidden, caches, Step(lengths, self._rotation(positions)))
        return self.final_norm(hidden), caches

    def _embedded(
        self, tokens: Array, lengths: AnyArray | None, starts: AnyArray | None
    ) -> tuple[Float[Array, "batch time width"], Surroundings]:
        check_context(tokens, self.context_length)
        positions, segments = jnp.arange(tokens.shape[1])[None], None
        if starts is not None:
            begin = jnp.asarray(starts) != 0
            segments = jnp.cumsum(begin, axis=1)
            positions = positions - lax.cummax(jnp.where(begin, positions, 0), axis=1)
        masks = Masks(None if lengths is None else jnp.asarray(lengths), segments)
        embedded = self._placed(self.token_embedding(tokens), positions)
        return embedded, Surroundings(masks, self._rotation(positions))

    def _placed(
        self, embedded: Float[Array, "batch time width"], positions: Integer[Array, "rows time"]
    ) -> Float[Array, "batch time width"]:
        if self.positions == "learned":
            return embedded + self.position_embedding(positions)
        if self.positions == "sinusoidal":
            scaled = embedded * self.embedding_size**0.5
            return scaled + sinusoidal(positions, self.embedding_size).astype(embedded.dtype)
        return embedded

    def _rotation(self, positions: Integer[Array, "rows time"]) -> Rotation | None:
        if self.positions != "rotary":
            return None
        return rotation(positions, self.embedding_size // self.num_heads, self.rotary_base)

    def _embedding(self, count: int) -> nn.Embed:
        init = nn.initializers.normal(0.02)
        return nn.Embed(count, self.embedding_size, dtype=self.dtype, embedding_init=init)
