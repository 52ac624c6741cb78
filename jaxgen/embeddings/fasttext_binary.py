"""fastText's own `.bin` files: models with their n-grams' buckets, as version 0.9 saves and loads them."""

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32

from jaxgen.embeddings.keyed_vectors import KeyedVectors, first_twice, not_finite
from jaxgen.embeddings.ngrams import Ngrams
from jaxgen.embeddings.text_format import GZIP, encoded_words
from jaxgen.errors import JaxgenError, UsageError, shortened, shown
from jaxgen.files import new_file

MAGIC = struct.pack("<i", 793712314)
_VERSION, _OLDEST = 12, 11
_ARGUMENTS = struct.Struct("<12id")
_COUNTS = struct.Struct("<3iqq")
_ENTRY = struct.Struct("<qb")
_MATRIX = struct.Struct("<?qq")
_CONTINUOUS_BAG_OF_WORDS, _SKIP_GRAM, _SUPERVISED = 1, 2, 3
_LOSSES = {1: "hierarchical softmax", 2: "negative sampling", 3: "softmax"}


@dataclass(frozen=True)
class Arguments:
    """How a model was trained, as far as its file tells; the defaults are fastText's.

    Attributes:
        window: words to each side.
        epochs: over the corpus.
        minimum_count: of a word in the vocabulary.
        negatives: for each word.
        loss: 1 hierarchical softmax, 2 negative sampling, 3 softmax.
        skip_gram: or else a continuous bag of words.
        subsampling: the threshold of frequent words.
    """

    window: int = 5
    epochs: int = 5
    minimum_count: int = 5
    negatives: int = 5
    loss: int = 2
    skip_gram: bool = True
    subsampling: float = 1e-4


@dataclass(frozen=True)
class FastTextModel:
    """What a `.bin` file holds.

    Attributes:
        vectors: with `ngrams`, where the model has any.
        output: the vectors of words as they are predicted, or of inner nodes of the tree; training goes on from them.
        arguments: how it was trained.
    """

    vectors: KeyedVectors
    output: Float32[np.ndarray, "words width"] = field(repr=False)
    arguments: Arguments = field(default_factory=Arguments)


