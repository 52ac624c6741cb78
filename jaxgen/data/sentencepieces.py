"""Tokenizers of Google's SentencePiece, as T5 and its kin have them."""

import base64
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxgen.data.subwords import Ids, SpecialTokens
from jaxgen.errors import JaxgenError, UsageError


@dataclass(frozen=True)
class SentencePieces:
    """Pieces of text by a SentencePiece model (Kudo and Richardson 2018).

    Attributes:
        serialised: the model's file, in base64.
        special: tokens that are no text; they are found in texts, and shown in them. Sentinels that the file doesn't
            have are the last tokens, the first of them last, as T5 has them.

    Raises:
        JaxgenError: if it is no such model.
    """

    serialised: str = field(repr=False)
    special: SpecialTokens

    def __post_init__(self) -> None:
        self._processor  # noqa: B018

    @property
    def _processor(self) -> Any:
        return _loaded(self.serialised)

    @property
    def _special_numbers(self) -> dict[str, int]:
        return _special_numbers(self.serialised, self.special)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The pieces, which show a space as `▁`, and the sentinels."""
        pieces = [self._processor.id_to_piece(number) for number in range(self._processor.get_piece_size())]
        added = [name for name, number in self._special_numbers.items() if number >= len(pieces)]
        return [*pieces, *sorted(added, key=self._special_numbers.__getitem__)]

    def encode(self, text: str) -> Ids:
        """Gives the pieces, without special tokens around them; raises UsageError for bytes that are no text."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError("the text has bytes that are no UTF-8: leave them out") from error
        ids: list[int] = []
        for place, part in enumerate(self._around_special(text)):
            ids.extend([self._special_numbers[part]] if place % 2 else self._processor.encode(part))
        return np.array(ids, np.int32)

    def parts(self, text: str) -> list[str]:
        """Gives the part of a text that each of its pieces stands for, with its spaces."""
        found: list[str] = []
        for place, part in enumerate(self._around_special(text)):
            pieces = [part] if place % 2 else self._processor.encode_as_pieces(part)
            found.extend(piece.replace("\u2581", " ") for piece in pieces)
        return found

    def _around_special(self, text: str) -> list[str]:
        """Divides a text so that every second part is a special token."""
        names = self._special_numbers
        return re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Gives the text, with the special tokens in it, and without numbers that are no token."""
        names = {number: name for name, number in self._special_numbers.items()}
        parts: list[Any] = [[]]
        for number in map(int, ids):
            if number in names:
                parts.extend([names[number], []])
            elif number < self._processor.get_piece_size():
                parts[-1].append(number)
        texts = [part if isinstance(part, str) else self._processor.decode(part) for part in parts]
        return " ".join(text for text in texts if text)

    def special_id(self, role: str) -> int:
        """Gives the number of the special token with a role, such as `pad`; raises UsageError without one."""
        return self._special_numbers[self.special.find(role)]

    @property
    def sentinel_ids(self) -> Ids:
        """The numbers of the sentinels, the first one first."""
        return np.array([self._special_numbers[name] for name in self.special.sentinels], np.int32)

    def describe(self) -> dict[str, Any]:
        """The model's file, and the special tokens."""
        return {"serialised": self.serialised, "special": self.special.told()}


@functools.lru_cache(maxsize=8)
def _loaded(serialised: str) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=base64.b64decode(serialised))
    except (RuntimeError, ValueError) as error:
        raise JaxgenError("this is no SentencePiece model; it may be damaged") from error


@functools.lru_cache(maxsize=8)
def _special_numbers(serialised: str, special: SpecialTokens) -> dict[str, int]:
    """Gives the number of each special token, in the file or behind it."""
    processor = _loaded(serialised)
    size = processor.get_piece_size()
    pieces = {processor.id_to_piece(number): number for number in range(size)}
    added = [name for name in reversed(special.sentinels) if name not in pieces]
    numbers = pieces | {name: size + place for place, name in enumerate(added)}
    return {name: numbers[name] for name in special.names}
