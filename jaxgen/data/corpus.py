"""Corpora to learn words from: files of any size, read sentence by sentence, counted once and kept as numbers."""

import array
import codecs
import collections
import contextlib
import gzip
import hashlib
import io
import itertools
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from jaxgen.data import text
from jaxgen.errors import JaxgenError, UsageError, shown
from jaxgen.files import write_text

END = -1
"""What ends a sentence among the numbers of its words."""

# A longer sentence is cut, as gensim does; one that has no end of line at all is read in pieces.
_SENTENCE, _LINE = 10_000, 2**20
_PIECE = 2**18
# Numbers that are kept in memory; those of larger corpora lie in a file.
_RESIDENT = 2**27
# Beyond so many different words the rarest are forgotten while counting.
_MOST_DISTINCT = 20_000_000
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_SENTENCE_END = re.compile(r"[.!?:;]+(?=\s)")

Sentences = Callable[[], Iterator[list[str]]]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The words of a corpus, the most frequent first, those of one frequency in the order of the alphabet.

    Attributes:
        words: by number.
        counts: how often each occurs.
    """

    words: tuple[str, ...]
    counts: Int64[np.ndarray, " words"] = field(repr=False)
    numbers: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", {word: number for number, word in enumerate(self.words)})

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as the numbers of its frequent words.

    Attributes:
        name: of the set, or the path of the file or directory.
        version: a digest of all its sentences.
        vocabulary: of the words that occur often enough.
        tokens: their numbers, sentence by sentence, each sentence ended by `END`; others are left out. A file mapped
            into memory where there are many.
        bounds: where pieces begin and the last one ends; none cuts a sentence.
        num_words: of the text, with those that are left out.
    """

    name: str
    version: str
    vocabulary: Vocabulary
    tokens: Int32[np.ndarray, " tokens"] = field(repr=False)
    bounds: tuple[int, ...] = field(repr=False)
    num_words: int


def read_corpus(
    name: str,
    *,
    min_count: int = 5,
    prose: bool | None = None,
    data_dir: Path | str | None = None,
    encoding: str = "utf-8",
) -> Corpus:
    """Reads a corpus twice, once to count its words and once to number them; never much of it is in memory.

    Args:
        name: a text as for `jaxgen.data.text.read`, of which the training split is taken; or the path of a file, or of
            a directory of files, hidden ones left out. Files ending in `.gz` are decompressed.
        min_count: words that occur more seldom are left out.
        prose: whether words are to be found in running text: put into lower case, without punctuation, and sentences
            ended by it. Else a line is a sentence, and words are what stands between spaces. By default for what is no
            path.
        data_dir: where prepared sets lie.
        encoding: of files.

    Raises:
        UsageError: for an unknown set or file, or words of which none occurs often enough.
        JaxgenError: where the text can't be read, or is empty.
    """
    if min_count < 1:
        raise UsageError(f"--min-count must be at least 1, not {min_count}")
    path = text.absolute(name) if text.is_path(name) else None
    documents: tuple[str, ...] = ()
    if path is None:
        (found,) = text.read_splits(name, ["train"], data_dir=data_dir, encoding=encoding)
        documents = found.documents
    if prose is None:
        prose = path is None

    def sentences() -> Iterator[list[str]]:
        lines = (
            _lines(path, encoding)
            if path is not None
            else itertools.chain.from_iterable(document.splitlines(keepends=True) for document in documents)
        )
        for passage in _paragraphs(lines) if prose else lines:
            yield from (_prose if prose else _plain)(passage)

    return encode_corpus(name if path is None else str(path), sentences, min_count)


def encode_corpus(name: str, sentences: Sentences, min_count: int) -> Corpus:
    """Counts and numbers the words of sentences, which are gone through twice; raises as `read_corpus` does."""
    counts, digest = _count(sentences())
    num_words = sum(counts.values())
    if not num_words:
        raise JaxgenError(f"{shown(name)} is empty: there are no words to train on")
    frequent = {word: count for word, count in counts.items() if count >= min_count}
    if len(frequent) < 2:
        word, most = counts.most_common(1)[0]
        raise UsageError(
            f"{len(frequent)} of the {len(counts):,} words of {shown(name)} occur {min_count} times or more (the most "
            f"frequent one, {word!r}, {most:,} times): take a longer text, or a smaller --min-count"
        )
    words = sorted(frequent, key=lambda word: (-frequent[word], word))
    vocabulary = Vocabulary(tuple(words), np.array([frequent[word] for word in words], np.int64))
    tokens, bounds = _number(sentences(), vocabulary)
    return Corpus(name, digest, vocabulary, tokens, bounds, num_words)


def _count(sentences: Iterable[list[str]]) -> tuple[collections.Counter[str], str]:
    counts, digest, least = collections.Counter[str](), hashlib.sha256(), 1
    for sentence in sentences:
        counts.update(sentence)
        digest.update((" ".join(sentence) + "\n").encode("utf-8", "surrogateescape"))
        # As word2vec's ReduceVocab does.
        while len(counts) > _MOST_DISTINCT:
            counts = collections.Counter({word: count for word, count in counts.items() if count > least})
            least += 1
    return counts, digest.hexdigest()[:16]


