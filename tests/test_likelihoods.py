"""Likelihoods and the divergence against SciPy, and their gradients where numbers are extreme."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxgen.errors import UsageError
from jaxgen.likelihoods import bernoulli_log_likelihood, divergence_from_prior, gaussian_log_likelihood

RNG = np.random.default_rng(0)
SHAPE = (5, 4, 3, 2)
LOGITS = RNG.normal(0, 3, SHAPE).astype(np.float32)
BITS = RNG.integers(0, 2, SHAPE).astype(np.float32)


def test_bernoulli_is_scipys():
    wanted = stats.bernoulli.logpmf(BITS, 1 / (1 + np.exp(-LOGITS.astype(np.float64)))).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(bernoulli_log_likelihood(LOGITS, BITS), wanted, rtol=1e-5)


@pytest.mark.parametrize("log_scale", [-3.0, 0.0, 1.5])
def test_gaussian_is_scipys(log_scale):
    values = RNG.normal(size=SHAPE).astype(np.float32)
    found = gaussian_log_likelihood(LOGITS, np.array(log_scale, np.float32), values)
    wanted = stats.norm.logpdf(values.astype(np.float64), LOGITS, np.exp(log_scale)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found, wanted, rtol=2e-5)


def test_divergence_is_the_integral():
    mean, log_variance = np.float32([[-1.5, 0.0, 2.0]]), np.float32([[-2.0, 0.0, 1.0]])
    found = divergence_from_prior(mean, log_variance)
    for place in range(3):
        posterior = stats.norm(mean[0, place], np.exp(log_variance[0, place] / 2))

        def integrand(x, posterior=posterior):
            return posterior.pdf(x) * (posterior.logpdf(x) - stats.norm.logpdf(x))

        assert found[0, place] == pytest.approx(integrate.quad(integrand, -20, 20)[0], abs=1e-6)


def test_divergence_near_the_prior_keeps_its_digits():
    """KL(N(0, exp(v)) || N(0, 1)) = v² / 4 + v³ / 12 + ...; exp(v) - 1 - v would be 0 or rounding in float32."""
    small = np.float32([[1e-3, -3e-3, 1e-2]])
    wanted = (np.expm1(small.astype(np.float64)) - small) / 2
    np.testing.assert_allclose(divergence_from_prior(0 * small, small), wanted, rtol=1e-3)


def test_extreme_logits_stay_finite_with_their_gradient():
    logits, bits = jnp.array([[200.0, -200.0, 200.0]]), jnp.array([[1.0, 0.0, 0.0]])
    value, gradient = jax.value_and_grad(lambda logits: bernoulli_log_likelihood(logits, bits).sum())(logits)
    assert value == -200
    np.testing.assert_allclose(gradient, [[0, 0, -1]], atol=1e-6)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(UsageError, match="don't fit"):
        bernoulli_log_likelihood(LOGITS, BITS[:, :1])
    with pytest.raises(UsageError, match="don't fit"):
        gaussian_log_likelihood(LOGITS, np.zeros(()), BITS[:, :1])
