"""Metrics against scikit-learn and plain NumPy, and the property that makes them sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score, top_k_accuracy_score

from jaxgen import metrics
from jaxgen.errors import UsageError


def examples(number=50, classes=7, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(number, classes)).astype(np.float32) * 2
    return logits, rng.integers(0, classes, number).astype(np.int32), rng.random(number).astype(np.float32)


LOGITS, LABELS, WEIGHTS = examples()
KINDS = {
    "accuracy": lambda rows, w: metrics.accuracy(LOGITS[rows], LABELS[rows], w),
    "top_3": lambda rows, w: metrics.top_k_accuracy(LOGITS[rows], LABELS[rows], 3, w),
    "calibration": lambda rows, w: metrics.calibration_error(LOGITS[rows], LABELS[rows], w),
    "r2": lambda rows, w: metrics.r2(LOGITS[rows, 0], LOGITS[rows, 0] + LOGITS[rows, 1], w),
}


@pytest.mark.parametrize("kind", KINDS)
def test_adding_the_parts_gives_the_whole(kind):
    whole = KINDS[kind](slice(None), WEIGHTS)
    parts = [KINDS[kind](slice(a, b), WEIGHTS[a:b]) for a, b in ((0, 1), (1, 20), (20, 50))]
    np.testing.assert_allclose((parts[0] + parts[1] + parts[2]).compute(), whole.compute(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_weight_zero_change_nothing(kind):
    weights = np.where(np.arange(50) < 30, 1, 0).astype(np.float32)
    expected = KINDS[kind](slice(0, 30), None).compute()
    np.testing.assert_allclose(KINDS[kind](slice(None), weights).compute(), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_host_and_device_sums_give_the_same_figure(kind):
    device = KINDS[kind](slice(None), WEIGHTS)
    host = jax.device_get(device)
    assert not isinstance(host.compute(), jax.Array)
    np.testing.assert_allclose(host.compute(), device.compute(), rtol=1e-6)


def test_mean_is_weighted_and_empty_is_zero():
    mean = metrics.Mean.of(np.array([[1.0, 3.0], [5.0, 7.0]]), np.array([1.0, 3.0]))
    assert mean.compute() == pytest.approx((1 + 3 + 3 * (5 + 7)) / 8)
    assert metrics.Mean.of(np.array([np.nan, 2.0]), np.array([0.0, 1.0])).compute() == 2
    empty = metrics.Mean.of(np.ones(3), np.zeros(3))
    assert empty.compute() == 0
    assert jax.grad(lambda total: metrics.Mean(total, jnp.float32(0)).compute())(1.0) == 0


@given(
    st.lists(
        st.tuples(st.floats(-100, 100, width=32), st.floats(0, 10, width=32, allow_subnormal=False)),
        min_size=1,
        max_size=30,
    )
)
@settings(deadline=None, max_examples=30)
def test_mean_is_numpys_average(rows):
    values, weights = np.array(rows, np.float32).T
    expected = np.average(values, weights=weights) if weights.sum() > 0 else 0.0
    np.testing.assert_allclose(metrics.Mean.of(values, weights).compute(), expected, rtol=1e-3, atol=1e-2)


def test_accuracy_and_top_k_are_scikit_learns():
    assert metrics.accuracy(LOGITS, LABELS).compute() == pytest.approx(np.mean(LOGITS.argmax(1) == LABELS))
    for k in (1, 3, 6):
        expected = top_k_accuracy_score(LABELS, LOGITS, k=k, sample_weight=WEIGHTS, labels=range(7))
        assert metrics.top_k_accuracy(LOGITS, LABELS, k, WEIGHTS).compute() == pytest.approx(
            expected, abs=1e-6
        )


def test_top_k_counts_ties_and_nan_against_the_model():
    labels = np.zeros(2, np.int32)
    assert metrics.top_k_accuracy(np.zeros((2, 5), np.float32), labels, 4).compute() == 0
    assert metrics.top_k_accuracy(np.full((2, 5), np.nan, np.float32), labels, 4).compute() == 0
    with pytest.raises(UsageError, match="between 1 and the 5"):
        metrics.top_k_accuracy(np.zeros((2, 5), np.float32), labels, 6)


def test_calibration_error_is_the_slow_one():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    confidence, right = probabilities.max(1), LOGITS.argmax(1) == LABELS
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    assert metrics.calibration_error(LOGITS, LABELS).compute() == pytest.approx(expected, abs=1e-5)
    sure = np.where(np.eye(7)[LABELS] > 0, 50.0, 0.0).astype(np.float32)
    assert metrics.calibration_error(sure, LABELS).compute() == pytest.approx(0, abs=1e-6)
    assert metrics.calibration_error(sure, (LABELS + 1) % 7).compute() == pytest.approx(1, abs=1e-6)


def test_r2_is_scikit_learns():
    rng = np.random.default_rng(1)
    targets = rng.normal(150, 77, 200).astype(np.float32)
    predictions = (targets + rng.normal(0, 40, 200)).astype(np.float32)
    weights = rng.random(200).astype(np.float32)
    expected = r2_score(targets, predictions, sample_weight=weights)
    assert metrics.r2(predictions, targets, weights).compute() == pytest.approx(expected, abs=1e-5)
    far = metrics.r2(predictions + 1e5, targets + 1e5, weights, offset=1e5).compute()
    assert far == pytest.approx(expected, abs=1e-3)


def test_r2_of_constant_targets():
    constant = np.full(4, 3.0, np.float32)
    assert metrics.r2(constant, constant).compute() == 1
    assert metrics.r2(constant + 1, constant).compute() == 0


def test_shapes_that_would_broadcast_are_refused():
    """The annotations refuse them first in the tests; without those, and for users, the checks do."""
    with pytest.raises(UsageError, match="labels of shape"):
        metrics.check_labels(LOGITS, LABELS[:, None])
    with pytest.raises(UsageError, match="don't fit"):
        metrics.r2(np.zeros((3, 1), np.float32), np.zeros(3, np.float32))
    with pytest.raises(UsageError, match="weights of shape"):
        metrics.accuracy(LOGITS, LABELS, np.ones(7))
