"""What a bad step must not change: the two forms of the choice, and which platform gets which."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.train.gradients import apply_gradients, branch, select

PARAMS = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
GRADIENTS = jax.tree.map(lambda leaf: leaf / 3 + 1, PARAMS)


@pytest.mark.parametrize("finite", [True, False])
def test_both_forms_move_alike_and_stay_alike(finite):
    def move(gradients, params):
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients),)

    moved = move(GRADIENTS, PARAMS) if finite else (PARAMS,)
    for choose in (branch, select):
        found = choose(move, jnp.bool_(finite), GRADIENTS, PARAMS)
        jax.tree.map(np.testing.assert_array_equal, found, moved)


@pytest.mark.parametrize(("platform", "branches"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_only_cpus_branch(platform, branches):
    optimizer = optax.sgd(0.1, momentum=0.9)  # which chooses nothing itself

    def step(finite, gradients, params, opt_state):
        return apply_gradients(optimizer, gradients, opt_state, params, finite)

    arguments = (jnp.bool_(True), GRADIENTS, PARAMS, optimizer.init(PARAMS))
    program = jax.export.export(jax.jit(step), platforms=[platform])(*arguments).mlir_module()
    assert ("stablehlo.select" in program) != branches


@pytest.mark.parametrize("optimizer", [optax.rmsprop(0.1), optax.lion(0.1), optax.adam(0.1)])
def test_states_keep_their_dtypes_whatever_the_gradients_are(optimizer):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    opt_state = optimizer.init(params)
    new = apply_gradients(optimizer, GRADIENTS, opt_state, params, jnp.bool_(True))
    kinds = [jax.tree.map(lambda leaf: leaf.dtype, tree) for tree in (new, (params, opt_state))]
    assert kinds[0] == kinds[1]
    assert (new[0]["kernel"] != params["kernel"]).any()
