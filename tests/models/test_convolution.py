"""Convolution and pooling: the forms that are fast on CPUs against XLA's own, in value and gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models.convolution import (
    Convolution,
    average_pool,
    convolve,
    convolve_padded,
    convolve_transposed,
    max_pool,
)

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order(monkeypatch):
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (2, 7, 5, 3)])
def test_pooling_is_flaxs_in_value_and_gradient(shape):
    inputs = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    cotangent = None
    for ours, theirs in ((max_pool, nn.max_pool), (average_pool, nn.avg_pool)):
        value, pull = jax.vjp(ours, inputs)
        expected, expected_pull = jax.vjp(lambda x, pool=theirs: pool(x, (2, 2), strides=(2, 2)), inputs)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
        cotangent = jnp.asarray(RNG.normal(size=value.shape), jnp.float32)
        np.testing.assert_allclose(pull(cotangent)[0], expected_pull(cotangent)[0], rtol=1e-6)


def test_of_ties_the_first_one_has_the_gradient_as_flaxs():
    inputs = jnp.asarray(RNG.integers(0, 3, size=(4, 9, 11, 5)), jnp.float32)
    assert len(np.unique(inputs)) == 3, "nearly every square has ties"
    value, pull = jax.vjp(max_pool, inputs)
    expected, expected_pull = jax.vjp(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)), inputs)
    np.testing.assert_array_equal(value, expected)
    cotangent = jnp.asarray(RNG.normal(size=value.shape), jnp.float32)
    np.testing.assert_array_equal(pull(cotangent)[0], expected_pull(cotangent)[0])


def test_pooling_has_forward_mode_too():
    inputs, tangent = (jnp.asarray(RNG.normal(size=(2, 5, 6, 3)), jnp.float32) for _ in range(2))
    for ours, theirs in ((max_pool, nn.max_pool), (average_pool, nn.avg_pool)):
        found = jax.jvp(ours, (inputs,), (tangent,))
        expected = jax.jvp(lambda x, pool=theirs: pool(x, (2, 2), strides=(2, 2)), (inputs,), (tangent,))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_fast_forms_are_for_cpus_alone():
    """On other platforms XLA's own convolution and pooling are what is compiled."""

    def stage(inputs, kernel):
        return (average_pool(max_pool(convolve(inputs, kernel))) ** 2).sum()

    plain = {"stablehlo.convolution": 2, "stablehlo.select_and_scatter": 1, "stablehlo.reduce_window": 2}
    for platform in ("cuda", "tpu"):
        program = lowered(jax.grad(stage), (2, 10, 10, 16), (3, 3, 16, 8), platform=platform)
        for operation, least in plain.items():  # convolutions: both, and the gradients of their inputs
            assert program.count(operation) >= least
    program = lowered(jax.grad(stage), (2, 10, 10, 16), (3, 3, 16, 8))
    assert not any(operation in program for operation in plain)


def lowered(function, *shapes, platform="cpu"):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()


def convolution_case(image_size, kernel_size, channels):
    inputs = jnp.asarray(RNG.normal(size=(2, *image_size, channels)), jnp.float32)
    kernel = jnp.asarray(RNG.normal(size=(*kernel_size, channels, 5)), jnp.float32)
    return inputs, kernel


def plain_convolution(inputs, kernel):
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# Few channels; a kernel that isn't 3 x 3; 3 x 3 with an output too small for tiles, even, odd, and in between.
def assert_same_with_gradients(ours, theirs, inputs, kernel, of_value, of_gradients):
    """Compares two convolutions in value and in both gradients, within these tolerances."""
    value, pull = jax.vjp(ours, inputs, kernel)
    expected, expected_pull = jax.vjp(theirs, inputs, kernel)
    np.testing.assert_allclose(value, expected, **of_value)
    cotangent = jnp.asarray(RNG.normal(size=value.shape), jnp.float32)
    for found, wanted in zip(pull(cotangent), expected_pull(cotangent), strict=True):
        np.testing.assert_allclose(found, wanted, **of_gradients)


