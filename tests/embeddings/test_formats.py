"""Files of word vectors: gensim's, their own back again bit for bit, and what is wrong in damaged ones."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from golden.word_vectors_agreement import check_answers, check_fasttext, check_files, check_ngrams

from jaxgen.embeddings import KeyedVectors, Ngrams, load, save
from jaxgen.embeddings.fasttext_binary import Arguments, read_fasttext, write_fasttext
from jaxgen.errors import JaxgenError, UsageError

GOLDEN = Path(__file__).parents[1] / "golden" / "word_vectors"
FORMATS = ("word2vec", "word2vec-binary", "glove", "fasttext")
# What else than ASCII's spaces takes for an end of a line or a word, and what looks like a number or a comment.
WORDS = [
    "the",
    "a\u0085b",
    "\u00a0",
    "x\u2028y",
    "東京",
    "12",
    "-1e5",
    "#",
    "</s>",
    '"',
    "\ufeffb",
    "nan",
    "3",
]


def random_vectors(words=WORDS, width=5, seed=0):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-30, 30, (len(words), 1))
    return KeyedVectors(words, (rng.normal(size=(len(words), width)) * scale).astype(np.float32))


def random_fasttext(words=WORDS, width=5, buckets=11):
    rng = np.random.default_rng(1)
    own, of_ngrams = (rng.normal(size=(rows, width)).astype(np.float32) for rows in (len(words), buckets))
    counts = np.arange(len(words), 0, -1) * 3
    return KeyedVectors.of_ngrams(words, Ngrams(own, of_ngrams, 2, 4), counts)


def test_files_of_gensim():
    check_files(GOLDEN)
    check_fasttext(GOLDEN)


def test_answers_are_those_of_gensim():
    check_answers(GOLDEN)


def test_ngrams_are_those_of_gensim():
    check_ngrams(GOLDEN)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("width", [1, 5])
def test_what_is_written_is_read_back_bit_for_bit(tmp_path, format, width):
    # The first line would be one of sizes, were the word a number.
    words = WORDS if width > 1 or format != "glove" else [word for word in WORDS if not word.isdigit()]
    vectors = random_vectors(words, width)
    save(tmp_path / "vectors", vectors, format)
    found = load(tmp_path / "vectors")
    assert found.index_to_key == words and list(tmp_path.iterdir()) == [tmp_path / "vectors"]
    np.testing.assert_array_equal(found.vectors, vectors.vectors)


@pytest.mark.parametrize("format", ["word2vec", "glove", "word2vec-binary"])
def test_gzipped_files_are_read(tmp_path, format):
    vectors = random_vectors()
    save(tmp_path / "vectors", vectors, format)
    packed = gzip.compress((tmp_path / "vectors").read_bytes())
    (tmp_path / "vectors.gz").write_bytes(packed)
    np.testing.assert_array_equal(load(tmp_path / "vectors.gz").vectors, vectors.vectors)
    for cut in (9, len(packed) // 2, len(packed) - 3):
        (tmp_path / "cut.gz").write_bytes(packed[:cut])
        with pytest.raises(JaxgenError, match=r"cut\.gz is damaged, or cut off"):
            load(tmp_path / "cut.gz")


def test_gensims_names_of_reading_and_writing(tmp_path):
    vectors = random_vectors()
    for binary in (False, True):
        vectors.save_word2vec_format(str(tmp_path / "vectors"), binary=binary)
        assert b"".join([b"%d %d" % vectors.vectors.shape, b"\n"]) == (tmp_path / "vectors").read_bytes()[:5]
        assert (b"\0" in (tmp_path / "vectors").read_bytes()) == binary
        found = KeyedVectors.load_word2vec_format(tmp_path / "vectors", binary=binary)
        assert found.index_to_key == vectors.index_to_key
        np.testing.assert_array_equal(found.vectors, vectors.vectors)


def test_gzipped_models_of_fasttext_are_to_be_unpacked(tmp_path):
    save(tmp_path / "model.bin", random_fasttext(), "fasttext")
    (tmp_path / "model.bin.gz").write_bytes(gzip.compress((tmp_path / "model.bin").read_bytes()))
    with pytest.raises(JaxgenError, match=r"model\.bin\.gz is gzipped: unpack it first"):
        load(tmp_path / "model.bin.gz")


def test_a_model_of_fasttext_comes_back_whole(tmp_path):
    vectors = random_fasttext()
    output = np.random.default_rng(2).normal(size=vectors.vectors.shape).astype(np.float32)
    arguments = Arguments(3, 2, 1, 7, 3, False, 0.25)
    write_fasttext(tmp_path / "model.bin", vectors, output, arguments)
    found = read_fasttext(tmp_path / "model.bin")
    np.testing.assert_array_equal(found.output, output)
    assert found.arguments == arguments
    np.testing.assert_array_equal(found.vectors.counts, vectors.counts)
    np.testing.assert_array_equal(found.vectors.vectors, vectors.vectors)
    np.testing.assert_array_equal(found.vectors["unseen"], vectors["unseen"])
    assert (found.vectors.ngrams.shortest, found.vectors.ngrams.longest) == (2, 4)
    with pytest.raises(UsageError, match=r"the output is \[2, 5\], where \[13, 5\] belongs"):
        write_fasttext(tmp_path / "other.bin", vectors, output[:2])


def test_other_tools_lines(tmp_path):
    """Spaces behind the numbers, as of fastText, an end of line behind vectors, words with spaces as of GloVe."""
    (tmp_path / "model.vec").write_bytes(b"2 3\na 1 2 3 \n. . . 4 5 6 \n\n")
    found = load(tmp_path / "model.vec")
    assert found.index_to_key == ["a", ". . ."] and found["a"].tolist() == [1, 2, 3]
    rows = b"".join(
        b"%b %b\n" % (word, struct.pack("<2f", 1, number)) for number, word in enumerate((b"x", b"y"))
    )
    (tmp_path / "c.bin").write_bytes(b"2 2\n" + rows)
    assert load(tmp_path / "c.bin").index_to_key == ["x", "y"]
    (tmp_path / "crlf.txt").write_bytes(b"1 2\r\na 1 2\r\n")
    assert load(tmp_path / "crlf.txt")["a"].tolist() == [1, 2]


@pytest.mark.parametrize("width", [2, 300])
def test_a_text_whose_first_word_has_spaces_is_no_binary(tmp_path, width):
    numbers = b" 1.25e-07" * width
    (tmp_path / "a.txt").write_bytes(b"2 %d\nat name@x.com%b\nb%b\n" % (width, numbers, numbers))
    assert load(tmp_path / "a.txt").index_to_key == ["at name@x.com", "b"]


@pytest.mark.parametrize("width", [1, 3, 300])
def test_a_binary_whose_first_word_is_long_is_no_text(tmp_path, width):
    for seed in range(4):
        vectors = random_vectors(["x" * (256 + 1000 * seed), "b"], width, seed)
        save(tmp_path / "a.bin", vectors, "word2vec-binary")
        np.testing.assert_array_equal(load(tmp_path / "a.bin").vectors, vectors.vectors)


@pytest.mark.parametrize("text", [b"2 2\na 1 2\nb 3 4\n", b"a 1 2\nb 3 4\n"])
def test_a_byte_order_mark_before_a_text_is_no_part_of_it(tmp_path, text):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text)
    assert load(tmp_path / "a.txt").index_to_key == ["a", "b"]


@pytest.mark.parametrize("word", ["two words", "", "tab\t", "line\n", "null\0", "\udc80"])
@pytest.mark.parametrize("format", FORMATS)
def test_words_that_no_reader_would_find_again_are_refused(tmp_path, word, format):
    vectors = KeyedVectors(["a", word], np.eye(2))
    with pytest.raises(UsageError, match="can't be written: it is"):
        save(tmp_path / "vectors", vectors, format)
    assert not list(tmp_path.iterdir())


def test_unknown_formats_and_files_are_told(tmp_path):
    with pytest.raises(UsageError, match="unknown format 'word2vc'; did you mean word2vec"):
        save(tmp_path / "vectors", random_vectors(), "word2vc")
    with pytest.raises(UsageError, match=r"there is no file .*none: give one"):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "holds no word vectors"),
        (b"hello world\n", "holds no word vectors that can be read: its first line is 'hello world'"),
        (b"2 3\n", "is cut off: it has 0 of the 2 words"),
        (b"3 2\na 1 2\nb 3 4\n", "is cut off: it has 2 of the 3 words"),
        (b"1 2\na 1 2\nb 3 4\n", "has more words than the 1 that its first line tells"),
        (b"2 2\na 1 2\nb 3\n", "line 3: it has 1 numbers after its word, where 2 belong"),
        (b"2 2\na 1 2 3\nb 1 2 3\n", "line 2: it has 3 numbers after its word, where 2 belong"),
        (b"2 9\na 1 2 3\nb 1 2 3\n", "line 2: it has 3 numbers after its word, where 9 belong"),
        (b"a 1 2\nb 1\n", "line 2: it has 1 numbers after its word, where 2 belong"),
        (b"2 2\na 1 2\n 3 4\n", "line 3: it has 1 numbers after no word, where 2 belong"),
        (b"a 1 2\nb 1 x\n", "line 2: it has something else than numbers: '1 x'"),
        (b"a 1 2\nb nan 2\n", "line 2: it has numbers that aren't finite"),
        (b"a 1 2\nb 1 2\nc 1 1e99\n", "line 3: it has numbers that aren't finite"),
        (b"a 1 2\nb\xff 1 2\n", r"line 2: the word b'b\\xff' is no UTF-8"),
        (b"3 2\na 1 2\nb 1 2\na 3 4\n", "line 4: the word 'a' was there before, in line 2"),
        (b"a 1 2\n\nb 1 2\n", "line 2: it is empty"),
        (b"9" * 6000 + b" 2\na 1 2\n", "line 2: it has 2 numbers after its word, where 1 belong"),
        (b"2 2\na 1 2\nb\t1\t2\n", "line 3: it has tabs or several spaces where single spaces belong"),
        (b"1 2\na\t1\t2\n", "line 2: it has tabs or several spaces where single spaces belong"),
        (b"a\t1\t2\nb\t1\t2\n", "line 1: it has tabs or several spaces where single spaces belong"),
        (b"a  1 2\n", "line 1: it has tabs or several spaces where single spaces belong"),
    ],
)
def test_damaged_texts_are_told_with_their_line(tmp_path, text, message):
    path = tmp_path / "vectors.txt"
    path.write_bytes(text)
    with pytest.raises(JaxgenError, match=message) as raised:
        load(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def row(word, *numbers):
    return word + b" " + struct.pack(f"<{len(numbers)}f", *numbers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"2 2\n" + row(b"a", 1, 2), "is cut off: it is too short for 2 words of 2 numbers"),
        (b"2 2\n" + row(b"a" * 20, 1, 2) + row(b"b", 1), "is cut off in word 2 of 2"),
        (b"999999999999 300\n" + row(b"a", 1, 2), "is cut off: it is too short for 999,999,999,999 words"),
        (b"1 2\n" + row(b"a", 1, 2) + row(b"b", 1, 2), "goes on after the 1 words of 2 numbers"),
        (
            b"2 1\n" + row(b"a", 1.1, 2) + row(b"b", 1.1, 2),
            "goes on after the 2 words of 1 numbers",
        ),
        (b"2 2\n" + row(b"a", 1, 2) + row(b"\xffb", 1, 2), r"word 2: b'\\xffb' is no UTF-8"),
        (b"2 2\n" + row(b"a", 1, 2) + row(b"", 1, 2), "word 2: it is empty"),
        (b"2 2\n" + row(b"a", 1, 2) + row(b"b", np.nan, 2), "word 2: 'b' has numbers that aren't finite"),
        (
            b"3 2\n" + row(b"a", 1, 2) + row(b"b", 1, 2) + row(b"a", 1, 2),
            "word 3: 'a' was there before, as word 1",
        ),
        (b"0 2\n\xff \xff", "doesn't begin with the number of words and the width"),
        (b"1 2\n" + b"\xff \xff" + b"a" * 9999, "word 1: "),
    ],
)
def test_damaged_binaries_are_told_with_their_word(tmp_path, content, message):
    path = tmp_path / "vectors.bin"
    path.write_bytes(content)
    with pytest.raises(JaxgenError, match=message) as raised:
        load(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_rows_that_lie_across_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgen.embeddings.word2vec_binary._READ_AT_ONCE", 7)
    monkeypatch.setattr("jaxgen.embeddings.text_format._READ_AT_ONCE", 30)
    vectors = random_vectors()
    for format in ("word2vec-binary", "word2vec", "glove"):
        save(tmp_path / format, vectors, format)
        np.testing.assert_array_equal(load(tmp_path / format).vectors, vectors.vectors)
    (tmp_path / "bad").write_bytes(b"".join(b"w%d 1 2 3\n" % number for number in range(50)) + b"x 1 2 ?\n")
    with pytest.raises(JaxgenError, match="line 51: it has something else than numbers"):
        load(tmp_path / "bad")


def test_every_cut_of_a_model_of_fasttext_is_told(tmp_path):
    path = tmp_path / "model.bin"
    save(path, random_fasttext(WORDS[:3], 2, 4), "fasttext")
    content = path.read_bytes()
    for length in range(8, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(JaxgenError, match=r"model\.bin is cut off in"):
            load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(JaxgenError, match="damaged: it goes on after its end"):
        load(path)


HEAD, DICTIONARY = 8, 8 + 12 * 4 + 8


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (4, struct.pack("<i", 13), "has version 13; 11 and 12 can be read"),
        (HEAD + 7 * 4, struct.pack("<i", 3), "is a model of classes of texts, not of words"),
        (HEAD + 6 * 4, struct.pack("<i", 9), r"impossible \(model 2, loss 9, width 2\)"),
        (HEAD, struct.pack("<i", 3), "its vectors are 7 x 2, where 7 x 3 belong"),
        (HEAD + 8 * 4, struct.pack("<i", 5), "its vectors are 7 x 2, where 8 x 2 belong"),
        (
            HEAD + 8 * 4,
            struct.pack("<i", -1),
            r"its n-grams are impossible \(2 to 4 characters, -1 buckets\)",
        ),
        (HEAD + 9 * 4, struct.pack("<2i", 5, 4), "its n-grams are impossible .5 to 4 characters"),
        (HEAD + 9 * 4, struct.pack("<2i", -1, 4), "its n-grams are impossible .-1 to 4 characters"),
        (HEAD + 9 * 4, struct.pack("<2i", 3, -1), "its n-grams are impossible .3 to -1 characters"),
        (
            DICTIONARY,
            struct.pack("<3i", 4, 3, 1),
            r"its dictionary is impossible \(3 words and 1 labels of 4\)",
        ),
        (DICTIONARY, struct.pack("<2i", 10**9, 10**9), "is cut off in its dictionary"),
        (DICTIONARY + 28, b"\xff", "word 1 is no UTF-8"),
        (DICTIONARY + 28 + 4 + 8, b"\1", "word 1, 'the', is no word"),
    ],
)
def test_models_of_fasttext_that_cannot_be_read_are_told(tmp_path, place, value, message):
    path = tmp_path / "model.bin"
    save(path, random_fasttext(["the", "of", "and"], 2, 4), "fasttext")
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(JaxgenError, match=message):
        read_fasttext(path)


def test_fasttext_without_n_grams_leaves_their_shortest_length(tmp_path):
    path = tmp_path / "model.bin"
    save(path, random_vectors(["the", "of"]), "fasttext")
    content = bytearray(path.read_bytes())
    content[HEAD + 9 * 4 : HEAD + 10 * 4] = struct.pack("<i", 3)  # as by its -maxn 0
    path.write_bytes(content)
    assert load(path).index_to_key == ["the", "of"]


def test_numbers_that_are_not_finite_and_words_twice_in_a_model_of_fasttext_are_told(tmp_path):
    path = tmp_path / "model.bin"
    save(path, random_fasttext(["the", "off", "and"], 2, 4), "fasttext")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"off\0", b"the\0"))
    with pytest.raises(JaxgenError, match="word 2, 'the', was there before, as word 1"):
        load(path)
    matrix = DICTIONARY + 28 + 3 * (4 + 9) + 17
    nan = struct.pack("<f", np.nan)
    for number, told in ((2, "word 'off'"), (9, "bucket 1")):
        start = matrix + 4 * number
        path.write_bytes(content[:start] + nan + content[start + 4 :])
        with pytest.raises(JaxgenError, match=f"the vector of {told} has numbers that aren't finite"):
            load(path)
    path.write_bytes(content[: matrix - 17] + b"\1" + content[matrix - 16 :])
    with pytest.raises(JaxgenError, match=r"is compressed \(quantised\)"):
        load(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "vectors.txt"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for format in FORMATS:
        with pytest.raises(JaxgenError, match=r"could not write .*: No space left on device"):
            save(path, random_vectors(), format)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
