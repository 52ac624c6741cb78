"""Samplers against densities whose score is known, and against the steps of their papers written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UsageError
from jaxgen.generate.diffusion import guided, sample
from jaxgen.noise_schedules import Levels, levels, make_target

MEAN, DEVIATION = np.array([0.3, -0.6]), np.array([0.2, 0.5])
PAIRS = [("epsilon", "linear"), ("v", "cosine"), ("x0", "cosine"), ("flow", "straight"), ("flow", "cosine")]


def exact(target, schedule):
    """Predicts what the best net would, where images are normal: the expectations given the noisy image."""

    def predict(noisy, times):
        at = Levels(*(value[:, None] for value in levels(schedule, times)))
        variance = at.alpha**2 * DEVIATION**2 + at.sigma**2
        surplus = (noisy - at.alpha * MEAN) / variance
        images, noise = MEAN + at.alpha * DEVIATION**2 * surplus, at.sigma * surplus
        return make_target(target, images, noise, Levels(*(value[:, 0] for value in at)))

    return predict


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
@pytest.mark.parametrize(("target", "schedule"), PAIRS)
def test_exact_predictions_give_the_distribution(sampler, target, schedule):
    noise = jax.random.normal(jax.random.key(0), (4000, 2))
    samples = sample(
        exact(target, schedule),
        noise,
        jax.random.key(1),
        target=target,
        schedule=schedule,
        steps=600,
        sampler=sampler,
        clip=False,
    )
    np.testing.assert_allclose(samples.mean(axis=0), MEAN, atol=0.02)
    np.testing.assert_allclose(samples.std(axis=0), DEVIATION, rtol=0.04)


@pytest.mark.parametrize(("target", "schedule"), PAIRS)
def test_ddim_follows_the_known_path_of_a_normal_density(target, schedule):
    # The flow keeps the standardised value: what was one deviation off stays so.
    noise = jnp.array([[1.0, -2.0], [0.0, 0.5]])
    samples = sample(
        exact(target, schedule),
        noise,
        jax.random.key(1),
        target=target,
        schedule=schedule,
        steps=2000,
        clip=False,
    )
    np.testing.assert_allclose(samples, MEAN + DEVIATION * noise, atol=0.01)


def test_ddim_is_eulers_method_on_straight_lines():
    predict, steps = exact("flow", "straight"), 7
    noise = jax.random.normal(jax.random.key(0), (5, 2))
    expected = np.asarray(noise)
    for index in range(steps):
        velocity = predict(expected, jnp.full(5, 1 - index / steps))
        expected = expected - np.asarray(velocity) / steps
    samples = sample(
        predict, noise, jax.random.key(1), target="flow", schedule="straight", steps=steps, clip=False
    )
    np.testing.assert_allclose(samples, expected, atol=1e-5)


def test_ancestral_step_is_the_posterior_of_ddpm():
    # Ho et al. 2020, equation 7, with beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}.
    noise = jax.random.normal(jax.random.key(0), (5, 2))
    image = np.array([0.4, -0.1], np.float32)
    steps = 2
    options = {"target": "x0", "schedule": "cosine", "steps": steps, "sampler": "ancestral", "clip": False}
    end = sample(
        lambda noisy, times: jnp.broadcast_to(image, noisy.shape), noise, jax.random.key(1), **options
    )
    # The last step has no variance, and gives the predicted image.
    np.testing.assert_allclose(end, np.broadcast_to(image, (5, 2)), atol=2e-5)
    seen = []
    sample(
        lambda noisy, times: (
            jax.debug.callback(lambda x: seen.append(np.array(x)), noisy) or noisy * 0 + image
        ),
        jnp.tile(noise, (2000, 1)),
        jax.random.key(1),
        **options,
    )
    jax.effects_barrier()
    before, after = levels("cosine", jnp.array([1.0])), levels("cosine", jnp.array([0.5]))
    bar, bar_before = float(before.alpha[0]) ** 2, float(after.alpha[0]) ** 2
    beta = 1 - bar / bar_before
    mean = np.sqrt(bar_before) * beta / (1 - bar) * image + np.sqrt(1 - beta) * (1 - bar_before) / (
        1 - bar
    ) * np.asarray(noise)
    deviation = np.sqrt((1 - bar_before) / (1 - bar) * beta)
    rounds = seen[1].reshape(2000, 5, 2)
    np.testing.assert_allclose(rounds.mean(axis=0), mean, atol=0.06)
    np.testing.assert_allclose(rounds.std(axis=0), deviation, rtol=0.06)


def test_predicted_images_are_kept_in_range():
    noise = jax.random.normal(jax.random.key(0), (8, 2, 2, 1))
    for sampler in ("ddim", "ancestral"):
        samples = sample(
            lambda noisy, times: 5 * jnp.ones_like(noisy),
            noise,
            jax.random.key(1),
            target="x0",
            schedule="cosine",
            steps=3,
            sampler=sampler,
        )
        np.testing.assert_allclose(samples, 1, atol=2e-5)


def test_an_examples_draws_do_not_depend_on_the_others():
    noise = jax.random.normal(jax.random.key(0), (6, 2))
    options = {"target": "v", "schedule": "cosine", "steps": 4, "sampler": "ancestral"}
    whole, part = (
        sample(exact("v", "cosine"), rows, jax.random.key(1), **options) for rows in (noise, noise[:2])
    )
    np.testing.assert_allclose(whole[:2], part, atol=1e-6)


def test_guidance_of_one_and_zero_are_the_predictions_themselves():
    conditional, unconditional = jax.random.normal(jax.random.key(0), (2, 3, 4))
    np.testing.assert_allclose(guided(conditional, unconditional, 1.0), conditional, atol=1e-6)
    np.testing.assert_allclose(guided(conditional, unconditional, 0.0), unconditional, atol=1e-6)
    # Ho & Salimans 2022, equation 6, with w = 2.
    expected = 3 * conditional - 2 * unconditional
    np.testing.assert_allclose(guided(conditional, unconditional, 3.0), expected, atol=1e-5)


def test_impossible_requests_are_refused():
    options = {"target": "v", "schedule": "cosine"}
    with pytest.raises(UsageError, match="steps must be at least 1, not 0"):
        sample(exact("v", "cosine"), jnp.zeros((1, 2)), jax.random.key(0), steps=0, **options)
    with pytest.raises(UsageError, match=r"unknown sampler 'dim'; did you mean ddim\?"):
        sample(exact("v", "cosine"), jnp.zeros((1, 2)), jax.random.key(0), steps=1, sampler="dim", **options)
