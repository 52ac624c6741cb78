"""Text: the documents of a tfds set, a file, or a directory of files."""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data import builders
from jaxgen.data.sources import Records
from jaxgen.errors import JaxgenError, UsageError, shown, unknown

# Of a file or directory: the parts for validation and for testing, at the end.
_BOUNDS = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}
_HELD_OUT_PERCENT = 5


@dataclass(frozen=True)
class Text:
    """A split of a text: what `read` gives.

    Attributes:
        name: of the set, file or directory.
        split: of it.
        documents: in order.
        version: of the set; of a file or directory, a digest of the whole text.
    """

    name: str
    split: str
    documents: tuple[str, ...] = field(repr=False)
    version: str

    def __len__(self) -> int:
        """The number of characters."""
        return sum(map(len, self.documents))


def is_path(name: str) -> bool:
    """Tells whether the name of a text is a path: by its form, or since something lies there that is no known set."""
    if name.startswith((".", "~", os.sep)) or name.endswith(os.sep):
        return True
    if builders.known(name):
        return False
    # pathlib's exists raises for long names.
    named_as_file = Path(name).suffix and os.path.isdir(Path(name).parent)  # noqa: PTH112
    return bool(named_as_file) or os.path.exists(name)  # noqa: PTH110


def split_names(
    name: str, train_split: str, test_split: str, data_dir: Path | str | None = None
) -> dict[str, str]:
    """Names the splits to train on, to choose by and to test on, as `read` takes them.

    A set without a split for validation holds out the last records of the training split; one without a test split
    has none, unless it was asked for.

    Raises:
        UsageError: where nothing can be held out.
        JaxgenError: where the set can't be had.
    """
    if is_path(name):
        return {"train": train_split, "validation": "validation", "test": test_split}
    available = builders.prepared(name, data_dir, text_key).info.splits
    names = {"train": train_split, "validation": "validation"}
    if "validation" not in available:
        if "[" in train_split or "+" in train_split:
            raise UsageError(
                f"{name} has no validation split, and none can be held out of {train_split}: train on a whole split"
            )
        kept = 100 - _HELD_OUT_PERCENT
        names = {"train": f"{train_split}[:{kept}%]", "validation": f"{train_split}[{kept}%:]"}
    if test_split != "test" or "test" in available:
        names["test"] = test_split
    return names


def read(
    name: str,
    split: str,
    *,
    data_dir: Path | str | None = None,
    encoding: str = "utf-8",
    as_bytes: bool = False,
) -> Text:
    """Reads a split of a text; `read_splits` reads several, and files only once.

    Args:
        name: `pydocs` or `pycode`, which come with Python; any tfds set of text; or the path of a file or directory
            of files, hidden ones left out. Of files the first nine tenths are for training, a twentieth each for
            validation and testing, cut at ends of lines.
        split: `train`, `validation` or `test`, or a sum such as `validation+test`; of a set in tfds notation.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
        encoding: of files.
        as_bytes: whether bytes that the encoding doesn't know are kept, as surrogates, for the tokenizer of bytes.

    Raises:
        UsageError: for an unknown set, split or encoding, or a set without text.
        JaxgenError: where it can't be had or read, is empty, or has another encoding.
    """
    (found,) = read_splits(name, [split], data_dir=data_dir, encoding=encoding, as_bytes=as_bytes)
    return found


