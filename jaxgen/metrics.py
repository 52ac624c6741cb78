"""Metrics as sums: adding two leaf by leaf, over steps, microbatches or devices, is exact.

Everywhere `weights` has the leading axes of what it weighs (one weight an example, or one a token); None
counts everything once. What has weight 0 changes nothing, whatever values it holds.
"""

import operator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Integer, Shaped

from jaxgen.errors import UsageError

AnyArray = Array | np.ndarray

CALIBRATION_BINS = 15


class Metric:
    """A pytree of float32 sums and the figure that they give; subclasses are `flax.struct` dataclasses.

    Float32 counts single examples up to 2**24; read and restart a metric before that.
    """

    def __add__(self, other: Any) -> Any:
        """Adds the sums of more examples, leaf by leaf."""
        return jax.tree.map(operator.add, self, other)

    def compute(self) -> Any:
        """Gives the figure as a float scalar: a NumPy one, without touching a device, if the sums are NumPy's."""
        raise NotImplementedError


@struct.dataclass
class Mean(Metric):
    """A weighted mean.

    Attributes:
        total: float32 scalar, the sum of weight times value.
        count: float32 scalar, the sum of the weights.
    """

    total: Any
    count: Any

    @classmethod
    def of(cls, values: Shaped[AnyArray, "..."], weights: Shaped[AnyArray, "..."] | None = None) -> "Mean":
        """Makes the mean of all elements of `values`, each with the weight of the example it belongs to.

        Raises:
            UsageError: if the shape of `weights` is not that of the leading axes of `values`.
        """
        values = jnp.asarray(values, jnp.float32)
        if weights is None:
            return cls(values.sum(), jnp.float32(values.size))
        weights = spread(weights, values.shape)
        return cls(_weighted_sum(values, weights), weights.sum())

    def compute(self) -> Any:
        """Gives total / count, and 0 where nothing was counted."""
        xp = _array_module(self.total, self.count)
        empty = self.count == 0
        return xp.where(empty, 0.0, self.total / xp.where(empty, 1.0, self.count))


@struct.dataclass
class Perplexity(Mean):
    """The exponential of a mean of nats: the number of equally likely choices that are as hard to foresee."""

    def compute(self) -> Any:
        """Gives exp(total / count), and 0 where nothing was counted."""
        mean = super().compute()
        xp = _array_module(self.total, self.count)
        return xp.where(self.count == 0, 0.0, xp.exp(mean))


@struct.dataclass
class Ratio(Metric):
    """One mean as a part of another.

    Attributes:
        numerator: a `Mean`.
        denominator: a `Mean`.
    """

    numerator: Any
    denominator: Any

    def compute(self) -> Any:
        """Gives the ratio, and 0 where the denominator is 0."""
        return Mean(self.numerator.compute(), self.denominator.compute()).compute()


@struct.dataclass
class R2(Metric):
    """The coefficient of determination, 1 - (squared residuals) / (squared deviations from the mean).

    As in scikit-learn, constant targets give 1 if they are met exactly and else 0. The spread of the targets
    is a difference of two sums, so it has lost all its digits once their mean is some 3,000 standard
    deviations away from zero; `r2(..., offset=...)` takes a constant off first.

    Attributes:
        count: float32 scalar, the sum of the weights.
        target_sum: float32 scalar, the weighted sum of the targets (less the offset).
        target_square_sum: float32 scalar, that of their squares.
        residual_square_sum: float32 scalar, that of the squared differences from the predictions.
    """

    count: Any
    target_sum: Any
    target_square_sum: Any
    residual_square_sum: Any

    def compute(self) -> Any:
        """Gives R², and 0 where nothing was counted."""
        xp = _array_module(*jax.tree.leaves(self))
        mean = Mean(self.target_sum, self.count).compute()
        spread_sum = xp.maximum(self.target_square_sum - mean * self.target_sum, 0.0)
        constant = spread_sum == 0
        share = self.residual_square_sum / xp.where(constant, 1.0, spread_sum)
        met = (self.residual_square_sum == 0) & (self.count != 0)
        return xp.where(constant, xp.where(met, 1.0, 0.0), 1 - share)


