"""Texts for texts: what a trained encoder and decoder writes for rows of tokens, or for a whole split."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.sources import Source
from jaxgen.data.tokenizers import end_tokens
from jaxgen.errors import UsageError, shortened
from jaxgen.files import write_csv
from jaxgen.generate.beam import Beams, beam_search
from jaxgen.generate.prompts import by_bucket
from jaxgen.run_directory import RunDirectory
from jaxgen.text_scores import CHOSEN_BY, SCORES
from jaxgen.train.monitor import Judge
from jaxgen.train.state import TrainState
from jaxgen.writing import Writer
from jaxgen.written_pairs import HEADER

BATCH_SIZE = 32
"""Texts that are written at a time."""
_SHOWN_LENGTH = 200


def write_split(
    task: Any,
    state: TrainState,
    source: Source,
    *,
    max_tokens: int | None = None,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    batch_size: int = BATCH_SIZE,
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
        Writer.of(task, state, source.text),
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
    batch_size: int = BATCH_SIZE,
) -> list[str]:
    """Does the same for prompts as tokens, such as `Writer.encode` gives."""
    texts = [""] * len(rows)
    how: dict[str, Any] = {"num_beams": num_beams, "length_penalty": length_penalty, "batch_size": batch_size}
    for numbers, found in searched(writer, rows, max_tokens=max_tokens, **how):
        for number, text in zip(numbers, found.texts, strict=False):
            texts[number] = text
    return texts


def searched(
    writer: Writer,
    rows: Sequence[Int32[np.ndarray, "..."]],
    *,
    max_tokens: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    num_returned: int = 1,
    extras: bool = False,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[list[int], Beams]]:
    """Looks for the likeliest texts batch by batch, and gives the numbers of the rows, and what was found for them.

    Rows of about one length are written together, all batches of one size: it is compiled once for each bucket of
    lengths, see `jaxgen.generate.prompts.bucket`. What was found may have rows more, behind those that are meant.

    Args:
        writer: the model.
        rows: what it reads, such as `Writer.encode` gives.
        max_tokens: as for `write_split`.
        num_beams: as for `write_split`.
        length_penalty: as for `write_split`.
        num_returned: texts for each row, at most as many as beams; they lie next to each other, the best one first.
        extras: whether to give those, see `jaxgen.generate`.
        batch_size: as for `write_split`.

    Raises:
        UsageError: as `write_split` does.
    """
    if not rows:
        raise UsageError("there is no text to write for; give at least one")
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}; it must be at least 1")
    size = min(batch_size, len(rows))
    how: dict[str, Any] = {
        "max_tokens": max_tokens,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "num_returned": num_returned,
        "stop_tokens": end_tokens(writer.writing_tokenizer),
        "extras": extras,
    }
    params, model_state = writer.state.evaluation_params(), writer.state.model_state
    if size % jax.device_count():
        # On a mesh whose devices can't share the texts evenly every one of them would write all.
        params, model_state = jax.device_put((params, model_state), jax.local_devices()[0])
    for numbers in by_bucket(rows, writer.decoder.max_length).values():
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            # Filled up with the last one again.
            filled = [rows[number] for number in [*batch, *batch[-1:] * (size - len(batch))]]
            asked = writer.asked(filled)
            given = (writer.decoder, params, model_state, asked.prompt, asked.lengths)
            yield batch, beam_search(*given, **how, text=asked.text, inputs=asked.inputs)


def of_pairs(source: Source) -> bool:
    """Tells whether a split has texts to write for those that are read."""
    return isinstance(source.text, SequenceFormat) and "labels" in source[0]


def texts_of(source: Source, numbers: Sequence[int] | None = None) -> tuple[list[str], list[str]]:
    """Gives the texts to read and to write of a split of pairs, all or some, as they stand in the data.

    The model reads tokens of them, which may be cut off, or unknown; what it writes is held against the whole.
    """
    rows = source.rows if numbers is None else [source.rows[number] for number in numbers]
    return [row.text.strip() for row in rows], [row.other.strip() for row in rows]


def score_split(
    directory: RunDirectory, task: Any, state: TrainState, source: Source, stem: str, **search: Any
) -> dict[str, float]:
    """Writes for each example of a split with targets, and gives their scores; nothing for a split without targets.

    Args:
        directory: of the run, in whose `samples/STEM.csv` what is written is kept, beside sources and targets.
        task: such as `SequenceToSequence`.
        state: what was trained.
        source: the split.
        stem: names the file.
        search: `num_beams` and `length_penalty`, as for `write_split`.

    Raises:
        JaxgenError: where the file can't be written.
        UsageError: as `write_split`.
    """
    if not of_pairs(source):
        return {}
    sources, targets = texts_of(source)
    texts = [text.strip() for text in write_split(task, state, source, **search)]
    write_csv(directory.samples / f"{stem}.csv", [HEADER, *zip(sources, texts, targets, strict=True)])
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
    return lay_out(rows[:count])


def lay_out(rows: Sequence[Sequence[str]]) -> str:
    """Gives rows of a source, and what was written for it, and perhaps a target, below each other."""
    lines = []
    for source, *others in rows:
        lines.append(shortened(source, _SHOWN_LENGTH))
        marked = zip(("  ->", "   ="), others, strict=False)
        lines += [f"{mark} {shortened(text, _SHOWN_LENGTH)}" for mark, text in marked]
    return "\n".join(lines)
