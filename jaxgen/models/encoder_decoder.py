"""Transformers that read a text and write another one: what they have in common, and that of Vaswani et al."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32, Integer

from jaxgen.errors import UsageError, unknown
from jaxgen.metrics import AnyArray
from jaxgen.models.attention import AttentionInit
from jaxgen.models.cache import Own, Shared, with_room
from jaxgen.models.layers import Dropout, check_sizes, dtype_name, kernel_init
from jaxgen.models.masks import Masks, last
from jaxgen.models.positions import sinusoidal
from jaxgen.models.stack import Stack
from jaxgen.models.transformer import (
    Architecture,
    FeedForwardInit,
    Step,
    Surroundings,
    check_context,
    check_fields,
)

POSITIONS = ("learned", "sinusoidal")


class TransformerPair(nn.Module):
    """An encoder that sees both ways, and a causal decoder that attends to it: all that T5 and others are alike in.

    A family has the field `tied`, and makes in `setup` the stacks `encoder` and `decoder`, the norms `encoder_norm` and
    `decoder_norm`, `token_embedding` of what is written, `output_kernel` where it isn't tied, and `drop`; and it says
    below how tokens are embedded, and where they stand.
    """

    drops_outputs: ClassVar[bool] = False
    """Whether dropout drops of what both stacks give, too."""

    def __call__(
        self,
        source: Integer[AnyArray, "batch source_time"],
        tokens: Integer[AnyArray, "batch time"],
        *,
        source_lengths: Integer[AnyArray, " batch"] | None = None,
        lengths: Integer[AnyArray, " batch"] | None = None,
        train: bool = False,
    ) -> Float32[Array, "batch time vocabulary_size"]:
        """Gives float32 logits of what follows each token.

        Args:
            source: tokens of the text to read.
            tokens: of the text to write, behind the token that it begins with.
            source_lengths: the tokens that aren't padding, of each source.
            lengths: the same of each text to write.
            train: whether dropout drops.
        """
        features = self.features(source, tokens, source_lengths=source_lengths, lengths=lengths, train=train)
        return self.logits(features)

    def features(
        self,
        source: Integer[AnyArray, "batch source_time"],
        tokens: Integer[AnyArray, "batch time"],
        *,
        source_lengths: Integer[AnyArray, " batch"] | None = None,
        lengths: Integer[AnyArray, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch time width"]:
        """Gives what the logits are made of; see the call."""
        encoded = self.encode(source, lengths=source_lengths, train=train)
        embedded, around = self.written(tokens, lengths, encoded, source_lengths)
        hidden = self.decoder(self.drop(embedded, train=train), around, train=train)
        return self.scaled(self._dropped(self.decoder_norm(hidden), train))

    def encode(
        self,
        source: Integer[AnyArray, "batch source_time"],
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch source_time width"]:
        """Gives the encoder's features of each token."""
        embedded, around = self.read(source, lengths)
        hidden = self.encoder(self.drop(embedded, train=train), around, train=train)
        return self._dropped(self.encoder_norm(hidden), train)

    def logits(self, features: Float[Array, "*batch width"]) -> Float32[Array, "*batch vocabulary_size"]:
        """Gives float32 logits from what `features` gave."""
        kernel, _ = self.output()
        return jnp.matmul(features, kernel.astype(features.dtype), preferred_element_type=jnp.float32)

    def output(self) -> tuple[Float[Array, "width vocabulary_size"], Float[Array, " vocabulary_size"]]:
        """Gives the last layer's kernel, and zeros for its bias."""
        kernel = self.token_embedding.embedding.T if self.tied else self.output_kernel
        return jnp.asarray(kernel), jnp.zeros(kernel.shape[1])

    def attention(
        self,
        source: Integer[AnyArray, "batch source_time"],
        tokens: Integer[AnyArray, "batch time"],
        *,
        source_lengths: Integer[AnyArray, " batch"] | None = None,
        lengths: Integer[AnyArray, " batch"] | None = None,
    ) -> dict[str, Float32[Array, "batch layers heads queries keys"]]:
        """Gives the weights that each token gives to those that it sees: `encoder`, `decoder`, and `cross`."""
        read = self.encoder.weights(*self.read(source, source_lengths))
        encoded = self.encode(source, lengths=source_lengths)
        written = self.decoder.weights(*self.written(tokens, lengths, encoded, source_lengths))
        return {"encoder": read["own"], "decoder": written["own"], "cross": written["cross"]}

    def prefill(
        self,
        tokens: Integer[AnyArray, "batch time"],
        lengths: Integer[Array, " batch"],
        encoded: Float[Array, "batch source_time width"],
        source_lengths: Integer[AnyArray, " batch"],
        max_length: int,
    ) -> tuple[Float32[Array, "batch vocabulary_size"], Float32[Array, "batch source_time"], Any]:
        """Reads what texts begin with.

        Args:
            tokens: padded at their end.
            lengths: those of each row that aren't padding.
            encoded: what `encode` gave.
            source_lengths: the tokens that aren't padding, of each source.
            max_length: tokens of a row that there is to be room for.

        Returns:
            The logits behind each row's last token, the attention that it gave to the source (see `step`), and the
            cache: each block's keys and values, those of the source as well.
        """
        written = self.written(tokens, lengths, encoded, source_lengths)
        hidden, layers = self.decoder.prefill(*written)
        layers = tuple(
            {"own": Own(with_room(layer["own"], max_length)), "cross": Shared(layer["cross"])}
            for layer in layers
        )
        logits = self.logits(self.scaled(self.decoder_norm(last(hidden, lengths))))
        weights = jnp.moveaxis(self.decoder.weights(*written)["cross"], 1, 0)
        attention = last(jnp.moveaxis(_aligned(weights), 1, 2), lengths).mean(axis=1)
        cache = {"layers": layers, "lengths": lengths, "source_lengths": Shared(source_lengths)}
        return logits, attention, cache

    def step(
        self, tokens: Int32[Array, " batch"], cache: Any
    ) -> tuple[Float32[Array, "batch vocabulary_size"], Float32[Array, "batch source_time"], Any]:
        """Reads one more token a row; gives the logits behind it, its attention to the source, and the cache with it.

        That attention is the mean over the heads of the last block but one, whose alignments are the best (Garg et al.
        2019, section 4.1).
        """
        embedded, told = self.one_more(tokens, cache)
        hidden, layers, weights = self.decoder.step(embedded, cache["layers"], told)
        logits = self.logits(self.scaled(self.decoder_norm(hidden)))
        attention = _aligned(weights).mean(axis=1)
        return logits, attention, {**cache, "layers": layers, "lengths": cache["lengths"] + 1}

    def read(self, source: AnyArray, lengths: AnyArray | None) -> tuple[Array, Surroundings]:
        """Gives the embedded tokens of sources, and what the encoder's blocks are told."""
        raise NotImplementedError

    def written(
        self, tokens: AnyArray, lengths: AnyArray | None, encoded: Array, source_lengths: AnyArray | None
    ) -> tuple[Array, Surroundings]:
        """Gives the embedded tokens of texts to write, and what the decoder's blocks are told."""
        raise NotImplementedError

    def one_more(self, tokens: Int32[Array, " batch"], cache: Any) -> tuple[Array, Step]:
        """Gives one more embedded token a row, and what the decoder's blocks are told in a step."""
        raise NotImplementedError

    def scaled(self, features: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Gives the features as the last layer wants them."""
        return features

    def _dropped(self, outputs: Array, train: bool) -> Array:
        return self.drop(outputs, train=train and self.drops_outputs)


class EncoderDecoderTransformer(TransformerPair):
    """The first Transformer (Vaswani et al. 2017), with its norms before each part (Xiong et al. 2020).

    Attributes:
        vocabulary_size: tokens of the texts to write.
        source_vocabulary_size: tokens of the texts to read, which have an embedding of their own; None where both are
            of one vocabulary, and share it.
        embedding_size: width of all that goes from block to block.
        num_layers: blocks of the encoder.
        num_decoder_layers: blocks of the decoder; None for as many.
        num_heads: of attention.
        feed_forward_size: width inside of the feed-forward layers; None for four times the embedding.
        positions: `sinusoidal`, or `learned`, which has a context.
        context_length: tokens of a text, read or written, at most, where positions are learned.
        activation: `relu`, or another one as for `GPT`.
        tied: whether the last layer's weights are the embedding's (Press & Wolf 2017).
        norm_epsilon: added to the variance.
        dropout: part of the embeddings, of the attention's weights and of the outputs of each part of a block that is
            dropped in training (rng `dropout`).
        remat: whether what is inside of a block is computed again for the gradient, and not kept.
        scan_layers: whether the blocks are one loop, which compiles faster.
        attention_block: queries at a time, for long contexts; 0 for all at once.
        dtype: to compute in, by name or as a dtype; None is float32. Parameters and logits are float32.

    Raises:
        UsageError: when it is made, for unknown names, or sizes and rates out of range; when it is called, for texts
            longer than the context.
    """

    vocabulary_size: int
    source_vocabulary_size: int | None = None
    embedding_size: int = 512
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    feed_forward_size: int | None = None
    positions: str = "sinusoidal"
    context_length: int = 512
    activation: str = "relu"
    tied: bool = True
    norm_epsilon: float = 1e-5
    dropout: float = 0.1
    remat: bool = False
    scan_layers: bool = False
    attention_block: int = 0
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_fields(self)
        for name in ("source_vocabulary_size", "num_decoder_layers"):
            if getattr(self, name) is not None:
                check_sizes(**{name: (getattr(self, name),)})
        if self.positions not in POSITIONS:
            raise unknown("positions", self.positions, POSITIONS)
        if self.positions == "sinusoidal" and self.embedding_size % 2:
            raise UsageError(
                f"embedding_size is {self.embedding_size}; with sinusoidal positions it must be even"
            )
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    def setup(self) -> None:
        """Makes the layers; embeddings begin with the width^-1/2 that they are scaled up from (section 3.4)."""
        encoder, decoder = (
            Architecture(
                width=self.embedding_size,
                num_heads=self.num_heads,
                head_size=self.embedding_size // self.num_heads,
                feed_forward_size=self.feed_forward_size or 4 * self.embedding_size,
                attention_init=AttentionInit(query=kernel_init, key_value=kernel_init, output=kernel_init),
                feed_forward_init=FeedForwardInit(up=kernel_init, down=kernel_init),
                activation=self.activation,
                norm_epsilon=self.norm_epsilon,
                causal=is_decoder,
                cross=is_decoder,
                dropout=self.dropout,
                attention_block=self.attention_block,
                dtype=self.dtype,
            )
            for is_decoder in (False, True)
        )
        self.token_embedding = self._embedding(self.vocabulary_size)
        if self.source_vocabulary_size is not None:
            self.source_embedding = self._embedding(self.source_vocabulary_size)
        if self.positions == "learned":
            self.position_embedding = self._embedding(self.context_length)
        self.encoder = Stack(encoder, self.num_layers, self.remat, self.scan_layers)
        decoder_layers = self.num_decoder_layers or self.num_layers
        self.decoder = Stack(decoder, decoder_layers, self.remat, self.scan_layers)
        self.encoder_norm, self.decoder_norm = encoder.make_norm(), decoder.make_norm()
        if not self.tied:
            shape = (self.embedding_size, self.vocabulary_size)
            self.output_kernel = self.param("output_kernel", kernel_init, shape, jnp.float32)
        self.drop = Dropout(self.dropout)

    @property
    def max_length(self) -> int | None:
        """The window of what is written; None where positions go on for ever."""
        return self.context_length if self.positions == "learned" else None

    def read(self, source: AnyArray, lengths: AnyArray | None) -> tuple[Array, Surroundings]:
        """Gives the embedded tokens of sources, and what the encoder's blocks are told."""
        shared = self.source_vocabulary_size is None
        embedding = self.token_embedding if shared else self.source_embedding
        return self._placed(embedding, source), Surroundings(masks_of(lengths))

    def written(
        self, tokens: AnyArray, lengths: AnyArray | None, encoded: Array, source_lengths: AnyArray | None
    ) -> tuple[Array, Surroundings]:
        """Gives the embedded tokens of texts to write, and what the decoder's blocks are told."""
        around = Surroundings(masks_of(lengths), source=encoded, source_masks=masks_of(source_lengths))
        return self._placed(self.token_embedding, tokens), around

    def one_more(self, tokens: Int32[Array, " batch"], cache: Any) -> tuple[Array, Step]:
        """Gives one more embedded token a row, and what the decoder's blocks are told in a step."""
        lengths = cache["lengths"]
        embedded = self._at(self.token_embedding(tokens[:, None]), lengths[:, None])[:, 0]
        return embedded, Step(lengths, source_lengths=cache["source_lengths"].of_prompts)

    def _placed(self, embedding: nn.Embed, tokens: AnyArray) -> Float[Array, "batch time width"]:
        tokens = jnp.asarray(tokens)
        if self.positions == "learned":
            check_context(tokens, self.context_length)
        return self._at(embedding(tokens), jnp.arange(tokens.shape[1])[None])

    def _at(
        self, embedded: Float[Array, "batch time width"], positions: Integer[Array, "rows time"]
    ) -> Float[Array, "batch time width"]:
        scaled = embedded * self.embedding_size**0.5
        if self.positions == "learned":
            return scaled + self.position_embedding(positions)
        return scaled + sinusoidal(positions, self.embedding_size).astype(embedded.dtype)

    def _embedding(self, count: int) -> nn.Embed:
        init = nn.initializers.normal(self.embedding_size**-0.5)
        return nn.Embed(count, self.embedding_size, dtype=self.dtype, embedding_init=init)


def masks_of(lengths: AnyArray | None) -> Masks:
    """Gives the masks of texts of these lengths; None for texts without padding."""
    return Masks(None if lengths is None else jnp.asarray(lengths))


def _aligned(of_blocks: Any) -> Array:
    """Takes what belongs to the block whose attention is the nearest to an alignment: the last but one."""
    return of_blocks[max(0, len(of_blocks) - 2)]
