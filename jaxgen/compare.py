"""Runs beside each other: what differs in their options, their figures, their curves, and what they write."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgen.config import completed
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.files import read_lines, suggested
from jaxgen.run_directory import RunDirectory
from jaxgen.train.hooks import format_value, say
from jaxgen.written_pairs import WrittenPairs, comparable, read_written, scored_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from jaxgen.significance import Standing

# With more runs than this, one a row is easier to read than one a column.
_COLUMNS = 4
_COMPARED = ("experiment", "task", "data", "optimizer", "training", "fine_tuning", "averaged", "steps")


@dataclass(frozen=True)
class Comparison:
    """Some runs, by name.

    Attributes:
        options: run to what differs between the runs in their options, `path: value`.
        figures: run to its final figures; of a run that isn't finished, the newest ones.
        histories: run to the figures that were written during it.
        written: of runs that write texts for texts, split to run to what it wrote, where it is for the same pairs.
        scored_by: what these texts are scored by, as the first of these runs is.
        notes: what of the texts can't be compared, in lines.
    """

    options: Mapping[str, Mapping[str, str]]
    figures: Mapping[str, Mapping[str, str]]
    histories: Mapping[str, list[dict[str, Any]]]
    written: Mapping[str, Mapping[str, WrittenPairs]] = field(default_factory=dict)
    scored_by: str = ""
    notes: Sequence[str] = ()

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

    def tests(self) -> "list[Table]":
        """Sets beside each other how well the runs write, a table a split, with the paired bootstrap's p-values."""
        from rich.table import Table
        from rich.text import Text

        from jaxgen.quality_plots import TITLES
        from jaxgen.significance import RESAMPLES, paired_bootstrap

        tables = []
        for split, runs in self.written.items():
            first, *_ = runs
            hypotheses = {run: pairs.hypotheses for run, pairs in runs.items()}
            found = paired_bootstrap(hypotheses, runs[first].targets, self.scored_by)
            table = Table(
                title=f"{split}, {len(runs[first].targets):,} pairs; differences to {first}, p of the paired bootstrap "
                f"(Koehn 2004), {RESAMPLES:,} resamples"
            )
            table.add_column("run", overflow="fold")
            for column in ("score", "", "95 % interval", "difference", "p"):
                table.add_column(column, no_wrap=True)
            for name, standings in found.items():
                for run, standing in standings.items():
                    table.add_row(Text(run), TITLES[name], *_cells(name, standing))
                table.add_section()
            tables.append(table)
        return tables

    def drawn(self, name: str) -> "dict[str, Figure]":
        """Draws the curves, and how well runs write by length: figures by file, `name` and perhaps `name`-by-length."""
        from jaxgen.quality_plots import quality_by_length

        figures = {name: self.figure()}
        for split, runs in list(self.written.items())[:1]:
            if by_length := quality_by_length(runs, self.scored_by, split):
                figures[f"{name}-by-length"] = by_length
        return figures

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
    figures = {}
    for name, directory in zip(names, directories, strict=True):
        found = directory.result() or _newest(histories[name])
        figures[name] = {key: format_value(key, value) for key, value in found.items()}
    if not any(figures.values()):
        raise JaxgenError("none of these runs has any figures yet: there is nothing to compare")
    flat = [_flatten({key: completed(config.get(key)) for key in _COMPARED}) for config in configs]
    differing = [
        key for key in dict.fromkeys(k for f in flat for k in f) if len({str(f.get(key)) for f in flat}) > 1
    ]
    options = {
        name: {key: str(f.get(key, "-")) for key in differing} for name, f in zip(names, flat, strict=True)
    }
    texts = _written(dict(zip(names, zip(directories, configs, strict=True), strict=True)))
    return Comparison(options, figures, histories, *texts)


def print_comparison(runs: Sequence[Path], output: Path | None = None) -> None:
    """Prints what runs have in common and what not, and draws it.

    Args:
        runs: their directories, two or more.
        output: the PNG of the curves; by default comparison.png beside the first run.

    Raises:
        JaxgenError: as `compare_runs` does, for fewer runs, and for an output that is no PNG or can't be written.
    """
    from rich.console import Console

    from jaxgen import plots

    if len({run.resolve() for run in runs}) < 2:
        raise UsageError("give two runs or more to compare")
    output = runs[0].parent / "comparison.png" if output is None else output
    if output.suffix != ".png" or output.is_dir():
        raise UsageError(f"the plot is a PNG: --output {suggested(output, 'comparison.png')}")
    comparison = compare_runs(list(dict.fromkeys(runs)))
    console = Console()
    for table in (comparison.table(), *comparison.tests()):
        console.print(table)
    for note in comparison.notes:
        say(note)
    for path in plots.save(comparison.drawn(output.stem), output.parent):
        say(f"plot: {path}")


def _written(
    runs: Mapping[str, tuple[RunDirectory, dict[str, Any]]],
) -> tuple[dict[str, dict[str, WrittenPairs]], str, list[str]]:
    """Finds what runs wrote for the same pairs: by split and run; what it is scored by; and what is left out."""
    kinds = {run: kind for run, (_, config) in runs.items() if (kind := scored_by(config))}
    if len(kinds) < 2:
        return {}, "", []
    found, notes = comparable({run: read_written(runs[run][0]) for run in kinds})
    first, kind = next(iter(kinds.items()))
    if found and len({*kinds.values()}) > 1:
        notes.append(f"scored by {kind}, as {first} is, though others are scored by something else")
    return found, kind, notes


def _cells(name: str, standing: "Standing") -> list[str]:
    """Writes a score, its interval, the difference and the p-value."""
    scale, sign = (100, " %") if name.endswith("accuracy") else (1, "")
    score, low, high = (f"{scale * value:.2f}" for value in (standing.score, standing.low, standing.high))
    cells = [f"{score}{sign}", f"{low} to {high}"]
    if standing.difference is None or standing.p_value is None:
        return [*cells, "", ""]
    return [*cells, f"{scale * standing.difference:+.2f}", f"{standing.p_value:.3f}"]


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