def _number(
    sentences: Iterable[list[str]], vocabulary: Vocabulary
) -> tuple[Int32[np.ndarray, " tokens"], tuple[int, ...]]:
    """Gives the numbers of all sentences, and the bounds of pieces; beyond `_RESIDENT` of them from a file."""
    numbers, held, size, bounds = vocabulary.numbers, array.array("i"), 0, [0]
    with contextlib.ExitStack() as stack:
        file = None
        for sentence in sentences:
            known = [numbers[word] for word in sentence if word in numbers]
            for begin in range(0, len(known), _SENTENCE):
                held.extend(known[begin : begin + _SENTENCE])
                held.append(END)
                if size + len(held) - bounds[-1] >= _PIECE:
                    bounds.append(size + len(held))
            if len(held) > _RESIDENT:
                # Without a name it is gone with the process.
                file = file or stack.enter_context(tempfile.TemporaryFile())
                size += len(held)
                held.tofile(file)
                held = array.array("i")
        total = size + len(held)
        if bounds[-1] != total:
            bounds.append(total)
        if file is None:
            return np.frombuffer(held, np.int32), tuple(bounds)
        held.tofile(file)
        file.flush()
        return np.memmap(file, np.int32, "r"), tuple(bounds)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Puts lines together up to an empty one, since sentences go on from line to line; long ones as sentences end."""
    held, size = list[str](), 0
    for line in lines:
        if line.strip():
            held.append(line)
            size += len(line)
        elif held:
            yield "".join(held)
            held, size = [], 0
        if size > _LINE:
            passage = "".join(held)
            end = max((found.end() for found in _SENTENCE_END.finditer(passage)), default=size)
            yield passage[:end]
            held, size = [passage[end:]], size - end
    if held:
        yield "".join(held)


def _plain(line: str) -> Iterator[list[str]]:
    """Gives a line as a sentence, its words as they stand between spaces."""
    words = line.split()
    if words:
        yield words


def _prose(passage: str) -> Iterator[list[str]]:
    """Finds the sentences of running text."""
    for sentence in _SENTENCE_END.split(passage.lower()):
        words = _WORD.findall(sentence)
        if words:
            yield words


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """Reads the lines of a file or of a directory of files, in the order of their names."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not text.hidden(file, path))
        if not files:
            raise JaxgenError(f"{shown(path)} holds no files")
    else:
        files = [path]
    return itertools.chain.from_iterable(_lines_of_file(file, encoding) for file in files)


def _lines_of_file(file: Path, encoding: str) -> Iterator[str]:
    with text.reading(file, encoding):
        try:
            with _opened(file, encoding) as handle:
                yield from _whole_words(handle)
        except UnicodeDecodeError as error:
            raise JaxgenError(
                f"{shown(file)} is not {encoding}: byte 0x{error.object[error.start]:02x}; name the right --encoding, "
                "such as latin-1"
            ) from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise JaxgenError(f"{shown(file)} is damaged, it is no whole gzip file: {error}") from error


def _opened(file: Path, encoding: str) -> io.TextIOWrapper:
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"  # a byte-order mark is no part of the first word
    if file.suffix == ".gz":
        handle: io.TextIOWrapper = gzip.open(file, "rt", encoding=encoding)  # noqa: SIM115
        return handle
    return file.open(encoding=encoding)


def _whole_words(handle: io.TextIOWrapper) -> Iterator[str]:
    """Reads lines; what has no end of line for long comes in pieces, cut at spaces."""
    rest = ""
    while piece := handle.readline(_LINE):
        piece, rest = rest + piece, ""
        if len(piece) >= _LINE and not piece.endswith("\n"):
            # The space stays, so that what follows is another word also where pieces are put together.
            end = max(piece.rfind(" "), piece.rfind("\t")) + 1 or len(piece)
            piece, rest = piece[:end], piece[end:]
        yield piece
    if rest:
        yield rest


def write_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Writes a vocabulary as lines of a word, a tab and its count; raises JaxgenError where it can't."""
    pairs = zip(vocabulary.words, vocabulary.counts, strict=True)
    write_text(path, "".join(f"{word}\t{count}\n" for word, count in pairs))


def read_vocabulary(path: Path) -> Vocabulary:
    """Reads a vocabulary.

    Raises:
        JaxgenError: where it is missing or damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
        words, counts = zip(*(line.split("\t") for line in lines), strict=True)
        return Vocabulary(words, np.array(list(map(int, counts)), np.int64))
    except OSError as error:
        raise JaxgenError(f"can't read the run's words, {shown(path)}: {error.strerror}") from error
    except ValueError as error:
        raise JaxgenError(f"{shown(path)} is damaged: it has no word and its count in each line") from error
