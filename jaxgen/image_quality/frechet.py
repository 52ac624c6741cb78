"""The Fréchet distance of two sets of features, each taken for a Gaussian (Heusel et al. 2017, equation 6)."""

import numpy as np
from jaxtyping import Float, Float64

from jaxgen.errors import UsageError


def frechet_distance(
    generated: Float[np.ndarray, "samples width"], real: Float[np.ndarray, "examples real_width"]
) -> float:
    """Gives |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½) of the means and covariances, in float64.

    It is biased upwards, the more the fewer samples: compare figures of equal numbers only.

    Raises:
        UsageError: for fewer than two samples, or features of another width.
    """
    check_features(generated, real)
    (mean, covariance), (real_mean, real_covariance) = map(_statistics, (generated, real))
    # C1 C2 has the eigenvalues of C1^½ C2 C1^½, which is symmetric: theirs are exact and never negative or complex.
    root = _root(covariance)
    eigenvalues = np.linalg.eigvalsh(root @ real_covariance @ root)
    trace_of_root = np.sqrt(eigenvalues.clip(0)).sum()
    distance = np.sum((mean - real_mean) ** 2) + np.trace(covariance + real_covariance) - 2 * trace_of_root
    return float(distance)


def check_features(generated: np.ndarray, real: np.ndarray) -> None:
    """Refuses features that can't be compared.

    Raises:
        UsageError: for fewer than two samples, features of another width, and such as aren't finite.
    """
    if min(len(generated), len(real)) < 2:
        raise UsageError(
            f"there are {len(generated)} and {len(real)} samples to compare: it takes two or more"
        )
    if generated.shape[1] != real.shape[1]:
        raise UsageError(f"features of {generated.shape[1]} and of {real.shape[1]} numbers can't be compared")
    if not (np.isfinite(generated).all() and np.isfinite(real).all()):
        raise UsageError("features that aren't finite can't be compared")


def _statistics(
    features: Float[np.ndarray, "samples width"],
) -> tuple[Float64[np.ndarray, " width"], Float64[np.ndarray, "width width"]]:
    features = features.astype(np.float64)
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def _root(covariance: Float64[np.ndarray, "width width"]) -> Float64[np.ndarray, "width width"]:
    """Gives the symmetric square root of a matrix that is positive up to rounding."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
