"""Texts for texts: what a trained encoder and decoder writes for a whole split, or for a table of sources."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from jaxgen.data import tsv
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.sources import Source
from jaxgen.data.tokenizers import end_tokens
from jaxgen.errors import UsageError, shortened, shown
from jaxgen.files import check_csv, write_csv
from jaxgen.generate.beam import beam_search
from jaxgen.generate.decode import Generated, generate
from jaxgen.generate.prompts import by_bucket
from jaxgen.generate.sampling import Sampler
from jaxgen.run_directory import RunDirectory
from jaxgen.saved_run import SavedRun
from jaxgen.text_scores import CHOSEN_BY, SCORES
from jaxgen.train.hooks import say
from jaxgen.train.monitor import Judge
from jaxgen.train.state import TrainState
from jaxgen.writing import Writer

_BATCH_SIZE = 32
_TOKENS = 128  # new ones, where nothing says how many
_SHOWN, _SHOWN_LENGTH = 10, 200
_HEADER = ("source", "hypothesis")


def write_split(
    task: Any,
    state: TrainState,
    source: Source,
    *,
    max_tokens: int | None = None,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    batch_size: int = _BATCH_SIZE,
) -> list[str]:
    """Writes the likeliest text for each example of a split of texts to read, in their order.

    Args:
        task: such as `SequenceToSequence`.
        state: what was trained.
        source: of examples with `tokens` and `lengths`, such as `jaxgen.data.sequences` makes.
        max_tokens: new tokens of a text, at most; by default as many as the split's targets may have.
        num_beams: with one the search is greedy; else see `jaxgen.generate.beam_search`.
        length_penalty: of the search by beams.
        batch_size: texts that are written at a time; they don't depend on it.

    Raises:
        UsageError: for a split without a tokenizer, or without targets or `max_tokens`, and as `beam_search` does.
    """
    if source.text is None:
        raise UsageError(f"{source.name} has no tokenizer: give a split of texts")
    if max_tokens is None:
        if "labels" not in source[0]:
            raise UsageError(f"{source.name} has no texts to write: give max_tokens")
        max_tokens = len(source[0]["labels"])
    examples = source.gather(np.arange(len(source)))
    rows = [tokens[:length] for tokens, length in zip(examples["tokens"], examples["lengths"], strict=True)]
    return write_rows(
        Writer(task, state, source.text.tokenizer),
        rows,
        max_tokens=max_tokens,
        num_beams=num_beams,
        length_penalty=length_penalty,
        batch_size=batch_size,
    )


def write_rows(
    writer: Writer,
    rows: Sequence[Int32[np.ndarray, "..."]],
    *,
    max_tokens: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    batch_size: int = _BATCH_SIZE,
) -> list[str]:
    """Does the same for prompts as tokens, such as `Writer.encode` gives.

    Rows of about one length are written together, all batches of one size: it is compiled once for each bucket of
    lengths, see `jaxgen.generate.prompts.bucket`.
    """
    if not rows:
        raise UsageError("there is no text to write for; give at least one")
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}; it must be at least 1")
    size = min(batch_size, len(rows))
    write: Callable[..., Generated]
    how: dict[str, Any] = {"max_tokens": max_tokens, "stop_tokens": end_tokens(writer.tokenizer)}
    if num_beams == 1:
        write, how = generate, {**how, "rng": jax.random.key(0), "sampler": Sampler(greedy=True)}
    else:
        write, how = beam_search, {**how, "num_beams": num_beams, "length_penalty": length_penalty}
    # On a mesh every device would write all of it.
    params, model_state = jax.device_put(
        (writer.state.evaluation_params(), writer.state.model_state), jax.local_devices()[0]
    )
    texts = [""] * len(rows)
    for numbers in by_bucket(rows).values():
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            # Filled up with the last one again.
            filled = [rows[number] for number in [*batch, *batch[-1:] * (size - len(batch))]]
            asked = writer.asked(filled)
            given = (writer.decoder, params, model_state, asked.prompt, asked.lengths)
            found = write(*given, **how, text=asked.text, inputs=asked.inputs)
            for number, text in zip(batch, found.texts, strict=False):
                texts[number] = text
    return texts


def of_pairs(source: Source) -> bool:
    """Tells whether a split has texts to write for those that are read."""
    return isinstance(source.text, SequenceFormat) and "labels" in source[0]


def score_split(
    directory: RunDirectory, task: Any, state: TrainState, source: Source, stem: str
) -> dict[str, float]:
    """Writes for each example of a split with targets, and gives their scores; nothing for a split without targets.

    Args:
        directory: of the run, in whose `samples/STEM.csv` what is written is kept, beside sources and targets.
        task: such as `SequenceToSequence`.
        state: what was trained.
        source: the split.
        stem: names the file.

    Raises:
        JaxgenError: where the file can't be written.
    """
    if not of_pairs(source):
        return {}
    tokenizer, examples = source.text.tokenizer, source.gather(np.arange(len(source)))
    around = {*source.text.first, *source.text.last}

    def decoded(row: Int32[np.ndarray, "..."]) -> str:
        return tokenizer.decode(
            [int(token) for token in row if token >= 0 and int(token) not in around]
        ).strip()

    sources = [
        decoded(row[:length]) for row, length in zip(examples["tokens"], examples["lengths"], strict=True)
    ]
    targets = [decoded(row) for row in examples["labels"]]
    texts = [text.strip() for text in write_split(task, state, source)]
    _write_table(directory.samples / f"{stem}.csv", [sources, texts, targets])
    return SCORES[task.scored_by](texts, targets)


def judge_of(
    directory: RunDirectory,
    task: Any,
    validation: Source,
    plain: Callable[[TrainState], TrainState] | None = None,
) -> Judge | None:
    """Gives what chooses the best state where texts are written: their score; they are kept beside the targets.

    Args:
        directory: of the run.
        task: such as `SequenceToSequence`.
        validation: the split to choose by.
        plain: makes a state of the task of the one that is trained, where that is of another task.

    Returns:
        None where no texts are written, and where several processes train.
    """
    if not of_pairs(validation) or jax.process_count() > 1:
        return None

    def score(state: TrainState, source: Source) -> dict[str, float]:
        return score_split(directory, task, plain(state) if plain else state, source, source.split)

    return Judge(score, CHOSEN_BY[task.scored_by])


def shown_pairs(file: Path, count: int) -> str:
    """Gives the first rows of what `score_split` has kept, a source and below it what was written, and the target."""
    with file.open(encoding="utf-8", newline="") as opened:
        _, *rows = csv.reader(opened)
    return _shown(rows[:count])


def _shown(rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for source, *others in rows:
        lines.append(shortened(source, _SHOWN_LENGTH))
        marked = zip(("  ->", "   ="), others, strict=False)
        lines += [f"{mark} {shortened(text, _SHOWN_LENGTH)}" for mark, text in marked]
    return "\n".join(lines)


def _write_table(file: Path, columns: Sequence[Sequence[str]]) -> None:
    """Writes sources, hypotheses, and perhaps targets as a CSV."""
    write_csv(file, [(*_HEADER, "target")[: len(columns)], *zip(*columns, strict=True)])


def print_written(run: SavedRun, inputs: Sequence[str], output: Path | None = None) -> None:
    """Prints what a run writes for texts; for those of a table also into a CSV, with scores where it has targets.

    Args:
        run: of an encoder and decoder.
        inputs: texts, or one table, FILE.tsv: a source a line, or source TAB target.
        output: the CSV of a table; by default predictions.csv in the run directory.

    Raises:
        JaxgenError: for no text, a table that is none, and where the CSV would replace what is none of these.
    """
    table = tsv.named_table(inputs)
    if table is None:
        if output is not None:
            raise UsageError("--output is for what is written for a table, FILE.tsv: leave it out")
        for text in _write(run, inputs):
            say(text)
        return
    sources, targets = tsv.read_sources(table, run.text_format.encoding)
    output = run.directory.path / "predictions.csv" if output is None else output
    check_csv(output, _HEADER)
    texts = _write(run, sources)
    columns = [sources, texts, *([targets] if targets else [])]
    rows = list(zip(*columns, strict=True))
    say(_shown(rows[:_SHOWN]))
    if len(rows) > _SHOWN:
        say(f"and {len(rows) - _SHOWN:,} more")
    _write_table(output, columns)
    if targets:
        say(
            "  ".join(
                f"{name} {value:.2f}" for name, value in SCORES[run.task.scored_by](texts, targets).items()
            )
        )
    say(shown(output))


def _write(run: SavedRun, sources: Sequence[str]) -> list[str]:
    """Writes for texts, as much as the run was trained to, where it was trained on targets."""
    trained_to: int = getattr(run.text_format, "target_length", 0)
    most = trained_to if trained_to and run.config["data"]["splits"] else _TOKENS
    return write_rows(run.writer, [run.writer.encode(source) for source in sources], max_tokens=most)
