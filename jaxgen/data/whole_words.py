"""Whole words: which tokens go on the word of the token before, so that words are hidden as a whole."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int32

from jaxgen.data.subwords import Subwords, letters_of_bytes
from jaxgen.data.tokenizers import Bytes, Tokenizer, Words

_CUT = "\ufffd"  # a part of a character


@dataclass(frozen=True)
class WordParts:
    """What each token of a vocabulary may be of a word.

    Attributes:
        inside: whether it goes on the word of a token before it that is open.
        open: whether a word may go on after it.
    """

    inside: Bool[np.ndarray, " vocabulary"] = field(repr=False)
    open: Bool[np.ndarray, " vocabulary"] = field(repr=False)

    def continues(self, tokens: Int32[np.ndarray, "rows time"]) -> Bool[np.ndarray, "rows time"]:
        """Tells which tokens go on the word of the one before."""
        found = np.zeros(tokens.shape, bool)
        found[:, 1:] = self.inside[tokens[:, 1:]] & self.open[tokens[:, :-1]]
        return found


def word_parts(tokenizer: Tokenizer) -> WordParts:
    """Tells of each token of a tokenizer what it may be of a word: a run of letters and digits, as BERT has it.

    BERT's word pieces say themselves which of them are inside of words (`##`).
    """
    pieces = tokenizer.vocabulary
    if isinstance(tokenizer, Words):
        return WordParts(np.zeros(len(pieces), bool), np.zeros(len(pieces), bool))
    if isinstance(tokenizer, Subwords) and tokenizer.model == "wordpiece":
        special = tokenizer.special.names
        return WordParts(
            np.array([piece.startswith("##") for piece in pieces]),
            np.array([piece not in special for piece in pieces]),
        )
    if isinstance(tokenizer, Bytes):
        pieces = [_read(bytes([byte])) for byte in range(256)]
    elif isinstance(tokenizer, Subwords) and _of_bytes(tokenizer):
        pieces = _texts(tokenizer)
    # The marks of spaces, and the brackets around special tokens, are no letters.
    return WordParts(
        np.array([_in_word(piece[:1]) for piece in pieces]),
        np.array([_in_word(piece[-1:]) for piece in pieces]),
    )


def _of_bytes(tokenizer: Subwords) -> bool:
    """Tells whether letters stand for bytes."""
    told = json.loads(tokenizer.serialised)
    return '"ByteLevel"' in json.dumps([told["pre_tokenizer"], told["decoder"]])


def _texts(tokenizer: Subwords) -> Sequence[str]:
    """Gives the texts of pieces that are written as bytes; special tokens are as they are."""
    numbers = {letter: byte for byte, letter in enumerate(letters_of_bytes())}
    return [
        _read(bytes(numbers[letter] for letter in piece)) if set(piece) <= numbers.keys() else piece
        for piece in tokenizer.vocabulary
    ]


def _read(written: bytes) -> str:
    return written.decode("utf-8", errors="replace")


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == _CUT
