"""The U-Net of diffusion models: from noisy images and their times to what the task predicts, of the same shape."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from jaxgen.errors import UsageError
from jaxgen.models.attention import attend
from jaxgen.models.convolution import average_pool, convolve_padded
from jaxgen.models.layers import check_dropout, check_sizes, dtype_name
from jaxgen.models.pixels import doubled, from_patches, to_patches
from jaxgen.models.positions import sinusoidal

Images = Float[Array, "batch height width channels"]
Hidden = Float[Array, "batch rows columns features"]
Changed = Float[Array, "batch new_rows new_columns new_features"]

# The time goes from 0 to 1; the sines and cosines that tell it were made for as many steps (Ho et al. 2020).
_TIME_SCALE = 1000.0

# As in ADM: what leads back into the residual stream begins at zero, so that every block begins as the identity.
_kernel_init = nn.initializers.lecun_normal()
_zeros = nn.initializers.zeros


class UNet(nn.Module):
    """Residual blocks at falling, then at rising resolutions, with additive skip connections.

    Ho et al. 2020, appendix B, and Dhariwal & Nichol 2021 (ADM), section 3: group norm, SiLU, the time and class as
    scale and shift of each block's second norm. Made cheap for CPUs: pixels come and leave as squares of
    `patch_size` x `patch_size`, skip connections are added rather than concatenated (over the square root of 2, Saharia
    et al. 2022, appendix B), and images are halved by averages and doubled by repetition. `flops` says what an image
    takes.

    Attributes:
        channels: one number a resolution, each half as high and wide as the one before.
        blocks: residual blocks of two convolutions at each resolution, on the way down and again on the way up.
        patch_size: height and width of the squares of pixels that are one place at the first resolution.
        heads: of self-attention at the lowest resolution; 0 for none.
        num_classes: classes that labels tell; 0 where there are no labels. The label `num_classes` stands for none
            (the null class of classifier-free guidance).
        groups: of group norm; a divisor of all channels.
        dropout: part of the activations before each block's second convolution that is dropped in training.
        dtype: to compute in, by name or as a dtype; None is float32. Parameters and outputs are float32.

    Raises:
        UsageError: when it is made, for sizes that don't fit each other; when it is called, for images that can't be
            halved so often, and says which can.
    """

    channels: Sequence[int] = (64, 128)
    blocks: int = 1
    patch_size: int = 2
    heads: int = 4
    num_classes: int = 0
    groups: int = 8
    dropout: float = 0.0
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(
            channels=self.channels,
            blocks=(self.blocks,),
            patch_size=(self.patch_size,),
            groups=(self.groups,),
        )
        check_dropout(self.dropout)
        if self.heads < 0 or self.num_classes < 0:
            raise UsageError(f"heads and num_classes can't be negative, not {self.heads}, {self.num_classes}")
        if not self.channels:
            raise UsageError("channels needs one number for each resolution")
        if wrong := [width for width in self.channels if width % self.groups]:
            raise UsageError(f"channels {wrong[0]} can't be cut into {self.groups} groups for group norm")
        if self.heads and self.channels[-1] % self.heads:
            raise UsageError(
                f"channels {self.channels[-1]} can't be cut into {self.heads} heads of attention"
            )
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Images,
        times: Float[Array, " batch"],
        labels: Int32[Array, " batch"] | None = None,
        *,
        train: bool = False,
    ) -> Images:
        """Gives float32 predictions of the inputs' shape.

        Args:
            inputs: noisy images, of standard deviation about 1.
            times: how noisy they are, from 0 (not at all) to 1.
            labels: class numbers, `num_classes` where there is none to tell; None where the net has no classes.
            train: whether dropout drops (rng `dropout`).
        """
        self.check_image_size(*inputs.shape[1:3])
        dtype = self.dtype or jnp.float32
        told = self._tell(times, labels).astype(dtype)
        last = len(self.channels) - 1
        hidden = to_patches(inputs.astype(dtype), self.patch_size)
        hidden = _Convolution(self.channels[0], name="first")(hidden)
        skips = []
        for level, features in enumerate(self.channels):
            for index in range(self.blocks):
                hidden = self._block(features, f"down_{level}_{index}")(hidden, told, train)
            if level < last:
                skips.append(hidden)
                hidden = average_pool(hidden)
        if self.heads:
            hidden = _SelfAttention(self.heads, self.groups, name="attention")(hidden)
        for level, features in reversed(list(enumerate(self.channels))):
            if level < last:
                # Projected before it is doubled: a quarter of the work.
                hidden = nn.Dense(features, dtype=dtype, name=f"up_{level}")(hidden)
                hidden = (doubled(hidden) + skips[level]) / math.sqrt(2)
            for index in range(self.blocks):
                hidden = self._block(features, f"up_{level}_{index}")(hidden, told, train)
        hidden = nn.silu(_GroupNorm(self.groups, name="last_norm")(hidden))
        outputs = _Convolution(self.patch_size**2 * inputs.shape[-1], _zeros, name="last")(hidden)
        return from_patches(outputs, self.patch_size).astype(jnp.float32)

    def _block(self, features: int, name: str) -> "_ResidualBlock":
        return _ResidualBlock(features, self.groups, self.dropout, name=name)

    def _tell(
        self, times: Float[Array, " batch"], labels: Int32[Array, " batch"] | None
    ) -> Float[Array, "batch told"]:
        """Makes one vector of the time and the class."""
        width = 4 * self.channels[0]
        told = nn.Dense(width, name="time")(sinusoidal(_TIME_SCALE * times, 2 * self.channels[0]))
        if self.num_classes:
            if labels is None:
                raise UsageError(f"a net of {self.num_classes} classes needs labels")
            # As large as what tells the time: the usual beginning is so small that classes are learnt late.
            embedding_init = nn.initializers.normal(1.0)
            told += nn.Embed(self.num_classes + 1, width, embedding_init=embedding_init, name="classes")(
                labels
            )
        elif labels is not None:
            raise UsageError("labels for a net that has no classes: give it num_classes")
        return nn.silu(nn.Dense(width, name="told")(nn.silu(told)))

    def check_image_size(self, height: int, width: int) -> None:
        """Refuses images that can't be cut into patches and halved at every resolution.

        Raises:
            UsageError: which says what sizes can.
        """
        unit = self.patch_size * 2 ** (len(self.channels) - 1)
        if height % unit or width % unit:
            nearest = " x ".join(str(max(unit, round(size / unit) * unit)) for size in (height, width))
            raise UsageError(
                f"images of {height} x {width} don't fit a U-Net of {len(self.channels)} resolutions with patches of "
                f"{self.patch_size}: height and width must be multiples of {unit}, such as {nearest}"
            )

    def flops(self, image_shape: tuple[int, int, int]) -> int:
        """Counts the multiplications and additions of one image forwards, in convolutions, dense layers and attention.

        As they are written down: Winograd's form of the convolutions takes 16 for every 36. A training step takes three
        times as many.
        """
        total = 0

        def count(call: Any, arguments: Any, options: Any, context: Any) -> Any:
            nonlocal total
            outputs, layer = call(*arguments, **options), context.module
            if context.method_name == "__call__" and isinstance(layer, nn.Dense | _Convolution):
                area = 9 if isinstance(layer, _Convolution) else 1
                total += 2 * area * arguments[0].shape[-1] * outputs.size
            elif isinstance(layer, _SelfAttention):  # scores and averages
                total += 4 * math.prod(outputs.shape[1:3]) * outputs.size
            return outputs

        def apply(inputs: Array, times: Array, labels: Array | None) -> Array:
            with nn.intercept_methods(count):
                return self.init_with_output(jax.random.key(0), inputs, times, labels)[0]

        labels = jax.ShapeDtypeStruct((1,), jnp.int32) if self.num_classes else None
        inputs = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(apply, inputs, jax.ShapeDtypeStruct((1,), jnp.float32), labels)
        return total


class _ResidualBlock(nn.Module):
    """Norm, SiLU, convolution; norm with scale and shift by what is told, SiLU, convolution; plus the inputs."""

    features: int
    groups: int
    dropout: float

    @nn.compact
    def __call__(self, inputs: Hidden, told: Float[Array, "batch told"], train: bool) -> Changed:
        hidden = nn.silu(_GroupNorm(self.groups, name="norm_0")(inputs))
        hidden = _Convolution(self.features, name="conv_0")(hidden)
        modulation = nn.Dense(2 * self.features, dtype=told.dtype, kernel_init=_zeros, name="told")(told)
        hidden = nn.silu(_GroupNorm(self.groups, name="norm_1")(hidden, modulation))
        if self.dropout:
            hidden = nn.Dropout(self.dropout)(hidden, deterministic=not train)
        hidden = _Convolution(self.features, _zeros, name="conv_1")(hidden)
        if inputs.shape[-1] != self.features:
            inputs = nn.Dense(self.features, dtype=inputs.dtype, name="shortcut")(inputs)
        return inputs + hidden


class _SelfAttention(nn.Module):
    """Self-attention over all places, plus the inputs."""

    heads: int
    groups: int

    @nn.compact
    def __call__(self, inputs: Hidden) -> Hidden:
        batch, rows, columns, features = inputs.shape
        places = _GroupNorm(self.groups, name="norm")(inputs).reshape(batch, rows * columns, features)
        projected = nn.Dense(3 * features, dtype=inputs.dtype, name="query_key_value")(places)
        query, key, value = (
            part.reshape(batch, rows * columns, self.heads, features // self.heads)
            for part in jnp.split(projected, 3, axis=-1)
        )
        attended = attend(query, key, value).reshape(batch, rows, columns, features)
        return inputs + nn.Dense(features, dtype=inputs.dtype, kernel_init=_zeros, name="out")(attended)


class _GroupNorm(nn.Module):
    """Normalises each image's groups of features over all places (Wu & He 2018).

    What `flax.linen.GroupNorm` gives. Mean, deviation, scale and shift become two numbers a feature and image, so
    that one pass over the places reads them and another writes them: twice as fast forwards and backwards on CPUs.
    """

    groups: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, inputs: Hidden, modulation: Float[Array, "batch scales_and_shifts"] | None = None
    ) -> Hidden:
        """Normalises; `modulation` scales by 1 + its first half and shifts by its second half besides."""
        features = inputs.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        shift = self.param("bias", _zeros, (features,), jnp.float32)
        values = inputs.astype(jnp.float32)
        mean, square = (self._over_groups(part.mean(axis=(1, 2))) for part in (values, values * values))
        if modulation is not None:
            more, offset = jnp.split(modulation.astype(jnp.float32), 2, axis=-1)
            scale, shift = scale * (1 + more), shift * (1 + more) + offset
        factor = lax.rsqrt(jnp.maximum(square - mean * mean, 0) + self.epsilon) * scale
        term = shift - mean * factor
        return (values * factor[:, None, None] + term[:, None, None]).astype(inputs.dtype)

    def _over_groups(self, means: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
        batch, features = means.shape
        of_groups = means.reshape(batch, self.groups, features // self.groups).mean(axis=-1)
        return jnp.repeat(of_groups, features // self.groups, axis=-1)


class _Convolution(nn.Module):
    """A convolution of 3 x 3 that keeps the size, with zeros around."""

    features: int
    kernel_init: Any = _kernel_init

    @nn.compact
    def __call__(self, inputs: Hidden) -> Changed:
        shape = (3, 3, inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", _zeros, (self.features,), jnp.float32)
        return convolve_padded(inputs, kernel.astype(inputs.dtype)) + bias.astype(inputs.dtype)
