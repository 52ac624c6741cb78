"""Recurrent cells and layers: the fast recurrence against the plain one, padding, directions, and dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxgen.errors import UsageError
from jaxgen.models.cells import CELLS, Elman, Normalised
from jaxgen.models.recurrent import Masks, Recurrent, recur, recur_in_chunks, recur_plainly

pytestmark = pytest.mark.usefixtures("compiled_quickly")

BATCH, TIME, FEATURES, HIDDEN = 3, 7, 5, 4
LENGTHS = jnp.array([7, 3, 0])


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def every_cell():
    plain = [make() for make in CELLS.values()] + [Elman("relu")]
    return [*plain, *map(Normalised, plain)]


def case(cell):
    width = cell.gates * HIDDEN
    own = jax.tree.map(lambda leaf: leaf + normal(1, *leaf.shape), cell.init_own(HIDDEN))
    if isinstance(cell, Normalised):
        own["bias"] = normal(2, width)
    params = {
        "input_kernel": normal(3, FEATURES, width),
        "recurrent_kernel": normal(4, HIDDEN, width),
        "bias": normal(5, width),
        "own": own,
    }
    carry = {name: normal(6 + i, BATCH, HIDDEN) for i, name in enumerate(cell.states)}
    valid = (jnp.arange(TIME)[:, None] < LENGTHS).astype(jnp.float32)
    kept = jnp.asarray(np.random.default_rng(8).integers(0, 2, (BATCH, HIDDEN)) * 2, jnp.float32)
    starts = jnp.zeros((TIME, BATCH)).at[2, 0].set(1).at[0, 1].set(1).at[4, 0].set(1)
    return params, carry, normal(9, TIME, BATCH, FEATURES), Masks(valid, starts, kept)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("cell", every_cell(), ids=repr)
def test_fast_recurrence_is_the_plain_one_in_value_and_gradient(cell, masked):
    params, carry, inputs, masks = case(cell)
    masks = masks if masked else Masks()

    @functools.partial(jax.jit, static_argnums=0)
    def apply(way, *given):
        value, pull = jax.vjp(lambda *given: way(cell, *given, masks), *given)
        return value, pull(jax.tree.map(lambda leaf: normal(10, *leaf.shape), value))

    expected, expected_gradients = apply(recur_plainly, params, carry, inputs)
    for way in (recur, recur_in_chunks):
        value, gradients = apply(way, params, carry, inputs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), value, expected)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), gradients, expected_gradients
        )


def test_remat_takes_memory_as_the_square_root_of_the_length():
    """Four times as long, what the gradient needs beside its inputs doubles, and is not four times as much."""

    def workspace(time, remat):
        model = Recurrent(64, remat=remat)
        inputs = jax.ShapeDtypeStruct((8, time, 4), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
        loss = jax.grad(lambda variables, inputs: model.apply(variables, inputs)[1][0]["hidden"].sum())
        return jax.jit(loss).lower(variables, inputs).compile().memory_analysis().temp_size_in_bytes

    assert workspace(4096, remat=False) > 3.5 * workspace(1024, remat=False)
    assert workspace(4096, remat=True) < 2.6 * workspace(1024, remat=True)
    assert workspace(4096, remat=True) < 0.25 * workspace(4096, remat=False)


@pytest.mark.parametrize("name", CELLS)
def test_gradient_is_that_of_finite_differences(name):
    model = Recurrent(HIDDEN, name, num_layers=2, bidirectional=True)
    inputs = normal(0, BATCH, TIME, FEATURES)
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    weights = normal(1, BATCH, TIME, 2 * HIDDEN)

    def objective(variables, inputs, carry):
        return (weights * model.apply(variables, inputs, carry, lengths=LENGTHS)[0]).sum()

    carry = jax.tree.map(lambda leaf: normal(2, *leaf.shape), model.initial_carry(BATCH))
    check_grads(jax.jit(objective), (variables, inputs, carry), order=1, modes=["rev"], rtol=2e-2)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_nothing(name, bidirectional):
    model = Recurrent(HIDDEN, name, num_layers=2, bidirectional=bidirectional)
    inputs = normal(0, BATCH, TIME, FEATURES)
    variables, apply = jax.jit(model.init)(jax.random.key(0), inputs), jax.jit(model.apply)
    lengths = jnp.array([4, 2, 7])
    padding = jnp.arange(TIME)[:, None] >= lengths[:, None, None]
    for filled in (jnp.where(padding, 100.0, inputs), jnp.where(padding, 0.0, inputs)):
        outputs, carry = apply(variables, filled, lengths=lengths)
        for row, length in enumerate(lengths):
            alone, alone_carry = apply(variables, inputs[row : row + 1, :length])
            np.testing.assert_allclose(outputs[row, :length], alone[0], rtol=1e-5, atol=1e-6)
            assert (outputs[row, length:] == 0).all()
            jax.tree.map(
                lambda a, b, row=row: np.testing.assert_allclose(a[row], b[0], rtol=1e-5, atol=1e-6),
                carry,
                alone_carry,
            )


def test_padding_may_hold_anything():
    model = Recurrent(HIDDEN)
    inputs, lengths = normal(0, BATCH, TIME, FEATURES), jnp.array([4, 2, 7])
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    padding = jnp.arange(TIME)[:, None] >= lengths[:, None, None]

    @jax.jit
    def gradient(variables, inputs):
        return jax.grad(lambda v: model.apply(v, inputs, lengths=lengths)[0].sum())(variables)

    clean, spoilt = (gradient(variables, jnp.where(padding, fill, inputs)) for fill in (0.0, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, clean, spoilt)


@pytest.mark.parametrize("name", CELLS)
def test_a_sequence_in_two_parts_with_the_carry_is_the_sequence(name):
    model = Recurrent(HIDDEN, name, num_layers=2)
    inputs = normal(0, BATCH, TIME, FEATURES)
    variables, apply = jax.jit(model.init)(jax.random.key(0), inputs), jax.jit(model.apply)
    whole, last = apply(variables, inputs)
    first, carry = apply(variables, inputs[:, :3])
    second, carry = apply(variables, inputs[:, 3:], carry)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), carry, last)


@pytest.mark.parametrize("name", CELLS)
def test_sequences_in_one_row_are_what_they_are_alone(name):
    model = Recurrent(HIDDEN, name, num_layers=2)
    inputs = normal(0, 1, TIME, FEATURES)
    variables, apply = jax.jit(model.init)(jax.random.key(0), inputs), jax.jit(model.apply)
    starts = np.zeros((1, TIME), bool)
    starts[0, [0, 3]] = True
    used = jax.tree.map(lambda leaf: leaf + 1, model.initial_carry(1))
    packed, carry = apply(variables, inputs, used, starts=starts)
    first, _ = apply(variables, inputs[:, :3])
    second, last = apply(variables, inputs[:, 3:])
    np.testing.assert_allclose(packed, jnp.concatenate([first, second], axis=1), rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), carry, last)
    with pytest.raises(UsageError, match="a row of its own"):
        Recurrent(HIDDEN, bidirectional=True).init(jax.random.key(0), inputs, starts=starts)


def test_one_direction_is_causal_and_two_are_not():
    inputs = normal(0, 1, TIME, FEATURES)
    for bidirectional in (False, True):
        model = Recurrent(HIDDEN, "gru", bidirectional=bidirectional)
        variables = jax.jit(model.init)(jax.random.key(0), inputs)
        at_3 = jax.jit(jax.grad(lambda x, m=model, v=variables: m.apply(v, x)[0][0, 3].sum()))
        gradient = at_3(inputs)[0]
        assert (gradient[:4] != 0).any(axis=-1).all()
        assert (gradient[4:] != 0).any() == bidirectional


def test_recurrent_kernels_begin_orthogonal_and_forget_gates_open():
    init = jax.jit(Recurrent(HIDDEN).init)
    params = init(jax.random.key(0), normal(0, 1, 1, FEATURES))["params"]["layer_0"]
    for gate in jnp.split(params["recurrent_kernel"], 4, axis=-1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(HIDDEN), atol=1e-5)
    np.testing.assert_array_equal(params["bias"].reshape(4, HIDDEN).mean(axis=1), [0, 1, 0, 0])


@pytest.mark.parametrize(("cell", "kept"), [("lstm", 1), ("gru", 1)])
def test_chrono_gates_begin_to_keep_over_the_span(cell, kept):
    """A gate of bias log(n) keeps a part n / (n + 1) a step; the bias of an LSTM's write gate is the opposite."""
    model = Recurrent(1000, cell, chrono_span=302.0)
    params = jax.eval_shape(model.init, jax.random.key(0), normal(0, 1, 1, FEATURES))["params"]["layer_0"]
    bias = model._cell().init_bias(1000)
    assert bias.shape == params["bias"].shape
    gates = bias.reshape(-1, 1000)
    steps = np.exp(gates[kept])
    np.testing.assert_allclose([steps.min(), np.median(steps), steps.max()], [1.15, 151, 300.85], rtol=1e-3)
    np.testing.assert_array_equal(gates[0], -gates[1] if cell == "lstm" else 0)
    np.testing.assert_array_equal(gates[2:], 0)


