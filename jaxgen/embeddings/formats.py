"""Files of word vectors in the formats of word2vec, GloVe and fastText: `load` tells them apart, `save` writes each."""

from pathlib import Path
from typing import Literal, TypeAlias, get_args

from jaxgen.embeddings.fasttext_binary import MAGIC, read_fasttext, write_fasttext
from jaxgen.embeddings.keyed_vectors import KeyedVectors
from jaxgen.embeddings.text_format import opened, read_text, sizes, write_text_format
from jaxgen.embeddings.word2vec_binary import read_word2vec_binary, write_word2vec_binary
from jaxgen.errors import UsageError, shown, unknown

Format: TypeAlias = Literal["word2vec", "word2vec-binary", "glove", "fasttext"]
_LOOKED_AT = 256
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
        of_row = file.read(_LOOKED_AT)
    if first.startswith(MAGIC):
        return read_fasttext(path).vectors
    if sizes(first) and not _is_text(of_row):
        return read_word2vec_binary(path)
    return read_text(path)


def _is_text(beginning: bytes) -> bool:
    """Whether the first row goes on with numbers in ASCII behind its word; float32 have other bytes among them."""
    return set(beginning.lstrip(b"\n").partition(b" ")[2].partition(b"\n")[0]) <= _OF_NUMBERS


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