@struct.dataclass
class CalibrationError(Metric):
    """The expected calibration error of Guo et al. 2017 (equation 3), over 15 equal bins of confidence.

    Attributes:
        confidence: float32 [bins], the weighted sum of the highest probability of each example.
        correct: float32 [bins], the weighted number of right predictions.
        count: float32 [bins], the sum of the weights.
    """

    confidence: Any
    correct: Any
    count: Any

    def compute(self) -> Any:
        """Gives the mean distance of a bin's accuracy from its confidence, and 0 where nothing was counted."""
        return Mean(abs(self.correct - self.confidence).sum(), self.count.sum()).compute()


@struct.dataclass
class CalibratedCrossEntropy(Metric):
    """The cross-entropy of probabilities that are read off levels, each level standing for what follows it on average.

    A bound: no other way to read the levels costs less on these targets.

    Attributes:
        totals: float32 [levels], the weighted sum of the targets of each level.
        counts: float32 [levels], the sum of their weights.
        examples: float32 scalar, what the nats are divided by.
    """

    totals: Any
    counts: Any
    examples: Any

    def compute(self) -> Any:
        """Gives nats an example, and 0 where nothing was counted."""
        xp = _array_module(*jax.tree.leaves(self))
        share = self.totals / xp.where(self.counts == 0, 1.0, self.counts)
        share = xp.clip(share, 1e-12, 1 - 1e-6)
        nats = -(share * xp.log(share) + (1 - share) * xp.log1p(-share))
        return Mean((self.counts * nats).sum(), self.examples).compute()


def accuracy(
    logits: Float[AnyArray, "*batch classes"],
    labels: Integer[AnyArray, "*batch"],
    weights: Shaped[AnyArray, "..."] | None = None,
) -> Mean:
    """Counts the labels that have the highest logit; among equal logits the first class is the prediction."""
    check_labels(logits, labels)
    return Mean.of(jnp.argmax(logits, axis=-1) == labels, weights)


def top_k_accuracy(
    logits: Float[AnyArray, "*batch classes"],
    labels: Integer[AnyArray, "*batch"],
    k: int,
    weights: Shaped[AnyArray, "..."] | None = None,
) -> Mean:
    """Counts the labels whose logit is among the k highest.

    Ties count against the model: classes with a logit equal to the label's, or NaN, are ranked before it. So
    equal logits everywhere (a collapsed model, or bfloat16 rounding) score 0, not 1.

    Raises:
        UsageError: if k is not between 1 and the number of classes.
    """
    check_labels(logits, labels)
    if not 1 <= k <= logits.shape[-1]:
        raise UsageError(f"top-{k} accuracy needs k between 1 and the {logits.shape[-1]} classes")
    own = jnp.take_along_axis(jnp.asarray(logits), jnp.asarray(labels)[..., None], axis=-1)
    rank = jnp.sum(~(logits < own), axis=-1)  # 1 is the best; "not less" holds for NaN
    return Mean.of(rank <= k, weights)


def calibration_error(
    logits: Float[AnyArray, "*batch classes"],
    labels: Integer[AnyArray, "*batch"],
    weights: Shaped[AnyArray, "..."] | None = None,
) -> CalibrationError:
    """Sorts the predictions into bins by their probability, (0, 1/15], (1/15, 2/15], ... (14/15, 1]."""
    check_labels(logits, labels)
    logits = jnp.asarray(logits, jnp.float32)
    confidence = jax.nn.softmax(logits).max(axis=-1)
    weights = spread(jnp.float32(1) if weights is None else weights, confidence.shape)
    # As integers before the clip: NaN lands in some bin and shows, where a NaN index would be in none.
    bins = jnp.ceil(confidence * CALIBRATION_BINS).astype(jnp.int32) - 1
    bins = jnp.clip(bins, 0, CALIBRATION_BINS - 1)
    member = (bins[..., None] == jnp.arange(CALIBRATION_BINS)) * weights[..., None]
    correct = jnp.argmax(logits, axis=-1) == labels
    examples = tuple(range(confidence.ndim))
    return CalibrationError(
        confidence=_weighted_sum(confidence[..., None], member, examples),
        correct=_weighted_sum(correct[..., None], member, examples),
        count=member.sum(examples),
    )


