"""Corpora: what is counted, numbered and left out, wherever the words lie."""

import gzip

import numpy as np
import pytest

from jaxgen.data import cooccurrence, corpus
from jaxgen.data.cooccurrence import cooccurrence_source
from jaxgen.data.corpus import END, encode_corpus, read_corpus, read_vocabulary, write_vocabulary
from jaxgen.errors import JaxgenError, UsageError

TEXT = "the cat sat\n\nthe dog and the cat ran\nthe  end of\tthe cat\nzebra\n"


def sentences(found):
    """The words of each sentence, from the numbers."""
    parts = np.split(found.tokens, np.flatnonzero(found.tokens == END) + 1)
    return [[found.vocabulary.words[number] for number in part[:-1]] for part in parts if len(part)]


def assert_equal(found, other):
    assert found.vocabulary.words == other.vocabulary.words
    np.testing.assert_array_equal(found.vocabulary.counts, other.vocabulary.counts)
    np.testing.assert_array_equal(found.tokens, other.tokens)
    assert (found.num_words, found.version) == (other.num_words, other.version)


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.txt"
    path.write_text(TEXT)
    return read_corpus(str(path), min_count=1)


def test_words_are_counted_and_sentences_kept(plain):
    assert plain.vocabulary.words == ("the", "cat", "and", "dog", "end", "of", "ran", "sat", "zebra")
    assert plain.vocabulary.counts.tolist() == [5, 3, 1, 1, 1, 1, 1, 1, 1]
    assert sentences(plain) == [line.split() for line in TEXT.splitlines() if line]
    assert plain.num_words == 15


def test_rare_words_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    found = read_corpus(str(tmp_path / "a.txt"), min_count=2)
    assert sentences(found) == [["the", "cat"], ["the", "the", "cat"], ["the", "the", "cat"]]
    assert found.num_words == 15


def test_directories_and_compressed_files_are_read_as_one_text(tmp_path, plain):
    first, second = TEXT.splitlines(keepends=True)[:2], TEXT.splitlines(keepends=True)[2:]
    directory = tmp_path / "parts"
    (directory / "b").mkdir(parents=True)
    (directory / "a.txt.gz").write_bytes(gzip.compress("".join(first).encode()))
    (directory / "b" / "c.txt").write_text("".join(second))
    (directory / ".hidden").write_text("nothing of this\n" * 9)
    assert_equal(read_corpus(str(directory), min_count=1), plain)


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("prose", [False, True])
def test_a_text_of_one_line_is_read_in_pieces(tmp_path, monkeypatch, plain, prose, separator):
    (tmp_path / "line.txt").write_text(separator.join(TEXT.split()))
    monkeypatch.setattr(corpus, "_LINE", 7)
    found = read_corpus(str(tmp_path / "line.txt"), min_count=1, prose=prose)
    assert [word for sentence in sentences(found) for word in sentence] == TEXT.split()
    assert found.vocabulary.words == plain.vocabulary.words


def test_large_corpora_lie_in_a_file_and_in_pieces_of_whole_sentences(tmp_path, monkeypatch, plain):
    (tmp_path / "a.txt").write_text(TEXT)
    monkeypatch.setattr(corpus, "_RESIDENT", 6)
    monkeypatch.setattr(corpus, "_PIECE", 5)
    found = read_corpus(str(tmp_path / "a.txt"), min_count=1)
    assert isinstance(found.tokens, np.memmap)
    assert_equal(found, plain)
    assert len(found.bounds) == 4
    assert (found.bounds[0], found.bounds[-1]) == (0, len(found.tokens))
    assert all(found.tokens[bound - 1] == END for bound in found.bounds[1:])


def test_long_sentences_are_cut(monkeypatch):
    monkeypatch.setattr(corpus, "_SENTENCE", 2)
    found = encode_corpus("letters", lambda: iter([list("abcde"), list("ab")]), 1)
    assert sentences(found) == [["a", "b"], ["c", "d"], ["e"], ["a", "b"]]


def test_the_rarest_are_forgotten_where_words_are_too_many(monkeypatch):
    monkeypatch.setattr(corpus, "_MOST_DISTINCT", 3)
    lines = [["often", "often", "seldom"], ["often", "once"], ["twice", "seldom"], ["seldom", "often"]]
    found = encode_corpus("lines", lambda: iter(lines), 1)
    assert found.vocabulary.counts[found.vocabulary.numbers["often"]] == 4
    assert len(found.vocabulary) <= 3


