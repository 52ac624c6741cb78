"""Objectives against the papers' formulas in NumPy, penalties against finite differences, diversity against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.adversarial_losses import (
    OBJECTIVES,
    distances_from_one,
    diversity,
    input_gradients,
    squared_norms,
)
from jaxgen.models import Discriminator

REAL, MADE = (np.random.default_rng(i).normal(size=7).astype(np.float32) for i in range(2))


def log_sigmoid(values):
    return -np.log1p(np.exp(-values))


EXPECTED = {
    "ns": (-log_sigmoid(REAL) - np.log(1 - np.exp(log_sigmoid(MADE))), -log_sigmoid(MADE)),
    "wgan-gp": (MADE - REAL, -MADE),
    "hinge": (np.maximum(0, 1 - REAL) + np.maximum(0, 1 + MADE), -MADE),
    "lsgan": (0.5 * (REAL - 1) ** 2 + 0.5 * MADE**2, 0.5 * (MADE - 1) ** 2),
    "relativistic-r1": (-log_sigmoid(REAL - MADE), -log_sigmoid(MADE - REAL)),
}


def test_every_objective_is_here():
    assert EXPECTED.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_are_the_papers(name):
    found = OBJECTIVES[name].discriminator(REAL, MADE), OBJECTIVES[name].generator(REAL, MADE)
    for ours, expected in zip(found, EXPECTED[name], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_pairs_read_the_real_logits_in_the_generators_turn(name):
    changed = np.any(OBJECTIVES[name].generator(REAL, MADE) != OBJECTIVES[name].generator(REAL + 1, MADE))
    assert changed == OBJECTIVES[name].pairs


@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize("penalty", [squared_norms, distances_from_one])
def test_penalties_are_finite_differences_in_value_and_gradient(penalty):
    """The gradient by pixels, by central differences of the logits; that by parameters, of the penalty itself."""
    with jax.enable_x64(True):
        model = Discriminator(0, (3, 4))
        images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
        params = model.init(jax.random.key(1), images.astype(jnp.float32))["params"]
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

        def logits_of(images, params):
            return model.apply({"params": params}, images), None

        def penalised(params):
            return penalty(input_gradients(lambda x: logits_of(x, params), images)[1]).sum()

        logits = jax.jit(lambda x: logits_of(x, params)[0])
        _, gradients, _ = input_gradients(lambda x: logits_of(x, params), images)
        for place in [(0, 1, 2, 0), (1, 7, 7, 0), (1, 4, 3, 0)]:
            step = jnp.zeros_like(images).at[place].set(1e-5)
            difference = (logits(images + step) - logits(images - step))[place[0]] / 2e-5
            np.testing.assert_allclose(gradients[place], difference, rtol=1e-5, atol=1e-9)
        value = penalised(params)
        squares = (np.asarray(gradients) ** 2).sum(axis=(1, 2, 3))
        expected = squares if penalty is squared_norms else (np.sqrt(squares) - 1) ** 2
        np.testing.assert_allclose(value, expected.sum(), rtol=1e-6)
        of_params = jax.jit(jax.grad(penalised))(params)
        compiled = jax.jit(penalised)
        for name in ("conv_0", "conv_1", "dense"):
            kernel = params[name]["kernel"]
            step = 1e-6 * jax.random.normal(jax.random.key(2), kernel.shape, jnp.float64)
            up, down = (
                compiled({**params, name: {**params[name], "kernel": kernel + sign * step}})
                for sign in (1, -1)
            )
            expected = (of_params[name]["kernel"] * step).sum()
            np.testing.assert_allclose((up - down) / 2, expected, rtol=1e-4, atol=1e-12)


def test_no_gradient_is_no_nan():
    gradient = jax.grad(lambda x: distances_from_one(x).sum())(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@pytest.mark.parametrize("conditional", [False, True])
def test_diversity_is_a_ratio_of_mean_distances(conditional):
    rng = np.random.default_rng(0)
    made, real = (rng.normal(size=(6, 2, 2, 1)).astype(np.float32) for _ in range(2))
    labels = np.array([0, 1, 0, 1, 0, 0]) if conditional else np.zeros(6, int)
    weights = np.array([1, 1, 1, 1, 0, 2.0])

    def mean_distance(images):
        kept = [i for i in range(6) if weights[i]]
        pairs = [(i, j) for i in kept for j in kept if i < j and labels[i] == labels[j]]
        return np.mean([np.linalg.norm(images[i] - images[j]) for i, j in pairs])

    given = jnp.asarray(labels, jnp.int32) if conditional else None
    found = diversity(jnp.asarray(made), jnp.asarray(real), given, jnp.asarray(weights))
    np.testing.assert_allclose(found.compute(), mean_distance(made) / mean_distance(real), rtol=1e-5)
    collapsed = diversity(jnp.zeros((6, 2, 2, 1)), jnp.asarray(real), given, jnp.asarray(weights))
    assert collapsed.compute() == 0
    twice = found + found
    np.testing.assert_allclose(twice.compute(), found.compute(), rtol=1e-6)
