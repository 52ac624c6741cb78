"""Additions as character sequences, made on the spot: "535+61" and "596"."""

import re

import numpy as np

from jaxgen.data.made import part_of
from jaxgen.data.sources import InMemory, Source
from jaxgen.errors import UsageError

CHARACTERS = "0123456789+ "

_NAME = re.compile(r"addition(?:/(\d+))?(/reversed)?")
_EXAMPLES, _TEST_EXAMPLES = 200_000, 5_000


def is_addition(name: str) -> bool:
    """Tells whether this is the name of a set of additions: `addition`, `addition/4`, `addition/3/reversed`."""
    return _NAME.fullmatch(name) is not None


def load(name: str, split: str) -> Source:
    """Makes a split of additions, none of which is in both: of three digits 122,241 to learn and 5,000 to test.

    An example is `input` int32 [2 * digits + 1], a question filled up with spaces, and `target` int32 [digits + 1], its
    answer, both in numbers of `CHARACTERS`. The numbers to add have any count of digits up to that of the name, 3 by
    default; with `reversed` the question is written from right to left (Sutskever et al. 2014, section 3.3).

    Raises:
        UsageError: for another split than `train` and `test`, or a count of digits out of 1 to 9.
    """
    found = _NAME.fullmatch(name)
    assert found is not None
    digits, backwards = int(found[1] or 3), found[2] is not None
    if not 1 <= digits <= 9:
        raise UsageError(f"{name}: numbers have 1 to 9 digits")
    pairs = _pairs(digits)
    held_out = min(_TEST_EXAMPLES, len(pairs) // 10)
    chosen = part_of({"train": pairs[held_out:], "test": pairs[:held_out]}, name, split)
    questions = [f"{a}+{b}".ljust(2 * digits + 1) for a, b in chosen]
    if backwards:
        questions = [question[::-1] for question in questions]
    answers = [f"{a + b}".ljust(digits + 1) for a, b in chosen]
    arrays = {"input": _encode(questions), "target": _encode(answers)}
    return Source(
        name,
        split,
        InMemory(arrays),
        num_classes=len(CHARACTERS),
        class_names=tuple(CHARACTERS),
        shape=(2 * digits + 1,),
        version="1",
    )


def _pairs(digits: int) -> np.ndarray:
    """Draws different pairs, always the same ones; (a, b) and (b, a) count as one."""
    random = np.random.Generator(np.random.Philox(0))
    lengths = random.integers(1, digits + 1, (3 * _EXAMPLES, 2))
    numbers = random.integers(0, 10**lengths)
    _, first = np.unique(np.sort(numbers, axis=1), axis=0, return_index=True)
    # Short numbers, of which there are few, are nearly all among the first draws.
    return random.permutation(numbers[np.sort(first)[:_EXAMPLES]])


def _encode(texts: list[str]) -> np.ndarray:
    table = np.zeros(128, np.int32)
    table[np.frombuffer(CHARACTERS.encode(), np.uint8)] = np.arange(len(CHARACTERS))
    return table[np.frombuffer("".join(texts).encode(), np.uint8)].reshape(len(texts), -1)
