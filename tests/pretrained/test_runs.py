"""Others' directories made runs, and runs made others' directories, by the command line; small, from stored models."""

import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from golden.pretrained_agreement import STORED

from jaxgen import pretrained
from jaxgen.cli import main
from jaxgen.config import describe
from jaxgen.data.pretrained_tokenizers import open_tokenizer, write_tokenizer
from jaxgen.data.subwords import BERT_TOKENS, SpecialTokens, Subwords
from jaxgen.data.tokenizers import Bytes, Characters, Words, digest, save
from jaxgen.errors import UsageError
from jaxgen.pretrained.runs import export_run, import_run
from jaxgen.saved_run import SavedRun

LETTERS = "abcdefghijklmnopqrs.\n "
TEXT = "a cab faced a decal.\nhi" * 4


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return left.value.code, printed.out, printed.err


def with_tokenizer(name, tokenizer, directory):
    """Copies a stored model, and writes a tokenizer beside it."""
    directory.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(STORED / name / file, directory)
    write_tokenizer(tokenizer, directory)
    return directory


def word_pieces():
    """Gives a tokenizer of 23 pieces, made by hand."""
    import tokenizers

    from jaxgen.data.subwords import finish, word_piece_tokenizer

    pieces = [*BERT_TOKENS.names, *"abcdefghijklmnop", "##a", "##b"]
    made = word_piece_tokenizer({piece: number for number, piece in enumerate(pieces)}, "[UNK]", True)
    assert isinstance(made, tokenizers.Tokenizer) and len(pieces) == 23
    return Subwords(finish(made, BERT_TOKENS), "wordpiece", BERT_TOKENS)


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    """A directory with a GPT-2 of 23 letters, and the run that it was made."""
    root = tmp_path_factory.mktemp("gpt")
    directory = with_tokenizer("gpt2", Characters(LETTERS), root / "theirs")
    import_run(directory, root / "run")
    return directory, root / "run"


def test_an_imported_run_opens_like_a_trained_one(gpt, capsys, tmp_path):
    directory, run = gpt
    saved = SavedRun(run)
    model, params = pretrained.load(directory)
    assert describe(saved.task.model) == describe(model)
    np.testing.assert_array_equal(
        saved.state.params["token_embedding"]["embedding"], params["token_embedding"]["embedding"]
    )
    assert digest(saved.tokenizer) == digest(open_tokenizer(directory))
    (tmp_path / "text.txt").write_text(TEXT)
    code, out, err = call(capsys, "evaluate", run, "--data", tmp_path / "text.txt")
    assert (code, err) == (0, "") and "step 0" in out
    figures = dict(pair.rsplit(" ", 1) for pair in re.findall(r"text/\w+ [\d.]+", out))
    tokens = saved.tokenizer.encode(TEXT)
    windows = [tokens[start : start + 17] for start in range(0, len(tokens) - 1, 16)]
    nats = []
    for window in windows:
        logits, _ = model.apply({"params": params}, jnp.asarray(window[None, :-1]))
        log_probs = np.asarray(logits[0] - jnp.log(jnp.exp(logits[0]).sum(-1, keepdims=True)))
        nats.extend(-log_probs[np.arange(len(window) - 1), window[1:]])
    assert float(figures["text/loss"]) == pytest.approx(np.mean(nats), abs=2e-3)
    code, out, err = call(capsys, "sample", run, "--prompt", "a cab", "--max-tokens", 5, "--temperature", 0)
    assert (code, err) == (0, "") and out.startswith("a cab") and len(out.rstrip("\n")) <= 10


def test_what_there_is_no_data_for_says_so(gpt, capsys):
    code, _, err = call(capsys, "evaluate", gpt[1])
    assert code == 2 and "the run was imported, and has no data of its own: name a text, --data PATH" in err


