"""The train step is one function of the global batch, whichever way it is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from problems import (
    AXIS,
    DEVICES,
    MICROBATCHES,
    PROBLEMS,
    WAYS,
    Problem,
    assert_close,
    carried,
    compiled,
    on_host,
    plain,
    run,
    two_terms,
)

from jaxgen.errors import UsageError
from jaxgen.metrics import Mean
from jaxgen.parallel import make_mesh
from jaxgen.train.context import Outputs, Term
from jaxgen.train.step import make_eval_step, make_train_step


@functools.cache
def reference(name):
    return run(PROBLEMS[name]())


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_step_moves_every_parameter_by_far_more_than_the_tolerance(name):
    state, _ = reference(name)
    for before, after in zip(
        jax.tree.leaves(PROBLEMS[name]().params), jax.tree.leaves(state.params), strict=True
    ):
        assert np.abs(after - before).max() > 0.03
    assert state.step == len(PROBLEMS[name]().batches)


OTHER_WAYS = [(way, accumulate) for way in WAYS for accumulate in (1, MICROBATCHES)][1:]


@pytest.mark.parametrize(("way", "accumulate"), OTHER_WAYS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_same_state_and_metrics_in_every_way(name, way, accumulate):
    """Ragged weights in all of them; `run` asserts that each is traced once."""
    assert_close(run(PROBLEMS[name](), way, accumulate=accumulate), reference(name))


def test_two_terms_equal_the_formula():
    problem = two_terms()

    def objective(params, batch, step):
        hidden = jnp.tanh(batch["x"] @ params["hidden"])
        masked = ((hidden - batch["x"]) ** 2)[batch["mask"]]  # [tokens, 3]
        tokens = masked.mean() if len(masked) else 0.0
        pairs = hidden.mean(axis=(1, 2)) * batch["pair"]
        return tokens + (pairs * batch["weight"]).sum() / batch["weight"].sum() / (1 + step)

    params = problem.params
    for step, batch in enumerate(problem.batches):
        gradients = jax.grad(objective)(params, batch, step)  # not compiled: the mask chooses a shape
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradients)
    assert problem.batches[-1]["mask"].sum() == 0, "one of the counts must be 0"
    assert_close(reference("two_terms")[0].params, params)


def test_a_batch_without_any_weight_changes_nothing():
    problem = plain()
    step, state, _ = compiled(problem, "single", accumulate=MICROBATCHES)
    state, metrics = step(
        state, {**problem.batches[0], "weight": np.zeros_like(problem.batches[0]["weight"])}
    )
    jax.tree.map(np.testing.assert_array_equal, state.params, problem.params)
    assert metrics["loss"].compute() == 0 and metrics["accuracy"].compute() == 0
    assert metrics["loss"].first_bad_step() is None


def contrastive():
    """Each example must find its own partner among all of the batch."""

    def loss(params, model_state, carry, batch, context):
        pair = jnp.tanh(batch["x"] @ params["left"]), jnp.tanh(batch["x"] @ params["right"])
        left, right, weight = context.gather((*pair, batch["weight"]))
        values = -jnp.diag(jax.nn.log_softmax(params["scale"] * left @ right.T))
        return {"contrastive": Term(Mean.of(values, weight), whole_batch=True)}, Outputs(
            {}, model_state, carry
        )

    draw = np.random.default_rng(0)
    params = {
        "left": draw.normal(size=(4, 3)).astype(np.float32),
        "right": draw.normal(size=(4, 3)).astype(np.float32),
        "scale": np.float32(1.5),
    }
    return Problem(loss, params, plain().batches, optax.sgd(0.3))


def test_whole_batch_terms():
    expected, figures = run(contrastive())
    for way in WAYS[1:]:
        state, metrics = run(contrastive(), way)
        assert_close(state, expected)
        assert_close(metrics["loss"].compute(), figures["loss"].compute())
    with pytest.raises(UsageError) as error:
        run(contrastive(), accumulate=2)
    assert str(error.value) == "the term 'contrastive' needs the whole batch at once: use accumulate=1"


def test_clipping_by_global_norm_sees_the_global_gradient():
    problem = plain()
    norm, rate = 0.05, 0.3
    clipped = Problem(
        problem.loss,
        problem.params,
        problem.batches[:1],
        optax.chain(optax.clip_by_global_norm(norm), optax.sgd(rate)),
    )
    expected, _ = run(clipped)
    moved = jax.tree.map(lambda a, b: a - b, expected.params, problem.params)
    np.testing.assert_allclose(optax.tree.norm(moved), norm * rate, rtol=1e-4)
    assert_close(run(clipped, "pmap", accumulate=2)[0], expected)


@pytest.mark.parametrize("way", ["single", "pmap"])
def test_moving_average_of_parameters(way):
    problem = carried()
    step, state, _ = compiled(problem, way, ema=True, ema_decay=0.9)  # donates: an alias would fail
    expected = problem.params
    for batch in problem.batches:
        state, _ = step(state, batch)
        expected = jax.tree.map(lambda m, p: 0.9 * m + 0.1 * np.asarray(p), expected, state.params)
    assert_close(on_host(state).ema_params, expected)


def test_moving_average_starts_as_a_copy_and_must_be_there():
    problem = plain()
    state = problem.state(ema=True)
    for average, parameter in zip(*map(jax.tree.leaves, (state.ema_params, state.params)), strict=True):
        assert average.unsafe_buffer_pointer() != parameter.unsafe_buffer_pointer()
    with pytest.raises(UsageError, match=r"has no ema_params: TrainState.create\(..., ema=True\)"):
        jax.eval_shape(problem.step(ema_decay=0.9), problem.state(), problem.batches[0])


def test_a_step_is_deterministic_and_its_noise_depends_on_rng_and_step():
    problem = plain()
    step, state, _ = compiled(problem, "single")
    batch = problem.batches[0]
    first, _ = step(state, batch)
    again, _ = step(problem.state(), batch)
    jax.tree.map(np.testing.assert_array_equal, on_host(first), on_host(again))
    for other in (
        problem.state().replace(rng=jax.random.key(4)),
        problem.state().replace(step=jnp.ones((), jnp.int32)),
    ):
        assert np.abs(step(other, batch)[0].params["output"] - first.params["output"]).max() > 1e-4


def test_evaluation_takes_the_moving_average_and_adds_up():
    problem = two_terms()

    def loss(params, model_state, carry, batch, context):
        terms, outputs = problem.loss(params, model_state, carry, batch, context)
        flag = {"train": Mean.of(jnp.full(len(batch["x"]), float(context.train)))}
        return terms, outputs.replace(metrics=flag)

    state = problem.state(ema=True)
    evaluated = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    step = jax.jit(make_eval_step(loss))
    batch = problem.batches[0]
    whole, carry = step(evaluated, (), batch)
    trained = jax.eval_shape(make_train_step(loss, problem.optimizer), state, batch)[1]
    assert set(whole) == set(trained) == {"tokens", "pairs", "train", "loss"}
    assert carry == () and whole["train"].compute() == 0
    assert_close(whole["loss"].compute(), jax.jit(problem.step())(state, batch)[1]["loss"].compute())

    halves = [step(evaluated, (), jax.tree.map(lambda leaf, i=i: leaf[i::2], batch))[0] for i in (0, 1)]
    assert_close({name: halves[0][name] + halves[1][name] for name in whole}, whole, rtol=1e-5)

    mapped = jax.shard_map(
        make_eval_step(loss, axis_name=AXIS),
        mesh=make_mesh(axes={AXIS: DEVICES}),
        in_specs=(P(), P(AXIS), P(AXIS)),
        out_specs=P(),
        check_vma=False,
    )
    assert_close(jax.jit(mapped)(evaluated, (), batch)[0], whole)


def test_evaluation_carries_on():
    problem = carried()
    state = problem.state()
    _, carry = jax.jit(make_eval_step(problem.loss))(state, state.carry, problem.batches[0])
    np.testing.assert_array_equal(carry["length"], 1)
    np.testing.assert_array_equal(state.carry["length"], 0)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            lambda state, carry: Outputs({}, state, ()),
            r"carry\['hidden'\] as float32\[32, 5\]; .* it is absent",
        ),
        (lambda state, carry: Outputs({}, {}, carry), r"model_state\['next'\] as int32\[\]; .* it is absent"),
        (
            lambda state, carry: Outputs({}, {"next": state["next"] * 0.5}, carry),
            r"model_state\['next'\] as int32\[\]; in its Outputs it is float32\[\]",
        ),
    ],
)
def test_a_loss_that_forgets_its_state_is_refused(outputs, message):
    problem = carried()

    def loss(params, model_state, carry, batch, context):
        terms, _ = problem.loss(params, model_state, carry, batch, context)
        return terms, outputs(model_state, carry)

    with pytest.raises(UsageError, match=message):
        jax.eval_shape(make_train_step(loss, problem.optimizer), problem.state(), problem.batches[0])


def test_microbatches_must_divide_the_batch():
    problem = plain()
    with pytest.raises(UsageError, match=r"^a batch of 32 on a device can't be cut into 5 equal parts"):
        jax.eval_shape(problem.step(accumulate=5), problem.state(), problem.batches[0])
