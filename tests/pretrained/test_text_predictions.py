"""Classes of texts, and masks of a file's: against the model applied to each text alone, and by the command line."""

import csv
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_runs import call, word_pieces

from jaxgen import pretrained
from jaxgen.data.pretrained_tokenizers import write_tokenizer
from jaxgen.data.sequences import Row
from jaxgen.data.tsv import read_texts
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.models import BERT
from jaxgen.pretrained.bert import labels
from jaxgen.pretrained.runs import import_run
from jaxgen.saved_run import SavedRun
from jaxgen.text_predictions import classify

NAMES = ("bad", "fair", "good")
CONTEXT = 40


def make_run(root, name, **options):
    sizes = {"num_layers": 1, "num_heads": 2, "embedding_size": 8, "feed_forward_size": 16}
    model = BERT(vocabulary_size=23, context_length=CONTEXT, **sizes, **options)
    params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    # So that probabilities differ more than a little.
    params = jax.tree.map(lambda leaf: 25 * leaf if leaf.ndim > 1 else leaf, params)
    more = labels(NAMES[: model.num_classes]) if "classification" in model.heads else {}
    pretrained.bert.save(model, params, root / f"{name}-theirs", more)
    write_tokenizer(word_pieces(), root / f"{name}-theirs")
    import_run(root / f"{name}-theirs", root / name)
    return root / name


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("classifier")
    return make_run(root, "run", heads=("classification",), num_classes=3)


def texts_of(*lengths):
    random = np.random.default_rng(0)
    return [" ".join(random.choice([*"abcdefghijklmnop"], length)) for length in lengths]


def rows_of(texts):
    return [Row(text, "", f"text {number}") for number, text in enumerate(texts, start=1)]


def alone(saved, text):
    """Gives the probabilities of a text from the model itself."""
    tokens = saved.tokenizer.encode_pair(text)[0]
    return np.asarray(probabilities(saved.task.model, saved.state.params, tokens[None])[0])


@functools.partial(jax.jit, static_argnums=0)
def probabilities(model, params, tokens):
    return jax.nn.softmax(model.apply({"params": params}, tokens)["classification"])


def table_of(path):
    with path.open() as file:
        return list(csv.reader(file))


def test_probabilities_are_those_of_each_text_alone_whatever_is_beside_it(run):
    saved, texts = SavedRun(run), texts_of(38, 3, 20, 14, 15, 3, 30)
    found = classify(saved, rows_of(texts))
    expected = np.stack([alone(saved, text) for text in texts])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(classify(saved, rows_of(texts[::-1])), expected[::-1], atol=1e-5)


def test_texts_on_the_command_line_are_a_table(run, capsys):
    saved, texts = SavedRun(run), texts_of(3, 5)
    code, out, err = call(capsys, "predict", run, *texts)
    assert (code, err) == (0, "") and not (run / "predictions.csv").exists()
    for text in texts:
        (line,) = (line for line in out.splitlines() if text in line)
        first, *others = sorted(zip(alone(saved, text), NAMES, strict=True), reverse=True)
        assert f" {first[1]} " in line and f"{100 * first[0]:.1f} %" in line
        assert ", ".join(f"{name} {100 * value:.1f} %" for value, name in others) in line


def test_a_file_becomes_a_csv_with_the_accuracy_of_its_labels(run, tmp_path, capsys):
    saved, texts = SavedRun(run), texts_of(3, 5, 7, 4)
    expected = np.stack([alone(saved, text) for text in texts])
    best = [NAMES[index] for index in expected.argmax(axis=1)]
    wrong = next(name for name in NAMES if name != best[1])
    told = [best[0], wrong, "odd", best[3]]
    lines = [f"{text}\t{label}" for text, label in zip(texts, told, strict=True)]
    (tmp_path / "texts.tsv").write_text("\n".join(["text\tlabel", *lines]))
    output = tmp_path / "new" / "found.csv"
    code, out, err = call(capsys, "predict", run, tmp_path / "texts.tsv", "--output", output)
    assert (code, err) == (0, "") and out.endswith(f"{output}\n")
    assert (
        "accuracy 50.00 %, 2 of 4; 1 with labels that it wasn't trained on, which count as wrong: odd" in out
    )
    header, *rows = table_of(output)
    assert header == ["text", "prediction", "probability", *NAMES]
    assert [row[:2] for row in rows] == [[text, name] for text, name in zip(texts, best, strict=True)]
    np.testing.assert_allclose(np.array([row[3:] for row in rows], float), expected, atol=1e-5)
    np.testing.assert_allclose([float(row[2]) for row in rows], expected.max(axis=1), atol=1e-5)
    # Its own is written over, without labels as well; another one isn't.
    (tmp_path / "texts.tsv").write_text("\n".join(texts[:2]))
    code, out, err = call(capsys, "predict", run, tmp_path / "texts.tsv", "--output", output)
    assert (code, err) == (0, "") and len(table_of(output)) == 3 and "accuracy" not in out
    output.write_text("mine\n")
    code, _, err = call(capsys, "predict", run, tmp_path / "texts.tsv", "--output", output)
    assert code == 2 and "found.csv would be written over: give another --output" in err
    assert output.read_text() == "mine\n"


def test_an_imported_classifier_is_evaluated_on_a_table(run, tmp_path):
    saved, texts = SavedRun(run), texts_of(3, 5, 7, 4)
    labels = ["good", "bad", "good", "fair"]
    lines = [f"{text}\t{label}" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines))
    figures = saved.evaluate({"text": saved.other_text(str(tmp_path / "texts.tsv"))})
    expected = [alone(saved, text)[NAMES.index(label)] for text, label in zip(texts, labels, strict=True)]
    assert figures["text/loss"] == pytest.approx(-np.log(expected).mean(), rel=1e-4)
    (tmp_path / "texts.tsv").write_text("a b\tgood\nc\todd\n")
    with pytest.raises(JaxgenError, match="line 2: no training text has the label 'odd'"):
        saved.other_text(str(tmp_path / "texts.tsv"))


