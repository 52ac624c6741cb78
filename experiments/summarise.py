"""Summaries: an LSTM with attention that may copy words of what it reads, the pointer-generator.

python -m experiments.summarise                            # docstrings of Python, to their first lines: no network
python -m experiments.summarise --data DIR                 # DIR/train.tsv, valid.tsv, test.tsv: text TAB summary
python -m experiments.summarise --data DIR --copy          # may copy
jaxgen predict runs/summarise/DATE-TIME "A text to be summed up."
jaxgen evaluate runs/summarise/DATE-TIME --split test      # ROUGE
"""

from dataclasses import dataclass
from typing import Literal

from jaxgen.data import Source, docstrings
from jaxgen.errors import UsageError
from jaxgen.experiment import Experiment
from jaxgen.models import RecurrentEncoderDecoder
from jaxgen.pairs_config import PairsConfig, RecurrentPairsConfig
from jaxgen.run import main
from jaxgen.tasks import SequenceToSequence
from jaxgen.text_scores import rouge
from jaxgen.text_to_text import texts_of


@dataclass(frozen=True, kw_only=True)
class Config(RecurrentPairsConfig):
    """A recurrent encoder-decoder from texts to summaries."""

    data: str = "docstrings"
    """The pairs: docstrings (no network), a TSV, text TAB summary, or a directory with train.tsv and perhaps
    validation.tsv and test.tsv, or with files of two kinds, such as train.text and train.summary."""
    copy: bool = False
    """Let it copy words of the text, too: the pointer-generator."""
    vocabulary_size: int = 8000
    """Tokens at most, of both texts; with 260 a token is about a byte."""
    sequence_length: int | None = 100
    """Tokens of a text to read, at most; longer ones are cut off, or with --no-cut-off not trained on."""
    cut_off: bool = True
    """Train on longer texts to read as well, cut off at their end."""
    scored_by: Literal["bleu", "rouge", "exact"] = "rouge"
    """What the texts that are written are scored by, and so which state is the best."""
    label_smoothing: float = 0.0
    """Part of each label that is spread evenly over the vocabulary; not where it copies."""
    embedding_size: int = 128
    """Of each token's vector."""
    learning_rate: float | None = 2e-3
    """Peak of the learning rate."""
    schedule: str = "linear"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise."""
    warmup_steps: int = 300
    """Steps over which the learning rate rises from 0 to its peak."""
    clip_norm: float | None = 1.0
    """Clip gradients to this global norm."""

    def check(self, usual: PairsConfig) -> None:
        """Refuses what can't be, beside others what can't be copied by."""
        super().check(usual)
        for is_given, option, why in (
            (
                self.vocabularies == "separate",
                "--vocabularies separate",
                "needs one vocabulary of both texts",
            ),
            (self.attention == "none", "--attention none", "takes what attention looks at"),
            (self.label_smoothing, "--label-smoothing", "has its own loss, without smoothing"),
        ):
            if self.copy and is_given:
                raise UsageError(f"--copy {why}: leave out {option}")


def make_task(config: Config, train: Source) -> SequenceToSequence:
    """Makes the task for pairs of texts: their tokens."""
    model = RecurrentEncoderDecoder(
        **config.vocabulary_sizes(train), **config.recurrent(), copies=config.copy
    )
    return SequenceToSequence(model, **config.told(train))


def lead(task: SequenceToSequence, train: Source, test: Source) -> dict[str, float]:
    """Gives ROUGE of the text's first words in the place of a summary: so many as are best on what is trained on."""
    some, all_ = texts_of(train, range(0, len(train), -(-len(train) // 1000))), texts_of(test)

    def score(pairs: tuple[list[str], list[str]], count: int) -> dict[str, float]:
        return rouge([docstrings.first_words(text, count) for text in pairs[0]], pairs[1])

    count = max(range(4, 31, 2), key=lambda count: score(some, count)["rougeL"])
    return {f"first_{count}_words/{name}": value for name, value in score(all_, count).items()}


EXPERIMENT = Experiment(
    name="summarise",
    config=Config,
    task=make_task,
    summary="LSTM with attention, and with --copy the pointer-generator",
    data="docstrings of Python (no network); any pairs of texts",
    time="4 min on 1 CPU core",
    reference="Debian packages: ROUGE-L 44.9 (the first 12 words: 27.6)",
    # Each shape takes as long to compile as some epochs of so few pairs.
    recipes={"docstrings": {"most_buckets": 3}},
    baselines=lead,
    smoke={"hidden_size": 16, "embedding_size": 16, "vocabulary_size": 500, "sequence_length": 30},
)

if __name__ == "__main__":
    main(EXPERIMENT)
