"""Five small problems, one for each shape that the train step must serve, and the ways to run them.

All use plain gradient descent: Adam would hide a gradient that is eight times too large.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.metrics import Mean, accuracy
from jaxgen.parallel import make_mesh, pmap_step, put_batch, state_shardings
from jaxgen.train.context import Outputs, Term
from jaxgen.train.gradients import RowOptimizer, RowSGD, dense, rows
from jaxgen.train.players import Player, Players, make_players_step
from jaxgen.train.state import TrainState
from jaxgen.train.step import make_train_step

STEPS = 3
DEVICES = 8
MICROBATCHES = 4
BATCH = DEVICES * MICROBATCHES  # one row for each device in each microbatch

AXIS = "batch"


@dataclass(frozen=True)
class Problem:
    """A task in miniature, with its batches."""

    loss: Callable[..., Any]
    params: dict[str, Any]
    batches: list[dict[str, np.ndarray]]
    optimizer: Any
    carry: Callable[[int], Any] = lambda size: ()
    model_state: Any = None
    gradient: Any = dense

    def init(self, rng, example):
        return jax.tree.map(jnp.array, self.params), jax.tree.map(jnp.array, self.model_state or {})

    def initial_carry(self, batch_size):
        return self.carry(batch_size)

    def state(self, ema=False):
        return TrainState.create(self, self.optimizer, jax.random.key(3), self.batches[0], ema=ema)

    def step(self, **options):
        if isinstance(self.optimizer, Players):
            return make_players_step(self.optimizer, **options)
        return make_train_step(self.loss, self.optimizer, gradient=self.gradient, **options)


def ragged_weights(step, size=BATCH):
    """Weights that leave out all rows of a device, or of a microbatch, or give rows unequal parts."""
    weights = np.random.default_rng(step).choice([0.0, 0.5, 1.0, 2.0], size).astype(np.float32)
    if step % 3 == 0:
        weights[size // DEVICES : 2 * size // DEVICES] = 0  # all that the second device holds
    if step % 3 == 1:
        weights[1::MICROBATCHES] = 0  # all of the second microbatch
    return weights


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _plain_loss(params, model_state, carry, batch, context):
    noise = jax.vmap(lambda rng: jax.random.normal(rng, (4,)))(context.example_rngs())
    logits = jnp.tanh((batch["x"] + 0.3 * noise) @ params["hidden"]) @ params["output"]
    values = -jax.nn.log_softmax(logits)[jnp.arange(len(batch["y"])), batch["y"]]
    metrics = {"accuracy": accuracy(logits, batch["y"], batch["weight"])}
    return {"cross_entropy": Mean.of(values, batch["weight"])}, Outputs(metrics, model_state, carry)


def plain():
    """A classifier with noise that is drawn an example, and ragged weights."""
    batches = [
        {"x": _normal(i, BATCH, 4), "y": np.arange(BATCH, dtype=np.int32) % 3, "weight": ragged_weights(i)}
        for i in range(STEPS)
    ]
    return Problem(
        _plain_loss, {"hidden": _normal(8, 4, 5), "output": _normal(9, 5, 3)}, batches, optax.sgd(0.3)
    )


def _two_terms_loss(params, model_state, carry, batch, context):
    hidden = jnp.tanh(batch["x"] @ params["hidden"])
    tokens = (hidden - batch["x"]) ** 2
    pairs = hidden.mean(axis=(1, 2)) * batch["pair"]
    warm_up = 1 / (1 + context.step)
    terms = {
        "tokens": Mean.of(tokens, batch["mask"]),
        "pairs": Term(Mean.of(pairs, batch["weight"]), warm_up),
    }
    return terms, Outputs({}, model_state, carry)


def two_terms():
    """Tokens that are masked unequally, and pairs with other counts; the last batch has no token at all."""
    batches = [
        {
            "x": _normal(i, BATCH, 6, 3),
            "pair": _normal(i + 50, BATCH),
            "mask": (np.random.default_rng(i).random((BATCH, 6)) < 0.3 * np.arange(BATCH)[:, None] / BATCH)
            & (i < STEPS - 1),
            "weight": ragged_weights(i),
        }
        for i in range(STEPS)
    ]
    return Problem(_two_terms_loss, {"hidden": _normal(8, 3, 3)}, batches, optax.sgd(0.3))


def _carried_loss(params, model_state, carry, batch, context):
    hidden = jnp.tanh(batch["x"] @ params["input"] + carry["hidden"] @ params["recurrent"])
    carry = {"hidden": jax.lax.stop_gradient(hidden), "length": carry["length"] + 1}
    terms = {"squares": Mean.of((hidden.sum(axis=1) - batch["y"]) ** 2, batch["weight"])}
    return terms, Outputs({}, {"next": context.step + 1}, carry)


def carried():
    """A recurrent state for each stream, and how long it is, from step to step."""
    batches = [
        {"x": _normal(i, BATCH, 4), "y": _normal(i + 50, BATCH), "weight": ragged_weights(i)}
        for i in range(STEPS)
    ]
    return Problem(
        _carried_loss,
        {"input": _normal(8, 4, 5), "recurrent": _normal(9, 5, 5)},
        batches,
        optax.sgd(0.03),
        carry=lambda size: {"hidden": jnp.zeros((size, 5)), "length": jnp.zeros(size, jnp.int32)},
        model_state={"next": np.int32(0)},
    )


def _game_loss(sign, params, model_state, carry, batch, context):
    fake = jnp.tanh(
        jax.vmap(lambda rng: jax.random.normal(rng, (3,)))(context.example_rngs()) @ params["maker"]
    )
    score = jnp.tanh(batch["x"] @ params["judge"]) - jnp.tanh(fake @ params["judge"] + 0.1 * carry)
    terms = {"score": Mean.of(sign * score + 0.1 * score**2, batch["weight"])}
    carry = jax.lax.stop_gradient(jnp.tanh(carry + fake.sum(axis=1)))
    return terms, Outputs({"score": Mean.of(score)}, {"next": context.step + 1}, carry)


def game():
    """A judge with two updates a round and a maker with one; a batch holds the rows of both updates."""
    batches = [{"x": _normal(i, 2 * BATCH, 3), "weight": ragged_weights(i, 2 * BATCH)} for i in range(STEPS)]
    players = Players(
        [
            Player("judge", partial(_game_loss, -1.0), optax.sgd(0.5), repeats=2),
            Player("maker", partial(_game_loss, 1.0), optax.sgd(0.5)),
        ]
    )
    return Problem(
        _game_loss,
        {"judge": _normal(8, 3), "maker": _normal(9, 3, 3)},
        batches,
        players,
        carry=jnp.zeros,
        model_state={"next": np.int32(0)},
    )


TOUCHED = 3  # rows of the table that an example touches


def _rows_loss(params, model_state, carry, batch, context):
    """Takes the touched rows, [batch * TOUCHED, width], in the table's place."""
    vectors = params["table"].reshape(-1, TOUCHED, params["table"].shape[1])
    values = (jnp.tanh(vectors.sum(axis=1) @ params["output"]) - batch["y"]) ** 2
    return {"squares": Mean.of(values, batch["weight"])}, Outputs({}, model_state, carry)


