"""The options of experiments with pairs of texts, of which the first is read and the second is written."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxgen.data.filters import PairLimits
from jaxgen.data.sources import Source
from jaxgen.data.subwords import SpecialTokens
from jaxgen.data.tokenizers import digest
from jaxgen.errors import UsageError
from jaxgen.experiment import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PairsConfig(TrainConfig):
    """The options of models that write a text for a text."""

    special: ClassVar[SpecialTokens] = SpecialTokens(pad="<pad>", end="</s>")
    """Tokens that are no text. The decoder begins with the one that fills rows up, as T5 does."""

    data: str = "dates"
    """The pairs: dates, number_words, reversal, copying, sorting or docstrings (no network), a TSV, or a directory with
    train.tsv and perhaps validation.tsv and test.tsv, or with files of two languages, such as train.en and train.es."""
    columns: tuple[str, ...] = ()
    """What is read and what is written: two columns of tables, by number or name, or languages of parallel files."""
    encoding: str = "utf-8"
    """The encoding of files."""
    tokenizer: Literal["bpe", "unigram"] = "bpe"
    """What a token is: a piece of words, by byte-pair encoding or the unigram model."""
    vocabulary_size: int = 4000
    """Tokens at most, of both texts; with 260 a token is about a byte."""
    vocabularies: Literal["joint", "separate"] = "joint"
    """Whether the texts to read and to write have one vocabulary, made of both, or one each, of this size."""
    sequence_length: int | None = None
    """Tokens of a text to read, at most: longer ones aren't trained on, and cut off where they are evaluated. By
    default the longest one's."""
    target_length: int | None = None
    """The same of a text to write."""
    cut_off: bool = False
    """Train on longer texts to read as well, cut off at their end."""
    most_ratio: float | None = None
    """Pairs to train on have at most this ratio of the longer text's tokens to the shorter one's."""
    batch_tokens: int = 4000
    """Tokens of a batch, at most, read and written, padding among them."""
    most_buckets: int = 16
    """Shapes of batches, at most: more of them have less padding, and take longer to compile."""
    epochs: int = 10
    """Length of the run, in passes over the pairs to train on."""
    scored_by: Literal["bleu", "rouge", "exact"] = "bleu"
    """What the texts that are written are scored by, and so which state is the best."""
    label_smoothing: float = 0.1
    """Part of each label that is spread evenly over the vocabulary."""
    embedding_size: int = 256
    """Of each token's vector."""
    num_layers: int = 1
    """Of the encoder, and of the decoder."""
    dropout: float = 0.1
    """Part of the embeddings, and of the outputs of layers, that is dropped in training."""

    def check(self, usual: "PairsConfig") -> None:
        """Refuses options that have no part in the run, where they aren't what is usual, and what can't be together.

        Args:
            usual: the options where none is given.

        Raises:
            UsageError: for the first of them.
        """
        for name, why in self.without_part().items():
            if getattr(self, name) != getattr(usual, name):
                raise UsageError(f"--{name.replace('_', '-')} is for {why}")

    def without_part(self) -> dict[str, str]:
        """Gives the options that have no part in the run, and what they are for."""
        splits = "sets of examples: pairs have their own splits, train, validation and test"
        return {
            "validation_fraction": "sets of examples: pairs have a validation split in any case",
            "train_split": splits,
            "test_split": splits,
            "batch_size": "examples of one length: batches of pairs have as many as --batch-tokens has room for",
        }

    def limits(self) -> PairLimits:
        """Gives what pairs must be to be trained on, lengths in tokens, special ones left out."""
        most_read, most_written = (
            None if length is None else length - 1 for length in (self.sequence_length, self.target_length)
        )
        return PairLimits(
            most_read=None if self.cut_off else most_read,
            most_written=most_written,
            most_ratio=self.most_ratio,
        )

    def vocabulary_sizes(self, train: Source) -> dict[str, Any]:
        """Gives the fields of models that tell how many tokens there are."""
        given = train.text
        separate = given.target_tokenizer is not None
        return {
            "vocabulary_size": train.num_classes,
            "source_vocabulary_size": len(given.tokenizer.vocabulary) if separate else None,
        }

    def told(self, train: Source) -> dict[str, Any]:
        """Gives the fields of a `SequenceToSequence` but for its model."""
        given = train.text
        return {
            "start_token": given.writing_tokenizer.special_id("pad"),
            "label_smoothing": self.label_smoothing,
            "tokenizer": digest(given.tokenizer),
            "target_tokenizer": digest(given.target_tokenizer) if given.target_tokenizer else "",
            "scored_by": self.scored_by,
        }


@dataclass(frozen=True, kw_only=True)
class RecurrentPairsConfig(PairsConfig):
    """The options of recurrent ones."""

    cell: Literal["elman", "gru", "lstm"] = "lstm"
    """What carries the state from token to token."""
    hidden_size: int = 256
    """Units of the decoder's layers, and of the encoder's in each direction."""
    attention: Literal["additive", "dot", "none"] = "additive"
    """How it is told where to look: Bahdanau's score, Luong's, or not at all."""
    input_feeding: bool = True
    """Feed what attention found to the next step, as Luong does; without it is faster."""

    def recurrent(self) -> dict[str, Any]:
        """Gives the fields of a `RecurrentEncoderDecoder` but for its vocabularies."""
        names = ("embedding_size", "hidden_size", "cell", "num_layers", "input_feeding", "dropout")
        return {**{name: getattr(self, name) for name in names}, "attention_kind": self.attention}
