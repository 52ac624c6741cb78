"""The U-Net: shapes, what tells it time and class, its norm and convolutions against Flax's, sizes it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UsageError
from jaxgen.models import UNet, pixels, unet

SMALL = {"channels": (8, 16), "groups": 4, "heads": 2}


def made(model, shape=(2, 8, 8, 1), labels=None):
    """Gives inputs and parameters, none of them zero, so that everything has an effect."""
    inputs, times = jax.random.normal(jax.random.key(0), shape), jnp.linspace(0.2, 0.8, shape[0])
    params = jax.jit(model.init)(jax.random.key(1), inputs, times, labels)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.jit(model.apply), jax.tree.unflatten(structure, moved), inputs, times


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 28, 28, 1)),
        ({"channels": (4, 8, 8), "patch_size": 1, "heads": 0}, (2, 8, 12, 3)),
        ({"channels": (8,), "blocks": 2}, (3, 4, 4, 1)),
    ],
)
def test_outputs_have_the_images_shape(options, shape):
    apply, params, inputs, times = made(UNet(**{**SMALL, **options}), shape)
    outputs = apply(params, inputs, times)
    assert outputs.shape == shape
    assert outputs.dtype == jnp.float32
    assert jnp.isfinite(outputs).all()


def test_time_class_and_every_pixel_count():
    model = UNet(num_classes=3, **SMALL)
    labels = jnp.array([0, 1])
    apply, params, inputs, times = made(model, labels=labels)
    outputs = apply(params, inputs, times, labels)
    later = apply(params, inputs, times + 0.1, labels)
    null = apply(params, inputs, times, jnp.array([0, 3]))
    moved = apply(params, inputs.at[1, 0, 0, 0].add(1.0), times, labels)
    assert (jnp.abs(later - outputs).max(axis=(1, 2, 3)) > 1e-3).all()
    np.testing.assert_allclose(null[0], outputs[0], atol=1e-5)
    assert jnp.abs(null[1] - outputs[1]).max() > 1e-3
    # An image changes nothing of another, and of its own the furthest corner, through attention.
    np.testing.assert_allclose(moved[0], outputs[0], atol=1e-5)
    assert jnp.abs(moved[1, -1, -1] - outputs[1, -1, -1]).max() > 1e-6


def test_it_begins_as_zero():
    model = UNet(**SMALL)
    inputs = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    outputs, _ = jax.jit(model.init_with_output)(jax.random.key(1), inputs, jnp.ones(2))
    assert (outputs == 0).all()


def test_group_norm_is_flaxs_with_a_modulation():
    inputs = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 4, 8))
    variables = {"params": {"scale": jnp.linspace(0.5, 2, 8), "bias": jnp.linspace(-1, 1, 8)}}
    expected = nn.GroupNorm(num_groups=4, epsilon=1e-5).apply(variables, inputs)
    norm = unet._GroupNorm(4)
    np.testing.assert_allclose(norm.apply(variables, inputs), expected, atol=1e-5)
    modulation = jax.random.normal(jax.random.key(1), (2, 16))
    scale, shift = (part[:, None, None] for part in jnp.split(modulation, 2, axis=-1))
    modulated = norm.apply(variables, inputs, modulation)
    np.testing.assert_allclose(modulated, expected * (1 + scale) + shift, atol=1e-5)


def test_convolution_keeps_the_size_as_flaxs_does():
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 5, 8))
    layer = nn.Conv(4, (3, 3))
    params = layer.init(jax.random.key(1), inputs)
    ours = unet._Convolution(4).apply(params, inputs)
    np.testing.assert_allclose(ours, layer.apply(params, inputs), atol=1e-5)


def test_patches_and_doubling_are_undone_and_exact():
    images = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    patches = pixels.to_patches(images, 2)
    assert patches.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(patches[1, 0, 2].reshape(2, 2, 3), images[1, :2, 4:])
    np.testing.assert_array_equal(pixels.from_patches(patches, 2), images)
    np.testing.assert_array_equal(pixels.doubled(images), images.repeat(2, axis=1).repeat(2, axis=2))


def test_flops_are_those_written_down():
    # One resolution of 2 x 2 places: first, two convolutions each way, last; time 16-32, told 32-32 and twice to 16.
    model = UNet(channels=(8,), patch_size=1, heads=0, groups=4)
    convolutions = 2 * 9 * 4 * (1 * 8 + 4 * 8 * 8 + 8 * 1)
    dense = 2 * (16 * 32 + 32 * 32 + 2 * 32 * 16)
    assert model.flops((2, 2, 1)) == convolutions + dense
    attention = 2 * 4 * (8 * 24 + 8 * 8) + 4 * 4 * 4 * 8
    assert model.clone(heads=2).flops((2, 2, 1)) == convolutions + dense + attention


def test_dropout_drops_in_training_alone():
    model = UNet(dropout=0.5, **SMALL)
    _, params, inputs, times = made(model)
    train = jax.jit(lambda rng: model.apply(params, inputs, times, train=True, rngs={"dropout": rng}))
    assert jnp.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 1e-3
    evaluated, without = (jax.jit(net.apply)(params, inputs, times) for net in (model, UNet(**SMALL)))
    np.testing.assert_allclose(evaluated, without, atol=1e-6)


def test_sizes_that_cannot_be_halved_are_refused_with_those_that_can():
    model = UNet(channels=(8, 8, 8), groups=4)
    message = "images of 28 x 30 .* must be multiples of 8, such as 32 x 32"
    with pytest.raises(UsageError, match=message):
        model.check_image_size(28, 30)
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 30, 1)), jnp.zeros(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (12,), "groups": 8}, "channels 12 can't be cut into 8 groups"),
        ({"channels": (24,), "heads": 5}, "channels 24 can't be cut into 5 heads"),
        ({"channels": ()}, "channels needs one number for each resolution"),
        ({"blocks": 0}, "blocks must be positive, not 0"),
        ({"heads": -1}, "can't be negative"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        UNet(**options)


def test_labels_and_classes_go_together():
    inputs, times = jnp.zeros((1, 8, 8, 1)), jnp.zeros(1)
    with pytest.raises(UsageError, match="a net of 3 classes needs labels"):
        jax.eval_shape(UNet(num_classes=3).init, jax.random.key(0), inputs, times)
    with pytest.raises(UsageError, match="labels for a net that has no classes"):
        jax.eval_shape(UNet().init, jax.random.key(0), inputs, times, jnp.zeros(1, jnp.int32))
