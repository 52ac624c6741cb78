"""Character n-grams of words, hashed into buckets bit for bit as fastText does (Bojanowski et al. 2017)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int32, Int64

from jaxgen.errors import UsageError

_OFFSET, _PRIME = 2166136261, 16777619
# fastText's end of a sentence has a vector of its own, but no n-grams.
END_OF_SENTENCE = "</s>"
# So many words' vectors are made at once: a long vocabulary's n-grams are many times its vectors.
_WORDS = 2048


@dataclass(frozen=True)
class Ngrams:
    """What FastText makes the vectors of words of: the mean of a word's own vector and those of its n-grams' buckets.

    Attributes:
        word_vectors: each word's own vector.
        buckets: the n-grams' vectors; n-grams with the same hash share one.
        shortest: characters of an n-gram, at least, `<` and `>` around the word included.
        longest: at most.

    Raises:
        UsageError: unless 0 <= shortest <= longest.
    """

    word_vectors: Float32[np.ndarray, "words width"] = field(repr=False)
    buckets: Float32[np.ndarray, "buckets width"] = field(repr=False)
    shortest: int = 3
    longest: int = 6

    def __post_init__(self) -> None:
        """Refuses lengths that can't be."""
        if not 0 <= self.shortest <= self.longest:
            raise UsageError(f"n-grams can't have {self.shortest} to {self.longest} characters")

    def compose(self, words: Sequence[str]) -> Float32[np.ndarray, "words width"]:
        """Gives the vectors of the words of the vocabulary, in its order."""
        return self._mean(words, self.word_vectors)

    def infer(self, words: Sequence[str]) -> Float32[np.ndarray, "words width"]:
        """Gives vectors of words that aren't in the vocabulary; zeros for one without n-grams, as fastText does."""
        return self._mean(words, None)

    def _mean(self, words: Sequence[str], own: np.ndarray | None) -> Float32[np.ndarray, "words width"]:
        found = np.zeros((len(words), self.buckets.shape[1]), np.float32)
        for start in range(0, len(words), _WORDS):
            rows = slice(start, start + _WORDS)
            buckets, offsets = ngram_buckets(words[rows], self.shortest, self.longest, len(self.buckets))
            counts = np.diff(offsets)
            some = counts > 0  # of a word without n-grams reduceat would give another word's
            if some.any():
                found[rows][some] = np.add.reduceat(self.buckets[buckets], offsets[:-1][some], axis=0)
            if own is not None:
                found[rows] += own[rows]
                counts = counts + 1
            found[rows] /= np.maximum(counts, 1)[:, None].astype(np.float32)
        return found


def ngrams(word: str, shortest: int, longest: int) -> list[bytes]:
    """Gives the n-grams of a word in UTF-8, in fastText's order: by where they begin, then by their length.

    `<` and `>` alone are none. Those of a single word; `ngram_buckets` hashes those of many at once.
    """
    characters = [character.encode() for character in f"<{word}>"]
    count = len(characters)
    return [
        b"".join(characters[start : start + length])
        for start in range(count)
        for length in range(max(shortest, 1), min(longest, count - start) + 1)
        if not (length == 1 and start in (0, count - 1))
    ]


def fnv1a(data: bytes) -> int:
    """Hashes bytes as fastText does: 32-bit FNV-1a, but with bytes from 128 on taken as negative numbers."""
    found = _OFFSET
    for byte in data:
        found = ((found ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * _PRIME) & 0xFFFFFFFF
    return found


def ngram_buckets(
    words: Sequence[str], shortest: int, longest: int, buckets: int
) -> tuple[Int32[np.ndarray, " ngrams"], Int64[np.ndarray, " offsets"]]:
    """Gives the buckets of the n-grams of many words.

    Args:
        words: any.
        shortest: characters of an n-gram, at least.
        longest: at most.
        buckets: how many there are; of none, nothing has n-grams.

    Returns:
        The buckets, those of one word after the other, each in the order of `ngrams`; and where those of each word
        begin, and of the last one end: [words + 1].
    """
    offsets = np.zeros(len(words) + 1, np.int64)
    if not buckets or not words:
        return np.zeros(0, np.int32), offsets
    encoded = [b"" if word == END_OF_SENTENCE else b"<%b>" % word.encode() for word in words]
    text = np.frombuffer(b"".join(encoded), np.uint8)
    word_ends = np.cumsum([len(word) for word in encoded])
    of_word = np.repeat(np.arange(len(words)), np.diff(word_ends, prepend=0))
    # Bytes 10...... go on a character.
    begins = (text & 0xC0) != 0x80
    hashed = text.astype(np.int8).astype(np.int32).view(np.uint32)
    (starts,) = np.nonzero(begins)
    place, end = starts.copy(), word_ends[of_word[starts]]
    first = np.r_[True, of_word[starts][1:] != of_word[starts][:-1]]
    state = np.full(len(starts), _OFFSET, np.uint32)
    which, found, alive = [], [], np.arange(len(starts))
    with np.errstate(over="ignore"):
        for length in range(1, longest + 1):
            alive = alive[place[alive] < end[alive]]
            if not len(alive):
                break
            _hash_character(state, place, alive, hashed, begins, end)
            if length >= shortest:
                kept = alive if length > 1 else alive[~first[alive] & (place[alive] < end[alive])]
                which.append(kept)
                found.append(state[kept] % np.uint32(buckets))
    if not which:
        return np.zeros(0, np.int32), offsets
    begin, values = np.concatenate(which), np.concatenate(found)
    order = np.argsort(begin, kind="stable")
    counts = np.bincount(of_word[starts[begin]], minlength=len(words))
    np.cumsum(counts, out=offsets[1:])
    return values[order].astype(np.int32), offsets


def _hash_character(
    state: np.ndarray,
    place: np.ndarray,
    alive: np.ndarray,
    hashed: np.ndarray,
    begins: np.ndarray,
    end: np.ndarray,
) -> None:
    """Takes one more character into the hashes of n-grams that are `alive`, byte by byte."""
    going = alive
    while len(going):
        state[going] = (state[going] ^ hashed[place[going]]) * np.uint32(_PRIME)
        place[going] += 1
        going = going[place[going] < end[going]]
        going = going[~begins[place[going]]]