def touched_rows(batch):
    return {"table": batch["ids"].reshape(-1)}


def table():
    """A table of 40 rows, of which a batch touches few and some many times."""
    draw = np.random.default_rng(0)
    batches = [
        {
            "ids": (draw.geometric(0.3, (BATCH, TOUCHED)) % 40).astype(np.int32),
            "y": _normal(i + 50, BATCH),
            "weight": ragged_weights(i),
        }
        for i in range(STEPS)
    ]
    params = {"table": _normal(8, 40, 5), "output": _normal(9, 5)}
    optimizer = RowOptimizer({"table": RowSGD(0.5)}, optax.sgd(0.5))
    return Problem(_rows_loss, params, batches, optimizer, gradient=rows(touched_rows))


def dense_table():
    """The same with a gather in the loss and a gradient for the whole table."""
    problem = table()

    def loss(params, model_state, carry, batch, context):
        gathered = {**params, "table": params["table"][batch["ids"].reshape(-1)]}
        return _rows_loss(gathered, model_state, carry, batch, context)

    return Problem(loss, problem.params, problem.batches, optax.sgd(0.5))


PROBLEMS = {"plain": plain, "two_terms": two_terms, "carried": carried, "game": game, "table": table}
WAYS = ("single", "mesh", "pmap", "shard_map")


def compiled(problem, way, *, ema=False, **options):
    """Compiles a problem's step one of the WAYS.

    Returns:
        (step of a state and a batch on the host, first state, list that grows by one for every trace).
    """
    traces: list[int] = []
    step = problem.step(**options, axis_name=AXIS if way in ("pmap", "shard_map") else None)
    state = problem.state(ema)

    def counted(state, batch):
        traces.append(1)
        return step(state, batch)

    if way == "single":
        return jax.jit(counted, donate_argnums=0), state, traces
    if way == "pmap":
        return pmap_step(counted, AXIS), state, traces
    if way == "shard_map":
        mesh = make_mesh(axes={AXIS: DEVICES})
        specs = jax.tree.map(lambda leaf: P(), state)
        specs = specs.replace(carry=jax.tree.map(lambda leaf: P(AXIS), state.carry))
        mapped = jax.shard_map(
            counted, mesh=mesh, in_specs=(specs, P(AXIS)), out_specs=(specs, P()), check_vma=False
        )
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        return jax.jit(mapped, donate_argnums=0), jax.device_put(state, shardings), traces
    mesh = make_mesh()
    shardings = state_shardings(state, mesh)
    on_mesh = jax.jit(counted, donate_argnums=0, out_shardings=(shardings, None))
    return (
        lambda state, batch: on_mesh(state, put_batch(batch, mesh)),
        jax.device_put(state, shardings),
        traces,
    )


def run(problem, way="single", **options):
    """Takes every step of a problem; returns (state, metrics summed over the steps), on the host."""
    step, state, traces = compiled(problem, way, **options)
    total = None
    for batch in problem.batches:
        state, metrics = step(state, batch)
        total = metrics if total is None else {name: total[name] + metrics[name] for name in metrics}
    assert len(traces) == 1
    return on_host(state), jax.device_get(total)


def on_host(state):
    return jax.device_get(state.replace(rng=jax.random.key_data(state.rng)))


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    """Compares two trees leaf by leaf.

    The tolerance: sums of up to 200 float32 terms of size one, added in another order, differ by some 200 * 6e-8
    at the very worst and by 1e-6 in practice; three steps with learning rates below one add little. What the
    tests look for (a factor of 8 or 4, a wrong divisor, a row left out) moves the parameters by 1e-2 and more.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))
