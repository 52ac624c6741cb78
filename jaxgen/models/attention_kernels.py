"""Attention by the kernels of accelerators: cuDNN's on NVIDIA GPUs, flash attention in Pallas on TPUs."""

from collections.abc import Callable

import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.models.masks import Masks, seen

Kernel = Callable[[bool, float, Array, Array, Array, Masks], Array]
"""Of causal, scale, query, key, value and masks, as for `jaxgen.models.attention.attend`."""

# Of a TPU's kernel: both lengths are multiples of its blocks, and below this XLA's own form is good enough.
_FLASH_BLOCK, _FLASH_LEAST = 128, 1024
# Of cuDNN's kernel, on all GPUs that have it.
_CUDNN_DEPTH, _CUDNN_MOST_DEPTH = 8, 128


def kernels(query: Array, key: Array) -> dict[str, Kernel]:
    """Gives the kernels that can take queries and keys of these shapes and dtypes, by platform."""
    found: dict[str, Kernel] = {}
    queries, keys, depth = query.shape[1], key.shape[1], query.shape[-1]
    if queries == keys and queries >= _FLASH_LEAST and queries % _FLASH_BLOCK == 0:
        found["tpu"] = _flash
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    even = queries % 2 == keys % 2 == 0
    fits = half and even and depth % _CUDNN_DEPTH == 0 and depth <= _CUDNN_MOST_DEPTH
    # Asked of the process, since JAX doesn't even trace this kernel where cuDNN is missing.
    if fits and "cuda" in jax.extend.backend.get_backend().platform_version:
        found["cuda"] = _cudnn
    return found


def _cudnn(causal: bool, scale: float, query: Array, key: Array, value: Array, masks: Masks) -> Array:
    rows = jnp.arange(query.shape[1])
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=seen(False, Masks(segments=masks.segments), masks.segments, rows, key.shape[1]),
        scale=scale,
        is_causal=causal,
        key_value_seq_lengths=None if masks.lengths is None else masks.lengths.astype(jnp.int32),
        implementation="cudnn",
    )


def _flash(causal: bool, scale: float, query: Array, key: Array, value: Array, masks: Masks) -> Array:
    # Imported where it is traced: Pallas takes a while.
    from jax.experimental.pallas.ops.tpu.flash_attention import SegmentIds, flash_attention

    shared = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(array, shared, axis=2) for array in (key, value))
    segments = None
    if any(mask is not None for mask in masks):
        of_queries = jnp.zeros(query.shape[:2], jnp.int32) if masks.segments is None else masks.segments
        of_keys = of_queries
        if masks.lengths is not None:  # padding is a segment that no query is of
            of_keys = jnp.where(jnp.arange(key.shape[1]) < masks.lengths[:, None], of_queries, -1)
        segments = SegmentIds(of_queries, of_keys)
    heads_first = (jnp.swapaxes(array, 1, 2) for array in (query, key, value))
    attended = flash_attention(*heads_first, segment_ids=segments, causal=causal, sm_scale=scale)
    return jnp.swapaxes(attended, 1, 2)
