"""Texts for texts: what a trained encoder and decoder writes for rows of tokens, or for a whole split."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32

from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.sources import Source
from jaxgen.data.surfaces import filled_in, read_parts, written_parts
from jaxgen.data.tokenizers import end_tokens, unknown_token
from jaxgen.errors import UsageError, shortened
from jaxgen.files import write_csv, write_text
from jaxgen.generate.beam import Beams, beam_search
from jaxgen.generate.prompts import at_once, by_bucket
from jaxgen.run_directory import RunDirectory
from jaxgen.text_scores import CHOSEN_BY, SCORES
from jaxgen.train.monitor import Judge
from jaxgen.train.state import TrainState
from jaxgen.writing import Attention, Writer
from jaxgen.written_pairs import HEADER

BATCH_SIZE = 32
"""Texts that are written at a time."""
_SHOWN_LENGTH = 200


def check_options(beam: int, num_samples: int = 1) -> None:
    """Refuses numbers that are too low, by the names that the commands have for them."""
    for option, number in (("--beam", beam), ("--num-samples", num_samples)):
        if number < 1:
            raise UsageError(f"{option} is {number}; it must be at least 1")


class Translation(NamedTuple):
    """A text that was written for another.

    Attributes:
        text: without white space around it.
        score: its log-probability, divided by (its number of tokens, the end token among them) ** length penalty.
        complete: whether it ended; else it was cut off.
        attention: one map, with a row for each token that was written, named by it, and a column for each that was
            read; None where it wasn't asked for.
    """

    text: str
    score: float
    complete: bool
    attention: Attention | None


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
    """Writes the likeliest text for each example of a split of texts to read, in their order; see `write_texts`.

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
    texts = [row.text for row in source.rows] or [""] * len(rows)
    how: dict[str, Any] = {"num_beams": num_beams, "length_penalty": length_penalty, "batch_size": batch_size}
    found = write_texts(Writer.of(task, state, source.text), texts, rows, max_tokens=max_tokens, **how)
    return [best.text for best, *_ in found]