def test_there_and_back_it_is_the_same_bit_for_bit(gpt, capsys, tmp_path):
    directory, run = gpt
    code, out, err = call(capsys, "export", run, tmp_path / "back", "--format", "huggingface")
    assert (code, err, out) == (0, "", f"huggingface: {tmp_path / 'back'}\n")
    (model, params), (before, params_before) = pretrained.load(tmp_path / "back"), pretrained.load(directory)
    assert model == before
    for name, value in params_before["layers"]["layer_1"]["attention"]["query"].items():
        assert value.tobytes() == params["layers"]["layer_1"]["attention"]["query"][name].tobytes()
    assert digest(open_tokenizer(tmp_path / "back")) == digest(open_tokenizer(directory))


def test_import_from_the_command_line(gpt, capsys, tmp_path):
    code, out, err = call(capsys, "import", gpt[0], tmp_path / "run")
    assert (code, err, out) == (0, "", f"run directory: {tmp_path / 'run'}\n")
    code, _, err = call(capsys, "import", gpt[0], tmp_path / "run")
    assert code == 2 and "is there already; name a new directory" in err
    code, _, err = call(capsys, "import", STORED / "gpt2", tmp_path / "other")
    assert code == 1 and "has no tokenizer; looked for tokenizer.json" in err
    code, _, err = call(capsys, "import", tmp_path / "none", tmp_path / "other")
    assert code == 1 and "is no directory; give one with config.json and model.safetensors" in err
    assert not (tmp_path / "other").exists()


def test_a_bert_is_imported_with_its_head(tmp_path):
    made = word_pieces()
    import_run(with_tokenizer("bert_masked", made, tmp_path / "masked"), tmp_path / "run")
    task = SavedRun(tmp_path / "run").task
    assert (type(task).__name__, task.mask_token) == ("MaskedLanguageModelling", made.special_id("mask"))
    assert sorted(task.special_tokens) == [0, 1, 2, 3, 4]
    (tmp_path / "text.txt").write_text("a b c d e\n" * 4)
    passage = SavedRun(tmp_path / "run").other_text(str(tmp_path / "text.txt"))[0]
    around = [made.special_id("cls"), made.special_id("sep")]
    assert passage["tokens"][[0, passage["lengths"] - 1]].tolist() == around
    import_run(with_tokenizer("bert_classification", made, tmp_path / "classes"), tmp_path / "classifier")
    saved = SavedRun(tmp_path / "classifier")
    assert saved.task.class_names == ("bad", "fair", "good")
    assert export_run(saved, tmp_path / "back") == ""
    told = json.loads((tmp_path / "back" / "config.json").read_text())
    assert told["id2label"] == {"0": "bad", "1": "fair", "2": "good"} and told["pad_token_id"] == 0
    with pytest.raises(
        UsageError, match="there is no task for a BERT with the heads spans: open it in your own"
    ):
        import_run(with_tokenizer("bert_spans", made, tmp_path / "spans"), tmp_path / "none")
    large = Subwords.train(["a b"], 300, "bpe", SpecialTokens(end="<|endoftext|>"))
    with pytest.raises(UsageError, match=r"the tokenizer has \d+ tokens, but the model knows 23"):
        import_run(with_tokenizer("gpt2", large, tmp_path / "large"), tmp_path / "none")


def test_words_have_no_such_form_and_are_left_out(gpt, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(gpt[1], run)
    words = Words(("<unk>", "a", "cab"))
    save(words, run / "tokenizer.json")
    told = json.loads((run / "config.json").read_text())
    told["data"]["text"]["tokenizer"] = digest(words)
    (run / "config.json").write_text(json.dumps(told))
    assert export_run(SavedRun(run), tmp_path / "back") == (
        "the tokenizer of words is left out: it has no form that others open"
    )
    assert pretrained.load(tmp_path / "back")[0].vocabulary_size == 23


def test_characters_and_bytes_are_pairs_of_which_none_is_put_together(tmp_path):
    for name, made in (("characters", Characters(LETTERS)), ("bytes", Bytes())):
        (tmp_path / name).mkdir()
        write_tokenizer(made, tmp_path / name)
        opened = open_tokenizer(tmp_path / name)
        text = "a cab\nfaced" if name == "characters" else "été: \x00\u4e00 ~!\n  \t"
        assert opened.encode(text).tolist() == made.encode(text).tolist()
        assert opened.decode(opened.encode(text)) == text
        assert len(opened.vocabulary) == len(made.vocabulary)
