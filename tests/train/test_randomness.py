"""Exceptions to "the same function in every way", as what they are: batch norm and dropout.

The third one, mixup, is in `test_augmented_step.py`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, DEVICES, MICROBATCHES, Problem, assert_close, compiled, plain, run

from jaxgen.metrics import Mean
from jaxgen.train.context import Context, Outputs

WIDTH = 64
KEEP = 0.75


class Normalised(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs, train):
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axis_name)
        hidden = jnp.tanh(norm(nn.Dense(5, name="hidden")(inputs)))
        return nn.Dense(1, name="output")(hidden)[:, 0]


def normalised():
    """Regression with Flax's own batch norm, which counts every row."""

    def loss(params, model_state, carry, batch, context):
        model = Normalised(context.axis_name)
        variables = {"params": params, **model_state}
        predicted, new = model.apply(variables, batch["x"], context.train, mutable=["batch_stats"])
        values = (predicted - batch["x"][:, 0]) ** 2
        return {"squares": Mean.of(values, batch["weight"])}, Outputs({}, dict(new), carry)

    batches = plain().batches
    variables = Normalised().init(jax.random.key(0), batches[0]["x"], False)
    params, model_state = variables["params"], {"batch_stats": variables["batch_stats"]}
    return Problem(loss, params, batches, optax.sgd(0.3), model_state=model_state)


def test_batch_norm_is_global_over_devices_but_per_microbatch():
    whole, divided = run(normalised()), run(normalised(), accumulate=MICROBATCHES)
    for way in ("mesh", "pmap"):
        assert_close(run(normalised(), way), whole)
        assert_close(run(normalised(), way, accumulate=MICROBATCHES), divided)
    assert np.abs(whole[0].params["hidden"]["kernel"] - divided[0].params["hidden"]["kernel"]).max() > 1e-3


def test_batch_norm_moves_its_averages_by_one_microbatch_after_the_other():
    problem = normalised()
    step, state, _ = compiled(problem, "mesh", accumulate=MICROBATCHES)
    batch = problem.batches[0]
    state, _ = step(state, batch)
    hidden = batch["x"] @ problem.params["hidden"]["kernel"]  # the bias starts at zero
    mean = np.zeros(5, np.float32)
    for part in range(MICROBATCHES):
        mean = 0.9 * mean + 0.1 * hidden[part::MICROBATCHES].mean(axis=0)
    assert_close(np.asarray(state.model_state["batch_stats"]["BatchNorm_0"]["mean"]), mean)


def dropout():
    """Dropout inside activations; the carry shows the mask of the last step."""

    def loss(params, model_state, carry, batch, context):
        layer = nn.Dropout(1 - KEEP, deterministic=not context.train)
        mask = layer.apply({}, jnp.ones((len(batch["x"]), WIDTH)), rngs={"dropout": context.block_rng()})
        values = ((mask @ params["output"]) - batch["x"][:, 0]) ** 2
        return {"squares": Mean.of(values, batch["weight"])}, Outputs({}, model_state, mask)

    params = {"output": np.full(WIDTH, 0.1, np.float32)}
    return Problem(loss, params, plain().batches, optax.sgd(0.01), lambda size: jnp.zeros((size, WIDTH)))


@pytest.fixture(scope="module")
def masks():
    """The masks of a step in several ways, as 0 and 1, [batch, width]."""
    found = {}
    for way, accumulate in [
        ("single", 1),
        ("mesh", 1),
        ("pmap", 1),
        ("single", MICROBATCHES),
        ("pmap", MICROBATCHES),
    ]:
        step, state, _ = compiled(dropout(), way, accumulate=accumulate)
        state, _ = step(state, dropout().batches[0])
        first = np.asarray(state.carry) > 0
        state, _ = step(state, dropout().batches[1])
        assert (first != (np.asarray(state.carry) > 0)).any(), "another mask in every step"
        found[way, accumulate] = first
    return found


def test_dropout_is_equal_on_a_mesh(masks):
    np.testing.assert_array_equal(masks["mesh", 1], masks["single", 1])
    assert_close(run(dropout(), "mesh"), run(dropout()))


@pytest.mark.parametrize("way", [("pmap", 1), ("single", MICROBATCHES), ("pmap", MICROBATCHES)])
def test_dropout_is_equal_in_distribution_elsewhere(masks, way):
    mask = masks[way]
    assert (mask != masks["single", 1]).any()
    # 2,048 draws: the standard deviation of their mean is 0.0096.
    assert abs(mask.mean() - KEEP) < 0.04
    blocks = [mask]
    if way[0] == "pmap":
        blocks = [part for block in blocks for part in np.split(block, DEVICES)]
    if way[1] > 1:
        blocks = [block[part::MICROBATCHES] for block in blocks for part in range(MICROBATCHES)]
    assert len({block.tobytes() for block in blocks}) == len(blocks), "two blocks have the same mask"


def test_keys_of_examples_and_blocks_all_differ():
    context = Context(jax.random.key(0), jnp.int32(0), jnp.arange(BATCH), train=True)
    examples = jax.random.key_data(context.example_rngs())
    blocks = [context.replace(places=context.places[first:]).block_rng() for first in range(0, BATCH, 4)]
    keys = np.concatenate([examples, [jax.random.key_data(block) for block in blocks]])
    assert len(np.unique(keys, axis=0)) == BATCH + len(blocks)
    part = context.replace(places=context.places[5:8]).example_rngs()
    np.testing.assert_array_equal(jax.random.key_data(part), examples[5:8])
