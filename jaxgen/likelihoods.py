"""Log likelihoods of pixels and divergences of Gaussians: pure functions that give nats an example, in float32."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxgen.metrics import AnyArray, check_same_shape

_LOG_TWO_PI = math.log(2 * math.pi)


def bernoulli_log_likelihood(
    logits: Float[AnyArray, "batch *shape"],  # noqa: F821
    values: Shaped[AnyArray, "..."],
) -> Float[Array, " batch"]:
    """Gives the log probability of values that are 0 or 1, each of the probability sigmoid(logit), summed over them.

    Raises:
        UsageError: if the shapes differ.
    """
    check_same_shape(logits, values)
    logits, values = jnp.asarray(logits, jnp.float32), jnp.asarray(values, jnp.float32)
    return _sum_of_each(values * logits - jax.nn.softplus(logits))


def gaussian_log_likelihood(
    means: Float[AnyArray, "batch *shape"],  # noqa: F821
    log_scale: Float[AnyArray, "..."],
    values: Float[AnyArray, "..."],
) -> Float[Array, " batch"]:
    """Gives the log density of values under independent Gaussians, summed over them.

    Args:
        means: of the Gaussians.
        log_scale: logarithm of their standard deviations, of a shape that broadcasts.
        values: where the density is asked for.

    Raises:
        UsageError: if the shapes of means and values differ.
    """
    check_same_shape(means, values)
    log_scale = jnp.asarray(log_scale, jnp.float32)
    standardised = (jnp.asarray(values, jnp.float32) - jnp.asarray(means, jnp.float32)) * jnp.exp(-log_scale)
    return _sum_of_each(-0.5 * (standardised**2 + _LOG_TWO_PI) - log_scale)


def divergence_from_prior(
    mean: Float[AnyArray, "batch latents"], log_variance: Float[AnyArray, "batch latents"]
) -> Float[Array, "batch latents"]:
    """Gives KL(N(mean, variance) || N(0, 1)) of each latent (Kingma & Welling 2014, appendix B)."""
    mean, log_variance = jnp.asarray(mean, jnp.float32), jnp.asarray(log_variance, jnp.float32)
    # expm1, since near the prior the difference of exponential and 1 would have lost its digits.
    return 0.5 * (mean**2 + (jnp.expm1(log_variance) - log_variance))


def _sum_of_each(values: Float[Array, "batch *shape"]) -> Float[Array, " batch"]:  # noqa: F821
    return values.reshape(values.shape[0], -1).sum(axis=1)
