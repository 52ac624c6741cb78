"""Sentence in, sentence out: what a saved run writes for texts, the likeliest few of it, and where it looked."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from jaxgen.data import tsv
from jaxgen.data.sequences import ANY_LENGTH, Row
from jaxgen.data.split_files import read_lines
from jaxgen.data.text import absolute
from jaxgen.errors import UsageError, shown
from jaxgen.files import check_csv, check_new, suggested, write_csv, write_text
from jaxgen.parallel import split_host
from jaxgen.saved_run import SavedRun
from jaxgen.text_scores import SCORES, signatures
from jaxgen.text_to_text import BATCH_SIZE, Translation, check_options, lay_out, one_line, write_texts
from jaxgen.train.hooks import format_figures, say
from jaxgen.writing import Writer, reads
from jaxgen.written_pairs import HEADER

_TOKENS = 128  # new ones, where nothing says how many
_SHOWN = 10
_PICTURES = (".gif", ".jpeg", ".jpg", ".pdf", ".png", ".svg", ".webp")


def translate(
    writer: Writer,
    texts: Sequence[str],
    *,
    num_beams: int = 5,
    length_penalty: float = 1.0,
    num_samples: int = 1,
    max_tokens: int = _TOKENS,
    truncate: bool = False,
    attention: bool = False,
) -> list[list[Translation]]:
    """Writes for texts of any lengths, many at a time; it is compiled once for each of a few lengths.

    Where the unknown token is written, the part of the text that it looked at most stands in its place (Jean et al.
    2015, Luong et al. 2015b), where the model has attention.

    Args:
        writer: of an encoder and decoder, such as `SavedRun(path).writer`.
        texts: to read.
        num_beams: with one the search is greedy; else see `jaxgen.generate.beam_search`.
        length_penalty: of the search and of the scores; above 0 favours long texts, below 0 short ones.
        num_samples: texts for each, at most as many as beams.
        max_tokens: new tokens of a text, at most.
        truncate: whether texts are cut off that are longer than those that the model was trained on, or than its
            context; else the latter are refused. A model that was trained on texts that were cut off always cuts them.
        attention: whether to give that as well.

    Returns:
        For each text the likeliest ones, the best first; seldom fewer than `num_samples`, where there are no more.

    Raises:
        UsageError: for an empty text, or one without a token, says which; for attention of a model without; and as
            `beam_search` does.
    """
    rows = [Row(text, "", f"text {number}") for number, text in enumerate(texts, start=1)]
    search = {"num_beams": num_beams, "length_penalty": length_penalty, "num_returned": num_samples}
    tokens = _read(writer, rows, truncate).tokens
    return write_texts(writer, texts, tokens, attention=attention, max_tokens=max_tokens, **search)


class _Read(NamedTuple):
    """What is read of texts: the tokens of each, with special ones around them, at most `limit`; how many were cut."""

    tokens: list[Int32[np.ndarray, "..."]]
    limit: int
    cut: int


def _read(writer: Writer, rows: Sequence[Row], truncate: bool) -> _Read:
    """Gives what is read of texts; refuses what can't be."""
    given = writer.reading
    limit = min(given.sequence_length, writer.decoder.max_length or ANY_LENGTH)
    if truncate:
        limit = min(limit, writer.trained_on)
    whole = replace(given, sequence_length=ANY_LENGTH)
    given = replace(given, sequence_length=limit, truncate=truncate or given.truncate)
    found, cut = [], 0
    for row in rows:
        if not row.text.strip():
            raise UsageError(f"{row.place} is empty: there is nothing to read")
        tokens = whole.row(row.text, row.place)
        text = tokens[len(given.first) : len(tokens) - len(given.last)]
        if not len(text):
            raise UsageError(f"{row.place}: none of its characters is known to the run's tokenizer")
        found.append(given.row_of(text, row.place))
        cut += len(found[-1]) < len(tokens)
    return _Read(found, limit, cut)


