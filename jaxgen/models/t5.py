"""T5: an encoder that sees both ways, and a causal decoder that attends to it."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray
from jaxgen.models.attention import AttentionInit
from jaxgen.models.cache import room
from jaxgen.models.encoder_decoder import TransformerPair, masks_of
from jaxgen.models.layers import Dropout, check_sizes, dtype_name
from jaxgen.models.positions import RelativeBias
from jaxgen.models.stack import Stack
from jaxgen.models.transformer import (
    Architecture,
    FeedForwardInit,
    Step,
    Surroundings,
    check_fields,
)


class T5(TransformerPair):
    """Makes texts of texts (Raffel et al. 2020); the defaults are the small one.

    Version 1.1 (Shazeer 2020) has `activation="geglu"` and `tied=False`, and dropout in fine-tuning alone.

    Attributes:
        vocabulary_size: tokens.
        embedding_size: width of all that goes from block to block.
        num_layers: blocks of the encoder.
        num_decoder_layers: blocks of the decoder; None for as many.
        num_heads: of attention.
        head_size: depth of each, which needn't divide the width.
        feed_forward_size: width inside of the feed-forward layers.
        activation: `relu`, or `geglu` for version 1.1; others as for `GPT`.
        tied: whether the last layer's weights are the embedding's; the features are then scaled by width^-1/2.
        num_buckets: of relative distances.
        max_distance: all from here on are in the last bucket.
        norm_epsilon: added to the mean square.
        dropout: part of the embeddings, of the attention's weights, of what is inside of feed-forward layers, of the
            outputs of each part of a block and of both stacks that is dropped in training (rng `dropout`).
        remat: whether what is inside of a block is computed again for the gradient, and not kept.
        scan_layers: whether the blocks are one loop, which compiles faster.
        attention_block: queries at a time, for long contexts; 0 for all at once.
        dtype: to compute in, by name or as a dtype; None is float32. Parameters and logits are float32.

    Raises:
        UsageError: when it is made, for unknown names, or sizes and rates out of range.
    """

    drops_outputs: ClassVar[bool] = True

    vocabulary_size: int = 32_128
    embedding_size: int = 512
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    head_size: int = 64
    feed_forward_size: int = 2048
    activation: str = "relu"
    tied: bool = True
    num_buckets: int = 32
    max_distance: int = 128
    norm_epsilon: float = 1e-6
    dropout: float = 0.1
    remat: bool = False
    scan_layers: bool = False
    attention_block: int = 0
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_fields(self)
        check_sizes(head_size=(self.head_size,))
        if self.num_decoder_layers is not None:
            check_sizes(num_decoder_layers=(self.num_decoder_layers,))
        if self.num_buckets < 4 or self.num_buckets % 2:
            raise UsageError(f"num_buckets is {self.num_buckets}; it must be even, and 4 at least")
        if self.max_distance <= self.num_buckets // 2:
            raise UsageError(
                f"max_distance is {self.max_distance}; it must be more than half of the {self.num_buckets} buckets"
            )
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    def setup(self) -> None:
        """Makes the layers; the factors are those of Mesh TensorFlow, where queries aren't scaled in the scores."""
        width, inside = self.embedding_size, self.num_heads * self.head_size
        narrow = nn.initializers.normal(width**-0.5)
        self.token_embedding = nn.Embed(
            self.vocabulary_size, width, dtype=self.dtype, embedding_init=nn.initializers.normal(1.0)
        )
        self.encoder_bias, self.decoder_bias = (
            RelativeBias(self.num_heads, self.num_buckets, self.max_distance, bidirectional, narrow)
            for bidirectional in (True, False)
        )
        encoder, decoder = (
            Architecture(
                width=width,
                num_heads=self.num_heads,
                head_size=self.head_size,
                feed_forward_size=self.feed_forward_size,
                attention_init=AttentionInit(
                    query=nn.initializers.normal((width * self.head_size) ** -0.5),
                    key_value=narrow,
                    output=nn.initializers.normal(inside**-0.5),
                ),
                feed_forward_init=FeedForwardInit(
                    up=narrow, down=nn.initializers.normal(self.feed_forward_size**-0.5)
                ),
                activation=self.activation,
                norm="rms",
                norm_epsilon=self.norm_epsilon,
                use_bias=False,
                causal=is_decoder,
                cross=is_decoder,
                scale=1.0,
                dropout=self.dropout,
                inner_dropout=True,
                attention_block=self.attention_block,
                dtype=self.dtype,
            )
            for is_decoder in (False, True)
        )
        self.encoder = Stack(encoder, self.num_layers, self.remat, self.scan_layers)
        decoder_layers = self.num_decoder_layers or self.num_layers
        self.decoder = Stack(decoder, decoder_layers, self.remat, self.scan_layers)
        self.encoder_norm, self.decoder_norm = encoder.make_norm(), decoder.make_norm()
        if not self.tied:
            # Narrower than the 1.0 of some ports, with which the first logits would be as wide as the width's root.
            self.output_kernel = self.param(
                "output_kernel", narrow, (width, self.vocabulary_size), jnp.float32
            )
        self.drop = Dropout(self.dropout)

    def read(self, source: AnyArray, lengths: AnyArray | None) -> tuple[Array, Surroundings]:
        """Gives the embedded tokens of sources, and what the encoder's blocks are told."""
        time = source.shape[1]
        around = Surroundings(masks_of(lengths), bias=self.encoder_bias(time, time))
        return self.token_embedding(jnp.asarray(source)), around

    def written(
        self, tokens: AnyArray, lengths: AnyArray | None, encoded: Array, source_lengths: AnyArray | None
    ) -> tuple[Array, Surroundings]:
        """Gives the embedded tokens of texts to write, and what the decoder's blocks are told."""
        time = tokens.shape[1]
        around = Surroundings(
            masks_of(lengths),
            bias=self.decoder_bias(time, time),
            source=encoded,
            source_masks=masks_of(source_lengths),
        )
        return self.token_embedding(jnp.asarray(tokens)), around

    def one_more(self, tokens: Int32[Array, " batch"], cache: Any) -> tuple[Array, Step]:
        """Gives one more embedded token a row, and what the decoder's blocks are told in a step."""
        lengths = cache["lengths"]
        bias = self.decoder_bias.at(jnp.arange(room(cache["layers"][0]["own"].cache)) - lengths[:, None])
        step = Step(lengths, bias=bias, source_lengths=cache["source_lengths"].of_prompts)
        return self.token_embedding(tokens), step

    def scaled(self, features: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Gives the features as the last layer wants them: of the scale of its weights, where it is tied."""
        return features * self.embedding_size**-0.5 if self.tied else features
