"""Convolution and pooling in the forms that are fast on CPUs as well; elsewhere XLA's own convolution."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Below this many input channels XLA's own convolution is the faster one on CPUs, too.
_MIN_PATCH_CHANNELS = 8


def convolve(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    strides: Any,
    padding: Any,
    **options: Any,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves with stride 1 and no padding; a `conv_general_dilated` for `flax.linen.Conv`.

    On CPUs the patches are laid side by side and multiplied by the kernel as a matrix, which XLA does faster
    than the convolution itself, forwards, backwards, and above all inside of a scan.
    """

    def native(inputs: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, **options)

    if kernel.shape[2] < _MIN_PATCH_CHANNELS:
        return native(inputs, kernel)
    return jax.lax.platform_dependent(inputs, kernel, cpu=_convolve_patches, default=native)


def _convolve_patches(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
) -> Float[Array, "batch out_height out_width features"]:
    rows, columns, channels, features = kernel.shape
    height, width = inputs.shape[1] - rows + 1, inputs.shape[2] - columns + 1
    patches = jnp.concatenate(
        [inputs[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)], axis=-1
    )
    return patches @ kernel.reshape(rows * columns * channels, features)


def max_pool(
    inputs: Float[Array, "batch height width channels"],
) -> Float[Array, "batch pooled_height pooled_width channels"]:
    """Takes the maximum of each 2 x 2 square, stride 2; an odd last row or column is dropped.

    What `flax.linen.max_pool(inputs, (2, 2), (2, 2))` gives, its gradient too: of activations that tie the first
    one, row by row, has it all. On CPUs several times faster.
    """
    return jax.lax.platform_dependent(inputs, cpu=_max_of_corners, default=_reduce_window_max)


def _reduce_window_max(
    inputs: Float[Array, "batch height width channels"],
) -> Float[Array, "batch pooled_height pooled_width channels"]:
    return nn.max_pool(inputs, (2, 2), strides=(2, 2))


@jax.custom_jvp
def _max_of_corners(
    inputs: Float[Array, "batch height width channels"],
) -> Float[Array, "batch pooled_height pooled_width channels"]:
    top_left, top_right, bottom_left, bottom_right = _corners(inputs)
    return jnp.maximum(jnp.maximum(top_left, top_right), jnp.maximum(bottom_left, bottom_right))


@_max_of_corners.defjvp
def _max_of_corners_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (inputs,), (tangent,) = primals, tangents
    pooled = _max_of_corners(inputs)
    batch, rows, columns, channels = pooled.shape
    top_left, top_right, bottom_left, _ = (corner == pooled for corner in _corners(inputs))
    place = jnp.where(top_left, 0, jnp.where(top_right, 1, jnp.where(bottom_left, 2, 3))).astype(jnp.int8)
    # Transposed this is one pass over the gradient of the inputs, with nothing copied in between.
    squares = tangent[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, channels)
    corners = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    return pooled, jnp.where(corners == place[:, :, None, :, None], squares, 0).sum(axis=(2, 4))


def average_pool(
    inputs: Float[Array, "batch height width channels"],
) -> Float[Array, "batch pooled_height pooled_width channels"]:
    """Takes the mean of each 2 x 2 square, stride 2; an odd last row or column is dropped."""
    return jax.lax.platform_dependent(inputs, cpu=_mean_of_corners, default=_reduce_window_mean)


def _reduce_window_mean(
    inputs: Float[Array, "batch height width channels"],
) -> Float[Array, "batch pooled_height pooled_width channels"]:
    return nn.avg_pool(inputs, (2, 2), strides=(2, 2))


def _mean_of_corners(
    inputs: Float[Array, "batch height width channels"],
) -> Float[Array, "batch pooled_height pooled_width channels"]:
    top_left, top_right, bottom_left, bottom_right = _corners(inputs)
    return ((top_left + top_right) + (bottom_left + bottom_right)) / 4


def _corners(
    inputs: Float[Array, "batch height width channels"],
) -> list[Float[Array, "batch pooled_height pooled_width channels"]]:
    """Takes the four elements of every square: views of one reshape, so the gradient is a reshape, too."""
    batch, height, width, channels = inputs.shape
    rows, columns = height // 2, width // 2
    squares = inputs[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, channels)
    return [squares[:, :, i, :, j] for i in range(2) for j in range(2)]
