"""Fine-tuning, from a run to a new one: what is taken over, trained and kept; small models, made by hand."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from test_runs import call, word_pieces

from jaxgen import fine_tune as module
from jaxgen import pretrained
from jaxgen.data.pretrained_tokenizers import write_tokenizer
from jaxgen.data.subwords import Subwords, t5_tokens
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.files import read_lines
from jaxgen.fine_tune import fine_tune
from jaxgen.fine_tune_config import FineTuneConfig
from jaxgen.models import BERT, T5
from jaxgen.pretrained.runs import export_run, import_run
from jaxgen.run_plots import draw_plots
from jaxgen.saved_run import SavedRun

SIZES = {"num_layers": 2, "num_heads": 2, "embedding_size": 16, "feed_forward_size": 32}
TOKENS = jnp.zeros((1, 2), jnp.int32)
RANDOM = np.random.default_rng(0)


def make_run(root, name, model, tokenizer):
    texts = 2 if isinstance(model, T5) else 1
    params = jax.jit(model.init)(jax.random.key(0), *[TOKENS] * texts)["params"]
    pretrained.save(model, params, root / f"{name}-theirs")
    write_tokenizer(tokenizer, root / f"{name}-theirs")
    import_run(root / f"{name}-theirs", root / name)
    return root / name


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    model = BERT(vocabulary_size=23, context_length=16, dropout=0.1, **SIZES)
    return make_run(tmp_path_factory.mktemp("runs"), "bert", model, word_pieces())


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    tokenizer = Subwords.train(["a b c d"] * 9, 280, "bpe", t5_tokens(4))
    model = T5(vocabulary_size=len(tokenizer.vocabulary), head_size=8, **{**SIZES, "num_layers": 1})
    return make_run(tmp_path_factory.mktemp("runs"), "t5", model, tokenizer)


def table(letters, label, count):
    return [f"{' '.join(RANDOM.choice([*letters], RANDOM.integers(4, 9)))}\t{label}" for _ in range(count)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Texts of letters of the alphabet's beginning, and of later ones."""
    root = tmp_path_factory.mktemp("labelled")
    for split, count in (("train", 24), ("validation", 8), ("test", 8)):
        lines = ["text\tlabel", *table("abcdef", "early", count), *table("klmnop", "late", count)]
        (root / f"{split}.tsv").write_text("\n".join(lines))
    return root


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Trains on one device, and draws nothing unless `draw_plots` is put back."""
    fit = module.fit
    monkeypatch.setattr(module, "fit", lambda *given, **told: fit(*given, **told, devices=jax.devices()[:1]))
    monkeypatch.setattr(module, "draw_plots", lambda *given: [])


def config(data, workdir, **options):
    options = {"head": "classification", "batch_size": 16, "learning_rate": 0.01, **options}
    return FineTuneConfig(data=str(data), workdir=workdir, **options)


def test_from_the_command_line_to_a_run_like_any_other(bert, labelled, capsys, monkeypatch):
    monkeypatch.setattr(module, "draw_plots", draw_plots)
    options = ["--head", "classification", "--epochs", 8, "--batch-size", 16, "--learning-rate", 0.01]
    code, out, err = call(capsys, "fine-tune", bert, "--data", labelled, *options)
    workdir = bert.with_name("bert-classification")
    assert (code, err) == (0, "")
    assert f"run directory: {workdir}\n" in out and "rows 48 for train, 16 for validation, 16 for test" in out
    result = json.loads((workdir / "result.json").read_text())
    assert result["steps"] == 24 and result["test/accuracy"] > 0.9 and "trained_parameters" not in result
    assert {path.stem for path in (workdir / "plots").iterdir()} == {
        "attention",
        "confusion_matrix",
        "curves",
    }
    told = json.loads((workdir / "config.json").read_text())
    assert told["task"]["kind"] == "TextClassification" and told["task"]["class_names"] == ["early", "late"]
    assert told["data"]["text"]["sequence_length"] == 16 and told["fine_tuning"]["step"] == 0
    code, out, err = call(capsys, "evaluate", workdir)
    assert (code, err) == (0, "") and f"test/accuracy {100 * result['test/accuracy']:.2f} %" in out
    # A classifier is gone on with as it is, where the classes are the same.
    start = module._Start.of(
        saved := SavedRun(workdir), module.tables.read(str(labelled), labelled=True), config("", None)
    )
    jax.tree.map(np.testing.assert_array_equal, start.params, saved.state.params)


def test_frozen_layers_stay_bit_for_bit_and_a_stopped_run_goes_on_exactly(bert, labelled, tmp_path):
    options = {"frozen_layers": 1, "labels": 20, "steps": 4}
    fine_tune(bert, config(labelled, tmp_path / "run", **options))
    before, saved = SavedRun(bert).state.params, SavedRun(tmp_path / "run")
    after = saved.state.params
    kept = {name: name in before and _equal(before[name], after[name]) for name in after}
    assert kept == {
        **dict.fromkeys(
            ("token_embedding", "token_type_embedding", "position_embedding", "embedding_norm"), True
        ),
        **dict.fromkeys(("layers", "pool", "head_classification"), False),
    }
    assert _equal(before["layers"]["layer_0"], after["layers"]["layer_0"])
    # A bias of all keys changes nothing, and gets no gradient but rounding.
    pairs = (jax.tree.leaves(params["layers"]["layer_1"]) for params in (before, after))
    assert not any(_equal(one, other) for one, other in zip(*pairs, strict=True) if one.ndim > 1)
    part = saved.source("train")
    assert len(part) == saved.config["data"]["num_examples"]["train"] == 20
    assert np.bincount(part.arrays()["label"]).tolist() == [10, 10]
    sizes = jax.tree.map(np.size, after)
    trained = jax.tree.leaves((sizes["layers"]["layer_1"], sizes["pool"], sizes["head_classification"]))
    records = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert saved.directory.result()["trained_parameters"] == sum(trained)

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    (tmp_path / "run" / "result.json").unlink()
    fine_tune(bert, config(labelled, tmp_path / "run", **options))
    again = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [_figures(record) for record in again] == [_figures(record) for record in records]
    assert {record["step"] for record in again} == {1, 2, 3, 4}
    assert _equal(SavedRun(tmp_path / "run").state.params, after)
    with pytest.raises(UsageError, match=r"another configuration \(fine_tuning.frozen_layers: 1 -> 0\)"):
        fine_tune(bert, config(labelled, tmp_path / "run", **{**options, "frozen_layers": 0}))


def _equal(one, other):
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def _figures(record):
    return {name: value for name, value in record.items() if "per_second" not in name}


def test_lora_trains_its_changes_and_the_head_and_is_exported_merged(bert, labelled, tmp_path, capsys):
    options = [
        "--steps",
        6,
        "--batch-size",
        16,
        "--learning-rate",
        0.02,
        "--lora-rank",
        3,
        "--workdir",
        tmp_path / "run",
    ]
    code, out, err = call(capsys, "fine-tune", bert, "--data", labelled, "--head", "classification", *options)
    trained = 2 * 2 * (16 * 3 + 3 * 16) + (16 * 16 + 16) + (16 * 2 + 2)
    assert (code, err) == (0, "") and f"trained are {trained:,} parameters beside" in out
    saved = SavedRun(tmp_path / "run")
    result = saved.directory.result()
    assert result["trained_parameters"] == trained
    assert saved.config["fine_tuning"]["low_rank"] == {
        "kind": "LowRank", "rank": 3, "alpha": 6.0, "kernels": ["query", "value"]
    }  # fmt: skip
    before, after = SavedRun(bert).state.params, saved.state.params
    for layer in ("layer_0", "layer_1"):
        kept = jax.tree.map(_equal, before["layers"][layer], after["layers"][layer])
        assert (
            kept["attention"].pop("query")
            == kept["attention"].pop("value")
            == {"bias": True, "kernel": False}
        )
        assert all(jax.tree.leaves(kept))
        change = (
            after["layers"][layer]["attention"]["query"]["kernel"]
            - before["layers"][layer]["attention"]["query"]["kernel"]
        )
        assert np.linalg.matrix_rank(np.asarray(change, np.float64), tol=1e-5) <= 3
    assert all(
        _equal(before[name], after[name]) for name in before.keys() & after.keys() - {"layers", "pool"}
    )
    arrays = saved.source("test").arrays()
    found = saved.predict({name: arrays[name] for name in ("tokens", "lengths")})["probabilities"]
    chances = found[np.arange(16), arrays["label"]]
    assert result["test/loss"] == pytest.approx(-np.log(chances).mean(), abs=1e-5)
    code, out, err = call(capsys, "export", tmp_path / "run", tmp_path / "theirs")
    assert (code, err) == (0, "")
    model, params = pretrained.load(tmp_path / "theirs")
    apply = jax.jit(model.apply)
    exported = apply({"params": params}, arrays["tokens"], lengths=arrays["lengths"])["classification"]
    np.testing.assert_allclose(jax.nn.softmax(exported), found, atol=1e-6)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Texts of four letters with the first of them, to train on and the same to validate."""
    root = tmp_path_factory.mktemp("pairs")
    lines = [f"{' '.join(text)}\t{text[0]}" for text in ("abcd", "bcda", "cdab", "dabc") for _ in range(3)]
    for split in ("train", "validation"):
        (root / f"{split}.tsv").write_text("\n".join(lines))
    return root


