"""word2vec's binary files: a line of sizes, then each word, a space, and its numbers as little-endian float32."""

from gzip import GzipFile
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from jaxgen.embeddings.keyed_vectors import KeyedVectors, first_twice, not_finite
from jaxgen.embeddings.text_format import encoded_words, opened, sizes
from jaxgen.errors import JaxgenError, shortened, shown
from jaxgen.files import new_file

_READ_AT_ONCE = 1 << 22
_LONGEST_WORD = 1 << 12
# deflate makes nothing smaller than by this.
_MOST_PACKED = 1032


def read_word2vec_binary(path: Path) -> KeyedVectors:
    """Reads vectors in word2vec's binary format, gzipped or not.

    Raises:
        JaxgenError: if the file can't be read or isn't what it should be; says at which word.
    """
    with opened(path) as file:
        told = sizes(file.readline(100))
        if told is None or not all(told):
            raise JaxgenError(
                f"{shown(path)} doesn't begin with the number of words and the width of their vectors"
            )
        count, width = told
        if count * (4 * width + 2) > path.stat().st_size * (
            _MOST_PACKED if isinstance(file, GzipFile) else 1
        ):
            raise JaxgenError(
                f"{shown(path)} is cut off: it is too short for {count:,} words of {width:,} numbers, as it begins with"
            )
        words, vectors = _read_rows(path, file, count, width)
    if twice := first_twice(words):
        first, second = twice
        raise JaxgenError(
            f"{shown(path)}, word {second + 1:,}: {shortened(words[first], 40)!r} was there before, as word "
            f"{first + 1:,}"
        )
    if (bad := not_finite(vectors)) is not None:
        raise JaxgenError(
            f"{shown(path)}, word {bad + 1:,}: {shortened(words[bad], 40)!r} has numbers that aren't finite"
        )
    return KeyedVectors(words, vectors)


def _read_rows(
    path: Path, file: BufferedIOBase, count: int, width: int
) -> tuple[list[str], Float32[np.ndarray, "words width"]]:
    words: list[str] = []
    vectors = np.empty((count, width), np.float32)
    buffer, place = b"", 0
    while len(words) < count:
        space = buffer.find(b" ", place)
        if space >= 0 and space + 1 + 4 * width <= len(buffer):
            vectors[len(words)] = np.frombuffer(buffer, "<f4", width, space + 1)
            # The first tool, written in C, ends each vector with an end of line, others don't.
            words.append(_decoded(path, buffer[place:space].lstrip(b"\n"), len(words) + 1, width))
            place = space + 1 + 4 * width
            continue
        buffer, place = buffer[place:], 0
        if space < 0 and len(buffer) > _LONGEST_WORD:
            raise _damaged(path, len(words) + 1, "no space ends it", width)
        more = file.read(_READ_AT_ONCE)
        if not more:
            raise JaxgenError(f"{shown(path)} is cut off in word {len(words) + 1:,} of {count:,}")
        buffer += more
    if (buffer[place:] + file.read(2)).strip(b"\n"):
        raise JaxgenError(
            f"{shown(path)} goes on after the {count:,} words of {width:,} numbers that it begins with"
        )
    return words, vectors


def _decoded(path: Path, word: bytes, number: int, width: int) -> str:
    try:
        if word:
            return word.decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, number, f"{word[:40]!r} is no UTF-8", width) from error
    raise _damaged(path, number, "it is empty", width)


def _damaged(path: Path, number: int, told: str, width: int) -> JaxgenError:
    return JaxgenError(
        f"{shown(path)}, word {number:,}: {told}; the file is damaged, or its vectors aren't of {width:,} numbers, as "
        "it begins with"
    )


def write_word2vec_binary(path: Path, vectors: KeyedVectors) -> None:
    """Writes vectors in word2vec's binary format.

    Raises:
        UsageError: for words that can't be written.
        JaxgenError: if the file can't be written.
    """
    words = encoded_words(vectors)
    with new_file(path) as file:
        file.write(b"%d %d\n" % vectors.vectors.shape)
        for word, row in zip(words, vectors.vectors.astype("<f4", copy=False), strict=True):
            file.write(b"%b %b\n" % (word, row.tobytes()))
