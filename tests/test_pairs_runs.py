"""Runs of models that write a text for a text: from files of pairs to what is written."""

import csv
import json
import shutil

import numpy as np
import pytest
from pretrained.test_runs import call
from test_run import options

from jaxgen.run import run
from jaxgen.saved_run import SavedRun

SMALL = {"hidden_size": 48, "embedding_size": 16, "batch_tokens": 600, "most_buckets": 2}


def pairs(count, seed):
    random = np.random.default_rng(seed)
    words = ["".join(random.choice(list("abc"), random.integers(1, 7))) for _ in range(count)]
    return [(word, word.upper()) for word in words]


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run that has learnt to write capitals, of three files."""
    directory = tmp_path_factory.mktemp("pairs")
    for seed, (split, count) in enumerate({"train": 600, "valid": 40, "test": 40}.items()):
        lines = [f"{number}\t{text}\t{other}\n" for number, (text, other) in enumerate(pairs(count, seed))]
        (directory / f"{split}.tsv").write_text("".join(lines))
    told = {**SMALL, "data": str(directory), "columns": ("2", "3"), "steps": 250, "learning_rate": 1e-2}
    workdir = tmp_path_factory.mktemp("runs") / "run"
    run(*options("dates_attention", data_dir, workdir, **told))
    return workdir


def test_it_learns_and_what_it_writes_is_kept(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["test/exact_accuracy"] > 0.8
    with (finished / "samples" / "test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and all(row["target"] == row["source"].upper() for row in rows)
    right = sum(row["hypothesis"] == row["target"] for row in rows)
    assert result["test/exact_accuracy"] == pytest.approx(right / 40)


def test_the_state_with_most_exact_texts_is_taken(finished):
    saved = SavedRun(finished)
    history = {r["step"]: r["validation/exact_accuracy"] for r in saved.history() if "validation/loss" in r}
    assert int(saved.state.step) == max(history, key=history.get)
    assert (finished / "plots" / "cross_attention.png").exists()


def test_directory_alone_is_enough_to_evaluate_and_to_write(finished, capsys):
    result = json.loads((finished / "result.json").read_text())
    code, out, err = call(capsys, "evaluate", finished)
    assert (code, err) == (0, "")
    assert f"test/exact_accuracy {100 * result['test/exact_accuracy']:.2f} %" in out
    code, out, _ = call(capsys, "predict", finished, "abcab", "c")
    assert (code, out) == (0, "ABCAB\nC\n")


def test_the_mean_of_the_last_checkpoints_is_a_run_of_its_own(finished, capsys):
    mean = finished.with_name("mean")
    code, out, err = call(capsys, "average-checkpoints", finished, "--last", 2, "--output", mean)
    assert (code, err) == (0, "")
    first, last = json.loads((mean / "config.json").read_text())["averaged"]["steps"]
    assert f"mean of the checkpoints of steps {first}, {last}" in out
    results = [json.loads((run / "result.json").read_text()) for run in (finished, mean)]
    row = next(line for line in out.splitlines() if "test/exact_accuracy" in line)
    figures = [f"{100 * result['test/exact_accuracy']:.2f} %" for result in results]
    assert [cell.strip() for cell in row.split("│")[2:4]] == figures
    code, out, err = call(capsys, "evaluate", mean, "--split", "test")
    assert (code, err) == (0, "") and f"dates_attention, mean of steps {first}, {last}" in out
    assert f"test/exact_accuracy {figures[1]}" in out


def test_runs_are_compared_by_what_they_wrote(finished, tmp_path, capsys):
    other = shutil.copytree(finished, tmp_path / "other")
    code, out, err = call(capsys, "compare", finished, other, "--output", tmp_path / "both.png")
    assert (code, err) == (0, "") and "paired bootstrap" in out and "+0.00" in out
    assert (tmp_path / "both-by-length.png").exists() and (
        finished / "plots" / "quality_by_length.png"
    ).exists()


def test_long_pairs_are_left_out_of_training_alone_and_counted(data_dir, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_text(
        "".join(f"{a}\t{b}\n" for a, b in [*pairs(60, 0), ("a" * 50, "A")])
    )
    told = {
        **SMALL,
        "data": str(tmp_path / "data"),
        "steps": 2,
        "sequence_length": 8,
        "target_length": 8,
    }
    run(*options("dates_attention", data_dir, tmp_path / "run", **told))
    out = capsys.readouterr().out
    assert "pairs are left out, lengths in tokens:" in out and "1 more than 7 to read" in out


def upside_down(directory, rows):
    directory.mkdir()
    for split, part in (("train", rows), ("test", rows[:9])):
        lines = [f"{text}\t{other.upper()}\n" for text, other in part]
        (directory / f"{split}.tsv").write_text("".join(lines))
    return {"data": str(directory), "evaluate_every": 4, "steps": 4, "batch_tokens": 900, "most_buckets": 1}


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_each_text_may_have_a_vocabulary_of_its_own(model, data_dir, tmp_path):
    told = upside_down(tmp_path / "data", [*pairs(200, 0), ("ä", "ü")])
    small = {"embedding_size": 16, "hidden_size": 16, "num_heads": 2, "vocabulary_size": 300}
    run(
        *options(
            "translate", data_dir, tmp_path / "run", **told, **small, model=model, vocabularies="separate"
        )
    )
    saved = SavedRun(tmp_path / "run")
    given = saved.text_format
    assert given.tokenizer.decode(given.tokenizer.encode("abä")) == "abä"
    assert {"AB", "BA", "CC"} & {*given.writing_tokenizer.vocabulary}
    assert not {"AB", "BA", "CC"} & {*given.tokenizer.vocabulary}
    sizes = (saved.task.model.vocabulary_size, saved.task.model.source_vocabulary_size)
    assert sizes == (len(given.writing_tokenizer.vocabulary), len(given.tokenizer.vocabulary))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert saved.evaluate(("test",))["test/loss"] == pytest.approx(result["test/loss"], rel=1e-5)


@pytest.mark.parametrize("cut_off", [True, False])
def test_long_texts_are_cut_off_or_left_out_and_first_words_are_a_rival(cut_off, data_dir, tmp_path, capsys):
    rows = [
        (f"{' '.join([a, b, *'abc' * 9])}" if a < "b" else f"{a} {b}", f"{a} {b}") for a, b in pairs(90, 0)
    ]
    told = upside_down(tmp_path / "data", rows)
    small = {"embedding_size": 16, "hidden_size": 16, "vocabulary_size": 300, "sequence_length": 20}
    run(*options("summarise", data_dir, tmp_path / "run", **told, **small, cut_off=cut_off, copy=True))
    long = sum(len(text.split()) > 9 for text, _ in rows)
    left_out = (
        "more than 19 to read" in capsys.readouterr().out.split("run directory")[0].split("validation")[0]
    )
    assert 0 < long < 90 and left_out != cut_off
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    # The summary, in capitals, is two words: four are the fewest that are tried.
    assert result["first_4_words/rouge1"] > 50