def read_fasttext(path: Path) -> FastTextModel:
    """Reads a model of fastText without classes; its output stays in the file until it is used.

    Raises:
        JaxgenError: if the file can't be read, is damaged or cut off, or is a model of classes or a compressed one.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _Reader(path, file, mapped).read()
    except ValueError as error:  # an empty file can't be mapped
        raise JaxgenError(f"{shown(path)} is empty") from error
    except OSError as error:
        raise JaxgenError(f"could not read {shown(path)}: {error.strerror}") from error


class _Reader:
    """Reads one file, from its beginning to its end."""

    def __init__(self, path: Path, file: BinaryIO, mapped: mmap.mmap) -> None:
        self.path, self.file, self.mapped = path, file, mapped
        self.place = 0

    def read(self) -> FastTextModel:
        magic, version = self._unpack(struct.Struct("<4si"), "its head")
        if magic.startswith(GZIP):
            raise JaxgenError(
                f"{shown(self.path)} is gzipped: unpack it first, models of fastText are read in place"
            )
        if magic != MAGIC:
            raise JaxgenError(f"{shown(self.path)} is no file of fastText, or one from before 2017")
        if not _OLDEST <= version <= _VERSION:
            raise JaxgenError(
                f"{shown(self.path)} has version {version}; {_OLDEST} and {_VERSION} can be read"
            )
        (
            width,
            window,
            epochs,
            minimum,
            negatives,
            _,
            loss,
            model,
            buckets,
            shortest,
            longest,
            _,
            threshold,
        ) = self._unpack(_ARGUMENTS, "its arguments")
        if model == _SUPERVISED:
            raise JaxgenError(f"{shown(self.path)} is a model of classes of texts, not of words")
        if model not in (_CONTINUOUS_BAG_OF_WORDS, _SKIP_GRAM) or loss not in _LOSSES or width < 1:
            raise self._damaged(f"its arguments are impossible (model {model}, loss {loss}, width {width})")
        if not longest:  # as fastText itself: the shortest, then, is of no meaning
            shortest = buckets = 0
        if not 0 <= shortest <= longest or buckets < 0:
            raise self._damaged(
                f"its n-grams are impossible ({shortest} to {longest} characters, {buckets:,} buckets)"
            )
        words, counts = self._dictionary()
        matrix = self._matrix("vectors", len(words) + buckets, width)
        if (bad := not_finite(matrix)) is not None:
            told = f"word {words[bad]!r}" if bad < len(words) else f"bucket {bad - len(words):,}"
            raise self._damaged(f"the vector of {told} has numbers that aren't finite")
        # Copied when it is used only: it is as large as the vectors, and few want it.
        output = self._matrix("output", len(words), width, mapped=True)
        if self.place < len(self.mapped):
            raise self._damaged("it goes on after its end")
        arguments = Arguments(window, epochs, minimum, negatives, loss, model == _SKIP_GRAM, threshold)
        if not buckets:
            return FastTextModel(KeyedVectors(words, matrix, counts), output, arguments)
        ngrams = Ngrams(matrix[: len(words)], matrix[len(words) :], shortest, longest)
        return FastTextModel(KeyedVectors.of_ngrams(words, ngrams, counts), output, arguments)

    def _dictionary(self) -> tuple[list[str], np.ndarray]:
        size, count, labels, _, pruned = self._unpack(_COUNTS, "its dictionary's head")
        if labels or size != count or count < 1 or pruned > 0:
            raise self._damaged(f"its dictionary is impossible ({count} words and {labels} labels of {size})")
        if count * (2 + _ENTRY.size) > len(self.mapped):
            raise self._cut_off("its dictionary")
        words, counts = [], np.empty(count, np.int64)
        for number in range(count):
            end = self.mapped.find(b"\0", self.place)
            if end < 0:
                raise self._cut_off(f"word {number + 1:,} of {count:,}")
            try:
                words.append(self.mapped[self.place : end].decode())
            except UnicodeDecodeError as error:
                raise self._damaged(f"word {number + 1:,} is no UTF-8") from error
            self.place = end + 1
            counts[number], kind = self._unpack(_ENTRY, f"word {number + 1:,} of {count:,}")
            if kind or counts[number] < 0:
                raise self._damaged(f"word {number + 1:,}, {shortened(words[-1], 40)!r}, is no word")
        if twice := first_twice(words):
            first, second = twice
            raise self._damaged(
                f"word {second + 1:,}, {shortened(words[first], 40)!r}, was there before, as word {first + 1:,}"
            )
        return words, counts

    def _matrix(
        self, told: str, rows: int, width: int, mapped: bool = False
    ) -> Float32[np.ndarray, "rows width"]:
        compressed, *shape = self._unpack(_MATRIX, f"the head of its {told}")
        if compressed:
            raise JaxgenError(f"{shown(self.path)} is compressed (quantised); only whole models can be read")
        if shape != [rows, width]:
            raise self._damaged(
                f"its {told} are {shape[0]:,} x {shape[1]:,}, where {rows:,} x {width:,} belong"
            )
        start, self.place = self.place, self.place + 4 * rows * width
        if self.place > len(self.mapped):
            raise self._cut_off(f"its {told}")
        if mapped:
            return np.memmap(self.path, "<f4", "r", start, (rows, width))
        self.file.seek(start)
        return np.fromfile(self.file, "<f4", rows * width).reshape(rows, width)

    def _unpack(self, layout: struct.Struct, told: str) -> tuple:
        start, self.place = self.place, self.place + layout.size
        if self.place > len(self.mapped):
            raise self._cut_off(told)
        return layout.unpack_from(self.mapped, start)

    def _cut_off(self, told: str) -> JaxgenError:
        return JaxgenError(f"{shown(self.path)} is cut off in {told}")

    def _damaged(self, told: str) -> JaxgenError:
        return JaxgenError(f"{shown(self.path)} is damaged: {told}")


def write_fasttext(
    path: Path,
    vectors: KeyedVectors,
    output: Float32[np.ndarray, "words width"] | None = None,
    arguments: Arguments | None = None,
) -> None:
    """Writes a model that fastText, and gensim's `load_facebook_model`, open.

    Args:
        path: of the file.
        vectors: with `ngrams`, or without: the model then has no buckets.
        output: as `FastTextModel` has it; without it zeros are written: others can ask the model, but not train it on.
        arguments: how it was trained.

    Raises:
        UsageError: for words that can't be written, and an output of another shape.
        JaxgenError: if the file can't be written.
    """
    words, given = encoded_words(vectors), arguments or Arguments()
    if output is not None and output.shape != vectors.vectors.shape:
        raise UsageError(f"the output is {list(output.shape)}, where {list(vectors.vectors.shape)} belongs")
    count, width = vectors.vectors.shape
    ngrams = vectors.ngrams or Ngrams(vectors.vectors, np.zeros((0, width), np.float32), 0, 0)
    # Counts that aren't known go down with the order; of none gensim would drop the word.
    counts = np.arange(count, 0, -1) if vectors.counts is None else np.maximum(vectors.counts, 1)
    with new_file(path) as file:
        file.write(MAGIC + struct.pack("<i", _VERSION))
        file.write(
            _ARGUMENTS.pack(
                width,
                given.window,
                given.epochs,
                given.minimum_count,
                given.negatives,
                1,  # n-grams of words, and how often threads tell of their rate: of no meaning afterwards
                given.loss,
                _SKIP_GRAM if given.skip_gram else _CONTINUOUS_BAG_OF_WORDS,
                len(ngrams.buckets),
                ngrams.shortest,
                ngrams.longest,
                100,
                given.subsampling,
            )
        )
        file.write(_COUNTS.pack(count, count, 0, int(counts.sum()), -1))
        for word, times in zip(words, counts.tolist(), strict=True):
            file.write(word + b"\0" + _ENTRY.pack(times, 0))
        file.write(_MATRIX.pack(False, count + len(ngrams.buckets), width))
        _write_rows(file, ngrams.word_vectors)
        _write_rows(file, ngrams.buckets)
        file.write(_MATRIX.pack(False, count, width))
        _write_rows(file, np.zeros((count, width), np.float32) if output is None else output)


def _write_rows(file: BinaryIO, rows: Float32[np.ndarray, "rows width"]) -> None:
    file.write(np.ascontiguousarray(rows, "<f4").data)
