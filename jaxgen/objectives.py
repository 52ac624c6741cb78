"""What is hidden of a text, so that a model learns to foresee it: pure functions of a key an example.

All are jittable, and their outputs' shapes hang on their inputs' shapes alone. An example's result hangs on its own
key and tokens, not on the batch that it is in.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Integer, Key

from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray

Tokens = Integer[AnyArray, "batch time"]
Lengths = Integer[AnyArray, " batch"]

# BERT's: of the chosen tokens so many become the mask, and so many more any token.
_MASKED, _RANDOM = 0.8, 0.1
FRACTION = 0.15
SPAN_LENGTH = 3.0


def content_rngs(tokens: Tokens) -> Key[Array, " batch"]:
    """Makes each text's key of its own tokens.

    What is hidden in evaluation is then the same each time, and in whatever batch.
    """
    tokens = jnp.asarray(tokens).astype(jnp.uint32)
    # A sum whose weights are powers of an odd number modulo 2**32 (of Knuth's generator): each place counts.
    powers = np.multiply.accumulate(np.full(tokens.shape[1], 1664525, np.uint32))
    return jax.vmap(jax.random.key)((tokens * powers).sum(axis=1))


class MaskedTokens(NamedTuple):
    """Texts with some of their tokens hidden.

    Attributes:
        inputs: the texts as the model reads them.
        positions: of the chosen tokens, in order, in a fixed number of slots; 0 where there are fewer.
        labels: what stood there.
        weights: 1, and 0 for slots that hold nothing.
    """

    inputs: Int32[Array, "batch time"]
    positions: Int32[Array, "batch slots"]
    labels: Int32[Array, "batch slots"]
    weights: Float[Array, "batch slots"]


def mask_tokens(
    rngs: Key[Array, " batch"],
    tokens: Tokens,
    maskable: Bool[AnyArray, "batch time"],
    *,
    mask_token: int,
    vocabulary_size: int,
    fraction: float = FRACTION,
    continues: Bool[AnyArray, "batch time"] | None = None,
) -> MaskedTokens:
    """Chooses tokens as BERT does (Devlin et al. 2019, section 3.1): of ten 8 are masked, 1 is any token, 1 stays.

    Chosen are `fraction` of a text's tokens, rounded, and one at least. There are slots for as many as that can be of a
    whole row. New keys each step make other choices ("dynamic", Liu et al. 2019).

    Args:
        rngs: one key an example, such as `Context.example_rngs()`.
        tokens: the texts.
        maskable: what may be chosen: neither special tokens nor padding.
        mask_token: what stands in the place of a hidden token.
        vocabulary_size: any token is below it.
        fraction: to choose.
        continues: which tokens go on the word of the token before; then whole words are chosen, and one that would be
            too many is passed over, as in BERT's `create_pretraining_data.py`.

    Raises:
        UsageError: for a fraction out of (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"the fraction of tokens to mask is {fraction}; it must be above 0 and at most 1")
    tokens, maskable = jnp.asarray(tokens).astype(jnp.int32), jnp.asarray(maskable)
    time = tokens.shape[1]
    counts = jnp.asarray(_counts(time, fraction))[maskable.sum(axis=1)]
    # One call draws all numbers: several take longer, to compile as well.
    draws, fates, others = jnp.moveaxis(_uniform(rngs, 3, time), 1, 0)
    if continues is None:
        chosen = jax.vmap(_draw)(draws, maskable, counts)
    else:
        chosen = jax.vmap(_draw_words)(draws, maskable, counts, jnp.asarray(continues))
    other = jnp.floor(others * vocabulary_size).astype(jnp.int32)
    replaced = jnp.where(fates < _MASKED, mask_token, jnp.where(fates < _MASKED + _RANDOM, other, tokens))
    positions = jnp.sort(jnp.where(chosen, jnp.arange(time), time), axis=1)
    positions = positions[:, : int(_counts(time, fraction)[-1])]
    there = positions < time
    positions = jnp.where(there, positions, 0)
    labels = jnp.take_along_axis(tokens, positions, axis=1)
    return MaskedTokens(jnp.where(chosen, replaced, tokens), positions, labels, there.astype(jnp.float32))


def _counts(time: int, fraction: float) -> Int32[np.ndarray, " counts"]:
    """Gives how many to choose of 0, 1, ... `time` tokens."""
    tokens = np.arange(time + 1)
    return np.minimum(np.maximum(np.round(fraction * tokens), 1), tokens).astype(np.int32)


def _uniform(rngs: Key[Array, " batch"], rows: int, time: int) -> Float[Array, "batch rows time"]:
    return jax.vmap(lambda rng: jax.random.uniform(rng, (rows, time)))(rngs)


def _draw(
    draws: Float[Array, " items"], eligible: Bool[Array, " items"], count: Array
) -> Bool[Array, " items"]:
    """Takes so many of what is eligible, all sets of them alike."""
    return _ranks(draws, eligible) < count