def test_running_text_is_split_into_words_and_sentences(tmp_path):
    (tmp_path / "a.txt").write_text("Mr. O'Hara's cat; it sat.\n\nTHE END\nof 2.5 cats")
    found = read_corpus(str(tmp_path / "a.txt"), min_count=1, prose=True)
    assert sentences(found) == [
        ["mr"],
        ["o'hara's", "cat"],
        ["it", "sat"],
        ["the", "end", "of", "2", "5", "cats"],
    ]


def test_long_paragraphs_are_held_up_to_the_last_end_of_a_sentence(monkeypatch):
    lines = ["One two\n", "three. Four!\n", "Five six: seven\n", "eight nine ten\n", "\n", "End.\n"] * 9
    whole = [sentence for passage in corpus._paragraphs(lines) for sentence in corpus._prose(passage)]
    for longest in (20, 30, 60):
        monkeypatch.setattr(corpus, "_LINE", longest)
        passages = list(corpus._paragraphs(lines))
        assert max(map(len, passages)) <= longest + max(map(len, lines))
        assert [sentence for passage in passages for sentence in corpus._prose(passage)] == whole
    monkeypatch.setattr(corpus, "_LINE", 20)
    passages = list(corpus._paragraphs(["no end of it\n"] * 9))
    assert len(passages) > 3 and "".join(passages) == "no end of it\n" * 9


def test_a_text_whose_sentences_end_elsewhere_is_another(plain):
    together = encode_corpus("lines", lambda: iter([TEXT.split()]), 1)
    assert together.vocabulary.words == plain.vocabulary.words and together.version != plain.version


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8"])
@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path, plain, name, encoding):
    content = TEXT.encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert_equal(read_corpus(str(tmp_path / name), min_count=1, encoding=encoding), plain)


def test_the_vocabulary_is_kept_with_a_run(tmp_path, plain):
    write_vocabulary(plain.vocabulary, tmp_path / "vocabulary.tsv")
    found = read_vocabulary(tmp_path / "vocabulary.tsv")
    assert found.words == plain.vocabulary.words
    np.testing.assert_array_equal(found.counts, plain.vocabulary.counts)
    (tmp_path / "vocabulary.tsv").write_text("the\t5\ncat\n")
    with pytest.raises(JaxgenError, match="damaged"):
        read_vocabulary(tmp_path / "vocabulary.tsv")


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        (b" \n\n", JaxgenError, "is empty"),
        (b"one two three\n", UsageError, "0 of the 3 words .* occur 2 times or more .*smaller --min-count"),
        ("caf\u00e9 ".encode("latin-1"), JaxgenError, "is not utf-8: byte 0xe9; name the right --encoding"),
    ],
)
def test_what_is_no_corpus_is_told_in_a_line(tmp_path, content, error, told):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(error, match=told):
        read_corpus(str(tmp_path / "a.txt"), min_count=2)


def test_files_that_cannot_be_read_are_told_in_a_line(tmp_path):
    with pytest.raises(UsageError, match="unknown file or directory"):
        read_corpus(str(tmp_path / "missing.txt"))
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"the cat " * 1000)[:-9])
    with pytest.raises(JaxgenError, match="no whole gzip file"):
        read_corpus(str(tmp_path / "a.gz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(JaxgenError, match="holds no files"):
        read_corpus(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="--min-count must be at least 1"):
        read_corpus(str(tmp_path / "a.gz"), min_count=0)


@pytest.mark.parametrize("resident", [0, 7])
def test_many_cooccurrences_lie_in_files_as_few_do_in_memory(monkeypatch, resident):
    random = np.random.default_rng(0)
    lines = [list(random.choice(list("abcdef"), 8)) for _ in range(20)]
    words = encode_corpus("lines", lambda: iter(lines), 1)
    monkeypatch.setattr(cooccurrence, "_MERGED", 4)
    few = cooccurrence_source(words, 3)
    monkeypatch.setattr(cooccurrence, "_RESIDENT", resident)
    many = cooccurrence_source(words, 3)
    for key, wanted in few.arrays().items():
        found = many.arrays()[key]
        assert isinstance(found, np.memmap) and not isinstance(wanted, np.memmap)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    rows = np.array([5, 0, 3])
    assert type(many.reader(rows)["pair"]) is np.ndarray
    np.testing.assert_array_equal(many.reader(rows)["pair"], few.reader(rows)["pair"])