@pytest.mark.parametrize("options", [{"dropout": 0.5, "num_layers": 2}, {"recurrent_dropout": 0.5}])
def test_dropout_drops_in_training_alone(options):
    model = Recurrent(HIDDEN, **options)
    inputs = normal(0, BATCH, TIME, FEATURES)
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    calm, _ = jax.jit(model.apply)(variables, inputs)
    trained = jax.jit(functools.partial(model.apply, train=True))
    first, second = (trained(variables, inputs, rngs={"dropout": jax.random.key(i)})[0] for i in (1, 2))
    assert (first != calm).any() and (first != second).any()


def test_recurrent_dropout_drops_the_same_units_at_all_steps():
    """What a dropped unit holds never reaches another one: its gradient is zero at every lag."""
    model = Recurrent(6, "elman", recurrent_dropout=0.5)
    inputs = normal(0, 1, TIME, FEATURES)
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    begin = model.initial_carry(1)

    def after(hidden, steps):
        carry = ({"hidden": hidden},)
        outputs, _ = model.apply(
            variables, inputs[:, :steps], carry, train=True, rngs={"dropout": jax.random.key(3)}
        )
        return outputs[0, -1].sum()

    gradient = jax.jit(jax.grad(after), static_argnums=1)
    dropped = [gradient(begin[0]["hidden"], steps)[0] == 0 for steps in (1, 4)]
    assert 0 < dropped[0].sum() < 6
    np.testing.assert_array_equal(*dropped)


