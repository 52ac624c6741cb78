"""Parallel texts: two files in which the lines of one number belong together, such as `train.en` and `train.es`."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from jaxgen.data.sequences import Row, Table
from jaxgen.data.split_files import (
    blank_lines,
    find_endings,
    find_files,
    read_lines,
    version_of,
    with_validation,
)
from jaxgen.data.text import absolute
from jaxgen.errors import JaxgenError, UsageError, shown, unknown

_BETWEEN = ","


def is_parallel(name: str) -> bool:
    """Tells whether a name is that of two files, `FILE,FILE`, or of a directory of such, and of no table."""
    path = absolute(name)
    if path.is_dir():
        return not find_files(path, "tsv") and len(find_endings(path)) > 1
    return name.count(_BETWEEN) == 1 and not path.exists()


def read(name: str, languages: Sequence[str] = (), encoding: str = "utf-8") -> Table:
    """Reads pairs of texts, a line to read and a line to write.

    Args:
        name: `FILE,FILE`, what is read and what is written; or a directory with such as `train.en` and `train.es`, and
            perhaps `validation`, `valid` or `dev`, and `test` in both languages. Where nothing is for validation,
            about a tenth is held out. All may be packed by gzip, `train.en.gz`.
        languages: in a directory, how the names of the files end that are read, and of those that are written.
        encoding: of the files.

    Raises:
        UsageError: for unknown files, languages or encodings, and for a directory where it isn't told what is read.
        JaxgenError: for files of other numbers of lines, or with an empty line, or of another encoding; names the line.
    """
    notes: list[str] = []
    splits = {split: _pairs(*files, encoding, notes) for split, files in _find(name, languages).items()}
    version = version_of(splits)
    return Table(_full_name(name), with_validation(splits, name, by_label=False), (), version, tuple(notes))


def read_all(name: str, languages: Sequence[str] = (), encoding: str = "utf-8") -> Table:
    """Reads all pairs as one split, `all`: what a trained model is evaluated on; see `read`."""
    notes: list[str] = []
    rows = [row for files in _find(name, languages).values() for row in _pairs(*files, encoding, notes)]
    return Table(_full_name(name), {"all": rows}, (), version_of({"all": rows}), tuple(notes))


def _full_name(name: str) -> str:
    if absolute(name).is_dir():
        return str(absolute(name))
    return _BETWEEN.join(str(absolute(part)) for part in name.split(_BETWEEN))


def _find(name: str, languages: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    """Finds the two files of each split."""
    path = absolute(name)
    if not path.is_dir():
        source, target = map(absolute, name.split(_BETWEEN))
        return {"train": (source, target)}
    endings = find_endings(path)
    if len(languages) != 2 or languages[0] == languages[1]:
        told = " ".join(endings[:2])
        raise UsageError(
            f"{shown(path)} holds texts in {', '.join(endings)}: say in which one they are read, and in which one "
            f"written, such as --columns {told}"
        )
    for language in languages:
        if language not in endings:
            raise unknown(f"language of {shown(path)}", language, endings)
    found = [find_files(path, language) for language in languages]
    for here, there, missing in ((0, 1, languages[1]), (1, 0, languages[0])):
        for split, file in found[here].items():
            if split not in found[there]:
                raise JaxgenError(f"{shown(file)} has no file beside it that ends with .{missing}: add it")
    return {split: (found[0][split], found[1][split]) for split in found[0]}


def _pairs(source: Path, target: Path, encoding: str, notes: list[str]) -> list[Row]:
    """Reads two files side by side; lines that are blank in both are left out, and noted."""
    rows: list[Row] = []
    number, told = 0, shown(source)
    lines = zip_longest(read_lines(source, encoding), read_lines(target, encoding))
    for number, (read, written) in enumerate(lines, start=1):
        if read is None or written is None:
            raise _other_counts(source, target, encoding)
        texts = read[1].strip(), written[1].strip()
        if not any(texts):
            continue
        for file, other, text in ((source, target, texts[0]), (target, source, texts[1])):
            if not text:
                raise JaxgenError(
                    f"{shown(file)}, line {number}: empty, but not in {other.name}; leave out the line in both"
                )
        rows.append(Row(*texts, f"{told}, line {number}"))
    if not rows:
        raise JaxgenError(f"{shown(source)} and {target.name} are empty: there is no text in them")
    notes += blank_lines(f"{told} and {target.name}", number - len(rows), number)
    return rows


def _other_counts(source: Path, target: Path, encoding: str) -> JaxgenError:
    counts = [sum(1 for _ in read_lines(file, encoding)) for file in (source, target)]
    return JaxgenError(
        f"{shown(source)} has {counts[0]:,} lines, {shown(target)} {counts[1]:,}: each line needs its other one"
    )
