"""What decides which state of a run is the best."""

import math

import jax
import numpy as np
import optax
import pytest

import jaxgen
from jaxgen.models import FeedForward
from jaxgen.tasks import Regression
from jaxgen.train import Judge
from jaxgen.train.loop import Tally
from jaxgen.train.monitor import Monitor

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(32, 4)).astype(np.float32)
ROWS = {"features": FEATURES, "target": FEATURES.sum(axis=1)}
TASK = Regression(FeedForward(widths=(), num_classes=1)).standardised(ROWS)
# By the step: rises, falls, and is as high once more.
SCORES = {2: 10.0, 4: 30.0, 6: 20.0, 8: 30.0, 10: math.nan}


def score(state, source):
    return {"score": SCORES[int(state.step)], "rows": len(source)}


def fit(**options):
    options = {"steps": 10, "batch_size": 16, "evaluate_every": 2, "progress": False, **options}
    held_out = {name: rows[:8] for name, rows in ROWS.items()}
    return jaxgen.fit(TASK, ROWS, optax.sgd(0.1), validation=held_out, test=ROWS, **options)


@pytest.mark.parametrize("directory", [None, "run"])
def test_judge_chooses_the_highest_score_and_of_equals_the_lowest_loss(directory, tmp_path):
    workdir = None if directory is None else tmp_path / directory
    result = fit(judge=Judge(score, "score"), workdir=workdir)
    figures = result.figures
    assert (figures["evaluated_step"], int(result.state.step)) == (8, 8)
    assert (figures["validation/score"], figures["test/score"]) == (30.0, 30.0)
    assert (figures["validation/rows"], figures["test/rows"]) == (8, 32)
    # The loss falls to the end, and would choose another one.
    losses = {
        record["step"]: record["validation/loss"] for record in result.history if "validation/loss" in record
    }
    assert min(losses, key=losses.get) == 10
    if workdir is not None:
        saved = jaxgen.SavedRun(workdir, task=TASK).state
        assert int(saved.step) == 8
        for ours, theirs in zip(
            jax.tree.leaves(saved.params), jax.tree.leaves(result.state.params), strict=True
        ):
            assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_patience_waits_for_the_judge(tmp_path):
    result = fit(judge=Judge(score, "score"), patience=2, workdir=tmp_path / "run")
    assert (result.figures["steps"], result.figures["evaluated_step"]) == (8, 8)


def test_run_is_not_gone_on_with_by_another_judge(tmp_path):
    fit(judge=Judge(score, "score"), steps=4, workdir=tmp_path / "run")
    with pytest.raises(jaxgen.UsageError, match="chosen_by"):
        fit(workdir=tmp_path / "run")


def test_nothing_is_monitored_without_a_validation_split():
    assert Monitor.of(("test",), "score") is None
    assert Monitor.of(("validation",), None) == Monitor("validation/loss")
    assert Monitor("validation/score", highest=True).cost({"validation/score": 2.0}) == (-2.0, math.inf)


def test_tie_of_the_score_is_decided_by_the_loss_and_prolongs_no_run():
    monitor = Monitor("validation/score", highest=True)
    # As of a checkpoint that was made before ties were decided.
    tally = Tally(best=-3.0, evaluations_since_best=1)
    told = [
        tally.note(monitor.cost({"validation/score": score, "validation/loss": loss}), patience=9)
        for score, loss in (
            (3.0, 0.5),
            (3.0, 0.5),
            (2.0, 0.1),
            (3.0, math.nan),
            (3.0, 0.4),
            (4.0, 0.9),
            (math.nan, 0.1),
        )
    ]
    assert told == [True, False, False, False, True, True, False]
    assert (tally.best, tally.tie, tally.evaluations_since_best) == (-4.0, 0.9, 1)
    for since in (2, 3):
        assert tally.note((-4.0, 0.1), patience=3) == (since == 2)
    assert tally.converged
