"""Tables of texts, a line each: `text TAB label`, or `source TAB target`, perhaps with such a header.

A table is a file, or a directory with `train.tsv`, and perhaps `validation.tsv` (or `valid.tsv`, `dev.tsv`) and
`test.tsv`; all may be packed by gzip, `train.tsv.gz`. Where there is no file for validation, about a tenth of the
training texts is held out by their contents, as `jaxgen.data.held_out` does. A field may be quoted, with quotation
marks in it doubled, and then hold tabs; a text is of one line.
"""

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxgen.data.sequences import Row, Table
from jaxgen.data.split_files import blank_lines, find_files, read_lines, version_of, with_validation
from jaxgen.data.text import absolute
from jaxgen.errors import JaxgenError, UsageError, shown, unknown

_SPACE = re.compile(r"\s")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"(?=\t|\Z)')


class _Columns(NamedTuple):
    """What the columns hold, and the headers that say so."""

    names: tuple[str, ...]
    headers: frozenset[tuple[str, ...]]
    for_more: str = ""  # what may be done where a line has more


_LABELLED = _Columns(("text", "label"), frozenset({("text", "label"), ("sentence", "label")}))
_PAIRS = _Columns(
    ("source", "target"), frozenset({("source", "target")}), "; name the two to take, --columns 1 2"
)
_SOURCES = _Columns(("source",), frozenset({("source",)}))


def read_labelled(name: str, encoding: str = "utf-8") -> Table:
    """Reads texts with their labels, which become classes in the order of the alphabet.

    Args:
        name: of a file, or of a directory of files.
        encoding: of the files.

    Raises:
        UsageError: for an unknown file or encoding.
        JaxgenError: for a file that is empty, of another encoding, or no such table, or a label that no training text
            has; names the line.
    """
    path = absolute(name)
    splits, version, notes = _read_splits(path, _LABELLED, encoding)
    names = sorted({row.other for row in splits["train"]})
    if len(names) == 1:
        raise JaxgenError(f"{shown(path)} has one label only, {names[0]}: a classifier needs two or more")
    for rows in splits.values():
        check_labels(rows, names)
    return Table(str(path), splits, tuple(names), version, notes)


def read_pairs(name: str, encoding: str = "utf-8", columns: Sequence[str] = ()) -> Table:
    """Reads pairs of texts, one to read and one to write.

    Args:
        name: of a file, or of a directory of files.
        encoding: of the files.
        columns: the two that are read and written, where there are more or in another order: their numbers, from 1 on,
            or their names in the first line, which is then no row.

    Raises:
        UsageError: for an unknown file, encoding or column.
        JaxgenError: for a file that is empty, of another encoding, or no such table; names the line.
    """
    path = absolute(name)
    splits, version, notes = _read_splits(path, _PAIRS, encoding, columns)
    return Table(str(path), splits, (), version, notes)


def read_sources(
    name: str, encoding: str = "utf-8", columns: Sequence[str] = ()
) -> tuple[list[Row], list[str]]:
    """Reads texts to write for, a line each, and what should be written, where all lines say so: `source TAB target`.

    Args:
        name: of the file.
        encoding: of it.
        columns: of pairs, as for `read_pairs`; left out of account in a table that hasn't these two.

    Returns:
        The sources, all of which have something beside them, the target, or none has; and what there is to say of lines
        that are no rows.

    Raises:
        UsageError: for an unknown file or encoding.
        JaxgenError: for a file that is empty, of another encoding, or no such table; names the line.
    """
    file = absolute(name)
    notes: list[str] = []
    _, fields = next(_rows(file, encoding, notes), (0, ["", ""]))
    if len(fields) == 1:
        return list(_read(file, _SOURCES, encoding, notes)), notes
    there = {*fields, *map(str, range(1, len(fields) + 1))}
    chosen = columns if there.issuperset(columns) else ()
    pairs = _PAIRS._replace(for_more=f", or has the columns {' and '.join(columns)}" if columns else "")
    return list(_read(file, pairs, encoding, notes, chosen)), notes


def read_all(
    name: str, class_names: Sequence[str], encoding: str = "utf-8", columns: Sequence[str] = ()
) -> Table:
    """Reads all rows of a file or directory as one split, `all`: what a trained model is evaluated on.

    Args:
        name: of a file, or of a directory of files.
        class_names: those of the model; none for pairs.
        encoding: of the files.
        columns: of pairs, as for `read_pairs`.

    Raises:
        UsageError: for an unknown file or encoding.
        JaxgenError: as `read_labelled`, and for a label that is none of these.
    """
    path = absolute(name)
    kind = _LABELLED if class_names else _PAIRS
    notes: list[str] = []
    rows = [row for file in _find_files(path).values() for row in _read(file, kind, encoding, notes, columns)]
    if class_names:
        check_labels(rows, class_names)
    return Table(str(path), {"all": rows}, tuple(class_names), version_of({"all": rows}), tuple(notes))


def read_texts(name: str, encoding: str = "utf-8") -> list[Row]:
    """Reads texts to predict, a line each, with labels where the first one has one: `text TAB label`.

    Args:
        name: of a file.
        encoding: of it.

    Raises:
        UsageError: for an unknown file or encoding.
        JaxgenError: for a file that is empty, of another encoding, or no such table; names the line.
    """
    file = absolute(name)
    split = [(number, _fields(line)) for number, line in read_lines(file, encoding) if line.strip()]
    if split and len(split[0][1]) == 2:
        return list(_read(file, _LABELLED, encoding, []))
    rows, told = [], shown(file)
    for number, fields in split:
        if len(fields) != 1:
            raise JaxgenError(
                f"{shown(file)}, line {number}: {len(fields)} columns; a line is text, or text TAB label, as the "
                "first one is"
            )
        if number > 1 or fields[0].strip().lower() not in ("text", "sentence"):
            rows.append(Row(fields[0].strip(), "", f"{told}, line {number}"))
    if not rows:
        raise JaxgenError(f"{shown(file)} is empty: there is no text in it")
    return rows


