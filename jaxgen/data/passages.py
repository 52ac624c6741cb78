"""Passages: a text in rows of tokens, of which `jaxgen.objectives` hides parts."""

from dataclasses import dataclass

import numpy as np

from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.sources import Rows, Source
from jaxgen.data.streams import EncodedText, encoded_to_evaluate
from jaxgen.data.text import Text
from jaxgen.errors import JaxgenError, shown


def training_passages(text: Text, given: SequenceFormat) -> Source:
    """Gives every passage of a text, one beginning at each token, to hide parts of it.

    An example is `tokens` int32 [sequence_length], special tokens around the passage, `lengths` int32, and if whole
    words are asked for `continues` bool [sequence_length], which tokens go on the word of the token before.

    Raises:
        JaxgenError: for a text that is shorter than a passage.
    """
    encoded = EncodedText.of(text, given.tokenizer)
    count = len(encoded.tokens) - given.room + 1
    if count < 1:
        raise JaxgenError(
            f"{shown(text.name)} has {len(encoded.tokens):,} tokens to {text.split} on, fewer than a sequence of "
            f"{given.room}: take a longer text, or a smaller --sequence-length"
        )
    return _passage_source(text, _Passages(encoded, given, 1, count))


def evaluation_passages(text: Text, given: SequenceFormat) -> Source:
    """Cuts a text into passages side by side, in which every token is once; the last one may be shorter.

    Raises:
        JaxgenError: for a text of fewer than two tokens.
    """
    encoded = encoded_to_evaluate(text, given.tokenizer)
    return _passage_source(text, _Passages(encoded, given, given.room, -(-len(encoded.tokens) // given.room)))


def _passage_source(text: Text, reader: "_Passages") -> Source:
    return Source(
        text.name,
        text.split,
        reader,
        num_classes=len(reader.given.tokenizer.vocabulary),
        shape=(reader.given.sequence_length,),
        version=text.version,
        text=reader.given,
    )


@dataclass(frozen=True)
class _Passages:
    """A reader of passages that begin at regular distances.

    Attributes:
        text: the whole text.
        given: the format.
        stride: from the beginning of one to that of the next.
        count: passages.
    """

    text: EncodedText
    given: SequenceFormat
    stride: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads examples by index."""
        first, last, room = self.given.first, self.given.last, self.given.room
        places = self.stride * rows[:, None] + np.arange(room)
        there = places < len(self.text.tokens)
        tokens = np.full((len(rows), self.given.sequence_length), self.given.padding, np.int32)
        tokens[:, : len(first)] = first
        found = self.text.tokens[np.minimum(places, len(self.text.tokens) - 1)]
        tokens[:, len(first) : len(first) + room] = np.where(there, found, self.given.padding)
        ends = len(first) + there.sum(axis=1)
        tokens[np.arange(len(rows))[:, None], ends[:, None] + np.arange(len(last))] = last
        return self.given.example(tokens, ends + len(last))
