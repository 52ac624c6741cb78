"""Attention: to all keys at once, and block by block for long contexts; `jaxgen.models.cache` has that of one query.

Everywhere the queries' heads may be a multiple of the keys': each key's head then serves as many queries' heads, one
after the other (grouped-query attention, Ainslie et al. 2023; multi-query, Shazeer 2019, with one).
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Key

from jaxgen.errors import UsageError
from jaxgen.models.attention_kernels import kernels
from jaxgen.models.layers import Dropout, check_dropout, check_sizes
from jaxgen.models.masks import UNMASKED, Masks, seen
from jaxgen.models.positions import Rotation, rotate

# What scores are where a key isn't seen. Finite: where none is seen, on padding, there would be NaN.
UNSEEN = -1e30


def attend(
    query: Float[Array, "batch queries heads depth"],
    key: Float[Array, "batch keys kv_heads depth"],
    value: Float[Array, "batch keys kv_heads depth"],
    masks: Masks = UNMASKED,
    *,
    causal: bool = False,
    scale: float | None = None,
    bias: Float[Array, "rows heads queries keys"] | None = None,
    block: int = 0,
    dropout: float = 0.0,
    rng: Key[Array, ""] | None = None,
) -> Float[Array, "batch queries heads depth"]:
    """Gives scaled dot-product attention (Vaswani et al. 2017, equation 1), with the softmax in float32.

    On accelerators it is their kernel, where that fits: see `jaxgen.models.attention_kernels`.

    Args:
        query: of any float dtype, the same for all three.
        key: of as many heads, or a divisor of that.
        value: likewise.
        masks: what isn't to be seen.
        causal: whether query i sees no key behind i.
        scale: of the scores; depth^-1/2 by default.
        bias: added to the scores.
        block: queries at a time, whose scores are made again for the gradient, so that memory doesn't grow with the
            square of the length; 0 for all at once.
        dropout: part of the weights that is dropped, where there is an `rng`.
        rng: of dropout; what is dropped depends on `block`.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    told = _Told(causal, scale, dropout if rng is not None else 0.0)
    if block and block < query.shape[1]:
        return _by_blocks(told, block, query, key, value, masks, bias, rng)
    if bias is None and not told.dropout and (found := kernels(query, key)):
        fused = {platform: functools.partial(kernel, causal, scale) for platform, kernel in found.items()}
        plain = functools.partial(_at_once, told)
        return lax.platform_dependent(query, key, value, masks, default=plain, **fused)
    return _at_once(told, query, key, value, masks, bias, rng)


