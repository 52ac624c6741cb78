"""Special tokens, word pieces, and tokenizers in the files that others have; all small, and trained here."""

import io
import json
import re
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import sentencepiece
import tokenizers

from jaxgen.data.pretrained_tokenizers import open_tokenizer, write_tokenizer
from jaxgen.data.sentencepieces import SentencePieces
from jaxgen.data.subwords import BERT_TOKENS, SpecialTokens, Subwords, t5_tokens
from jaxgen.data.tokenizers import Tokenizer, Words, digest, load, save
from jaxgen.errors import JaxgenError, UsageError

TEXTS = [topics[name] for name in sorted(topics)[:12]]
TEXT = "The Statement of a function (été) isn't executed: x != 3.\n"
GPT_TOKENS = SpecialTokens(begin="<|endoftext|>", end="<|endoftext|>")
BERT = Subwords.train_word_pieces(TEXTS, 600)
GPT = Subwords.train(TEXTS, 400, "bpe", GPT_TOKENS)
T5 = Subwords.train(TEXTS, 400, "unigram", t5_tokens(10))


def train_sentencepiece(**options):
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(TEXTS).split("\n")),
        model_writer=made,
        vocab_size=300,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return made.getvalue()


SPIECE = train_sentencepiece(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


@pytest.fixture
def t5_directory(tmp_path):
    (tmp_path / "spiece.model").write_bytes(SPIECE)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    return tmp_path


def ids(tokenizer, text=TEXT):
    return tokenizer.encode(text).tolist()


def test_special_tokens_come_first_and_sentinels_last():
    assert BERT.vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert T5.vocabulary[:3] == ["<pad>", "</s>", "<unk>"]
    assert T5.vocabulary[-10:] == [f"<extra_id_{number}>" for number in reversed(range(10))]
    np.testing.assert_array_equal(T5.sentinel_ids, len(T5.vocabulary) - 1 - np.arange(10))
    assert GPT.vocabulary[0] == "<|endoftext|>" and GPT.special_id("begin") == GPT.special_id("end") == 0
    assert [len(made.vocabulary) for made in (BERT, GPT, T5)] == [600, 400, 400]


def test_special_tokens_are_found_in_texts_and_shown_in_them():
    masked = ids(BERT, "the [MASK] statement")
    assert masked == [*ids(BERT, "the"), BERT.special_id("mask"), *ids(BERT, "statement")]
    assert BERT.decode(masked) == "the [MASK] statement"
    marked = ids(T5, "a <extra_id_0> c<extra_id_9>")
    assert [number for number in marked if number in T5.sentinel_ids] == [
        T5.sentinel_ids[0],
        T5.sentinel_ids[9],
    ]
    assert T5.decode(marked) == "a <extra_id_0> c<extra_id_9>"


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_what_is_written_like_the_end_of_a_row_is_text(model):
    text = "del <s>viejo</s> texto<pad>"
    ends = Subwords.train([text] * 9, 290, model, SpecialTokens(pad="<pad>", end="</s>"))
    assert not {ends.special_id("pad"), ends.special_id("end")} & {*ends.encode(text).tolist()}
    assert ends.decode(ends.encode(text)) == text == "".join(ends.parts(text))
    assert len(ends.parts(text)) == len(ends.encode(text))


def test_text_comes_back_from_bytes_with_special_tokens():
    for made in (GPT, T5):
        assert made.decode(made.encode(TEXT)) == TEXT and 0 not in made.encode(TEXT)


def test_without_special_tokens_subwords_are_what_they_were():
    plain = Subwords.train(TEXTS, 399)
    assert set(plain.describe()) == {"serialised"} and plain.special.names == []
    np.testing.assert_array_equal(GPT.encode(TEXT), plain.encode(TEXT) + 1)


def test_word_pieces_are_the_longest_that_fit():
    """By the definition: from the left, the longest piece of the vocabulary, `##` before what goes on."""
    vocabulary = list(BERT.vocabulary)

    def cut(word):
        pieces, start = [], 0
        while start < len(word):
            marked = [("##" if start else "") + word[start:end] for end in range(len(word), start, -1)]
            piece = next((piece for piece in marked if piece in vocabulary), None)
            if piece is None:
                return ["[UNK]"]
            pieces.append(piece)
            start += len(piece) - 2 * piece.startswith("##")
        return pieces

    words = re.findall(
        r"\w+|[^\w\s]", "The Statement of a function (ete) isn't executed: \u4e00 != 3".lower()
    )
    expected = [piece for word in words for piece in cut(word)]
    got = [
        vocabulary[number]
        for number in ids(BERT, "The Statement of a function (\u00e9t\u00e9) isn't executed: \u4e00 != 3")
    ]
    assert got == expected and "[UNK]" in got and any(piece.startswith("##") for piece in got)


def test_case_counts_if_it_is_said_to():
    cased = Subwords.train_word_pieces(TEXTS, 600, lowercase=False)
    assert ids(cased, "None none") != ids(cased, "none none") and ids(BERT, "None") == ids(BERT, "none")


@pytest.mark.parametrize(
    "train",
    [
        lambda: Subwords.train(iter(TEXTS), 600, "wordpiece", BERT_TOKENS),
        lambda: Subwords.train(iter(TEXTS), 400, "bpe", GPT_TOKENS),
        lambda: Subwords.train(iter(TEXTS), 400, "unigram", t5_tokens(10)),
    ],
    ids=["wordpiece", "bpe", "unigram"],
)
def test_training_gives_the_same_each_time(train):
    assert digest(train()) == digest(train()) and isinstance(train(), Tokenizer)


def test_pairs_are_put_together_as_bert_reads_them():
    """And as the library itself does, which is how others' programs will."""
    first, second = "the first sentence", "a second"
    numbers, types = BERT.encode_pair(first, second)
    cls, sep = BERT.special_id("cls"), BERT.special_id("sep")
    assert numbers.tolist() == [cls, *ids(BERT, first), sep, *ids(BERT, second), sep]
    assert types.tolist() == [0] * (len(ids(BERT, first)) + 2) + [1] * (len(ids(BERT, second)) + 1)
    library = tokenizers.Tokenizer.from_str(BERT.serialised)
    assert (library.encode(first, second).ids, library.encode(first, second).type_ids) == (
        numbers.tolist(),
        types.tolist(),
    )
    alone, types = BERT.encode_pair(first)
    assert alone.tolist() == library.encode(first).ids and not types.any()
    assert numbers.dtype == types.dtype == np.int32
    t5 = tokenizers.Tokenizer.from_str(T5.serialised)
    assert t5.encode(first).ids == [*ids(T5, first), T5.special_id("end")]


@pytest.mark.parametrize("made", [BERT, GPT, T5], ids=["bert", "gpt", "t5"])
def test_written_and_opened_it_is_the_same(made, tmp_path):
    write_tokenizer(made, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert ("token_type_ids" in config.get("model_input_names", ())) == (made is BERT)
    opened = open_tokenizer(tmp_path)
    assert digest(opened) == digest(made) and opened == made
    (tmp_path / "tokenizer_config.json").unlink()  # the usual names tell the roles as well
    assert open_tokenizer(tmp_path).special == made.special


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_pieces_are_written_as_a_list_too(lowercase, tmp_path):
    made = Subwords.train_word_pieces(TEXTS, 600, lowercase=lowercase)
    write_tokenizer(made, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert digest(open_tokenizer(tmp_path)) == digest(made)


def test_word_pieces_that_a_list_does_not_tell_are_not_written_as_one(tmp_path):
    library = tokenizers.Tokenizer.from_str(BERT.serialised)
    library.normalizer = tokenizers.normalizers.Lowercase()
    write_tokenizer(Subwords(library.to_str(), "wordpiece", BERT_TOKENS), tmp_path)
    assert not (tmp_path / "vocab.txt").exists() and ids(open_tokenizer(tmp_path)) != ids(BERT)


@pytest.mark.parametrize("made", [BERT, GPT, T5], ids=["bert", "gpt", "t5"])
def test_runs_keep_them(made, tmp_path):
    save(made, tmp_path / "kept.json")
    kept = load(tmp_path / "kept.json", digest(made))
    assert (kept.special, kept.model) == (made.special, made.model)
    np.testing.assert_array_equal(kept.encode(TEXT), made.encode(TEXT))


def test_what_was_cut_off_or_filled_up_is_whole(tmp_path):
    library = tokenizers.Tokenizer.from_str(BERT.serialised)
    library.enable_truncation(4)
    library.enable_padding(length=50)
    library.save(str(tmp_path / "tokenizer.json"))
    assert ids(open_tokenizer(tmp_path)) == ids(BERT)


def test_byte_pairs_of_two_files(tmp_path):
    tokenizers.Tokenizer.from_str(GPT.serialised).model.save(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt"}
    opened = open_tokenizer(tmp_path)
    assert (ids(opened), opened.model, opened.special) == (ids(GPT), "bpe", GPT_TOKENS)
    assert ids(opened, "a<|endoftext|>b") == [*ids(GPT, "a"), 0, *ids(GPT, "b")]
    assert opened.vocabulary == GPT.vocabulary and opened.decode(opened.encode(TEXT)) == TEXT


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_pieces_of_a_list(lowercase, tmp_path):
    made = Subwords.train_word_pieces(TEXTS, 600, lowercase=lowercase)
    (tmp_path / "vocab.txt").write_text("\n".join(made.vocabulary) + "\n", encoding="utf-8")
    if not lowercase:
        (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "mask_token": "[MASK]"}')
    opened = open_tokenizer(tmp_path)
    assert digest(opened) == digest(made)


def test_roles_that_the_directory_tells(tmp_path):
    """In either file, as names or as descriptions; those that the vocabulary lacks are left out."""
    write_tokenizer(BERT, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"eos_token": {"content": "[SEP]"}, "pad_token": "[NONE]"}'
    )
    (tmp_path / "special_tokens_map.json").write_text('{"mask_token": null, "bos_token": "[CLS]"}')
    special = open_tokenizer(tmp_path).special
    assert (special.end, special.begin, special.pad, special.mask, special.unknown) == (
        "[SEP]",
        "[CLS]",
        None,
        None,
        "[UNK]",
    )


def test_sentencepieces_are_those_of_the_library(t5_directory):
    opened = open_tokenizer(t5_directory)
    library = sentencepiece.SentencePieceProcessor(model_proto=SPIECE)
    assert ids(opened) == library.encode(TEXT) and opened.decode(ids(opened, TEXTS[0])) == library.decode(
        library.encode(TEXTS[0])
    )
    size = library.get_piece_size()
    assert len(opened.vocabulary) == size + 100 and opened.vocabulary[-1] == "<extra_id_0>"
    np.testing.assert_array_equal(opened.sentinel_ids, size + 99 - np.arange(100))
    assert [opened.special_id(role) for role in ("pad", "end", "unknown")] == [0, 1, 2]
    marked = ids(opened, "the <extra_id_0> of <extra_id_1></s>")
    assert marked == [*library.encode("the"), size + 99, *library.encode("of"), size + 98, 1]
    assert opened.decode(marked) == "the <extra_id_0> of <extra_id_1> </s>"
    assert opened.decode([*marked, size + 120]) == opened.decode(marked)  # models have room for more
    assert opened.encode("").shape == (0,) and opened.decode([]) == ""


def test_sentencepieces_are_kept_and_written(t5_directory, tmp_path):
    opened = open_tokenizer(t5_directory)
    save(opened, tmp_path / "kept.json")
    assert load(tmp_path / "kept.json", digest(opened)) == opened
    other = tmp_path / "other"
    other.mkdir()
    write_tokenizer(opened, other)
    assert open_tokenizer(other) == opened


def test_sentencepieces_without_sentinels(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(train_sentencepiece(model_type="bpe"))
    opened = open_tokenizer(tmp_path)
    assert opened.special == SpecialTokens(begin="<s>", end="</s>", unknown="<unk>")
    assert opened.decode(opened.encode("the statement")) == "the statement" and len(opened.sentinel_ids) == 0


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {},
            "has no tokenizer; looked for tokenizer.json, vocab.json with merges.txt, vocab.txt, spiece.model, "
            "tokenizer.model, sentencepiece.bpe.model",
        ),
        ({"vocab.json": "{}"}, "has no tokenizer; looked for"),
        ({"tokenizer.json": "{"}, "is damaged, it is no JSON"),
        ({"tokenizer.json": "{}"}, "tokenizer.json is damaged"),
        ({"tokenizer.json": "[]"}, "tokenizer.json is damaged"),
        ({"vocab.json": "{", "merges.txt": ""}, "merges.txt is damaged"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "x y"}, "merges.txt is damaged"),
        ({"vocab.txt": "a\nb\n"}, "vocab.txt has no token for unknown words, such as [UNK]"),
        ({"spiece.model": "nothing"}, "spiece.model: this is no SentencePiece model; it may be damaged"),
    ],
)
def test_directories_that_are_no_use_are_one_line(files, told, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(JaxgenError, match=re.escape(told)) as raised:
        open_tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (
            lambda: GPT.special_id("mask"),
            "the tokenizer has no mask token; its special tokens: end <|endoftext|>",
        ),
        (lambda: GPT.encode_pair("a", "b"), "the tokenizer has no cls token"),
        (lambda: Subwords.train(TEXTS, 400).special_id("pad"), "no pad token; its special tokens: none"),
        (
            lambda: Subwords.train(TEXTS, 260, "bpe", t5_tokens(9)),
            "260 is too small: the bytes alone are 256 and",
        ),
        (
            lambda: Subwords.train_word_pieces(["ab ba"], 9),
            "9 is too small: the characters of the text are 4",
        ),
        (lambda: Subwords.train(TEXTS, 900, "wordpiece"), "no unknown token"),
        (lambda: Subwords.train(TEXTS, 900, "wordlevel"), "unknown model of subwords to train 'wordlevel'"),
        (
            lambda: write_tokenizer(Words(("a",)), Path("none")),
            "a tokenizer of words has no form that others open",
        ),
        (lambda: BERT.encode("\udc80"), "bytes that are no UTF-8"),
        (lambda: SentencePieces(json.dumps(1), SpecialTokens()), "no SentencePiece model"),
    ],
)
def test_what_cannot_be_is_one_line(ask, told):
    with pytest.raises(JaxgenError, match=re.escape(told)) as raised:
        ask()
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, UsageError) or "SentencePiece" in told
