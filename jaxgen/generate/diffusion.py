"""Samplers of diffusion models: from noise to images in steps, as one function of noise and keys."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from jaxgen.errors import UsageError, unknown
from jaxgen.noise_schedules import Levels, levels, to_image, to_noise

Samples = Float[Array, "batch *axes"]
Predict = Callable[[Samples, Float[Array, " batch"]], Samples]
"""From noisy images and their times, the same for all, to the prediction."""

SAMPLERS = ("ddim", "ancestral")


def sample(
    predict: Predict,
    noise: Samples,
    rng: Key[Array, ""],
    *,
    target: str,
    schedule: str,
    steps: int,
    sampler: str = "ddim",
    clip: bool = True,
) -> Samples:
    """Takes noise at time 1 to images at time 0, in equal steps of time, as one scan.

    `ddim` draws nothing (Song et al. 2021, equation 12 with sigma = 0); on the straight schedule its step is Euler's
    method for the flow, exactly where nothing is clipped. `ancestral` draws each step from the posterior of the forward
    process given the predicted image (Ho et al. 2020, equations 6 and 7, for any two times).

    Args:
        predict: what the net predicts.
        noise: standard normal.
        rng: of what `ancestral` draws; each example has its own key.
        target: what is predicted, see `jaxgen.noise_schedules`.
        schedule: the noise schedule it was trained with.
        steps: calls of `predict`.
        sampler: `ddim` or `ancestral`.
        clip: whether predicted images are kept within -1 and 1.

    Raises:
        UsageError: for less than one step, or an unknown sampler.
    """
    if steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    batch = noise.shape[0]
    rngs = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, jnp.arange(batch))

    def step(samples: Samples, index: Array) -> tuple[Samples, None]:
        # From where there is noise: index counts down from steps to 1.
        now, then = (jnp.full(batch, i / steps, jnp.float32) for i in (index, index - 1))
        at, to = levels(schedule, now), levels(schedule, then)
        images = to_image(target, samples, predict(samples, now), at)
        images = jnp.clip(images, -1, 1) if clip else images
        if sampler == "ddim":
            return _move(images, to_noise(samples, images, at), to), None
        drawn = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), noise.shape[1:]))(rngs)
        return _posterior(samples, images, drawn, at, to), None

    return lax.scan(step, noise, jnp.arange(steps, 0, -1))[0]


def _move(images: Samples, noise: Samples, to: Levels) -> Samples:
    alpha, sigma = to.along(images)
    return alpha * images + sigma * noise


def _posterior(samples: Samples, images: Samples, drawn: Samples, at: Levels, to: Levels) -> Samples:
    """Draws from q(x_then | x_now, x0), which is normal."""
    alpha, sigma = at.along(samples)
    alpha_to, sigma_to = to.along(samples)
    ratio = alpha / alpha_to
    added = sigma**2 - ratio**2 * sigma_to**2  # variance of the noise between the two times
    mean = (ratio * sigma_to**2 * samples + alpha_to * added * images) / sigma**2
    return mean + jnp.sqrt(jnp.maximum(added, 0)) * sigma_to / sigma * drawn


def guided(conditional: Samples, unconditional: Samples, guidance: float) -> Samples:
    """Gives classifier-free guidance (Ho & Salimans 2022, equation 6, with guidance = 1 + w): 1 is the conditional
    prediction, 0 the unconditional one, more than 1 goes beyond the conditional one."""
    return unconditional + guidance * (conditional - unconditional)
