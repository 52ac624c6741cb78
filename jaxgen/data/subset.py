"""A part of a table of texts to train on, as where labels are dear."""

import hashlib
from dataclasses import replace

from jaxgen.data.sequences import Row, Table
from jaxgen.errors import UsageError


def take_rows(table: Table, count: int, seed: int) -> Table:
    """Leaves so many rows to train on, as evenly of all classes as there are rows: a smaller part lies in a larger one.

    Which ones hangs on their contents and the seed, not on their order.

    Raises:
        UsageError: for more rows than there are, or fewer than classes.
    """
    rows, classes = table.splits["train"], table.class_names
    if not len(classes) <= count <= len(rows):
        raise UsageError(
            f"--labels {count:,}: there are {len(rows):,} rows to train on"
            + (f", of {len(classes)} classes, and each needs one" if classes else "")
        )

    def drawn(row: Row) -> str:
        return hashlib.sha256(f"{seed}\t{row.text}".encode("utf-8", "surrogatepass")).hexdigest()

    taken = dict.fromkeys(classes or ("",), 0)
    turns = []
    for place, row in sorted(enumerate(rows), key=lambda numbered: drawn(numbered[1])):
        name = row.other if classes else ""
        taken[name] += 1
        # The first ones of all classes come before the second ones, and so on.
        turns.append((taken[name], name, place))
    kept = sorted(place for *_, place in sorted(turns)[:count])
    return replace(table, splits={**table.splits, "train": [rows[place] for place in kept]})
