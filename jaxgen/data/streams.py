"""Streams: a text cut into rows that are read side by side, so that a recurrent state goes on from batch to batch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32, Integer

from jaxgen.data import tokenizers
from jaxgen.data.sources import Reader, Rows, Source
from jaxgen.data.subwords import BERT_TOKENS, TRAINED, SpecialTokens
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.errors import JaxgenError, UsageError, shown, unknown

# Streams of a text to evaluate on: each begins without context, so they are few, and always as many.
EVALUATION_STREAMS = 16
_NO_SPECIAL = SpecialTokens()


@dataclass(frozen=True)
class TextFormat:
    """How a text is made into examples.

    Attributes:
        tokenizer: from characters to tokens.
        sequence_length: tokens of an example, over which gradients go back.
        streams: parts of the text that are read side by side: example i is followed by example i + streams; 0 for
            windows (`jaxgen.data.windows`), which go on from nothing.
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
        if self.sequence_length < 1 or self.streams < 0:
            raise UsageError("sequence length and batch size must be at least 1")


def make_tokenizer(
    kind: str,
    texts: Iterable[Text],
    vocabulary_size: int,
    lowercase: bool,
    special: SpecialTokens = _NO_SPECIAL,
) -> Tokenizer:
    """Makes a tokenizer of the training text; of characters, from all texts: an alphabet gives nothing away.

    Args:
        kind: `characters`, `bytes`, `words`, `bpe`, `unigram` or `wordpiece`.
        texts: the training text first.
        vocabulary_size: tokens at most, of words and subwords.
        lowercase: whether words and word pieces lose their case.
        special: tokens that are no text, of subwords; word pieces have `[UNK]` in any case.

    Raises:
        UsageError: for an unknown kind, a vocabulary that is too small, or special tokens of a kind that has none.
    """
    if kind not in tokenizers.KINDS:
        raise unknown("tokenizer", kind, tokenizers.KINDS)
    if special.names and kind not in TRAINED:
        raise UsageError(
            f"a tokenizer of {kind} has no special tokens, such as {special.names[0]}: take {', '.join(TRAINED)}"
        )
    first, *others = texts
    if not any(first.documents):
        raise JaxgenError(f"{shown(first.name)} has no text in {first.split}: take a longer one")
    if kind == "words":
        return tokenizers.Words.train(first.documents, vocabulary_size, lowercase)
    if kind == "wordpiece":
        special = replace(special, unknown=special.unknown or BERT_TOKENS.unknown)
        return tokenizers.Subwords.train_word_pieces(first.documents, vocabulary_size, special, lowercase)
    if kind in TRAINED:
        return tokenizers.Subwords.train(first.documents, vocabulary_size, kind, special)
    documents = (document for text in (first, *others) for document in text.documents)
    kinds: dict[str, Any] = tokenizers.KINDS
    return kinds[kind].train(documents)


@dataclass(frozen=True)
class EncodedText:
    """A text as tokens, one document after the other.

    Attributes:
        tokens: the whole text.
        starts: where documents start.
        characters: that a token stands for on average.
        tells_starts: whether examples tell where documents start, and no label is the first token of one.
    """

    tokens: Int32[np.ndarray, " tokens"]
    starts: Bool[np.ndarray, " tokens"]
    characters: float
    tells_starts: bool

    @classmethod
    def of(cls, text: Text, tokenizer: Tokenizer, tells_starts: bool = False) -> "EncodedText":
        """Encodes a text."""
        documents = [tokenizer.encode(document) for document in text.documents]
        tokens = np.concatenate([np.zeros(0, np.int32), *documents])
        begins = np.cumsum([0, *map(len, documents)])
        starts = np.zeros(len(tokens), bool)
        starts[begins[begins < len(tokens)]] = True
        return cls(tokens, starts, len(text) / max(1, len(tokens)), tells_starts)

    def examples(
        self, places: Integer[np.ndarray, "rows time"], there: Bool[np.ndarray, "rows time"]
    ) -> dict[str, np.ndarray]:
        """Gives rows of tokens, each with the one after it as its label.

        Args:
            places: where each token stands in the text.
            there: which of them are there; the others are 0, and have no label (-1).

        Returns:
            `tokens` and `labels` int32 [rows, time]; `characters` float32 [rows], how many the labels of a row stand
            for on average; `document_start` bool [rows, time], if it is told.
        """
        return make_examples(self.arrays(places.shape[1]), places, there, np)

    def arrays(self, length: int) -> dict[str, np.ndarray]:
        """Gives what `make_examples` needs for examples of a length: of the text itself, no copies."""
        counted = (np.arange(length + 1) * self.characters).astype(np.float32)
        arrays = {"tokens": self.tokens, "characters": counted}
        return {**arrays, "starts": self.starts} if self.tells_starts else arrays


