"""Noise schedules against their papers' formulas, and the conversions between what a net may predict."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UsageError
from jaxgen.noise_schedules import (
    Levels,
    add_noise,
    check_target,
    levels,
    make_target,
    to_image,
    to_noise,
)

TIMES = np.linspace(0, 1, 21)
SCHEDULES = ("linear", "cosine", "straight")


def test_linear_is_what_the_betas_of_ddpm_multiply_up_to():
    # A finer ladder with the same total variance has the continuous schedule as its limit.
    steps = 100_000
    betas = np.linspace(0.1, 20, steps, dtype=np.float64) / steps
    products = np.cumprod(1 - betas)
    at = levels("linear", jnp.arange(10_000, steps + 1, 10_000) / steps)
    np.testing.assert_allclose(np.asarray(at.alpha) ** 2, products[9_999::10_000], rtol=3e-3)
    # Ho et al. 2020, with their 1000 steps: all but 0.00004 of the variance is noise at the end.
    assert np.prod(1 - np.linspace(1e-4, 0.02, 1000)) == pytest.approx(float(at.alpha[-1] ** 2), abs=1e-5)


def test_cosine_is_the_papers_equation():
    def f(times):
        return np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2

    at = levels("cosine", jnp.asarray(TIMES))
    expected = f(TIMES) / f(0)
    np.testing.assert_allclose(np.asarray(at.alpha) ** 2, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(np.asarray(at.sigma) ** 2, 1 - expected, rtol=1e-5, atol=1e-7)


def test_straight_lines_are_lines():
    at = levels("straight", jnp.asarray(TIMES, jnp.float32))
    np.testing.assert_allclose(at.alpha, 1 - TIMES, atol=1e-7)
    np.testing.assert_allclose(at.sigma, TIMES, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_go_from_the_image_to_noise(schedule):
    at = levels(schedule, jnp.linspace(0, 1, 1001))
    assert at.alpha[0] == 1
    assert at.sigma[0] == 0
    assert at.alpha[-1] < 0.01
    assert at.sigma[-1] > 0.999
    assert (jnp.diff(at.alpha) <= 0).all()
    assert (jnp.diff(at.sigma) >= 0).all()
    if schedule != "straight":
        np.testing.assert_allclose(at.alpha**2 + at.sigma**2, 1, atol=1e-6)
        assert at.alpha[-1] > 0  # epsilon is divided by it


def test_forward_marginals_have_the_mean_and_deviation_of_the_schedule():
    image = jnp.array([-0.5, 0.25])
    noise = jax.random.normal(jax.random.key(0), (20_000, 2))
    for schedule, time in itertools.product(SCHEDULES, (0.2, 0.7)):
        at = levels(schedule, jnp.full(20_000, time))
        noisy = add_noise(jnp.broadcast_to(image, noise.shape), noise, at)
        np.testing.assert_allclose(noisy.mean(axis=0), at.alpha[0] * image, atol=0.03)
        np.testing.assert_allclose(noisy.std(axis=0), np.full(2, at.sigma[0]), rtol=0.03)


@pytest.mark.parametrize("target", ["epsilon", "v", "x0", "flow"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_conversions_are_exact(target, schedule):
    images, noise = jax.random.normal(jax.random.key(1), (2, 9, 4, 4, 1))
    at = levels(schedule, jnp.linspace(0.1, 0.9, 9))
    noisy = add_noise(images, noise, at)
    predicted = make_target(target, images, noise, at)
    np.testing.assert_allclose(to_image(target, noisy, predicted, at), images, atol=2e-5)
    np.testing.assert_allclose(to_noise(noisy, images, at), noise, atol=2e-5)


def test_targets_are_their_papers():
    image, noise, at = jnp.array([[2.0]]), jnp.array([[3.0]]), Levels(jnp.array([0.6]), jnp.array([0.8]))
    expected = {"epsilon": 3.0, "x0": 2.0, "v": 0.6 * 3 - 0.8 * 2, "flow": 3.0 - 2.0}
    for target, value in expected.items():
        assert float(make_target(target, image, noise, at)[0, 0]) == pytest.approx(value, abs=1e-6)


def test_unknown_names_and_a_target_that_tells_nothing_are_refused():
    with pytest.raises(UsageError, match=r"unknown noise schedule 'cosin'; did you mean cosine\?"):
        levels("cosin", jnp.zeros(1))
    with pytest.raises(UsageError, match=r"unknown target 'eps'"):
        check_target("eps", "linear")
    with pytest.raises(UsageError, match="take the target flow, v or x0, or the schedule linear or cosine"):
        check_target("epsilon", "straight")
