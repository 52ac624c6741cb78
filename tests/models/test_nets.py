"""The feed-forward and the convolutional net: shapes, counts, and the fast forms against the plain ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UsageError
from jaxgen.models import ConvNet, FeedForward
from jaxgen.models.layers import Dropout, hashed_bits
from jaxgen.parallel import batch_sharding, make_mesh
from jaxgen.train.state import count_parameters

RNG = np.random.default_rng(0)
IMAGES = RNG.random((6, 28, 28, 1)).astype(np.float32)


def params_of(model, inputs=IMAGES):
    return jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]


def test_standard_recipes_have_their_published_sizes():
    assert count_parameters(params_of(FeedForward())) == 101_770
    assert count_parameters(params_of(ConvNet())) == 225_034


class PlainNet(nn.Module):
    """Two stages of two convolutions, written out in Flax's own layers."""

    padding: str
    kernel_size: int

    @nn.compact
    def __call__(self, hidden):
        for name, features in (("conv_0", 3), ("conv_0_1", 3), ("conv_1", 4), ("conv_1_1", 4)):
            layer = nn.Conv(features, (self.kernel_size,) * 2, padding=self.padding, name=name)
            hidden = nn.relu(layer(hidden))
            if name.endswith("_1") and name != "conv_1":
                hidden = nn.max_pool(hidden, (2, 2), strides=(2, 2))
        return hidden.reshape(len(hidden), -1)


