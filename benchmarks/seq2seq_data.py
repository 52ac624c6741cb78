"""The pairs of texts that `benchmarks.seq2seq` trains on and translates: made up, or those of a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.buckets import choose_buckets
from jaxgen.data.sequences import EncodedRow, Row, SequenceFormat, Table
from jaxgen.data.sources import Source

VOCABULARY = 4000
END, LONGEST, BATCH_TOKENS = 1, 64, 4000
_PAIRS = 20_000
_TO_TRANSLATE = 128

Pairs = list[tuple[np.ndarray, np.ndarray]]


def make_up() -> Pairs:
    """Draws pairs that are as long as the verses of a Bible in sub-words, of tokens as unequally frequent as theirs."""
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, VOCABULARY - END)
    both = np.exp(3.48 + 0.4 * random.normal(size=(_PAIRS, 1)) + 0.1 * random.normal(size=(_PAIRS, 2)))
    lengths = both.astype(int)[both.max(axis=1) < LONGEST]
    tokens = END + 1 + random.choice(len(shares), lengths.sum(), p=shares / shares.sum())
    texts = np.split(tokens.astype(np.int32), lengths.ravel().cumsum()[:-1])
    return list(zip(texts[::2], texts[1::2], strict=True))


def read(data: str, columns: tuple[str, ...]) -> Pairs:
    """Reads pairs of a file as sub-words."""
    from jaxgen.data import tables
    from jaxgen.data.subwords import SpecialTokens, Subwords

    rows = tables.read(data, labelled=False, columns=columns).splits["train"][:_PAIRS]
    texts = [text for row in rows for text in (row.text, row.other)]
    tokenizer = Subwords.train(texts, VOCABULARY, "bpe", SpecialTokens(pad="<pad>", end="</s>"))
    encoded = [tokenizer.encode(text) for text in texts]
    pairs = zip(encoded[::2], encoded[1::2], strict=True)
    return [pair for pair in pairs if max(map(len, pair)) < LONGEST]


def save(pairs: Pairs, file: Path) -> None:
    """Saves pairs, and the buckets that they are trained on in, for the contenders."""
    lengths = np.array([[len(text) for text in pair] for pair in pairs])
    shapes = choose_buckets(lengths[_TO_TRANSLATE:] + 1, BATCH_TOKENS, (LONGEST, LONGEST))
    flat = np.concatenate([text for pair in pairs for text in pair])
    np.savez(file, flat=flat, lengths=lengths, shapes=np.array(shapes))


@dataclass(frozen=True)
class Loaded:
    """What a contender is given.

    Attributes:
        source: to train on, in buckets.
        to_translate: sources, from the shortest to the longest.
    """

    source: Source
    to_translate: list[np.ndarray]


def load(file: str) -> Loaded:
    """Loads what was saved; the first pairs are to be translated, the others to be trained on."""
    from jaxgen.data.buckets import Bucket
    from jaxgen.data.tokenizers import Words

    with np.load(file) as stored:
        lengths, shapes = stored["lengths"], stored["shapes"]
        texts = np.split(stored["flat"], lengths.ravel().cumsum()[:-1])
    words: Any = Words(tuple(f"w{number}" for number in range(VOCABULARY)))
    given = SequenceFormat(
        words, LONGEST, LONGEST, last=(END,), buckets=tuple(Bucket(*map(int, shape)) for shape in shapes)
    )
    encoded = [EncodedRow(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)][_TO_TRANSLATE:]
    table = Table("pairs", {"train": [Row("", "", "")] * len(encoded)}, (), "1")
    ended = [given.row_of(text, "") for text in texts[: 2 * _TO_TRANSLATE : 2]]
    return Loaded(table.source("train", given, encoded), sorted(ended, key=len))
