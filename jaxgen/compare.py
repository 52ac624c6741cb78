"""Runs beside each other: what differs in their options, their figures, and their curves."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgen.config import completed
from jaxgen.errors import JaxgenError
from jaxgen.files import read_lines
from jaxgen.run_directory import RunDirectory
from jaxgen.train.hooks import format_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

# With more runs than this, one a row is easier to read than one a column.
_COLUMNS = 4
_COMPARED = ("experiment", "task", "data", "optimizer", "training", "fine_tuning", "steps")


@dataclass(frozen=True)
class Comparison:
    """Some runs, by name.

    Attributes:
        options: run to what differs between the runs in their options, `path: value`.
        figures: run to its final figures; of a run that isn't finished, the newest ones.
        histories: run to the figures that were written during it.
    """

    options: Mapping[str, Mapping[str, str]]
    figures: Mapping[str, Mapping[str, str]]
    histories: Mapping[str, list[dict[str, Any]]]

    def table(self) -> "Table":
        """Sets options and figures side by side: a run a column, or a row where there are many."""
        from rich.table import Table
        from rich.text import Text

        runs = list(self.figures)
        cells = {run: {**self.options[run], **self.figures[run]} for run in runs}
        names = list(
            dict.fromkeys(name for kind in (self.options, self.figures) for run in runs for name in kind[run])
        )
        table = Table("")
        across = len(runs) <= _COLUMNS
        for title in runs if across else names:
            table.add_column(Text(title), overflow="fold")
        for name in names if across else runs:
            row = (
                [(cells[run], name) for run in runs]
                if across
                else [(cells[name], column) for column in names]
            )
            table.add_row(Text(name), *(Text(found.get(key, "-")) for found, key in row))
        return table

    def figure(self) -> "Figure":
        """Draws all curves in one picture."""
        from jaxgen import plots

        return plots.compare_curves(self.histories)


def compare_runs(paths: Iterable[Path]) -> Comparison:
    """Reads runs to compare.

    Raises:
        JaxgenError: where a directory holds no run, or none of them has any figures yet.
    """
    directories = [RunDirectory(path) for path in paths]
    configs = [directory.config() for directory in directories]
    names = _names([directory.path for directory in directories])
    histories = dict(
        zip(names, (read_lines(directory.metrics_path) for directory in directories), strict=True)
    )
    if not any(histories.values()):
        raise JaxgenError("none of these runs has any figures yet: there is nothing to compare")
    figures = {}
    for name, directory in zip(names, directories, strict=True):
        found = directory.result() or _newest(histories[name])
        figures[name] = {key: format_value(key, value) for key, value in found.items()}
    flat = [_flatten({key: completed(config.get(key)) for key in _COMPARED}) for config in configs]
    differing = [
        key for key in dict.fromkeys(k for f in flat for k in f) if len({str(f.get(key)) for f in flat}) > 1
    ]
    options = {
        name: {key: str(f.get(key, "-")) for key in differing} for name, f in zip(names, flat, strict=True)
    }
    return Comparison(options, figures, histories)


def _newest(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Gives the newest value of each figure, and the step that the run has come to."""
    found: dict[str, Any] = {}
    for record in history:
        found.update(record)
    return {"steps": f"{found.pop('step')} so far", **found} if found else {}


def _names(paths: list[Path]) -> list[str]:
    """Gives the paths without the directory that they share."""
    shared = os.path.commonpath([path.absolute().parent for path in paths])
    return [str(path.absolute().relative_to(shared)) for path in paths]


def _flatten(described: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(described, Mapping):
        return {prefix: described}
    parts = [_flatten(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in described.items()]
    return {key: value for part in parts for key, value in part.items()}
