"""Layers of adversarial networks: spectral norm, convolutions that resize, self-attention, class embeddings."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, Shaped

from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray
from jaxgen.models.convolution import convolve_padded, convolve_transposed
from jaxgen.models.layers import BatchNorm, kernel_init

_FIRST_ITERATIONS = 15


class SpectralNorm(nn.Module):
    """Divides a kernel by its largest singular value (Miyato et al. 2018, algorithm 1).

    The singular vector (`spectral`) gets one power iteration each time the kernel is used in training, and fifteen
    when it is made. Both singular vectors count as constants in the derivative.
    """

    @nn.compact
    def __call__(self, kernel: Float[Array, "*inputs features"], *, train: bool) -> Float[Array, "..."]:
        """Gives the kernel, as a matrix of all its inputs by its outputs, with a spectral norm of one."""
        matrix = kernel.reshape(-1, kernel.shape[-1])
        fixed = lax.stop_gradient(matrix)

        def start() -> Array:
            drawn = jax.random.normal(self.make_rng("params"), (matrix.shape[-1],))
            return _power_iteration(fixed, drawn, _FIRST_ITERATIONS)

        kept = self.variable("spectral", "right", start)
        right = kept.value
        if train and not self.is_initializing():
            right = kept.value = _power_iteration(fixed, right, 1)
        left = _unit(fixed @ right)
        return kernel / (left @ matrix @ right)


def _power_iteration(matrix: Array, right: Array, count: int) -> Array:
    for _ in range(count):
        right = _unit(matrix.T @ (matrix @ right))
    return right


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)


class Dense(nn.Module):
    """A dense layer, like `flax.linen.Dense`, perhaps with spectral norm.

    Attributes:
        features: of the output.
        spectral_norm: whether the kernel is used with a spectral norm of one.
        bias: whether there is one.
    """

    features: int
    spectral_norm: bool = False
    bias: bool = True

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "*batch width"], *, train: bool
    ) -> Float[Array, "*batch features"]:
        """Multiplies."""
        kernel = self.param("kernel", kernel_init, (inputs.shape[-1], self.features), jnp.float32)
        if self.spectral_norm:
            kernel = SpectralNorm(name="norm")(kernel, train=train)
        outputs = inputs @ kernel
        if not self.bias:
            return outputs
        return outputs + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)


class ImageConvolution(nn.Module):
    """A convolution that keeps, doubles or halves an image's height and width.

    Attributes:
        features: channels of the output.
        kernel_size: height and width of the kernel.
        resize: `keep`, `double` (transposed, stride 2) or `halve` (stride 2).
        spectral_norm: whether the kernel is used with a spectral norm of one.
    """

    features: int
    kernel_size: int
    resize: str = "keep"
    spectral_norm: bool = False

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Convolves, with zeros around."""
        size = self.kernel_size
        kernel = self.param("kernel", kernel_init, (size, size, inputs.shape[-1], self.features), jnp.float32)
        if self.spectral_norm:
            kernel = SpectralNorm(name="norm")(kernel, train=train)
        if self.resize == "double":
            outputs = convolve_transposed(inputs, kernel)
        else:
            outputs = convolve_padded(inputs, kernel, 2 if self.resize == "halve" else 1)
        return outputs + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)


class ClassEmbedding(nn.Module):
    """A vector of each class.

    Attributes:
        num_classes: how many there are.
        features: of a vector.
        kernel_init: what vectors start as.
        spectral_norm: whether the table is used with a spectral norm of one.
    """

    num_classes: int
    features: int
    kernel_init: Any = kernel_init
    spectral_norm: bool = False

    @nn.compact
    def __call__(
        self, labels: Int32[AnyArray, " batch"] | None, *, train: bool
    ) -> Float[Array, "batch features"]:
        """Looks up; by a product, whose derivative is one too.

        Raises:
            UsageError: where labels are missing.
        """
        if labels is None:
            raise UsageError(f"there are {self.num_classes} classes to choose from: give labels")
        table = self.param("embedding", self.kernel_init, (self.num_classes, self.features), jnp.float32)
        if self.spectral_norm:
            table = SpectralNorm(name="norm")(table, train=train)
        return jax.nn.one_hot(labels, self.num_classes) @ table


class ConditionalBatchNorm(nn.Module):
    """Batch norm, and where labels are given a scale and shift of each class after it (de Vries et al. 2017).

    Attributes:
        num_classes: for which there are scales and shifts; 0 for batch norm alone.
        axis_name: see `jaxgen.models.layers.BatchNorm`.
    """

    num_classes: int = 0
    axis_name: str | tuple[str, ...] | None = None

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "batch height width channels"],
        labels: Int32[AnyArray, " batch"] | None,
        *,
        train: bool,
        mask: Shaped[AnyArray, " batch"] | None,
    ) -> Float[Array, "batch height width channels"]:
        """Normalises."""
        outputs = BatchNorm(axis_name=self.axis_name, name="norm")(inputs, train=train, mask=mask)
        if not self.num_classes:
            return outputs
        zeros = nn.initializers.zeros
        channels = inputs.shape[-1]
        scale, shift = (
            ClassEmbedding(self.num_classes, channels, zeros, name=name)(labels, train=train)[:, None, None]
            for name in ("scale", "shift")
        )
        return outputs * (1 + scale) + shift


class SelfAttention(nn.Module):
    """Adds to each position what it reads of all others (Zhang et al. 2019, SAGAN, equations 1 to 3).

    Attributes:
        spectral_norm: whether the kernels are used with a spectral norm of one.
    """

    spectral_norm: bool = False

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch height width channels"]:
        """Attends; at first, with its factor at zero, it gives the inputs."""
        batch, height, width, channels = inputs.shape
        flat = inputs.reshape(batch, height * width, channels)

        def projected(features: int, name: str, values: Array) -> Array:
            return Dense(features, self.spectral_norm, bias=False, name=name)(values, train=train)

        narrow = max(1, channels // 8)
        query, key = (projected(narrow, name, flat) for name in ("query", "key"))
        value = projected(max(1, channels // 2), "value", flat)
        attention = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", query, key), axis=-1)
        read = projected(channels, "output", attention @ value)
        factor = self.param("factor", nn.initializers.zeros, (), jnp.float32)
        return inputs + factor * read.reshape(inputs.shape)


def check_image_size(size: Sequence[int], stages: int, what: str) -> None:
    """Refuses images that can't be halved so many times, down to 2 x 2 at least; says which can.

    Args:
        size: height and width.
        stages: how often the height and width are doubled, or halved.
        what: whose stages they are.
    """
    if stages < 1:
        raise UsageError(f"a {what} needs channels of at least one stage")
    unit = 2**stages
    height, width = size
    if height == width and height % unit == 0 and height >= 2 * unit:
        return
    low = max(2 * unit, height // unit * unit)
    near = sorted({low, low + unit})
    raise UsageError(
        f"a {what} of {stages} stages can't have images of {height} x {width}: possible are squares of "
        f"{2 * unit}, {3 * unit}, {4 * unit} and so on, such as --image-size {' or '.join(map(str, near))}"
    )
