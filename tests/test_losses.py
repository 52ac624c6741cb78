"""Losses against scikit-learn, finite differences, and what must not change them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from jaxgen import losses
from jaxgen.errors import UsageError

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(12, 5)).astype(np.float32) * 3
LABELS = RNG.integers(0, 5, 12).astype(np.int32)
WEIGHTS = RNG.random(12).astype(np.float32)
TARGETS = RNG.normal(size=(12, 5)).astype(np.float32) * 3


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_cross_entropy_is_scikit_learns():
    expected = log_loss(LABELS, softmax(LOGITS.astype(np.float64)), sample_weight=WEIGHTS, labels=range(5))
    assert losses.cross_entropy(LOGITS, LABELS, WEIGHTS).compute() == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_cross_entropy_against_smoothed_targets():
    smoothed = 0.9 * np.eye(5)[LABELS] + 0.1 / 5
    expected = -(smoothed * np.log(softmax(LOGITS.astype(np.float64)))).sum(1).mean()
    assert losses.cross_entropy(LOGITS, LABELS, label_smoothing=0.1).compute() == pytest.approx(
        expected, rel=1e-5
    )
    with pytest.raises(UsageError, match=r"label_smoothing is 1\.0"):
        losses.cross_entropy(LOGITS, LABELS, label_smoothing=1.0)


def test_large_and_bfloat16_logits_stay_exact():
    large = losses.cross_entropy(LOGITS + 1e4, LABELS).compute()
    np.testing.assert_allclose(large, losses.cross_entropy(LOGITS, LABELS).compute(), atol=5e-3)
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    mean = losses.cross_entropy(half, LABELS)
    assert mean.total.dtype == jnp.float32
    np.testing.assert_allclose(
        mean.compute(), losses.cross_entropy(half.astype(jnp.float32), LABELS).compute()
    )


def test_squared_error_and_huber_are_numpys():
    difference = LOGITS - TARGETS
    weights = np.broadcast_to(WEIGHTS[:, None], difference.shape)
    assert losses.mean_squared_error(LOGITS, TARGETS).compute() == pytest.approx(
        (difference**2).mean(), rel=1e-5
    )
    expected = np.average(difference**2, weights=weights)
    assert losses.mean_squared_error(LOGITS, TARGETS, WEIGHTS).compute() == pytest.approx(expected, rel=1e-5)
    for delta in (0.5, 2.0):
        size = abs(difference)
        slow = np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
        found = losses.huber(LOGITS, TARGETS, WEIGHTS, delta).compute()
        assert found == pytest.approx(np.average(slow, weights=weights), rel=1e-5)
    assert losses.huber(LOGITS, TARGETS, delta=1e3).compute() == pytest.approx(
        (difference**2).mean() / 2, rel=1e-5
    )


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: losses.cross_entropy(x, LABELS, WEIGHTS),
        lambda x: losses.cross_entropy(x, LABELS, WEIGHTS, 0.2),
        lambda x: losses.mean_squared_error(x, TARGETS, WEIGHTS),
        lambda x: losses.huber(x, TARGETS, WEIGHTS, 0.7),
    ],
)
def test_gradient_is_that_of_finite_differences(loss):
    gradient = np.asarray(jax.grad(lambda x: loss(x).compute())(LOGITS))
    direction = np.random.default_rng(2).normal(size=LOGITS.shape).astype(np.float32)
    step = 1e-2
    ahead, behind = (float(loss(LOGITS + sign * step * direction).compute()) for sign in (1, -1))
    # Central differences of float32 values near 3: rounding 3e-7 / 2e-2.
    assert (gradient * direction).sum() == pytest.approx((ahead - behind) / (2 * step), abs=2e-3)


def test_padding_changes_neither_loss_nor_gradient():
    padded = np.concatenate([LOGITS, np.full((3, 5), np.nan, np.float32)])
    labels = np.concatenate([LABELS, np.full(3, -100, np.int32)])
    weights = np.concatenate([WEIGHTS, np.zeros(3, np.float32)])
    with_padding = losses.cross_entropy(padded, labels, weights)
    assert with_padding.compute() == losses.cross_entropy(LOGITS, LABELS, WEIGHTS).compute()
    targets = np.concatenate([TARGETS, np.zeros((3, 5), np.float32)])
    for loss, exact in (
        (
            lambda x: losses.cross_entropy(x, labels, weights),
            lambda x: losses.cross_entropy(x, LABELS, WEIGHTS),
        ),
        (
            lambda x: losses.mean_squared_error(x, targets, weights),
            lambda x: losses.mean_squared_error(x, TARGETS, WEIGHTS),
        ),
        (lambda x: losses.huber(x, targets, weights), lambda x: losses.huber(x, TARGETS, WEIGHTS)),
    ):
        gradient = jax.grad(lambda x, loss=loss: loss(x).compute())(padded)
        np.testing.assert_array_equal(gradient[12:], 0)
        expected = jax.grad(lambda x, exact=exact: exact(x).compute())(LOGITS)
        np.testing.assert_allclose(gradient[:12], expected, atol=1e-7)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(UsageError):
        losses.mean_squared_error(np.zeros((3, 1), np.float32), np.zeros(3, np.float32))
    with pytest.raises(UsageError, match="delta"):
        losses.huber(LOGITS, TARGETS, delta=0.0)
