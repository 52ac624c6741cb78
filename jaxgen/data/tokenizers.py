"""Tokenizers: text to numbers and back. Each is made from text, saved beside a run, and loaded with it."""

import collections
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxgen.data.sentencepieces import SentencePieces
from jaxgen.data.subwords import MODELS, TRAINED, Ids, SpecialTokens, Subwords
from jaxgen.errors import JaxgenError, UsageError, shown
from jaxgen.files import read_json, write_json

UNKNOWN = "<unk>"
_WORDS = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]|\n")
# Marks that have no space before them, or none after them; the last ones are curly quotation marks.
_CLOSING, _OPENING = r".,;:!?%)\]}\u201d\u2019", r"(\[{\u201c\u2018"
_FORMAT_VERSION = 1


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token numbers and back."""

    @property
    def vocabulary(self) -> Sequence[str]:
        """Each token as one would show it, by number."""
        ...

    def encode(self, text: str) -> Ids:
        """Gives the tokens of a text; raises UsageError for what it has no token for."""
        ...

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Gives the text of tokens."""
        ...

    def describe(self) -> dict[str, Any]:
        """Gives what it takes to make it again, as JSON."""
        ...


@dataclass(frozen=True)
class Characters:
    """A token for each character of the text that it was made from."""

    characters: str
    numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", {c: number for number, c in enumerate(self.characters)})

    @classmethod
    def train(cls, texts: Iterable[str]) -> "Characters":
        """Takes the characters that occur, in the order of their code points."""
        return cls("".join(sorted(set().union(*texts))))

    @property
    def vocabulary(self) -> Sequence[str]:
        """The characters."""
        return self.characters

    def encode(self, text: str) -> Ids:
        """Gives a token for each character; raises UsageError for those that there are none for."""
        if missing := self.missing(text):
            names = ", ".join(f"{c!r} ({unicodedata.name(c, 'unnamed').lower()})" for c in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise UsageError(
                f"the text has characters that the model was not trained on: {names}{more}; leave them out"
            )
        return np.array([self.numbers[c] for c in text], np.int32)

    def missing(self, text: str) -> list[str]:
        """Gives the characters of a text that have no token, in the order of their first appearance."""
        return [c for c in dict.fromkeys(text) if c not in self.numbers]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Gives the characters."""
        return "".join(self.characters[number] for number in ids)

    def describe(self) -> dict[str, Any]:
        """The characters."""
        return {"characters": self.characters}


@dataclass(frozen=True)
class Bytes:
    """A token for each byte of UTF-8: 256 of them, and nothing is unknown."""

    @classmethod
    def train(cls, texts: Iterable[str]) -> "Bytes":
        """Needs no text."""
        return cls()

    @property
    def vocabulary(self) -> Sequence[str]:
        """The bytes, as characters where they are printable ASCII."""
        return [chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in range(256)]

    def encode(self, text: str) -> Ids:
        """Gives the bytes."""
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Gives the text, with replacement characters for bytes that are no UTF-8."""
        return bytes(int(number) for number in ids).decode("utf-8", errors="replace")

    def describe(self) -> dict[str, Any]:
        """Has nothing to tell."""
        return {}


@dataclass(frozen=True)
class Words:
    """A token for each of the most frequent words and punctuation marks, and one for all others."""

    words: tuple[str, ...]
    lowercase: bool = True
    numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", {word: number for number, word in enumerate(self.words)})

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int = 1000, lowercase: bool = True) -> "Words":
        """Takes the most frequent words, those of one frequency in the order of the alphabet.

        Args:
            texts: to count in.
            vocabulary_size: tokens, `<unk>` among them.
            lowercase: whether case is left out.

        Raises:
            UsageError: for a vocabulary of fewer than two.
        """
        if vocabulary_size < 2:
            raise UsageError(
                f"a vocabulary of {vocabulary_size} is too small: it has {UNKNOWN} and one word at least"
            )
        counts = collections.Counter[str]()
        for text in texts:
            counts.update(_split_words(text, lowercase))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((UNKNOWN, *ranked[: vocabulary_size - 1]), lowercase)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The words, the first of which stands for all others."""
        return self.words

    def encode(self, text: str) -> Ids:
        """Gives a token for each word, punctuation mark and end of line."""
        return np.array([self.numbers.get(word, 0) for word in _split_words(text, self.lowercase)], np.int32)

    def parts(self, text: str) -> list[str]:
        """Gives the part of a text that each of its tokens stands for."""
        parts, tokens = (_split_words(text, lowercase) for lowercase in (False, self.lowercase))
        # There are letters that are another number of characters in lower case.
        return parts if len(parts) == len(tokens) else tokens

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Gives the words with spaces between them, but none before punctuation marks and at the ends of lines."""
        text = " ".join(self.words[number] for number in ids)
        text = re.sub(r" ?\n ?", "\n", text)
        return re.sub(rf" ([{_CLOSING}])", r"\1", re.sub(rf"([{_OPENING}]) ", r"\1", text))

    def describe(self) -> dict[str, Any]:
        """The words, and whether case is left out."""
        return {"words": list(self.words), "lowercase": self.lowercase}


