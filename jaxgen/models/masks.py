"""What tokens don't see of each other, and which one is a text's last."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Integer, Shaped


class Masks(NamedTuple):
    """What isn't to be seen; None where all is.

    Attributes:
        lengths: keys of each row that aren't padding; those at its end are.
        segments: of each token of a row; a query sees the keys of its own segment alone.
    """

    lengths: Integer[Array, " batch"] | None = None
    segments: Integer[Array, "batch time"] | None = None


UNMASKED = Masks()


def seen(
    causal: bool,
    masks: Masks,
    segments: Integer[Array, "batch queries"] | None,
    rows: Integer[Array, " queries"],
    keys: int,
) -> Bool[Array, "#batch 1 #queries keys"] | None:
    """Gives which keys the queries at `rows`, of these segments, see; None for all."""
    columns, parts = jnp.arange(keys), []
    if causal:
        parts.append((columns <= rows[:, None])[None, None])
    if masks.lengths is not None:
        parts.append((columns < masks.lengths[:, None])[:, None, None])
    if segments is not None and masks.segments is not None:
        parts.append((segments[:, :, None] == masks.segments[:, None])[:, None])
    return functools.reduce(jnp.logical_and, parts) if parts else None


def last(
    texts: Shaped[Array, "batch time ..."], lengths: Integer[Array, " batch"]
) -> Shaped[Array, "batch ..."]:
    """Gives what belongs to each row's last token that isn't padding."""
    places = lengths.reshape(-1, *(1,) * (texts.ndim - 1)) - 1
    return jnp.take_along_axis(texts, places, axis=1)[:, 0]
