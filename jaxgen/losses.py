"""Losses: pure functions of predictions, targets and weights that give a `Mean`, summed in float32.

`weights` has the leading axes of the targets; what has weight 0 changes neither the loss nor its gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Shaped

from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray, Mean, check_labels, check_same_shape, spread


def cross_entropy(
    logits: Float[AnyArray, "*batch classes"],
    labels: Integer[AnyArray, "*batch"],
    weights: Shaped[AnyArray, "..."] | None = None,
    label_smoothing: float = 0.0,
) -> Mean:
    """Gives the cross-entropy (nats) of softmax(logits) against integer labels.

    Args:
        logits: of any float dtype; the arithmetic is float32.
        labels: class numbers; those of weight 0 may lie outside of the classes.
        weights: see above.
        label_smoothing: part of each label that is spread evenly over all classes, its own included
            (Szegedy et al. 2016, section 7).

    Raises:
        UsageError: if `label_smoothing` is not in [0, 1), or the shapes don't fit.
    """
    check_labels(logits, labels)
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 1")
    logits = _without_padding(jnp.asarray(logits, jnp.float32), weights)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    # Compared, not gathered: the gradient of a gather is a scatter, which nothing else is fused with.
    chosen = jnp.asarray(labels)[..., None] == jnp.arange(logits.shape[-1])
    target = jnp.where(chosen.any(axis=-1), jnp.where(chosen, logits, 0).sum(axis=-1), jnp.nan)
    if label_smoothing:
        target = (1 - label_smoothing) * target + label_smoothing * logits.mean(axis=-1)
    return Mean.of(log_normalizer - target, weights)


def mean_squared_error(
    predictions: Float[AnyArray, "..."],
    targets: Float[AnyArray, "..."],
    weights: Shaped[AnyArray, "..."] | None = None,
) -> Mean:
    """Gives the mean over all target elements of the squared difference, as PyTorch's MSELoss does."""
    return Mean.of(_difference(predictions, targets, weights) ** 2, weights)


def huber(
    predictions: Float[AnyArray, "..."],
    targets: Float[AnyArray, "..."],
    weights: Shaped[AnyArray, "..."] | None = None,
    delta: float = 1.0,
) -> Mean:
    """Gives the mean Huber loss: d² / 2 for differences up to delta, delta (|d| - delta / 2) beyond.

    Raises:
        UsageError: if `delta` is not positive, or the shapes don't fit.
    """
    if not delta > 0:
        raise UsageError(f"delta is {delta}; it must be positive")
    distance = jnp.abs(_difference(predictions, targets, weights))
    # Both branches from one clipped value: no infinity squared, so no NaN in the gradient of the other branch.
    quadratic = jnp.minimum(distance, delta)
    return Mean.of(quadratic * (distance - quadratic / 2), weights)


def _difference(
    predictions: Float[AnyArray, "..."],
    targets: Float[AnyArray, "..."],
    weights: Shaped[AnyArray, "..."] | None,
) -> Float[Array, "..."]:
    check_same_shape(predictions, targets)
    difference = jnp.asarray(predictions, jnp.float32) - jnp.asarray(targets, jnp.float32)
    return _without_padding(difference, weights)


def _without_padding(
    values: Float[Array, "..."], weights: Shaped[AnyArray, "..."] | None
) -> Float[Array, "..."]:
    """Puts zeros where the weight is 0: the gradient of a NaN is NaN, even at weight 0."""
    return values if weights is None else jnp.where(spread(weights, values.shape) == 0, 0, values)
