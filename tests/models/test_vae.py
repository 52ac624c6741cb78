"""Variational autoencoders as modules: their layers against NumPy, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from jaxgen.errors import UsageError
from jaxgen.models import ConvolutionalVAE, DenseVAE

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def slow_convolution(images, params):
    """A 3 x 3 convolution with zeros around, channel by channel."""
    kernel = np.asarray(params["kernel"], np.float64)
    made = np.zeros((*images.shape[:3], kernel.shape[3])) + np.asarray(params["bias"])
    for image, out in zip(images, made, strict=True):
        for into in range(kernel.shape[2]):
            for of in range(kernel.shape[3]):
                out[:, :, of] += correlate(image[:, :, into], kernel[:, :, into, of], mode="same")
    return made


def silu(values):
    return values / (1 + np.exp(-values))


def blocks_of(images):
    """2 x 2 pixels as channels, row by row."""
    return np.concatenate([images[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=-1)


def test_the_convolutional_one_is_numpys():
    model = ConvolutionalVAE((8, 4, 1), 3, channels=(8,), blocks=1, width=6)
    images = normal(2, 8, 4, 1)
    params = jax.tree.map(
        lambda leaf: normal(*leaf.shape) / 4, model.init(jax.random.key(0), images)["params"]
    )
    posterior, decoded = jax.jit(lambda params: model.apply({"params": params}, images))(params)

    def block(hidden, params):
        return hidden + slow_convolution(
            silu(slow_convolution(silu(hidden), params["first"])), params["second"]
        )

    def dense(inputs, params):
        return inputs @ params["kernel"] + params["bias"]

    encoder, decoder = params["encoder"], params["decoder"]
    hidden = block(slow_convolution(blocks_of(images), encoder["down_0"]), encoder["block_0_0"])
    features = silu(dense(silu(hidden).reshape(2, -1), encoder["dense"]))
    mean, log_variance = np.split(dense(features, params["posterior"]), 2, axis=1)
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-4)
    np.testing.assert_allclose(posterior.log_variance, log_variance, atol=1e-4)
    hidden = dense(silu(dense(mean, decoder["dense_0"])), decoder["dense_1"]).reshape(2, 4, 2, 8)
    hidden = slow_convolution(silu(block(hidden, decoder["block_0_0"])), decoder["up_0"])
    np.testing.assert_allclose(blocks_of(np.asarray(decoded.outputs)), hidden, atol=1e-4)


def test_gated_units_are_numpys():
    model = DenseVAE((2, 3, 1), 2, widths=(4,), activation="glu")
    images = normal(5, 2, 3, 1)
    params = model.init(jax.random.key(0), images)["params"]
    encoder = params["encoder"]
    flat = images.reshape(5, -1)
    hidden = (flat @ encoder["hidden_0"]["kernel"]) / (1 + np.exp(-flat @ encoder["gate_0"]["kernel"]))
    posterior = model.apply({"params": params}, images, method="encode")
    np.testing.assert_allclose(posterior.mean, (hidden @ params["posterior"]["kernel"])[:, :2], atol=1e-5)


def test_classes_reach_encoder_and_decoder():
    images, latents = normal(2, 4, 4, 1), normal(2, 3)
    for model in (
        DenseVAE((4, 4, 1), 3, 2, widths=(5,)),
        ConvolutionalVAE((4, 4, 1), 3, 2, channels=(4,), width=5),
    ):
        params = model.init(jax.random.key(0), images, jnp.array([0, 1]))
        made = [
            model.apply(params, images, jnp.array(labels), method="encode").mean
            for labels in ([0, 1], [1, 1])
        ]
        changed = (made[0] != made[1]).any(axis=1)
        assert changed.tolist() == [True, False]
        made = [
            model.apply(params, latents, jnp.array(labels), method="decode").outputs
            for labels in ([0, 1], [1, 1])
        ]
        changed = (made[0] != made[1]).any(axis=(1, 2, 3))
        assert changed.tolist() == [True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DenseVAE((28, 28), 3), "image_shape is height, width and channels, not 28, 28"),
        (lambda: DenseVAE((8, 8, 1), 0), "num_latents must be positive"),
        (lambda: DenseVAE((8, 8, 1), 3, -1), "num_classes is -1"),
        (lambda: DenseVAE((8, 8, 1), 3, likelihood="poisson"), "poisson"),
        (lambda: DenseVAE((8, 8, 1), 3, activation="gated"), "gated"),
        (lambda: ConvolutionalVAE((28, 30, 1), 3), "28 x 30 can't be halved 2 times: give fewer stages"),
        (lambda: ConvolutionalVAE((8, 8, 1), 3, blocks=-1), "blocks is -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_images_and_labels_that_do_not_fit_are_refused():
    model = DenseVAE((4, 4, 1), 3, widths=(5,))
    params = model.init(jax.random.key(0), normal(2, 4, 4, 1))
    with pytest.raises(UsageError, match="images of 4 x 4 x 1, not 4 x 5 x 1"):
        model.apply(params, normal(2, 4, 5, 1))
    with pytest.raises(UsageError, match="knows no classes"):
        model.apply(params, normal(2, 3), jnp.array([0, 1]), method="decode")
