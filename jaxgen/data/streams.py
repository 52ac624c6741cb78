"""Streams: a text cut into rows that are read side by side, so that a recurrent state goes on from batch to batch."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from jaxgen.data import tokenizers
from jaxgen.data.sources import Rows, Source
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.errors import JaxgenError, UsageError, shown, unknown

# Streams of a text to evaluate on: each begins without context, so they are few, and always as many.
EVALUATION_STREAMS = 16


@dataclass(frozen=True)
class TextFormat:
    """How a text is made into examples.

    Attributes:
        tokenizer: from characters to tokens.
        sequence_length: tokens of an example, over which gradients go back.
        streams: parts of the text that are read side by side: example i is followed by example i + streams.
        document_starts: whether examples tell where documents start.
        encoding: of files.
    """

    tokenizer: Tokenizer = field(repr=False)
    sequence_length: int
    streams: int
    document_starts: bool = False
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        """Refuses what can't be."""
        if self.sequence_length < 1 or self.streams < 1:
            raise UsageError("sequence length and batch size must be at least 1")


def make_tokenizer(kind: str, texts: Iterable[Text], vocabulary_size: int, lowercase: bool) -> Tokenizer:
    """Makes a tokenizer of the training text; of characters, from all texts: an alphabet gives nothing away.

    Args:
        kind: `characters`, `bytes`, `words`, `bpe` or `unigram`.
        texts: the training text first.
        vocabulary_size: tokens at most, of words and subwords.
        lowercase: whether words lose their case.

    Raises:
        UsageError: for an unknown kind, or a vocabulary that is too small.
    """
    if kind not in tokenizers.KINDS:
        raise unknown("tokenizer", kind, tokenizers.KINDS)
    first, *others = texts
    if not any(first.documents):
        raise JaxgenError(f"{shown(first.name)} has no text in {first.split}: take a longer one")
    if kind == "words":
        return tokenizers.Words.train(first.documents, vocabulary_size, lowercase)
    if kind in ("bpe", "unigram"):
        return tokenizers.Subwords.train(first.documents, vocabulary_size, kind)
    documents = (document for text in (first, *others) for document in text.documents)
    kinds: dict[str, Any] = tokenizers.KINDS
    return kinds[kind].train(documents)


def training_streams(text: Text, given: TextFormat) -> Source:
    """Cuts a text into streams of whole examples, and drops what is left at the end.

    An example is `tokens` and `labels` int32 [sequence_length], each label the token after; `stream_start`, whether a
    stream begins with it; `document_start` bool [sequence_length], if asked for; and `characters` float32, how many
    its labels stand for on average.

    Raises:
        JaxgenError: for a text that has no whole example for each stream.
    """
    tokens, starts = _encode(text, given)
    steps = (len(tokens) - 1) // (given.streams * given.sequence_length)
    if steps < 1:
        raise JaxgenError(
            f"{shown(text.name)} has {len(tokens):,} tokens to {text.split} on, fewer than a batch of {given.streams} "
            f"sequences of {given.sequence_length}: take a longer text, or a smaller --batch-size or --sequence-length"
        )
    return _source(text, given, _Windows(tokens, starts, given, steps * given.sequence_length, len(text)))


def evaluation_streams(text: Text, given: TextFormat) -> Source:
    """Cuts a text into 16 streams that hold every token; where an example has none left, labels are -1: not counted.

    Raises:
        JaxgenError: for a text of fewer than two tokens.
    """
    given = replace(given, streams=EVALUATION_STREAMS)
    tokens, starts = _encode(text, given)
    if len(tokens) < 2:
        raise JaxgenError(f"{shown(text.name)} has no text to evaluate on in {text.split}: take a longer one")
    return _source(
        text, given, _Windows(tokens, starts, given, -(-(len(tokens) - 1) // given.streams), len(text))
    )


def tokens_of(source: Source) -> Int32[np.ndarray, " tokens"]:
    """Gives the whole text of a source that was made here."""
    assert isinstance(source.reader, _Windows)
    return source.reader.tokens


def _source(text: Text, given: TextFormat, reader: "_Windows") -> Source:
    return Source(
        text.name,
        text.split,
        reader,
        num_classes=len(given.tokenizer.vocabulary),
        shape=(given.sequence_length,),
        version=text.version,
        text=given,
    )


def _encode(text: Text, given: TextFormat) -> tuple[Int32[np.ndarray, " tokens"], Any]:
    encoded = [given.tokenizer.encode(document) for document in text.documents]
    if not encoded:
        return np.zeros(0, np.int32), None
    tokens = np.concatenate(encoded)
    if not given.document_starts:
        return tokens, None
    starts = np.zeros(len(tokens), bool)
    begins = np.cumsum([0, *map(len, encoded[:-1])])
    starts[begins[begins < len(tokens)]] = True
    return tokens, starts


@dataclass(frozen=True)
class _Windows:
    """A reader of examples that are windows of streams.

    Attributes:
        tokens: the whole text.
        starts: where documents start, or None.
        given: its format.
        length: labels of a stream; the last window of each may lack some.
        characters: of the whole text.
    """

    tokens: Int32[np.ndarray, " tokens"]
    starts: Bool[np.ndarray, " tokens"] | None
    given: TextFormat
    length: int
    characters: int

    def __len__(self) -> int:
        return -(-self.length // self.given.sequence_length) * self.given.streams

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads examples by index."""
        window, stream = np.divmod(rows, self.given.streams)
        within = window[:, None] * self.given.sequence_length + np.arange(self.given.sequence_length)
        places = stream[:, None] * self.length + within
        there = (within < self.length) & (places < len(self.tokens) - 1)
        places = np.minimum(places, len(self.tokens) - 2)
        # What a document begins with can't be foreseen from the one before.
        counts = there if self.starts is None else there & ~self.starts[places + 1]
        counted = counts.sum(axis=1) * (self.characters / len(self.tokens))
        examples = {
            "tokens": np.where(there, self.tokens[places], 0),
            "labels": np.where(counts, self.tokens[places + 1], -1),
            "stream_start": window == 0,
            "characters": counted.astype(np.float32),
        }
        if self.starts is not None:
            examples["document_start"] = there & self.starts[places]
        return examples
