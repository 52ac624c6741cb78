"""The kernel distance of two sets of features, KID (Bińkowski et al. 2018, section 3)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from jaxgen.image_quality.frechet import check_features

SUBSETS, SUBSET_SIZE = 100, 1000


class KernelDistance(NamedTuple):
    """A kernel distance, which is unbiased: of the same distribution it is 0 on average, and may be below.

    Attributes:
        mean: over the subsets.
        deviation: the standard deviation over the subsets: its error bar.
    """

    mean: float
    deviation: float


def kernel_distance(
    generated: Float[np.ndarray, "samples width"],
    real: Float[np.ndarray, "examples real_width"],
    seed: int = 0,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
) -> KernelDistance:
    """Gives the squared maximum mean discrepancy with the kernel (x·y / width + 1)³, over random subsets, in float64.

    Args:
        generated: features of generated images.
        real: of real ones.
        seed: of the choice of the subsets.
        subsets: how many.
        subset_size: images of each kind in one, without repetition; half of what there is at most, else all subsets
            would be the same and the error bar 0.

    Raises:
        UsageError: for fewer than four samples, or features of another width.
    """
    check_features(generated, real)
    generated, real = generated.astype(np.float64), real.astype(np.float64)
    size = max(2, min(subset_size, len(generated) // 2, len(real) // 2))
    rng = np.random.default_rng(seed)
    distances = [
        squared_discrepancy(
            generated[rng.choice(len(generated), size, replace=False)],
            real[rng.choice(len(real), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(distances)), float(np.std(distances)))


def squared_discrepancy(
    generated: Float64[np.ndarray, "samples width"], real: Float64[np.ndarray, "examples width"]
) -> float:
    """Gives the unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, equation 3)."""

    def among(features: np.ndarray) -> float:
        number = len(features)
        own = np.sum((np.sum(features**2, axis=1) / features.shape[1] + 1) ** 3)
        return float((_sum_of_kernel(features, features) - own) / (number * (number - 1)))

    between = _sum_of_kernel(generated, real) / (len(generated) * len(real))
    return among(generated) + among(real) - 2 * between


def _sum_of_kernel(
    left: Float64[np.ndarray, "left width"], right: Float64[np.ndarray, "right width"]
) -> float:
    """Sums the kernel over all pairs."""
    base = left @ right.T
    base /= left.shape[1]
    base += 1
    return float(np.einsum("ij,ij,ij->", base, base, base))
