"""Files of word vectors in the formats of word2vec, GloVe and fastText: `load` tells them apart, `save` writes each."""

from pathlib import Path
from typing import Literal, TypeAlias, get_args

from jaxgen.embeddings.fasttext_binary import MAGIC, read_fasttext, write_fasttext
from jaxgen.embeddings.keyed_vectors import KeyedVectors
from jaxgen.embeddings.text_format import opened, read_text, sizes, write_text_format
from jaxgen.embeddings.word2vec_binary import read_word2vec_binary, write_word2vec_binary
from jaxgen.errors import UsageError, shown, unknown

Format: TypeAlias = Literal["word2vec", "word2vec-binary", "glove", "fasttext"]
_LOOKED_AT, _LONGEST_ROW = 256, 1 << 20
_OF_NUMBERS = frozenset(b"+-.0123456789eE \t\r\nnaifNAIFty")


def load(path: Path | str) -> KeyedVectors:
    """Reads word vectors: word2vec's text and binary files, GloVe's, and fastText's `.vec` and `.bin`.

    All but `.bin` of fastText may be gzipped.

    Raises:
        UsageError: if there is no such file.
        JaxgenError: if it can't be read or isn't what it should be; says where.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no file {shown(path)}: give one with word vectors")
    with opened(path) as file:
        first = file.readline(_LOOKED_AT)
        of_row = next((row for row in iter(lambda: file.readline(_LONGEST_ROW), b"") if row != b"\n"), b"")
    if first.startswith(MAGIC):
        return read_fasttext(path).vectors
    if (told := sizes(first)) and not _is_text(of_row, told[1]):
        return read_word2vec_binary(path)
    return read_text(path)


def _is_text(row: bytes, width: int) -> bool:
    """Whether the first row ends with numbers in ASCII, behind a word that may have spaces.

    Of a binary file it is what comes before the first byte that is an end of line: float32 have other bytes among them.
    """
    behind_word = row.rstrip().split(b" ")[1:]
    return set(b"".join(behind_word[-width:] if width else behind_word)) <= _OF_NUMBERS


def save(path: Path | str, vectors: KeyedVectors, format: str) -> None:
    """Writes word vectors into one file.

    Args:
        path: of the file.
        vectors: the vectors.
        format: `word2vec` (also fastText's `.vec`), `word2vec-binary`, `glove`, or `fasttext`, its `.bin` with the
            n-grams; see `jaxgen.embeddings.fasttext_binary.write_fasttext` for one that others train on.

    Raises:
        UsageError: for an unknown format, and words that can't be written, such as those with spaces.
        JaxgenError: if the file can't be written.
    """
    path = Path(path)
    match format:
        case "word2vec":
            write_text_format(path, vectors)
        case "word2vec-binary":
            write_word2vec_binary(path, vectors)
        case "glove":
            write_text_format(path, vectors, header=False)
        case "fasttext":
            write_fasttext(path, vectors)
        case _:
            raise unknown("format", format, get_args(Format))
