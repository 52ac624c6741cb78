"""Examples to learn words from: blocks of a corpus's words with their windows and negatives, drawn anew each epoch.

What is drawn is a function of the seed, the epoch and the place alone. An epoch goes through the corpus once, in order:
frequent words are dropped, what is left is cut into blocks, and each block knows the words on either side of it.
"""

import dataclasses
import functools
import math
import threading
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8

from jaxgen.data.corpus import Corpus
from jaxgen.data.sources import Rows, Source
from jaxgen.data.word_parts import NgramFormat, WordParts
from jaxgen.errors import JaxgenError, UsageError, shown

# Streams of random numbers of one seed and epoch.
_WORDS, _NEGATIVES = 0, 1
# Blocks whose negatives come of one generator, which takes as long to make as many of them.
_TOGETHER = 64
# Standard deviations that the number of words of an epoch may lie above its mean.
_DEVIATIONS = 6


@dataclass(frozen=True)
class BlockFormat:
    """How a corpus is made into blocks.

    Attributes:
        window: words on either side of a word that may be its context; how many are is drawn from 1 to this.
        subsample: words that are more frequent than this, as a part of the text, are dropped at random; 0 for none.
        block_size: words of an example.
        group_size: words that share negatives.
        negatives_per_group: drawn from the counts to the power of 3/4.
        most_repeats: a word that a block has more often counts as often as this, each time in part: all that a step
            moves a word by adds up, and what is right for one occurrence goes far beyond the aim for hundreds.
        ngrams: what n-grams words have, for FastText.

    Raises:
        UsageError: for sizes that can't be, or that don't divide each other.
    """

    window: int = 5
    subsample: float = 1e-3
    block_size: int = 256
    group_size: int = 16
    negatives_per_group: int = 16
    most_repeats: int = 8
    ngrams: NgramFormat | None = None

    def __post_init__(self) -> None:
        """Refuses what can't be."""
        if not 1 <= self.window <= 255:
            raise UsageError(f"--window must be between 1 and 255, not {self.window}")
        if not 0 <= self.subsample < math.inf:
            raise UsageError(f"--subsample must be at least 0, not {self.subsample}")
        if min(self.block_size, self.group_size, self.negatives_per_group, self.most_repeats) < 1:
            raise UsageError("blocks, groups, their negatives and repeats must be at least 1 word each")
        if self.block_size % self.group_size:
            raise UsageError(f"groups of {self.group_size} words don't make up blocks of {self.block_size}")


def keep_probabilities(
    counts: Int64[np.ndarray, " words"], subsample: float
) -> Float64[np.ndarray, " words"]:
    """Gives the probability that each word of a text is kept.

    That of word2vec's C code: (sqrt(f / t) + 1) t / f for a word that is f of the text, with t for `subsample`; the
    paper (Mikolov et al. 2013, equation 5) has sqrt(t / f).
    """
    if subsample == 0:
        return np.ones(len(counts))
    times = counts / (subsample * counts.sum())
    return np.minimum(1.0, (np.sqrt(times) + 1) / times)


class AliasTable(NamedTuple):
    """What it takes to draw from a distribution in constant time (Walker 1977).

    Attributes:
        kept: the probability that a place stands for itself.
        other: what it stands for otherwise.
    """

    kept: Float64[np.ndarray, " words"]
    other: Int32[np.ndarray, " words"]

    @classmethod
    def of(cls, weights: Float64[np.ndarray, " words"]) -> "AliasTable":
        """Makes the table of a distribution that has these weights (Vose 1991)."""
        share = weights * (len(weights) / weights.sum())
        kept, other = np.ones(len(weights)), np.arange(len(weights), dtype=np.int32)
        small, large = (list(np.flatnonzero(found)) for found in (share < 1, share >= 1))
        while small and large:
            low, high = small.pop(), large[-1]
            kept[low], other[low] = share[low], high
            share[high] -= 1 - share[low]
            if share[high] < 1:
                small.append(large.pop())
        return cls(kept, other)

    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> Int32[np.ndarray, "..."]:
        """Draws numbers."""
        places = random.integers(0, len(self.kept), shape, dtype=np.int32)
        return np.where(random.random(shape) < self.kept[places], places, self.other[places])


class KeptWords(NamedTuple):
    """Words of a piece of a corpus that weren't dropped, with how far the context of each goes.

    Attributes:
        words: their numbers.
        left: words before each that are its context; never more than the sentence has.
        right: words after it.
    """

    words: Int32[np.ndarray, " kept"]
    left: UInt8[np.ndarray, " kept"]
    right: UInt8[np.ndarray, " kept"]


