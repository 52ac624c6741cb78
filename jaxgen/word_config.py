"""The options of experiments with word vectors, and how a corpus is read for them."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from jaxgen.data.cooccurrence import cooccurrence_source
from jaxgen.data.corpus import read_corpus
from jaxgen.data.sources import Source
from jaxgen.data.word_blocks import BlockFormat, word_source
from jaxgen.data.word_parts import NgramFormat
from jaxgen.errors import UsageError
from jaxgen.experiment import TrainConfig

# A step of GloVe has few operations: of 16,384 pairs it makes eight times as many a second as of 512.
_PAIRS_PER_WORD = 32
_OF_PAIRS = ("skipgram", "cbow", "fasttext")
# Options that are of no meaning to other methods.
_ONLY = {
    "x_max": ("glove",),
    "ngrams": ("fasttext",),
    "buckets": ("fasttext",),
    **dict.fromkeys(("negatives", "subsample", "schedule", "final_fraction", "optimizer"), _OF_PAIRS),
}


@dataclass(frozen=True, kw_only=True)
class WordConfig(TrainConfig):
    """The options of word vectors."""

    method: Literal["skipgram", "cbow", "glove", "fasttext"] = "skipgram"
    """What learns: skipgram, words that foretell their context; cbow, contexts that foretell their word; glove, words
    whose products tell how often they stand near each other; or fasttext, skip-gram of words and their n-grams."""
    data: str = "pydocs"
    """The corpus: pydocs, docstring_text or pycode (no network), a tfds set of text, or the path of a file or directory
    of files, also with .gz, with a sentence a line and spaces between words."""
    sentences: Literal["auto", "lines", "prose"] = "auto"
    """What sentences are: lines, with words between spaces; or what is found in prose, put into lower case and without
    punctuation. By default lines of files, prose of sets."""
    encoding: str = "utf-8"
    """The encoding of files."""
    dim: int = 100
    """Size of the vectors."""
    window: int = 5
    """Words on either side that are a word's context; how many are is drawn from 1 to this, but for glove all are."""
    min_count: int = 5
    """Words that occur more seldom are left out."""
    subsample: float = 1e-3
    """Drop words at random that are more frequent than this, as a part of the text; 0 for none."""
    x_max: float = 100.0
    """For glove: counts from which on pairs have the full weight."""
    negatives: int = 5
    """Negatives that each pair is told from."""
    ngrams: tuple[int, int] = (3, 6)
    """For fasttext: characters of a word's n-grams, the least and the most, with < and > around the word."""
    buckets: int = 2_000_000
    """For fasttext: vectors that the n-grams are hashed into."""
    block_size: int | None = None
    """Words of a block. By default 256; 512 for cbow, and 128 for fasttext, whose words share their n-grams."""
    epochs: int = 5
    """Length of the run, in passes over the corpus."""
    batch_size: int = 2
    """Blocks a step, over all devices; the gradients of their words add up. For glove 32 pairs for each of their words.
    """
    optimizer: str = "sgd"
    """Plain gradient descent, sgd, and no other; glove has AdaGrad."""
    learning_rate: float | None = None
    """Learning rate of a pair of words at the beginning. By default 0.025; 0.05 for glove."""
    schedule: str = "linear"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise; glove's is constant."""
    final_fraction: float = 0.004
    """What cosine and linear come down to, as a part of the peak learning rate."""

    def settled(self) -> "WordConfig":
        """Gives the options with what the method has instead of the usual.

        Raises:
            UsageError: for options that mean nothing to the method.
        """
        for option in fields(self):
            methods = _ONLY.get(option.name, (self.method,))
            if self.method not in methods and getattr(self, option.name) != option.default:
                name = option.name.replace("_", "-")
                raise UsageError(
                    f"--{name} is for {' and '.join(methods)} alone, not for --method {self.method}"
                )
        block_size = self.block_size
        if block_size is None:
            block_size = {"cbow": 512, "fasttext": 128}.get(self.method, 256)
        rate = self.learning_rate
        if rate is None:
            rate = 0.05 if self.method == "glove" else 0.025
        if self.method != "glove":
            return replace(self, block_size=block_size, learning_rate=rate)
        return replace(
            self,
            block_size=block_size,
            learning_rate=rate,
            optimizer="adagrad",
            schedule="constant",
            batch_size=_PAIRS_PER_WORD * self.batch_size * block_size,
        )

    def within(self, examples: int) -> "WordConfig":
        """Gives the options for a set of so many examples: no step has more of them than there are."""
        return replace(self, batch_size=min(self.batch_size, examples))

    def block_format(self) -> BlockFormat:
        """Cuts a corpus into blocks."""
        assert self.block_size is not None  # settled
        ngrams = None
        if self.method == "fasttext":
            ngrams = NgramFormat(*self.ngrams, self.buckets)
        # The products of skip-gram grow with the words of a group, those of cbow hardly.
        group_size, negatives = (32, 20) if self.method == "cbow" else (16, 16)
        return BlockFormat(self.window, self.subsample, self.block_size, group_size, negatives, ngrams=ngrams)


def load_words(config: WordConfig, data_dir: Path | None) -> dict[str, Source]:
    """Reads the corpus to train on.

    Raises:
        UsageError: for options that can't be met, or words of which none occurs often enough.
        JaxgenError: where the corpus can't be had or read, or is too small.
    """
    if config.validation_fraction or config.until_converged:
        raise UsageError(
            "word vectors have no validation split: leave out --validation-fraction and --until-converged"
        )
    corpus = read_corpus(
        config.data,
        min_count=config.min_count,
        prose=None if config.sentences == "auto" else config.sentences == "prose",
        data_dir=data_dir,
        encoding=config.encoding,
    )
    if config.method == "glove":
        return {"train": cooccurrence_source(corpus, config.window)}
    return {"train": word_source(corpus, config.block_format(), config.seed)}
