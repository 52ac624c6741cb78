"""A part of a table: evenly of all classes, the same in any order, smaller parts in larger ones."""

import collections
import itertools
from dataclasses import replace

import pytest

from jaxgen.data.sequences import Row, Table
from jaxgen.data.subset import take_rows
from jaxgen.errors import UsageError

SIZES = {"few": 3, "many": 40, "some": 12}
ROWS = [Row(f"{name} {number}", name, "") for name, size in SIZES.items() for number in range(size)]
TABLE = Table("a", {"train": ROWS, "test": ROWS[:5]}, tuple(SIZES), "1")


def taken(count, seed=0, table=TABLE):
    found = take_rows(table, count, seed)
    assert found.splits["test"] == table.splits["test"]
    return found.splits["train"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, (1, 1, 1)), (9, (3, 3, 3)), (21, (3, 9, 9)), (40, (3, 25, 12)), (55, (3, 40, 12))],
)
def test_classes_have_as_many_each_as_there_are(count, expected):
    counts = collections.Counter(row.other for row in taken(count))
    assert tuple(counts[name] for name in SIZES) == expected


def test_what_is_left_over_is_shared_out():
    counts = collections.Counter(row.other for row in taken(11))
    assert sorted(counts.values()) == [3, 4, 4] and len(taken(11)) == 11


def test_more_rows_hold_the_fewer_ones_in_their_order():
    parts = [taken(count) for count in range(3, 56)]
    for fewer, more in itertools.pairwise(parts):
        assert {*fewer} < {*more}
        assert more == [row for row in ROWS if row in more]
    assert parts[-1] == ROWS


def test_it_hangs_on_the_seed_and_not_on_the_order():
    turned = replace(TABLE, splits={**TABLE.splits, "train": ROWS[::-1]})
    assert {*taken(20, table=turned)} == {*taken(20)} != {*taken(20, seed=1)}


def test_pairs_have_no_classes():
    pairs = Table(
        "a", {"train": [Row(str(number), "", "") for number in range(30)], "test": ROWS[:1]}, (), "1"
    )
    assert len({*taken(7, table=pairs)}) == 7


def test_too_many_and_too_few_are_refused():
    with pytest.raises(
        UsageError, match="--labels 56: there are 55 rows to train on, of 3 classes, and each needs one"
    ):
        taken(56)
    with pytest.raises(UsageError, match="--labels 2: there are 55 rows"):
        taken(2)
