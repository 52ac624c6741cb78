"""What queries are made of: words and vectors, alone or weighted, told from what is neither."""

from collections.abc import Iterable
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from jaxgen.errors import UsageError, shortened

Key: TypeAlias = str | np.ndarray
# A key, or several, each alone or with its weight; that it is nothing else is looked after here, in words for people.
Keys: TypeAlias = Any


def listed(keys: Keys) -> list[Any]:
    """Gives a list of what may be a single word or vector, rows of vectors, or None; looks at nothing in it."""
    if keys is None:
        return []
    single = not isinstance(keys, Iterable) or isinstance(keys, str)
    return [keys] if single or (isinstance(keys, np.ndarray) and keys.ndim == 1) else list(keys)


def weighted(keys: Keys, weight: float) -> list[tuple[Key, float]]:
    """Gives words and vectors with their weights, where they have none of their own with this one."""
    found: list[tuple[Key, float]] = []
    for item in listed(keys):
        match item:
            case str() | np.ndarray():
                found.append((item, weight))
            case [str() | np.ndarray() as key, own] if isinstance(own, Real) and np.isfinite(float(own)):
                found.append((key, float(own)))
            case _:
                raise neither(item)
    return found


def neither(item: object) -> UsageError:
    """Builds the error for what can't be asked about."""
    told = shortened(repr(item), 40)
    return UsageError(f"{told} is neither a word nor a vector: give a text, or a NumPy array")


def checked_word(key: Any) -> str:
    """Gives a word back; raises UsageError for anything else."""
    if not isinstance(key, str):
        raise UsageError(
            f"{shortened(repr(key), 40)} is no word: give a text; index_to_key has them by number"
        )
    return key
