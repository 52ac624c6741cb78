"""T5 on the docstrings of Python's standard library: it learns from the text, then to write first lines. No network.

python -m experiments.docstrings_t5                          # spans, then first lines of docstrings
python -m experiments.docstrings_t5 --fine-tune pairs.tsv    # or your own pairs, a line `source TAB target` each
python -m experiments.docstrings_t5 --fine-tune None         # span corruption alone
jaxgen predict runs/docstrings_t5/DATE-TIME-text "Raises ValueError if the value is not present."
jaxgen fine-tune runs/docstrings_t5/DATE-TIME --data pairs.tsv --head text
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxgen.data import Source, docstrings, tables
from jaxgen.data.sequences import Row, Table
from jaxgen.data.tokenizers import digest
from jaxgen.experiment import Experiment
from jaxgen.fine_tune import fine_tune
from jaxgen.fine_tune_config import FineTuneConfig
from jaxgen.models import T5
from jaxgen.run import main
from jaxgen.run_directory import RunDirectory
from jaxgen.tasks import PrefixLanguageModelling, SpanCorruption
from jaxgen.text_config import T5TextConfig
from jaxgen.text_scores import rouge
from jaxgen.train.hooks import say


@dataclass(frozen=True, kw_only=True)
class Config(T5TextConfig):
    """A T5."""

    data: str = "docstring_text"
    """The text: docstring_text, pydocs or pycode (no network), a tfds set of text, or the path of a file or directory
    of files."""
    fine_tune: str | None = "docstrings"
    """A table of texts and what is to be written of them, to fine-tune on afterwards: docstrings (no network), or a
    TSV file."""
    corrupted_fraction: float = 0.5
    """Part of the tokens that is in lost spans, others at each step; more than the paper's 15 %, which teach less."""
    steps: int | None = 5000
    """Length of the run in steps; --steps None for that in epochs."""
    optimizer: str = "adafactor"
    """Any Optax optimiser by its Optax name (adafactor, adamw, lion, ...). Adafactor's steps are in proportion to
    parameters, as T5's embeddings need, which begin 50 times as large as those of other models."""
    learning_rate: float | None = 2e-2
    """Peak of the learning rate; of Adafactor in proportion to the parameters."""
    schedule: str = "linear"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise."""
    warmup_steps: int = 300
    """Steps over which the learning rate rises from 0 to its peak."""
    clip_norm: float | None = 1.0
    """Clip gradients to this global norm."""
    evaluate_every: int | None = 500
    """Steps between evaluations."""


def make_task(config: Config, train: Source) -> SpanCorruption | PrefixLanguageModelling:
    """Makes the task for a training text: its vocabulary, with sentinels."""
    if config.fine_tune is not None:  # what is wrong with it is to be told before hours of training
        tables.read(config.fine_tune, labelled=False, data_dir=config.data_dir, encoding=config.encoding)
    tokenizer = train.text.tokenizer
    model = T5(
        vocabulary_size=train.num_classes,
        head_size=config.embedding_size // max(1, config.num_heads),  # T5 refuses none
        feed_forward_size=config.feed_forward_size or 4 * config.embedding_size,
        **config.shared(),
    )
    told = {"start_token": tokenizer.special_id("pad"), "tokenizer": digest(tokenizer)}
    end_token = tokenizer.special_id("end")
    if config.objective == "prefix":
        return PrefixLanguageModelling(model, end_token=end_token, **told)
    return SpanCorruption(
        model,
        first_sentinel=int(tokenizer.sentinel_ids[0]),
        end_token=end_token,
        fraction=config.corrupted_fraction,
        span_length=config.span_length,
        **told,
    )


def fine_tune_afterwards(config: Config, directory: RunDirectory) -> None:
    """Fine-tunes the run to write texts for texts, into a directory beside it, and says what simple rules reach."""
    if config.fine_tune is None:
        return
    told = FineTuneConfig(data=config.fine_tune, head="text", truncate=True, sequence_length=128)
    fine_tune(
        directory.path, replace(told, data_dir=config.data_dir, encoding=config.encoding, seed=config.seed)
    )
    if config.fine_tune == "docstrings":
        for rule, score in rules(docstrings.read(config.data_dir)).items():
            say(f"{rule}: ROUGE-L {score:.2f}")


def rules(table: Table) -> dict[str, float]:
    """Gives ROUGE-L of simple rules on the test split: those that have a choice make it on the training split."""
    test, train = table.splits["test"], table.splits["train"]

    def score(rows: Sequence[Row], write: Callable[[Row], str]) -> float:
        return rouge([write(row) for row in rows], [row.other for row in rows])["rougeL"]

    def words(count: int) -> Callable[[Row], str]:
        return lambda row: docstrings.first_words(row.text, count)

    count = max(range(4, 25, 2), key=lambda count: score(train[::4], words(count)))
    constant = max((row.other for row in train[::40]), key=lambda text: score(train[1::20], lambda _: text))
    return {
        "the rest's first sentence": score(test, lambda row: docstrings.first_sentence(row.text)),
        f"the rest's first {count} words": score(test, words(count)),
        "the words of the name": score(test, lambda row: docstrings.name_in_words(row.place)),
        f"always {constant!r}": score(test, lambda _: constant),
    }


EXPERIMENT = Experiment(
    name="docstrings_t5",
    config=Config,
    task=make_task,
    summary="T5, span corruption, then first lines of docstrings",
    data="docstrings of Python's standard library (no network)",
    time="61 min and 10 min on 1 CPU core",
    reference="ROUGE-L of first lines 17.1 (the first 14 words: 18.0)",
    smoke={
        "num_layers": 1,
        "embedding_size": 64,
        "sequence_length": 32,
        "batch_size": 8,
        "tokenizer": "bpe",
        "vocabulary_size": 1000,
        "fine_tune": None,
    },
    then=fine_tune_afterwards,
)

if __name__ == "__main__":
    main(EXPERIMENT)