@dataclass(frozen=True, eq=False)
class WordBlocks:
    """A reader of blocks, others in each epoch: `of_epoch` gives the reader of one.

    An example is a block in groups of words that share negatives: `words` int32 [groups, window + group_size + window],
    those of each group and what is beside it; `counted` float32 of the same shape, in which part each of them counts;
    `left` and `right` uint8 [groups, group_size], how many words before and after each are its context; and `negatives`
    int32 [groups, negatives_per_group]. An epoch has as many blocks as its kept words fill in all likelihood, so that
    all epochs are of one length; the last ones are empty: words without context.

    With n-grams there are `parts` int32 [room], rows of the table that words have vectors in, `owner` int32 [room],
    which word of the block each is a part of, and `part_count` int32 [block_size]. A block has room for a quarter more
    than the mean; words that find none have no context in it.

    Attributes:
        corpus: the words.
        given: how it is cut.
        seed: of all that is drawn.
    """

    corpus: Corpus
    given: BlockFormat
    seed: int

    @functools.cached_property
    def keep(self) -> Float32[np.ndarray, " words_and_end"]:
        """The probability that each word is kept, and last that of the end of a sentence: 0."""
        found = keep_probabilities(self.corpus.vocabulary.counts, self.given.subsample)
        return np.append(found, 0).astype(np.float32)

    @functools.cached_property
    def negatives(self) -> AliasTable:
        """What negatives are drawn from."""
        return AliasTable.of(self.corpus.vocabulary.counts.astype(np.float64) ** 0.75)

    @functools.cached_property
    def parts(self) -> WordParts | None:
        """The parts of words, where they have n-grams."""
        ngrams = self.given.ngrams
        return None if ngrams is None else WordParts.of(self.corpus.vocabulary, ngrams)

    @functools.cached_property
    def room(self) -> int:
        """How many parts of words a block has room for."""
        assert self.parts is not None
        kept = self.corpus.vocabulary.counts * self.keep[:-1].astype(np.float64)
        return self.parts.room(kept / kept.sum(), self.given.block_size)

    @functools.cached_property
    def _length(self) -> int:
        keep, counts = self.keep[:-1].astype(np.float64), self.corpus.vocabulary.counts
        mean, variance = (counts * keep).sum(), (counts * keep * (1 - keep)).sum()
        return math.ceil((mean + _DEVIATIONS * math.sqrt(variance)) / self.given.block_size)

    def __len__(self) -> int:
        return self._length

    def describe(self) -> dict[str, Any]:
        """Says as JSON how blocks are made."""
        return dataclasses.asdict(self.given)

    @property
    def words_per_example(self) -> float:
        """Words of the text that a block stands for on average, with those that are dropped."""
        return self.corpus.num_words / len(self)

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads blocks of the first epoch by number."""
        return self.of_epoch(0)(rows)

    def of_epoch(self, epoch: int) -> "EpochBlocks":
        """Gives the reader of an epoch's blocks."""
        return _of_epoch(self, epoch)


@functools.lru_cache(maxsize=4)
def _of_epoch(blocks: WordBlocks, epoch: int) -> "EpochBlocks":
    return EpochBlocks(blocks, epoch)


