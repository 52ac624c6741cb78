"""Text as it is written: decoded row by row, ended by stop strings, and given out in pieces that stay as they are."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxgen.errors import UsageError

_HALF_A_CHARACTER = "\ufffd"  # what decoders put in the place of bytes that are no character (yet)


@dataclass(frozen=True)
class Text:
    """How tokens are read, and where a text ends.

    Attributes:
        decode: gives the text of tokens, such as a tokenizer's `decode`. More tokens must not change what the text of
            fewer began with, but for replacement characters at its end.
        stop_strings: a row ends where one of them is complete, and its text before it. The prompt's are not counted.

    Raises:
        UsageError: for an empty stop string.
    """

    decode: Callable[[Sequence[int]], str]
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "" in self.stop_strings:
            raise UsageError("a stop string is empty; leave it out, or name what the text should end at")


@dataclass
class Row:
    """One row's text so far.

    Attributes:
        how: it is read.
        prompt: its tokens, which the text goes on from: whether there is a space between is the tokenizer's matter.
        ids: the new tokens.
    """

    how: Text
    prompt: Any
    ids: list[int] = field(default_factory=list)
    _text: str = ""
    _given: int = 0

    def read(self, ids: Sequence[int]) -> int | None:
        """Adds tokens, up to the one that completes a stop string; gives how many these are, None without one."""
        before = len(self.ids)
        self.ids.extend(ids)
        self._text = self._decoded(len(self.ids))
        if not self._stops(self._text):
            return None
        counts = range(before + 1, len(self.ids))
        count = next((n for n in counts if self._stops(self._decoded(n))), len(self.ids))
        text = self._decoded(count)
        self._text = text[: min(self._stops(text))]
        return count - before

    def piece(self, *, last: bool) -> str:
        """Gives what was added to the text since the last piece; before the last one, what may yet change is kept."""
        end = len(self._text) if last else self._settled()
        start, self._given = self._given, max(self._given, end)
        return self._text[start : self._given]

    def _decoded(self, count: int) -> str:
        ids, text = self._read_prompt
        return self.how.decode([*ids, *self.ids[:count]])[len(text) :]

    @functools.cached_property
    def _read_prompt(self) -> tuple[list[int], str]:
        ids = [int(token) for token in self.prompt]
        return ids, self.how.decode(ids)

    def _stops(self, text: str) -> list[int]:
        return [text.index(stop) for stop in self.how.stop_strings if stop in text]

    def _settled(self) -> int:
        text = self._text.rstrip(_HALF_A_CHARACTER)
        begun = (
            size
            for stop in self.how.stop_strings
            for size in range(1, len(stop))
            if text.endswith(stop[:size])
        )
        return len(text) - max(begun, default=0)


def make_rows(text: Text | None, prompts: np.ndarray, lengths: np.ndarray, times: int) -> list[Row]:
    """Gives a row for each text that is to be written from each prompt; none where no text was asked for."""
    if text is None:
        return []
    told = zip(prompts, lengths, strict=True)
    return [Row(text, tokens[:length]) for tokens, length in told for _ in range(times)]


def read_chunk(
    rows: Sequence[Row], tokens: np.ndarray, lengths: np.ndarray, stopped: np.ndarray
) -> np.ndarray:
    """Adds a chunk [batch, time] to the texts; gives each row's number of tokens up to a stop string, -1 without one.

    Args:
        rows: of text.
        tokens: the chunk.
        lengths: of the chunk's rows.
        stopped: whether a row's last token is a stop token, which is no text.
    """
    ends = np.full(len(rows), -1)
    for number, row in enumerate(rows):
        count = int(lengths[number])
        if count and (end := row.read(tokens[number, : count - int(stopped[number])].tolist())) is not None:
            ends[number] = end
    return ends
