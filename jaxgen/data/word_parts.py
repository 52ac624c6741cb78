"""The parts of words for FastText: each word itself and its n-grams, as rows of one table."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64

from jaxgen.data.corpus import Vocabulary
from jaxgen.embeddings.ngrams import ngram_buckets
from jaxgen.errors import UsageError

# A block has room for so many times the mean of its words' parts.
_ROOM = 1.25
_DEVIATIONS = 6


@dataclass(frozen=True)
class NgramFormat:
    """What n-grams words have.

    Attributes:
        shortest: characters of an n-gram, at least, `<` and `>` around the word included.
        longest: at most.
        buckets: that n-grams are hashed into.

    Raises:
        UsageError: for sizes that can't be.
    """

    shortest: int = 3
    longest: int = 6
    buckets: int = 2_000_000

    def __post_init__(self) -> None:
        """Refuses what can't be."""
        if not 1 <= self.shortest <= self.longest:
            raise UsageError(
                f"n-grams of {self.shortest} to {self.longest} characters can't be: --ngrams takes both lengths"
            )
        if not 1 <= self.buckets < 2**31:
            raise UsageError(f"--buckets must be between 1 and 2^31 - 1, not {self.buckets}")


@dataclass(frozen=True, eq=False)
class WordParts:
    """The parts of all words of a vocabulary.

    Attributes:
        rows: of the table, word after word; each begins with the word itself. N-grams come behind all words.
        offsets: where those of each word begin, and the last one's end.
    """

    rows: Int32[np.ndarray, " parts"]
    offsets: Int64[np.ndarray, " words_and_end"]

    @classmethod
    def of(cls, vocabulary: Vocabulary, given: NgramFormat) -> "WordParts":
        """Hashes the n-grams of all words."""
        words = np.arange(len(vocabulary), dtype=np.int32)
        found, begins = ngram_buckets(vocabulary.words, given.shortest, given.longest, given.buckets)
        return cls(np.insert(found + len(words), begins[:-1], words), begins + np.arange(len(begins)))

    @functools.cached_property
    def counts(self) -> Int32[np.ndarray, " words"]:
        """How many each word has."""
        return np.diff(self.offsets).astype(np.int32)

    def room(self, share: Float[np.ndarray, " words"], size: int) -> int:
        """Gives how many parts a block of words has room for.

        Args:
            share: of each word among all that are in blocks.
            size: words of a block.
        """
        mean = (share * self.counts).sum()
        deviation = math.sqrt(max(0.0, (share * self.counts**2).sum() - mean**2))
        enough = size * mean + max((_ROOM - 1) * size * mean, _DEVIATIONS * math.sqrt(size) * deviation)
        return math.ceil(min(enough, size * float(self.counts.max())))

    def of_blocks(
        self, words: Int32[np.ndarray, "blocks size"], room: int
    ) -> tuple[
        Int32[np.ndarray, "blocks room"], Int32[np.ndarray, "blocks room"], Bool[np.ndarray, "blocks size"]
    ]:
        """Gives the parts of the words of blocks, one after the other, as far as there is room.

        Returns:
            The rows; which word of its block each is a part of, beyond the last one for none; and which words have all
            theirs.
        """
        counts = self.counts[words]
        ends = np.cumsum(counts, axis=1)
        fits = ends <= room
        counts = np.where(fits, counts, 0).ravel()
        starts = np.cumsum(counts) - counts
        within = np.arange(counts.sum()) - np.repeat(starts, counts)
        place = np.repeat((ends.ravel() - self.counts[words].ravel()), counts) + within
        block = np.repeat(np.arange(len(words)).repeat(words.shape[1]), counts)
        rows = np.zeros((len(words), room), np.int32)
        owner = np.full((len(words), room), words.shape[1], np.int32)
        rows[block, place] = self.rows[np.repeat(self.offsets[words.ravel()], counts) + within]
        owner[block, place] = np.repeat(np.tile(np.arange(words.shape[1]), len(words)), counts)
        return rows, owner, fits
