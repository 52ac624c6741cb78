"""How diffusion models mix images with noise, and what a net may predict of the mixture: conversions between these.

A noisy image is x = alpha x0 + sigma epsilon, where the time goes from 0 (the image) to 1 (noise).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UsageError, unknown

# Of the linear schedule: a thousand times the first and last variance of Ho et al. 2020.
_LEAST_BETA, _MOST_BETA = 0.1, 20.0
# Of the cosine schedule: its offset, and the least alpha squared, where the paper's is by its last, clipped step.
_OFFSET, _LEAST_ALPHA_SQUARED = 0.008, 2.4e-9


class Levels(NamedTuple):
    """How much of the image and of the noise there is: x = alpha x0 + sigma epsilon."""

    alpha: Float[Array, "*batch"]
    sigma: Float[Array, "*batch"]

    def along(self, images: Float[Array, "batch ..."]) -> "Levels":
        """Lays one alpha and sigma an example along the other axes of images."""
        return Levels(*(value.reshape(-1, *(1,) * (images.ndim - 1)) for value in self))


def _linear(times: Array) -> Levels:
    exponent = _LEAST_BETA * times + (_MOST_BETA - _LEAST_BETA) * times**2 / 2
    return Levels(jnp.exp(-exponent / 2), jnp.sqrt(-jnp.expm1(-exponent)))


def _cosine(times: Array) -> Levels:
    first, more = (_OFFSET / (1 + _OFFSET) * math.pi / 2, times / (1 + _OFFSET) * math.pi / 2)
    squared = jnp.clip((jnp.cos(first + more) / math.cos(first)) ** 2, _LEAST_ALPHA_SQUARED, 1)
    # One minus that, as a product, which keeps its digits where there is little noise.
    noise = jnp.sin(2 * first + more) * jnp.sin(more) / math.cos(first) ** 2
    return Levels(jnp.sqrt(squared), jnp.sqrt(jnp.minimum(noise, 1)))


def _straight(times: Array) -> Levels:
    return Levels(1 - times, times)


_SCHEDULES: dict[str, Callable[[Array], Levels]] = {
    "linear": _linear,
    "cosine": _cosine,
    "straight": _straight,
}
TARGETS = ("epsilon", "v", "x0", "flow")


def levels(schedule: str, times: Float[Array, "*batch"]) -> Levels:
    """Gives alpha and sigma at times from 0 to 1, float32.

    `linear`: the variance added at each step grows linearly (Ho et al. 2020), in continuous time as in Song et al.
    2021, equation 33. `cosine`: Nichol & Dhariwal 2021, equation 17. Both keep alpha^2 + sigma^2 = 1. `straight`: alpha
    = 1 - t and sigma = t, the straight lines of flow matching (Lipman et al. 2023, equation 22; Liu et al. 2023).

    Raises:
        UsageError: for an unknown schedule.
    """
    check_schedule(schedule)
    return _SCHEDULES[schedule](times)


def check_schedule(schedule: str) -> None:
    """Refuses an unknown schedule."""
    if schedule not in _SCHEDULES:
        raise unknown("noise schedule", schedule, _SCHEDULES)


def check_target(target: str, schedule: str) -> None:
    """Refuses an unknown target, and one that says nothing of the image at some time.

    Raises:
        UsageError: where it is either.
    """
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if target == "epsilon" and schedule == "straight":
        raise UsageError(
            "at the end of the straight schedule there is noise alone, from which epsilon tells nothing of the image: "
            "take the target flow, v or x0, or the schedule linear or cosine"
        )


def add_noise(images: Float[Array, "batch ..."], noise: Float[Array, "batch ..."], at: Levels) -> Array:
    """Gives alpha x0 + sigma epsilon, the forward process from 0 to a time in one step (Ho et al. 2020, equation 4)."""
    alpha, sigma = at.along(images)
    return alpha * images + sigma * noise


def make_target(
    target: str, images: Float[Array, "batch ..."], noise: Float[Array, "batch ..."], at: Levels
) -> Array:
    """Gives what the net is to predict.

    `epsilon`, the noise; `x0`, the image; `v`, alpha epsilon - sigma x0 (Salimans & Ho 2022, section 4); `flow`, the
    velocity epsilon - x0 (Lipman et al. 2023, equation 23, with their time reversed).
    """
    alpha, sigma = at.along(images)
    return {
        "epsilon": noise,
        "x0": images,
        "v": alpha * noise - sigma * images,
        "flow": noise - images,
    }[target]


def to_image(
    target: str, noisy: Float[Array, "batch ..."], predicted: Float[Array, "batch ..."], at: Levels
) -> Array:
    """Gives the image x0 that a prediction says there is in a noisy one."""
    alpha, sigma = at.along(noisy)
    if target == "epsilon":
        return (noisy - sigma * predicted) / alpha
    if target == "v":
        return (alpha * noisy - sigma * predicted) / (alpha**2 + sigma**2)
    return (noisy - sigma * predicted) / (alpha + sigma) if target == "flow" else predicted


def to_noise(noisy: Float[Array, "batch ..."], images: Float[Array, "batch ..."], at: Levels) -> Array:
    """Gives the noise epsilon that is in a noisy image beside x0, at times above 0."""
    alpha, sigma = at.along(noisy)
    return (noisy - alpha * images) / sigma
