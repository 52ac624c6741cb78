"""Generators and discriminators: shapes, spectral norm, attention and projection against NumPy, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UsageError
from jaxgen.models import Discriminator, Generator
from jaxgen.models.gan_layers import ConditionalBatchNorm, Dense, ImageConvolution, SelfAttention

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LABELS = jnp.array([0, 2, 1], jnp.int32)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def variables_of(module, *inputs, **options):
    return jax.jit(lambda key: module.init(key, *inputs, **options))(jax.random.key(0))


def shaken(variables):
    """Moves what starts at zero (factors, class tables) away from there."""
    leaves, structure = jax.tree.flatten(variables)
    return jax.tree.unflatten(
        structure, [leaf + 0.1 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    )


@pytest.mark.parametrize("block", ["dcgan", "residual"])
@pytest.mark.parametrize(
    ("size", "channels", "num_classes"), [(8, (6, 4), 0), (12, (6, 4), 3), (28, (4,), 3)]
)
def test_shapes(block, size, channels, num_classes):
    conditioning = "batch_norm" if size == 12 else "embedding"
    labels = LABELS if num_classes else None
    generator = Generator(
        (size, size, 2), 7, num_classes, channels, block, attention=True, conditioning=conditioning
    )
    latents = jax.ShapeDtypeStruct((3, 7), jnp.float32)
    images, _ = jax.eval_shape(generator.init_with_output, jax.random.key(0), latents, labels)
    assert images.shape == (3, size, size, 2)
    discriminator = Discriminator(num_classes, channels[::-1], block, spectral_norm=True, attention=True)
    logits, variables = jax.eval_shape(discriminator.init_with_output, jax.random.key(0), images, labels)
    assert logits.shape == (3,)
    assert set(variables) == {"params", "spectral"}


@pytest.mark.parametrize("block", ["dcgan", "residual"])
@pytest.mark.parametrize("conditioning", ["embedding", "batch_norm"])
def test_the_class_changes_the_image_and_the_logit(block, conditioning):
    generator = Generator((8, 8, 1), 7, 3, (6, 4), block, conditioning=conditioning)
    latents = jnp.tile(normal(0, 1, 7), (3, 1))
    images = generator.apply(shaken(variables_of(generator, latents, LABELS)), latents, LABELS)
    assert float(jnp.abs(images).max()) < 1
    assert float(jnp.abs(images[0] - images[1]).max()) > 1e-3
    discriminator = Discriminator(3, (4, 6), block)
    same = jnp.tile(images[:1], (3, 1, 1, 1))
    logits = discriminator.apply(variables_of(discriminator, same, LABELS), same, LABELS)
    assert float(jnp.abs(logits[0] - logits[1])) > 1e-3


@pytest.mark.parametrize("layer", [Dense(6, spectral_norm=True), ImageConvolution(6, 3, spectral_norm=True)])
def test_spectral_norm_is_that_of_the_singular_value_decomposition(layer):
    inputs = normal(0, 2, 5, 5, 4)
    variables = dict(variables_of(layer, inputs, train=False))
    iterate = jax.jit(partial(layer.apply, train=True, mutable=["spectral"]))
    for _ in range(100):
        variables |= iterate(variables, inputs)[1]
    kernel = np.asarray(variables["params"]["kernel"])
    largest = np.linalg.svd(kernel.reshape(-1, 6), compute_uv=False)[0]
    plain = layer.clone(spectral_norm=False)
    params = {**variables["params"], "kernel": jnp.asarray(kernel / largest)}
    expected = plain.apply({"params": params}, inputs, train=False)
    np.testing.assert_allclose(layer.apply(variables, inputs, train=False), expected, rtol=1e-4, atol=1e-5)


def test_gradient_of_spectral_norm_is_that_of_the_exact_one():
    """Where the iteration has converged the derivative of the norm is that of the largest singular value."""
    layer = Dense(6, spectral_norm=True, bias=False)
    variables = dict(variables_of(layer, normal(0, 3, 5), train=False))
    iterate = jax.jit(partial(layer.apply, train=True, mutable=["spectral"]))
    for _ in range(200):
        variables |= iterate(variables, normal(0, 3, 5))[1]

    def ours(kernel):
        return (
            layer.apply({**variables, "params": {"kernel": kernel}}, normal(0, 3, 5), train=False) ** 3
        ).sum()

    def exact(kernel):
        return ((normal(0, 3, 5) @ kernel / jnp.linalg.norm(kernel, 2)) ** 3).sum()

    kernel = variables["params"]["kernel"]
    np.testing.assert_allclose(jax.grad(ours)(kernel), jax.grad(exact)(kernel), rtol=1e-3, atol=1e-4)


def test_spectral_norm_moves_in_training_alone_and_once_each_time():
    layer = Dense(6, spectral_norm=True)
    variables = variables_of(layer, normal(0, 2, 5), train=False)
    _, moved = layer.apply(variables, normal(0, 2, 5), train=True, mutable=["spectral"])
    matrix = np.asarray(variables["params"]["kernel"], np.float64)
    right = matrix.T @ (matrix @ np.asarray(variables["spectral"]["norm"]["right"], np.float64))
    np.testing.assert_allclose(moved["spectral"]["norm"]["right"], right / np.linalg.norm(right), rtol=1e-4)
    _, same = layer.apply(variables, normal(0, 2, 5), train=False, mutable=["spectral"])
    np.testing.assert_array_equal(same["spectral"]["norm"]["right"], variables["spectral"]["norm"]["right"])


def test_attention_reads_as_written_down_and_starts_as_nothing():
    layer, inputs = SelfAttention(), normal(0, 2, 3, 4, 16)
    variables = variables_of(layer, inputs, train=False)
    np.testing.assert_array_equal(layer.apply(variables, inputs, train=False), inputs)
    params = shaken(variables)["params"]
    flat = np.asarray(inputs).reshape(2, 12, 16)
    query, key, value = (flat @ np.asarray(params[name]["kernel"]) for name in ("query", "key", "value"))
    scores = np.exp(query @ key.swapaxes(1, 2))
    read = scores / scores.sum(axis=2, keepdims=True) @ value @ np.asarray(params["output"]["kernel"])
    expected = inputs + np.asarray(params["factor"]) * read.reshape(inputs.shape)
    np.testing.assert_allclose(
        layer.apply({"params": params}, inputs, train=False), expected, rtol=1e-4, atol=1e-5
    )


def test_projection_is_the_product_of_the_features_with_the_vector_of_the_class():
    images = normal(0, 3, 8, 8, 1)
    model = Discriminator(3, (4,), "dcgan")
    params = variables_of(model, images, LABELS)["params"]
    hidden = ImageConvolution(4, 4, "halve").apply({"params": params["conv_0"]}, images, train=False)
    features = np.where(hidden > 0, hidden, 0.2 * hidden).reshape(3, -1)
    own = features @ params["dense"]["kernel"][:, 0] + params["dense"]["bias"]
    of_class = (features * params["classes"]["embedding"][LABELS]).sum(axis=1)
    np.testing.assert_allclose(
        model.apply({"params": params}, images, LABELS), own + of_class, rtol=1e-4, atol=1e-5
    )


def test_conditional_batch_norm_scales_and_shifts_by_class():
    layer, inputs = ConditionalBatchNorm(3), normal(0, 3, 2, 2, 5)
    variables = shaken(variables_of(layer, inputs, LABELS, train=False, mask=None))
    params = variables["params"]
    plain = ConditionalBatchNorm(0)
    own = {"params": {"norm": params["norm"]}, "batch_stats": variables["batch_stats"]}
    normed = plain.apply(own, inputs, None, train=False, mask=None)
    scale, shift = (params[name]["embedding"][LABELS][:, None, None] for name in ("scale", "shift"))
    found = layer.apply(variables, inputs, LABELS, train=False, mask=None)
    np.testing.assert_allclose(found, normed * (1 + scale) + shift, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", ["dcgan", "residual"])
def test_padding_changes_no_other_row(block):
    """Rows that the mask leaves out may hold anything, in both networks' statistics."""
    keep = jnp.array([1.0, 1.0, 0.0])
    generator = Generator((8, 8, 1), 7, 3, (6, 4), block, conditioning="batch_norm")
    discriminator = Discriminator(3, (4, 6), block, batch_norm=True)
    for module, inputs in ((generator, normal(0, 3, 7)), (discriminator, normal(0, 3, 8, 8, 1))):
        variables = shaken(variables_of(module, inputs, LABELS))
        options = {"train": True, "mask": keep, "mutable": ["batch_stats"]}
        first, state = module.apply(variables, inputs, LABELS, **options)
        other, other_state = module.apply(variables, inputs.at[2].set(9.0), LABELS.at[2].set(0), **options)
        np.testing.assert_allclose(first[:2], other[:2], rtol=1e-5, atol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state, other_state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Generator((30, 30, 1)),
            r"a generator of 2 stages can't have images of 30 x 30: possible are squares of 8, 12, 16 and so on, such "
            r"as --image-size 28 or 32$",
        ),
        (lambda: Generator((28, 32, 1)), r"can't have images of 28 x 32: possible are squares"),
        (lambda: Generator((4, 4, 1)), r"such as --image-size 8 or 12$"),
        (lambda: Generator(block="resnet"), "unknown block 'resnet'"),
        (lambda: Generator(conditioning="norm"), "unknown conditioning 'norm'"),
        (
            lambda: Generator(num_classes=3, conditioning="batch_norm", batch_norm=False),
            "conditioning by batch norm needs batch_norm=True",
        ),
        (lambda: Generator(channels=()), "at least one stage"),
        (lambda: Discriminator(channels=(0,)), "channels must be positive"),
        (
            lambda: Discriminator(channels=(4, 4, 4)).init(jax.random.key(0), normal(0, 1, 28, 28, 1)),
            r"a discriminator of 3 stages can't have images of 28 x 28: .* such as --image-size 24 or 32",
        ),
        (
            lambda: variables_of(Discriminator(3, (4,)), normal(0, 1, 8, 8, 1)),
            "there are 3 classes to choose from: give labels",
        ),
    ],
)
def test_what_can_not_be_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