def make_examples(arrays: Mapping[str, Any], places: Any, there: Any, numpy: Any) -> dict[str, Any]:
    """Does what `EncodedText.examples` does, from the text's `arrays`, with NumPy or with what stands in for it.

    How many characters labels stand for is looked up, for a product would be rounded otherwise on a device.
    """
    tokens, starts = arrays["tokens"], arrays.get("starts")
    places = numpy.minimum(places, len(tokens) - 2)
    # What a document begins with can't be foreseen from the one before.
    counts = there if starts is None else there & ~starts[places + 1]
    examples = {
        "tokens": numpy.where(there, tokens[places], 0),
        "labels": numpy.where(counts, tokens[places + 1], -1),
        "characters": arrays["characters"][counts.sum(axis=1)],
    }
    return examples if starts is None else {**examples, "document_start": there & starts[places]}


def training_streams(text: Text, given: TextFormat) -> Source:
    """Cuts a text into streams of whole examples, and drops what is left at the end.

    An example is `tokens` and `labels` int32 [sequence_length], each label the token after; `stream_start`, whether a
    stream begins with it; `document_start` bool [sequence_length], if asked for; and `characters` float32, how many
    its labels stand for on average.

    Raises:
        UsageError: for no streams.
        JaxgenError: for a text that has no whole example for each stream.
    """
    if given.streams < 1:
        raise UsageError("the batch size must be at least 1")
    encoded = EncodedText.of(text, given.tokenizer, given.document_starts)
    steps = (len(encoded.tokens) - 1) // (given.streams * given.sequence_length)
    if steps < 1:
        raise JaxgenError(
            f"{shown(text.name)} has {len(encoded.tokens):,} tokens to {text.split} on, fewer than a batch of "
            f"{given.streams} sequences of {given.sequence_length}: take a longer text, or a smaller --batch-size or "
            "--sequence-length"
        )
    return text_source(text, given, _Streams(encoded, given, steps * given.sequence_length))


def evaluation_streams(text: Text, given: TextFormat) -> Source:
    """Cuts a text into 16 streams that hold every token; where an example has none left, labels are -1: not counted.

    Raises:
        JaxgenError: for a text of fewer than two tokens.
    """
    given = replace(given, streams=EVALUATION_STREAMS)
    encoded = encoded_to_evaluate(text, given.tokenizer, given.document_starts)
    return text_source(text, given, _Streams(encoded, given, -(-(len(encoded.tokens) - 1) // given.streams)))


def encoded_to_evaluate(text: Text, tokenizer: Tokenizer, tells_starts: bool = False) -> EncodedText:
    """Encodes a text; raises JaxgenError where there is nothing to foresee in it."""
    encoded = EncodedText.of(text, tokenizer, tells_starts)
    if len(encoded.tokens) < 2:
        raise JaxgenError(f"{shown(text.name)} has no text to evaluate on in {text.split}: take a longer one")
    return encoded


def tokens_of(source: Source) -> Int32[np.ndarray, " tokens"]:
    """Gives the whole text of a source that was cut from one."""
    assert isinstance(source.reader, TextReader)
    return source.reader.text.tokens


def text_source(text: Text, given: TextFormat, reader: "TextReader") -> Source:
    """Makes the source of a text's examples."""
    return Source(
        text.name,
        text.split,
        reader,
        num_classes=len(given.tokenizer.vocabulary),
        shape=(given.sequence_length,),
        version=text.version,
        text=given,
    )


@runtime_checkable
class TextReader(Reader, Protocol):
    """A reader of examples that are cut from a text."""

    @property
    def text(self) -> EncodedText:
        """The whole text."""
        ...


@dataclass(frozen=True)
class _Streams:
    """A reader of examples that are windows of streams.

    Attributes:
        text: the whole text.
        given: its format.
        length: labels of a stream; the last window of each may lack some.
    """

    text: EncodedText
    given: TextFormat
    length: int

    def __len__(self) -> int:
        return -(-self.length // self.given.sequence_length) * self.given.streams

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads examples by index."""
        window, stream = np.divmod(rows, self.given.streams)
        within = window[:, None] * self.given.sequence_length + np.arange(self.given.sequence_length)
        places = stream[:, None] * self.length + within
        there = (within < self.length) & (places < len(self.text.tokens) - 1)
        return {**self.text.examples(places, there), "stream_start": window == 0}
