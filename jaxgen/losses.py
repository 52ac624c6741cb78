"""Losses: pure functions of predictions, targets and weights that give a `Mean`, summed in float32.

`weights` has the leading axes of the targets; what has weight 0 changes neither the loss nor its gradient.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, Shaped

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
    _check_smoothing(label_smoothing)
    logits = _without_padding(jnp.asarray(logits, jnp.float32), weights)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    target, _ = _of_labels(logits, jnp.asarray(labels))
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


# Labels, their weights, and what else they may come of.
_Targets = tuple[Array, Array, "Mixture | None"]

# Elements of the logits that exist at once, and the fewest tokens of them: smaller products are slow.
_CHUNK_ELEMENTS, _CHUNK_TOKENS = 2**20, 512


class Mixture(NamedTuple):
    """What labels may come of beside a softmax: they have the probability exp(log_share) softmax + exp(log_other).

    Attributes:
        log_share: of the softmax, [batch, time].
        log_other: of the label by what there is beside, [batch, time].
    """

    log_share: Array
    log_other: Array


def linear_cross_entropy(
    hidden: Float[AnyArray, "batch time width"],
    kernel: Float[AnyArray, "width vocabulary"],
    bias: Float[AnyArray, " vocabulary"],
    labels: Integer[AnyArray, "..."],
    weights: Shaped[AnyArray, "..."] | None = None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    mixture: Mixture | None = None,
) -> Mean:
    """Gives the cross-entropy (nats) of softmax(hidden @ kernel + bias), and never has all logits at once.

    It goes through the time axis chunk by chunk, and forms the gradients on the way where they will be asked for: less
    memory than logits, and faster. With tied weights `kernel` is the transposed embedding.

    Args:
        hidden: of any float dtype, in which the products are made; the rest of the arithmetic is float32.
        kernel: of the last layer.
        bias: its bias; zeros for none.
        labels: token numbers; those of weight 0 may lie outside of the vocabulary.
        weights: of the examples [batch] or tokens [batch, time]; there is no gradient of them.
        label_smoothing: part of each label that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
        z_loss: factor of the squared logarithm of the normaliser, which is added (de Brebisson & Vincent 2016).
        mixture: what else labels may come of, such as copying.

    Raises:
        UsageError: if `label_smoothing` is not in [0, 1), or the shapes don't fit; for it and `z_loss` with a mixture.
    """
    hidden, kernel, bias, labels = (jnp.asarray(leaf) for leaf in (hidden, kernel, bias, labels))
    _check_smoothing(label_smoothing)
    if mixture is not None and (label_smoothing or z_loss):
        raise UsageError(
            "label smoothing and z-loss are for a softmax alone, not for one with copying: leave them 0"
        )
    check_same_shape(hidden[..., 0], labels)
    counted = jnp.ones(labels.shape) if weights is None else spread(weights, labels.shape)
    hidden = jnp.where(counted[..., None] == 0, 0, hidden)
    total = _head_total((label_smoothing, z_loss), hidden, kernel, bias, (labels, counted, mixture))
    return Mean(total, counted.sum())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _head_total(
    settings: tuple[float, float], hidden: Array, kernel: Array, bias: Array, targets: _Targets
) -> Array:
    def add(totals: Array, chunk: Any) -> tuple[Array, None]:
        return totals + _chunk_totals(settings, chunk, kernel, bias)[0], None

    zeros = jnp.zeros(len(hidden), jnp.float32)
    return jax.lax.scan(add, zeros, _in_chunks(kernel.shape[1], (hidden, targets)))[0].sum()


def _head_forwards(
    settings: tuple[float, float], hidden: Array, kernel: Array, bias: Array, targets: _Targets
) -> tuple[Array, tuple[Array, Array, Array, Mixture | None]]:
    def add(sums: Any, chunk: Any) -> tuple[Any, tuple[Array, Mixture | None]]:
        totals, of_kernel, of_bias = sums
        values, of_logits, of_mixture = _chunk_totals(settings, chunk, kernel, bias)
        flat = of_logits.astype(hidden.dtype).reshape(-1, kernel.shape[1])
        rows = chunk[0].reshape(-1, kernel.shape[0])
        of_kernel += jnp.matmul(rows.T, flat, preferred_element_type=jnp.float32)
        of_hidden = of_logits.astype(hidden.dtype) @ kernel.T.astype(hidden.dtype)
        return (totals + values, of_kernel, of_bias + of_logits.sum(axis=(0, 1))), (of_hidden, of_mixture)

    # Totals by row: devices add them up once, behind the loop.
    rows = jnp.zeros(len(hidden), jnp.float32)
    zeros = (rows, jnp.zeros(kernel.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32))
    chunks = _in_chunks(kernel.shape[1], (hidden, targets))
    (totals, of_kernel, of_bias), of_places = jax.lax.scan(add, zeros, chunks)
    batch, time = hidden.shape[:2]

    def put_together(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, 0, 1).reshape(batch, -1, *leaf.shape[3:])[:, :time]

    of_hidden, of_mixture = jax.tree.map(put_together, of_places)
    gradients = (of_hidden, of_kernel.astype(kernel.dtype), of_bias.astype(bias.dtype), of_mixture)
    return totals.sum(), gradients


def _head_backwards(
    settings: tuple[float, float], residuals: tuple[Array, Array, Array, Mixture | None], gradient: Array
) -> tuple[Any, ...]:
    *of_head, of_mixture = jax.tree.map(lambda leaf: (gradient * leaf).astype(leaf.dtype), residuals)
    return (*of_head, (None, None, of_mixture))


_head_total.defvjp(_head_forwards, _head_backwards)


def _in_chunks(vocabulary: int, arrays: tuple[Array, _Targets]) -> Any:
    """Cuts [batch, time, ...] to [chunks, batch, time of a chunk, ...], filled up with zeros: of weight 0, too.

    The batch stays whole, so that each device has its own rows.
    """
    batch, time = jax.tree.leaves(arrays)[0].shape[:2]
    tokens = max(_CHUNK_TOKENS, _CHUNK_ELEMENTS // vocabulary)
    least = -(-time // max(1, min(time, tokens // max(1, batch))))
    # Rather more chunks than padding.
    count = next((count for count in range(least, 2 * least) if time % count == 0), least)
    length = -(-time // count)

    def cut(array: Array) -> Array:
        filled = jnp.pad(array, ((0, 0), (0, count * length - time), *((0, 0),) * (array.ndim - 2)))
        return jnp.moveaxis(filled.reshape(batch, count, length, *array.shape[2:]), 1, 0)

    return jax.tree.map(cut, arrays)


def _chunk_totals(
    settings: tuple[float, float], chunk: tuple[Array, _Targets], kernel: Array, bias: Array
) -> tuple[Float[Array, " batch"], Float[Array, "batch time vocabulary"], Mixture | None]:
    """Gives a chunk's weighted sums by row, and their gradients with respect to the logits and the mixture."""
    (label_smoothing, z_loss), (hidden, (labels, weights, mixture)) = settings, chunk
    logits = jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32) + bias
    highest = logits.max(axis=-1, keepdims=True)
    powers = jnp.exp(logits - highest)
    sums = powers.sum(axis=-1, keepdims=True)
    log_normalizer = (jnp.log(sums) + highest)[..., 0]
    target, chosen = _of_labels(logits, labels)
    mean = label_smoothing * logits.mean(axis=-1) if label_smoothing else 0
    value = log_normalizer - (1 - label_smoothing) * target - mean + z_loss * log_normalizer**2
    share = (1 + 2 * z_loss * log_normalizer)[..., None] * powers / sums
    wanted = jnp.where(chosen, 1 - label_smoothing, 0) + label_smoothing / logits.shape[-1]
    of_value, of_mixture = weights, None
    if mixture is not None:
        own = mixture.log_share - value
        both = jnp.logaddexp(own, mixture.log_other)
        value, parts = -both, (jnp.exp(leaf - both) for leaf in (own, mixture.log_other))
        # What doesn't count may have no label, and NaN for its probability.
        of_value, of_other = (jnp.where(weights == 0, 0, weights * part) for part in parts)
        of_mixture = Mixture(-of_value, -of_other)
    totals = jnp.where(weights == 0, 0, weights * value).sum(axis=1)
    return totals, of_value[..., None] * (share - wanted), of_mixture