def write_texts(
    writer: Writer,
    texts: Sequence[str],
    rows: Sequence[Int32[np.ndarray, "..."]],
    *,
    attention: bool = False,
    **search: Any,
) -> list[list[Translation]]:
    """Writes for texts; what a text looked at most stands in it in the place of the unknown token.

    Args:
        writer: the model.
        texts: to read.
        rows: their tokens, with special ones around them, such as `Writer.encode` gives; fewer where texts are cut off.
        attention: whether to give that as well.
        search: as for `searched`.

    Returns:
        For each text the likeliest ones, the best first.

    Raises:
        UsageError: for attention of a model without, and as `searched` does.
    """
    if attention and not writer.attends:
        raise UsageError("this model has no attention to look at: it was made without")
    times = search.get("num_returned", 1)
    unknown = unknown_token(writer.writing_tokenizer)
    extras = writer.attends and (attention or unknown is not None)
    found: list[list[Translation]] = [[] for _ in rows]
    for numbers, written in searched(writer, rows, extras=extras, **search):
        for place, number in enumerate(numbers):
            for row in range(place * times, (place + 1) * times):
                if not written.lengths[row]:
                    continue
                read = _Looked(writer, texts[number], rows[number])
                text = written.texts[row]
                if unknown is not None and extras:
                    text = read.filled_in(written, row, unknown)
                looked = read.attention(written, row) if attention else None
                one = Translation(
                    text.strip(), float(written.scores[row]), bool(written.stopped[row]), looked
                )
                found[number].append(one)
    return found


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

    Rows of about one length are written together, all batches of them of one size: it is compiled once for each bucket
    of lengths, see `jaxgen.generate.prompts.bucket`. What was found may have rows more, behind those that are meant.

    Args:
        writer: the model.
        rows: what it reads, such as `Writer.encode` gives.
        max_tokens: as for `write_split`.
        num_beams: as for `write_split`.
        length_penalty: as for `write_split`.
        num_returned: texts for each row, at most as many as beams; they lie next to each other, the best one first.
        extras: whether to give those, see `jaxgen.generate`.
        batch_size: as for `write_split`; fewer where texts are so long that a batch would have more than 16,384 tokens.

    Raises:
        UsageError: as `write_split` does.
    """
    if not rows:
        raise UsageError("there is no text to write for; give at least one")
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}; it must be at least 1")
    most = min(batch_size, len(rows))
    how: dict[str, Any] = {
        "max_tokens": max_tokens,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "num_returned": num_returned,
        "stop_tokens": end_tokens(writer.writing_tokenizer),
        "extras": extras,
    }
    trained = (writer.state.evaluation_params(), writer.state.model_state)
    for length, numbers in by_bucket(rows, writer.decoder.max_length).items():
        size = min(most, at_once(length))
        params, model_state = trained
        if size % jax.device_count():
            # On a mesh whose devices can't share the texts evenly every one of them would write all.
            params, model_state = jax.device_put(trained, jax.local_devices()[0])
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            # Filled up with the last one again.
            filled = [rows[number] for number in [*batch, *batch[-1:] * (size - len(batch))]]
            asked = writer.asked(filled)
            given = (writer.decoder, params, model_state, asked.prompt, asked.lengths)
            yield batch, beam_search(*given, **how, text=asked.text, inputs=asked.inputs)


class _Looked(NamedTuple):
    """A text that was read, to see what was looked at in it."""

    writer: Writer
    text: str
    tokens: Int32[np.ndarray, " tokens"]

    def parts(self) -> list[str]:
        """Gives what each token stands for, special ones by their names."""
        given = self.writer.reading
        room = len(self.tokens) - len(given.first) - len(given.last)
        first, last = (
            [given.tokenizer.decode([token]) for token in row] for row in (given.first, given.last)
        )
        parts = [*first, *read_parts(given.tokenizer, self.text)[:room], *last]
        # A text that isn't known as it was may have other tokens.
        return parts if len(parts) == len(self.tokens) else written_parts(given.tokenizer, self.tokens)

    def weights(self, written: Beams, row: int) -> np.ndarray:
        """Gives the attention of each token that was written to each that was read."""
        return written.extras["attention"][row, : written.lengths[row], : len(self.tokens)]

    def attention(self, written: Beams, row: int) -> Attention:
        """Gives the map of a text that was written."""
        tokens = written.tokens[row, : written.lengths[row]]
        names = written_parts(self.writer.writing_tokenizer, tokens)
        return Attention(names, self.parts(), self.weights(written, row)[None, None])

    def filled_in(self, written: Beams, row: int, unknown: int) -> str:
        """Gives a text that was written, with what was looked at most in the place of unknown tokens."""
        tokens = written.tokens[row, : written.lengths[row] - int(written.stopped[row])]
        places = np.flatnonzero(tokens == unknown)
        given = self.writer.reading
        begin, end = len(given.first), len(self.tokens) - len(given.last)  # special tokens are no text
        if begin == end or not len(places):
            return written.texts[row]
        parts, weights = self.parts(), self.weights(written, row)
        others = {
            int(place): parts[begin + int(weights[place, begin:end].argmax())].strip() for place in places
        }
        return filled_in(self.writer.writing_tokenizer, tokens, unknown, others)


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
        directory: of the run, in whose `samples/STEM.csv` what is written is kept, beside sources and targets, and in
            `samples/STEM.txt` alone, a line each, as sacrebleu's command reads it.
        task: such as `SequenceToSequence`.
        state: what was trained.
        source: the split.
        stem: names the files.
        search: `num_beams` and `length_penalty`, as for `write_split`.

    Raises:
        JaxgenError: where a file can't be written.
        UsageError: as `write_split`.
    """
    if not of_pairs(source):
        return {}
    sources, targets = texts_of(source)
    texts = write_split(task, state, source, **search)
    write_csv(directory.samples / f"{stem}.csv", [HEADER, *zip(sources, texts, targets, strict=True)])
    write_text(directory.samples / f"{stem}.txt", "".join(f"{one_line(text)}\n" for text in texts))
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


def one_line(text: str) -> str:
    """Gives a text with spaces in the place of ends of lines."""
    return " ".join(text.splitlines())


def lay_out(rows: Sequence[Sequence[str]]) -> str:
    """Gives rows of a source, and what was written for it, and perhaps a target, below each other."""
    lines = []
    for source, *others in rows:
        lines.append(shortened(source, _SHOWN_LENGTH))
        marked = zip(("  ->", "   ="), others, strict=False)
        lines += [f"{mark} {shortened(text, _SHOWN_LENGTH)}" for mark, text in marked]
    return "\n".join(lines)
