"""The head that never has all logits at once, against the logits and their cross-entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import losses
from jaxgen.errors import UsageError

BATCH, TIME, WIDTH, VOCABULARY = 3, 7, 5, 11


@pytest.fixture(params=[1, 2, 7], ids="{} steps a chunk".format)
def chunked(request, monkeypatch):
    monkeypatch.setattr(losses, "_CHUNK_TOKENS", 1)
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", BATCH * VOCABULARY * request.param)


def case(dtype=np.float32):
    random = np.random.default_rng(0)
    hidden, kernel, bias = (
        jnp.asarray(random.normal(size=shape), dtype)
        for shape in ((BATCH, TIME, WIDTH), (WIDTH, VOCABULARY), (VOCABULARY,))
    )
    return (hidden, kernel, bias), random.integers(0, VOCABULARY, (BATCH, TIME))


def plainly(hidden, kernel, bias, labels, weights, label_smoothing=0.0, z_loss=0.0):
    logits = hidden @ kernel + bias
    mean = losses.cross_entropy(logits, labels, weights, label_smoothing)
    return mean + losses.Mean(
        losses.Mean.of(z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2, weights).total, 0.0
    )


@pytest.mark.parametrize("weights", [None, np.array([1.0, 0, 2]), np.eye(3, TIME) + 0.5])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.01}])
def test_head_is_that_with_logits_in_value_and_gradient(chunked, weights, options):
    params, labels = case()

    def objective(loss, *params):
        mean = loss(*params, labels, weights, **options)
        return 3 * mean.compute(), mean.count

    results = [
        jax.value_and_grad(lambda *p, loss=loss: objective(loss, *p), (0, 1, 2), has_aux=True)(*params)
        for loss in (losses.linear_cross_entropy, plainly)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


def test_value_alone_is_that_with_the_gradient(chunked):
    params, labels = case()
    value = losses.linear_cross_entropy(*params, labels).compute()
    expected, _ = jax.value_and_grad(lambda p: losses.linear_cross_entropy(*p, labels).compute())(params)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_padding_may_hold_anything(chunked):
    (hidden, kernel, bias), labels = case()
    weights = np.array([1.0, 1, 0])

    def gradients(hidden, labels):
        return jax.grad(lambda *p: losses.linear_cross_entropy(*p, labels, weights).compute(), (0, 1, 2))(
            hidden, kernel, bias
        )

    spoilt, wrong = hidden.at[2].set(jnp.nan), np.where(np.arange(BATCH)[:, None] == 2, 99, labels)
    jax.tree.map(np.testing.assert_array_equal, gradients(hidden, labels), gradients(spoilt, wrong))


def test_a_label_outside_of_the_vocabulary_is_noticed(chunked):
    params, labels = case()
    labels[0, 0] = VOCABULARY
    assert jnp.isnan(losses.linear_cross_entropy(*params, labels).compute())


@pytest.mark.parametrize("weights", [None, np.array([1.0, 0, 2])])
def test_a_mixture_is_that_with_logits_in_value_and_gradient(chunked, weights):
    (hidden, kernel, bias), labels = case()
    random = np.random.default_rng(1)
    gate, other = (jnp.asarray(random.normal(size=labels.shape), jnp.float32) for _ in range(2))
    other = jnp.where(other < -1, -1e30, other - 3)
    if weights is not None:
        labels[1] = -1

    def mixed(hidden, kernel, bias, gate, other):
        parts = losses.Mixture(jax.nn.log_sigmoid(gate), jax.nn.log_sigmoid(-gate) + other)
        mean = losses.linear_cross_entropy(hidden, kernel, bias, labels, weights, mixture=parts)
        return 3 * mean.compute(), mean.count

    def plainly_mixed(hidden, kernel, bias, gate, other):
        own = jnp.take_along_axis(jax.nn.softmax(hidden @ kernel + bias), labels[..., None], axis=-1)[..., 0]
        nats = -jnp.log(jax.nn.sigmoid(gate) * own + jax.nn.sigmoid(-gate) * jnp.exp(other))
        mean = losses.Mean.of(nats, weights)
        return 3 * mean.compute(), mean.count

    results = [
        jax.value_and_grad(loss, tuple(range(5)), has_aux=True)(hidden, kernel, bias, gate, other)
        for loss in (mixed, plainly_mixed)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)


def test_half_precision_is_near(chunked):
    params, labels = case()
    half, _ = case(jnp.bfloat16)
    exact = losses.linear_cross_entropy(*params, labels).compute()
    found, gradients = jax.value_and_grad(lambda p: losses.linear_cross_entropy(*p, labels).compute())(half)
    np.testing.assert_allclose(found, exact, rtol=0.02)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in gradients)


def test_tied_weights_have_the_gradient_of_both_uses():
    (_, kernel, bias), labels = case()

    def objective(embedding, loss):
        return loss(embedding[labels], embedding.T, bias, labels, None).compute()

    found, expected = (jax.grad(objective)(kernel.T, loss) for loss in (losses.linear_cross_entropy, plainly))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_large_vocabulary_takes_a_quarter_of_the_memory_of_logits():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, 100, 128), (128, 32_000), (32_000,))]
    labels = jax.ShapeDtypeStruct((64, 100), jnp.int32)

    def peak(loss):
        def objective(params, labels):
            return loss(*params, labels, None).compute()

        compiled = jax.jit(jax.grad(objective)).lower(tuple(shapes), labels).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert 4 * peak(losses.linear_cross_entropy) < peak(plainly)


_MIXTURE = losses.Mixture(jnp.zeros((BATCH, TIME)), jnp.zeros((BATCH, TIME)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"labels": np.zeros((2, 2), int)}, "shape"),
        ({"label_smoothing": 0.1, "mixture": _MIXTURE}, "are for a softmax alone, not for one with copying"),
        ({"z_loss": 0.1, "mixture": _MIXTURE}, "are for a softmax alone, not for one with copying"),
    ],
)
def test_impossible_arguments_are_one_line(change, message):
    params, labels = case()
    with pytest.raises(UsageError, match=message):
        losses.linear_cross_entropy(*params, **{"labels": labels, **change})
