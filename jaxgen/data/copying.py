"""The copy task, made on the spot: symbols to remember while nothing happens, and to write down at a cue."""

import re

import numpy as np

from jaxgen.data.made import part_of
from jaxgen.data.sources import InMemory, Source
from jaxgen.errors import UsageError

CHARACTERS = "abcdefgh·?"
"""The symbols, the blank and the cue."""

_NAME = re.compile(r"copy(?:/(\d+))?(?:/(\d+))?")
_LAG, _SYMBOLS = 100, 5
_EXAMPLES, _TEST_EXAMPLES = 50_000, 2_000
_KINDS = 8
_BLANK, _CUE = _KINDS, _KINDS + 1


def is_copying(name: str) -> bool:
    """Tells whether this is the name of a copy task: `copy`, `copy/50`, `copy/50/5`."""
    return _NAME.fullmatch(name) is not None


def load(name: str, split: str) -> Source:
    """Makes a split of the copy task of Hochreiter & Schmidhuber (1997), as Arjovsky et al. (2016) have it.

    An example is `input` int32 [lag + 2 * symbols] and `target` int32 [symbols], in numbers of `CHARACTERS`. The input
    is the target, each symbol one of eight, then lag - 1 blanks, a cue, and as many blanks again as there are symbols:
    the steps at which the target is to be written. The name gives the lag, 100 by default, and the number of symbols,
    5 by default. No target is in both splits: of 5 symbols there are 29,481 to learn and 2,000 to test, of 10 symbols
    50,000 and 2,000.

    Raises:
        UsageError: for another split than `train` and `test`, a lag out of 1 to 1000, or symbols out of 2 to 20.
    """
    found = _NAME.fullmatch(name)
    assert found is not None
    lag, symbols = int(found[1] or _LAG), int(found[2] or _SYMBOLS)
    if not 1 <= lag <= 1000:
        raise UsageError(f"{name}: the lag is 1 to 1000 steps")
    if not 2 <= symbols <= 20:
        raise UsageError(f"{name}: there are 2 to 20 symbols to remember")
    targets = _targets(symbols)
    held_out = min(_TEST_EXAMPLES, len(targets) // 10)
    targets = part_of({"train": targets[held_out:], "test": targets[:held_out]}, name, split)
    inputs = np.full((len(targets), lag + 2 * symbols), _BLANK, np.int32)
    inputs[:, :symbols] = targets
    inputs[:, symbols + lag - 1] = _CUE
    return Source(
        name,
        split,
        InMemory({"input": inputs, "target": targets}),
        num_classes=len(CHARACTERS),
        class_names=tuple(CHARACTERS),
        shape=(lag + 2 * symbols,),
        version="1",
    )


def _targets(symbols: int) -> np.ndarray:
    """Draws different sequences, always the same ones; of few symbols there are fewer."""
    random = np.random.Generator(np.random.Philox(0))
    drawn = random.integers(0, _KINDS, (2 * (_EXAMPLES + _TEST_EXAMPLES), symbols), dtype=np.int32)
    return random.permutation(np.unique(drawn, axis=0))[: _EXAMPLES + _TEST_EXAMPLES]
