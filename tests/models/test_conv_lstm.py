"""The convolutional LSTM: against NumPy, its own derivative, what a prediction depends on, and steps one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UsageError
from jaxgen.models import ConvLSTM
from jaxgen.models.conv_lstm import Kernels, recur, recur_plainly


def some(rng, *shape, scale=1.0):
    return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)


def made(frame_shape=(8, 12, 1), features=(5, 3), **options):
    model = ConvLSTM(frame_shape, features, **{"patch_size": 2, **options})
    frames = some(np.random.default_rng(0), 2, 4, *frame_shape)
    return model, jax.jit(model.init)(jax.random.key(0), frames), frames


def convolved(image, kernel):
    """A convolution of one image with zeros around, tap by tap."""
    size, (height, width) = kernel.shape[0], image.shape[:2]
    padded = np.pad(image, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    taps = np.ndindex(size, size)
    return sum(
        padded[row : row + height, column : column + width] @ kernel[row, column] for row, column in taps
    )


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize(("kernel_size", "patch_size"), [(3, 2), (5, 1)])
def test_parity_with_numpy(kernel_size, patch_size, compiled_quickly):
    """Equation 3 of Shi et al. (2015) without peepholes, patches and pixels, written down once more."""
    model, variables, frames = made(kernel_size=kernel_size, patch_size=patch_size)
    params = jax.tree.map(np.asarray, variables["params"])
    logits, carry = jax.device_get(jax.jit(model.apply)(variables, frames))
    for sequence in range(2):
        hidden = [np.zeros((8 // patch_size, 12 // patch_size, size)) for size in (5, 3)]
        cell = [np.zeros_like(state) for state in hidden]
        for time in range(4):
            patches = np.zeros((8 // patch_size, 12 // patch_size, patch_size**2))
            for row, column in np.ndindex(8, 12):
                place = row % patch_size * patch_size + column % patch_size
                patches[row // patch_size, column // patch_size, place] = frames[
                    sequence, time, row, column, 0
                ]
            inputs = patches
            for layer in range(2):
                gates = convolved(inputs, params[f"input_kernel_{layer}"]) + params[f"bias_{layer}"]
                gates = gates + convolved(hidden[layer], params[f"hidden_kernel_{layer}"])
                write, forget, candidate, read = np.split(gates, 4, axis=-1)
                cell[layer] = sigmoid(forget) * cell[layer] + sigmoid(write) * np.tanh(candidate)
                inputs = hidden[layer] = sigmoid(read) * np.tanh(cell[layer])
            pixels = np.concatenate(hidden, axis=-1) @ params["pixels"]["kernel"] + params["pixels"]["bias"]
            for row, column in np.ndindex(8, 12):
                place = row % patch_size * patch_size + column % patch_size
                expected = pixels[row // patch_size, column // patch_size, place]
                assert logits[sequence, time, row, column, 0] == pytest.approx(expected, abs=2e-5)
        for layer in range(2):
            np.testing.assert_allclose(carry[layer]["hidden"][sequence], hidden[layer], atol=2e-5)
            np.testing.assert_allclose(carry[layer]["cell"][sequence], cell[layer], atol=2e-5)


@pytest.mark.parametrize("size", [3, 5])
def test_derivative_is_that_of_the_plain_loop(size, compiled_quickly):
    rng = np.random.default_rng(0)
    kernels = Kernels(
        some(rng, size, size, 9, 16, scale=0.2), some(rng, size, size, 4, 16, scale=0.2), some(rng, 16)
    )
    carry = {"hidden": some(rng, 2, 5, 6, 4), "cell": some(rng, 2, 5, 6, 4)}
    inputs = some(rng, 3, 2, 5, 6, 9)
    weights = [some(rng, 3, 2, 5, 6, 4), some(rng, 2, 5, 6, 4), some(rng, 2, 5, 6, 4)]

    def objective(go, *given):
        hidden, last = go(*given)
        return sum(
            (a * b).sum() for a, b in zip((hidden, last["hidden"], last["cell"]), weights, strict=True)
        )

    results = [
        jax.jit(jax.value_and_grad(objective, argnums=(1, 2, 3)), static_argnums=0)(
            go, kernels, carry, inputs
        )
        for go in (recur, recur_plainly)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), *results)


def test_a_prediction_depends_on_the_frames_before_it_alone(compiled_quickly):
    model, variables, frames = made()

    def logits(frames):
        return model.apply(variables, frames)[0][0].sum(axis=(1, 2, 3))

    slopes = np.abs(jax.jit(jax.jacrev(logits))(frames)).sum(
        axis=(3, 4, 5)
    )  # [predicted after, sequence, frame]
    assert (slopes[:, 1] == 0).all(), "nor on another sequence"
    for after, frame in np.ndindex(4, 4):
        assert (slopes[after, 0, frame] > 0) == (frame <= after)


def test_frame_by_frame_it_gives_the_same(compiled_quickly):
    model, variables, frames = made()
    apply = jax.jit(model.apply)
    whole, last = apply(variables, frames)
    carry, parts = model.initial_carry(2), []
    for time in range(4):
        logits, carry = apply(variables, frames[:, time : time + 1], carry)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), carry, last)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patch_size": 5},
            "frames of 8 x 12 can't be cut into patches of 5 x 5: take a patch size of 1, 2, 4",
        ),
        ({"patch_size": 0}, "patch_size must be positive, not 0"),
        ({"kernel_size": 4}, "kernel_size is 4; it must be odd"),
        ({"features": ()}, "features is empty"),
        ({"features": (4, -1)}, "features must be positive"),
    ],
)
def test_sizes_that_can_not_be(options, message):
    with pytest.raises(UsageError, match=message):
        made(**options)
