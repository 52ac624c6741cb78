"""Vectors as text, a word a line: word2vec's and fastText's `.vec` with a line of sizes before, GloVe's without."""

import codecs
import contextlib
import gzip
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from jaxgen.embeddings.keyed_vectors import KeyedVectors, first_twice, not_finite
from jaxgen.errors import JaxgenError, UsageError, shortened, shown
from jaxgen.files import new_file

GZIP = b"\x1f\x8b"
_READ_AT_ONCE = 1 << 23
_WRITTEN_AT_ONCE = 1024
_SHOWN = 40
_DIGITS = 18  # of a size, at most
# What ends a word in some of the formats, and the byte that fastText ends it with in its binary files.
_SEPARATORS = " \n\r\t\v\f\0"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """Opens a file to read, gzipped or not, by what it begins with.

    Raises:
        JaxgenError: if it can't be read, or is a damaged gzip file.
    """
    try:
        with path.open("rb") as file:
            if file.peek(2).startswith(GZIP):
                yield gzip.GzipFile(fileobj=file)
            else:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise JaxgenError(
            f"{shown(path)} is damaged, or cut off ({error}): fetch or copy it again"
        ) from error
    except OSError as error:
        raise JaxgenError(f"could not read {shown(path)}: {error.strerror}") from error


def sizes(line: bytes) -> tuple[int, int] | None:
    """Reads how many words there are and how many numbers each has, where a first line tells it."""
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() and len(field) <= _DIGITS for field in fields):
        return None
    words, width = map(int, fields)
    return words, width


def read_text(path: Path) -> KeyedVectors:
    """Reads vectors in the text of word2vec, fastText (`.vec`) or GloVe, gzipped or not.

    Raises:
        JaxgenError: if the file can't be read or isn't what it should be; says in which line.
    """
    with opened(path) as file:
        first = file.readline().removeprefix(codecs.BOM_UTF8)
        told = sizes(first)
        width = told[1] if told else len(first.split()) - 1
        if width < 1 or not (told or _is_number(first.split()[-1])):
            raise JaxgenError(
                f"{shown(path)} holds no word vectors that can be read: its first line is {_quoted(first)}"
            )
        rows = _Rows(path, width, number=2 if told else 1)
        lines = ([] if told else [first]) + file.readlines(_READ_AT_ONCE)
        while lines:
            rows.add(lines)
            if told and len(rows.words) > told[0]:
                raise JaxgenError(
                    f"{shown(path)} has more words than the {told[0]:,} that its first line tells"
                )
            lines = file.readlines(_READ_AT_ONCE)
    if told and len(rows.words) < told[0]:
        raise JaxgenError(
            f"{shown(path)} is cut off: it has {len(rows.words):,} of the {told[0]:,} words that its first line tells"
        )
    if not rows.words:
        raise JaxgenError(f"{shown(path)} holds no vectors")
    if twice := first_twice(rows.words):
        line, before = (place + (2 if told else 1) for place in reversed(twice))
        word = shortened(rows.words[twice[0]], _SHOWN)
        raise JaxgenError(
            f"{shown(path)}, line {line:,}: the word {word!r} was there before, in line {before:,}"
        )
    return KeyedVectors(rows.words, np.concatenate(rows.blocks))