def read_splits(
    name: str,
    splits: Iterable[str],
    *,
    data_dir: Path | str | None = None,
    encoding: str = "utf-8",
    as_bytes: bool = False,
) -> list[Text]:
    """Reads splits of a text, in the order in which they are named; see `read`."""
    if is_path(name):
        path = absolute(name)
        documents = _read_files(path, encoding, "surrogateescape" if as_bytes else "strict")
        digest = hashlib.sha256("\0".join(documents).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        parts = [(split, [_part(documents, *bounds) for bounds in _bounds(name, split)]) for split in splits]
        return [Text(str(path), split, tuple(itertools.chain(*found)), digest) for split, found in parts]
    builder = builders.prepared(name, data_dir, text_key)
    return [Text(name, split, _read_set(builder, name, split), str(builder.version)) for split in splits]


def _bounds(name: str, split: str) -> list[tuple[float, float]]:
    """Gives where the parts of a split, or of a sum of splits, begin and end."""
    parts = split.split("+")
    if unknown := [part for part in parts if part not in _BOUNDS]:
        raise UsageError(f"{shown(name)} has the splits train, validation and test, not {unknown[0]}")
    return [_BOUNDS[part] for part in parts]


def _read_set(builder: Any, name: str, split: str) -> tuple[str, ...]:
    key = text_key(builder, name)
    records = Records(builders.records(builder, name, split), str(builder.data_path))
    try:
        examples = records.read(np.arange(len(records)))
        return _ended([example[key].bytes_list.value[0].decode() for example in examples])
    except Exception as error:
        raise records.damaged(error) from error


def text_key(builder: Any, name: str) -> str:
    """Gives the key of a set's text.

    Raises:
        UsageError: for a set without text, or with several and none called `text`.
    """
    from tensorflow_datasets import features as kinds

    keys = [key for key, feature in builders.features_of(builder).items() if isinstance(feature, kinds.Text)]
    if "text" in keys:
        return "text"
    if len(keys) == 1:
        return keys[0]
    told = builders.told_features(builder)
    raise UsageError(f"{name} is no set of text, it has {told}: take one with a text")


def _read_files(path: Path, encoding: str, errors: str) -> tuple[str, ...]:
    if os.path.isdir(path):  # noqa: PTH112 (which a name that is too long doesn't stop)
        files = sorted(file for file in path.rglob("*") if file.is_file() and not hidden(file, path))
        if not files:
            raise JaxgenError(f"{shown(path)} holds no files")
    else:
        files = [path]
    documents = [text for file in files if (text := _read_file(file, encoding, errors))]
    if not any(document.strip() for document in documents):
        raise JaxgenError(f"{shown(path)} is empty: there is no text to train on")
    return _ended(documents)


def absolute(name: str) -> Path:
    """Gives where a file or directory lies, as a run must know it that is opened from elsewhere.

    Raises:
        UsageError: for the home of somebody unknown.
    """
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"there is no {name}: {error}") from error


def _ended(documents: Sequence[str]) -> tuple[str, ...]:
    """Gives documents that end with a line, so that none runs on into the next one; a single one is left as it is."""
    if len(documents) < 2:
        return tuple(documents)
    return tuple(document if document.endswith("\n") else f"{document}\n" for document in documents)


def hidden(file: Path, root: Path) -> bool:
    """Tells whether a file, or a directory that it lies in below a root, is a hidden one."""
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _read_file(file: Path, encoding: str, errors: str) -> str:
    with reading(file, encoding):
        content = file.read_bytes()
        return content.decode(encoding, errors).removeprefix("\ufeff").replace("\r\n", "\n")


@contextlib.contextmanager
def reading(file: Path, encoding: str) -> Iterator[None]:
    """Tells in one line why a file can't be read.

    Raises:
        UsageError: for a file that isn't there, or an encoding that there isn't.
        JaxgenError: for a file that can't be read, or has another encoding.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise unknown("file or directory", str(file), map(str, _beside(file))) from error
    except OSError as error:
        raise JaxgenError(f"can't read {shown(file)}: {error.strerror}") from error
    except LookupError as error:
        raise UsageError(
            f"unknown encoding {encoding!r}: give one that Python knows, such as latin-1"
        ) from error
    except UnicodeDecodeError as error:
        raise JaxgenError(
            f"{shown(file)} is not {encoding}: byte 0x{error.object[error.start]:02x} at offset {error.start:,}; name "
            "the right --encoding, such as latin-1, or take --tokenizer bytes"
        ) from error
    except UnicodeError as error:  # of encodings that are no encodings of text
        raise UsageError(
            f"can't read {shown(file)} as {encoding}: {error}; give another --encoding"
        ) from error


def _beside(file: Path) -> Sequence[Path]:
    try:
        return [other for other in file.parent.iterdir() if not other.name.startswith(".")]
    except OSError:
        return []


def _part(documents: Sequence[str], first: float, last: float) -> tuple[str, ...]:
    """Takes a part of the documents by characters, from the end of a line to the end of a line where there is one."""
    total = sum(map(len, documents))
    chosen, place = [], 0
    for document in documents:
        begin, end = (_line_end(document, share * total - place) for share in (first, last))
        if begin < end:
            chosen.append(document[begin:end])
        place += len(document)
    return tuple(chosen)


def _line_end(document: str, wanted: float) -> int:
    """Gives where the line ends that `wanted` lies in; `wanted` itself in a document of few long lines."""
    place = min(max(round(wanted), 0), len(document))
    if place in (0, len(document)):
        return place
    found = document.find("\n", place - 1) + 1
    return found if found and found - place <= len(document) / 100 else place
