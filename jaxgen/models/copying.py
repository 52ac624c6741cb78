"""Copying: predictions that are partly tokens of the text that was read (See et al. 2017, section 2.2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxgen.models.attention import UNSEEN


class Copying(NamedTuple):
    """How much is copied at each place, and from where; all are logarithms, float32.

    Attributes:
        log_generate: of the part that the last layer predicts, [batch, ...].
        log_copy: of the part that is copied.
        log_weights: of the attention, [batch, ..., source time].
    """

    log_generate: Array
    log_copy: Array
    log_weights: Array


def copying(gate: Float[Array, "*batch"], scores: Float[Array, "*batch source_time"]) -> Copying:
    """Makes it of a gate's logit, which says to generate (equation 8), and the attention's scores."""
    return Copying(jax.nn.log_sigmoid(gate), jax.nn.log_sigmoid(-gate), jax.nn.log_softmax(scores))


def log_copied(
    told: Copying, source: Integer[Array, "batch source_time"], labels: Integer[Array, "batch time"]
) -> Float[Array, "batch time"]:
    """Gives the log-probability that a label is copied; where it isn't in the source it is finite, but exp() is 0."""
    found = labels[:, :, None] == source[:, None]
    weights = jax.nn.logsumexp(jnp.where(found, told.log_weights, UNSEEN), axis=-1)
    return told.log_copy + weights


def log_mixture(
    logits: Float[Array, "batch vocabulary"], told: Copying, source: Integer[Array, "batch source_time"]
) -> Float[Array, "batch vocabulary"]:
    """Gives the log-probabilities of all tokens at one place (equation 9)."""
    rows = jnp.arange(len(source))[:, None]
    copied = jnp.zeros(logits.shape, jnp.float32).at[rows, source].add(jnp.exp(told.log_weights))
    generated = told.log_generate[:, None] + jax.nn.log_softmax(logits)
    return jnp.logaddexp(generated, told.log_copy[:, None] + jnp.log(copied))
