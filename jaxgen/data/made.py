"""What the sets have in common that are made on the spot: the parts of their splits."""

import types
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

from jaxgen.errors import UsageError


def part_of(
    splits: Mapping[str, Shaped[np.ndarray, "_ ..."]], name: str, split: str
) -> Shaped[np.ndarray, "examples ..."]:
    """Gives the examples of a split in tfds notation.

    Args:
        splits: the examples of each whole split.
        name: of the set.
        split: such as `train`, `train[:90%]`, `test`.

    Raises:
        UsageError: where there is no such split, or nothing in it.
    """
    import tensorflow_datasets as tfds

    try:
        lengths = {part: types.SimpleNamespace(num_examples=len(rows)) for part, rows in splits.items()}
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(lengths)
        chosen = np.concatenate([splits[part.splitname][part.from_ : part.to] for part in parts])
    except (ValueError, AssertionError, KeyError):
        chosen = np.array([])
    if not len(chosen):
        raise UsageError(
            f"{name} has the splits {' and '.join(splits)}, and parts of them such as train[:90%], not {split}"
        )
    return chosen
