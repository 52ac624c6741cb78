"""Copying: the mixture and its loss against NumPy, and their gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import losses
from jaxgen.models.copying import copying, log_copied, log_mixture

BATCH, TIME, SOURCE_TIME, VOCABULARY = 2, 3, 4, 6
RNG = np.random.default_rng(0)
SOURCE = np.array([[1, 4, 1, 2], [3, 3, 5, 0]], np.int32)
LABELS = np.array([[1, 2, 0], [3, 4, 5]], np.int32)
LOGITS, GATE, SCORES = (
    RNG.normal(size=(BATCH, TIME, *more)).astype(np.float32) for more in ((VOCABULARY,), (), (SOURCE_TIME,))
)
SCORES[1, :, 3] = -1e30  # padding


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def slow(logits, gate, scores):
    """All probabilities, in float64."""
    found = np.zeros(logits.shape)
    for row in range(BATCH):
        for place in range(TIME):
            part = 1 / (1 + np.exp(-gate[row, place]))
            found[row, place] = part * softmax(logits[row, place])
            for token, weight in zip(SOURCE[row], softmax(scores[row, place]), strict=True):
                found[row, place, token] += (1 - part) * weight
    return found


def slow_loss(logits, gate, scores):
    found = slow(logits, gate, scores)
    return -np.log(np.take_along_axis(found, LABELS[..., None], axis=-1)).mean()


def loss(logits, gate, scores):
    """With logits for features, so that the last layer is the identity."""
    told = copying(gate, scores)
    mixture = losses.Mixture(told.log_generate, log_copied(told, jnp.asarray(SOURCE), jnp.asarray(LABELS)))
    kernel, bias = jnp.eye(VOCABULARY), jnp.zeros(VOCABULARY)
    return losses.linear_cross_entropy(logits, kernel, bias, LABELS, mixture=mixture).compute()


def test_the_mixture_is_the_slow_one_and_a_distribution():
    expected = slow(*(leaf.astype(np.float64) for leaf in (LOGITS, GATE, SCORES)))
    for place in range(TIME):
        told = copying(jnp.asarray(GATE[:, place]), jnp.asarray(SCORES[:, place]))
        found = jnp.exp(log_mixture(jnp.asarray(LOGITS[:, place]), told, jnp.asarray(SOURCE)))
        np.testing.assert_allclose(found, expected[:, place], rtol=1e-5)
        np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)


def test_the_loss_is_the_slow_one_and_its_gradient_that_of_finite_differences():
    given = [leaf.astype(np.float64) for leaf in (LOGITS, GATE, SCORES)]
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(LOGITS, GATE, SCORES)
    assert value == pytest.approx(slow_loss(*given), rel=1e-5)
    for number, gradient in enumerate(gradients):
        for place in np.ndindex(gradient.shape):
            ends = []
            for change in (1e-5, -1e-5):
                changed = [leaf.copy() for leaf in given]
                changed[number][place] += change
                ends.append(slow_loss(*changed))
            assert gradient[place] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-5)


@pytest.mark.parametrize("gate", [-200.0, 200.0])
def test_sure_gates_and_scores_stay_finite(gate):
    """Where all is copied, or nothing, and the label isn't what is looked at."""
    gates, scores = np.full_like(GATE, gate), SCORES * 300
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(LOGITS, gates, scores)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in gradients)
