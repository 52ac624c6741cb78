"""What the model families share: initialisation, activations by name, batch norm, checks of their fields."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer, Key, Shaped

from jaxgen.errors import UsageError, unknown
from jaxgen.metrics import AnyArray

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": nn.elu,
    "gelu": nn.gelu,  # the tanh form
    "hard_swish": nn.hard_swish,
    "leaky_relu": nn.leaky_relu,
    "relu": nn.relu,
    "selu": nn.selu,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "softplus": nn.softplus,
    "tanh": nn.tanh,
}

kernel_init = nn.initializers.glorot_uniform()
"""Uniform within the square root of 6 / (fan in + fan out), Glorot & Bengio 2010, equation 16."""


def activation_function(name: str) -> Callable[[Array], Array]:
    """Looks an activation up by its name.

    Raises:
        UsageError: for an unknown name.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class Dropout(nn.Module):
    """Drops activations in training and scales up the others (Srivastava et al. 2014), like `flax.linen.Dropout`.

    What is dropped is drawn by hashing each activation's place, which is fused with the dropping: random numbers of
    Threefry, which JAX makes in a loop of their own on CPUs, were up to a tenth of a recurrent net's step.

    Attributes:
        rate: part that is dropped; rng `dropout`.
    """

    rate: float

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "*batch features"], *, train: bool
    ) -> Float[Array, "*batch features"]:
        """Gives the inputs, in training with zeros among them."""
        if not train or self.rate == 0:
            return inputs
        least = np.uint32(min(round(self.rate * 2**32), 2**32 - 1))
        kept = hashed_bits(self.make_rng("dropout"), inputs.shape) >= least
        return jnp.where(kept, inputs / (1 - self.rate), 0).astype(inputs.dtype)


def hashed_bits(rng: Key[Array, ""], shape: tuple[int, ...]) -> Integer[Array, "..."]:
    """Gives 32 bits for each place of an array, uint32, by a hash of the place and of two words of a key.

    Each place's bits are a function of its indices, so devices that hold a part of the array make their part alone.
    Made for masks: places beyond the first 2^32 repeat, and nothing is promised against an adversary.

    The hash is two rounds of the two-multiplication mixer of the least known bias (Wellons 2018, "Prospecting for hash
    functions"), each after a word of the key is added.
    """
    place = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        place += lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
        stride *= shape[axis]
    words = jax.random.bits(rng, (2,), jnp.uint32)
    return _mix(_mix(place + words[0]) + words[1])


def _mix(bits: Integer[Array, "..."]) -> Integer[Array, "..."]:
    bits = (bits ^ (bits >> 16)) * np.uint32(0x21F0AAAD)
    bits = (bits ^ (bits >> 15)) * np.uint32(0xD35A2D97)
    return bits ^ (bits >> 15)


class BatchNorm(nn.Module):
    """Normalises each feature (the last axis) over the batch and all positions (Ioffe & Szegedy 2015).

    Like `flax.linen.BatchNorm`, with the same parameters (`scale`, `bias`) and `batch_stats` (`mean`, `var`),
    but rows can be masked out, and the devices' sums are added up before anything is divided: padding that
    lies on some of the devices changes nothing. The variance is the biased one, in the running average too.

    Attributes:
        axis_name: the mapped axis over which statistics are taken, under `pmap` or `shard_map`. Under plain
            `jit` they are global anyway.
        momentum: part of the running averages that stays at each step; PyTorch's `momentum` is one minus it.
        epsilon: added to the variance.
    """

    axis_name: str | tuple[str, ...] | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "batch *positions features"],
        *,
        train: bool = False,
        mask: Shaped[AnyArray, " batch"] | None = None,
    ) -> Float[Array, "batch *positions features"]:
        """Normalises, in float32, and gives the inputs' dtype.

        Args:
            inputs: activations.
            train: whether to use the statistics of this batch, and to move the running averages to them.
            mask: zero on the rows that the statistics leave out; with none left the averages stay.
        """
        shape = (inputs.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        values = inputs.astype(jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            mean, var, count = self._statistics(values, mask)
            if not self.is_initializing():
                keep = jnp.where(count > 0, self.momentum, 1.0)
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        normalized = (values - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return normalized.astype(inputs.dtype)

    def _statistics(
        self, values: Float[Array, "batch *positions features"], mask: Shaped[AnyArray, " batch"] | None
    ) -> tuple[Float[Array, " features"], Float[Array, " features"], Float[Array, ""]]:
        batch, *positions = values.shape[:-1]
        kept = jnp.ones(batch) if mask is None else (jnp.asarray(mask) != 0).astype(jnp.float32)

        def mean_of(terms: Float[Array, "batch *positions features"]) -> Float[Array, " features"]:
            # Positions first: an example is kept with all of them or not at all.
            by_example = terms.sum(axis=tuple(range(1, terms.ndim - 1)))
            sums = (by_example * kept[:, None]).sum(axis=0)
            return share * (sums if self.axis_name is None else jax.lax.psum(sums, self.axis_name))

        count = kept.sum() * math.prod(positions)
        count = count if self.axis_name is None else jax.lax.psum(count, self.axis_name)
        # A product, not a division, which XLA makes one or not as it likes: so that what is computed twice, with a
        # derivative and without, is the same, and computed once.
        share = jnp.where(count == 0, 0.0, 1 / jnp.maximum(count, 1))
        mean = mean_of(values)
        # A second pass over the values, since E[x²] - E[x]² loses what is small beside the mean.
        return mean, mean_of((values - mean) ** 2), count


def dtype_name(dtype: Any) -> str | None:
    """Gives the name of a float dtype, which can be written into a run's config, or None for None.

    Raises:
        UsageError: for what is no float dtype.
    """
    if dtype is None:
        return None
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise UsageError(f"dtype {dtype!r} is not one to compute in; use float32, bfloat16 or float16")
    return found.name


def check_sizes(**sizes: Sequence[int]) -> None:
    """Refuses sizes, given by their field's name, that are not positive."""
    for field, values in sizes.items():
        if isinstance(values, int):
            raise UsageError(f"{field} is a sequence, one number a layer: ({values},), not {values}")
        if any(value < 1 for value in values):
            raise UsageError(f"{field} must be positive, not {', '.join(map(str, values))}")


def check_dropout(rate: float) -> None:
    """Refuses rates that are no part of a whole."""
    if not 0 <= rate < 1:
        raise UsageError(f"dropout is {rate}; it must be at least 0 and below 1")