@dataclass
class _Rows:
    """Words and their vectors, as lines are read.

    Attributes:
        path: of the file, for errors.
        width: numbers of each line.
        number: of the next line.
        blank: the first line without anything, which only more of the same may follow.
    """

    path: Path
    width: int
    number: int
    words: list[str] = field(default_factory=list)
    blocks: list[Float32[np.ndarray, "..."]] = field(default_factory=list)
    blank: int | None = None

    def add(self, lines: list[bytes]) -> None:
        """Reads lines; raises JaxgenError for the first that isn't a word and its numbers."""
        texts, first = [], self.number
        for line in lines:
            # Words may hold anything but spaces and ends of lines, such as U+0085: only ASCII's are looked for.
            word, _, numbers = line.rstrip().partition(b" ")
            if numbers.count(b" ") + 1 != self.width or not word:
                if not line.strip():
                    self.blank = self.blank or self.number
                    self.number += 1
                    continue
                word, numbers = self._with_spaces(line.rstrip())
            if self.blank:
                raise self._error(self.blank, "it is empty")
            try:
                self.words.append(word.decode())
            except UnicodeDecodeError as error:
                raise self._error(self.number, f"the word {word[:_SHOWN]!r} is no UTF-8") from error
            texts.append(numbers)
            self.number += 1
        block = _numbers(b" ".join(texts), len(texts) * self.width)
        if block is None:
            wrong = next(place for place, text in enumerate(texts) if _numbers(text, self.width) is None)
            raise self._error(first + wrong, f"it has something else than numbers: {_quoted(texts[wrong])}")
        block = block.reshape(-1, self.width)
        if len(block) and (bad := not_finite(block)) is not None:
            raise self._error(first + bad, "it has numbers that aren't finite")
        self.blocks.append(block)

    def _with_spaces(self, line: bytes) -> tuple[bytes, bytes]:
        """Takes a line apart whose word may have spaces, such as `. . .` of GloVe's; not one of another width."""
        word, *numbers = line.rsplit(b" ", self.width)
        count = len(line.split()) - 1
        if count >= self.width and (b"\t" in line or count == self.width):
            raise self._error(self.number, "it has tabs or several spaces where single spaces belong")
        if len(numbers) < self.width or not word or _is_number(word.rsplit(b" ", 1)[-1]):
            told = "after no word" if line[:1] in b" \t" else "after its word"
            raise self._error(self.number, f"it has {count:,} numbers {told}, where {self.width:,} belong")
        return word, b" ".join(numbers)

    def _error(self, number: int, told: str) -> JaxgenError:
        return JaxgenError(f"{shown(self.path)}, line {number:,}: {told}")


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(text: bytes, count: int) -> Float32[np.ndarray, " count"] | None:
    """Reads so many numbers with spaces between them; gives None where they aren't that."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # what NumPy says of a text that it can't read on
        try:
            found = np.fromstring(text.decode("ascii"), np.float32, sep=" ")
        except (DeprecationWarning, ValueError):
            return None
    return found if len(found) == count else None


def _quoted(line: bytes) -> str:
    return repr(shortened(line.decode("utf-8", "backslashreplace"), _SHOWN))


def encoded_words(vectors: KeyedVectors) -> list[bytes]:
    """Gives the words in UTF-8.

    Raises:
        UsageError: for words that can't be written, since they are empty, or have spaces in them or no UTF-8.
    """
    words = []
    for word in vectors.index_to_key:
        if not word or any(separator in word for separator in _SEPARATORS):
            raise UsageError(
                f"the word {shortened(word, _SHOWN)!r} can't be written: it is empty, or has spaces in it"
            )
        try:
            words.append(word.encode())
        except UnicodeEncodeError as error:
            raise UsageError(f"the word {word[:_SHOWN]!r} can't be written: it is no UTF-8") from error
    return words


def write_text_format(path: Path, vectors: KeyedVectors, header: bool = True) -> None:
    """Writes vectors as text, with all their digits.

    Args:
        path: of the file.
        vectors: the vectors.
        header: whether there is a line of sizes before them, as word2vec and fastText have it; GloVe hasn't.

    Raises:
        UsageError: for words that can't be written.
        JaxgenError: if the file can't be written.
    """
    words = encoded_words(vectors)
    # Nine digits tell every float32 from every other.
    line = "%b " + " ".join(["%.9g"] * vectors.vector_size) + "\n"
    row = line.encode()
    with new_file(path) as file:
        if header:
            file.write(b"%d %d\n" % vectors.vectors.shape)
        for start in range(0, len(words), _WRITTEN_AT_ONCE):
            part = slice(start, start + _WRITTEN_AT_ONCE)
            numbers = vectors.vectors[part].tolist()
            file.write(
                b"".join(row % (word, *values) for word, values in zip(words[part], numbers, strict=True))
            )
