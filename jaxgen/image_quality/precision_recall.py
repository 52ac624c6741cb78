"""Precision and recall of generated images by nearest neighbours (Kynkäänniemi et al. 2019, equations 1 and 2)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from jaxgen.errors import UsageError
from jaxgen.image_quality.frechet import check_features

NEIGHBOURS = 3
# Rows of a matrix of distances that are worked on at a time.
_BLOCK = 200


class PrecisionAndRecall(NamedTuple):
    """What part of the generated images looks real, and what part of the real ones could be generated.

    Attributes:
        precision: part of the generated features that lie among the real ones.
        recall: part of the real features that lie among the generated ones.
    """

    precision: float
    recall: float


def precision_and_recall(
    generated: Float[np.ndarray, "samples width"],
    real: Float[np.ndarray, "examples real_width"],
    neighbours: int = NEIGHBOURS,
) -> PrecisionAndRecall:
    """Gives precision and recall, where each set lies in balls around its features, to their k-th nearest neighbours.

    Args:
        generated: features of generated images.
        real: of real ones.
        neighbours: k, the feature itself not counted.

    Raises:
        UsageError: for no more samples than neighbours, or features of another width.
    """
    check_features(generated, real)
    if min(len(generated), len(real)) <= neighbours:
        raise UsageError(f"with {neighbours} neighbours it takes {neighbours + 1} samples or more")
    generated, real = generated.astype(np.float64), real.astype(np.float64)
    return PrecisionAndRecall(
        precision=float(_covered(generated, real, neighbours).mean()),
        recall=float(_covered(real, generated, neighbours).mean()),
    )


def _covered(
    points: Float64[np.ndarray, "points width"],
    centres: Float64[np.ndarray, "centres width"],
    neighbours: int,
) -> Bool[np.ndarray, " points"]:
    """Tells which points lie in a ball around any of the centres."""
    radii = np.concatenate(
        [np.partition(rows, neighbours, axis=1)[:, neighbours] for rows in _squared(centres, centres)]
    )
    return np.concatenate([(rows <= radii).any(axis=1) for rows in _squared(points, centres)])


def _squared(
    points: Float64[np.ndarray, "points width"], centres: Float64[np.ndarray, "centres width"]
) -> Iterator[Float64[np.ndarray, "block centres"]]:
    """Gives the squared distances of points from centres, some rows at a time."""
    # |x|² - 2 x·c + |c|² as one product: the matrix is large, and every pass over it costs as much.
    squares, of_centres = (np.sum(values**2, axis=1, keepdims=True) for values in (points, centres))
    left = np.concatenate([-2 * points, squares, np.ones_like(squares)], axis=1)
    right = np.concatenate([centres, np.ones_like(of_centres), of_centres], axis=1).T
    for first in range(0, len(points), _BLOCK):
        yield left[first : first + _BLOCK] @ right
