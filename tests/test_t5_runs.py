"""Runs of T5s: trained on passages that lose spans, then fine-tuned on pairs of texts by the same command."""

import csv
import json

import numpy as np
import pytest
from pretrained.test_runs import call
from test_run import options

from experiments import docstrings_t5
from jaxgen.data.sequences import Row, Table
from jaxgen.run import run
from jaxgen.saved_run import SavedRun
from jaxgen.tasks import PrefixLanguageModelling, SequenceToSequence, SpanCorruption
from jaxgen.text_scores import rouge

SMALL = {"sequence_length": 24, "embedding_size": 16, "num_layers": 1, "num_heads": 2, "batch_size": 8}
ANIMALS = ("cat", "dog", "bird", "fish", "horse", "mouse")


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run of `docstrings_t5` of a few steps, with its fine-tuning."""
    directory = tmp_path_factory.mktemp("t5")
    names = np.random.default_rng(0).choice(ANIMALS, (200, 2))
    text, pairs = directory / "book.txt", directory / "pairs.tsv"
    text.write_text("".join(f"the {one} saw a {other} in the garden.\n" for one, other in names))
    pairs.write_text(
        "".join(f"the {a} saw a {b} and number {n}\tthe {a}\n" for n, (a, b) in enumerate(names))
    )
    told = {**SMALL, "data": str(text), "vocabulary_size": 400, "steps": 6, "evaluate_every": None}
    run(*options("docstrings_t5", data_dir, directory / "run", **told, fine_tune=str(pairs)))
    return directory / "run"


def test_it_learns_from_spans_and_then_from_pairs(finished):
    first, second = SavedRun(finished), SavedRun(finished.with_name("run-text"))
    assert isinstance(first.task, SpanCorruption) and type(second.task) is SequenceToSequence
    assert first.task.model == second.task.model
    history = {record["step"]: record for record in second.history() if "validation/loss" in record}
    losses = [record["validation/loss"] for record in history.values()]
    assert losses[-1] < losses[0] - 0.5
    # Taken is the state that writes best, and of equals the one of the lowest loss.
    best = max(
        history, key=lambda step: (history[step]["validation/rougeL"], -history[step]["validation/loss"])
    )
    assert int(second.state.step) == best and history[best]["validation/rougeL"] > 0
    expected = history[best]["validation/loss"]
    assert second.evaluate()["validation/loss"] == pytest.approx(expected, abs=1e-5)
    result = json.loads((second.directory.path / "result.json").read_text())
    with (second.directory.path / "samples" / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["target"] in row["source"] and row["target"].startswith("the ") for row in rows)
    found = rouge([row["hypothesis"] for row in rows], [row["target"] for row in rows])
    assert {f"validation/{name}": score for name, score in found.items()}.items() <= result.items()


def test_evaluate_scores_what_is_written_again(finished, capsys, tmp_path):
    run = finished.with_name("run-text")
    result = json.loads((run / "result.json").read_text())
    kept = run / "samples" / "validation.csv"
    before = kept.read_bytes()
    kept.unlink()
    code, out, err = call(capsys, "evaluate", run)
    assert (code, err) == (0, "") and out.endswith(f"{kept}\n") and kept.read_bytes() == before
    assert f"validation/rougeL {result['validation/rougeL']:.4g}" in out
    (tmp_path / "validation.tsv").write_text(
        "the cat saw a dog\tthe cat\na bird\tthe bird\nthe fish\ta cat\n"
    )
    code, out, _ = call(capsys, "evaluate", run, "--data", tmp_path / "validation.tsv")
    with (run / "samples" / "validation-all.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["target"] for row in rows] == ["the cat", "the bird", "a cat"]
    found = rouge([row["hypothesis"] for row in rows], [row["target"] for row in rows])
    assert code == 0 and f"text/rougeL {found['rougeL']:.4g}" in out and kept.read_bytes() == before
    # Passages have no texts to write.
    _, out, _ = call(capsys, "evaluate", finished)
    assert "rouge" not in out and not (finished / "samples").exists()


def test_figures_of_spans_are_those_of_the_run_again(finished):
    result = json.loads((finished / "result.json").read_text())
    for name, value in SavedRun(finished).evaluate().items():
        assert value == pytest.approx(result[name], rel=1e-5)


def test_simple_rules_choose_on_the_training_split_alone():
    summaries = [f"Give the {animal}." for animal in ANIMALS]
    body = "Always four words first, and then some more of them, whatever it is."
    train = [Row(body, "Always four words first", "a.py name") for _ in range(80)]
    test = [
        Row(f"{summary} And more.", summary, f"a.py give_the_{animal}")
        for summary, animal in zip(summaries, ANIMALS, strict=True)
    ]
    found = docstrings_t5.rules(Table("made up", {"train": train, "test": test}, (), "1"))
    assert found["the rest's first sentence"] == found["the words of the name"] == pytest.approx(100)
    assert found["the rest's first 4 words"] > 70
    assert found["always 'Always four words first'"] == 0


def test_what_follows_a_prefix_is_another_objective(finished, data_dir, tmp_path):
    text = str(finished.with_name("book.txt"))
    told = {**SMALL, "data": text, "vocabulary_size": 400, "steps": 3, "evaluate_every": None}
    run(*options("docstrings_t5", data_dir, tmp_path, **told, fine_tune=None, objective="prefix"))
    saved = SavedRun(tmp_path)
    assert type(saved.task) is PrefixLanguageModelling
    result = json.loads((tmp_path / "result.json").read_text())
    assert saved.evaluate(["test"])["test/loss"] == pytest.approx(result["test/loss"], rel=1e-5)
