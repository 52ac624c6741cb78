"""How good word vectors are: correlation with people's judgements of pairs, and analogies."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32, Int64

from jaxgen.embeddings.keyed_vectors import KeyedVectors
from jaxgen.errors import JaxgenError, UsageError, shortened, shown

# Rarer words are left out of both evaluations, as gensim and word2vec's own do.
MOST_FREQUENT = 300_000
TOTAL = "total"


@dataclass(frozen=True)
class WordPairs:
    """Agreement of cosines with people's judgements.

    Attributes:
        spearman: rank correlation.
        pearson: correlation.
        pairs: how many it is of.
        unknown: pairs with a word without a vector.
    """

    spearman: float
    pearson: float
    pairs: int
    unknown: int


@dataclass(frozen=True)
class Analogies:
    """Answers to the questions of a section.

    Attributes:
        section: its name.
        questions: how many were asked.
        added: how many answers by 3CosAdd are right (Mikolov et al. 2013).
        multiplied: by 3CosMul (Levy & Goldberg 2014).
        unknown: questions with a word without a vector.
    """

    section: str
    questions: int
    added: int
    multiplied: int
    unknown: int


def evaluate_word_pairs(
    vectors: KeyedVectors,
    path: Path | str,
    *,
    restrict_vocab: int | None = MOST_FREQUENT,
    case_insensitive: bool = True,
    dummy4unknown: bool = False,
) -> WordPairs:
    """Correlates cosines with the judgements of a file, as gensim's `evaluate_word_pairs` does.

    Args:
        vectors: the vectors.
        path: a pair a line: word TAB word TAB judgement; lines that begin with `#` are left out.
        restrict_vocab: so many words, the most frequent ones, are known; None for all.
        case_insensitive: whether case is left out of account; of words that differ by it, the first is taken.
        dummy4unknown: whether pairs with an unknown word count as of similarity 0; else they are left out.

    Raises:
        JaxgenError: if the file can't be read, or a line is no pair; says which.
        UsageError: where fewer than two pairs are left, or all are judged alike or have one similarity.
    """
    path = Path(path)
    fold = str.upper if case_insensitive else str
    known = _vocabulary(vectors, restrict_vocab, case_insensitive)
    left, right, judged, unknown = [], [], [], 0
    for number, line in _lines(path):
        fields = [fold(field.strip()) for field in line.split("\t")]
        try:
            first, second, judgement = fields[0], fields[1], float(fields[2])
        except (ValueError, IndexError):
            fields = []
        if len(fields) != 3 or not np.isfinite(judgement):
            raise _bad_line(path, number, line, "word TAB word TAB number")
        found = known.get(first, -1), known.get(second, -1)
        if min(found) < 0:
            unknown += 1
        if min(found) >= 0 or dummy4unknown:
            left.append(found[0] if min(found) >= 0 else -1)
            right.append(found[1])
            judged.append(judgement)
    pairs = np.array([left, right], np.int64).reshape(2, -1)
    cosines = np.where(pairs[0] < 0, 0, _cosines(vectors, pairs))
    judgements = np.array(judged)
    if len(judged) < 2 or not np.ptp(judgements) or not np.ptp(cosines):
        raise UsageError(
            f"{shown(path)} has {len(judged)} pairs of words that are in the vocabulary, and {unknown} that aren't: "
            "too few, or too much alike, for a correlation"
        )
    return WordPairs(
        spearman=_correlation(_ranks(judgements), _ranks(cosines)),
        pearson=_correlation(judgements, cosines),
        pairs=len(judged),
        unknown=unknown,
    )


def evaluate_analogies(
    vectors: KeyedVectors,
    path: Path | str,
    *,
    restrict_vocab: int | None = MOST_FREQUENT,
    case_insensitive: bool = True,
    dummy4unknown: bool = False,
) -> list[Analogies]:
    """Answers the analogies of a file: a is to b as c is to which word?

    The words of the question are no answers, nor those that differ from them by case where that is left out of account.

    Args:
        vectors: the vectors.
        path: a question a line, four words; a line `: NAME` begins a section; `#` and `//` begin remarks.
        restrict_vocab: so many words, the most frequent ones, are known, and looked at for answers; None for all.
        case_insensitive: whether case is left out of account; of words that differ by it, the first is taken.
        dummy4unknown: whether questions with an unknown word count as asked, and not answered; else they are left out.

    Returns:
        The sections that have questions, in order, and at last all together, named `total`.

    Raises:
        JaxgenError: if the file can't be read, or a line is no question; says which.
        UsageError: where no question is left.
    """
    path = Path(path)
    known = _vocabulary(vectors, restrict_vocab, case_insensitive)
    names, sections, asked = _questions(path, known, str.upper if case_insensitive else str)
    usable = (asked >= 0).all(axis=1)
    if not usable.any():
        raise UsageError(
            f"{shown(path)} has {len(asked):,} questions, and in none are all four words in the vocabulary"
        )
    questions = asked[usable]
    kinds = None
    if case_insensitive:
        kinds = np.array([known.get(word.upper(), -2) for word in vectors.index_to_key], np.int32)
    right = np.zeros((2, len(asked)), bool)
    for method, multiply in enumerate((False, True)):
        answers = _answers(vectors, questions, kinds, restrict_vocab, multiply)
        right[method, usable] = answers == questions[:, 3]
    counted = usable | dummy4unknown
    rows = [(name, sections == place) for place, name in enumerate(names)]
    return [
        Analogies(
            section=name,
            questions=int((chosen & counted).sum()),
            added=int((chosen & right[0]).sum()),
            multiplied=int((chosen & right[1]).sum()),
            unknown=int((chosen & ~usable).sum()),
        )
        for name, chosen in (*rows, (TOTAL, np.ones(len(asked), bool)))
        if chosen.any()
    ]


def _answers(
    vectors: KeyedVectors,
    questions: Int32[np.ndarray, "questions 4"],
    kinds: Int32[np.ndarray, " words"] | None,
    restrict_vocab: int | None,
    multiply: bool,
) -> Int32[np.ndarray, " questions"]:
    """Gives the number of the word, or of its kind, that answers each question; -1 where none is left to answer."""
    used = questions[:, :3]
    rows, where = np.unique(used, return_inverse=True)
    units = vectors.vectors[rows].astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    terms = units[where.reshape(used.shape)]
    signs: tuple[int, ...] = (-1, 1, 1)
    if not multiply:
        terms = (terms * np.array(signs)[:, None]).sum(axis=1, keepdims=True)
        signs = (1,)
    scores, found = vectors.search(
        terms.astype(np.float32),
        signs,
        1,
        used,
        kinds=kinds,
        restrict_vocab=restrict_vocab,
        multiply=multiply,
    )
    answers = found[:, 0] if kinds is None else kinds[found[:, 0]]
    return np.where(np.isfinite(scores[:, 0]), answers, -1)


def _questions(
    path: Path, known: Mapping[str, int], fold: Callable[[str], str]
) -> tuple[list[str], Int32[np.ndarray, " questions"], Int32[np.ndarray, "questions 4"]]:
    """Reads the names of sections, and for each question its section and the numbers of its words, -1 for unknown."""
    names, sections, asked = [""], [], []
    for number, line in _lines(path):
        if line.startswith(":"):
            names.append(line[1:].strip())
        elif not line.startswith("//"):
            words = line.split()
            if len(words) != 4:
                raise _bad_line(path, number, line, "four words, or : and the name of a section")
            asked.append([known.get(fold(word), -1) for word in words])
            sections.append(len(names) - 1)
    return names, np.array(sections, np.int32), np.array(asked, np.int32).reshape(-1, 4)


def _vocabulary(vectors: KeyedVectors, restrict_vocab: int | None, case_insensitive: bool) -> dict[str, int]:
    """Gives the number of each known word, of those that differ by case alone the first one's."""
    words = vectors.index_to_key[:restrict_vocab]
    numbered = range(len(words) - 1, -1, -1)
    return {words[index].upper() if case_insensitive else words[index]: index for index in numbered}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Gives the lines of a text with their numbers, but empty ones and remarks."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise JaxgenError(
            f"{shown(path)} is no text in UTF-8: {error.reason} at byte {error.start:,}"
        ) from error
    except OSError as error:
        raise JaxgenError(f"could not read {shown(path)}: {error.strerror}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.rstrip("\r")


def _bad_line(path: Path, number: int, line: str, wanted: str) -> JaxgenError:
    return JaxgenError(f"{shown(path)}, line {number:,} is no {wanted}: {shortened(line, 40)!r}")


def _cosines(vectors: KeyedVectors, pairs: Int64[np.ndarray, "2 pairs"]) -> Float[np.ndarray, " pairs"]:
    """Gives the cosine of each pair of rows; 0 where one is zeros."""
    first, second = vectors.vectors[pairs].astype(np.float64)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    products = np.einsum("ij,ij->i", first, second)
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def _ranks(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    """Gives ranks from 1; equal values have the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]


def _correlation(first: Float[np.ndarray, " values"], second: Float[np.ndarray, " values"]) -> float:
    return float(np.corrcoef(first, second)[0, 1])
