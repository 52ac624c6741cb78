"""Files of texts, a line each: which file is which split, their lines, and what is held out where no file says it."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxgen.data.held_out import held_out
from jaxgen.data.sequences import Row
from jaxgen.data.text import reading
from jaxgen.errors import JaxgenError, UsageError, shown

_SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
_COMPRESSED = ".gz"


def find_files(path: Path, ending: str) -> dict[str, Path]:
    """Finds the files of a directory that are splits, such as `train.tsv` and `dev.tsv`, perhaps with `.gz`.

    Args:
        path: of the directory.
        ending: of their names, such as `tsv`.

    Raises:
        JaxgenError: where two files are one split.
    """
    found: dict[str, Path] = {}
    for stem, split in _SPLITS.items():
        for file in (path / f"{stem}.{ending}", path / f"{stem}.{ending}{_COMPRESSED}"):
            if not file.is_file():
                continue
            if split in found:
                raise JaxgenError(
                    f"{shown(path)} has both {found[split].name} and {file.name}: keep one of them"
                )
            found[split] = file
    return found


def find_endings(path: Path) -> list[str]:
    """Gives what the names of a directory's files to train on end with: of `train.en` and `train.es.gz` en and es."""
    names = [file.name.removesuffix(_COMPRESSED) for file in path.glob("train.*") if file.is_file()]
    return sorted({name.removeprefix("train.") for name in names})


def read_lines(file: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Gives each line of a file with its number, from 1 on; reads no more of it at a time.

    Raises:
        UsageError: for a file that isn't there, or an encoding that there isn't, or whose lines can't be told.
        JaxgenError: for a file that can't be read, or has another encoding; names the line.
    """
    with reading(file, encoding):
        if not "a\n".encode(encoding).endswith(b"a\n"):
            raise UsageError(
                f"{shown(file)} can't be read line by line as {encoding}: write it as utf-8, and leave out --encoding"
            )
        for number, line in enumerate(_stored_lines(file), start=1):
            try:
                yield number, line.decode(encoding).removeprefix("\ufeff").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise JaxgenError(
                    f"{shown(file)}, line {number}: not {encoding}, byte 0x{error.object[error.start]:02x}; name "
                    "the right --encoding, such as latin-1"
                ) from error


def _stored_lines(file: Path) -> Iterator[bytes]:
    if file.suffix != _COMPRESSED:
        with file.open("rb") as opened:
            yield from opened
        return
    try:
        with gzip.open(file, "rb") as unpacked:
            yield from unpacked
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise JaxgenError(f"{shown(file)} is damaged, or no gzip file ({error}): pack it again") from error


def blank_lines(told: str, count: int, lines: int) -> list[str]:
    """Says how many of a file's lines are blank and so no rows, if any are."""
    return [f"{told}: {count:,} of {lines:,} lines are blank, and left out"] if count else []


def with_validation(
    splits: Mapping[str, Sequence[Row]], path: str, *, by_label: bool
) -> dict[str, list[Row]]:
    """Takes about a tenth of the rows to train on for validation, by their contents, where no file is for that.

    Args:
        splits: the rows of each, `train` among them.
        path: of the files, for errors.
        by_label: whether each label is to have rows on both sides.

    Raises:
        JaxgenError: where there are too few.
    """
    rows = {split: list(of_split) for split, of_split in splits.items()}
    if "validation" in rows:
        return rows
    train, validation = _divide(rows.pop("train"), by_label)
    if not validation:
        raise JaxgenError(f"{shown(path)} has too few different texts: none is left for validation")
    return {"train": train, "validation": validation, **rows}


def _divide(rows: Sequence[Row], by_label: bool) -> tuple[list[Row], list[Row]]:
    """Divides rows into those to train on and those that are held out."""
    digests = [_digest(row.text) for row in rows]
    classes: dict[str, list[str]] = {}
    for row, digest in zip(rows, digests, strict=True):
        classes.setdefault(row.other if by_label else "", []).append(digest)
    chosen = held_out(classes)
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row, digest in zip(rows, digests, strict=True):
        parts[digest in chosen].append(row)
    return parts


def version_of(splits: Mapping[str, Sequence[Row]]) -> str:
    """Gives a digest of all rows."""
    return _digest(
        "\n".join(f"{split}\t{row.text}\t{row.other}" for split in splits for row in splits[split])
    )[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
