"""Windows: examples of a text for models with a fixed context, which carry nothing from one to the next.

All give what `jaxgen.data.streams` gives, `tokens` and `labels` int32 [sequence_length], each label the token after it
or -1 where none counts, `characters` float32 and `stream_start`, always true; and `document_start` bool
[sequence_length] where it is asked for, from which a model knows what belongs together: a document's tokens see no
others, and its positions count from 0.
"""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, Int64

from jaxgen.data.sources import Rows, Source
from jaxgen.data.streams import (
    EncodedText,
    TextFormat,
    encoded_to_evaluate,
    make_examples,
    text_source,
)
from jaxgen.data.text import Text
from jaxgen.errors import JaxgenError, shown


def training_windows(text: Text, given: TextFormat) -> Source:
    """Gives every window of a text, one beginning at each token: shuffled, they are nanoGPT's random offsets.

    An epoch is thus as many passes over the text as a window has tokens, in which every token has been seen at every
    place of a window.

    Args:
        text: its documents follow one another.
        given: its format; `streams` doesn't count.

    Raises:
        JaxgenError: for a text that is shorter than a window and the label behind it.
    """
    encoded = EncodedText.of(text, given.tokenizer, given.document_starts)
    count = len(encoded.tokens) - given.sequence_length
    if count < 1:
        raise JaxgenError(
            f"{shown(text.name)} has {len(encoded.tokens):,} tokens to {text.split} on, fewer than a sequence of "
            f"{given.sequence_length} and the token after it: take a longer text, or a smaller --sequence-length"
        )
    return _source(text, given, _Windows(encoded, given.sequence_length, 1, count))


def evaluation_windows(text: Text, given: TextFormat) -> Source:
    """Cuts a text into windows side by side, in which every token but the first one is a label once.

    The last one is filled up with labels of -1.

    Raises:
        JaxgenError: for a text of fewer than two tokens.
    """
    encoded = encoded_to_evaluate(text, given.tokenizer, given.document_starts)
    length = given.sequence_length
    return _source(text, given, _Windows(encoded, length, length, -(-(len(encoded.tokens) - 1) // length)))


def packed_windows(text: Text, given: TextFormat) -> Source:
    """Packs a text's documents into windows, several short ones into one, and tells where each starts.

    Every token of a document but its first one is a label once, foreseen from its own document alone. A document that
    doesn't fit into a window is cut into windows of its own, and the rest of it is packed as a document is. Each goes
    into the window that it fills best, long ones first (best-fit-decreasing, Ding et al. 2024): hardly a place stays
    empty.

    Raises:
        JaxgenError: where no document has two tokens.
    """
    given = replace(given, document_starts=True)
    encoded = EncodedText.of(text, given.tokenizer, tells_starts=True)
    begins = np.flatnonzero(encoded.starts).tolist()
    pieces = _pieces([*begins, len(encoded.tokens)], given.sequence_length)
    if not len(pieces):
        raise JaxgenError(
            f"{shown(text.name)} has no document of two tokens in {text.split}: take longer ones"
        )
    windows = _packed([length for _, length in pieces], given.sequence_length)
    places = np.full((len(windows), given.sequence_length), -1)
    starts = np.zeros(places.shape, bool)
    for row, members in enumerate(windows):
        end = 0
        for begin, length in (pieces[member] for member in members):
            places[row, end : end + length] = np.arange(begin, begin + length)
            starts[row, end] = True
            end += length
    return _source(text, given, _Packed(encoded, places, starts))


def _source(text: Text, given: TextFormat, reader: "_Windows | _Packed") -> Source:
    return text_source(text, replace(given, streams=0), reader)


@dataclass(frozen=True)
class _Windows:
    """A reader of windows that begin at regular distances.

    Attributes:
        text: the whole text.
        length: of a window.
        stride: from the beginning of one to that of the next.
        count: windows.
    """

    text: EncodedText
    length: int
    stride: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads examples by index."""
        return self._read(self.text.arrays(self.length), rows, np)

    def device_arrays(self) -> dict[str, np.ndarray]:
        """Gives the text itself: its windows are many times larger."""
        return self.text.arrays(self.length)

    def gather_on_device(self, arrays: Mapping[str, Any], rows: Int32[Array, " batch"]) -> dict[str, Any]:
        """Reads examples by index, on a device that holds the text."""
        return self._read(arrays, rows, jnp)

    def _read(self, arrays: Mapping[str, Any], rows: Any, numpy: Any) -> dict[str, Any]:
        places = self.stride * rows[:, None] + numpy.arange(self.length)
        there = places < len(arrays["tokens"]) - 1
        examples = make_examples(arrays, places, there, numpy)
        return {**examples, "stream_start": numpy.ones(len(rows), bool)}


@dataclass(frozen=True)
class _Packed:
    """A reader of windows that hold several documents.

    Attributes:
        text: the whole text.
        places: where each token stands in the text; -1 for none.
        starts: where documents, or what is left of them, start.
    """

    text: EncodedText
    places: Int64[np.ndarray, "windows time"] = field(repr=False)
    starts: Bool[np.ndarray, "windows time"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.places)

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads examples by index."""
        places = self.places[rows]
        return {
            **self.text.examples(places, places >= 0),
            "document_start": self.starts[rows],
            "stream_start": np.ones(len(rows), bool),
        }


def _pieces(bounds: Sequence[int], longest: int) -> list[tuple[int, int]]:
    """Cuts documents into pieces (begin, labels) that fit into a window, long ones first."""
    pieces = [
        (cut, min(longest, end - 1 - cut))
        for begin, end in itertools.pairwise(bounds)
        for cut in range(begin, end - 1, longest)
    ]
    return sorted(pieces, key=lambda piece: -piece[1])


def _packed(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Packs what has these lengths, the longest first, into windows of a size; gives who is in each."""
    windows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # sorted, those that a window has
    for number, length in enumerate(lengths):
        found = bisect.bisect_left(rooms, length)
        if found == len(rooms):
            window, room = len(windows), size
            windows.append([])
        else:
            room = rooms[found]
            window = by_room[room].pop()
            if not by_room[room]:
                del rooms[found]
        windows[window].append(number)
        if left := room - length:
            if not by_room.setdefault(left, []):
                bisect.insort(rooms, left)
            by_room[left].append(window)
    return windows
