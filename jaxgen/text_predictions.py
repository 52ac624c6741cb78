"""Predictions for texts: a classifier's classes, of texts as they are given or of a file; and masks filled in."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.console import Console

from jaxgen.data import tsv
from jaxgen.data.sequences import Row, SequenceFormat
from jaxgen.encoding import Encoder
from jaxgen.errors import UsageError, shortened, shown
from jaxgen.files import check_csv, write_csv
from jaxgen.generate.prompts import batches, pad_to_bucket
from jaxgen.predict import header, lay_out, rows_of
from jaxgen.saved_run import SavedRun
from jaxgen.train.hooks import say

_SHOWN, _SHOWN_LENGTH = 20, 80


def classify(
    run: SavedRun, rows: Sequence[Row], truncate: bool = False
) -> Float[np.ndarray, "texts classes"]:
    """Gives the probability of each class for texts, in their order.

    Args:
        run: of a classifier of texts.
        rows: the texts, and where they stand.
        truncate: whether one that is longer than the model's context is cut off; else it is refused.

    Raises:
        UsageError: for a text that is empty or too long, says where it stands.
    """
    given = _format(run, truncate)
    for row in rows:
        if not row.text.strip():
            raise UsageError(f"{row.place}: the text is empty")
    encoded = [given.row(row.text, row.place) for row in rows]
    found: dict[int, np.ndarray] = {}
    for numbers in batches(encoded, given.sequence_length):
        tokens, lengths = pad_to_bucket([encoded[number] for number in numbers], given.sequence_length)
        predicted = run.predict({"tokens": tokens, "lengths": lengths})["probabilities"]
        found.update(zip(numbers, predicted, strict=True))
    return np.stack([found[number] for number in range(len(rows))])


def print_classes(
    run: SavedRun, inputs: Sequence[str], output: Path | None = None, truncate: bool = False
) -> None:
    """Prints the classes of texts; those of a file also into a CSV, with the accuracy where it has labels.

    Labels that the run wasn't trained on count as wrong.

    Args:
        run: of a classifier of texts.
        inputs: texts, or one file of them, FILE.tsv: a text a line, or text TAB label.
        output: the CSV; for a file by default predictions.csv in the run directory.
        truncate: as for `classify`.

    Raises:
        UsageError: for no text, one that is too long, and where the CSV would replace what is none of these.
        JaxgenError: for a file that can't be read, or is no such table; names the line.
    """
    rows, is_file = _read(run, inputs)
    if output is None and is_file:
        output = run.directory.path / "predictions.csv"
    if output is not None:
        check_csv(output, header("text"))
    probabilities = classify(run, rows, truncate)
    names = run.task.class_names or tuple(map(str, range(probabilities.shape[1])))
    told = [shortened(row.text, _SHOWN_LENGTH) for row in rows]
    Console().print(lay_out(told, probabilities, names, _SHOWN if is_file else len(rows)))
    if any(row.other for row in rows):
        say(_accuracy(rows, probabilities, names))
    if output is not None:
        write_csv(output, rows_of("text", [row.text for row in rows], probabilities, names))
        say(shown(output))


def print_filled(
    run: SavedRun, inputs: Sequence[str], output: Path | None = None, truncate: bool = False
) -> None:
    """Prints the likeliest tokens for the masks of texts, or of those in a file, FILE.tsv.

    Args:
        run: of a masked language model.
        inputs: texts, or one file of them.
        output: None: there is no CSV of masks.
        truncate: as for `classify`.

    Raises:
        UsageError: for no text, an `output`, and what `Encoder.fill` refuses; says where the text stands.
        JaxgenError: for a file that can't be read.
    """
    if output is not None:
        raise UsageError("--output is for classes, and for what is written: leave it out to fill masks in")
    rows, _ = _read(run, inputs)
    encoder = Encoder.of(run)
    for row in rows:
        filled = encoder.fill(row.text, truncate=truncate, told=row.place)
        say(row.text)
        for number, found in enumerate(filled, start=1):
            listed = ", ".join(f"{token} {100 * probability:.1f} %" for token, probability in found)
            say(f"  {number}: {listed}")


def _read(run: SavedRun, inputs: Sequence[str]) -> tuple[list[Row], bool]:
    """Gives the texts, and whether they are those of a file."""
    table = tsv.named_table(inputs)
    if table is None:
        return [Row(text, "", f"text {number}") for number, text in enumerate(inputs, start=1)], False
    return tsv.read_texts(table, run.text_format.encoding), True


def _format(run: SavedRun, truncate: bool) -> SequenceFormat:
    """Gives how texts are made into rows: as in training, but up to the model's context."""
    given = run.text_format
    length = getattr(run.task.model, "context_length", None) or given.sequence_length
    if isinstance(given, SequenceFormat):
        return replace(given, sequence_length=length, truncate=truncate)
    return SequenceFormat.of(run.tokenizer, length, truncate=truncate)


def _accuracy(
    rows: Sequence[Row], probabilities: Float[np.ndarray, "texts classes"], names: Sequence[str]
) -> str:
    """Tells how many classes are those of the labels."""
    found = [names[index] for index in probabilities.argmax(axis=1)]
    right = sum(row.other == name for row, name in zip(rows, found, strict=True))
    line = f"accuracy {100 * right / len(rows):.2f} %, {right:,} of {len(rows):,}"
    others = sorted({row.other for row in rows} - {*names})
    if not others:
        return line
    count = sum(row.other in others for row in rows)
    listed = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    return f"{line}; {count:,} with labels that it wasn't trained on, which count as wrong: {listed}"
