"""Runs of language models opened again: they write, score, show their units, and refuse what they can't do."""

import io
import json
import shutil
import sys
import types

import numpy as np
import pytest
from test_run import options

from experiments.words_lstm import EXPERIMENT
from jaxgen.cli import main
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.generate import Sampler
from jaxgen.run import run
from jaxgen.sample import print_samples
from jaxgen.saved_run import SavedRun
from jaxgen.writing import Writer

SMALL = {"data": "pydocs", "hidden_size": 16, "embedding_size": 8, "sequence_length": 16, "steps": 4}


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run of `pydocs_lstm` of a few steps."""
    workdir = tmp_path_factory.mktemp("runs") / "text"
    run(*options("pydocs_lstm", data_dir, workdir, **SMALL))
    return workdir


@pytest.fixture(scope="module")
def writer(finished):
    return SavedRun(finished).writer


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return left.value.code, printed.out, printed.err


def test_what_is_written_is_what_scoring_finds(finished, writer):
    (text,) = writer.write(["The "], max_tokens=20)
    assert len(text) == 20
    tokens, scores = writer.score("The " + text)
    assert "".join(tokens) == "The " + text and scores[0] == 0 and (scores[1:] < 0).all()
    generated = list(writer.stream(["The "], max_tokens=20))
    written = np.concatenate([chunk.log_probs[0] for chunk in generated])
    np.testing.assert_allclose(written[:20], scores[4:], atol=1e-5)


def test_streams_and_seeds(writer):
    (whole,) = writer.write(["if "], max_tokens=30, seed=3)
    pieces = [chunk.texts[0] for chunk in writer.stream(["if "], max_tokens=30, seed=3, chunk=7)]
    assert "".join(pieces) == whole and len(pieces) == 5
    assert writer.write(["if "], max_tokens=30, seed=4) != [whole]
    samples = writer.write(["if ", "else:"], max_tokens=30, seed=3, num_samples=2)
    assert samples[0] == whole and len(set(samples)) == 4


def test_stop_strings_end_a_text(writer):
    (whole,) = writer.write([""], max_tokens=60)
    stop = whole[20:22]
    (cut,) = writer.write([""], max_tokens=60, stop_strings=[stop])
    assert cut == whole[: whole.index(stop)]


def test_prompts_with_unknown_characters(writer):
    with pytest.raises(
        UsageError, match=r"not trained on: '漢' \(cjk unified ideograph-6f22\); .*--drop-unknown"
    ):
        writer.write(["漢if"], max_tokens=3)
    assert writer.write(["漢if"], max_tokens=9, drop_unknown=True) == writer.write(["if"], max_tokens=9)
    assert writer.write([""], max_tokens=9) == writer.write(["\n"], max_tokens=9)


@pytest.mark.parametrize("tokenizer", ["words", "unigram", "wordpiece"])
def test_every_tokenizer_writes_and_is_evaluated(tokenizer, data_dir, tmp_path):
    changes = {**SMALL, "tokenizer": tokenizer, "vocabulary_size": 300, "cell": "elman"}
    run(*options("words_lstm", data_dir, tmp_path / "run", **changes))
    saved = SavedRun(tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    figures = saved.evaluate()
    assert {"validation/loss", "validation/perplexity", "validation/bits_per_character"} <= figures.keys()
    for name, value in figures.items():
        assert value == pytest.approx(result[name], rel=1e-5)
    assert figures["test/perplexity"] == pytest.approx(np.exp(figures["test/loss"]), rel=1e-4)
    (text,) = saved.writer.write([""], max_tokens=8, sampler=Sampler(greedy=True))
    assert isinstance(text, str)
    parts, activations = saved.writer.activations("the value is")
    assert activations.shape == (len(parts), 16) and "".join(parts).startswith("the value")
    assert (tmp_path / "run" / "samples" / "sample.txt").read_text()


def test_command_line_writes(finished, capsys, tmp_path):
    code, out, _ = call(
        capsys, "sample", finished, "--prompt", "The", "--max-tokens", 12, "--temperature", 0.8, "--top-k", 9
    )
    assert code == 0 and out.startswith("The") and len(out) == len("The") + 12 + 1
    output = tmp_path / "texts.txt"
    code, out, _ = call(
        capsys,
        "sample",
        finished,
        "--prompt",
        "if",
        "for",
        "--max-tokens",
        5,
        "--num-samples",
        2,
        "--output",
        output,
    )
    assert code == 0 and out.startswith(output.read_text()) and out.count("---\n") == 4
    code, _, error = call(capsys, "sample", finished, "--output", output)
    assert code == 2 and "would be written over: give another --output" in error
    code, out, error = call(capsys, "sample", finished, "--output", tmp_path / "none" / "texts.txt")
    assert code == 2 and not out and "there is no directory" in error
    code, out, _ = call(capsys, "sample", finished, "--prompt", "漢if", "--drop-unknown", "--max-tokens", 1)
    assert code == 0 and out.startswith("if")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", "-1"), "temperature is -1.0; it must be at least 0"),
        (("--top-p", "0"), "top-p is 0.0; it must be above 0 and at most 1"),
        (("--top-p", "1.5"), "top-p is 1.5; it must be above 0 and at most 1"),
        (("--top-k", "0"), "top-k is 0; it must be at least 1"),
        (("--max-tokens", "0"), "max tokens is 0; it must be at least 1"),
        (("--num-samples", "0"), "num samples is 0; it must be at least 1"),
        (("--prompt", "€€€"), "not trained on: '€' (euro sign)"),
        (("--stop", ""), "a stop string is empty"),
        (("--seed", "99999999999999999999"), "it must be at least 0 and below 2^63"),
        (("--max-tokens", "2000000000"), "ask for 1,048,576 at most"),
        (("--temperature", "0", "--num-samples", "2"), "a temperature of 0 writes the same text each time"),
    ],
)
def test_impossible_requests_are_one_line(arguments, message, finished, capsys):
    code, _, error = call(capsys, "sample", finished, *arguments)
    assert code == 2 and message in error and error.count("\n") == 1


def test_language_model_does_not_translate(finished, capsys):
    code, _, error = call(capsys, "translate", finished, "a")
    assert (
        code == 2 and "writes another; jaxgen sample goes on from texts" in error and error.count("\n") == 1
    )


def test_run_of_another_kind_does_not_write(data_dir, tmp_path, capsys):
    run(*options("diabetes_fnn", data_dir, tmp_path / "run", steps=2))
    code, _, error = call(capsys, "sample", tmp_path / "run")
    assert code == 2 and "is a run of Regression, not of a model of texts" in error and error.count("\n") == 1


def test_tokenizer_belongs_to_the_weights(finished, data_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    told = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").write_text(json.dumps({**told, "characters": told["characters"][::-1]}))
    for use in (lambda saved: saved.writer, lambda saved: saved.evaluate()):
        with pytest.raises(JaxgenError, match="is not the tokenizer that the weights were trained with"):
            use(SavedRun(copy, data_dir))
    (copy / "tokenizer.json").unlink()
    with pytest.raises(JaxgenError, match=r"tokenizer\.json is missing"):
        SavedRun(copy).writer  # noqa: B018


def test_units_over_a_text(finished, capsys):
    code, out, _ = call(capsys, "plot", finished, "--text", "if x:\n  pass", "--unit", 3, 5)
    assert code == 0 and "unit 3" in out and "unit 5" in out and "hidden_units.png" in out
    code, _, error = call(capsys, "plot", finished, "--text", "if", "--unit", 99)
    assert code == 1 and "there is no unit 99: there are 16, from 0" in error


def test_run_directory_among_the_texts_is_refused(data_dir, tmp_path):
    (tmp_path / "a.txt").write_text("a\n" * 999)
    with pytest.raises(UsageError, match="would lie among the texts of"):
        run(*options("words_lstm", data_dir, tmp_path / "runs", data=f"{tmp_path}/"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: there is no text to train on"),
        (b"too short", "fewer than a batch of 64 sequences of 32"),
        (b"\xff\xfe\x00" * 99, r"is not utf-8: byte 0xff at offset 0; .*--encoding"),
    ],
)
def test_files_that_are_no_use_are_one_line(content, message, data_dir, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(JaxgenError, match=message) as raised:
        run(*options("words_lstm", data_dir, tmp_path / "run", data=str(tmp_path / "a.txt")))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["~nobody-of-this-name/book.txt", f"./{300 * 'a'}", f"{300 * 'a'}.txt"])
def test_texts_that_can_not_be_are_one_line(name, data_dir, tmp_path):
    with pytest.raises(JaxgenError) as raised:
        run(*options("words_lstm", data_dir, tmp_path / "run", data=name))
    assert "\n" not in str(raised.value)


def test_words_lstm_is_the_classic_word_model():
    config = EXPERIMENT.options()
    assert (config.vocabulary_size, config.embedding_size, config.hidden_size, config.dense_size) == (
        1000,
        64,
        128,
        128,
    )
    assert (config.cell, config.batch_size, config.dropout) == ("lstm", 64, 0.1)


def test_text_is_printed_as_it_is_written(capsys):
    """Each chunk is on the terminal before the next one is made."""
    seen = []

    class Slow(Writer):
        reads = False

        def __init__(self):
            pass

        def stream(self, prompts, **options):
            for piece in ("a", "b"):
                seen.append(capsys.readouterr().out)
                yield types.SimpleNamespace(texts=(piece,))

    print_samples(Slow(), ["The "], {})
    assert seen == ["The ", "a"]


def test_output_may_hold_what_is_no_utf_8(tmp_path, monkeypatch):
    # Else it would be in what is told of the test, which has to be UTF-8.
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    class Written(Writer):
        reads = False

        def __init__(self):
            pass

        def stream(self, prompts, **options):
            yield types.SimpleNamespace(texts=("é",))

    print_samples(Written(), [b"\xff ".decode("utf-8", "surrogateescape")], {}, tmp_path / "text")
    assert (tmp_path / "text").read_bytes() == b"\xff \xc3\xa9\n"


def test_options_that_do_not_fit_a_text(data_dir, tmp_path):
    for changes, message in (
        ({"validation_fraction": 0.1}, "a text has a validation split in any case"),
        ({"sequence_length": 0}, "must be at least 1"),
        ({"data": "digits"}, "digits is no set of text"),
        ({"tokenizer": "bpe", "vocabulary_size": 100}, "a vocabulary of 100 is too small"),
    ):
        with pytest.raises(UsageError, match=message):
            run(*options("words_lstm", data_dir, tmp_path / "run", **{"data": "pydocs", **changes}))
