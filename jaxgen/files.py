"""Files of a run directory: JSON that is there whole or not at all, and metrics a line at a time."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from jaxgen.errors import JaxgenError, UsageError, shown


def write_text(path: Path, text: str) -> None:
    """Writes a file that a reader, or a crash, sees either as it was or complete.

    Raises:
        JaxgenError: the disk is full, or the file can't be written.
    """
    with new_file(path) as file:
        # As surrogates Python holds what is no UTF-8, such as of a command line; it is written as it came.
        file.write(text.encode(errors="surrogateescape"))


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write, which a reader, or a crash, sees either as it was or complete, when the context is left.

    Raises:
        JaxgenError: the disk is full, or the file can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise JaxgenError(f"could not write {path}: {error.strerror}") from error
        raise


def suggested(path: Path, name: str) -> Path:
    """Suggests a file of the right kind: the path with the suffix of `name`, or that name in a directory."""
    return path / name if path.is_dir() or not path.stem.strip(".") else path.with_suffix(Path(name).suffix)


def check_csv(output: Path, header: Sequence[str]) -> None:
    """Refuses an `--output` that is no CSV, or would replace what is none with such a beginning of its header."""
    if output.suffix != ".csv" or output.is_dir():
        raise UsageError(f"the predictions are a CSV: --output {suggested(output, 'predictions.csv')}")
    if not output.exists():
        return
    with output.open(encoding="utf-8", errors="replace") as file:
        if not file.readline().startswith(",".join(header)):
            raise UsageError(f"{shown(output)} would be written over: give another --output")


def check_new(output: Path) -> None:
    """Refuses an `--output` for text that is there already, or lies in no directory."""
    if output.exists():
        raise UsageError(f"{shown(output)} would be written over: give another --output")
    if not output.parent.is_dir():
        raise UsageError(f"there is no directory {shown(output.parent)}: make it, or give another --output")


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes rows, the header first, as a CSV; its directory is made if need be.

    Raises:
        JaxgenError: where it can't be written.
    """
    text = io.StringIO()
    usual, quoted = (
        csv.writer(text, lineterminator="\n", quoting=kind) for kind in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    for row in rows:
        # Before Python 3.13 a carriage return isn't quoted by itself, and ends the row when it is read.
        (quoted if any("\r" in str(cell) for cell in row) else usual).writerow(row)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JaxgenError(f"could not write {path}: {error.strerror}") from error
    write_text(path, text.getvalue())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a JSON file that a reader, or a crash, sees either as it was or complete.

    Raises:
        JaxgenError: `value` is no JSON, the disk is full, or the file can't be written.
    """
    try:
        text = json.dumps(value, indent=2)
    except (TypeError, ValueError) as error:
        raise JaxgenError(f"could not write {path}: {error}") from error
    write_text(Path(path), text + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
        JaxgenError: the file is missing, can't be read or is no JSON; names the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise JaxgenError(f"there is no {path}") from error
    except OSError as error:
        raise JaxgenError(f"could not read {path}: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise JaxgenError(f"{path} is damaged, it is no JSON: {error}") from error


def append_line(file: TextIO, record: dict[str, Any]) -> None:
    """Appends one JSON object to an open JSONL file, past its buffer: it is in the file on return.

    Raises:
        JaxgenError: the disk is full, or the file can't be written.
    """
    line = (json.dumps(record) + "\n").encode()
    try:
        # What a full disk refused must not stay in the buffer, or closing the file would fail once more.
        while line:
            line = line[os.write(file.fileno(), line) :]
    except OSError as error:
        raise JaxgenError(f"could not write {file.name}: {error.strerror}; make room there") from error


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the objects of a JSONL file; none where the file is missing. A last line that was cut off is left out.

    Raises:
        JaxgenError: the file can't be read, or a line other than the last is no JSON.
    """
    path = Path(path)
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise JaxgenError(f"could not read {path}: {error}") from error
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise JaxgenError(f"{path} is damaged, a line is no JSON: {error}") from error


def truncate_after(path: str | os.PathLike[str], step: int) -> None:
    """Drops the lines of a JSONL file that a run resumed at `step` will write again.

    Lines whose "step" is greater go, and a last line that was cut off by a crash; lines without "step"
    stay. A missing file stays missing.

    Raises:
        JaxgenError: the file can't be read or written, or a line other than the last is no JSON object.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise JaxgenError(f"could not read {path}: {error.strerror}") from error
    # A line that lacks its newline was cut off, even where what is left of it happens to be JSON ("12" of 123).
    *lines, _ = content.split(b"\n")
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            keep = not isinstance(record.get("step"), int | float) or record["step"] <= step
        except (ValueError, AttributeError) as error:
            if number == len(lines):
                continue  # pages reach the disk in any order: a crash can leave zeros before the last newline
            raise JaxgenError(f"{path} is damaged: line {number} is no JSON object") from error
        if keep:
            kept.append(line + b"\n")
    if b"".join(kept) != content:
        write_text(path, b"".join(kept).decode())