def print_translations(
    run: SavedRun,
    inputs: Sequence[str],
    *,
    num_beams: int = 5,
    length_penalty: float = 1.0,
    num_samples: int = 1,
    max_tokens: int | None = None,
    direction: str | None = None,
    truncate: bool = False,
    output: Path | None = None,
) -> None:
    """Prints what a run writes for texts: `jaxgen translate`.

    A line is a text; of several for each, `SCORE TAB TEXT`, with the number of what was read before it where that is
    more than one.

    Args:
        run: of an encoder and decoder.
        inputs: texts, or one file: FILE.txt, a text a line, or FILE.tsv, a source a line, or source TAB target.
        num_beams: as for `translate`.
        length_penalty: as for `translate`.
        num_samples: as for `translate`.
        max_tokens: as for `translate`; by default as many as the run was trained to write.
        direction: from what to what, such as `en-es`; refused where the run translates another way.
        truncate: as for `translate`.
        output: a PNG for the attention of the best text for a single one, or a new file for the lines.

    Raises:
        UsageError: for a run of another kind or direction, an output that can't be, and as `translate` does.
        JaxgenError: for a file that can't be read, and where the output can't be written.
    """
    check_options(num_beams, num_samples)
    split_host(BATCH_SIZE)
    if not reads(run.task):
        kind = type(run.task).__name__
        way_out = "; jaxgen sample goes on from texts" if getattr(run.task, "decoder", None) else ""
        raise UsageError(
            f"{run.directory.path} is a run of {kind}: take one that reads a text and writes another{way_out}"
        )
    if direction is not None:
        _check_direction(run, direction)
    file = tsv.named_table(inputs, (".tsv", ".txt"))
    rows = _rows(run, inputs, file)
    # A file's empty line stays one, so that lines belong together by their numbers.
    filled = [row for row in rows if file is None or row.text.strip()]
    draws = output is not None and output.suffix.lower() in _PICTURES
    if output is not None:
        _check_output(output, len(rows))
    read = _read(run.writer, filled, truncate)
    most = _most_tokens(run) if max_tokens is None else max_tokens
    search = {"num_beams": num_beams, "length_penalty": length_penalty, "num_returned": num_samples}
    texts = [row.text for row in filled]
    found = write_texts(run.writer, texts, read.tokens, attention=draws, max_tokens=most, **search)
    _note_what_is_odd(run, read, [best for best, *_ in found], most)
    of_rows = iter(found)
    found = [next(of_rows) if row.text.strip() else [Translation("", 0.0, True, None)] for row in rows]
    lines = _lines(found, num_samples)
    if output is None or draws:
        say("\n".join(lines))
    else:
        write_text(output, "\n".join([*lines, ""]))
        _say_some([(row.text, best.text) for row, (best, *_) in zip(rows, found, strict=True)])
        say(shown(output))
    looked = found[0][0].attention
    if output is not None and looked is not None:
        from jaxgen import plots
        from jaxgen.attention_plots import attention_maps

        figure = attention_maps(*looked, name="cross_attention")
        (path,) = plots.save({output.stem: figure}, output.parent)
        say(shown(path))


def _rows(run: SavedRun, inputs: Sequence[str], file: str | None) -> list[Row]:
    """Gives the texts, or those of a file, and where they stand; of a file of lines also the empty ones."""
    if file is None:
        return [Row(text, "", f"text {number}") for number, text in enumerate(inputs, start=1)]
    given: Any = run.text_format
    if file.endswith(".tsv"):
        rows, notes = tsv.read_sources(file, given.encoding, given.columns)
        for note in notes:
            say(note, sys.stderr)
        return rows
    path = absolute(file)
    told = shown(path)
    rows = [Row(line, "", f"{told}, line {number}") for number, line in read_lines(path, given.encoding)]
    if not any(row.text.strip() for row in rows):
        raise UsageError(f"{told} is empty: there is no text in it")
    return rows


def _check_direction(run: SavedRun, direction: str) -> None:
    """Refuses another direction than that of the columns, or of the two files, that the run was trained on."""
    names = getattr(run.text_format, "columns", ())
    files = run.config["data"]["name"].split(",")
    if not names and len(files) == 2:
        names = [Path(file.removesuffix(".gz")).suffix.removeprefix(".") for file in files]
    if not all(names) or all(name.isdecimal() for name in names):
        raise UsageError("the run doesn't know from what to what it translates: leave --direction out")
    if direction.lower() != "-".join(names).lower():
        raise UsageError(
            f"the run translates {'-'.join(names)}, not {direction}: the other way takes a run of its own"
        )


