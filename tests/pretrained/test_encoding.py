"""What a BERT makes of texts: vectors by the definition, whatever else is beside a text, and masks filled in."""

import jax
import numpy as np
import pytest
from golden.pretrained_agreement import STORED
from test_runs import call, with_tokenizer, word_pieces

from jaxgen import pretrained
from jaxgen.encoding import Encoder
from jaxgen.errors import UsageError
from jaxgen.generate import prompts
from jaxgen.models import BERT
from jaxgen.pretrained.runs import import_run


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return with_tokenizer("bert_masked", word_pieces(), tmp_path_factory.mktemp("bert") / "theirs")


@pytest.fixture(scope="module")
def encoder(directory):
    return Encoder.open(directory)


def features(encoder, tokens):
    variables = {"params": encoder.params}
    return np.asarray(encoder.model.apply(variables, np.array([tokens], np.int32), method="features"))[0]


def test_vectors_are_normalised_means_of_the_text_alone(encoder):
    texts = ["a b c", "d"]
    vectors = encoder.embed(texts)
    for text, vector in zip(texts, vectors, strict=True):
        mean = features(encoder, encoder.tokenizer.encode_pair(text)[0]).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    cut = encoder.embed(["a b c d e f g h", "d"], truncate=True)
    np.testing.assert_allclose(cut, encoder.embed(["a b c d e f g", "d"]), atol=1e-6)


def test_vectors_are_those_of_each_text_alone_in_batches_of_any_size(monkeypatch):
    sizes = {"num_layers": 1, "num_heads": 2, "embedding_size": 8, "feed_forward_size": 16}
    model = BERT(vocabulary_size=23, context_length=40, **sizes)
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    encoder, random, seen = Encoder(model, params, word_pieces()), np.random.default_rng(0), []
    texts = [" ".join(random.choice([*"abcdefgh"], length)) for length in (3, 38, 20, 2, 14, 15, 31, 3, 9)]
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    embed = encoder._embed
    vars(encoder)["_embed"] = lambda params, *read: seen.append(read[0].shape) or embed(params, *read)
    for tokens, expected in (
        (2**14, [(5, 16), (2, 40), (2, 32)]),
        (50, [(3, 16), (2, 16), (1, 40), (1, 40), (1, 32), (1, 32)]),
    ):
        monkeypatch.setattr(prompts, "_TOKENS", tokens)
        np.testing.assert_allclose(encoder.embed(texts), alone, atol=1e-6)
        assert seen == expected
        seen.clear()


def test_masks_are_filled_in(encoder):
    tokens = encoder.tokenizer.encode_pair("a [MASK] [MASK] c")[0]
    variables = {"params": encoder.params}
    logits = np.asarray(encoder.model.apply(variables, tokens[None])["masked"])[0]
    found = encoder.fill("a [MASK] [MASK] c", count=3)
    assert len(found) == 2 and all(len(each) == 3 for each in found)
    for place, each in zip((2, 3), found, strict=True):
        chances = np.exp(logits[place]) / np.exp(logits[place]).sum()
        best = np.argsort(-chances)[:3]
        assert [token for token, _ in each] == [encoder.tokenizer.vocabulary[number] for number in best]
        np.testing.assert_allclose([chance for _, chance in each], chances[best], rtol=1e-4)


def test_from_the_command_line(directory, encoder, capsys, tmp_path):
    import_run(directory, tmp_path / "run")
    code, out, err = call(capsys, "predict", tmp_path / "run", "a [MASK] c")
    assert (code, err) == (0, "") and out.startswith("a [MASK] c\n  1: ") and out.count(" %") == 5
    code, out, err = call(capsys, "embed", tmp_path / "run", "a b c", "d")
    np.testing.assert_allclose(
        [[float(value) for value in line.split()] for line in out.splitlines()],
        encoder.embed(["a b c", "d"]),
        atol=1e-5,
    )
    code, out, err = call(capsys, "embed", directory, "d", "--output", tmp_path / "vectors.npy")
    assert (code, err) == (0, "")
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), encoder.embed(["d"]), atol=1e-6)
    code, _, err = call(capsys, "embed", directory, "d", "--output", tmp_path / "vectors.npy")
    assert code == 2 and "is there already" in err


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda encoder: encoder.embed([]), "there is no text: give at least one"),
        (lambda encoder: encoder.embed(["a", " "]), "text 2: the text is empty"),
        (
            lambda encoder: encoder.embed(["a b c d e f g h"]),
            "text 1: the text has 8 tokens, and there is room for 7: give a larger length, or --truncate",
        ),
        (lambda encoder: encoder.fill("a b"), r"the text has no \[MASK\]: put it where"),
        (lambda encoder: Encoder.open(STORED / "gpt2"), "gpt2 holds a GPT, no BERT"),
    ],
)
def test_what_cannot_be_read_is_one_line(ask, told, encoder):
    with pytest.raises(UsageError, match=told):
        ask(encoder)


def test_a_model_without_the_head_fills_nothing(directory, encoder):
    model, params = pretrained.load(STORED / "bert")
    with pytest.raises(UsageError, match="the model can't fill masks"):
        Encoder(model, params, encoder.tokenizer).fill("a [MASK]")