@dataclass(frozen=True, eq=False)
class EpochBlocks:
    """A reader of the blocks of one epoch. Blocks side by side are read fast, far ones after all before them."""

    blocks: WordBlocks
    epoch: int
    _starts: list[int] = field(default_factory=lambda: [0], repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return len(self.blocks)

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads blocks by number."""
        given = self.blocks.given
        first = int(rows.min()) * given.block_size - given.window
        last = (int(rows.max()) + 1) * given.block_size + given.window
        with self._lock:
            kept = self._between(first, last)
        starts, groups = rows * given.block_size - first, np.arange(0, given.block_size, given.group_size)
        words = kept.words[starts[:, None] + np.arange(-given.window, given.block_size + given.window)]
        outer = groups[:, None] + np.arange(given.group_size + 2 * given.window)
        inner = (starts[:, None] + groups)[..., None] + np.arange(given.group_size)
        examples = {
            "words": words.take(outer, axis=1),
            "counted": _counted(words, given.most_repeats).take(outer, axis=1),
            "left": kept.left[inner],
            "right": kept.right[inner],
            "negatives": self._negatives(rows),
        }
        if self.blocks.parts is None:
            return examples
        own = kept.words[inner].reshape(len(rows), -1)
        parts, owner, fits = self.blocks.parts.of_blocks(own, self.blocks.room)
        fits = fits.reshape(inner.shape)
        for side in ("left", "right"):
            examples[side] = np.where(fits, examples[side], 0).astype(np.uint8)
        return {**examples, "parts": parts, "owner": owner, "part_count": self.blocks.parts.counts[own]}

    def kept(self, piece: int) -> KeptWords:
        """Draws which words of a piece are kept, and how wide the window of each is."""
        corpus, given = self.blocks.corpus, self.blocks.given
        tokens = corpus.tokens[corpus.bounds[piece] : corpus.bounds[piece + 1]]
        random = self._random(_WORDS, piece)
        there = random.random(len(tokens), np.float32) < self.blocks.keep[tokens]
        words, sentences = tokens[there], np.cumsum(tokens < 0, dtype=np.int32)[there]
        windows = random.integers(1, given.window, len(words), dtype=np.uint8, endpoint=True)
        first = np.flatnonzero(np.diff(sentences, prepend=-1))
        lengths = np.diff(first, append=len(words))
        before = np.arange(len(words)) - np.repeat(first, lengths)
        after = np.repeat(lengths, lengths) - 1 - before
        sides = (np.minimum(windows, side).astype(np.uint8) for side in (before, after))
        return KeptWords(words, *sides)

    def _between(self, first: int, last: int) -> KeptWords:
        """Gives the kept words from one place to another; beyond the corpus there are zeros."""
        sizes = (last - first, np.int32), (last - first, np.uint8), (last - first, np.uint8)
        found = KeptWords(*(np.zeros(*size) for size in sizes))
        piece = max(0, int(np.searchsorted(self._starts, first, "right")) - 1)
        while piece < len(self.blocks.corpus.bounds) - 1 and self._starts[piece] < last:
            part, start = _kept(self, piece), self._starts[piece]
            if piece == len(self._starts) - 1:
                self._starts.append(start + len(part.words))
            begin, end = max(first, start), min(last, start + len(part.words))
            if begin < end:
                for whole, of_piece in zip(found, part, strict=True):
                    whole[begin - first : end - first] = of_piece[begin - start : end - start]
            piece += 1
        return found

    def _negatives(self, rows: Rows) -> Int32[np.ndarray, "rows groups negatives"]:
        given, table = self.blocks.given, self.blocks.negatives
        shape = (_TOGETHER, given.block_size // given.group_size, given.negatives_per_group)
        numbers, within = np.divmod(rows, _TOGETHER)
        found = np.zeros((len(rows), *shape[1:]), np.int32)
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = table.draw(self._random(_NEGATIVES, int(number)), shape)[within[here]]
        return found

    def _random(self, stream: int, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox([self.blocks.seed, self.epoch, stream, number]))


@functools.lru_cache(maxsize=4)
def _kept(epoch: EpochBlocks, piece: int) -> KeptWords:
    return epoch.kept(piece)


def _counted(words: Int32[np.ndarray, "blocks size"], most: int) -> Float32[np.ndarray, "blocks size"]:
    """Gives the part in which each word of a block counts, so that no word counts more than `most` times."""
    of_block = words + np.arange(len(words))[:, None] * (int(words.max()) + 1)
    _, which, counts = np.unique(of_block, return_inverse=True, return_counts=True)
    return np.minimum(1, most / counts).astype(np.float32)[which].reshape(words.shape)


def word_source(corpus: Corpus, given: BlockFormat, seed: int) -> Source:
    """Makes the source of a corpus's blocks.

    Raises:
        UsageError: for a negative seed.
        JaxgenError: for a corpus of too few words to learn anything from.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"the seed must be 0 or more and below 2^63, not {seed}")
    # Each sentence has an end beside its words.
    if 2 * corpus.vocabulary.counts.sum() <= len(corpus.tokens):
        raise JaxgenError(
            f"no sentence of {shown(corpus.name)} has two words that occur often enough: there is no context to learn "
            "from; take a longer text, or a smaller --min-count"
        )
    reader = WordBlocks(corpus, given, seed)
    return Source(
        corpus.name,
        "train",
        reader,
        num_classes=len(corpus.vocabulary),
        shape=(given.block_size,),
        version=corpus.version,
    )
