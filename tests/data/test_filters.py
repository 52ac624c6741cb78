"""Filters: what is left out of the rows to train on is told, with its reason; nothing else is."""

import pytest

from jaxgen.data.filters import PairLimits, filter_pairs
from jaxgen.data.sequences import Row, Table
from jaxgen.errors import UsageError


def table(train, **others):
    splits = {"train": train, **others}
    return Table(
        "made up",
        {
            split: [Row(*pair, f"{split} {number}") for number, pair in enumerate(pairs)]
            for split, pairs in splits.items()
        },
        (),
        "1",
    )


TRAIN = [
    ("one two three", "un deux trois"),
    ("", "un deux"),  # no tokens
    ("one two three four five six", "un deux trois quatre cinq"),  # too long to read
    ("one two", "un deux trois quatre cinq six"),  # too long to write
    ("one two", "un deux trois quatre cinq"),  # ratio
    ("one two three", "un deux trois"),  # again
    ("one two three", "un deux deux"),  # another target: no duplicate
    ("two one", "deux un"),  # in test
    ("three two", "trois deux"),  # in validation
]
OTHERS = {
    "validation": [("three two", "trois deux"), ("a b c d e f g", "h i")],
    "test": [("two one", "deux un"), ("two one", "deux un"), ("a", "b")],
}


def words(text):
    return len(text.split())


LIMITS = PairLimits(most_read=5, most_written=5, most_ratio=2.0)


def test_what_is_left_out_is_told_by_its_reason():
    found, report = filter_pairs(table(TRAIN, **OTHERS), LIMITS, words, words)
    assert [row.place for row in found.splits["train"]] == ["train 0", "train 6"]
    assert report.kept == 2 and report.kept + sum(report.dropped.values()) == len(TRAIN)
    assert report.dropped == {
        "empty": 1,
        "more than 5 to read": 1,
        "more than 5 to write": 1,
        "lengths in a ratio above 2": 1,
        "that came before": 1,
        "that stand in test": 1,
        "that stand in validation": 1,
    }
    assert list(report.lines()) == [
        "train: 7 of 9 pairs are left out, lengths in tokens: 1 empty, 1 more than 5 to read, 1 more than 5 to "
        "write, 1 lengths in a ratio above 2, 1 that came before, 1 that stand in test, 1 that stand in validation",
        "validation: 1 of 2 pairs are such as training leaves out; they are evaluated, cut off where they are too "
        "long: 1 more than 5 to read",
    ]


def test_only_rows_to_train_on_are_left_out():
    given = table(TRAIN, **OTHERS)
    found, _ = filter_pairs(given, LIMITS, words, words)
    assert found.splits["test"] == given.splits["test"]
    assert found.splits["validation"] == given.splits["validation"]
    assert found.version == given.version and found.name == given.name


def test_without_limits_what_comes_once_stays():
    given = table([pair for pair in TRAIN[:5] if pair[0]])
    found, report = filter_pairs(given, PairLimits(), words, words)
    assert found == given and not report.dropped and not list(report.lines())


def test_lengths_are_what_is_counted():
    given = [pair for pair in dict.fromkeys(TRAIN) if pair[0]]
    _, report = filter_pairs(table(given), PairLimits(most_read=12), len, words)
    assert sum(report.dropped.values()) == sum(len(text) > 12 for text, _ in given) > 0
    _, report = filter_pairs(table(given), PairLimits(most_written=12), words, len)
    assert sum(report.dropped.values()) == sum(len(text) > 12 for _, text in given) > 0


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"most_written": 0}, "no text to write has 0 tokens or fewer"),
        ({"most_ratio": 0.5}, "the ratio of lengths is 1 or more: 0.5 leaves no pair"),
        (
            {"most_read": 1, "most_ratio": 1.0},
            "no pair is left to train on: 8 more than 1 to read, 1 empty; give",
        ),
    ],
)
def test_limits_that_leave_nothing(limits, told):
    with pytest.raises(UsageError, match=told):
        filter_pairs(table(TRAIN), PairLimits(**limits), words, words)