def test_long_texts_of_a_table_are_cut_off_for_evaluation_when_asked_to(run, tmp_path, capsys):
    (text,) = texts_of(CONTEXT)
    table, short = tmp_path / "long.tsv", tmp_path / "short.tsv"
    table.write_text(f"{text}\tgood\na b\tbad\n")
    short.write_text(f"{text[: 2 * (CONTEXT - 2)]}\tgood\na b\tbad\n")
    code, _, err = call(capsys, "evaluate", run, "--data", table)
    assert (
        code == 2
        and "line 1: the text has 40 tokens, and there is room for 38" in err
        and "--truncate" in err
    )
    cut, expected = (
        call(capsys, "evaluate", run, "--data", file, *more)
        for file, more in ((table, ["--truncate"]), (short, []))
    )
    assert cut == expected and cut[0] == 0


def test_classes_without_names_are_told_by_number(tmp_path):
    run = make_run(tmp_path, "unnamed", heads=("classification",), num_classes=2)
    told = json.loads((run / "config.json").read_text())
    told["task"]["class_names"] = []
    (run / "config.json").write_text(json.dumps(told))
    (tmp_path / "texts.tsv").write_text("a b\t1\nc\t0\n")
    assert SavedRun(run).other_text(str(tmp_path / "texts.tsv")).arrays()["label"].tolist() == [1, 0]


def test_long_texts_are_cut_off_when_asked_to(run, tmp_path, capsys):
    saved, (text,) = SavedRun(run), texts_of(CONTEXT)
    with pytest.raises(UsageError, match="text 1: the text has 40 tokens, and there is room for 38"):
        classify(saved, rows_of([text]))
    found = classify(saved, rows_of([text]), truncate=True)
    np.testing.assert_allclose(found[0], alone(saved, " ".join(text.split()[:38])), atol=1e-5)
    (tmp_path / "texts.tsv").write_text(f"a b\n{text}\n")
    code, _, err = call(capsys, "predict", run, tmp_path / "texts.tsv")
    assert code == 2 and "texts.tsv, line 2: the text has 40 tokens" in err
    code, out, err = call(capsys, "predict", run, tmp_path / "texts.tsv", "--truncate")
    assert (code, err) == (0, "") and out.endswith(f"{run / 'predictions.csv'}\n")
    (run / "predictions.csv").unlink()


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([], "give texts, or a file of them, FILE.tsv"),
        (["a", ""], "text 2: the text is empty"),
        (["a", "texts.tsv"], "give texts, or one file of them"),
        (["nowhere.tsv"], "unknown file or directory"),
        (["a", "--output", "found.txt"], "the predictions are a CSV: --output found.csv"),
    ],
)
def test_what_cannot_be_meant_is_one_line(inputs, told, run, capsys):
    code, _, err = call(capsys, "predict", run, *inputs)
    assert code == 2 and told in err and err.count("\n") == 1


def test_files_of_texts(tmp_path):
    file = tmp_path / "texts.tsv"
    for content, expected in (
        ("text\na b\n\nc\n", [("a b", "", 2), ("c", "", 4)]),
        ('"a\tb"\nc "d"\n', [("a\tb", "", 1), ('c "d"', "", 2)]),
        ("Sentence\tLabel\na\tx\n", [("a", "x", 2)]),
        ("a\tx\nb\ty\n", [("a", "x", 1), ("b", "y", 2)]),
    ):
        file.write_text(content)
        assert read_texts(str(file)) == [
            Row(text, label, f"{file}, line {line}") for text, label, line in expected
        ]
    for content, told in (
        ("a\nb\tx\n", "line 2: 2 columns; a line is text, or text TAB label"),
        ("a\tx\nb\n", "line 2: one column, not two"),
        ("\n \n", "texts.tsv is empty: there is no text in it"),
        ("text\n", "texts.tsv is empty: there is no text in it"),
    ):
        file.write_text(content)
        with pytest.raises(JaxgenError, match=told):
            read_texts(str(file))


def test_masks_of_a_file_are_filled_in(tmp_path, capsys):
    run = make_run(tmp_path, "filler")
    texts = ["a [MASK] c", "[MASK] b"]
    (tmp_path / "texts.tsv").write_text("\n".join(texts))
    code, from_file, err = call(capsys, "predict", run, tmp_path / "texts.tsv")
    assert (code, err) == (0, "") and from_file.count(" %") == 10
    assert call(capsys, "predict", run, *texts) == (0, from_file, "")
    (tmp_path / "texts.tsv").write_text("a [MASK] c\nb c\n")
    code, out, err = call(capsys, "predict", run, tmp_path / "texts.tsv")
    assert code == 2 and "texts.tsv, line 2: the text has no [MASK]" in err and out.startswith("a [MASK] c\n")
    code, _, err = call(capsys, "predict", run, *texts, "--output", tmp_path / "masks.csv")
    assert code == 2 and "--output is for classes" in err
    (long,) = texts_of(CONTEXT)
    code, _, err = call(capsys, "predict", run, f"[MASK] {long}")
    assert code == 2 and "text 1: the text has 41 tokens, and there is room for 38" in err
    code, out, _ = call(capsys, "predict", run, f"[MASK] {long}", "--truncate")
    assert code == 0 and out.count(" %") == 5
