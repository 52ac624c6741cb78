"""A T5 that was imported writes: as by hand, in any batch, up to the end token, by commands and for tables."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretrained.test_runs import call, with_tokenizer, word_pieces

from jaxgen.data import tsv
from jaxgen.data.sequences import Row, SequenceFormat, Table
from jaxgen.data.subwords import SpecialTokens, Subwords, finish
from jaxgen.errors import UsageError
from jaxgen.generate import Sampler, beam, beam_search
from jaxgen.models import RecurrentLanguageModel
from jaxgen.pretrained.runs import export_run, import_run
from jaxgen.run_plots import passage_of
from jaxgen.saved_run import SavedRun
from jaxgen.tasks import SequenceToSequence, SpanCorruption
from jaxgen.text_scores import rouge
from jaxgen.text_to_text import texts_of, write_split, write_texts
from jaxgen.translate import translate
from jaxgen.writing import Writer

# What the stored models end texts with.
END = 18
# As the command line has them, so that they are compiled once.
GREEDY, PLAIN = (Sampler.of(temperature=value) for value in (0.0, 1.0))
TEXTS = ["a cab", "faced a decal", "", "abcdefghijklmnopq hid", "d", "a bead", "cab cab cab cab cab"]


def letters():
    """Gives a tokenizer of 23 tokens, letters and special ones."""
    import tokenizers
    from tokenizers import decoders

    tokens = ["<pad>", *"abcdefghijklmnopq", "</s>", "r", " ", "<extra_id_1>", "<extra_id_0>"]
    assert tokens[END] == "</s>" and len(tokens) == 23
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: number for number, token in enumerate(tokens)}, [])
    )
    made.decoder = decoders.Fuse()
    special = SpecialTokens(pad="<pad>", end="</s>", sentinels=("<extra_id_0>", "<extra_id_1>"))
    return Subwords(finish(made, special), "bpe", special)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The run that a stored T5 was made."""
    root = tmp_path_factory.mktemp("t5")
    import_run(with_tokenizer("t5", letters(), root / "theirs"), root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def writer(imported):
    return SavedRun(imported).writer


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of pairs of texts, and its training split."""
    path = tmp_path_factory.mktemp("table") / "pairs.tsv"
    pairs = [(text, text[::-1]) for text in TEXTS if text]
    path.write_text("source\ttarget\n" + "".join(f"{source}\t{target}\n" for source, target in pairs))
    read = tsv.read_pairs(str(path))
    given = SequenceFormat(letters(), 32, 12, last=(END,), truncate=True)
    rows = [row for split in read.splits.values() for row in split]
    return path, dataclasses.replace(read, splits={"train": rows}).sources(given)["train"]


def by_hand(writer, texts, count):
    """Takes the likeliest token each time, by the whole model, without a cache; ends at the end token."""
    rows = [[*writer.tokenizer.encode(text), END] for text in texts]
    tokens = np.array([row + [0] * (32 - len(row)) for row in rows])
    lengths = np.array(list(map(len, rows)))

    @jax.jit
    def logits(written):
        return writer.task.model.apply(
            {"params": writer.state.params}, tokens, written, source_lengths=lengths
        )

    written = jnp.zeros((len(texts), count + 1), jnp.int32)
    for place in range(count):
        written = written.at[:, place + 1].set(logits(written)[:, place].argmax(axis=-1))
    found = [row[1:].tolist() for row in np.asarray(written)]
    return [writer.tokenizer.decode(row[: row.index(END)] if END in row else row) for row in found]


def test_texts_are_those_of_the_whole_model(writer):
    texts = writer.write(TEXTS, max_tokens=10, sampler=GREEDY)
    assert texts == by_hand(writer, TEXTS, 10)
    # Some end, others don't, and they are no continuations of the sources.
    assert len(set(texts)) > 3 and {len(text) == 10 for text in texts} == {True, False}


def test_ragged_texts_are_what_they_are_alone(writer):
    assert writer.write(TEXTS, max_tokens=10, sampler=GREEDY) == [
        writer.write([text], max_tokens=10, sampler=GREEDY)[0] for text in TEXTS
    ]


def test_texts_end_at_the_end_token(writer):
    ended = writer.write(TEXTS, max_tokens=10, sampler=GREEDY)
    on = writer.write(TEXTS, max_tokens=10, sampler=GREEDY, past_end=True)
    assert ended == [text.split("</s>")[0] for text in on] and ended != on


def test_a_gpt_ends_at_its_end_token_too(tmp_path):
    import_run(with_tokenizer("gpt2", letters(), tmp_path / "theirs"), tmp_path / "run")
    writer = SavedRun(tmp_path / "run").writer
    options = {"max_tokens": 8, "num_samples": 40}
    ended, on = (writer.write(["a cab"], past_end=past, **options) for past in (False, True))
    assert ended == [text.split("</s>")[0] for text in on] and ended != on
    assert all(writer.encode("a cab") == writer.tokenizer.encode("a cab"))


def test_sentinels_are_read_and_written(writer):
    model = writer.task.model
    spans = Writer(SpanCorruption(model, first_sentinel=22, end_token=END), writer.state, writer.tokenizer)
    assert spans.encode("a<extra_id_0>b").tolist() == [1, 22, 2, END]
    texts = spans.write(["a<extra_id_0>b"], max_tokens=20, num_samples=20)
    assert any("<extra_id_1>" in text for text in texts)


def test_a_split_is_written_the_same_in_batches_of_any_size(writer, table):
    _, source = table
    before = beam._run._cache_size()
    texts = write_split(writer.task, writer.state, source, batch_size=4)
    assert beam._run._cache_size() == before + 2  # sources of up to 16 tokens, and of up to 32
    rows = [row["tokens"][: row["lengths"]] for row in map(source.__getitem__, range(len(source)))]
    sources = [writer.tokenizer.decode(row[:-1]) for row in rows]
    assert sorted(sources) == sorted(filter(None, TEXTS))
    assert texts == [text.strip() for text in writer.write(sources, max_tokens=12, sampler=GREEDY)]


def test_a_split_is_written_by_beams(writer, table):
    _, source = table
    search = {"num_beams": 3, "length_penalty": 0.6, "max_tokens": 7}
    texts = write_split(writer.task, writer.state, source, **search, batch_size=2)
    rows = [row["tokens"][: row["lengths"]] for row in map(source.__getitem__, range(len(source)))]
    asked = writer.asked(rows)
    given = (writer.decoder, writer.state.params, {}, asked.prompt, asked.lengths)
    found = beam_search(*given, **search, stop_tokens=(END,), inputs=asked.inputs, text=asked.text)
    assert texts == [text.strip() for text in found.texts]
    assert texts != write_split(writer.task, writer.state, source, max_tokens=7, batch_size=4)


def test_texts_are_those_of_the_table_whatever_the_model_reads_of_them():
    pairs = [("a café", "décalé"), ("abcdefg abcdefg", "gfedcba gfedcba")]
    table = Table("made", {"test": [Row(*pair, "a line") for pair in pairs]}, (), "1")
    source = table.source("test", SequenceFormat(letters(), 4, 3, last=(END,), truncate=True))
    assert (source.gather([0, 1])["lengths"] == 4).all()
    assert texts_of(source) == (["a café", "abcdefg abcdefg"], ["décalé", "gfedcba gfedcba"])
    assert texts_of(source, range(1, 2)) == (["abcdefg abcdefg"], ["gfedcba gfedcba"])


def test_what_attention_is_shown_of_is_a_text_as_it_is_read(table):
    """The first one that is short, or the beginning of one, with what ends it."""
    _, source = table
    assert (passage_of(source) == source[0]["tokens"][: source[0]["lengths"]]).all()
    rows = [Row(text, "a", "") for text in ("a" * 50, "b" * 40, "cab")]
    given = SequenceFormat(letters(), 64, 12, last=(END,))
    for some, passage in ((rows, [3, 1, 2, END]), (rows[:2], [1] * 31 + [END])):
        made = Table("made", {"test": some}, (), "1").source("test", given)
        assert passage_of(made).tolist() == passage


def test_splits_without_what_it_takes(writer, table):
    _, source = table
    with pytest.raises(UsageError, match="has no tokenizer"):
        write_split(writer.task, writer.state, dataclasses.replace(source, text=None))
    with pytest.raises(UsageError, match="batch size is 0"):
        write_texts(writer, ["a"], [np.array([1], np.int32)], max_tokens=3, batch_size=0)
    with pytest.raises(UsageError, match="no text to write for"):
        write_texts(writer, [], [], max_tokens=3)


def test_sample_prints_what_was_read_before_what_was_written(imported, writer, capsys):
    asked = ("sample", imported, "--max-tokens", 10)
    code, out, err = call(capsys, *asked, "--prompt", "a cab", "--temperature", 0)
    (text,) = writer.write(["a cab"], max_tokens=10, sampler=GREEDY)
    assert (code, out, err) == (0, f"a cab\n{text}\n", "")
    code, out, _ = call(capsys, *asked, "--prompt", "a cab", "--num-samples", 4, "--past-end")
    texts = writer.write(["a cab"], max_tokens=10, num_samples=4, past_end=True, sampler=PLAIN)
    assert code == 0
    assert out == "\n".join(
        f"--- {number} ---\na cab\n{text}\n" for number, text in enumerate(texts, start=1)
    )
    code, _, err = call(capsys, "sample", imported, "--prompt", "a\udcff")
    assert code == 2 and "bytes that are no UTF-8" in err


def test_predict_writes_for_texts_and_tables(imported, writer, table, capsys, tmp_path):
    code, out, err = call(capsys, "predict", imported, "a cab", "d")
    texts = [best.text for (best,) in translate(writer, ["a cab", "d"], num_beams=1, max_tokens=128)]
    assert (code, out) == (0, f"{texts[0]}\n{texts[1]}\n")
    assert "of 2 texts: cut off after 128 tokens; jaxgen translate --max-tokens for more\n" in err
    path, _ = table
    output = tmp_path / "new" / "written.csv"
    code, out, _ = call(capsys, "predict", imported, path, "--output", output)
    with output.open() as file:
        header, *rows = csv.reader(file)
    assert code == 0 and header == ["source", "hypothesis", "target"]
    assert [row[0] for row in rows] == list(filter(None, TEXTS)) and rows[0][1] == texts[0]
    assert all(target == source[::-1] for source, _, target in rows)
    scores = rouge([row[1] for row in rows], [row[2] for row in rows])
    assert out.startswith(f"a cab\n  -> {texts[0][:199]}") and "   = bac a\n" in out
    assert f"rougeL {scores['rougeL']:.4g}\nrouge: rouge-score|" in out and out.endswith(f"{output}\n")
    sources = tmp_path / "sources.tsv"
    sources.write_text("a cab\n" * 12)
    code, out, _ = call(capsys, "predict", imported, sources)
    assert code == 0 and out.count("  ->") == 10 and "and 2 more" in out and "rouge" not in out
    assert (imported / "predictions.csv").read_text().startswith("source,hypothesis\na cab,")


def test_what_texts_begin_with_is_kept(tmp_path):
    theirs = with_tokenizer("t5", letters(), tmp_path / "theirs")
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps({**config, "decoder_start_token_id": END}))
    import_run(theirs, tmp_path / "run")
    saved = SavedRun(tmp_path / "run")
    assert saved.task.start_token == END
    export_run(saved, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["decoder_start_token_id"] == END


def test_an_imported_model_is_evaluated_on_a_table(imported, writer, tmp_path):
    (tmp_path / "pairs.tsv").write_text("a cab\tbac\nd\ta bead\n")
    saved = SavedRun(imported)
    figures = saved.evaluate({"text": saved.other_text(str(tmp_path / "pairs.tsv"))})
    nats = []
    for source, target in (("a cab", "bac"), ("d", "a bead")):
        labels = [*writer.tokenizer.encode(target), END]
        read, before = np.array([[*writer.tokenizer.encode(source), END]]), np.array([[0, *labels[:-1]]])
        logits = jax.jit(writer.task.model.apply)({"params": writer.state.params}, read, before)[0]
        nats += (-jax.nn.log_softmax(logits)[np.arange(len(labels)), np.array(labels)]).tolist()
    assert figures["text/loss"] == pytest.approx(np.mean(nats), rel=1e-4)


def test_predictions_that_can_not_be(imported, table, capsys, tmp_path):
    (tmp_path / "other.csv").write_text("mine\n")
    (tmp_path / "bad.tsv").write_text("a\nb\tc\n")
    for arguments, message in (
        ((), "give texts, or a file of them, FILE.tsv"),
        ((table[0], tmp_path / "bad.tsv"), "give texts, or one file of them"),
        (("a", "--output", tmp_path / "x.csv"), "--output is for what is written for a table"),
        ((table[0], "--output", tmp_path / "other.csv"), "would be written over"),
        (
            (table[0], "--output", tmp_path / "x.tsv"),
            f"the predictions are a CSV: --output {tmp_path / 'x.csv'}",
        ),
        ((tmp_path / "bad.tsv",), "bad.tsv, line 2: 2 columns, not one; a line is source"),
        ((tmp_path / "none.tsv",), "unknown file or directory"),
    ):
        code, _, err = call(capsys, "predict", imported, *arguments)
        assert code in (1, 2) and message in err and err.count("\n") == 1, err


def test_models_that_do_not_write_say_so(writer, capsys, tmp_path):
    import_run(with_tokenizer("bert_masked", word_pieces(), tmp_path / "theirs"), tmp_path / "bert")
    attention = SavedRun(tmp_path / "bert").writer.attention("a [MASK] cab")["attention"]
    read = [part.strip() for part in attention.queries]
    assert read == ["[CLS]", "a", "[MASK]", "c", "a", "b", "[SEP]"]
    assert attention.keys == attention.queries and attention.weights.shape == (1, 4, 7, 7)
    code, _, err = call(capsys, "sample", tmp_path / "bert", "--prompt", "a")
    assert code == 2 and "a model of MaskedLanguageModelling doesn't write texts" in err
    with pytest.raises(UsageError, match="writes after reading: it scores no single text"):
        writer.score("a cab")
    with pytest.raises(UsageError, match="a RecurrentLanguageModel doesn't write, a T5 does"):
        SequenceToSequence(RecurrentLanguageModel(5)).decoder  # noqa: B018


def test_what_is_read_and_written_is_looked_at(imported, writer, capsys):
    _, out, _ = call(capsys, "plot", imported, "--text", "a cab")
    files = [imported / "plots" / f"{name}_attention.png" for name in ("encoder", "decoder", "cross")]
    assert out.split() == list(map(str, files)) and all(file.stat().st_size > 10_000 for file in files)
    found = writer.attention("a cab")
    assert sorted(found) == ["cross_attention", "decoder_attention", "encoder_attention"]
    read = ["a", " ", "c", "a", "b", "</s>"]
    (written,) = writer.write(["a cab"], max_tokens=31, sampler=GREEDY)
    encoder, decoder, cross = (found[f"{name}_attention"] for name in ("encoder", "decoder", "cross"))
    assert (encoder.queries, encoder.keys) == (read, read)
    # What is written is named in the map of where it looks, what is read again in that of the decoder.
    assert cross.keys == read and written.startswith("".join(cross.queries[:-1]))
    assert decoder.queries[1:] == cross.queries[:-1]
    assert decoder.queries == decoder.keys and "".join(decoder.queries) == f"<pad>{written}"
    assert encoder.weights.shape == (2, 4, 6, 6)
    assert cross.weights.shape == (1, 4, len(cross.queries), 6)
    for attention in found.values():
        np.testing.assert_allclose(attention.weights.sum(axis=-1), 1, rtol=1e-5)
    assert (np.triu(decoder.weights, 1) == 0).all()
