"""Tables of texts by name: sets that come with Python or are made on the spot, or the path of files."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jaxgen.data import builders, docstrings, parallel, stored_rows, tsv
from jaxgen.data.sequences import Table
from jaxgen.errors import UsageError, unknown

_Read = Callable[[Path | str | None], Table]

_LABELLED: dict[str, _Read] = {"docstring_packages": docstrings.read_packages}
_MADE = ("copying", "dates", "number_words", "reversal", "sorting")
_PAIRS: dict[str, _Read] = {
    "docstrings": docstrings.read,
    **{name: functools.partial(stored_rows.read_pairs, name) for name in _MADE},
}


def read(
    name: str,
    *,
    labelled: bool,
    data_dir: Path | str | None = None,
    encoding: str = "utf-8",
    columns: Sequence[str] = (),
) -> Table:
    """Reads texts with their classes, or with texts to write.

    Args:
        name: `docstring_packages` (with classes) or, with texts, `docstrings`, `reversal`, `copying`, `sorting`, and by
            the extra `text` `dates` and `number_words`, none of which needs a network; or the path of a file, or of a
            directory of files, as `jaxgen.data.tsv` reads them; or of pairs, of two files or a directory of such, as
            `jaxgen.data.parallel` does.
        labelled: whether there are to be classes.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
        encoding: of files.
        columns: of pairs, what is read and what is written: columns of a table, by their numbers or names, or languages
            of parallel files.

    Raises:
        UsageError: for an unknown file, encoding or column, or a set of another kind.
        JaxgenError: for what can't be had or read, or is no such table.
    """
    _check_kind(name, labelled)
    wanted = _LABELLED if labelled else _PAIRS
    if name in wanted:
        return wanted[name](data_dir)
    if labelled:
        return tsv.read_labelled(name, encoding)
    if parallel.is_parallel(name):
        return parallel.read(name, columns, encoding)
    return tsv.read_pairs(name, encoding, columns)


def read_split(
    name: str,
    split: str | None,
    class_names: Sequence[str],
    *,
    data_dir: Path | str | None = None,
    encoding: str = "utf-8",
    columns: Sequence[str] = (),
) -> tuple[Table, str]:
    """Reads what a trained model is evaluated on, and names the split that it is.

    Args:
        name: as for `read`.
        split: of it; None for all rows of files, and of a set for the test split.
        class_names: those of the model; none where texts are to be written.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
        encoding: of files.
        columns: of pairs, as for `read`.

    Raises:
        UsageError: as `read`, and for an unknown split.
        JaxgenError: as `read`, and for other classes than the model's.
    """
    _check_kind(name, bool(class_names))
    if split is None and name not in (*_LABELLED, *_PAIRS):
        if not class_names and parallel.is_parallel(name):
            return parallel.read_all(name, columns, encoding), "all"
        return tsv.read_all(name, class_names, encoding, columns), "all"
    table = read(name, labelled=bool(class_names), data_dir=data_dir, encoding=encoding, columns=columns)
    split = split or "test"
    if split not in table.splits:
        raise unknown("split", split, table.splits)
    if class_names:
        tsv.check_labels(table.splits[split], class_names)
    return replace(table, class_names=tuple(class_names)), split


def _check_kind(name: str, labelled: bool) -> None:
    """Refuses a set of another kind, and says what is wanted."""
    wanted, others = (_LABELLED, _PAIRS) if labelled else (_PAIRS, _LABELLED)
    if name in others or (name not in wanted and not Path(name).exists() and builders.known(name)):
        told = "texts with classes" if labelled else "pairs of texts"
        raise UsageError(f"{name} holds no {told}: take {', '.join(wanted)}, or the path of a TSV")
