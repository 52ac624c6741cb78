"""Runs of BERTs: trained on passages, opened again, evaluated on other texts, and what counts alone would guess."""

import json

import jax
import numpy as np
import pytest
from test_run import options

from experiments import pydocs_bert
from jaxgen.data.streams import tokens_of
from jaxgen.encoding import Encoder
from jaxgen.run import run
from jaxgen.run_directory import RunDirectory
from jaxgen.saved_run import SavedRun

SMALL = {"sequence_length": 24, "embedding_size": 16, "num_layers": 1, "num_heads": 2, "batch_size": 8}
SENTENCES = [
    f"the {thing} is {place} the house.\n" for thing in ("cat", "dog", "bird") for place in ("in", "on", "by")
]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    chosen = np.random.default_rng(0).choice(SENTENCES, 300)
    path.write_text("".join(chosen))
    return path


@pytest.fixture(scope="module")
def finished(data_dir, text, tmp_path_factory):
    """A run of `pydocs_bert` of a few steps, on a small file."""
    directory = tmp_path_factory.mktemp("bert") / "run"
    told = {
        **SMALL,
        "data": str(text),
        "vocabulary_size": 60,
        "steps": 60,
        "evaluate_every": None,
        "warmup_steps": 10,
    }
    run(*options("pydocs_bert", data_dir, directory, **told, learning_rate=1e-2))
    return directory


@pytest.fixture(scope="module")
def saved(finished):
    return SavedRun(finished)


def test_figures_are_those_of_the_run_again(finished, saved):
    result = json.loads((finished / "result.json").read_text())
    figures = saved.evaluate()
    assert {"validation/accuracy", "test/loss"} <= figures.keys()
    for name, value in figures.items():
        assert value == pytest.approx(result[name], rel=1e-5)
    assert result["test/accuracy"] > result["unigram/accuracy"], "it learnt something"
    assert result["bigram/accuracy"] > result["unigram/accuracy"]


def test_counts_guess_the_same_hidden_tokens(saved):
    train, test = saved.source("train"), saved.source("test")
    found = pydocs_bert.count(saved.task, train, test)
    hidden = jax.device_get(saved.task.hide_to_evaluate(test.arrays()))
    labels = hidden.labels[hidden.weights > 0]
    most_frequent = np.bincount(tokens_of(train)).argmax()
    assert found["unigram/accuracy"] == pytest.approx((labels == most_frequent).mean())


def test_pairs_are_counted_as_a_table_of_all_pairs_counts_them(saved):
    train, test, task = saved.source("train"), saved.source("test"), saved.task
    tokens = tokens_of(train)
    pairs = np.zeros((train.num_classes, train.num_classes))
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    single = np.bincount(tokens, minlength=train.num_classes) + 1e-3
    share = single / single.sum()
    after = (pairs + share) / (single + 1)[:, None]
    hidden = jax.device_get(task.hide_to_evaluate(test.arrays()))
    right = []
    for row, slot in np.argwhere(hidden.weights):
        place, seen = hidden.positions[row, slot], np.append(hidden.inputs[row], hidden.inputs[row, -1])
        known = [token not in (task.mask_token, *task.special_tokens) for token in seen]
        likely = np.log(after[seen[place - 1]] if known[place - 1] else share)
        if known[place + 1]:
            likely = likely + np.log(after[:, seen[place + 1]])
        right.append(likely.argmax() == hidden.labels[row, slot])
    found = pydocs_bert.count(task, train, test)
    assert found["bigram/accuracy"] == np.mean(right) and 0 < np.mean(right) < 1


def test_it_fills_masks_and_shows_what_it_guessed(finished, saved):
    ((first, *_),) = Encoder.of(saved).fill("the [MASK] is in the house.")
    assert first[0] in saved.tokenizer.vocabulary and 0 < first[1] <= 1
    shown = (finished / "samples" / "sample.txt").read_text()
    assert "[MASK]" in shown and " %" in shown and "[PAD]" not in shown


def test_another_text_is_evaluated(saved, text):
    assert saved.evaluate({"all": saved.other_text(str(text))})["all/accuracy"] > 0


def test_the_table_to_fine_tune_on_is_read_in_the_encoding_of_the_text(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(pydocs_bert, "fine_tune", lambda run, told: asked.append(told))
    config = pydocs_bert.Config(fine_tune="labels.tsv", encoding="latin-1")
    pydocs_bert.fine_tune_afterwards(config, RunDirectory(tmp_path))
    assert [told.encoding for told in asked] == ["latin-1"]


def test_pairs_of_sentences_and_whole_words_are_options(data_dir, text, tmp_path):
    told = {**SMALL, "data": str(text), "vocabulary_size": 60, "steps": 3, "evaluate_every": None}
    run(*options("pydocs_bert", data_dir, tmp_path, **told, next_sentence=True, whole_words=True))
    saved = SavedRun(tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert 0 <= result["test/next_sentence_accuracy"] <= 1
    example = saved.source("test")[0]
    assert {"type_ids", "is_next", "continues"} <= example.keys()
    assert saved.evaluate()["test/loss"] == pytest.approx(result["test/loss"], rel=1e-5)
