"""Tokenizers: there and back, what is unknown, and files that are damaged or of another run."""

import json
import re
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgen.data.subwords import BERT_TOKENS
from jaxgen.data.tokenizers import Bytes, Characters, Subwords, Words, digest, load, save
from jaxgen.errors import JaxgenError, UsageError

TEXTS = ["To be, or not to be: that is the question.\n", "Whether 'tis nobler in the mind to suffer\n" * 3]

MADE = {
    "characters": Characters.train(TEXTS),
    "bytes": Bytes.train(TEXTS),
    "words": Words.train(TEXTS, 12),
    "bpe": Subwords.train(TEXTS, 300),
    "unigram": Subwords.train(TEXTS, 300, "unigram"),
    "wordpiece": Subwords.train(TEXTS, 60, "wordpiece", BERT_TOKENS),
}


@pytest.mark.parametrize("name", ["characters", "bytes", "bpe", "unigram"])
def test_text_comes_back(name):
    for text in TEXTS:
        ids = MADE[name].encode(text)
        assert ids.dtype == np.int32 and ids.max() < len(MADE[name].vocabulary)
        assert MADE[name].decode(ids) == text


@pytest.mark.parametrize("name", ["bytes", "bpe", "unigram"])
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_nothing_is_unknown_to_bytes(name, text):
    assert MADE[name].decode(MADE[name].encode(text)) == text


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_subwords_are_fewer_than_bytes(name):
    texts = [topics[name] for name in sorted(topics)[:20]]
    made = Subwords.train(texts, 600, name)
    assert len(made.encode(texts[0])) < 0.5 * len(texts[0])
    assert 500 < len(made.vocabulary) <= 600


def test_an_empty_text_has_no_tokens():
    for tokenizer in MADE.values():
        assert tokenizer.encode("").shape == (0,) and tokenizer.decode([]) == ""


def test_unknown_characters_are_named():
    told = "'é' (latin small letter e with acute), '5' (digit five), '€' (euro sign);"
    with pytest.raises(UsageError, match=re.escape(told)) as raised:
        MADE["characters"].encode("thé 5 € é")
    assert "\n" not in str(raised.value)


def test_words_are_the_most_frequent_ones():
    words = Words.train(["b b b a a c d", "a b"], 4)
    assert words.vocabulary == ("<unk>", "b", "a", "c")
    np.testing.assert_array_equal(words.encode("a d C"), [2, 0, 3])
    assert Words.train(["A a a"], 3, lowercase=False).vocabulary == ("<unk>", "a", "A")


def test_words_are_put_together_as_one_writes_them():
    text = "whether 'tis (or not) nobler, in the mind's eye;\nyes.\n"
    words = Words.train([text], 100)
    assert words.decode(words.encode(text)).replace("' ", "'") == text


@pytest.mark.parametrize("name", MADE)
def test_saved_and_loaded_it_is_the_same(name, tmp_path):
    save(MADE[name], tmp_path / "tokenizer.json")
    loaded = load(tmp_path / "tokenizer.json", digest(MADE[name]))
    assert type(loaded) is type(MADE[name]) and digest(loaded) == digest(MADE[name])
    np.testing.assert_array_equal(loaded.encode(TEXTS[0]), MADE[name].encode(TEXTS[0]))


def test_different_tokenizers_have_different_digests():
    assert len({digest(tokenizer) for tokenizer in [*MADE.values(), Words.train(TEXTS, 13)]}) == len(MADE) + 1


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_training_gives_the_same_each_time(model):
    texts = [*TEXTS, *(topics[name] for name in sorted(topics)[:20])]
    assert digest(Subwords.train(texts, 400, model)) == digest(Subwords.train(texts, 400, model))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"kind": "bytes"}', "is damaged"),
        ('{"format_version": 1, "kind": "letters"}', "is damaged"),
        ('{"format_version": 1, "kind": "words"}', "is damaged"),
        ('{"format_version": 9, "kind": "bytes"}', "has format 9"),
        (json.dumps({"format_version": 1, "kind": "bytes"}), "is not the tokenizer that the weights"),
    ],
)
def test_files_that_are_no_use_are_one_line(content, told, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(JaxgenError, match=told) as raised:
        load(path, digest(MADE["characters"]))
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(JaxgenError, match=r"tokenizer\.json is missing"):
        load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Words.train(TEXTS, 1), "a vocabulary of 1 is too small"),
        (lambda: Subwords.train(TEXTS, 200), "a vocabulary of 200 is too small"),
    ],
)
def test_impossible_settings_are_one_line(make, told):
    with pytest.raises(UsageError, match=told):
        make()