def test_lora_of_a_t5_trains_its_changes_alone_and_is_exported_merged(t5, pairs, tmp_path):
    options = {"head": "text", "steps": 4, "batch_size": 4, "lora_rank": 2, "scored_by": "exact"}
    fine_tune(t5, config(pairs, tmp_path / "run", **options))
    saved = SavedRun(tmp_path / "run")
    before, after = (traverse_util.flatten_dict(run.state.params, sep="/") for run in (SavedRun(t5), saved))
    assert before.keys() == after.keys()
    changes = {
        path: np.asarray(after[path] - leaf) for path, leaf in before.items() if not _equal(leaf, after[path])
    }
    layers = ("encoder/layer_0/attention", "decoder/layer_0/attention", "decoder/layer_0/cross_attention")
    assert changes.keys() == {f"{layer}/{name}/kernel" for layer in layers for name in ("query", "value")}
    assert all(np.linalg.matrix_rank(change, tol=1e-5) <= 2 for change in changes.values())
    result = saved.directory.result()
    assert result["trained_parameters"] == 3 * 2 * (16 * 2 + 2 * 16)
    assert saved.task.scored_by == "exact" and "validation/exact_accuracy" in result
    # What is exported has the loss that the adapted model had in training.
    export_run(saved, tmp_path / "theirs")
    model, params = pretrained.load(tmp_path / "theirs")
    arrays = saved.source("validation").arrays()
    labels = arrays["labels"]
    end = saved.tokenizer.special_id("end")
    tokens = [*saved.tokenizer.encode("a b c d"), end]
    assert arrays["tokens"][0, : len(tokens)].tolist() == tokens and arrays["lengths"][0] == len(tokens)
    assert labels[0].tolist() == [*saved.tokenizer.encode("a"), end, *[-1] * 6]
    written = saved.task.shifted(labels)
    logits = jax.jit(model.apply)(
        {"params": params}, arrays["tokens"], written, source_lengths=arrays["lengths"]
    )
    nats = -np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), np.maximum(labels, 0)[..., None], axis=-1
    )
    assert result["validation/loss"] == pytest.approx(nats[labels >= 0].mean(), abs=1e-5)


