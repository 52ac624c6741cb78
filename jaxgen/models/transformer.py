"""What transformers are made of: norms, feed-forward layers, and blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Integer

from jaxgen.errors import UsageError, unknown
from jaxgen.models.attention import (
    Attention,
    AttentionInit,
    Projection,
    check_kv_heads,
)
from jaxgen.models.cache import Cache, as_cache, attend_to_cache, weights_of_cache
from jaxgen.models.layers import Dropout, check_dropout, check_sizes
from jaxgen.models.masks import UNMASKED, Masks
from jaxgen.models.positions import Rotation

NORMS = ("layer", "rms")


def _gelu(inputs: Array) -> Array:
    return nn.gelu(inputs, approximate=True)


def _gelu_erf(inputs: Array) -> Array:
    return nn.gelu(inputs, approximate=False)


# By name: the function, and whether it is of a gate that another product is multiplied by.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "gelu": (_gelu, False),
    "gelu_erf": (_gelu_erf, False),
    "relu": (nn.relu, False),
    "geglu": (_gelu, True),
    "swiglu": (nn.silu, True),
}


class FeedForwardInit(NamedTuple):
    """How the kernels of a feed-forward layer begin."""

    up: nn.initializers.Initializer
    down: nn.initializers.Initializer


@dataclass(frozen=True)
class Architecture:
    """What all blocks of a stack are alike in.

    Attributes:
        width: of what goes from block to block.
        num_heads: of the queries.
        head_size: depth of each.
        feed_forward_size: width inside of the feed-forward layers.
        attention_init: how the attention's kernels begin.
        feed_forward_init: how those of the feed-forward layers begin.
        num_kv_heads: of keys and values; None for as many.
        activation: `gelu` (the tanh form), `gelu_erf` or `relu`; with a gate (Shazeer 2020) `geglu` or `swiglu`.
        norm: `layer` (Ba et al. 2016) or `rms` (Zhang & Sennrich 2019).
        norm_epsilon: added to the variance.
        post_norm: whether norms come after the sum, as in the first Transformer, or else before each part.
        use_bias: whether projections and norms have biases.
        causal: whether a token sees none behind it.
        cross: whether each block attends to a source as well.
        scale: of the scores; None is head_size^-1/2.
        dropout: part of the attention's weights, and of each part's outputs, that is dropped in training.
        inner_dropout: whether that is so inside of feed-forward layers, too.
        attention_block: queries at a time, see `jaxgen.models.attention.attend`.
        dtype: to compute in; None is float32.
    """

    width: int
    num_heads: int
    head_size: int
    feed_forward_size: int
    attention_init: AttentionInit
    feed_forward_init: FeedForwardInit
    num_kv_heads: int | None = None
    activation: str = "gelu"
    norm: str = "layer"
    norm_epsilon: float = 1e-5
    post_norm: bool = False
    use_bias: bool = True
    causal: bool = False
    cross: bool = False
    scale: float | None = None
    dropout: float = 0.0
    inner_dropout: bool = False
    attention_block: int = 0
    dtype: Any = None

    def make_norm(self) -> "Norm":
        """Makes a norm."""
        return Norm(self.norm, self.norm_epsilon, self.use_bias, self.dtype)


class Surroundings(NamedTuple):
    """What all blocks are told beside what goes from one to the next; None where there is none.

    Attributes:
        masks: what tokens don't see of each other.
        rotation: of queries and keys.
        bias: of the scores, [rows, heads, time, time].
        source: what a block with `cross` attends to, [batch, keys, width].
        source_masks: what of it isn't to be seen.
    """

    masks: Masks = UNMASKED
    rotation: Rotation | None = None
    bias: Array | None = None
    source: Any = None
    source_masks: Masks = UNMASKED


class Step(NamedTuple):
    """What all blocks are told when one more token a row is read.

    Attributes:
        lengths: tokens of each row that were read before.
        rotation: of the token's query and key.
        bias: of its scores, [batch, heads, keys].
        source_lengths: of what a block with `cross` attends to; of each prompt, which several rows may go on from.
    """

    lengths: Array
    rotation: Rotation | None = None
    bias: Array | None = None
    source_lengths: Any = None


class Norm(nn.Module):
    """Normalises each vector, in float32, and gives the dtype to compute in.

    Attributes:
        kind: `layer`, by mean and variance, or `rms`, by the mean square.
        epsilon: added to the variance.
        use_bias: whether a layer norm has a bias.
        dtype: of the outputs; None is float32.
    """

    kind: str
    epsilon: float
    use_bias: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Normalises."""
        shape = (inputs.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        values = inputs.astype(jnp.float32)
        if self.kind == "layer":
            values -= values.mean(axis=-1, keepdims=True)
        variance = (values**2).mean(axis=-1, keepdims=True)
        outputs = values * lax.rsqrt(variance + self.epsilon) * scale
        if self.kind == "layer" and self.use_bias:
            outputs += self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return outputs.astype(self.dtype or jnp.float32)


class FeedForwardLayer(nn.Module):
    """Two linear layers with an activation between them, or three with a gate: down(activation(gate) * up)."""

    architecture: Architecture

    def setup(self) -> None:
        """Makes the layers."""
        of, (up, down) = self.architecture, self.architecture.feed_forward_init

        def project(inputs: int, outputs: int, init: nn.initializers.Initializer) -> Projection:
            return Projection(inputs, outputs, of.use_bias, init, of.dtype)

        self.up = project(of.width, of.feed_forward_size, up)
        self.activation, gated = ACTIVATIONS[of.activation]
        self.gate = project(of.width, of.feed_forward_size, up) if gated else None
        self.down = project(of.feed_forward_size, of.width, down)
        self.drop = Dropout(of.dropout if of.inner_dropout else 0.0)

    def __call__(
        self, inputs: Float[Array, "*batch width"], *, train: bool = False
    ) -> Float[Array, "*batch width"]:
        """Transforms each vector."""
        up = self.up(inputs)
        inside = self.activation(up) if self.gate is None else self.activation(self.gate(inputs)) * up
        return self.down(self.drop(inside, train=train))


class Block(nn.Module):
    """Attention, attention to a source where there is one, and a feed-forward layer, each added to what it read."""

    architecture: Architecture

    def setup(self) -> None:
        """Makes the parts."""
        of = self.architecture

        def attention(causal: bool) -> Attention:
            return Attention(
                of.width,
                of.num_heads,
                of.head_size,
                of.attention_init,
                of.num_kv_heads,
                of.use_bias,
                causal,
                of.scale,
                of.dropout,
                of.attention_block,
                of.dtype,
            )

        self.attention = attention(of.causal)
        self.attention_norm = of.make_norm()
        if of.cross:
            self.cross_attention = attention(causal=False)
            self.cross_attention_norm = of.make_norm()
        self.feed_forward = FeedForwardLayer(of)
        self.feed_forward_norm = of.make_norm()
        self.drop = Dropout(of.dropout)

    def __call__(
        self, hidden: Float[Array, "batch time width"], around: Surroundings, *, train: bool = False
    ) -> Float[Array, "batch time width"]:
        """Gives what goes to the next block."""
        return self.prefill(hidden, around, train=train)[0]

    def prefill(
        self, hidden: Float[Array, "batch time width"], around: Surroundings, *, train: bool = False
    ) -> tuple[Float[Array, "batch time width"], dict[str, Cache]]:
        """Gives what goes to the next block, and keys and values: `own`, and `cross` where there is a source."""
        read = self._read(hidden, self.attention_norm)
        own = self.attention.keys_and_values(read, around.rotation)
        query = self.attention.queries(read, around.rotation)
        attended = self.attention.of(query, *own, around.masks, around.bias, train=train)
        hidden = self._add(hidden, attended, self.attention_norm, train)
        cache = {"own": as_cache(own)}
        if self.architecture.cross:
            read = self._read(hidden, self.cross_attention_norm)
            cross = self.cross_attention.keys_and_values(around.source)
            query = self.cross_attention.queries(read)
            attended = self.cross_attention.of(query, *cross, around.source_masks, None, train=train)
            hidden = self._add(hidden, attended, self.cross_attention_norm, train)
            cache["cross"] = as_cache(cross)
        return self._feed_forward(hidden, train), cache

    def step(
        self, hidden: Float[Array, "batch width"], cache: dict[str, Any], step: Step
    ) -> tuple[Float[Array, "batch width"], dict[str, Any], Float[Array, "batch heads keys"] | None]:
        """Does for one more token a row what a call does for all; keys and values are written behind those before.

        Args:
            hidden: what the block before gives.
            cache: `own`, an `Own` or `Several` of `jaxgen.models.cache`, and `cross`, a `Shared` one.
            step: what all blocks are told.

        Returns:
            What goes to the next block, the cache, and the weights that are given to a source, where there is one.
        """
        attention, scale = self.attention, self.architecture.scale
        read = self._read(hidden, self.attention_norm)[:, None]
        own = attention.keys_and_values(read, step.rotation)
        written = cache["own"].write(as_cache(own), step.lengths)
        query = attention.queries(read, step.rotation)[:, 0]
        attended = written.attend(query, step.lengths + 1, scale=scale, bias=step.bias)
        change = attention.output(attended.reshape(len(hidden), -1))
        hidden, cache, weights = (
            self._add(hidden, change, self.attention_norm),
            {**cache, "own": written},
            None,
        )
        if self.architecture.cross:
            read = self._read(hidden, self.cross_attention_norm)[:, None]
            query = self.cross_attention.queries(read)[:, 0]
            cross = cache["cross"].of_prompts
            attended = attend_to_cache(query, cross, step.source_lengths, scale=scale)
            # Made once more, but only where somebody wants to see them: XLA drops what nothing reads.
            weights = weights_of_cache(query, cross, step.source_lengths, scale=scale)
            change = self.cross_attention.output(attended.reshape(len(hidden), -1))
            hidden = self._add(hidden, change, self.cross_attention_norm)
        return self._feed_forward(hidden), cache, weights

    def weights(
        self, hidden: Float[Array, "batch time width"], around: Surroundings
    ) -> dict[str, Float32[Array, "batch heads time keys"]]:
        """Gives the attention's weights: `own`, and `cross` where there is a source."""
        read = self._read(hidden, self.attention_norm)
        weights = {
            "own": self.attention.weights(
                read, masks=around.masks, rotation=around.rotation, bias=around.bias
            )
        }
        if self.architecture.cross:
            attended = self.attention(read, None, around.masks, around.rotation, around.bias)
            hidden = self._add(hidden, attended, self.attention_norm)
            read = self._read(hidden, self.cross_attention_norm)
            weights["cross"] = self.cross_attention.weights(read, around.source, around.source_masks)
        return weights

    def _feed_forward(self, hidden: Array, train: bool = False) -> Array:
        change = self.feed_forward(self._read(hidden, self.feed_forward_norm), train=train)
        return self._add(hidden, change, self.feed_forward_norm, train)

    def _read(self, hidden: Array, norm: Norm) -> Array:
        return hidden if self.architecture.post_norm else norm(hidden)

    def _add(self, hidden: Array, change: Array, norm: Norm, train: bool = False) -> Array:
        added = hidden + self.drop(change, train=train)
        return norm(added) if self.architecture.post_norm else added


def check_fields(model: Any) -> None:
    """Refuses a transformer's fields, as the models name them, that are impossible.

    Raises:
        UsageError: naming the first of them.
    """
    sizes = ("vocabulary_size", "context_length", "num_heads", "embedding_size", "feed_forward_size")
    check_sizes(**{name: (size,) for name in sizes if (size := getattr(model, name, None)) is not None})
    check_sizes(num_layers=(model.num_layers,))
    check_dropout(model.dropout)
    check_kv_heads(model.num_heads, getattr(model, "num_kv_heads", None))
    if getattr(model, "head_size", None) is None and model.embedding_size % model.num_heads:
        raise UsageError(
            f"embedding_size is {model.embedding_size}, which {model.num_heads} heads can't share evenly"
        )
    if model.activation not in ACTIVATIONS:
        raise unknown("activation", model.activation, ACTIVATIONS)
    if model.norm_epsilon <= 0:
        raise UsageError(f"norm_epsilon is {model.norm_epsilon}; it must be positive")
    if model.attention_block < 0:
        raise UsageError(f"attention_block is {model.attention_block}; it must be 0 (all at once) or more")


def check_context(tokens: Integer[Array, "batch time"], context_length: int) -> None:
    """Refuses texts longer than what a model can see.

    Raises:
        UsageError: saying by how much.
    """
    if tokens.shape[1] > context_length:
        raise UsageError(
            f"a text of {tokens.shape[1]} tokens is longer than the model's context of {context_length}; cut it"
        )