def calibrated_cross_entropy(
    values: Float[AnyArray, "batch *shape"],  # noqa: F821
    targets: Float[AnyArray, "..."],
    examples: Shaped[AnyArray, ""] | float,
    weights: Shaped[AnyArray, "..."] | None = None,
    *,
    levels: int = 16,
) -> CalibratedCrossEntropy:
    """Sums what `CalibratedCrossEntropy` needs of values from 0 to 1, which are rounded to levels.

    Args:
        values: that the probabilities are read off.
        targets: from 0 to 1, of the values' shape.
        examples: what the nats of all values together are to be divided by.
        weights: see above.
        levels: how many.
    """
    check_same_shape(values, targets)
    of_values = spread(jnp.float32(1) if weights is None else weights, values.shape)
    targets = jnp.asarray(targets, jnp.float32)
    rounded = jnp.rint(jnp.asarray(values) * (levels - 1))
    members = [jnp.where(rounded == level, of_values, 0) for level in range(levels)]
    return CalibratedCrossEntropy(
        totals=jnp.stack([_weighted_sum(targets, member) for member in members]),
        counts=jnp.stack([member.sum() for member in members]),
        examples=jnp.float32(examples),
    )


def r2(
    predictions: Float[AnyArray, "..."],
    targets: Float[AnyArray, "..."],
    weights: Shaped[AnyArray, "..."] | None = None,
    *,
    offset: float = 0.0,
) -> R2:
    """Sums what the coefficient of determination needs; all elements belong to one target variable.

    Args:
        predictions: of the targets' shape.
        targets: the true values.
        weights: see above.
        offset: a constant near the targets' mean, the same in all sums that are added. R² doesn't depend on
            it, its rounding error does; see `R2`.
    """
    check_same_shape(predictions, targets)
    predictions = jnp.asarray(predictions, jnp.float32)
    targets = jnp.asarray(targets, jnp.float32)
    weights = spread(jnp.float32(1) if weights is None else weights, targets.shape)
    shifted = targets - offset
    return R2(
        count=weights.sum(),
        target_sum=_weighted_sum(shifted, weights),
        target_square_sum=_weighted_sum(shifted**2, weights),
        residual_square_sum=_weighted_sum((targets - predictions) ** 2, weights),
    )


def spread(weights: Shaped[AnyArray, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Repeats weights of the leading axes over the others, as float32 of the whole shape.

    NumPy's rule would align the last axes: a [batch] of weights with the classes, say.
    """
    weights = jnp.asarray(weights, jnp.float32)
    if weights.shape != shape[: weights.ndim]:
        raise UsageError(f"weights of shape {weights.shape} don't fit values of shape {shape}")
    return jnp.broadcast_to(weights.reshape(*weights.shape, *(1,) * (len(shape) - weights.ndim)), shape)


def check_labels(logits: Any, labels: Any) -> None:
    """Refuses labels that are not one for each row of logits; broadcasting would hide it."""
    if logits.shape[:-1] != labels.shape:
        raise UsageError(
            f"logits of shape {logits.shape} need labels of shape {logits.shape[:-1]}, not {labels.shape}"
        )


def check_same_shape(predictions: Any, targets: Any) -> None:
    """Refuses targets of another shape; [batch, 1] and [batch] would broadcast to [batch, batch]."""
    if predictions.shape != targets.shape:
        raise UsageError(f"predictions of shape {predictions.shape} and targets of {targets.shape} don't fit")


def _weighted_sum(
    values: Shaped[Array, "..."], weights: Float[Array, "..."], axes: tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    # 0 times the NaN or infinity of a padding row would spoil the sum.
    return jnp.sum(jnp.where(weights == 0, 0, values) * weights, axis=axes)


def _array_module(*leaves: Any) -> ModuleType:
    """Chooses NumPy for sums on the host: JAX would queue the arithmetic behind the running step."""
    return jnp if any(isinstance(leaf, jax.Array) for leaf in leaves) else np
