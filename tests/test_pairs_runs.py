"""Runs of models that write a text for a text: from files of pairs to what is written."""

import csv
import json
import shutil

import numpy as np
import pytest
from pretrained.test_runs import call
from test_run import EXPERIMENTS, options

from jaxgen.errors import UsageError
from jaxgen.run import run
from jaxgen.saved_run import SavedRun
from jaxgen.splits import load_splits
from jaxgen.translate import translate

SMALL = {"hidden_size": 48, "embedding_size": 16, "batch_tokens": 600, "most_buckets": 2}


def pairs(count, seed):
    random = np.random.default_rng(seed)
    words = ["".join(random.choice(list("abc"), random.integers(1, 7))) for _ in range(count)]
    return [(word, word.upper()) for word in words]


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run that has learnt to write capitals, of three files, with a tokenizer for each side."""
    directory = tmp_path_factory.mktemp("pairs")
    for seed, (split, count) in enumerate({"train": 600, "valid": 40, "test": 40}.items()):
        lines = [f"{number}\t{text}\t{other}\n" for number, (text, other) in enumerate(pairs(count, seed))]
        (directory / f"{split}.tsv").write_text("".join(lines))
    told = {**SMALL, "data": str(directory), "columns": ("2", "3"), "steps": 250, "learning_rate": 1e-2}
    told["vocabularies"] = "separate"
    told["evaluate_every"] = 50  # of which each writes for all that is held out
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
    history = [record for record in saved.history() if "validation/loss" in record]
    best = max(history, key=lambda record: (record["validation/exact_accuracy"], -record["validation/loss"]))
    assert int(saved.state.step) == best["step"]
    assert (finished / "plots" / "cross_attention.png").exists()


def test_directory_alone_is_enough_to_evaluate_and_to_write(finished, capsys, tmp_path):
    result = json.loads((finished / "result.json").read_text())
    code, out, err = call(capsys, "evaluate", finished)
    assert (code, err) == (0, "")
    exact = f"exact_accuracy {100 * result['test/exact_accuracy']:.2f} %"
    assert f"test/{exact}" in out and "\n\n" not in out
    with (finished / "samples" / "test.csv").open() as file:
        written = [row["hypothesis"] for row in csv.DictReader(file)]
    assert (finished / "samples" / "test.txt").read_text().splitlines() == written
    test_file = SavedRun(finished).source("test").name
    code, out, err = call(
        capsys, "predict", finished, f"{test_file}/test.tsv", "--output", tmp_path / "a.csv"
    )
    assert (code, err) == (0, "") and out.endswith(f"\n{exact}\n{tmp_path / 'a.csv'}\n")
    code, out, _ = call(capsys, "predict", finished, "abcab", "c")
    assert (code, out) == (0, "ABCAB\nC\n")
    # By beams another file is written, and the first is left as it is.
    before = (finished / "samples" / "test.csv").read_bytes()
    code, out, err = call(capsys, "evaluate", finished, "--split", "test", "--beam", 3)
    assert (code, err) == (0, "") and "test-beam-3.csv" in out
    assert (finished / "samples" / "test.csv").read_bytes() == before
    with (finished / "samples" / "test-beam-3.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = sum(row["hypothesis"] == row["target"] for row in rows)
    assert f"test/exact_accuracy {100 * right / 40:.2f} %" in out


def test_pairs_longer_than_those_of_the_run_are_scored_as_a_whole(finished, tmp_path, capsys):
    (tmp_path / "long.tsv").write_text(f"1\t{'abc' * 30}\t{'ABC' * 30}\n")
    told = ("evaluate", finished, "--data", tmp_path / "long.tsv")
    printed = set()
    for cut in ((), ("--truncate",)):
        code, out, err = call(capsys, *told, *cut)
        assert (code, err) == (0, "")
        with (finished / "samples" / out.splitlines()[-1].split("/")[-1]).open() as file:
            (row,) = csv.DictReader(file)
        # Cut off or not, what is written is held against the whole.
        assert (row["source"], row["target"]) == ("abc" * 30, "ABC" * 30)
        printed.add(out)
    assert len(printed) == 2  # their losses differ


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
    # 40 texts are too few for a plot by length.
    assert [path.name for path in tmp_path.glob("*.png")] == ["both.png"]
    assert not (finished / "plots" / "quality_by_length.png").exists()


def test_long_pairs_are_left_out_of_training_alone_and_counted(data_dir, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_text(
        "\n" + "".join(f"{a}\t{b}\n" for a, b in [*pairs(60, 0), ("a" * 50, "A")])
    )
    told = {
        **SMALL,
        "data": str(tmp_path / "data"),
        "steps": 2,
        "sequence_length": 8,
        "target_length": 8,
        "attention": "none",
    }
    run(*options("dates_attention", data_dir, tmp_path / "run", **told))
    out = capsys.readouterr().out
    assert "train.tsv: 1 of 62 lines are blank, and left out\n" in out
    assert "pairs are left out, lengths in tokens:" in out and "1 more than 7 to read" in out
    # Without attention there is none to draw, and the run ends well.
    assert not list((tmp_path / "run" / "plots").glob("*attention*"))
    code, _, err = call(capsys, "translate", tmp_path / "run", "abc", "--output", tmp_path / "a.png")
    assert code == 2 and "this model has no attention to look at" in err
    code, _, err = call(capsys, "plot", tmp_path / "run", "--text", "abc")
    assert code == 2 and "neither attention to look at nor hidden units" in err


def test_batches_need_no_room_for_pairs_that_are_left_out(tmp_path):
    long = (" ".join(["abc"] * 600), "A")
    (tmp_path / "train.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in [*pairs(60, 0), long]))
    (tmp_path / "validation.tsv").write_text("abcabc\tABCABC\n")
    told = {"data": str(tmp_path), "vocabulary_size": 300}
    experiment = EXPERIMENTS["translate"]
    with pytest.raises(
        UsageError, match=r"8 pairs of texts of .* and .*: give --batch-tokens \d+ or more, or lower"
    ):
        load_splits(experiment, experiment.options(**told), None)
    train = load_splits(experiment, experiment.options(**told, most_ratio=10.0), None)["train"]
    assert train.text.sequence_length < 20 and long not in [row[:2] for row in train.rows]


def upside_down(directory, rows, parallel=False):
    directory.mkdir()
    for split, part in (("train", rows), ("test", rows[:9])):
        lines = [(text, other.upper()) for text, other in part]
        if parallel:
            for language, texts in zip(("en", "es"), zip(*lines, strict=True), strict=True):
                (directory / f"{split}.{language}").write_text("".join(f"{text}\n" for text in texts))
        else:
            (directory / f"{split}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in lines))
    return {
        "columns": ("en", "es") if parallel else (),
        "data": str(directory),
        "evaluate_every": 4,
        "steps": 4,
        "batch_tokens": 900,
        "most_buckets": 1,
    }


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_each_text_may_have_a_vocabulary_of_its_own(model, data_dir, tmp_path, capsys):
    parallel = model == "transformer"
    told = upside_down(tmp_path / "data", [*pairs(200, 0), ("ä", "ü")], parallel)
    told |= {"steps": 40, "evaluate_every": 2, "until_converged": True, "patience": 1}
    told |= {"embedding_size": 16, "vocabulary_size": 300, "vocabularies": "separate", "model": model}
    told |= {"num_heads": 2} if parallel else {"hidden_size": 16}
    experiment = EXPERIMENTS["translate"]
    run(experiment, experiment.options(**told, data_dir=data_dir, workdir=tmp_path / "run"))
    saved = SavedRun(tmp_path / "run")
    given = saved.text_format
    assert given.tokenizer.decode(given.tokenizer.encode("abä")) == "abä"
    assert {"AB", "BA", "CC"} & {*given.writing_tokenizer.vocabulary}
    assert not {"AB", "BA", "CC"} & {*given.tokenizer.vocabulary}
    sizes = (saved.task.model.vocabulary_size, saved.task.model.source_vocabulary_size)
    assert sizes == (len(given.writing_tokenizer.vocabulary), len(given.tokenizer.vocabulary))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    # It ends where BLEU gets no better, though the loss does.
    *_, before, last = [figures for figures in saved.history() if "validation/bleu" in figures]
    assert last["step"] < 40 and last["validation/bleu"] <= before["validation/bleu"]
    assert last["validation/loss"] < before["validation/loss"]
    assert saved.evaluate(("test",))["test/loss"] == pytest.approx(result["test/loss"], rel=1e-5)
    with (tmp_path / "run" / "samples" / "test.csv").open() as file:
        assert all(row["target"] == row["source"].upper() for row in csv.DictReader(file))
    ((best,),) = translate(saved.writer, ["abä"], num_beams=2, max_tokens=3, attention=True)
    assert "".join(best.attention.keys) == "abää</s>" and best.text in "".join(best.attention.queries)
    assert best.attention.weights.sum(axis=-1) == pytest.approx(1, rel=1e-5)
    code, _, err = call(capsys, "translate", tmp_path / "run", "abc", "--direction", "es-en")
    told = "translates en-es, not es-en" if parallel else "doesn't know from what to what it translates"
    assert code == 2 and told in err


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "translate",
            {"train_split": "foo"},
            "--train-split is for sets of examples: pairs have their own splits",
        ),
        ("dates_attention", {"test_split": "bar"}, "--test-split is for sets of examples"),
        (
            "translate",
            {"batch_size": 3},
            "--batch-size is for examples of one length: batches .* --batch-tokens",
        ),
        ("translate", {"validation_fraction": 0.1}, "pairs have a validation split in any case"),
        ("translate", {"num_heads": 2}, "--num-heads is for --model transformer"),
        ("translate", {"model": "transformer", "attention": "none"}, "--attention is for --model lstm"),
        ("translate", {"model": "transformer", "hidden_size": 9}, "--hidden-size is for --model lstm"),
        (
            "summarise",
            {"copy": True, "vocabularies": "separate"},
            "--copy .*: leave out --vocabularies separate",
        ),
        ("summarise", {"copy": True, "attention": "none"}, "--copy .*: leave out --attention none"),
        ("summarise", {"copy": True, "label_smoothing": 0.1}, "--copy .*: leave out --label-smoothing"),
        # What a trial run has of its own was not given; only the data is missing.
        ("translate", {"model": "transformer"}, "none.tsv"),
        ("translate", {"model": "transformer", "smoke": True}, "none.tsv"),
        ("summarise", {"copy": True, "smoke": True}, "none.tsv"),
    ],
)
def test_options_without_a_part_are_refused_before_any_data_is_read(name, given, message, tmp_path):
    config = EXPERIMENTS[name].options(**{"data": "none.tsv", "workdir": tmp_path / "run", **given})
    with pytest.raises(UsageError, match=message):
        run(EXPERIMENTS[name], config)
    assert not (tmp_path / "run").exists()


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
    saved = SavedRun(tmp_path / "run")
    alone, of_run = saved.other_text(str(tmp_path / "data" / "test.tsv")), saved.source("test")
    same = alone[0]["tokens"].shape == of_run[0]["tokens"].shape
    assert same == cut_off
    assert not same or (alone.arrays()["tokens"] == of_run.arrays()["tokens"]).all()
    capsys.readouterr()
    _, _, err = call(capsys, "predict", tmp_path / "run", "a " * 40)
    told = "longer than the 20 tokens that are read" if cut_off else "more tokens than the 20 that the run"
    assert f"1 of 1 texts: {told}" in err
    # The summary, in capitals, is two words: four are the fewest that are tried.
    assert result["first_4_words/rouge1"] > 50


def test_translations_are_ranked_and_look_where_the_model_does(finished):
    """Rows are named by what is written in a step: of this task the letter that is looked at, in capitals."""
    writer = SavedRun(finished).writer
    assert writer.writing_tokenizer != writer.tokenizer
    ((best, second),) = translate(writer, ["abcab"], num_beams=3, num_samples=2, attention=True)
    assert best.text == "ABCAB" and best.complete and best.score > second.score
    names, read, weights = best.attention
    assert ("".join(names), "".join(read)) == ("ABCAB</s>", "abcab</s>")
    of_model = writer.attention("abcab")["cross_attention"]
    assert (of_model.queries, of_model.keys) == (names, read)
    np.testing.assert_allclose(of_model.weights, weights, atol=1e-5)


def test_translate_prints_a_line_for_each(finished, capsys, tmp_path):
    (tmp_path / "in.txt").write_text("abc\n\n" + "c" * 5 + "\n")
    output = tmp_path / "out.txt"
    code, out, err = call(capsys, "translate", finished, "abc", "c" * 5, "--beam", 3)
    assert (code, out, err) == (0, "ABC\nCCCCC\n", "")
    code, out, err = call(capsys, "translate", finished, tmp_path / "in.txt", "--beam", 3, "--output", output)
    assert (code, err) == (0, "") and out == f"abc\n  -> ABC\n\n  -> \nccccc\n  -> CCCCC\n{output}\n"
    assert output.read_text() == "ABC\n\nCCCCC\n"
    (tmp_path / "in.tsv").write_text("1\tabc\tABC\n2\tccccc\tCCCCC\n")
    several = ("--beam", 3, "--num-samples", 2)
    code, out, _ = call(capsys, "translate", finished, tmp_path / "in.tsv", *several)
    rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and [row[0] for row in rows] == ["1", "1", "2", "2"]
    assert (rows[0][2], rows[2][2]) == ("ABC", "CCCCC") and float(rows[0][1]) > float(rows[1][1])
    code, out, _ = call(
        capsys, "translate", finished, "abc", *several, "--output", tmp_path / "a.png", "--max-tokens", 12
    )
    first, _, path = out.splitlines()
    assert code == 0 and first.split("\t")[1] == "ABC" and path == str(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_translations_of_what_was_never_seen(finished, capsys):
    """Unknown symbols are bytes: something is written, or it is said that nothing is; and so is what is too long."""
    code, out, err = call(capsys, "translate", finished, "漢☃", "--beam", 3)
    assert (code, out.count("\n")) == (0, 1) and "more tokens than the" not in err
    assert bool(out.strip()) != ("1 of 1 texts: an empty text" in err)
    code, out, err = call(capsys, "translate", finished, "abc" * 30, "--beam", 3, "--max-tokens", 2)
    assert code == 0 and out.count("\n") == 1
    assert "1 of 1 texts: more tokens than the" in err
    assert "1 of 1 texts: cut off after 2 tokens; jaxgen translate --max-tokens for more" in err


def test_translations_that_can_not_be(finished, capsys, tmp_path):
    (tmp_path / "taken.txt").write_text("mine\n")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "three.tsv").write_text("a\tb\nc\td\te\n")
    for arguments, message in (
        (("",), "text 1 is empty"),
        (("a", " \t"), "text 2 is empty"),
        ((tmp_path / "blank.txt",), "blank.txt is empty: there is no text in it"),
        ((tmp_path / "none.txt",), "none.txt"),
        ((), "give texts, or a file of them, FILE.tsv or FILE.txt"),
        (("a", "--num-samples", 6), "6 texts of 5 beams"),
        (("a", "--beam", 0), "--beam is 0; it must be at least 1"),
        (("a", "--num-samples", 0), "--num-samples is 0; it must be at least 1"),
        (("a", "b", "--output", tmp_path / "a.png"), "a map of attention is of one text, and there are 2"),
        (("a", "--output", tmp_path / "a.svg"), f"is a PNG: --output {tmp_path / 'a.png'}"),
        (("a", "--output", tmp_path / "taken.txt"), "taken.txt would be written over"),
        (("a", "--output", tmp_path / "no" / "a.txt"), "there is no directory"),
        (
            (tmp_path / "three.tsv",),
            "3 columns, not two; a line is source TAB target, or has the columns 2 and 3",
        ),
        (("a", "--direction", "en-es"), "doesn't know from what to what it translates"),
    ):
        code, out, err = call(capsys, "translate", finished, *arguments)
        assert code in (1, 2) and message in err and (out, err.count("\n")) == ("", 1), err
    assert (tmp_path / "taken.txt").read_text() == "mine\n"


def test_runs_know_their_direction(finished, capsys, tmp_path):
    copied = tmp_path / "run"
    copied.mkdir()
    for file in finished.iterdir():
        (copied / file.name).symlink_to(file)
    (copied / "config.json").unlink()
    config = json.loads((finished / "config.json").read_text())
    del config["data"]["text"]["columns"]
    config["data"]["name"] = "/data/train.en,/data/train.es.gz"
    (copied / "config.json").write_text(json.dumps(config))
    code, _, err = call(capsys, "translate", copied, "abc", "--direction", "fr-es")
    assert code == 2 and "translates en-es, not fr-es" in err
    config["data"]["text"]["columns"] = ["en", "es"]
    (copied / "config.json").write_text(json.dumps(config))
    code, out, _ = call(capsys, "translate", copied, "abc", "--direction", "EN-es", "--beam", 3)
    assert (code, out) == (0, "ABC\n")
    code, _, err = call(capsys, "translate", copied, "abc", "--direction", "es-en")
    assert code == 2 and "translates en-es, not es-en: the other way takes a run of its own" in err