def _ranks(draws: Float[Array, " items"], eligible: Bool[Array, " items"]) -> Int32[Array, " items"]:
    """Gives each its place in a random order, in which what isn't eligible comes last."""
    order = jnp.argsort(jnp.where(eligible, draws, 1.0))
    return jnp.zeros(eligible.shape, jnp.int32).at[order].set(jnp.arange(len(eligible), dtype=jnp.int32))


def _draw_words(
    draws: Float[Array, " time"],
    maskable: Bool[Array, " time"],
    count: Array,
    continues: Bool[Array, " time"],
) -> Bool[Array, " time"]:
    """Takes words in a random order, but for those that would be too many."""
    words = jnp.cumsum(~continues.at[0].set(False)) - 1
    sizes = jnp.zeros(len(words), jnp.int32).at[words].add(maskable)
    ranks = _ranks(draws, sizes > 0)
    in_order = jnp.zeros_like(sizes).at[ranks].set(sizes)

    def take(total: Array, size: Array) -> tuple[Array, Array]:
        fits = total + size <= count
        return total + jnp.where(fits, size, 0), fits

    _, fits = jax.lax.scan(take, jnp.int32(0), in_order)
    return fits[ranks][words] & maskable


class CorruptedSpans(NamedTuple):
    """Texts of which some spans are to be written down.

    Attributes:
        inputs: the texts with a sentinel in each span's place, and the end token.
        input_lengths: of what isn't padding.
        targets: each span's sentinel and tokens, and the end token.
        weights: 1, and 0 for the targets' padding.
    """

    inputs: Int32[Array, "batch inputs"]
    input_lengths: Int32[Array, " batch"]
    targets: Int32[Array, "batch targets"]
    weights: Float[Array, "batch targets"]


def corrupt_spans(
    rngs: Key[Array, " batch"],
    tokens: Tokens,
    lengths: Lengths,
    *,
    first_sentinel: int,
    end_token: int,
    padding: int = 0,
    fraction: float = FRACTION,
    span_length: float = SPAN_LENGTH,
) -> CorruptedSpans:
    """Replaces random spans by sentinels (Raffel et al. 2020, section 3.1.4).

    The number of spans and of their tokens are fixed by a text's length; of all ways to lay such spans, one at the end
    and none at the beginning, all are alike: the `random_spans_noise_mask` of the paper's code. The shapes are those of
    texts that fill a row, `spans_shapes`.

    Args:
        rngs: one key an example, such as `Context.example_rngs()`.
        tokens: the texts.
        lengths: the tokens of each that aren't padding. A text of one token has no span.
        first_sentinel: the first span's sentinel, usually the last token of the vocabulary; the others count down.
        end_token: what ends inputs and targets.
        padding: what fills them up.
        fraction: of the tokens that are in spans.
        span_length: mean of the spans' lengths.

    Raises:
        UsageError: for a fraction out of (0, 1), or a mean length below 1.
    """
    tokens = jnp.asarray(tokens).astype(jnp.int32)
    lengths = jnp.asarray(lengths)
    time = tokens.shape[1]
    shapes = spans_shapes(time, fraction, span_length)
    hidden, spans = (jnp.asarray(table)[lengths] for table in _span_counts(time, fraction, span_length))
    # As in the paper's code, a text of one token is dealt with as one of two of which the second, hidden, isn't there.
    lay = jax.vmap(functools.partial(_lay_spans, time, shapes.spans))
    in_span = lay(_uniform(rngs, 2, max(time, 2) - 1), jnp.maximum(lengths, 2), hidden, spans)
    there = jnp.arange(time) < lengths[:, None]
    fold = jax.vmap(functools.partial(_fold, first_sentinel, end_token, padding), in_axes=(None, 0, 0, 0))
    inputs, input_lengths = fold(shapes.inputs, tokens, in_span, there)
    targets, target_lengths = fold(shapes.targets, tokens, ~in_span, there)
    weights = (jnp.arange(shapes.targets) < target_lengths[:, None]).astype(jnp.float32)
    return CorruptedSpans(inputs, input_lengths, targets, weights)


class SpansShapes(NamedTuple):
    """How many tokens a text has, how many spans of it are replaced, and how long inputs and targets then are."""

    text: int
    spans: int
    inputs: int
    targets: int


def spans_shapes(
    text_length: int, fraction: float = FRACTION, span_length: float = SPAN_LENGTH
) -> SpansShapes:
    """Gives how many inputs and targets `corrupt_spans` makes of a text, end tokens among them.

    Raises:
        UsageError: for a fraction out of (0, 1), or a mean length below 1.
    """
    hidden, spans = (int(table[-1]) for table in _span_counts(text_length, fraction, span_length))
    return SpansShapes(text_length, spans, text_length - hidden + spans + 1, hidden + spans + 1)


