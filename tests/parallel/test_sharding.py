import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.errors import UsageError
from jaxgen.models import FeedForward
from jaxgen.parallel import batch_sharding, check_batch_size, make_mesh, put_batch, put_state, state_shardings
from jaxgen.tasks import ImageClassification
from jaxgen.train.gradients import RowOptimizer, RowSGD
from jaxgen.train.players import Player, Players
from jaxgen.train.state import TrainState
from jaxgen.train.step import make_train_step

RULES = ((r"kernel$", P("fsdp", "tensor")), (r"table$", P(("fsdp", "tensor"))), (r".*", P()))


def make_state(params, optimizer, carry=(), ema=True):
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        model_state={"kernel": jnp.zeros((4, 8))},
        carry=carry,
        ema_params=params if ema else None,
        rng=jax.random.key(0),
    )


def specs(tree):
    return jax.tree.map(lambda sharding: sharding.spec, tree)


def test_a_mesh_has_all_devices_on_data_unless_told_otherwise():
    assert dict(make_mesh().shape) == {"data": 8}
    assert dict(make_mesh(jax.devices()[2:5]).shape) == {"data": 3}
    assert make_mesh(jax.devices()[2:5]).devices.tolist() == jax.devices()[2:5]
    assert dict(make_mesh(axes={"data": 2, "fsdp": 4}).shape) == {"data": 2, "fsdp": 4}
    with pytest.raises(UsageError, match=r"^a mesh of data 2 x fsdp 3 takes 6 devices, not 8$"):
        make_mesh(axes={"data": 2, "fsdp": 3})


def test_today_every_device_holds_every_parameter():
    state = make_state(
        {"hidden": {"kernel": jnp.zeros((4, 8))}}, optax.adam(0.1), carry={"h": jnp.zeros((8, 2))}
    )
    shardings = state_shardings(state, make_mesh())
    assert specs(shardings.carry) == {"h": P("data")}
    rest = jax.tree.leaves(shardings.replace(carry=()))
    assert len(rest) == len(jax.tree.leaves(state)) - 1 and all(s.is_fully_replicated for s in rest)
    placed = put_state(state, make_mesh())
    assert placed.carry["h"].sharding.shard_shape((8, 2)) == (1, 2)
    assert jnp.issubdtype(placed.rng.dtype, jax.dtypes.prng_key) and placed.rng.sharding.is_fully_replicated


def test_the_optimizer_and_the_average_lie_like_their_parameter():
    params = {"hidden": {"kernel": jnp.zeros((4, 8)), "bias": jnp.zeros(8)}, "table": jnp.zeros((16, 3))}
    mesh = make_mesh(axes={"fsdp": 4, "tensor": 2})
    shardings = state_shardings(make_state(params, optax.adam(0.1)), mesh, RULES)
    kernel = P("fsdp", "tensor")
    expected = {"hidden": {"kernel": kernel, "bias": P()}, "table": P(("fsdp", "tensor"))}
    for tree in (
        shardings.params,
        shardings.ema_params,
        shardings.opt_state[0].mu,
        shardings.opt_state[0].nu,
    ):
        assert specs(tree) == expected
    assert shardings.opt_state[0].count.spec == P()
    assert specs(shardings.model_state) == {"kernel": P()}, "what is no parameter follows no rule"
    factored = state_shardings(make_state(params, optax.sm3(0.1), ema=False), mesh, RULES)
    assert specs(factored.opt_state[0].mu)["hidden"]["kernel"][0] == P(), "another shape than the parameter's"
    assert factored.ema_params is None


def test_axes_that_the_mesh_lacks_are_left_out():
    params = {"hidden": {"kernel": jnp.zeros((4, 8))}, "table": jnp.zeros((16, 3))}
    state = make_state(params, optax.sgd(0.1))
    shardings = state_shardings(state, make_mesh(axes={"data": 4, "tensor": 2}), RULES)
    assert specs(shardings.params) == {"hidden": {"kernel": P(None, "tensor")}, "table": P("tensor")}
    assert all(s.is_fully_replicated for s in jax.tree.leaves(state_shardings(state, make_mesh(), RULES)))