def _check_output(output: Path, texts: int) -> None:
    """Refuses a picture of several texts, and what would be written over."""
    if output.suffix.lower() not in _PICTURES:
        check_new(output)
    elif output.suffix != ".png" or output.is_dir():
        raise UsageError(f"the map of attention is a PNG: --output {suggested(output, 'attention.png')}")
    elif texts != 1:
        raise UsageError(
            f"a map of attention is of one text, and there are {texts}: give one, or a file for the texts, --output "
            f"{output.with_suffix('.txt')}"
        )


def _most_tokens(run: SavedRun) -> int:
    """Gives as many as the run was trained to write, where it was trained on targets."""
    trained_to: int = getattr(run.text_format, "target_length", 0)
    most = trained_to if trained_to and run.config["data"]["splits"] else _TOKENS
    window = run.writer.decoder.max_length
    return most if window is None else min(most, window - 1)


def _note_what_is_odd(run: SavedRun, read: _Read, best: Sequence[Translation], most: int) -> None:
    """Says where texts were cut off, or longer than in training, and what was written without an end, or empty."""
    trained_on = run.writer.trained_on if run.config["data"]["splits"] else ANY_LENGTH
    notes = {
        f"longer than the {read.limit} tokens that are read; the rest is cut off": read.cut,
        f"more tokens than the {trained_on} that the run was trained on at most; what is written for them may be "
        "worse, --truncate cuts them off": sum(len(row) > trained_on for row in read.tokens),
        f"cut off after {most} tokens; jaxgen translate --max-tokens for more": sum(
            not one.complete for one in best
        ),
        "an empty text is what the run finds likeliest": sum(not one.text for one in best),
    }
    for note, count in notes.items():
        if count:
            say(f"{count} of {len(best)} texts: {note}", sys.stderr)


def _lines(found: Sequence[Sequence[Translation]], num_samples: int) -> list[str]:
    """Gives a line for each text that was written."""
    lines = []
    for number, texts in enumerate(found, start=1):
        for one in texts:
            fields = [one_line(one.text)]
            if num_samples > 1:
                fields.insert(0, f"{one.score:.4f}")
            if num_samples > 1 and len(found) > 1:
                fields.insert(0, str(number))
            lines.append("\t".join(fields))
    return lines


def _say_some(rows: Sequence[Sequence[str]]) -> None:
    say(lay_out(rows[:_SHOWN]))
    if len(rows) > _SHOWN:
        say(f"and {len(rows) - _SHOWN:,} more")


def print_written(
    run: SavedRun, inputs: Sequence[str], output: Path | None = None, truncate: bool = False
) -> None:
    """Prints what a run writes for texts; for those of a table also into a CSV, with scores where it has targets.

    Args:
        run: of an encoder and decoder.
        inputs: texts, or one table, FILE.tsv: a source a line, or source TAB target.
        output: the CSV of a table; by default predictions.csv in the run directory.
        truncate: as for `translate`.

    Raises:
        JaxgenError: for no text, a table that is none, and where the CSV would replace what is none of these.
    """
    table = tsv.named_table(inputs)
    if table is None and output is not None:
        raise UsageError("--output is for what is written for a table, FILE.tsv: leave it out")
    rows = _rows(run, inputs, table)
    output = run.directory.path / "predictions.csv" if output is None else output
    if table is not None:
        check_csv(output, HEADER[:2])
    read, most = _read(run.writer, rows, truncate), _most_tokens(run)
    sources, targets = [row.text for row in rows], [row.other for row in rows if row.other]
    best = [best for best, *_ in write_texts(run.writer, sources, read.tokens, max_tokens=most)]
    _note_what_is_odd(run, read, best, most)
    texts = [one.text for one in best]
    if table is None:
        say("\n".join(texts))
        return
    columns = [sources, texts, *([targets] if targets else [])]
    _say_some(list(zip(*columns, strict=True)))
    write_csv(output, [HEADER[: len(columns)], *zip(*columns, strict=True)])
    if targets:
        scores = SCORES[run.task.scored_by](texts, targets)
        say("  ".join(format_figures(scores)))
        for name, told in signatures(run.task.scored_by).items():
            say(f"{name}: {told}")
    say(shown(output))
