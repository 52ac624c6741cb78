"""Runs of GPTs: trained on windows, opened again, evaluated, written with, looked into; and what they refuse."""

import json

import jax
import numpy as np
import pytest
from test_run import options
from test_writing import call

from experiments import pydocs_gpt, shakespeare_gpt
from jaxgen.data.streams import tokens_of
from jaxgen.errors import UsageError
from jaxgen.experiment import optimizer_config
from jaxgen.run import parse, run
from jaxgen.saved_run import SavedRun
from jaxgen.splits import load_splits
from jaxgen.train.state import count_parameters

CONTEXT = 16
SMALL = {"sequence_length": CONTEXT, "embedding_size": 16, "num_layers": 1, "num_heads": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run of `pydocs_gpt` of a few steps, from a small file."""
    directory = tmp_path_factory.mktemp("gpt")
    path = directory / "book.txt"
    path.write_text("It was the best of times,\nit was the worst of times.\n" * 60)
    told = {**SMALL, **pydocs_gpt.EXPERIMENT.presets["llama"], "feed_forward_size": 24, "num_kv_heads": 1}
    told |= {"data": str(path), "test_split": "validation+test", "steps": 4, "evaluate_every": None}
    run(*options("pydocs_gpt", data_dir, directory / "run", **told))
    return directory / "run"


@pytest.fixture(scope="module")
def saved(finished):
    return SavedRun(finished)


def test_figures_are_those_of_every_token_once(finished, saved):
    result = json.loads((finished / "result.json").read_text())
    figures = saved.evaluate()
    assert {"validation/loss", "test/loss", "test/bits_per_character"} <= figures.keys()
    for name, value in figures.items():
        assert value == pytest.approx(result[name], rel=1e-5)
    test, params = saved.source("test"), saved.state.evaluation_params()
    assert saved.source("validation").split == "validation" and test.split == "validation+test"
    tokens = tokens_of(test)
    apply = jax.jit(lambda tokens: jax.nn.log_softmax(saved.task.model.apply({"params": params}, tokens)[0]))
    nats = []
    for begin in range(0, len(tokens) - 1, CONTEXT):
        window = tokens[begin : begin + CONTEXT + 1]
        padded = np.zeros((1, CONTEXT), np.int32)
        padded[0, : len(window) - 1] = window[:-1]
        nats += (-np.asarray(apply(padded))[0, np.arange(len(window) - 1), window[1:]]).tolist()
    assert len(nats) == len(tokens) - 1
    assert figures["test/loss"] == pytest.approx(np.mean(nats), rel=1e-5)


def test_what_is_written_fits_the_window(finished, saved):
    assert (
        len((finished / "samples" / "sample.txt").read_text()) == CONTEXT - 1 + 1
    )  # a line's end before and behind
    writer = saved.writer
    (text,) = writer.write(["It "])
    assert len(text) == CONTEXT - 3
    tokens, scores = writer.score("It " + text)
    assert "".join(tokens) == "It " + text
    chunks = list(writer.stream(["It "]))
    written = np.concatenate([chunk.log_probs[0] for chunk in chunks])[: CONTEXT - 3]
    np.testing.assert_allclose(written, scores[3:], atol=1e-5)
    assert len(writer.write(["It was the best "[: CONTEXT - 1], "I"])[1]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("sample", "--prompt", "It was", "--max-tokens", 11),
            "6 tokens of prompt and 11 new ones are more than the model's window of 16; ask for fewer, or shorten",
        ),
        (
            ("sample", "--prompt", "It was the best of times"),
            "24 tokens of prompt and 1 new ones are more than the model's window of 16",
        ),
        (
            ("plot", "--text", "It was the best of times"),
            "a text of 24 tokens is longer than the model's context of 16; cut it",
        ),
        (("plot", "--text", "It", "--unit", 3), "has attention, not hidden units"),
        (("plot", "--text", ""), "there is no text to look at: give some"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments, message, finished, capsys):
    command, *rest = arguments
    code, _, error = call(capsys, command, finished, *rest)
    assert code == 2 and message in error and error.count("\n") == 1


def test_attention_over_a_text_is_drawn(finished, saved, capsys):
    assert (finished / "plots" / "attention.png").exists()
    (finished / "plots" / "attention.png").unlink()
    code, out, _ = call(capsys, "plot", finished, "--text", "It was")
    assert code == 0 and out.strip() == str(finished / "plots" / "attention.png")
    assert (finished / "plots" / "attention.png").read_bytes().startswith(b"\x89PNG")
    parts, keys, weights = saved.writer.attention("It was")["attention"]
    assert "".join(parts) == "It was" and keys == parts and weights.shape == (1, 2, 6, 6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert (weights[..., ~np.tri(6, dtype=bool)] == 0).all()


def test_splits_are_windows_and_tell_where_documents_start(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name} is a letter\n" * 40)
    config = pydocs_gpt.EXPERIMENT.options(
        data=str(tmp_path), sequence_length=CONTEXT, reset_at_documents=True
    )
    splits = load_splits(pydocs_gpt.EXPERIMENT, config, None)
    train = splits["train"]
    assert len(train) == len(tokens_of(train)) - CONTEXT and train.streams == 0
    assert train.arrays()["document_start"].any()
    for name in ("validation", "test"):
        labels = splits[name].arrays()["labels"]
        assert (labels >= 0).sum() == len(tokens_of(splits[name])) - 1


def test_the_default_is_nanogpts_recipe_for_cpus():
    config = shakespeare_gpt.EXPERIMENT.options()
    assert (config.batch_size, config.sequence_length, config.steps, config.dropout) == (12, 64, 2000, 0)
    assert config.test_split == "validation+test"  # the last tenth of the text
    optimizer = optimizer_config(config, config.steps)
    assert (optimizer.name, optimizer.beta2) == ("adamw", 0.99)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.1, 1.0)
    rate = optimizer.schedule.build()
    expected = {0: 0, 50: 1.5e-3, 100: 3e-3, 1050: 1.65e-3, 2000: 3e-4}  # three times as fast
    assert {step: float(rate(step)) for step in expected} == pytest.approx(expected)

    class Characters:
        num_classes, text = 65, type("Format", (), {"tokenizer": None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shakespeare_gpt, "digest", lambda tokenizer: "")
        task = shakespeare_gpt.make_task(config, Characters)
    params, _ = jax.eval_shape(task.init, jax.random.key(0), {})
    assert count_parameters(params) == 804_096
    assert not [path for path, _ in jax.tree_util.tree_leaves_with_path(params) if "bias" in str(path[-1])]


def test_baby_is_larger_and_keeps_the_rest():
    config = parse(shakespeare_gpt.EXPERIMENT, ["--preset", "baby"])
    assert (config.num_layers, config.num_heads, config.embedding_size) == (6, 6, 384)
    assert (config.sequence_length, config.batch_size, config.steps) == (256, 64, 5000)
    assert (config.dropout, config.learning_rate, config.beta2) == (0.2, 1e-3, 0.99)


def test_other_attention_than_there_is(data_dir, tmp_path):
    with pytest.raises(UsageError, match="num_kv_heads is 3, but 2 heads can't be shared evenly"):
        run(
            *options(
                "pydocs_gpt", data_dir, tmp_path / "run", **{**SMALL, "num_kv_heads": 3, "data": "pydocs"}
            )
        )
