"""The task from sequence to sequence: what it counts, refuses, learns and draws."""

import jax
import numpy as np
import optax
import pytest

from jaxgen.data.sources import load
from jaxgen.errors import UsageError
from jaxgen.models import SequenceNet, SequenceReader
from jaxgen.saved_run import SavedRun
from jaxgen.tasks import SequencePrediction
from jaxgen.train.fit import fit
from jaxgen.train.state import TrainState
from jaxgen.train.step import make_eval_step

TASK = SequencePrediction(SequenceNet(12, 2, hidden_size=48), "0123456789+ ")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Sums of two digits: 49 to learn from, whatever comes out; 90 % are seen in training from the other side."""
    train = load("addition/1", "train")
    workdir = tmp_path_factory.mktemp("addition") / "run"
    result = fit(
        TASK, train, optax.adam(1e-2), steps=600, batch_size=16, test=train, workdir=workdir, progress=False
    )
    return result, workdir


def test_it_learns_to_add_digits(run):
    figures = run[0].figures
    assert figures["test/exact"] == 1 and figures["test/accuracy"] == 1 and figures["test/loss"] < 0.1


def test_a_saved_run_is_evaluated_and_drawn_from_its_directory(run):
    result, workdir = run
    saved = SavedRun(workdir)
    assert saved.evaluate(["test"])["test/exact"] == result.figures["test/exact"]
    assert {path.stem for path in saved.plot()} == {"curves", "predictions"}


def test_exact_counts_whole_sequences_and_leaves_padding_out():
    source = load("addition/1", "train")
    batch = {**source.gather(range(6)), "weight": np.array([1, 1, 1, 1, 0, 0], np.float32)}
    state = TrainState.create(TASK, optax.sgd(0.1), jax.random.key(0), batch)
    predicted = TASK.predict(state.params, state.model_state, batch)["prediction"]
    # Two are right as a whole, a third one in its first character, and what is padding doesn't count.
    target = np.array(predicted)
    target[2, 1] = (target[2, 1] + 1) % 12
    target[3] = (target[3] + 1) % 12
    batch["target"] = target
    metrics, _ = jax.jit(make_eval_step(TASK.loss))(state, (), batch)
    assert metrics["exact"].compute() == pytest.approx(2 / 4)
    assert metrics["accuracy"].compute() == pytest.approx(5 / 8)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (lambda: load("digits", "test"), "has no pairs of sequences: it has image, label"),
        (lambda: load("addition/2", "test"), "has targets of 3 tokens, the model writes 2"),
    ],
)
def test_other_data_is_refused(source, told, data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    with pytest.raises(UsageError, match=told):
        TASK.check(source())


def test_plots_of_a_reader_show_its_gradients_beside_those_of_untrained_nets():
    source = load("copy/40/3", "test")
    task = SequencePrediction(SequenceReader(10, 3, hidden_size=8, cell="gru"), "".join(source.class_names))
    examples = source.gather(range(5))
    params, model_state = task.init(jax.random.key(1), examples)
    figures = task.plots(params, examples, task.predict(params, model_state, examples))
    (axes,) = figures["gradient_by_lag"].axes
    assert [line.get_label() for line in axes.lines] == [
        "gru, trained",
        *(f"{cell}, untrained" for cell in ("elman", "gru", "lstm")),
    ]
    assert all(line.get_xdata().tolist() == list(range(46)) for line in axes.lines)
    read = [text.get_text().partition(" → ")[0] for text in figures["predictions"].axes[0].texts]
    targets = ["".join(source.class_names[token] for token in row) for row in examples["target"]]
    assert sorted(read) == sorted(f"{target}········…······?···" for target in targets)
