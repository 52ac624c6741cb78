"""Gradients by the rows of a table; in every way of compiling they are tested in `test_step`."""

import jax
import numpy as np
import optax
from problems import (
    MICROBATCHES,
    TOUCHED,
    Problem,
    _rows_loss,
    assert_close,
    compiled,
    dense_table,
    on_host,
    run,
    table,
    touched_rows,
)

from jaxgen.train.gradients import RowOptimizer, RowSGD, rows


def test_rows_equal_dense_gradient_descent():
    expected, figures = run(dense_table())
    counts = [np.bincount(batch["ids"].ravel(), minlength=40) for batch in table().batches]
    assert all(count.max() > 3 and (count == 0).sum() > 10 for count in counts), "repeats, and rows untouched"
    for accumulate in (1, MICROBATCHES):
        state, metrics = run(table(), accumulate=accumulate)
        assert_close(state.params, expected.params)
        assert_close(metrics, figures)
    untouched = sum(counts) == 0
    assert untouched.any()
    np.testing.assert_array_equal(state.params["table"][untouched], table().params["table"][untouched])


def test_a_bad_objective_leaves_the_table_and_the_rest():
    problem = table()
    momentum = RowOptimizer({"table": RowSGD(0.5)}, optax.sgd(0.5, momentum=0.9))
    problem = Problem(problem.loss, problem.params, problem.batches, momentum, gradient=problem.gradient)
    step, state, _ = compiled(problem, "single", ema=True, ema_decay=0.9)
    state, _ = step(state, problem.batches[0])
    before = on_host(state)
    state, metrics = step(state, {**problem.batches[1], "y": np.full_like(problem.batches[1]["y"], np.nan)})
    assert metrics["loss"].first_bad_step() == 1
    jax.tree.map(np.testing.assert_array_equal, on_host(state), before.replace(step=np.int32(2)))
    state, _ = step(state, problem.batches[2])
    assert np.abs(on_host(state).params["table"] - before.params["table"]).max() > 1e-3


def test_no_gradient_of_the_whole_table_is_made():
    problem = table()
    size, width = 100_000, 5
    params = {**problem.params, "table": np.zeros((size, width), np.float32)}
    optimizer = RowOptimizer({"table": RowSGD(0.5)}, optax.sgd(0.5))
    big = Problem(_rows_loss, params, problem.batches, optimizer, gradient=rows(touched_rows))
    step, state, _ = compiled(big, "single")
    memory = step.lower(state, big.batches[0]).compile().memory_analysis()
    assert len(big.batches[0]["ids"]) * TOUCHED < size
    assert memory.temp_size_in_bytes < size * width