def test_half_precision_is_near_and_keeps_a_float32_carry():
    inputs = normal(0, BATCH, TIME, FEATURES)
    exact, half = Recurrent(HIDDEN), Recurrent(HIDDEN, dtype="bfloat16")
    variables = jax.jit(exact.init)(jax.random.key(0), inputs)
    outputs, carry = jax.jit(half.apply)(variables, inputs)
    assert outputs.dtype == jnp.bfloat16 and carry[0]["cell"].dtype == jnp.float32
    expected, _ = jax.jit(exact.apply)(variables, inputs)
    np.testing.assert_allclose(outputs.astype(jnp.float32), expected, atol=0.03)
    gradient = jax.jit(jax.grad(lambda v: half.apply(v, inputs)[0].astype(jnp.float32).sum()))(variables)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recurrent(8, cell="lstmm"), "unknown cell 'lstmm'; did you mean lstm"),
        (lambda: Recurrent(8, activation="sigmoid"), "unknown activation 'sigmoid'"),
        (lambda: Recurrent(0), "hidden_size must be positive"),
        (lambda: Recurrent(8, num_layers=0), "num_layers must be positive"),
        (lambda: Recurrent(8, dropout=1.0), "dropout is 1.0"),
        (lambda: Recurrent(8, chrono_span=1.5), "chrono_span is 1.5; it must be 2 steps at least"),
        (lambda: Recurrent(8, recurrent_dropout=-0.1), "recurrent_dropout is -0.1"),
    ],
)
def test_impossible_fields_are_one_line(make, message):
    with pytest.raises(UsageError, match=message):
        make()