def attention_weights(
    query: Float[Array, "batch queries heads depth"],
    key: Float[Array, "batch keys kv_heads depth"],
    masks: Masks = UNMASKED,
    *,
    causal: bool = False,
    scale: float | None = None,
    bias: Float[Array, "rows heads queries keys"] | None = None,
) -> Float32[Array, "batch heads queries keys"]:
    """Gives what `attend` weighs the values by; the arguments are the same."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    visible = seen(causal, masks, masks.segments, jnp.arange(query.shape[1]), key.shape[1])
    return _weights(scale, query, key, visible, bias)


class _Told(NamedTuple):
    """What is known when it is compiled."""

    causal: bool
    scale: float
    dropout: float


def _at_once(
    told: _Told,
    query: Array,
    key: Array,
    value: Array,
    masks: Masks,
    bias: Array | None = None,
    rng: Array | None = None,
) -> Array:
    visible = seen(told.causal, masks, masks.segments, jnp.arange(query.shape[1]), key.shape[1])
    return _average(told, query, key, value, visible, bias, rng)


def _by_blocks(
    told: _Told,
    block: int,
    query: Array,
    key: Array,
    value: Array,
    masks: Masks,
    bias: Array | None,
    rng: Array | None,
) -> Array:
    """Goes through the queries, some at a time; each sees all keys, so its softmax is whole."""
    batch, time, *rest = query.shape
    count = -(-time // block)

    def cut(array: Array, axis: int) -> Array:
        room = [(0, 0)] * array.ndim
        room[axis] = (0, count * block - time)
        filled = jnp.pad(array, room)
        shape = (*array.shape[:axis], count, block, *array.shape[axis + 1 :])
        return jnp.moveaxis(filled.reshape(shape), axis, 0)

    @jax.checkpoint
    def attend_block(part: dict[str, Array]) -> Array:
        rows = part["number"] * block + jnp.arange(block)
        visible = seen(told.causal, masks, part.get("segments"), rows, key.shape[1])
        own = None if rng is None else jax.random.fold_in(rng, part["number"])
        return _average(told, part["query"], key, value, visible, part.get("bias"), own)

    parts = {"number": jnp.arange(count), "query": cut(query, 1)}
    if masks.segments is not None:
        parts["segments"] = cut(masks.segments, 1)
    if bias is not None:
        parts["bias"] = cut(bias, 2)
    attended = lax.map(attend_block, parts)
    return jnp.moveaxis(attended, 0, 1).reshape(batch, count * block, *rest)[:, :time]


def _weights(
    scale: float, query: Array, key: Array, visible: Array | None, bias: Array | None
) -> Float32[Array, "batch heads queries keys"]:
    batch, queries, heads, depth = query.shape
    grouped = query.reshape(batch, queries, key.shape[2], -1, depth)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, queries, -1) * scale
    if bias is not None:
        scores += bias
    return jax.nn.softmax(scores if visible is None else jnp.where(visible, scores, UNSEEN))


def _average(
    told: _Told,
    query: Array,
    key: Array,
    value: Array,
    visible: Array | None,
    bias: Array | None,
    rng: Array | None,
) -> Float[Array, "batch queries heads depth"]:
    weights = _weights(told.scale, query, key, visible, bias)
    if told.dropout:
        drop = Dropout(told.dropout, parent=None)
        rngs: Any = {"dropout": rng}
        dropped: Any = drop.apply({}, weights, train=True, rngs=rngs)
        weights = dropped
    batch, _, queries, keys = weights.shape
    grouped = weights.astype(value.dtype).reshape(batch, value.shape[2], -1, queries, keys)
    return jnp.einsum("bkgts,bskd->btkgd", grouped, value).reshape(query.shape)


class Projection(nn.Module):
    """A linear layer whose kernel can be had before it is applied, to make several products as one.

    Attributes:
        in_features: width of the inputs.
        out_features: width of the outputs.
        use_bias: whether it has a bias.
        kernel_init: of the kernel [in_features, out_features].
        dtype: to compute in; None is float32. Parameters are float32.
    """

    in_features: int
    out_features: int
    use_bias: bool
    kernel_init: nn.initializers.Initializer
    dtype: Any = None

    def setup(self) -> None:
        """Makes the parameters."""
        self.kernel = self.param(
            "kernel", self.kernel_init, (self.in_features, self.out_features), jnp.float32
        )
        if self.use_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (self.out_features,), jnp.float32)

    def __call__(self, inputs: Float[Array, "*batch in_features"]) -> Float[Array, "*batch out_features"]:
        """Gives inputs times kernel, plus bias."""
        dtype = self.dtype or jnp.float32
        # As one matrix: else CPUs transpose what the kernel's gradient is made of.
        rows = inputs.reshape(-1, self.in_features).astype(dtype)
        outputs = rows @ self.kernel.astype(dtype)
        if self.use_bias:
            outputs += self.bias.astype(dtype)
        return outputs.reshape(*inputs.shape[:-1], self.out_features)


class AttentionInit(NamedTuple):
    """How the kernels of attention begin."""

    query: nn.initializers.Initializer
    key_value: nn.initializers.Initializer
    output: nn.initializers.Initializer


class Attention(nn.Module):
    """Multi-head attention with its projections, to the inputs themselves or to a source.

    Attributes:
        width: of inputs and outputs.
        num_heads: of the queries.
        head_size: depth of each.
        kernel_init: how the kernels begin.
        num_kv_heads: of keys and values, a divisor of `num_heads`; None for as many.
        use_bias: whether the projections have biases.
        causal: whether a token sees none behind it.
        scale: of the scores; None is head_size^-1/2.
        dropout: part of the weights that is dropped in training (rng `dropout`).
        block: queries at a time, see `attend`.
        dtype: to compute in; None is float32. Parameters are float32.

    Raises:
        UsageError: when it is made, for sizes or rates out of range.
    """

    width: int
    num_heads: int
    head_size: int
    kernel_init: AttentionInit
    num_kv_heads: int | None = None
    use_bias: bool = True
    causal: bool = False
    scale: float | None = None
    dropout: float = 0.0
    block: int = 0
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(num_heads=(self.num_heads,), head_size=(self.head_size,))
        check_dropout(self.dropout)
        check_kv_heads(self.num_heads, self.num_kv_heads)
        super().__post_init__()

    def setup(self) -> None:
        """Makes the projections."""
        size, kv_size = (
            heads * self.head_size for heads in (self.num_heads, self.num_kv_heads or self.num_heads)
        )

        def project(inputs: int, outputs: int, init: nn.initializers.Initializer) -> Projection:
            return Projection(inputs, outputs, self.use_bias, init, self.dtype)

        self.query = project(self.width, size, self.kernel_init.query)
        self.key = project(self.width, kv_size, self.kernel_init.key_value)
        self.value = project(self.width, kv_size, self.kernel_init.key_value)
        self.output = project(size, self.width, self.kernel_init.output)

    def __call__(
        self,
        inputs: Float[Array, "batch time width"],
        source: Float[Array, "batch keys width"] | None = None,
        masks: Masks = UNMASKED,
        rotation: Rotation | None = None,
        bias: Float[Array, "rows heads time keys"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch time width"]:
        """Attends.

        Args:
            inputs: what asks.
            source: what is asked; the inputs by default.
            masks: what of it isn't to be seen.
            rotation: of queries and keys, for rotary positions.
            bias: added to the scores, for relative positions.
            train: whether dropout drops.
        """
        query = self.queries(inputs, rotation)
        key, value = self.keys_and_values(inputs if source is None else source, rotation)
        return self.of(query, key, value, masks, bias, train=train)

    def of(
        self,
        query: Float[Array, "batch time heads depth"],
        key: Float[Array, "batch keys kv_heads depth"],
        value: Float[Array, "batch keys kv_heads depth"],
        masks: Masks,
        bias: Float[Array, "rows heads time keys"] | None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch time width"]:
        """Attends with what has been projected before."""
        rng = self.make_rng("dropout") if train and self.dropout else None
        attended = attend(
            query,
            key,
            value,
            masks,
            causal=self.causal,
            scale=self.scale,
            bias=bias,
            block=self.block,
            dropout=self.dropout,
            rng=rng,
        )
        return self.output(attended.reshape(*attended.shape[:2], -1))

    def weights(
        self,
        inputs: Float[Array, "batch time width"],
        source: Float[Array, "batch keys width"] | None = None,
        masks: Masks = UNMASKED,
        rotation: Rotation | None = None,
        bias: Float[Array, "rows heads time keys"] | None = None,
    ) -> Float32[Array, "batch heads time keys"]:
        """Gives the weights that each query gives to the keys; the arguments are those of the call."""
        key, _ = self.keys_and_values(inputs if source is None else source, rotation)
        query = self.queries(inputs, rotation)
        return attention_weights(query, key, masks, causal=self.causal, scale=self.scale, bias=bias)

    def queries(
        self, inputs: Float[Array, "batch time width"], rotation: Rotation | None = None
    ) -> Float[Array, "batch time heads depth"]:
        """Projects the queries of tokens."""
        query = self._heads(self.query(inputs))
        return query if rotation is None else rotate(query, rotation)

    def keys_and_values(
        self, inputs: Float[Array, "batch time width"], rotation: Rotation | None = None
    ) -> tuple[Float[Array, "batch time kv_heads depth"], Float[Array, "batch time kv_heads depth"]]:
        """Projects the keys and values of tokens."""
        key, value = self._heads(self.key(inputs)), self._heads(self.value(inputs))
        return key if rotation is None else rotate(key, rotation), value

    def _heads(self, projected: Array) -> Array:
        return projected.reshape(*projected.shape[:-1], -1, self.head_size)


def check_kv_heads(num_heads: int, num_kv_heads: int | None) -> None:
    """Refuses heads of keys and values that can't be shared evenly."""
    if num_kv_heads is None:
        return
    check_sizes(num_kv_heads=(num_kv_heads,))
    if num_heads % num_kv_heads:
        raise UsageError(
            f"num_kv_heads is {num_kv_heads}, but {num_heads} heads can't be shared evenly; it must be a divisor"
        )
