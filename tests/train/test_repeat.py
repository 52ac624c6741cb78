"""Many steps in one call, and steps whose objective is not finite."""

import jax
import numpy as np
import optax
import pytest
from problems import Problem, assert_close, carried, compiled, on_host, run, two_terms

from jaxgen.train.step import repeat

CHUNK = 3


def stacked(batches):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def compiled_chunk(problem, **options):
    """Compiles CHUNK steps a call; returns (chunk, state, list that grows by one for every trace)."""
    traces: list[int] = []
    chunk = repeat(problem.step(**options))

    def counted(state, batches, count):
        traces.append(1)
        return chunk(state, batches, count)

    return jax.jit(counted, donate_argnums=0), problem.state(ema=True), traces


def test_a_chunk_is_bit_for_bit_its_steps():
    problem = carried()
    chunk, state, traces = compiled_chunk(problem, ema_decay=0.9)
    at_once, total = chunk(state, stacked(problem.batches), CHUNK)
    state, summed = problem.state(ema=True), None
    for first in range(CHUNK):
        rolled = problem.batches[first:] + problem.batches[:first]
        state, metrics = chunk(state, stacked(rolled), 1)
        summed = metrics if summed is None else {name: summed[name] + metrics[name] for name in metrics}
    jax.tree.map(np.testing.assert_array_equal, on_host(at_once), on_host(state))
    jax.tree.map(np.testing.assert_array_equal, total, summed)
    assert len(traces) == 1, "one trace serves every count"
    assert_close((on_host(at_once), jax.device_get(total)), run(carried(), ema=True, ema_decay=0.9))


def _spoiled(problem, step, name="y"):
    """The problem's batches, with one value of a step that is not a number."""
    batches = [dict(batch) for batch in problem.batches]
    batches[step][name] = batches[step][name].copy()
    row = np.flatnonzero(batches[step]["weight"])[0]
    batches[step][name][row] = np.nan
    return batches


def _with_momentum():
    problem = carried()
    return Problem(
        problem.loss,
        problem.params,
        problem.batches,
        optax.sgd(0.03, momentum=0.9),
        problem.carry,
        problem.model_state,
    )


@pytest.mark.parametrize(("way", "accumulate"), [("single", 4), ("pmap", 1)])
def test_a_bad_step_changes_nothing_but_the_counter(way, accumulate):
    problem = _with_momentum()
    batches = _spoiled(problem, 1)
    step, state, traces = compiled(problem, way, accumulate=accumulate, ema=True, ema_decay=0.9)
    state, metrics = step(state, batches[0])
    assert metrics["loss"].first_bad_step() is None
    before = on_host(state)
    state, metrics = step(state, batches[1])
    assert metrics["loss"].first_bad_step() == 1
    jax.tree.map(np.testing.assert_array_equal, on_host(state), before.replace(step=np.int32(2)))
    state, metrics = step(state, batches[2])
    assert metrics["loss"].first_bad_step() is None and np.isfinite(metrics["loss"].compute())
    assert np.abs(on_host(state).params["input"] - before.params["input"]).max() > 1e-3
    assert len(traces) == 1


def test_the_first_bad_step_is_known_after_a_chunk():
    problem = _with_momentum()
    chunk, state, _ = compiled_chunk(problem)
    state, metrics = chunk(state, stacked(_spoiled(problem, 1)), CHUNK)
    assert metrics["loss"].first_bad_step() == 1
    state, later = chunk(state, stacked(_spoiled(problem, 0)), CHUNK)
    assert later["loss"].first_bad_step() == CHUNK
    assert (metrics["loss"] + later["loss"]).first_bad_step() == 1
    assert np.isfinite(on_host(state).params["input"]).all()
    assert int(state.step) == 2 * CHUNK


def test_an_infinite_term_is_bad_too():
    problem = two_terms()
    batch = {**problem.batches[0], "pair": np.full_like(problem.batches[0]["pair"], np.inf)}
    step, state, _ = compiled(problem, "single")
    state, metrics = step(state, batch)
    assert metrics["loss"].first_bad_step() == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, problem.params)
