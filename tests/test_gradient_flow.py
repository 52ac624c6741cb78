"""Gradients by lag: against the derivative written out, and that of a linear recurrence, which is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.gradient_flow import gradient_norms
from jaxgen.models import Recurrent

BATCH, TIME, FEATURES, HIDDEN = 3, 5, 4, 6


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_it_is_the_norm_of_the_jacobian_times_the_direction(cell):
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, TIME, FEATURES)), jnp.float32)
    model = Recurrent(HIDDEN, cell)
    variables = model.init(jax.random.key(0), inputs)
    rng = jax.random.key(1)
    norms = gradient_norms(lambda x: model.apply(variables, x)[0], inputs, rng)

    jacobian = jax.jit(jax.jacrev(lambda x: model.apply(variables, x[None])[0][0, -1]))
    directions = np.asarray(jax.random.normal(rng, (BATCH, HIDDEN)))
    expected = np.zeros(TIME)
    for example, direction in zip(inputs, directions, strict=True):
        direction = direction / np.sqrt(np.sum(direction**2))
        for lag in range(TIME):
            gradient = direction @ np.asarray(jacobian(example))[:, TIME - 1 - lag]
            expected[lag] += np.sqrt(np.sum(gradient**2)) / BATCH
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


def test_a_recurrence_that_halves_its_state_halves_the_gradient_at_each_step():
    def read(inputs):
        def step(state, now):
            return (0.5 * state + now,) * 2

        _, states = jax.lax.scan(step, jnp.zeros(inputs[:, 0].shape), inputs.swapaxes(0, 1))
        return states.swapaxes(0, 1)

    norms = gradient_norms(read, np.ones((2, 8, 3), np.float32), jax.random.key(0))
    np.testing.assert_allclose(norms, 0.5 ** np.arange(8), rtol=1e-5)


def test_open_forget_gates_keep_what_an_elman_net_loses():
    inputs = np.random.default_rng(0).normal(size=(4, 60, 8)).astype(np.float32)
    reach = {}
    for cell in ("elman", "lstm"):
        model = Recurrent(16, cell, forget_bias=6.0)
        variables = model.init(jax.random.key(0), inputs)
        norms = gradient_norms(lambda x, m=model, v=variables: m.apply(v, x)[0], inputs, jax.random.key(1))
        reach[cell] = norms[-1] / norms[0]
    assert reach["lstm"] > 0.1 and reach["elman"] < 1e-4
