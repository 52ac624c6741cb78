"""Images in other sizes without a parameter: pixels repeated, and squares of pixels as channels."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def doubled(
    images: Float[Array, "batch height width channels"],
) -> Float[Array, "batch doubled_height doubled_width channels"]:
    """Makes four equal pixels of each."""
    batch, height, width, channels = images.shape
    squares = jnp.broadcast_to(images[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return squares.reshape(batch, 2 * height, 2 * width, channels)


def to_patches(
    images: Float[Array, "batch height width channels"], size: int = 2
) -> Float[Array, "batch rows columns pixels"]:
    """Makes one pixel of `size` x `size`, whose channels are all of theirs (space to depth)."""
    batch, height, width, channels = images.shape
    squares = images.reshape(batch, height // size, size, width // size, size, channels)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // size, width // size, -1)


def from_patches(
    patches: Float[Array, "batch rows columns pixels"], size: int = 2
) -> Float[Array, "batch height width channels"]:
    """Undoes `to_patches` (sub-pixel convolution, Shi et al. 2016, has this after it)."""
    batch, rows, columns, _ = patches.shape
    squares = patches.reshape(batch, rows, columns, size, size, -1)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * size, columns * size, -1)