def named_table(inputs: Sequence[str], endings: tuple[str, ...] = (".tsv",)) -> str | None:
    """Gives the table, FILE.tsv, that is to be read in the place of texts; None where there are texts.

    Args:
        inputs: texts, or the name of a file.
        endings: of the names of files that can be read, tables first.

    Raises:
        UsageError: for nothing, several tables, and texts beside one.
    """
    files = " or ".join(f"FILE{ending}" for ending in endings)
    if not inputs:
        raise UsageError(f"give texts, or a file of them, {files}")
    if not any(_names_file(text, endings) for text in inputs):
        return None
    if len(inputs) > 1:
        raise UsageError(f"give texts, or one file of them, {files}: not several, nor both")
    return inputs[0]


def _names_file(text: str, endings: tuple[str, ...]) -> bool:
    """Tells a file's name from a text; such as "please open readme.txt" is none, unless there is such a file."""
    there = os.path.exists(text)  # noqa: PTH110, pathlib's raises for long names
    return text.endswith(endings) and (there or not _SPACE.search(text))


def check_labels(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Checks that labels are among those of the training texts; raises JaxgenError with the line of one that isn't."""
    for row in rows:
        if row.other not in names:
            known = [*names[:12], *([f"and {len(names) - 12} more"] if len(names) > 12 else [])]
            raise JaxgenError(
                f"{row.place}: no training text has the label {row.other!r}; they have {', '.join(known)}"
            )


def _read_splits(
    path: Path, columns: _Columns, encoding: str, chosen: Sequence[str] = ()
) -> tuple[dict[str, list[Row]], str, tuple[str, ...]]:
    """Gives the rows of each split, a digest of all files, and what there is to say of lines that are no rows."""
    notes: list[str] = []
    splits = {
        split: list(_read(file, columns, encoding, notes, chosen))
        for split, file in _find_files(path).items()
    }
    rows = with_validation(splits, str(path), by_label=columns is _LABELLED)
    return rows, version_of(splits), tuple(notes)


def _find_files(path: Path) -> Mapping[str, Path]:
    """Finds the file of each split; a single one is to train on."""
    if not path.is_dir():
        return {"train": path}
    found = find_files(path, "tsv")
    if "train" not in found:
        raise JaxgenError(
            f"{shown(path)} has no train.tsv: a directory of tables holds train.tsv, and perhaps validation.tsv and "
            "test.tsv"
        )
    return found


def _read(
    file: Path, columns: _Columns, encoding: str, notes: list[str], chosen: Sequence[str] = ()
) -> Iterator[Row]:
    """Reads a table line by line; without a second column what belongs to a text is empty."""
    names, empty, told = columns.names, True, shown(file)
    rows = _rows(file, encoding, notes)
    for number, fields in _take(file, rows, chosen) if chosen else rows:
        if number == 1 and tuple(map(str.lower, fields)) in columns.headers:
            continue
        place = f"{told}, line {number}"
        if len(fields) != len(names):
            count = "one column" if len(fields) == 1 else f"{len(fields)} columns"
            wanted = "one" if len(names) == 1 else "two"
            advice = columns.for_more if len(fields) > 2 else ""
            raise JaxgenError(f"{place}: {count}, not {wanted}; a line is {' TAB '.join(names)}{advice}")
        for name, value in zip(names, fields, strict=True):
            if not value:
                raise JaxgenError(f"{place}: the {name} is empty")
        empty = False
        yield Row(fields[0], "".join(fields[1:]), place)
    if empty:
        raise JaxgenError(f"{shown(file)} is empty: there is no {names[0]} in it")


def _take(
    file: Path, rows: Iterator[tuple[int, list[str]]], chosen: Sequence[str]
) -> Iterator[tuple[int, list[str]]]:
    """Takes two columns of a table, all of whose lines must have as many as the first one."""
    if len(chosen) != 2:
        raise UsageError(f"--columns {' '.join(chosen)}: name two, what is read and what is written")
    first, header = next(rows, (1, []))
    if not header:
        return
    if all(name.isdecimal() for name in chosen):
        rows = itertools.chain([(first, header)], rows)
        places = [int(name) - 1 for name in chosen]
        if not all(0 <= place < len(header) for place in places):
            raise UsageError(f"--columns {' '.join(chosen)}: {shown(file)} has 1 to {len(header)}")
    else:
        for name in chosen:
            if name not in header:
                raise unknown(f"column of {shown(file)}", name, header)
        places = [header.index(name) for name in chosen]
    for number, fields in rows:
        if len(fields) != len(header):
            raise JaxgenError(
                f"{shown(file)}, line {number}: {len(fields)} columns, not {len(header)} as in the first line"
            )
        yield number, [fields[place] for place in places]


def _rows(file: Path, encoding: str, notes: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Gives each line's number and fields; blank lines are left out, and noted at the end."""
    number = blank = 0
    for number, line in read_lines(file, encoding):
        fields = [field.strip() for field in _fields(line)]
        if any(fields):
            yield number, fields
        else:
            blank += 1
    notes += blank_lines(shown(file), blank, number)


def _fields(line: str) -> list[str]:
    """Splits a line at its tabs, but not at those in quotation marks."""
    fields, place = [], 0
    while True:
        quoted = _QUOTED.match(line, place)
        end = quoted.end() if quoted else line.find("\t", place)
        end = len(line) if end < 0 else end
        fields.append(quoted[1].replace('""', '"') if quoted else line[place:end])
        if end == len(line):
            return fields
        place = end + 1
