"""Augmentation of images on the device: pure functions of a key an example and float images, in training alone.

Everything that moves pixels (shift, rotation, scale, elastic, crop, flip) becomes one field of coordinates to read
the image at, and one interpolation: nothing is blurred twice.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray

Images = Float[Array, "batch height width channels"]
AnyImages = Float[AnyArray, "batch height width channels"]

# What each example's key is folded with: one transformation more leaves the draws of the others as they were.
_PLACEMENT, _ELASTIC, _MIXUP, _DIFFERENTIABLE = range(4)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images that leave their labels true. All are off by default.

    Calling it changes images; mixup, which changes labels as well, is for the task: see `mixup_shares`.

    Raises:
        UsageError: when it is made, for values out of range.
    """

    shift: float = 0.0
    """Furthest shift, in pixels: down or up and right or left, evenly distributed."""
    rotation: float = 0.0
    """Largest angle, in degrees, to either side."""
    scale: float = 0.0
    """Largest part by which the image grows or shrinks: 0.1 for factors from 0.9 to 1.1."""
    elastic: float = 0.0
    """Root mean square of a smooth random displacement of each pixel, in pixels, downwards and to the right each
    (Simard et al. 2003; theirs is about 1.3)."""
    smoothness: float = 4.0
    """Standard deviation, in pixels, of the Gaussian that smooths the elastic displacement."""
    crop: int = 0
    """Random crop of the image with so many pixels of padding on each side: a shift by whole pixels."""
    flip: bool = False
    """Mirror half of the images, left to right. Not for digits and letters."""
    cutout: int = 0
    """Side of a square, in pixels, that is blotted out at a random place, partly outside perhaps (DeVries &
    Taylor 2017)."""
    mixup: float = 0.0
    """Alpha of mixup (Zhang et al. 2018): each image is mixed with another one, and its label too, in shares
    that follow Beta(alpha, alpha)."""
    fill: Literal["background", "edge"] = "background"
    """What comes in from outside: the low end of the pixel range, or what lies at the image's edge."""

    def __post_init__(self) -> None:
        """Refuses what can't be meant, before anything is computed."""
        for name in ("shift", "elastic", "crop", "cutout", "mixup"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0")
        _require(0 <= self.rotation <= 180, "rotation", self.rotation, "between 0 and 180 degrees")
        _require(0 <= self.scale < 1, "scale", self.scale, "at least 0 and below 1")
        _require(0.5 <= self.smoothness < math.inf, "smoothness", self.smoothness, "at least 0.5 pixels")
        _require(self.fill in ("background", "edge"), "fill", self.fill, "background or edge")

    def __call__(self, rngs: Key[Array, " batch"], images: AnyImages, *, background: float = 0.0) -> Images:
        """Gives the images changed, each by its own key, in all ways that are on but mixup.

        Args:
            rngs: one key an example, such as `Context.example_rngs()`.
            images: any floats.
            background: the value that stands for nothing, the low end of the pixel range.
        """
        images = jnp.asarray(images)
        height, width = images.shape[1:3]
        draws = jax.vmap(lambda rng: jax.random.uniform(jax.random.fold_in(rng, _PLACEMENT), (9,)))(rngs)
        if any((self.shift, self.rotation, self.scale, self.elastic, self.crop, self.flip)):
            coordinates = source_coordinates(self._placement(draws), height, width)
            if self.elastic:
                noise = elastic_noise(rngs, height, width, self.smoothness)
                coordinates -= self.elastic * smooth_field(noise, height, width, self.smoothness)
            images = resample(images, coordinates, None if self.fill == "edge" else background)
        if self.cutout:
            centres = jnp.floor(draws[:, 7:9] * jnp.array([height, width])).astype(jnp.int32)
            images = cut_out(images, centres, self.cutout, background)
        return images

    def _placement(self, draws: Float[Array, "batch 9"]) -> "Placement":
        either = 2 * draws - 1
        whole = jnp.floor(draws[:, 4:6] * (2 * self.crop + 1)) - self.crop
        return Placement(
            shift=self.shift * either[:, 0:2] + whole,
            angle=math.radians(self.rotation) * either[:, 2],
            scale=1 + self.scale * either[:, 3],
            flip=(draws[:, 6] < 0.5) & self.flip,
        )


@dataclass(frozen=True)
class DifferentiableAugmentation:
    """Random changes of all that a discriminator sees, real and made, in both players' turns (Zhao et al. 2020).

    Sets of a few thousand images it would else learn by heart. All are off by default; gradients go through.

    Raises:
        UsageError: when it is made, for values out of range.
    """

    translation: float = 0.0
    """Furthest shift, as a part of the height and width: 0.125 in the paper."""
    cutout: float = 0.0
    """Side of a square that is blotted out, as a part of the height and width: 0.5 in the paper."""
    brightness: float = 0.0
    """Furthest change of all pixels, whose range is 2: 0.5 in the paper."""

    def __post_init__(self) -> None:
        """Refuses what can't be meant, before anything is computed."""
        for name in ("translation", "cutout", "brightness"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")

    def __call__(self, rngs: Key[Array, " batch"], images: AnyImages, *, background: float = 0.0) -> Images:
        """Gives the images changed, each by its own key.

        Args:
            rngs: one key an example.
            images: any floats.
            background: the value that stands for nothing.
        """
        images = jnp.asarray(images)
        draws = jax.vmap(lambda rng: jax.random.uniform(jax.random.fold_in(rng, _DIFFERENTIABLE), (5,)))(rngs)
        sizes = images.shape[1:3]
        if self.brightness:
            images += self.brightness * (2 * draws[:, 0] - 1)[:, None, None, None]
        if self.translation:
            rows, columns = (
                _shift_matrices(draws[:, 1 + axis], size, self.translation) for axis, size in enumerate(sizes)
            )
            # Products with matrices of zeros and ones: gathering has a slow derivative on CPUs.
            images = jnp.einsum("bij,bjkc,blk->bilc", rows, images - background, columns) + background
        if self.cutout:
            centres = jnp.floor(draws[:, 3:5] * jnp.array(sizes)).astype(jnp.int32)
            images = cut_out(images, centres, round(self.cutout * sizes[0]), background)
        return images


def _shift_matrices(draws: Float[Array, " batch"], size: int, part: float) -> Float[Array, "batch size size"]:
    """Makes of evenly distributed numbers the matrices that shift by as many whole pixels to either side."""
    most = round(part * size)
    shifts = jnp.floor(draws * (2 * most + 1)) - most
    places = jnp.arange(size)
    return (places[:, None] - places == shifts[:, None, None]).astype(jnp.float32)


class Placement(NamedTuple):
    """Where an image comes to lie: it is mirrored, then turned and scaled about its centre, then shifted.

    Attributes:
        shift: float32 [batch, 2], downwards and to the right, in pixels.
        angle: float32 [batch], anticlockwise as one sees it, in radians.
        scale: float32 [batch], above 1 for growth.
        flip: bool [batch], whether it is mirrored left to right.
    """

    shift: Float[Array, "batch 2"]
    angle: Float[Array, " batch"]
    scale: Float[Array, " batch"]
    flip: Bool[Array, " batch"]


def source_coordinates(placement: Placement, height: int, width: int) -> Float[Array, "batch 2 height width"]:
    """Gives, for each pixel of the result, the row and column of the image that it shows."""
    rows = (
        jnp.arange(height, dtype=jnp.float32)[:, None] - placement.shift[:, 0, None, None] - (height - 1) / 2
    )
    columns = jnp.arange(width, dtype=jnp.float32) - placement.shift[:, 1, None, None] - (width - 1) / 2
    cosine = (jnp.cos(placement.angle) / placement.scale)[:, None, None]
    sine = (jnp.sin(placement.angle) / placement.scale)[:, None, None]
    mirror = jnp.where(placement.flip, -1.0, 1.0)[:, None, None]
    source_rows = cosine * rows + sine * columns + (height - 1) / 2
    source_columns = mirror * (cosine * columns - sine * rows) + (width - 1) / 2
    return jnp.stack([source_rows, source_columns], axis=1)


def elastic_noise(
    rngs: Key[Array, " batch"], height: int, width: int, smoothness: float
) -> Float[Array, "batch 2 node_rows node_columns"]:
    """Draws what `smooth_field` smooths: evenly distributed, of mean 0 and variance 1, on its grid of nodes."""
    shape = (2, _nodes(height, smoothness).size, _nodes(width, smoothness).size)
    # Drawn flat: XLA's CPU backend takes several times as long for random numbers of a shape with many axes.
    draw = jax.vmap(lambda rng: jax.random.uniform(jax.random.fold_in(rng, _ELASTIC), (math.prod(shape),)))
    return (math.sqrt(12) * (draw(rngs) - 0.5)).reshape(-1, *shape)


def smooth_field(
    noise: Float[AnyArray, "batch 2 node_rows node_columns"], height: int, width: int, smoothness: float
) -> Float[Array, "batch 2 height width"]:
    """Smooths noise of variance 1 with a Gaussian, into a field of variance 1 at every pixel.

    As Simard et al. 2003, section 2, but for the grid of the noise: it is one Gaussian's standard deviation wide
    rather than one pixel, and reaches two beyond the image. Gaussians so close together add up to a field whose
    correlations are those of one over all pixels to 1 part in 10,000, for a fifth of the random numbers.
    """
    return jnp.einsum("ir,bkrc,jc->bkij", _smoother(height, smoothness), noise, _smoother(width, smoothness))


def _nodes(size: int, smoothness: float) -> np.ndarray:
    margin = 2 * smoothness
    count = math.ceil((size - 1 + 2 * margin) / smoothness) + 1
    return np.linspace(-margin, size - 1 + margin, count)


def _smoother(size: int, smoothness: float) -> np.ndarray:
    distance = np.arange(size)[:, None] - _nodes(size, smoothness)
    weights = np.exp(-(distance**2) / (2 * smoothness**2))
    # Rows of length 1 keep the variance, near the borders too.
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def resample(
    images: AnyImages,
    coordinates: Float[AnyArray, "batch 2 height width"],
    background: float | None = 0.0,
) -> Images:
    """Reads images at (row, column) coordinates, bilinearly: exactly where these are whole numbers.

    Args:
        images: any floats.
        coordinates: pixel (0, 0) has its centre at 0, 0.
        background: what lies outside of the image; None for what lies at its edge.
    """
    height, width = images.shape[1:3]
    # A border of one pixel, onto which everything further out is clipped.
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = (
        jnp.pad(images, border, mode="edge")
        if background is None
        else jnp.pad(images, border, constant_values=background)
    )
    flat = padded.reshape(images.shape[0], -1, images.shape[3])

    def read(index: Int[Array, "batch height width"]) -> Images:
        # Batched, so that each device reads from its own images.
        return jax.vmap(lambda image, at: image.at[at].get(mode="promise_in_bounds"))(flat, index)

    rows = jnp.clip(coordinates[:, 0] + 1, 0, height + 1)
    columns = jnp.clip(coordinates[:, 1] + 1, 0, width + 1)
    line = width + 2
    top = jnp.minimum(rows.astype(jnp.int32), height)
    left = jnp.minimum(columns.astype(jnp.int32), width)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    corner = top * line + left
    upper = read(corner) * (1 - right) + read(corner + 1) * right
    lower = read(corner + line) * (1 - right) + read(corner + line + 1) * right
    return upper * (1 - down) + lower * down


def cut_out(images: AnyImages, centres: Int[AnyArray, "batch 2"], side: int, background: float) -> Images:
    """Blots out a square around a (row, column) of each image; what lies outside of the image is cut off."""
    inside = [
        (jnp.arange(size) >= first[:, None]) & (jnp.arange(size) < first[:, None] + side)
        for size, first in zip(images.shape[1:3], (centres - side // 2).T, strict=True)
    ]
    square = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return jnp.where(square, background, images)


def mixup_shares(rngs: Key[Array, " batch"], alpha: float) -> Float[Array, " batch"]:
    """Draws the share of each example in its mixture: of Beta(alpha, alpha), the larger side.

    Taking the larger side makes an example's own label the dominant one. Since A mixed with B is as likely as
    B with A, the mixtures are distributed as those of Zhang et al. 2018.
    """
    beta = jax.vmap(lambda rng: jax.random.beta(jax.random.fold_in(rng, _MIXUP), alpha, alpha))(rngs)
    return jnp.maximum(beta, 1 - beta)


def mixup_partners(weights: Shaped[AnyArray, " batch"]) -> Int[Array, " batch"]:
    """Gives the row that each row is mixed with: the next one whose weight isn't 0, after the last the first.

    A row of weight 0 (padding) is its own partner, and no other's. Batches come in random order, so the next
    one is as good as any.
    """
    order = jnp.argsort(weights == 0)  # stable: rows that count, then padding
    count = (weights != 0).sum()
    place = jnp.arange(order.size)
    following = order[jnp.where(place < count, (place + 1) % jnp.maximum(count, 1), place)]
    return jnp.zeros_like(order).at[order].set(following)


def mix(images: AnyImages, partners: Int[AnyArray, " batch"], shares: Float[AnyArray, " batch"]) -> Images:
    """Mixes each image with its partner: share of the one, the rest of the other.

    A row that is its own partner stays as it is, bit for bit.
    """
    images = jnp.asarray(images)
    shares = jnp.where(partners == jnp.arange(partners.size), 1.0, shares)[:, None, None, None]
    return jnp.where(shares == 1, images, shares * images + (1 - shares) * images[partners])


def _require(condition: bool, name: str, value: object, range_: str) -> None:
    if not condition:
        raise UsageError(f"augmentation: {name} is {value}; it must be {range_}")
