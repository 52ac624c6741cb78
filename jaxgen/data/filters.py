"""Filters of pairs of texts: what is left out of the rows to train on, and a report of how much, and why.

Only rows to train on are left out. Of the others it is told how many are beyond the limits; they stay, so that figures
are of the whole split.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from jaxgen.data.sequences import Row, Table
from jaxgen.errors import UsageError

Count = Callable[[str], int]


@dataclass(frozen=True)
class PairLimits:
    """What pairs of texts must be to be trained on.

    Attributes:
        most_read: length of a text to read; None for any.
        most_written: length of a text to write; None for any.
        most_ratio: of the longer text's length to the shorter one's; None for any.

    Raises:
        UsageError: when it is made, for limits that no pair can meet.
    """

    most_read: int | None = None
    most_written: int | None = None
    most_ratio: float | None = None

    def __post_init__(self) -> None:
        """Refuses what can't be met."""
        for name, most in (("read", self.most_read), ("write", self.most_written)):
            if most is not None and most < 1:
                raise UsageError(f"no text to {name} has {most} tokens or fewer: give a larger limit")
        if self.most_ratio is not None and self.most_ratio < 1:
            raise UsageError(f"the ratio of lengths is 1 or more: {self.most_ratio} leaves no pair")

    def beyond(self, read: int, written: int) -> str | None:
        """Tells why a pair of texts of these lengths is beyond the limits; None where it isn't."""
        if min(read, written) < 1:
            return "empty"
        if self.most_read is not None and read > self.most_read:
            return f"more than {self.most_read} to read"
        if self.most_written is not None and written > self.most_written:
            return f"more than {self.most_written} to write"
        if self.most_ratio is not None and max(read, written) > self.most_ratio * min(read, written):
            return f"lengths in a ratio above {self.most_ratio:g}"
        return None


@dataclass(frozen=True)
class FilterReport:
    """What a filter has left out, and what it has met.

    Attributes:
        kept: rows to train on.
        dropped: rows that are no more trained on, by reason.
        rows: of each other split.
        beyond: of each other split, rows that would have been left out of training, by reason; all are kept.
    """

    kept: int
    dropped: Mapping[str, int]
    rows: Mapping[str, int]
    beyond: Mapping[str, Mapping[str, int]]

    def lines(self) -> Iterator[str]:
        """Tells it, a line each split that there is something to tell of."""
        if self.dropped:
            count = sum(self.dropped.values())
            yield (
                f"train: {count:,} of {self.kept + count:,} pairs are left out, lengths in tokens: "
                + _told(self.dropped)
            )
        for split, reasons in self.beyond.items():
            if reasons:
                yield (
                    f"{split}: {sum(reasons.values()):,} of {self.rows[split]:,} pairs are such as training leaves "
                    f"out; they are evaluated, cut off where they are too long: {_told(reasons)}"
                )


def _told(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def filter_pairs(
    table: Table,
    limits: PairLimits,
    count: Count,
    count_written: Count,
) -> tuple[Table, FilterReport]:
    """Leaves pairs out of the rows to train on that are beyond limits, come again, or stand in another split.

    Args:
        table: pairs of texts.
        limits: what they must be.
        count: gives the tokens of a text to read.
        count_written: gives those of a text to write.

    Returns:
        The table without these rows, and what was left out.

    Raises:
        UsageError: where nothing is left.
    """

    def beyond(row: Row) -> str | None:
        return limits.beyond(count(row.text), count_written(row.other))

    others = {split: rows for split, rows in table.splits.items() if split != "train"}
    seen = {
        (row.text, row.other): f"that stand in {split}"
        for split, rows in reversed(others.items())
        for row in rows
    }
    kept: list[Row] = []
    dropped: Counter[str] = Counter()
    for row in table.splits["train"]:
        reason = beyond(row)
        if reason is None:
            reason = seen.get((row.text, row.other))
            seen.setdefault((row.text, row.other), "that came before")
        if reason is None:
            kept.append(row)
        else:
            dropped[reason] += 1
    if not kept:
        raise UsageError(f"no pair is left to train on: {_told(dropped)}; give other limits")
    found = {split: Counter(filter(None, map(beyond, rows))) for split, rows in others.items()}
    rows = {split: len(of_split) for split, of_split in others.items()}
    return replace(table, splits={**table.splits, "train": kept}), FilterReport(
        len(kept), dropped, rows, found
    )
