"""Whole words: which tokens go on a word, by every tokenizer that there is."""

import io
import re
from pydoc_data.topics import topics

import numpy as np
import pytest
import sentencepiece
import tokenizers

from jaxgen.data.passages import evaluation_passages, training_passages
from jaxgen.data.pretrained_tokenizers import open_tokenizer
from jaxgen.data.sequences import Row, SequenceFormat, Table
from jaxgen.data.subwords import BERT_TOKENS, Subwords, t5_tokens
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Bytes, Characters, Words
from jaxgen.data.whole_words import word_parts

TEXTS = [topics[name] for name in sorted(topics)[:12]]
TEXT = "Functions (unlike été2 statements) are not executed:\nfoo.bar_baz += 1234567 <naïve> compares\n"
BERT = Subwords.train(TEXTS, 500, "wordpiece", BERT_TOKENS)
BYTES = {
    "bpe": Subwords.train(TEXTS, 400, "bpe", t5_tokens(3)),
    "unigram": Subwords.train(TEXTS, 400, "unigram"),
    "characters": Characters.train([TEXT]),
}


def told(tokenizer, text):
    tokens = tokenizer.encode(text)
    return tokens, word_parts(tokenizer).continues(tokens[None])[0]


def words_of(tokenizer, text):
    """Puts the tokens of each word together."""
    tokens, continues = told(tokenizer, text)
    parts = np.split(tokens, np.flatnonzero(~continues)[1:])
    return [tokenizer.decode(part).strip() for part in parts]


@pytest.mark.parametrize("name", BYTES)
def test_words_are_runs_of_letters_and_digits(name):
    found = [word for word in words_of(BYTES[name], TEXT) if re.fullmatch(r"[^\W_]+", word)]
    assert found == re.findall(r"[^\W_]+", TEXT)
    tokens, continues = told(BYTES[name], TEXT)
    assert continues.sum() > 0.2 * len(tokens)


def test_bytes_of_one_character_stay_together():
    assert words_of(Bytes(), "an été, no") == ["an", "", "été", ",", "", "no"]


def test_word_pieces_say_themselves_what_goes_on():
    tokens, continues = told(BERT, TEXT)
    assert continues.tolist() == [BERT.vocabulary[token].startswith("##") for token in tokens]
    assert continues.any() and words_of(BERT, "unlike statements")[0] == "unlike"
    # A passage may begin inside of a word, which then isn't that of the special token before.
    inside = next(number for number, piece in enumerate(BERT.vocabulary) if piece.startswith("##"))
    row = np.array([[BERT.special_id("cls"), inside, inside, BERT.special_id("sep")]], np.int32)
    assert word_parts(BERT).continues(row).tolist() == [[False, False, True, False]]


def test_words_are_whole():
    assert not told(Words.train(TEXTS), TEXT)[1].any()


def test_pieces_that_mark_spaces(tmp_path):
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(TEXTS).split("\n")),
        model_writer=made,
        vocab_size=300,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    (tmp_path / "spiece.model").write_bytes(made.getvalue())
    found = words_of(open_tokenizer(tmp_path), "the statement: compares")
    assert [word for word in found if word] == ["the", "statement", ":", "compares"]
    pieces = {"\u2581the": 0, "\u2581state": 1, "ment": 2, ".": 3, "<unk>": 4}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(pieces, unk_token="<unk>"))
    marked = word_parts(Subwords(library.to_str(), "wordlevel"))
    assert marked.inside.tolist() == [False, False, True, False, False]
    assert marked.open.tolist() == [True, True, True, False, False]


def test_sources_tell_them_where_asked_for():
    text = Text("made up", "train", (TEXTS[0],), "1")
    given = SequenceFormat(BERT, 24, first=(2,), last=(3,), whole_words=True, truncate=True)
    rows = [Row(TEXTS[1], "x", "line 1"), Row(TEXTS[2], "x", "line 2")]
    sources = [
        training_passages(text, given),
        evaluation_passages(text, given),
        Table("t", {"train": rows}, ("x",), "1").sources(given)["train"],
    ]
    for source in sources:
        examples = source.arrays()
        assert examples["continues"].any() and examples["continues"].dtype == bool
        np.testing.assert_array_equal(
            examples["continues"], word_parts(BERT).continues(examples["tokens"]), strict=True
        )
    plain = SequenceFormat(BERT, 24, first=(2,), last=(3,))
    assert "continues" not in training_passages(text, plain)[0]