def test_rules_find_the_parameters_of_players_and_row_optimizers():
    params = {"judge": {"kernel": jnp.zeros((4, 8))}, "table": jnp.zeros((16, 3))}
    mesh = make_mesh(axes={"fsdp": 4, "tensor": 2})
    players = Players([Player("judge", lambda *a: None, optax.adam(0.1))])
    shardings = state_shardings(make_state(params, players), mesh, RULES)
    assert specs(shardings.opt_state["judge"][0].mu) == {"judge": {"kernel": P("fsdp", "tensor")}}
    by_row = RowOptimizer({"table": RowSGD(0.1)}, optax.adam(0.1))
    shardings = state_shardings(make_state(params, by_row), mesh, RULES)
    assert specs(shardings.opt_state["rest"][0].mu) == {"judge": {"kernel": P("fsdp", "tensor")}}


@pytest.mark.parametrize(("shape", "rule"), [((6, 8), P("fsdp")), ((8,), P(None, "fsdp"))])
def test_a_rule_that_does_not_fit_is_named(shape, rule):
    state = make_state({"hidden": {"kernel": jnp.zeros(shape)}}, optax.sgd(0.1))
    with pytest.raises(UsageError, match=r"^parameter 'hidden/kernel' of shape \(.*change its rule$"):
        state_shardings(state, make_mesh(axes={"data": 2, "fsdp": 4}), ((r"kernel", rule),))


def test_batches_are_cut_over_the_devices():
    mesh = make_mesh()
    batch = {"image": np.arange(32, dtype=np.uint8).reshape(16, 2), "weight": np.ones(16, np.float32)}
    placed = put_batch(batch, mesh)
    assert placed["image"].sharding == batch_sharding(mesh) == NamedSharding(mesh, P("data"))
    assert placed["image"].dtype == np.uint8
    np.testing.assert_array_equal(placed["image"], batch["image"])
    np.testing.assert_array_equal(placed["image"].addressable_shards[1].data, [[4, 5], [6, 7]])


@pytest.mark.parametrize(
    ("size", "devices", "message"),
    [
        (30, 8, "batch size 30 can't be cut into 8 equal parts.*; take 24 or 32"),
        (5, 8, "batch size 5 can't be cut into 8 equal parts.*; take 8"),
        (0, 1, "batch size 0 is impossible; take 1 or more"),
        (-8, 8, "batch size -8 is impossible; take 1 or more"),
    ],
)
def test_batch_sizes_that_do_not_divide_are_refused(size, devices, message):
    with pytest.raises(UsageError, match=f"^{message}$"):
        check_batch_size(size, devices)
    check_batch_size(32, 8)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_on_a_mesh_gradients_are_added_and_nothing_else_moves(accumulate, caplog):
    task, optimizer = ImageClassification(FeedForward(widths=(16,))), optax.adam(1e-3)
    batch = {
        "image": np.zeros((64, 8, 8, 1), np.uint8),
        "label": np.zeros(64, np.int32),
        "weight": np.ones(64, np.float32),
    }
    mesh = make_mesh()
    state = TrainState.create(task, optimizer, jax.random.key(0), batch)
    shardings = state_shardings(state, mesh)
    state, batch = put_state(state, mesh), put_batch(batch, mesh)
    step = jax.jit(
        make_train_step(task.loss, optimizer, accumulate=accumulate),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    with jax.log_compiles():
        program = step.lower(state, batch).compile().as_text()
        for _ in range(3):
            state, _ = step(state, batch)
    compilations = [record for record in caplog.messages if "XLA compilation of jit(step)" in record]
    assert len(compilations) == 1, "the state must come back lying as it went in"
    pattern = r" (all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter)(?:-start)?\("
    collectives = re.findall(pattern, program)
    assert set(collectives) == {"all-reduce"} and len(collectives) <= 4
