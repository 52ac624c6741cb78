"""Sequences: texts as rows of tokens with special ones around them, filled up to one length, and how long each is.

What encoders read (`tokens`, `lengths`), with what is to be foreseen: a class (`label`), another text (`labels`), or
nothing yet: `jaxgen.objectives` hides parts of them.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from jaxgen.data.buckets import MOST_BUCKETS, Bucket, Buckets, choose_buckets
from jaxgen.data.sentencepieces import SentencePieces
from jaxgen.data.sources import Rows, Source
from jaxgen.data.subwords import Subwords
from jaxgen.data.tokenizers import Ids, Tokenizer
from jaxgen.data.whole_words import WordParts, word_parts
from jaxgen.errors import UsageError

ANY_LENGTH = 2**30  # of a row: texts are as long as they are


@dataclass(frozen=True)
class SequenceFormat:
    """How texts are made into rows of tokens.

    Attributes:
        tokenizer: from characters to tokens, of texts to read.
        sequence_length: tokens of a row, special ones among them.
        target_length: tokens of a row of targets, of pairs of texts.
        first: special tokens before a text that is read, such as BERT's `[CLS]`.
        last: special tokens after a text, targets too, such as `[SEP]` or the end of the text.
        padding: the token that fills a row up.
        truncate: whether a text that is too long is cut off at its end; else it is refused.
        cut_off: whether texts to read were trained on that were cut off, so that any others are as well.
        encoding: of files.
        whole_words: whether rows tell which tokens go on a word, so that words are hidden as a whole.
        sentence_pairs: whether rows are pairs of sentences, see `jaxgen.data.sentence_pairs`.
        columns: of files with pairs of texts, those that are read and written, see `jaxgen.data.tables`.
        target_tokenizer: of texts to write, where that is another one.
        target_last: special tokens after a text to write, in the place of `last`, where its tokenizer is another one.
        buckets: the shapes of batches of pairs; none where all are as long as the longest pair.

    Raises:
        UsageError: when it is made, for lengths that leave no room for a token.
    """

    tokenizer: Tokenizer = field(repr=False)
    sequence_length: int
    target_length: int = 0
    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    padding: int = 0
    truncate: bool = False
    cut_off: bool = False
    encoding: str = "utf-8"
    whole_words: bool = False
    sentence_pairs: bool = False
    columns: tuple[str, ...] = ()
    target_tokenizer: Tokenizer | None = field(default=None, repr=False)
    target_last: tuple[int, ...] = ()
    buckets: tuple[Bucket, ...] = ()

    @classmethod
    def of(cls, tokenizer: Tokenizer, sequence_length: int, **others: Any) -> "SequenceFormat":
        """Makes the format that a tokenizer has special tokens for: BERT's, or T5's, or one without any."""
        first, last = _special(tokenizer, "cls"), _special(tokenizer, "sep", "end")
        padding = _special(tokenizer, "pad") or (0,)
        if others.get("target_tokenizer") is not None:
            others["target_last"] = _special(others["target_tokenizer"], "sep", "end")
        return cls(tokenizer, sequence_length, first=first, last=last, padding=padding[0], **others)

    def __post_init__(self) -> None:
        """Refuses what can't be."""
        if self.room < 1 or (self.target_length and self.target_length <= len(self.last_written)):
            raise UsageError(
                f"sequences of {self.sequence_length} tokens and targets of {self.target_length} have no room for a "
                f"text beside {len(self.first) + len(self.last)} special tokens: give a larger --sequence-length"
            )

    @property
    def room(self) -> int:
        """The tokens of a text that fit into a row."""
        return self.sequence_length - len(self.first) - len(self.last)

    @property
    def writing_tokenizer(self) -> Tokenizer:
        """The tokenizer of texts to write."""
        return self.tokenizer if self.target_tokenizer is None else self.target_tokenizer

    @property
    def last_written(self) -> tuple[int, ...]:
        """The special tokens after a text to write."""
        return self.last if self.target_tokenizer is None else self.target_last

    @property
    def streams(self) -> int:
        """None: rows are shuffled."""
        return 0

    @functools.cached_property
    def _word_parts(self) -> WordParts:
        return word_parts(self.tokenizer)

    def example(
        self, tokens: Int32[np.ndarray, "rows time"], lengths: np.ndarray, **others: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Gives rows of tokens, how long each is, what belongs to them, and `continues` if that is told."""
        words = {"continues": self._word_parts.continues(tokens)} if self.whole_words else {}
        return {"tokens": tokens, "lengths": lengths.astype(np.int32), **words, **others}

    def row(self, text: str, told: str) -> Ids:
        """Encodes a text to read; `told` says where it stands, for errors."""
        return self.row_of(_encode(self.tokenizer, text, told), told)

    def row_of(self, tokens: Int32[np.ndarray, " text"], told: str) -> Ids:
        """Makes the tokens of a text to read a row of theirs."""
        return self._around(tokens, told, (self.first, self.last), self.sequence_length)

    def target_of(self, tokens: Int32[np.ndarray, " text"], told: str) -> Ids:
        """Makes the tokens of a text to write a row of theirs."""
        return self._around(tokens, told, ((), self.last_written), self.target_length)

    def _around(
        self,
        tokens: Int32[np.ndarray, " text"],
        told: str,
        around: tuple[tuple[int, ...], tuple[int, ...]],
        length: int,
    ) -> Ids:
        first, last = around
        room = length - len(first) - len(last)
        if len(tokens) > room and not self.truncate:
            raise UsageError(
                f"{told}: the text has {len(tokens)} tokens, and there is room for {room}: give a larger length, or "
                "--truncate to cut it off"
            )
        return np.concatenate([np.array(part, np.int32) for part in (first, tokens[:room], last)])


def _special(tokenizer: Tokenizer, *roles: str) -> tuple[int, ...]:
    """Gives the special token that has the first of these roles that any has."""
    if not isinstance(tokenizer, Subwords | SentencePieces):
        return ()
    named = [role for role in roles if getattr(tokenizer.special, role)]
    return tuple(tokenizer.special_id(role) for role in named[:1])


def _encode(tokenizer: Tokenizer, text: str, told: str) -> Ids:
    try:
        return tokenizer.encode(text)
    except UsageError as error:
        raise UsageError(f"{told}: {error}") from error


class Row(NamedTuple):
    """A text to read, what belongs to it (the name of its class, or a text to write), and where it stands."""

    text: str
    other: str
    place: str


class EncodedRow(NamedTuple):
    """The tokens of a text to read, and of the text to write, None where there is a class; without special ones."""

    text: Ids
    other: Any


@dataclass(frozen=True)
class Table:
    """Texts with their classes, or with texts to write, by split.

    Attributes:
        name: of the set or file.
        splits: the rows of each.
        class_names: in order; empty where texts are to be written.
        version: of the set; of files, a digest of their contents.
        notes: what there is to say of lines of files that are no rows.
    """

    name: str
    splits: Mapping[str, Sequence[Row]] = field(repr=False)
    class_names: tuple[str, ...]
    version: str
    notes: tuple[str, ...] = ()

    def texts(self) -> list[str]:
        """Gives the texts to train on, those to write among them: what a tokenizer is made of."""
        return self.texts_to_read() + ([] if self.class_names else self.texts_to_write())

    def texts_to_read(self) -> list[str]:
        """Gives the texts to read of the rows to train on: what a tokenizer for them alone is made of."""
        return [row.text for row in self.splits["train"]]

    def texts_to_write(self) -> list[str]:
        """Gives the texts to write of the rows to train on: what a tokenizer for them alone is made of."""
        return [row.other for row in self.splits["train"]]

    def bucketed(
        self,
        given: SequenceFormat,
        batch_tokens: int,
        most_buckets: int = MOST_BUCKETS,
        encoded: Sequence[EncodedRow] | None = None,
    ) -> SequenceFormat:
        """Gives the format with buckets for the lengths of the rows to train on; see `jaxgen.data.buckets`.

        Args:
            given: how texts are made into rows.
            batch_tokens: the most tokens of a batch, read and written, padding among them.
            most_buckets: the most shapes of batches.
            encoded: what `encoded` has given for the rows to train on, if it has.

        Raises:
            UsageError: where a batch has no room for the longest pairs; and as `sources`.
        """
        texts, others = self._rows("train", given, encoded)
        lengths = _lengths(texts, others)
        longest = (given.sequence_length, given.target_length)
        return replace(given, buckets=choose_buckets(lengths, batch_tokens, longest, most=most_buckets))

    def uncut(self, split: str, given: SequenceFormat) -> Source:
        """Makes the source of one split of pairs without buckets, whose rows have room for the longest texts."""
        encoded = self.encoded(split, given.tokenizer, given.target_tokenizer)
        roomy = replace(
            given,
            sequence_length=max(len(row.text) for row in encoded) + len(given.first) + len(given.last),
            target_length=max(len(row.other) for row in encoded) + len(given.last_written),
            buckets=(),
        )
        return self.source(split, roomy, encoded)

    def encoded(
        self, split: str, tokenizer: Tokenizer, target_tokenizer: Tokenizer | None = None
    ) -> list[EncodedRow]:
        """Gives the tokens of a split's rows; raises UsageError for characters that a tokenizer doesn't know."""
        writing = target_tokenizer or tokenizer
        return [
            EncodedRow(
                _encode(tokenizer, row.text, row.place),
                None if self.class_names else _encode(writing, row.other, row.place),
            )
            for row in self.splits[split]
        ]

    def sources(
        self, given: SequenceFormat, encoded: Mapping[str, Sequence[EncodedRow]] | None = None
    ) -> dict[str, Source]:
        """Makes the source of each split, if need be of what `encoded` has given for each.

        An example is `tokens` int32 [sequence_length] and `lengths` int32, the tokens that aren't padding; with classes
        `label` int32; with texts to write `labels` int32 [target_length], filled up with -1; and `continues` bool
        [sequence_length] if whole words are asked for.

        Raises:
            UsageError: for a text that is too long; says where it stands.
        """
        return {split: self.source(split, given, (encoded or {}).get(split)) for split in self.splits}

    def source(
        self, split: str, given: SequenceFormat, encoded: Sequence[EncodedRow] | None = None
    ) -> Source:
        """Makes the source of one split; see `sources`."""
        texts, others = self._rows(split, given, encoded)
        return Source(
            self.name,
            split,
            _Rows(texts, given, others),
            num_classes=len(self.class_names or given.writing_tokenizer.vocabulary),
            class_names=self.class_names,
            shape=(given.sequence_length,),
            version=self.version,
            text=given,
            buckets=Buckets(given.buckets, _lengths(texts, others)) if given.buckets else None,
            rows=self.splits[split],
        )

    def _rows(
        self, split: str, given: SequenceFormat, encoded: Sequence[EncodedRow] | None
    ) -> "tuple[_Ragged, _Others]":
        if encoded is None:
            encoded = self.encoded(split, given.tokenizer, given.target_tokenizer)
        pairs = list(zip(self.splits[split], encoded, strict=True))
        texts = _Ragged.of([given.row_of(tokens.text, row.place) for row, tokens in pairs])
        if self.class_names:
            return texts, np.array([self.class_names.index(row.other) for row, _ in pairs], np.int32)
        return texts, _Ragged.of([given.target_of(tokens.other, row.place) for row, tokens in pairs])


@dataclass(frozen=True)
class _Ragged:
    """Rows of different lengths, one behind the other.

    Attributes:
        tokens: of all rows.
        bounds: where each begins, and the last one ends.
    """

    tokens: Ids
    bounds: Int64[np.ndarray, " bounds"]

    @classmethod
    def of(cls, rows: Sequence[np.ndarray]) -> "_Ragged":
        """Puts rows together, at least one."""
        return cls(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))

    def padded(
        self, rows: Rows, size: int, padding: int
    ) -> tuple[Int32[np.ndarray, "rows size"], np.ndarray]:
        """Gives rows filled up to a size, and their lengths."""
        lengths = self.bounds[rows + 1] - self.bounds[rows]
        places = np.minimum(self.bounds[rows][:, None] + np.arange(size), len(self.tokens) - 1)
        filled = np.where(np.arange(size) < lengths[:, None], self.tokens[places], padding)
        return filled.astype(np.int32), lengths.astype(np.int32)


_Others = Int32[np.ndarray, " rows"] | _Ragged


def _lengths(texts: _Ragged, others: _Others) -> Int64[np.ndarray, "rows 2"]:
    """Gives the tokens of each row to read and to write."""
    written = np.diff(others.bounds) if isinstance(others, _Ragged) else np.zeros_like(others, np.int64)
    return np.stack([np.diff(texts.bounds), written], axis=1)


@dataclass(frozen=True)
class _Rows:
    """A reader of texts with what belongs to them.

    Attributes:
        texts: to read.
        given: their format.
        others: classes, or texts to write.
    """

    texts: _Ragged
    given: SequenceFormat
    others: _Others

    def __len__(self) -> int:
        return len(self.texts.bounds) - 1

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads examples by index."""
        tokens, lengths = self.texts.padded(rows, self.given.sequence_length, self.given.padding)
        if isinstance(self.others, _Ragged):
            labels, _ = self.others.padded(rows, self.given.target_length, -1)
            return self.given.example(tokens, lengths, labels=labels)
        return self.given.example(tokens, lengths, label=self.others[rows])
