import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.errors import UsageError
from jaxgen.metrics import Mean
from jaxgen.parallel import pmap_step
from jaxgen.train.context import Outputs
from jaxgen.train.state import TrainState
from jaxgen.train.step import make_train_step

BATCH = 8


class Running:
    """A sum that is carried along; the step is tested in tests/train."""

    def init(self, rng, example):
        return {"scale": jnp.ones(2)}, {}

    def initial_carry(self, batch_size):
        return {"sum": jnp.zeros((batch_size, 2))}

    def loss(self, params, model_state, carry, batch, context):
        total = carry["sum"] + batch["x"]
        terms = {"squares": Mean.of((params["scale"] * total) ** 2)}
        return terms, Outputs({"places": Mean.of(context.places)}, model_state, {"sum": total})


def make(devices=None):
    optimizer = optax.sgd(0.1, momentum=0.9)
    batch = {"x": np.arange(2 * BATCH, dtype=np.float32).reshape(BATCH, 2)}
    state = TrainState.create(Running(), optimizer, jax.random.key(0), batch)
    step = make_train_step(Running().loss, optimizer, axis_name="batch")
    return pmap_step(step, devices=devices), state, batch


def test_states_keep_their_global_layout():
    step, state, batch = make()
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    first = state
    for count in (1, 2):
        state, metrics = step(state, batch)
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == shapes
        np.testing.assert_array_equal(state.carry["sum"], count * batch["x"])
    assert state.carry["sum"].sharding.shard_shape((BATCH, 2)) == (1, 2)
    assert state.params["scale"].sharding.is_fully_replicated
    assert jnp.issubdtype(state.rng.dtype, jax.dtypes.prng_key)
    assert metrics["places"].total.shape == () and metrics["places"].compute() == (BATCH - 1) / 2
    del first


def test_the_state_is_donated():
    step, state, batch = make()
    state, _ = step(state, batch)
    step(state, batch)
    assert state.params["scale"].is_deleted() and state.opt_state[0].trace["scale"].is_deleted()


def test_some_of_the_devices():
    step, state, batch = make(jax.devices()[4:6])
    state, _ = step(state, batch)
    assert state.carry["sum"].devices() == set(jax.devices()[4:6])
    np.testing.assert_array_equal(state.carry["sum"], batch["x"])


def test_a_step_for_another_axis_or_for_none_is_refused():
    """Mapped all the same, it would train on the first device's rows alone."""
    for axis_name in (None, "data"):
        step = make_train_step(Running().loss, optax.sgd(0.1), axis_name=axis_name)
        with pytest.raises(UsageError, match=f"made with axis_name={axis_name!r}.*axis_name='batch'"):
            pmap_step(step)


def test_a_batch_that_does_not_divide_is_refused():
    step, state, batch = make()
    with pytest.raises(UsageError, match=r"^a batch of 6 can't be shared out equally over 8 devices$"):
        step(state, {"x": batch["x"][:6]})