def _of_labels(
    logits: Float[Array, "*batch classes"], labels: Integer[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Bool[Array, "*batch classes"]]:
    """Gives the labels' logits, NaN for a label that is no class, and which logits these are.

    Compared, not gathered: the gradient of a gather is a scatter, which nothing else is fused with.
    """
    chosen = labels[..., None] == jnp.arange(logits.shape[-1])
    return jnp.where(chosen.any(axis=-1), jnp.where(chosen, logits, 0).sum(axis=-1), jnp.nan), chosen


def _check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 1")


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


def negative_sampling(
    inputs: Float[AnyArray, "groups size width"],
    outputs: Float[AnyArray, "groups others width"],
    attract: Float[AnyArray, "groups size others"],
    repel: Float[AnyArray, "groups size others"],
) -> Float[Array, ""]:
    """Gives the sum of -attract log sigmoid(s) - repel log sigmoid(-s) over the dot products s of each group's vectors.

    The objective of negative sampling (Mikolov et al. 2013, equation 4), with the pairs of a group as three matrix
    products, forwards and backwards together. There is no gradient of the weights.

    Args:
        inputs: vectors of words.
        outputs: those of what they are paired with.
        attract: how often each pair occurs.
        repel: how often it is taken as a negative.
    """
    return _sampled_total(*(jnp.asarray(leaf, jnp.float32) for leaf in (inputs, outputs, attract, repel)))


@jax.custom_vjp
def _sampled_total(inputs: Array, outputs: Array, attract: Array, repel: Array) -> Array:
    return _sampled_forwards(inputs, outputs, attract, repel)[0]


def _sampled_forwards(
    inputs: Array, outputs: Array, attract: Array, repel: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    scores = jnp.einsum("gsw,gow->gso", inputs, outputs)
    power = jnp.exp(-jnp.abs(scores))
    both = attract + repel
    # Summed in two steps: one loop over all of it would be one chain of additions.
    total = (both * (jnp.maximum(scores, 0) + jnp.log1p(power)) - attract * scores).sum(axis=(1, 2)).sum()
    of_scores = both * jnp.where(scores >= 0, 1, power) / (1 + power) - attract
    return total, (inputs, outputs, of_scores)


def _sampled_backwards(residuals: tuple[Array, Array, Array], gradient: Array) -> tuple[Any, ...]:
    inputs, outputs, of_scores = residuals
    of_scores = gradient * of_scores
    # Turned by itself: on CPUs XLA's product of turned matrices is a slow one.
    turned = jax.lax.optimization_barrier(jnp.swapaxes(of_scores, 1, 2))
    of_inputs = jnp.einsum("gso,gow->gsw", of_scores, outputs)
    return of_inputs, jnp.einsum("gos,gsw->gow", turned, inputs), None, None


_sampled_total.defvjp(_sampled_forwards, _sampled_backwards)