@pytest.mark.parametrize(
    ("image_size", "kernel_size", "channels"),
    [
        ((7, 6), (3, 2), 1),
        ((7, 6), (3, 2), 9),
        ((5, 9), (3, 3), 9),
        ((6, 8), (3, 3), 9),
        ((7, 9), (3, 3), 9),
        ((8, 11), (3, 3), 16),
    ],
)
def test_convolution_is_xlas_in_value_and_gradient(image_size, kernel_size, channels):
    inputs, kernel = convolution_case(image_size, kernel_size, channels)
    close = {"rtol": 1e-5, "atol": 5e-5}
    assert_same_with_gradients(convolve, plain_convolution, inputs, kernel, close, close)


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_none_and_one_are_convolved_too(batch):
    inputs, kernel = convolution_case((8, 9), (3, 3), 9)
    value, pull = jax.vjp(convolve, inputs[:batch], kernel)
    expected, expected_pull = jax.vjp(plain_convolution, inputs[:batch], kernel)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=5e-5)
    np.testing.assert_allclose(pull(value)[1], expected_pull(expected)[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_not_spent_on_tiles(dtype):
    """Its transforms would add numbers up that cancel later; a product of patches rounds once."""
    inputs, kernel = (array.astype(dtype) for array in convolution_case((8, 9), (3, 3), 9))
    exact = plain_convolution(inputs.astype(jnp.float32), kernel.astype(jnp.float32))
    found = convolve(inputs, kernel)
    assert found.dtype == jnp.dtype(dtype)
    half_a_step = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=half_a_step, atol=1e-2)


def test_inputs_too_large_to_unfold_are_left_to_xla():
    assert "stablehlo.convolution" not in lowered(convolve, (8, 64, 64, 8), (5, 5, 8, 8))
    assert "stablehlo.convolution" in lowered(convolve, (256, 128, 128, 32), (5, 5, 32, 32))
    assert "stablehlo.convolution" in lowered(convolve, (256, 256, 256, 32), (3, 3, 32, 32))


def test_convolution_has_forward_mode_and_maps_over_kernels():
    inputs, kernel = convolution_case((6, 7), (3, 3), 9)
    tangents = convolution_case((6, 7), (3, 3), 9)
    found = jax.jvp(convolve, (inputs, kernel), tangents)
    expected = jax.jvp(plain_convolution, (inputs, kernel), tangents)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-5)
    kernels = jnp.stack([kernel, tangents[1]])
    mapped = jax.vmap(convolve, (None, 0))(inputs, kernels)
    np.testing.assert_allclose(mapped[1], plain_convolution(inputs, kernels[1]), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize(
    ("image_size", "kernel_size", "stride"),
    [((7, 7), 4, 2), ((5, 6), 3, 2), ((6, 5), 5, 2), ((4, 5), 3, 3), ((4, 4), 1, 2), ((3, 4), 2, 3)],
)
@pytest.mark.parametrize("features", [1, 9])
def test_transposed_convolution_is_xlas_in_value_and_gradient(image_size, kernel_size, stride, features):
    inputs = jnp.asarray(RNG.normal(size=(2, *image_size, 5)), jnp.float32)
    kernel = jnp.asarray(RNG.normal(size=(kernel_size, 4, 5, features)), jnp.float32)

    def plain(inputs, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_transpose(inputs, kernel, (stride, stride), "SAME", dimension_numbers=layout)

    def ours(inputs, kernel):
        return convolve_transposed(inputs, kernel, stride)

    value, pull = jax.vjp(ours, inputs, kernel)
    expected, expected_pull = jax.vjp(plain, inputs, kernel)
    assert value.shape == (2, stride * image_size[0], stride * image_size[1], features)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    cotangent = jnp.asarray(RNG.normal(size=value.shape), jnp.float32)
    for found, wanted in zip(pull(cotangent), expected_pull(cotangent), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel_size", "stride"), [(4, 2), (3, 2), (2, 2), (1, 2), (5, 3)])
def test_transposed_convolution_has_the_second_derivatives_of_xlas(kernel_size, stride):
    """As a penalty of the gradient takes them: the derivative of what the first one gives."""
    inputs = jnp.asarray(RNG.normal(size=(2, 3, 4, 5)), jnp.float32)
    kernel = jnp.asarray(RNG.normal(size=(kernel_size, kernel_size, 5, 3)), jnp.float32)

    def plain(inputs, kernel, stride):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_transpose(inputs, kernel, (stride, stride), "SAME", dimension_numbers=layout)

    def penalty(convolve, inputs, kernel):
        of_inputs, of_kernel = jax.grad(
            lambda *both: jnp.tanh(convolve(*both, stride)).sum(), argnums=(0, 1)
        )(inputs, kernel)
        return (of_inputs**2).sum() + (of_kernel**2).sum()

    found, wanted = (
        jax.grad(lambda *both, f=f: penalty(f, *both), argnums=(0, 1))(inputs, kernel)
        for f in (convolve_transposed, plain)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("kernel_size", "stride"), [(4, 2), (3, 2), (6, 2), (3, 3)])
def test_strided_convolution_is_a_product_with_each_window(kernel_size, stride):
    inputs = RNG.normal(size=(2, 6, 12, 3)).astype(np.float32)
    kernel = RNG.normal(size=(kernel_size, kernel_size, 3, 5)).astype(np.float32)
    before = (kernel_size - stride) // 2
    padded = np.pad(inputs, ((0, 0), *((before, kernel_size - stride - before),) * 2, (0, 0)))
    expected = np.zeros((2, 6 // stride, 12 // stride, 5))
    for row, column in np.ndindex(*expected.shape[1:3]):
        window = padded[:, stride * row :, stride * column :][:, :kernel_size, :kernel_size]
        expected[:, row, column] = np.einsum("bijc,ijcf->bf", window, kernel)
    found = convolve_padded(jnp.asarray(inputs), jnp.asarray(kernel), stride)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("image_size", [(28, 28), (13, 16)])
def test_pooling_within_a_convolution_is_pooling_after_it(image_size):
    """Nor is what the odd last row and column would have been missed in the gradient."""
    inputs, _ = convolution_case(image_size, (3, 3), 9)
    early, late = (Convolution(5, 3, pool=pool) for pool in (True, False))
    params = early.init(jax.random.key(0), inputs)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)

    def apart(params, inputs):
        return nn.max_pool(late.apply(params, inputs), (2, 2), strides=(2, 2))

    value, pull = jax.vjp(early.apply, params, inputs)
    expected, expected_pull = jax.vjp(apart, params, inputs)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    cotangent = jnp.asarray(RNG.normal(size=value.shape), jnp.float32)
    for ours, theirs in zip(
        jax.tree.leaves(pull(cotangent)), jax.tree.leaves(expected_pull(cotangent)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "stride"), [((32, 14, 14, 9), 1), ((96, 12, 12, 3), 2)])
def test_padded_convolution_has_the_gradients_of_its_whole_batch(shape, stride):
    """Its kernel's gradient comes in parts of several images each; and second derivatives are there."""
    inputs = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    kernel = jnp.asarray(RNG.normal(size=(4, 4, shape[-1], 5)), jnp.float32) / 10
    before = (4 - stride) // 2

    def ours(inputs, kernel):
        return convolve_padded(inputs, kernel, stride)

    def theirs(inputs, kernel):
        around = [(before, 4 - stride - before)] * 2
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            inputs, kernel, (stride, stride), around, dimension_numbers=layout
        )

    def slope(function, inputs, kernel):
        by_inputs = jax.grad(lambda inputs: jnp.sin(function(inputs, kernel)).sum())(inputs)
        return (by_inputs**2).mean()

    of_value, of_gradients = {"rtol": 1e-4, "atol": 1e-4}, {"rtol": 1e-3, "atol": 1e-3}
    assert_same_with_gradients(ours, theirs, inputs, kernel, of_value, of_gradients)
    seconds = (jax.grad(slope, argnums=(1, 2))(each, inputs, kernel) for each in (ours, theirs))
    for found, wanted in zip(*seconds, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
