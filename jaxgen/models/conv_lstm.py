"""Convolutional LSTM (Shi et al. 2015): recurrent layers whose states are images, and a net that foresees frames."""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray
from jaxgen.models.cells import LSTM, Carry
from jaxgen.models.convolution import convolve
from jaxgen.models.layers import check_sizes, kernel_init
from jaxgen.models.pixels import from_patches, to_patches

Kernel = Float[Array, "height width channels features"]
# A layer's inputs and states, time first.
Inputs = Float[Array, "time batch rows columns channels"]
States = Float[Array, "time batch rows columns hidden"]
Patches = Float[Array, "time batch rows columns pixels"]
Frames = Float[AnyArray, "batch time height width channels"]

_CELL = LSTM()


class Kernels(NamedTuple):
    """A layer's parameters: kernels of the inputs and of the hidden state, with all gates' features, and a bias."""

    inputs: Kernel
    hidden: Kernel
    bias: Float[Array, " gates"]


def recur_plainly(kernels: Kernels, carry: Carry, inputs: Inputs) -> tuple[States, Carry]:
    """Carries a convolutional LSTM over time as one would write it down (Shi et al. 2015, equation 3, no peepholes).

    Args:
        kernels: of the layer.
        carry: `hidden` and `cell`, float32 [batch, rows, columns, hidden], to begin with.
        inputs: time first.

    Returns:
        The hidden state after each step, and the last carry.
    """

    def step(carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        from_inputs = _convolve_same(inputs, kernels.inputs) + kernels.bias
        carry, _ = _CELL({}, carry, from_inputs, _convolve_same(carry["hidden"], kernels.hidden))
        return carry, carry["hidden"]

    carry, hidden = lax.scan(step, carry, inputs)
    return hidden, carry


@jax.custom_vjp
def recur(kernels: Kernels, carry: Carry, inputs: Inputs) -> tuple[States, Carry]:
    """Does what `recur_plainly` does, with one convolution of all steps' inputs and one gradient of each kernel.

    What `jaxgen.models.recurrent.recur` does for matrices: backwards, too, the loop has one convolution a step.
    """
    return _recur_forwards(kernels, carry, inputs)[0]


def _recur_forwards(kernels: Kernels, carry: Carry, inputs: Inputs) -> tuple[tuple[States, Carry], tuple]:
    def step(carry: Carry, from_inputs: Array) -> tuple[Carry, tuple[Carry, Any]]:
        from_hidden = _convolve_same(carry["hidden"], kernels.hidden)
        carry, kept = _CELL({}, carry, from_inputs + kernels.bias, from_hidden)
        return carry, (carry, kept)

    last, (states, kept) = lax.scan(step, carry, _convolve_steps(inputs, kernels.inputs))
    return (states["hidden"], last), (kernels, carry, inputs, states, kept)


def _recur_backwards(residuals: tuple, gradients: tuple[States, Carry]) -> tuple[Kernels, Carry, Inputs]:
    kernels, carry, inputs, states, kept = residuals
    of_hidden, of_last = gradients
    before = {name: jnp.concatenate([carry[name][None], states[name][:-1]]) for name in carry}
    turned = jnp.flip(kernels.hidden, (0, 1)).swapaxes(2, 3)

    def step(of_carry: Carry, now: tuple[Carry, Carry, Any, Array]) -> tuple[Carry, Array]:
        before, after, kept, of_hidden = now
        of_carry = {**of_carry, "hidden": of_carry["hidden"] + of_hidden}
        _, of_before, of_products, _ = _CELL.backwards({}, before, after, kept, of_carry)
        return {**of_before, "hidden": _convolve_same(of_products, turned)}, of_products

    of_carry, of_products = lax.scan(step, of_last, (before, states, kept, of_hidden), reverse=True)
    _, pull_hidden = jax.vjp(functools.partial(_convolve_steps, before["hidden"]), kernels.hidden)
    _, pull_inputs = jax.vjp(_convolve_steps, inputs, kernels.inputs)
    (of_hidden_kernel,), (of_inputs, of_input_kernel) = pull_hidden(of_products), pull_inputs(of_products)
    of_bias = of_products.sum(axis=(0, 1, 2, 3))
    return Kernels(of_input_kernel, of_hidden_kernel, of_bias), of_carry, of_inputs


recur.defvjp(_recur_forwards, _recur_backwards)


def _convolve_same(
    images: Float[Array, "batch rows columns channels"], kernel: Kernel
) -> Float[Array, "batch rows columns features"]:
    """Convolves with zeros around, so that the size stays; what lies outside of a frame is as if nothing were there."""
    around = kernel.shape[0] // 2
    return convolve(jnp.pad(images, ((0, 0), (around, around), (around, around), (0, 0))), kernel)


def _convolve_steps(images: Inputs, kernel: Kernel) -> Float[Array, "time batch rows columns features"]:
    """Convolves the images of all steps at once."""
    steps, batch = images.shape[:2]
    outputs = _convolve_same(images.reshape(steps * batch, *images.shape[2:]), kernel)
    return outputs.reshape(steps, batch, *outputs.shape[1:])


class ConvLSTM(nn.Module):
    """Foresees each next frame from all before it, by layers of convolutional LSTMs.

    Frames are cut into squares of patches, whose pixels become channels; a convolution of 1 x 1 makes the logits of a
    frame's pixels of the hidden states of all layers (Shi et al. 2015, sections 3.2 and 4.1). As it is told all frames
    so far, or has foreseen them itself, one net both reads and foresees, where the paper has two.

    Attributes:
        frame_shape: height, width and channels of a frame.
        features: hidden channels of each layer.
        kernel_size: of all kernels, odd.
        patch_size: height and width of a patch.

    Raises:
        UsageError: when it is made, for sizes that can't be.
    """

    frame_shape: tuple[int, int, int]
    features: tuple[int, ...] = (128,)
    kernel_size: int = 3
    patch_size: int = 8

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(
            frame_shape=self.frame_shape,
            features=self.features,
            kernel_size=(self.kernel_size,),
            patch_size=(self.patch_size,),
        )
        if not self.features:
            raise UsageError("features is empty; the net needs a layer at least")
        if self.kernel_size % 2 == 0:
            raise UsageError(f"kernel_size is {self.kernel_size}; it must be odd, to keep the size of frames")
        height, width, _ = self.frame_shape
        if height % self.patch_size or width % self.patch_size:
            common = math.gcd(height, width)
            divisors = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            raise UsageError(
                f"frames of {height} x {width} can't be cut into patches of {self.patch_size} x {self.patch_size}: "
                f"take a patch size of {divisors}"
            )
        super().__post_init__()

    def initial_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """Gives zeros, by layer and state: float32 [batch, rows, columns, hidden]."""
        height, width, _ = self.frame_shape
        places = (batch_size, height // self.patch_size, width // self.patch_size)
        return tuple({name: jnp.zeros((*places, size)) for name in _CELL.states} for size in self.features)

    @nn.compact
    def __call__(
        self, frames: Frames, carry: tuple[Carry, ...] | None = None
    ) -> tuple[Float[Array, "batch time height width channels"], tuple[Carry, ...]]:
        """Gives the logits of each next frame's pixels, and the carry after the last frame.

        Args:
            frames: from 0 to 1.
            carry: the state to begin with, such as the last call gave; zeros by default.
        """
        batch, channels = frames.shape[0], self.frame_shape[2] * self.patch_size**2
        carry = self.initial_carry(batch) if carry is None else carry
        hidden = self._to_patches(frames)
        outputs, carries = [], []
        for number, (size, begin) in enumerate(zip(self.features, carry, strict=True)):
            shape = (self.kernel_size, self.kernel_size)
            kernels = Kernels(
                self.param(f"input_kernel_{number}", kernel_init, (*shape, hidden.shape[-1], 4 * size)),
                self.param(f"hidden_kernel_{number}", kernel_init, (*shape, size, 4 * size)),
                self.param(f"bias_{number}", lambda rng, size=size: _CELL.init_bias(size)),
            )
            hidden, last = recur(kernels, begin, hidden)
            outputs.append(hidden)
            carries.append(last)
        logits = nn.Dense(channels, kernel_init=kernel_init, name="pixels")(jnp.concatenate(outputs, axis=-1))
        return self._from_patches(logits), tuple(carries)

    def _to_patches(self, frames: Frames) -> Patches:
        """Cuts frames into patches, time first."""
        batch, time = frames.shape[:2]
        images = jnp.asarray(frames).swapaxes(0, 1).reshape(time * batch, *self.frame_shape)
        patches = to_patches(images, self.patch_size)
        return patches.reshape(time, batch, *patches.shape[1:])

    def _from_patches(self, patches: Patches) -> Float[Array, "batch time height width channels"]:
        """Undoes `_to_patches`."""
        time, batch = patches.shape[:2]
        images = from_patches(patches.reshape(time * batch, *patches.shape[2:]), self.patch_size)
        return images.reshape(time, batch, *self.frame_shape).swapaxes(0, 1)
