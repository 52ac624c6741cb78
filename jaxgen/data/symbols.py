"""Sequences of symbols to be written backwards, copied or sorted, made on the spot.

The sizes are those of the reversal task of Joey NMT (Kreutzer et al. 2019): 50 symbols, in training up to 25 of them,
in validation and testing up to 30. What lies beyond is for asking how far a model generalises.
"""

import abc
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from jaxgen.data.sequences import Row
from jaxgen.data.stored_rows import MadePairs

_SYMBOLS = 50
_LONGEST_TRAINED, _LONGEST = 25, 30
_TRAIN, _HELD_OUT, _OF_LENGTH = 50_000, 1_000, 500
LENGTHS = (10, 20, 25, 30, 35, 40, 50)
"""Each has a split of its own, such as `length_30`, of sequences that are just so long."""


class _SymbolPairs(MadePairs):
    VERSION = tfds.core.Version("1.0.0")

    @abc.abstractmethod
    def _written(self, symbols: Sequence[int]) -> list[int]:
        """Gives what is to be written of a sequence."""

    def _splits(self) -> dict[str, list[Row]]:
        return {
            split: [
                Row(_told(symbols), _told(self._written(symbols)), f"{len(symbols)} symbols")
                for symbols in rows
            ]
            for split, rows in _draw().items()
        }


class Reversal(_SymbolPairs):
    """Sequences of the symbols 0 to 49, to be written backwards.

    50,000 of 1 to 25 symbols to train on, 1,000 each of 1 to 30 for validation and testing, none of which is trained
    on, and 500 of each of some lengths, from `length_10` to `length_50`.
    """

    name = "reversal"

    def _written(self, symbols: Sequence[int]) -> list[int]:
        return [*reversed(symbols)]


class Copying(_SymbolPairs):
    """Sequences of the symbols 0 to 49, to be written as they are; they are those of `reversal`."""

    name = "copying"

    def _written(self, symbols: Sequence[int]) -> list[int]:
        return [*symbols]


class Sorting(_SymbolPairs):
    """Sequences of the symbols 0 to 49, to be written in ascending order; they are those of `reversal`."""

    name = "sorting"

    def _written(self, symbols: Sequence[int]) -> list[int]:
        return sorted(symbols)


def _told(symbols: Sequence[int]) -> str:
    return " ".join(map(str, symbols))


def _draw() -> dict[str, list[tuple[int, ...]]]:
    """Draws the sequences of each split, always the same ones."""
    random = np.random.Generator(np.random.Philox(0))

    def draw(shortest: int, longest: int) -> tuple[int, ...]:
        length = random.integers(shortest, longest + 1)
        return tuple(map(int, random.integers(0, _SYMBOLS, length)))

    held_out = {split: [draw(1, _LONGEST) for _ in range(_HELD_OUT)] for split in ("validation", "test")}
    held_out |= {f"length_{length}": [draw(length, length) for _ in range(_OF_LENGTH)] for length in LENGTHS}
    taken = {sequence for of_split in held_out.values() for sequence in of_split}
    train: list[tuple[int, ...]] = []
    while len(train) < _TRAIN:
        sequence = draw(1, _LONGEST_TRAINED)
        if sequence not in taken:
            train.append(sequence)
    return {"train": train, **held_out}
