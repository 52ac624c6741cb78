"""Training in buckets of lengths: few shapes are compiled, and nothing else differs."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.data.orders import order_of
from jaxgen.data.pipeline import training_batches
from jaxgen.data.sequences import Row, SequenceFormat, Table
from jaxgen.data.tokenizers import Characters
from jaxgen.errors import UsageError
from jaxgen.metrics import Mean
from jaxgen.parallel import make_mesh
from jaxgen.train.context import Outputs
from jaxgen.train.evaluate import Evaluator
from jaxgen.train.fit import fit
from jaxgen.train.state import TrainState

RANDOM = np.random.default_rng(0)
LETTERS = "abcdefgh"


def rows(count):
    lengths = RANDOM.integers(1, 20, count)
    return [
        Row(*("".join(RANDOM.choice([*LETTERS], n)) for n in (length, max(1, length // 2))), f"line {number}")
        for number, length in enumerate(lengths)
    ]


TABLE = Table("made up", {"train": rows(300), "validation": rows(50)}, (), "1")
FORM = TABLE.bucketed(SequenceFormat(Characters("_" + LETTERS), 20, target_length=10), 400, most_buckets=4)
TRAIN, VALIDATION = TABLE.sources(FORM).values()


class Centres:
    """Learns a number for each letter, so that those written are near the mean of those read."""

    def __init__(self):
        self.shapes = []

    def init(self, rng, example):
        return {"number": jax.random.normal(rng, (9,))}, {}

    def initial_carry(self, batch_size):
        return ()

    def loss(self, params, model_state, carry, batch, context):
        self.shapes.append(batch["tokens"].shape)
        there = jnp.arange(batch["tokens"].shape[1]) < batch["lengths"][:, None]
        mean = jnp.where(there, params["number"][batch["tokens"]], 0).sum(1) / batch["lengths"]
        off = jnp.square(params["number"][batch["labels"]] - mean[:, None] - 1)
        return {"off": Mean.of(off, (batch["labels"] >= 0) * batch["weight"][:, None])}, Outputs(
            {}, model_state, carry
        )


def trained(**options):
    task = Centres()
    options = {
        "steps": 40,
        "validation": VALIDATION,
        "devices": jax.devices()[:1],
        "progress": False,
    } | options
    return fit(task, TRAIN, optax.sgd(0.1), seed=3, **options), task


@pytest.fixture(scope="module")
def plain():
    return trained()


def test_a_shape_is_compiled_once(plain):
    order = order_of(TRAIN, 64, 3)
    _, task = plain
    assert 1 < len(order.batch_sizes) <= 4 < order.steps_per_epoch
    # Each once to train on; the initial one to see what it costs, and the ones of evaluation.
    assert {shape[1] for shape in task.shapes} == {bucket.tokens for bucket in TRAIN.buckets.in_use}
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=len(order.batch_sizes))
    def read(batch):
        return batch["tokens"].sum()

    for batch in training_batches(TRAIN, 64, epochs=2):
        read(batch)


@pytest.mark.parametrize("options", [{"devices": 8}, {"resident": False}, {"resident": False, "devices": 2}])
def test_any_number_of_devices_and_the_host_train_alike(options, plain):
    if "devices" in options:
        options = {**options, "devices": jax.devices()[: options["devices"]]}
    result, _ = trained(**options)
    np.testing.assert_allclose(
        result.state.params["number"], plain[0].state.params["number"], rtol=1e-5, atol=1e-6
    )
    assert result.figures["validation/loss"] == pytest.approx(plain[0].figures["validation/loss"], rel=1e-5)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(plain, tmp_path):
    for steps in (17, 40):
        result, _ = trained(steps=steps, workdir=tmp_path / "run", evaluate_every=100)
    whole, _ = trained(evaluate_every=100)
    np.testing.assert_array_equal(result.state.params["number"], whole.state.params["number"])


def test_evaluation_is_that_of_all_pairs_at_full_length():
    task = Centres()
    state = TrainState.create(task, optax.sgd(0.1), jax.random.key(0), TRAIN.gather([0]))
    figures = [
        Evaluator(task, {"validation": source}, make_mesh(jax.devices()[:devices]))(state, ("validation",))
        for source, devices in ((replace(VALIDATION, buckets=None), 1), (VALIDATION, 1), (VALIDATION, 8))
    ]
    for found in figures[1:]:
        assert found == pytest.approx(figures[0], rel=1e-5)


def test_what_buckets_rule_out(tmp_path):
    with pytest.raises(
        UsageError, match="the batches of made up have several shapes: leave out steps_per_call"
    ):
        trained(steps_per_call=4)
    odd = TABLE.sources(
        replace(FORM, buckets=tuple(bucket._replace(rows=bucket.rows - 1) for bucket in FORM.buckets))
    )
    with pytest.raises(UsageError, match="can't be cut into 2 equal parts"):
        fit(Centres(), odd["train"], optax.sgd(0.1), steps=2, devices=jax.devices()[:2], progress=False)
