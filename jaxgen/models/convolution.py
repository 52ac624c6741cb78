"""Convolution and pooling in the forms that are fast on CPUs as well; elsewhere XLA's own convolution."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float

from jaxgen.models.layers import kernel_init

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# Below this many channels XLA's own convolution is the faster one on CPUs, too.
_MIN_CHANNELS = 8
# Inputs that would take more than this when they are unfolded to tiles or patches are convolved by XLA's own form.
_MOST_UNFOLDED_BYTES = 2**28
# A kernel's gradient adds up products over all places of all images: of more than this at once XLA's CPU backend loses
# what it has in the cache, and most of its speed.
_MOST_PLACES = 2048
# Below this height or width of the output too many of the 2 x 2 tiles would hang over its edge.
_MIN_TILED_SIZE = 4


class Convolution(nn.Module):
    """A convolution with stride 1 and no padding, like `flax.linen.Conv`, and after it, if asked, a pooling.

    Attributes:
        features: channels of the output.
        kernel_size: height and width of the kernel.
        pool: whether the maximum of each 2 x 2 square is taken before the bias is added, which comes to the same.
            What makes only an odd last row or column, which pooling drops, is not computed.
        dtype: to compute in; None is float32. Parameters are float32.
    """

    features: int
    kernel_size: int
    pool: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """Convolves."""
        size = self.kernel_size
        kernel = self.param("kernel", kernel_init, (size, size, inputs.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        if not self.pool:
            return convolve(inputs, kernel) + bias
        height, width = (length - (length - size + 1) % 2 for length in inputs.shape[1:3])
        return max_pool(convolve(inputs[:, :height, :width], kernel)) + bias


def convolve(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    stride: int = 1,
) -> Float[Array, "batch out_height out_width features"]:
    """Convolves without padding: `jax.lax.conv_general_dilated`, in the form that is fast on the platform.

    On CPUs this is matrix multiplications, which XLA does faster than the convolution itself, forwards, backwards,
    and above all inside of a scan: Winograd's minimal filtering for kernels of 3 x 3 in float32 where the output is
    4 x 4 at least, else patches laid side by side. All forms are differentiated by JAX like any other function. With
    a larger stride, or few input channels, XLA's own form is the faster one there, too; with very large inputs it is
    taken for the memory that the others would need.

    Args:
        inputs: of the kernel's height and width at least.
        kernel: of any size.
        stride: rows and columns from one output to the next.
    """
    rows, columns, channels, _ = kernel.shape
    smallest = min(inputs.shape[1] - rows + 1, inputs.shape[2] - columns + 1)
    tiled = (rows, columns) == (3, 3) and smallest >= _MIN_TILED_SIZE and inputs.dtype == jnp.float32
    # Tiles of 4 x 4 overlap by two: each input lies in four of them.
    unfolded = (4 if tiled else rows * columns) * inputs.size * inputs.dtype.itemsize
    if stride > 1 or channels < _MIN_CHANNELS or unfolded > _MOST_UNFOLDED_BYTES:
        return _convolve_plainly(inputs, kernel, stride)
    fast = _convolve_winograd if tiled else _convolve_patches
    return lax.platform_dependent(inputs, kernel, cpu=fast, default=_convolve_plainly)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_padded(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    stride: int = 1,
) -> Float[Array, "batch out_height out_width features"]:
    """Makes images a `stride`-th as high and wide, or as large as they were, with zeros around.

    Meant for what is differentiated outside of loops, in which XLA's CPU backend is slow: there `convolve` is better.
    Reverse mode alone, of any order.

    Args:
        inputs: images of a height and width that `stride` divides.
        kernel: as large as the stride at least; the zeros go as far as it hangs over.
        stride: rows and columns from one output to the next.
    """
    return convolve(_surrounded(inputs, kernel, stride), kernel, stride)


def _padded_forwards(inputs: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return convolve_padded(inputs, kernel, stride), (inputs, kernel)


def _padded_backwards(stride: int, kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    inputs, kernel = kept

    def of_inputs(inputs: Array) -> Array:
        return convolve(_surrounded(inputs, kernel, stride), kernel, stride)

    def of_kernel(inputs: Array, cotangent: Array) -> Array:
        around = _surrounded(inputs, kernel, stride)
        return jax.vjp(lambda kernel: _convolve_plainly(around, kernel, stride), kernel)[1](cotangent)[0]

    def in_parts(inputs: Array, cotangent: Array) -> Array:
        batch, height, width, _ = cotangent.shape
        count = max(1, min(batch, -(-batch * height * width // _MOST_PLACES)))
        parts = zip(jnp.array_split(inputs, count), jnp.array_split(cotangent, count), strict=True)
        return functools.reduce(jnp.add, (of_kernel(*part) for part in parts))

    (by_inputs,) = jax.vjp(of_inputs, inputs)[1](cotangent)
    return by_inputs, lax.platform_dependent(inputs, cotangent, cpu=in_parts, default=of_kernel)


convolve_padded.defvjp(_padded_forwards, _padded_backwards)


def _surrounded(inputs: Array, kernel: Array, stride: int) -> Array:
    around = [_around(size, stride, (size - stride) // 2) for size in kernel.shape[:2]]
    return jnp.pad(inputs, ((0, 0), *around, (0, 0)))


def _around(size: int, stride: int, before: int) -> tuple[int, int]:
    return before, size - stride - before


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_transposed(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    stride: int = 2,
) -> Float[Array, "batch out_height out_width features"]:
    """Makes images `stride` times as high and wide: `jax.lax.conv_transpose` with the padding "SAME".

    It is the transpose of a strided convolution, and its derivatives are written as that convolution and its
    derivatives: what JAX derives is the same, but XLA's CPU backend takes many times as long for the kernel's gradient
    in that form. Reverse mode alone, of any order.

    Args:
        inputs: images.
        kernel: as `jax.lax.conv_transpose` takes it: not mirrored, input channels before output channels.
        stride: rows and columns of the output for one of the input.
    """
    return lax.conv_transpose(inputs, kernel, (stride, stride), "SAME", dimension_numbers=_LAYOUT)


def _transposed_forwards(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    stride: int,
) -> tuple[Array, tuple[Array, Array]]:
    return convolve_transposed(inputs, kernel, stride), (inputs, kernel)


def _transposed_backwards(stride: int, kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    inputs, kernel = kept

    def mirrored(kernel: Array) -> Array:
        around = [_around(size, stride, _same_offset(size, stride)) for size in kernel.shape[:2]]
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        return lax.conv_general_dilated(
            cotangent, turned, (stride, stride), around, dimension_numbers=_LAYOUT
        )

    of_inputs, pull = jax.vjp(mirrored, kernel)
    return of_inputs, pull(inputs)[0]


convolve_transposed.defvjp(_transposed_forwards, _transposed_backwards)


def _convolve_plainly(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel_height kernel_width channels features"],
    stride: int = 1,
) -> Float[Array, "batch out_height out_width features"]:
    return lax.conv_general_dilated(inputs, kernel, (stride, stride), "VALID", dimension_numbers=_LAYOUT)


def _same_offset(size: int, stride: int) -> int:
    """Gives where `lax.conv_transpose` begins to cut the whole result with the padding "SAME"."""
    before = size - 1 if stride > size - 1 else -(-(size + stride - 2) // 2)
    return size - 1 - before


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


def _convolve_winograd(
    inputs: Float[Array, "batch height width channels"],
    kernel: Float[Array, "3 3 channels features"],
) -> Float[Array, "batch out_height out_width features"]:
    """Makes 2 x 2 outputs from 4 x 4 inputs with 16 multiplications in place of 36 (Lavin & Gray 2015, section 4.1)."""
    batch, height, width, channels = inputs.shape
    features = kernel.shape[-1]
    inputs = jnp.pad(inputs, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    # The sixteen products are computed as four batches of four: these run beside each other on several cores.
    down, across = (inputs.shape[1] - 2) // 2, (inputs.shape[2] - 2) // 2
    tiles = _to_tiles(jnp.stack(_to_tiles(inputs, axis=1)), axis=3)
    kernels = _to_kernels(jnp.stack(_to_kernels(kernel, axis=0)), axis=1)
    products = [
        (rows.reshape(4, batch * down * across, channels) @ matrices).reshape(*rows.shape[:-1], features)
        for rows, matrices in zip(tiles, kernels, strict=True)
    ]
    columns = [_from_tiles(_unstack(part)) for part in _from_tiles(products)]
    rows = [jnp.stack([left, right], axis=3) for left, right in zip(*columns, strict=True)]
    outputs = jnp.stack(rows, axis=2)  # [batch, tiles down, 2, tiles across, 2, features]
    return outputs.reshape(batch, 2 * down, 2 * across, features)[:, : height - 2, : width - 2]


def _to_tiles(inputs: Array, axis: int) -> list[Array]:
    """Turns 2 n + 2 rows along an axis into n tiles, two rows apart, of four, and transforms each tile.

    Splits and stacks are each other's derivatives; those of slices would be padding, which is slow on CPUs.
    """
    shape, count = inputs.shape, inputs.shape[axis] // 2 - 1
    even, odd = _unstack(inputs.reshape(*shape[:axis], count + 1, 2, *shape[axis + 1 :]), axis + 1)
    first, second = (lax.split(part, (count, 1), axis)[0] for part in (even, odd))
    third, fourth = (lax.split(part, (1, count), axis)[1] for part in (even, odd))
    return [first - third, second + third, third - second, second - fourth]


def _to_kernels(kernel: Array, axis: int) -> list[Array]:
    """Transforms the three taps of a kernel along an axis."""
    first, second, third = _unstack(kernel, axis)
    outer = (first + third) / 2
    return [first, outer + second / 2, outer - second / 2, third]


def _from_tiles(products: Sequence[Array]) -> tuple[Array, Array]:
    """Transforms four products back to two outputs."""
    first, second, third, fourth = products
    return first + second + third, second - third - fourth


def _unstack(stacked: Array, axis: int = 0) -> list[Array]:
    return [jnp.squeeze(part, axis) for part in lax.split(stacked, (1,) * stacked.shape[axis], axis)]


def max_pool(
    inputs: Float[Array, "batch height width channels"],
) -> Float[Array, "batch pooled_height pooled_width channels"]:
    """Takes the maximum of each 2 x 2 square, stride 2; an odd last row or column is dropped.

    What `flax.linen.max_pool(inputs, (2, 2), (2, 2))` gives, its gradient too: of activations that tie the first
    one, row by row, has it all. On CPUs several times faster.
    """
    return lax.platform_dependent(inputs, cpu=_max_of_corners, default=_reduce_window_max)


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
    return lax.platform_dependent(inputs, cpu=_mean_of_corners, default=_reduce_window_mean)


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
