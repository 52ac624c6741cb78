"""Pairs of sentences, half of which follow one another: BERT's second task (Devlin et al. 2019, section 3.1)."""

import itertools
import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.sources import Rows, Source
from jaxgen.data.streams import EncodedText
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Ids, Tokenizer
from jaxgen.errors import JaxgenError, UsageError, shown

# A sentence ends with a mark before a space, or where a paragraph does.
_END = re.compile(r"[.!?][\"')\]\u2019\u201d]*(?=\s)|\n[ \t]*(?=\n)")

Counts = Int64[np.ndarray, " rows"]


def sentence_pairs(text: Text, given: SequenceFormat, seed: int = 0) -> Source:
    """Gives two runs of sentences from each sentence on that another follows.

    The first run goes from the sentence to one drawn at random, as far as a row has room for both. The second one
    follows it, in half of the pairs; in the others it begins with any sentence of another document (of the same one,
    where there are no others). What is too long is cut off at the far ends. Each pair is the same every time; it hangs
    on the text, the format and the seed.

    An example is `tokens` int32 [sequence_length], the first run and the second with `first` before them and `last`
    after each; `lengths` int32; `type_ids` int32 [sequence_length], 1 for the second run and what ends it; `is_next`
    int32, whether that follows the first; and `continues`, as `training_passages` gives it.

    Raises:
        UsageError: for rows that have no room for two tokens.
        JaxgenError: for a text of too few sentences.
    """
    room = given.room - len(given.last)
    if room < 2:
        raise UsageError(
            f"sequences of {given.sequence_length} tokens have no room for two sentences: give a larger "
            "--sequence-length"
        )
    sentences = _Sentences.of(text, given.tokenizer)
    begins = np.flatnonzero(np.arange(1, sentences.count + 1) < sentences.document_end)
    if not len(begins) or sentences.count < 3:
        raise JaxgenError(
            f"{shown(text.name)} has {sentences.count} sentences in {text.split}, too few for pairs: take a longer text"
        )
    pairs = _draw_pairs(sentences, begins, room, np.random.default_rng(seed))
    return Source(
        text.name,
        text.split,
        _Pairs(sentences.encoded, given, pairs),
        num_classes=len(given.tokenizer.vocabulary),
        shape=(given.sequence_length,),
        version=text.version,
        text=given,
    )


@dataclass(frozen=True)
class _Sentences:
    """The sentences of a text, one behind the other.

    Attributes:
        tokens: of all.
        bounds: where each begins among the tokens, and the last one ends.
        document_begin: of each, the number of its document's first sentence.
        document_end: of each, the number of its document's last sentence, plus 1.
        characters: that a token stands for on average.
    """

    tokens: Ids
    bounds: Int64[np.ndarray, " bounds"]
    document_begin: Counts
    document_end: Counts
    characters: float

    @property
    def count(self) -> int:
        """Sentences."""
        return len(self.document_end)

    @property
    def encoded(self) -> EncodedText:
        """The text as it was before it was cut."""
        starts = np.zeros(len(self.tokens), bool)
        starts[self.bounds[np.unique(self.document_begin)]] = True
        return EncodedText(self.tokens, starts, self.characters, tells_starts=False)

    @classmethod
    def of(cls, text: Text, tokenizer: Tokenizer) -> "_Sentences":
        """Cuts and encodes a text; sentences of no tokens are left out."""
        encoded: list[Ids] = []
        document_bounds = [0]
        for document in text.documents:
            document = document.rstrip()
            cuts = [0, *(match.end() for match in _END.finditer(document)), len(document)]
            sentences = [tokenizer.encode(document[begin:end]) for begin, end in itertools.pairwise(cuts)]
            encoded += [sentence for sentence in sentences if len(sentence)]
            document_bounds.append(len(encoded))
        sizes = np.diff(document_bounds)
        begins, ends = (np.repeat(bounds, sizes) for bounds in (document_bounds[:-1], document_bounds[1:]))
        tokens = np.concatenate([np.zeros(0, np.int32), *encoded])
        bounds, per_token = np.cumsum([0, *map(len, encoded)]), len(text) / max(1, len(tokens))
        return cls(tokens, bounds, begins.astype(np.int64), ends.astype(np.int64), per_token)

    def run_end(self, begins: Counts, room: Counts, least: Counts) -> Counts:
        """Gives how far runs of whole sentences go that fit into a room, to their document's end at most."""
        fitting = np.searchsorted(self.bounds, self.bounds[begins] + room, side="right") - 1
        return np.minimum(np.maximum(fitting, least), self.document_end[begins])


class _Drawn(NamedTuple):
    """Pairs of runs of tokens: where each begins, how long it is, and whether the second one follows the first."""

    first: Counts
    first_length: Counts
    second: Counts
    second_length: Counts
    is_next: Bool[np.ndarray, " rows"]


def _draw_pairs(sentences: _Sentences, begins: Counts, room: int, random: np.random.Generator) -> _Drawn:
    """Draws the pairs whose first runs begin with the given sentences, of `room` tokens at most."""
    is_next = random.permutation(np.arange(len(begins)) % 2 == 0)
    rooms = np.full(len(begins), room)
    ends = sentences.run_end(begins, rooms, begins + 2)
    middles = random.integers(begins + 1, ends)
    # Sentences that a second run may not begin with, if it is not to follow.
    low, high = sentences.document_begin[begins], sentences.document_end[begins]
    alone = high - low == sentences.count
    low, high = np.where(alone, begins, low), np.where(alone, middles + 1, high)
    drawn = random.integers(0, np.maximum(sentences.count - (high - low), 1))
    others = drawn + np.where(drawn < low, 0, high - low)
    # Where all of a text's sentences are in the pair, nothing else is left.
    is_next |= others >= sentences.count
    seconds = np.where(is_next, middles, np.minimum(others, sentences.count - 1))
    bounds = sentences.bounds
    lengths = bounds[middles] - bounds[begins]
    second_ends = sentences.run_end(seconds, rooms - lengths, seconds + 1)
    second_lengths = bounds[second_ends] - bounds[seconds]
    # The longer one gives way.
    kept = np.minimum(lengths, np.maximum(room - second_lengths, room - room // 2))
    return _Drawn(
        bounds[middles] - kept, kept, bounds[seconds], np.minimum(second_lengths, room - kept), is_next
    )


@dataclass(frozen=True)
class _Pairs:
    """A reader of pairs.

    Attributes:
        text: the whole text.
        given: the format.
        drawn: the pairs.
    """

    text: EncodedText
    given: SequenceFormat
    drawn: _Drawn = field(repr=False)

    def __len__(self) -> int:
        return len(self.drawn.is_next)

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads examples by index."""
        before, after = (np.array(part, np.int32) for part in (self.given.first, self.given.last))
        tokens = np.full((len(rows), self.given.sequence_length), self.given.padding, np.int32)
        types = np.zeros_like(tokens)
        lengths = np.zeros(len(rows), np.int32)
        for number, row in enumerate(rows):
            begin, size, second, second_size, _ = (part[row] for part in self.drawn)
            one = np.concatenate([before, self.text.tokens[begin : begin + size], after])
            other = np.concatenate([self.text.tokens[second : second + second_size], after])
            lengths[number] = end = len(one) + len(other)
            tokens[number, :end] = np.concatenate([one, other])
            types[number, len(one) : end] = 1
        is_next = self.drawn.is_next[rows].astype(np.int32)
        return self.given.example(tokens, lengths, type_ids=types, is_next=is_next)
