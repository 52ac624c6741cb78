"""`fit` on other shapes of problem: the loop takes what the step takes."""

from types import SimpleNamespace

import numpy as np
import problems
import pytest

import jaxgen
from jaxgen.errors import UsageError


def data_of(problem):
    return {name: np.concatenate([batch[name] for batch in problem.batches]) for name in problem.batches[0]}


def test_game_with_a_carry_and_no_loss_of_its_own():
    problem = problems.game()
    task = SimpleNamespace(init=problem.init, initial_carry=problem.initial_carry)
    data = data_of(problem)
    result = jaxgen.fit(task, data, problem.optimizer, steps=3, batch_size=64, progress=False)
    assert result.state.carry.shape == (32,) and int(result.state.step) == 3
    assert not np.allclose(result.state.params["judge"], problem.params["judge"])
    with pytest.raises(UsageError, match="has no loss to evaluate"):
        jaxgen.fit(task, data, problem.optimizer, steps=3, batch_size=64, test=data, progress=False)


def test_rows_of_a_table():
    by_row, dense = problems.table(), problems.dense_table()
    data = data_of(by_row)
    results = [
        jaxgen.fit(
            p, data, p.optimizer, steps=6, batch_size=32, test=data, progress=False, gradient=p.gradient
        )
        for p in (by_row, dense)
    ]
    # Sums of some tens of float32 terms in another order, six times.
    for name, value in results[0].state.params.items():
        np.testing.assert_allclose(value, results[1].state.params[name], atol=1e-5)
    assert results[0].figures["test/loss"] == pytest.approx(results[1].figures["test/loss"], rel=1e-5)
    with pytest.raises(UsageError, match="needs gradients by row"):
        jaxgen.fit(by_row, data, by_row.optimizer, steps=1, batch_size=32, progress=False)
