"""Buckets: pairs of texts of about one length share batches, so that little of what is computed is padding.

There is a fixed number of shapes, and so of compiled steps. Each batch is of one of them, and has about as many tokens
as any other: short pairs come in batches of many rows.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from jaxgen.errors import UsageError

MOST_BUCKETS = 16
_MULTIPLE = 8
_MOVES = (-8, -4, -2, -1, 1, 2, 4, 8)

Shape = tuple[int, int]
Lengths = Int[np.ndarray, "examples 2"]


class Bucket(NamedTuple):
    """The shape of a batch.

    Attributes:
        tokens: of each text to read, padding among them.
        labels: of each text to write; 0 where there is none.
        rows: examples.
    """

    tokens: int
    labels: int
    rows: int

    @property
    def size(self) -> int:
        """The tokens of a batch, padding among them."""
        return self.rows * (self.tokens + self.labels)

    def cut(self, examples: Mapping[str, Any]) -> dict[str, Any]:
        """Cuts padding off: `tokens` and `labels`, as long as the longest example has them, to the lengths here."""
        lengths = {"tokens": self.tokens, "continues": self.tokens, "labels": self.labels}
        return {
            name: values[:, : lengths[name]] if name in lengths else values
            for name, values in examples.items()
        }


@dataclass(frozen=True, eq=False)
class Buckets:
    """The examples of a source, each in the smallest bucket that it fits into.

    Attributes:
        shapes: from the smallest to the largest.
        lengths: of each example, the tokens to read and to write.
    """

    shapes: tuple[Bucket, ...]
    lengths: Lengths

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.lengths)

    @functools.cached_property
    def numbers(self) -> Int32[np.ndarray, " examples"]:
        """The bucket of each example."""
        numbers = np.full(len(self.lengths), -1, np.int32)
        for number, bucket in reversed([*enumerate(self.shapes)]):
            numbers[(self.lengths <= bucket[:2]).all(axis=1)] = number
        if len(numbers) and numbers.min() < 0:
            raise UsageError(f"an example is longer than the largest bucket: {self.shapes[-1]}")
        return numbers

    @property
    def in_use(self) -> tuple[Bucket, ...]:
        """The buckets that examples are in."""
        return tuple(self.shapes[number] for number in np.unique(self.numbers))

    @property
    def padding(self) -> float:
        """The part of an epoch's tokens that is padding, empty rows of last batches among them."""
        counts = np.bincount(self.numbers, minlength=len(self.shapes))
        whole = sum(-(-count // b.rows) * b.size for count, b in zip(counts, self.shapes, strict=True))
        return 1.0 - float(self.lengths.sum()) / float(whole)


def choose_buckets(
    lengths: Lengths,
    batch_tokens: int,
    longest: tuple[int, int],
    *,
    most: int = MOST_BUCKETS,
) -> tuple[Bucket, ...]:
    """Chooses shapes for batches of so many tokens, of which little is padding.

    It begins with one for all, and divides the one whose division saves most tokens of an epoch, at some length of
    what is read or written, as long as that saves any: a tree of two dimensions (Bentley 1975). Padded rows of last
    batches count, so that small sets get fewer buckets. Then it moves their sides, one at a time, while that saves any.
    The rows of a batch are a multiple of 8, so that as many devices and microbatches can share them.

    Args:
        lengths: of the examples to train on, the tokens to read and to write.
        batch_tokens: the most tokens of a batch, read and written, padding among them.
        longest: the most tokens to read and to write of any example; there is a bucket for it, if only for others
            than those to train on.
        most: buckets, at most.

    Raises:
        UsageError: where that leaves no room for the longest examples, or for a number of buckets below 1.
    """
    if most < 1:
        raise UsageError(f"there can't be {most} buckets: give 1 or more")
    least = _MULTIPLE * sum(longest)
    if batch_tokens < least:
        raise UsageError(
            f"batches of {batch_tokens:,} tokens have no room for {_MULTIPLE} pairs of texts of {longest[0]} and "
            f"{longest[1]}: give --batch-tokens {least} or more, or lower limits, --sequence-length and --target-length"
        )
    budget = _Budget(batch_tokens)
    divided = _divide(np.asarray(lengths, np.int64), budget, most - 1) if most > 1 else []
    choices = [
        tuple(Bucket(*shape, budget.rows(sum(shape))) for shape in sorted({*shapes, longest}, key=_by_size))
        for shapes in (divided, _moved(divided, longest, lengths))
    ]
    return min(choices, key=lambda shapes: Buckets(shapes, lengths).padding)


def _by_size(shape: Shape) -> tuple[int, Shape]:
    return sum(shape), shape


def _divide(lengths: Lengths, budget: "_Budget", most: int) -> list[Shape]:
    """Divides examples into groups, and gives the shape of each that has just room for it."""
    groups = [lengths]
    while len(groups) < most:
        divisions = [budget.division(group) for group in groups]
        saved = [division.saved for division in divisions]
        best = int(np.argmax(saved))
        if saved[best] <= 0:
            break
        column = groups[best][:, divisions[best].axis]
        longer = column > divisions[best].threshold
        groups[best : best + 1] = [groups[best][~longer], groups[best][longer]]
    return [(int(tokens), int(labels)) for tokens, labels in (group.max(axis=0) for group in groups)]


def _moved(shapes: Sequence[Shape], longest: Shape, lengths: Lengths) -> list[Shape]:
    """Moves the sides of shapes, one at a time, as long as that saves tokens; `longest` stays beside them."""
    counts = np.zeros((longest[0] + 1, longest[1] + 1))
    np.add.at(counts, (lengths[:, 0], lengths[:, 1]), 1)
    found: list[Shape] = [*shapes]
    before: list[Shape] = []
    while found != before:
        before = [*found]
        for place in range(len(found)):
            others = [*found[:place], *found[place + 1 :]]
            # What an example of these lengths takes without this shape: the smallest of the others with room for it.
            taken = np.full(counts.shape, sum(longest))
            for tokens, labels in others:
                np.minimum(
                    taken[: tokens + 1, : labels + 1], tokens + labels, out=taken[: tokens + 1, : labels + 1]
                )
            found[place] = max(_near(found[place], longest), key=functools.partial(_saved, counts, taken))
    return found


def _near(shape: Shape, longest: Shape) -> list[Shape]:
    """Gives a shape, and those that differ in one side."""
    tokens, labels = shape
    moved = [(tokens + by, labels) for by in _MOVES] + [(tokens, labels + by) for by in _MOVES]
    return [shape, *(one for one in moved if 1 <= one[0] <= longest[0] and 0 <= one[1] <= longest[1])]


def _saved(counts: np.ndarray, taken: np.ndarray, shape: Shape) -> float:
    """Gives the tokens that a shape saves of what examples of each length take without it."""
    room = (slice(shape[0] + 1), slice(shape[1] + 1))
    return float((counts[room] * np.maximum(taken[room] - sum(shape), 0)).sum())


class _Division(NamedTuple):
    """How a group of examples is divided: `axis` at most `threshold`, or more; and the tokens that this saves."""

    saved: float
    axis: int
    threshold: int


@dataclass(frozen=True)
class _Budget:
    """What a batch may have."""

    tokens: int

    def rows(self, sizes: Any) -> Any:
        """Gives the rows of batches whose rows have so many tokens."""
        return self.tokens // sizes // _MULTIPLE * _MULTIPLE

    def cost(self, counts: Any, sizes: Any) -> Any:
        """Gives the tokens of all batches of so many examples, each of so many tokens with its padding."""
        rows = self.rows(sizes)
        return -(-counts // rows) * rows * sizes

    def division(self, group: Lengths) -> _Division:
        """Finds the best division of a group of examples."""
        whole = self.cost(len(group), group.max(axis=0).sum())
        best = _Division(0.0, 0, 0)
        for axis in (0, 1):
            order = np.argsort(group[:, axis], kind="stable")
            along, across = group[order, axis], group[order, 1 - axis]
            places = np.flatnonzero(np.diff(along)) + 1
            if not len(places):
                continue
            below = along[places - 1] + np.maximum.accumulate(across)[places - 1]
            above = along[-1] + np.maximum.accumulate(across[::-1])[::-1][places]
            costs = self.cost(places, below) + self.cost(len(group) - places, above)
            place = int(costs.argmin())
            saved = float(whole - costs[place])
            if saved > best.saved:
                best = _Division(saved, axis, int(along[places[place] - 1]))
        return best