class Asked(Exception):
    """What `fit` was asked for."""


@pytest.fixture
def asked(monkeypatch):
    """Gives what `fit` would be asked for."""

    def stop(*arguments, **options):
        raise Asked(arguments, options)

    def ask(run, data, workdir=None, **options):
        monkeypatch.setattr(module, "fit", stop)
        with pytest.raises(Asked) as caught:
            fine_tune(run, config(data, workdir, **options))
        return caught.value.args

    return ask


def test_texts_are_made_tokens_once(bert, labelled, asked, monkeypatch):
    texts, encode = [], Subwords.encode
    monkeypatch.setattr(Subwords, "encode", lambda self, text: texts.append(text) or encode(self, text))
    asked(bert, labelled)
    assert len(texts) == 48 + 16 + 16


def test_from_scratch_begins_with_drawn_parameters(bert, labelled, asked):
    (task, *_), options = asked(bert, labelled, from_scratch=True)
    (other, *_), begun = asked(bert, labelled)
    assert task == other and options["params"] is None and begun["params"] is not None
    assert options["record"]["fine_tuning"]["step"] is None and begun["record"]["fine_tuning"]["step"] == 0
    assert options["workdir"] == bert.with_name("bert-classification") and options["steps"] == 10 * 3


def test_usual_learning_rates_are_larger_for_narrow_models_and_for_lora(bert, labelled, asked):
    rates = [
        asked(bert, labelled, learning_rate=None, **more)[1]["record"]["optimizer"]["schedule"][
            "learning_rate"
        ]
        for more in ({}, {"lora_rank": 2})
    ]
    assert rates == pytest.approx([5e-5 * 768 / 16, 10 * 5e-5 * 768 / 16])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"head": "text"}, r"bert holds a BERT \(MaskedLanguageModelling\): --head text is for a T5"),
        ({"sequence_length": 17}, "--sequence-length 17: the model sees 16 tokens"),
        (
            {"sequence_length": 5},
            r"train.tsv, line \d+: the text has \d tokens, and there is room for 3: give a larger",
        ),
        ({"labels": 49}, "--labels 49: there are 48 rows to train on, of 2 classes"),
        ({"labels": 0}, "--labels must be at least 1, not 0"),
        ({"steps": 0}, "--steps must be at least 1, not 0"),
        ({"sequence_length": 0}, "--sequence-length must be at least 1, not 0"),
        ({"head": "text", "target_length": 0}, "--target-length must be at least 1, not 0"),
        ({"frozen_layers": 3}, "--frozen-layers 3: the model has 2 layers; give 0 to 2, or all"),
        ({"lora_rank": 17}, "the rank of LoRA is 17, but .* is of 16 x 16: take 16 at most"),
        ({"lora_rank": 0}, "the rank of LoRA is 0; it must be at least 1"),
        ({"target_length": 8}, "--target-length is for --head text"),
        ({"scored_by": "bleu"}, "--scored-by is for --head text"),
        ({"lora_alpha": 2.0}, "--lora-alpha is for LoRA: give --lora-rank as well"),
        ({"lora_rank": 2, "frozen_layers": 1}, "give --lora-rank or --frozen-layers"),
        ({"from_scratch": True, "frozen_layers": 1}, "--from-scratch has nothing learnt to keep"),
        ({"data": "nowhere.tsv"}, "unknown file or directory"),
    ],
)
def test_what_cannot_be_meant_is_one_line(options, told, bert, labelled, tmp_path):
    options = {"data": labelled, **options}
    with pytest.raises(UsageError, match=told) as caught:
        fine_tune(bert, config(workdir=tmp_path / "run", **options))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_where_it_is_stopped_the_command_that_goes_on_is_told(bert, labelled, tmp_path, monkeypatch, capsys):
    def stop(*arguments, **options):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text("{}")
        raise KeyboardInterrupt

    for command, told in (("the command", "go on with: the command\n"), (None, "")):
        monkeypatch.setattr(module, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(bert, config(labelled, tmp_path / "run"), command)
        assert capsys.readouterr().out == told
        shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["a b\tearly", "k l\tlate", "m"], r"train.tsv, line 3: one column, not two"),
        (["a b\tearly", "k l\tearly"], "has one label only, early"),
        ([], "train.tsv is empty"),
    ],
)
def test_tables_that_are_none_are_one_line(lines, told, bert, tmp_path):
    (tmp_path / "train.tsv").write_text("\n".join(lines))
    (tmp_path / "validation.tsv").write_text("a b\tearly")
    with pytest.raises(JaxgenError, match=told):
        fine_tune(bert, config(tmp_path, tmp_path / "run"))


def test_a_label_that_is_not_trained_on_is_told_with_its_line(bert, tmp_path):
    (tmp_path / "train.tsv").write_text("a b\tearly\nk l\tlate\n")
    (tmp_path / "validation.tsv").write_text("a b\tearly\nc d\tsoon\n")
    with pytest.raises(
        JaxgenError, match=re.escape("validation.tsv, line 2: no training text has the label 'soon'")
    ):
        fine_tune(bert, config(tmp_path, tmp_path / "run"))


def test_long_texts_are_cut_off_when_asked_to(bert, labelled, asked, capsys):
    (_, train, *_), _ = asked(bert, labelled, sequence_length=5, truncate=True)
    assert "80 of 80 texts are longer than 5 tokens, and cut off\n" in capsys.readouterr().out
    cls, sep = word_pieces().special_id("cls"), word_pieces().special_id("sep")
    tokens = train.arrays()["tokens"]
    assert tokens.shape == (48, 5) and (tokens[:, 0] == cls).all() and (tokens[:, 4] == sep).all()