@pytest.mark.parametrize(("padding", "kernel_size"), [("VALID", 3), ("SAME", 3), ("SAME", 4)])
def test_several_convolutions_a_stage_are_flaxs(padding, kernel_size):
    model = ConvNet((3, 4), convolutions=2, kernel_size=kernel_size, padding=padding, widths=())
    variables = model.init(jax.random.key(0), IMAGES)
    params = dict(variables["params"])
    layer = params.pop("head")["output"]
    features = PlainNet(padding, kernel_size).apply({"params": params}, IMAGES)
    expected = features @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(model.apply(variables, IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_one_convolution_a_stage_has_the_parameters_it_always_had():
    assert sorted(params_of(ConvNet(batch_norm=True))) == ["conv_0", "conv_1", "head", "norm_0", "norm_1"]


@pytest.mark.parametrize("model", [FeedForward((8,)), ConvNet((3, 4), widths=(8,))])
def test_logits_are_float32_in_every_compute_dtype(model):
    variables = model.init(jax.random.key(0), IMAGES)
    exact = model.apply(variables, IMAGES)
    half = model.clone(dtype="bfloat16").apply(variables, IMAGES)
    assert exact.shape == half.shape == (6, 10)
    assert exact.dtype == half.dtype == jnp.float32
    np.testing.assert_allclose(exact, half, atol=0.05)
    assert (exact != half).any()


@pytest.mark.parametrize("model", [FeedForward((8,), dropout=0.5), ConvNet((2,), widths=(8,), dropout=0.5)])
def test_dropout_drops_in_training_alone(model):
    variables = model.init(jax.random.key(0), IMAGES)
    calm = model.apply(variables, IMAGES)
    np.testing.assert_array_equal(calm, model.apply(variables, IMAGES))
    first, second = (
        model.apply(variables, IMAGES, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2)
    )
    assert (first != second).any()
    assert (first != calm).any()


@pytest.mark.parametrize(
    "model", [FeedForward((8,), batch_norm=True), ConvNet((2,), widths=(8,), batch_norm=True)]
)
def test_batch_norm_gathers_statistics_and_leaves_padding_out(model):
    variables = model.init(jax.random.key(0), IMAGES)
    mask = np.array([1, 1, 1, 1, 0, 0], np.float32)

    def train(images, mask=None):
        return model.apply(variables, images, train=True, mask=mask, mutable=["batch_stats"])

    logits, updated = train(IMAGES, mask)
    expected, expected_updated = train(IMAGES[:4])
    np.testing.assert_allclose(logits[:4], expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(expected_updated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    before = variables["batch_stats"]
    assert any(
        (a != b).any()
        for a, b in zip(jax.tree.leaves(updated["batch_stats"]), jax.tree.leaves(before), strict=True)
    )


def test_a_net_ignores_the_rest_of_its_batch():
    """The gradient of one example's logits with respect to the other examples is zero."""
    for model in (FeedForward((8,)), ConvNet((2,), widths=(8,))):
        variables = model.init(jax.random.key(0), IMAGES)
        gradient = jax.grad(lambda x, v=variables, m=model: m.apply(v, x)[2].sum())(IMAGES)
        assert (gradient[2] != 0).any()
        np.testing.assert_array_equal(np.delete(gradient, 2, axis=0), 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeedForward(activation="rellu"), "unknown activation 'rellu'; did you mean relu"),
        (lambda: FeedForward(widths=(0,)), "widths must be positive"),
        (lambda: FeedForward(num_classes=0), "num_classes must be positive"),
        (lambda: FeedForward(dropout=1.0), "dropout is 1.0"),
        (lambda: FeedForward(dtype="int32"), "dtype 'int32'"),
        (lambda: ConvNet(pooling="mean"), "unknown pooling 'mean'"),
        (lambda: ConvNet(padding="SMAE"), "unknown padding 'SMAE'; did you mean SAME"),
        (lambda: ConvNet(convolutions=0), "convolutions must be positive, not 0"),
        (lambda: params_of(ConvNet(convolutions=3), IMAGES[:, :16, :16]), "images of 16 x 16 are too small"),
        (lambda: params_of(ConvNet(), IMAGES[:, :8, :8]), "images of 8 x 8 are too small"),
    ],
)
def test_impossible_fields_are_one_line(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_dropout_drops_its_part_and_keeps_the_mean():
    inputs = jnp.ones((200, 101))
    dropout = Dropout(0.3)
    outputs = dropout.apply({}, inputs, train=True, rngs={"dropout": jax.random.key(0)})
    dropped = np.asarray(outputs == 0)
    assert dropped.mean() == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / dropped.size) ** 0.5)
    np.testing.assert_allclose(outputs[~dropped], 1 / 0.7, rtol=1e-4)
    np.testing.assert_array_equal(dropout.apply({}, inputs, train=False), inputs)
    other = dropout.apply({}, inputs, train=True, rngs={"dropout": jax.random.key(1)})
    assert (np.asarray(other == 0) != dropped).any()


def test_hashed_bits_are_even_and_know_nothing_of_each_other():
    """Each bit is set half of the time; so is each after a change of the place by one step, the key, or the step."""
    shape = (64, 50, 37)
    bits = np.asarray(hashed_bits(jax.random.key(3), shape))
    others = {
        "key": np.asarray(hashed_bits(jax.random.key(4), shape)),
        "step": np.asarray(hashed_bits(jax.random.fold_in(jax.random.key(3), 1), shape)),
        **{f"axis {axis}": np.roll(bits, 1, axis) for axis in range(3)},
    }
    bound = 5 * 0.5 / bits.size**0.5
    for name, other in {"itself": np.zeros_like(bits), **others}.items():
        for bit in range(32):
            shares = [(((bits ^ other) >> bit) & 1).mean(), (((bits >> 7) ^ (other >> bit)) & 1).mean()]
            wanted = [0.5, 0.5 if (name, bit) != ("itself", 7) else shares[1]]
            np.testing.assert_allclose(shares, wanted, atol=bound, err_msg=f"{name}, bit {bit}")
    counts = np.bincount((bits >> 24).ravel(), minlength=256)
    expected = bits.size / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * (2 * 255) ** 0.5


def test_hashed_bits_are_functions_of_the_place():
    """So each device makes its part, and a batch of more rows has the same bits in those that both have."""
    whole = hashed_bits(jax.random.key(0), (16, 5, 6))
    np.testing.assert_array_equal(hashed_bits(jax.random.key(0), (4, 5, 6)), whole[:4])
    mesh = make_mesh()
    cut = jax.jit(lambda rng: hashed_bits(rng, (16, 5, 6)), out_shardings=batch_sharding(mesh))
    np.testing.assert_array_equal(cut(jax.random.key(0)), whole)