def _split_words(text: str, lowercase: bool) -> list[str]:
    return _WORDS.findall(text.lower() if lowercase else text)


def end_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Gives the token that ends texts, where the tokenizer has one."""
    if isinstance(tokenizer, Subwords | SentencePieces) and tokenizer.special.end is not None:
        return (tokenizer.special_id("end"),)
    return ()


def unknown_token(tokenizer: Tokenizer) -> int | None:
    """Gives the token that stands for what has none, where the tokenizer has one; to those of bytes all is known."""
    if isinstance(tokenizer, Words):
        return 0
    if isinstance(tokenizer, Subwords | SentencePieces) and tokenizer.special.unknown is not None:
        return tokenizer.special_id("unknown")
    return None


KINDS: dict[str, type] = {
    "characters": Characters,
    "bytes": Bytes,
    "words": Words,
    **dict.fromkeys(TRAINED, Subwords),
}
# And those that are made by name, or come from files of others.
_KEPT: dict[str, type] = {**KINDS, **dict.fromkeys(MODELS, Subwords), "sentencepiece": SentencePieces}


def to_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Gives a tokenizer as JSON, with its kind and the version of the format."""
    if isinstance(tokenizer, Subwords):
        kind = tokenizer.model
    else:
        kind = next(name for name, made in _KEPT.items() if isinstance(tokenizer, made))
    return {"format_version": _FORMAT_VERSION, "kind": kind, **tokenizer.describe()}


def digest(tokenizer: Tokenizer) -> str:
    """Gives a fingerprint of a tokenizer: weights belong to the one that they were trained with."""
    written = json.dumps(to_json(tokenizer), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Writes a tokenizer to a JSON file."""
    write_json(path, to_json(tokenizer))


def load(path: Path, expected_digest: str | None = None) -> Tokenizer:
    """Reads a tokenizer from a JSON file.

    Args:
        path: of the file.
        expected_digest: of the tokenizer that it must be.

    Raises:
        JaxgenError: where the file is missing or damaged, or holds another tokenizer.
    """
    if not path.exists():
        raise JaxgenError(f"{shown(path)} is missing: without it the tokens mean nothing")
    told = read_json(path)
    try:
        version = told.pop("format_version")
        tokenizer = _rebuild(told) if version == _FORMAT_VERSION else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise JaxgenError(f"{shown(path)} is damaged ({type(error).__name__}): restore it") from error
    if tokenizer is None:
        raise JaxgenError(
            f"{shown(path)} has format {version}, this jaxgen reads {_FORMAT_VERSION}: update jaxgen"
        )
    if expected_digest is not None and digest(tokenizer) != expected_digest:
        raise JaxgenError(
            f"{shown(path)} is not the tokenizer that the weights were trained with: restore that one"
        )
    return tokenizer


def _rebuild(told: dict[str, Any]) -> Tokenizer:
    kind = told.pop("kind")
    if kind == "words":
        return Words(tuple(told["words"]), told["lowercase"])
    special = SpecialTokens.of(told.pop("special", {}))
    if _KEPT[kind] is Subwords:
        return Subwords(json.dumps(told["serialised"]), kind, special)
    if _KEPT[kind] is SentencePieces:
        return SentencePieces(told["serialised"], special)
    return KINDS[kind](**told)
