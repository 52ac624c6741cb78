"""What tokens stand for: with spaces, bytes of a character, unknown words and their case."""

import base64
import io

import numpy as np
import pytest
import sentencepiece

from jaxgen.data.sentencepieces import SentencePieces
from jaxgen.data.subwords import SpecialTokens, Subwords
from jaxgen.data.surfaces import filled_in, read_parts, written_parts
from jaxgen.data.tokenizers import Bytes, Characters, Words, unknown_token

SPECIAL = SpecialTokens(pad="<pad>", end="</s>", unknown="<unk>")
CORPUS = ["el árbol ñandú Hello there there casa casa"] * 5
TEXT = "Hello  ñan漢, casa"


def sentence_pieces():
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["el arbol, Hello there there casa casa"] * 20),
        model_writer=made,
        vocab_size=30,
        minloglevel=2,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    return SentencePieces(base64.b64encode(made.getvalue()).decode(), SPECIAL)


TOKENIZERS = {
    "bpe": Subwords.train(CORPUS, 300, "bpe", SPECIAL),
    "unigram": Subwords.train(CORPUS, 300, "unigram", SPECIAL),
    "wordpiece": Subwords.train_word_pieces(["hello there casa"] * 5, 60, SPECIAL),
    "sentencepiece": sentence_pieces(),
    "words": Words.train(["hello there casa"], 9),
    "bytes": Bytes(),
    "characters": Characters.train([TEXT]),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_token_has_its_part_of_the_text(name):
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer.encode(TEXT)
    read, written = read_parts(tokenizer, TEXT), written_parts(tokenizer, tokens)
    assert len(read) == len(written) == len(tokens)
    # In the order of the text, and all of it but spaces; of a character's bytes each is the whole.
    place = 0
    for part in (part.strip() for part in read):
        place = TEXT.index(part, max(0, place - 1))
    assert set("".join(read)) - {" "} == set(TEXT) - {" "}
    assert not any("\ufffd" in part for part in [*read, *written])
    if name in ("bpe", "unigram", "bytes"):
        assert read == written and read.count("漢") == 3
    if name == "characters":
        assert read == written == list(TEXT)
    if name == "sentencepiece":
        assert "".join(read).strip() == " ".join(TEXT.split())


@pytest.mark.parametrize("name", ["wordpiece", "sentencepiece", "words"])
def test_unknown_tokens_are_filled_in_where_they_stand(name):
    tokenizer = TOKENIZERS[name]
    tokens, unknown = tokenizer.encode(TEXT), unknown_token(tokenizer)
    read, places = read_parts(tokenizer, TEXT), np.flatnonzero(tokens == unknown).tolist()
    assert "漢" not in tokenizer.decode(tokens) and places
    filled = filled_in(tokenizer, tokens, unknown, {place: read[place].strip() for place in places})
    assert filled.replace(" ", "").lower() == TEXT.replace(" ", "").lower()
    some = filled_in(tokenizer, tokens, unknown, {places[0]: "NEW"})
    assert some == tokenizer.decode(tokens).replace("<unk>", "NEW", 1)
    assert filled_in(tokenizer, tokens, unknown, {}) == tokenizer.decode(tokens)


def test_tokenizers_that_know_all():
    assert [unknown_token(TOKENIZERS[name]) for name in ("bytes", "characters")] == [None, None]