def spans_shapes_for(
    input_length: int, fraction: float = FRACTION, span_length: float = SPAN_LENGTH
) -> SpansShapes:
    """Gives the longest text whose inputs fit: `random_spans_helper` of the paper's code.

    Raises:
        UsageError: for a fraction out of (0, 1), a mean length below 1, or inputs that have no room for a text.
    """
    if input_length < 3:
        raise UsageError(f"inputs of {input_length} tokens have no room for a token, a sentinel and the end")
    most = max(2, math.ceil(input_length / (1 - fraction))) if fraction < 1 else 2
    hidden, spans = _span_counts(most, fraction, span_length)
    inputs = np.arange(most + 1) - hidden + spans + 1
    # They never become fewer as texts become longer.
    text_length = int(np.searchsorted(inputs[1:], input_length, side="right"))
    return spans_shapes(text_length, fraction, span_length)


def _span_counts(
    time: int, fraction: float, span_length: float
) -> tuple[Int32[np.ndarray, " counts"], Int32[np.ndarray, " counts"]]:
    """Gives how many tokens to hide, in how many spans, in texts of 0, 1, ... `time` tokens."""
    if not (0 < np.float32(fraction) < 1 and span_length >= 1):
        raise UsageError(
            f"spans of mean length {span_length} can't be {fraction} of a text: the length is at least 1, the fraction "
            "between 0 and 1"
        )
    lengths = np.maximum(np.arange(time + 1, dtype=np.float32), 2)
    hidden = np.clip(np.round(lengths * np.float32(fraction)), 1, lengths - 1)
    spans = np.maximum(np.round(hidden / np.float32(span_length)), 1)
    # Where most is hidden there may be fewer tokens between the spans than spans.
    spans = np.minimum(spans, lengths - hidden)
    return hidden.astype(np.int32), spans.astype(np.int32)


def _lay_spans(
    time: int, most: int, draws: Float[Array, "2 cuts"], length: Array, hidden: Array, spans: Array
) -> Bool[Array, " time"]:
    """Tells which tokens are in spans, of which there are `most` at most."""
    span_sizes, gap_sizes = (
        _segments(drawn, most, items, spans)
        for drawn, items in zip(draws, (hidden, length - hidden), strict=True)
    )
    # Gaps and spans in turn; the bounds between them, those that aren't needed behind the end.
    bounds = jnp.cumsum(jnp.stack([gap_sizes, span_sizes], axis=1).reshape(-1))
    passed = (bounds[:, None] <= jnp.arange(time)).sum(axis=0)
    return passed % 2 == 1


def _segments(draws: Float[Array, " cuts"], most: int, items: Array, count: Array) -> Int32[Array, " most"]:
    """Cuts items into so many segments, none empty, all ways alike; gives their sizes, 0 beyond `count`."""
    # A segment begins with the first item, and count - 1 with any of the others.
    begins = _draw(draws, jnp.arange(1, len(draws) + 1) < items, count - 1)
    number = jnp.pad(jnp.cumsum(begins.astype(jnp.int32)), (1, 0))
    there = jnp.arange(len(number)) < items
    return ((number[:, None] == jnp.arange(most)) & there[:, None]).sum(axis=0).astype(jnp.int32)


def _fold(
    first_sentinel: int,
    end_token: int,
    padding: int,
    size: int,
    tokens: Int32[Array, " time"],
    replaced: Bool[Array, " time"],
    there: Bool[Array, " time"],
) -> tuple[Int32[Array, " size"], Int32[Array, ""]]:
    """Puts a sentinel in the place of each run of what is replaced, and the end token behind; gives the length, too."""
    begins = replaced & ~jnp.concatenate([jnp.zeros(1, bool), replaced[:-1]])
    kept = there & (begins | ~replaced)
    values = jnp.where(begins, first_sentinel + 1 - jnp.cumsum(begins), tokens)
    places = jnp.where(kept, jnp.cumsum(kept) - 1, size)
    count = kept.sum()
    folded = jnp.full(size, padding, jnp.int32).at[places].set(values, mode="drop").at[count].set(end_token)
    return folded, (count + 1).astype(jnp.int32)


def split_prefix(rngs: Key[Array, " batch"], lengths: Lengths) -> Int32[Array, " batch"]:
    """Draws how many tokens of each text are its prefix, after which the rest is to be foreseen.

    It is the prefix language modelling of Raffel et al. 2020 (section 3.2.1), as in the paper's code: all numbers
    from 1 to the length less 1 are alike; a text of one token has no prefix.

    Args:
        rngs: one key an example, such as `Context.example_rngs()`.
        lengths: the tokens of each text.
    """

    def draw(rng: Key[Array, ""], length: Array) -> Array:
        return jax.random.randint(rng, (), jnp.where(length > 1, 1, 0), jnp.maximum(length, 1))

    return jax.vmap(draw)(rngs, jnp.asarray(lengths).astype(jnp.int32))
