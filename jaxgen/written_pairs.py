"""What runs wrote for pairs of texts, read again from their `samples/`, and of which runs it can be compared."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgen.config import completed
from jaxgen.errors import JaxgenError, shortened, shown
from jaxgen.run_directory import RunDirectory
from jaxgen.text_scores import SCORES

HEADER = ("source", "hypothesis", "target")
"""Of a table of what is written."""
_SHOWN_LENGTH = 40


@dataclass(frozen=True)
class WrittenPairs:
    """What a run wrote for a split of pairs, row by row.

    Attributes:
        sources: the texts that were read.
        hypotheses: what was written for them.
        targets: what should have been.
    """

    sources: tuple[str, ...]
    hypotheses: tuple[str, ...]
    targets: tuple[str, ...]

    def difference(self, other: "WrittenPairs") -> str:
        """Tells where the other one's sources or targets are not the same; empty where they are."""
        if len(self.sources) != len(other.sources):
            return f"{len(other.sources):,} pairs, not {len(self.sources):,}"
        for name in ("sources", "targets"):
            rows = enumerate(zip(getattr(self, name), getattr(other, name), strict=True), start=1)
            for number, (ours, theirs) in rows:
                if ours != theirs:
                    ours, theirs = (shortened(text, _SHOWN_LENGTH) for text in (ours, theirs))
                    return f"other {name}, first in pair {number}: {theirs!r}, not {ours!r}"
        return ""


def scored_by(config: Mapping[str, Any]) -> str | None:
    """Gives what the texts that a run writes are scored by, see `jaxgen.text_scores`; None where it writes none."""
    found = (completed(config.get("task")) or {}).get("scored_by")
    return found if found in SCORES else None


def read_written(directory: RunDirectory) -> dict[str, WrittenPairs]:
    """Reads what a run wrote, by the name of the split, `test` first; other files in `samples/` are passed over.

    Raises:
        JaxgenError: where a file can't be read, or a row is not of three texts.
    """
    paths = sorted(directory.samples.glob("*.csv"), key=lambda path: (path.stem != "test", path.stem))
    found = {}
    for path in paths:
        header, *rows = _rows(path) or [[]]
        if tuple(header) != HEADER or not rows:
            continue
        for number, row in enumerate(rows, start=1):
            if len(row) != len(HEADER):
                raise JaxgenError(
                    f"{shown(path)} is damaged: its pair {number} has {len(row)} columns, not {len(HEADER)}; "
                    "jaxgen evaluate writes it again"
                )
        found[path.stem] = WrittenPairs(*zip(*rows, strict=True))
    return found


def comparable(
    runs: Mapping[str, Mapping[str, WrittenPairs]],
) -> tuple[dict[str, dict[str, WrittenPairs]], list[str]]:
    """Finds what runs wrote for the same pairs as the first one.

    Args:
        runs: run to what it wrote, by split.

    Returns:
        Of each split that the first run and others wrote for, what they wrote, by run; and what is left out, in lines.
    """
    first = next(iter(runs))
    found: dict[str, dict[str, WrittenPairs]] = {}
    notes = []
    splits = dict.fromkeys(split for written in runs.values() for split in written)
    if not splits:
        notes.append(
            f"none of {', '.join(runs)} has texts in samples/ to compare: jaxgen evaluate writes them"
        )
    for split in splits:
        of_split = {run: written[split] for run, written in runs.items() if split in written}
        notes += [
            f"{split}: {run} has no samples/{split}.csv to compare: jaxgen evaluate writes it"
            for run in runs
            if run not in of_split
        ]
        if first not in of_split:
            continue
        for run in list(of_split):
            if difference := of_split[first].difference(of_split[run]):
                notes.append(f"{split}: {run} can't be compared with {first}: it has {difference}")
                del of_split[run]
        if len(of_split) > 1:
            found[split] = of_split
    return found, notes


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            return list(csv.reader(file))
    except (OSError, csv.Error) as error:
        raise JaxgenError(f"could not read {shown(path)}: {error}") from error
