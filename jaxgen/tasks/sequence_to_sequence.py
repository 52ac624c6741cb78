"""From a text to a text, by an encoder and a decoder; and what such a model learns from texts alone."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Integer, Key

from jaxgen import losses, metrics
from jaxgen.errors import UsageError
from jaxgen.generate.transformer import EncoderDecoder
from jaxgen.metrics import AnyArray, Mean, Metric
from jaxgen.models.copying import Copying, log_copied, log_mixture
from jaxgen.objectives import FRACTION, SPAN_LENGTH, content_rngs, corrupt_spans, spans_shapes, split_prefix
from jaxgen.tasks.base import (
    check_text,
    check_vocabulary,
    init_model,
    likeliest,
    output_layer,
    read_text,
)
from jaxgen.train.context import Batch, Context, Outputs, Params


@dataclass(frozen=True)
class SequenceToSequence:
    """Predicts `labels` int32 [batch, target time] from `tokens` int32 [batch, time]; labels below 0 don't count.

    Each label is predicted from the tokens and the labels before it (teacher forcing). A batch may say more: `lengths`
    int32 [batch], the tokens that aren't padding; and `weight` [batch].

    Attributes:
        model: a module with `vocabulary_size`, that has, beside its call on `(source, tokens)`, which makes all
            parameters, `features(source, tokens, *, source_lengths, train)`, what each token after one of `tokens`
            int32 [batch, target time] is predicted from, [batch, target time, width]; and `output()`, the kernel
            [width, vocabulary] and bias [vocabulary] that make logits of it, such as `T5`. One that `copies` has
            `mixture` for `features`, which gives these and a `jaxgen.models.copying.Copying`.
        start_token: what the decoder begins with, and what it reads in the place of padding.
        label_smoothing: part of each label that is spread evenly over the vocabulary.
        tokenizer: fingerprint of the tokenizer that the tokens are of.
        target_tokenizer: fingerprint of the one that the labels are of, where that is another one.
        scored_by: what texts that are written are scored by: `rouge`, `bleu` or `exact`, see `jaxgen.text_scores`.
    """

    model: nn.Module
    start_token: int = 0
    label_smoothing: float = 0.0
    tokenizer: str = ""
    target_tokenizer: str = ""
    scored_by: str = "rouge"

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the model's parameters; they don't hang on the length of the texts."""
        tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
        return init_model(self.model, rng, tokens, tokens=tokens)

    def check(self, source: Any) -> None:
        """Checks that a data source has pairs of texts, of the model's vocabulary.

        Raises:
            UsageError: where it hasn't.
        """
        check_text(source, ("tokens", "labels"), self.tokenizer, self.target_tokenizer or self.tokenizer)
        check_vocabulary(source, self.model.vocabulary_size)

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Has no recurrent state between batches."""
        return ()

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives the cross-entropy in nats a label; in evaluation also the perplexity and the accuracy.

        These are of the labels as they are, without smoothing.
        """
        labels = jnp.asarray(batch["labels"])
        copies = getattr(self.model, "copies", False)
        read = read_text(
            self.model,
            params,
            model_state,
            context,
            "mixture" if copies else "features",
            batch["tokens"],
            self.shifted(labels),
            source_lengths=batch.get("lengths"),
        )
        features, told = read if copies else (read, None)
        kernel, bias = output_layer(self.model, params)
        counted = (labels >= 0).astype(jnp.float32)
        weights = metrics.spread(batch["weight"], labels.shape) * counted if "weight" in batch else counted
        mixture = None
        if told is not None:
            source = jnp.asarray(batch["tokens"])
            mixture = losses.Mixture(told.log_generate, log_copied(told, source, labels))
        nats = losses.linear_cross_entropy(
            features, kernel, bias, labels, weights, label_smoothing=self.label_smoothing, mixture=mixture
        )
        reported: dict[str, Metric] = {}
        if not context.train:
            plain = nats
            if self.label_smoothing:
                plain = losses.linear_cross_entropy(features, kernel, bias, labels, weights)
            if told is None:
                found, _ = likeliest(features, kernel, bias)
            else:
                found = _likeliest_mixed(features, kernel, bias, told, source)
            reported["perplexity"] = metrics.Perplexity(plain.total, plain.count)
            reported["accuracy"] = Mean.of(found == labels, weights)
        return {"cross_entropy": nats}, Outputs(reported, model_state, carry)

    def shifted(self, labels: Integer[AnyArray, "batch time"]) -> Int32[Array, "batch time"]:
        """Gives what the decoder reads: the start token, and each label but the last one."""
        labels = jnp.asarray(labels).astype(jnp.int32)
        before = jnp.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=self.start_token)
        return jnp.where(before < 0, self.start_token, before)

    @property
    def decoder(self) -> EncoderDecoder:
        """What `jaxgen.generate` writes with; its prompts are the start token.

        Raises:
            UsageError: for a model that can only be trained.
        """
        if not all(hasattr(self.model, method) for method in ("encode", "prefill", "step")):
            raise UsageError(f"a {type(self.model).__name__} doesn't write, a T5 does")
        return EncoderDecoder(self.model)


def _likeliest_mixed(
    features: Float[Array, "batch time width"], kernel: Array, bias: Array, told: Copying, source: Array
) -> Int32[Array, "batch time"]:
    """Gives the likeliest tokens of a model that copies, one place at a time."""

    def of_place(now: tuple[Array, Copying]) -> Array:
        hidden, told = now
        logits = jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32) + bias
        return log_mixture(logits, told, source).argmax(axis=-1).astype(jnp.int32)

    by_place = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (features, told))
    return jax.lax.map(of_place, by_place).T


@dataclass(frozen=True)
class SpanCorruption(SequenceToSequence):
    """Predicts the spans that `tokens` int32 [batch, time] have lost: others at each step, the same in evaluation.

    That is how T5 learns from texts (Raffel et al. 2020, section 3.1.4); see `jaxgen.objectives.corrupt_spans`. A batch
    may say more: `lengths` and `weight`, as in `SequenceToSequence`.

    Attributes:
        model: as in `SequenceToSequence`.
        start_token: what the decoder begins with, and what fills inputs up.
        label_smoothing: as in `SequenceToSequence`.
        tokenizer: as in `SequenceToSequence`.
        target_tokenizer: as in `SequenceToSequence`.
        first_sentinel: stands for the first span; the others count down from it.
        end_token: what ends inputs and targets.
        fraction: of the tokens that are lost.
        span_length: mean of the spans' lengths.
    """

    first_sentinel: int = 0
    end_token: int = 1
    fraction: float = FRACTION
    span_length: float = SPAN_LENGTH

    def check(self, source: Any) -> None:
        """Checks that a data source is a text, whose spans there are sentinels for beside its own tokens.

        Raises:
            UsageError: where it isn't.
        """
        check_text(source, ("tokens",), self.tokenizer)
        check_vocabulary(source, self.model.vocabulary_size)
        spans = spans_shapes(len(source[0]["tokens"]), self.fraction, self.span_length).spans
        if self.first_sentinel < spans - 1 or self.first_sentinel >= self.model.vocabulary_size:
            raise UsageError(
                f"the {spans} sentinels from {self.first_sentinel} down are not in the model's vocabulary of "
                f"{self.model.vocabulary_size}: give another first_sentinel, or shorter texts"
            )
        special = getattr(getattr(source.text, "tokenizer", None), "special", None)
        if special is not None and spans > len(special.sentinels):
            raise UsageError(
                f"texts of {len(source[0]['tokens'])} tokens lose {spans} spans, but the tokenizer has "
                f"{len(special.sentinels)} sentinels: give a smaller --sequence-length"
            )

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives what `SequenceToSequence` gives, of the spans that each text has lost."""
        tokens = jnp.asarray(batch["tokens"])
        lengths = batch.get("lengths", jnp.full(len(tokens), tokens.shape[1]))
        corrupted = corrupt_spans(
            context.example_rngs() if context.train else content_rngs(tokens),
            tokens,
            lengths,
            first_sentinel=self.first_sentinel,
            end_token=self.end_token,
            padding=self.start_token,
            fraction=self.fraction,
            span_length=self.span_length,
        )
        pairs = {
            **batch,
            "tokens": corrupted.inputs,
            "lengths": corrupted.input_lengths,
            "labels": jnp.where(corrupted.weights > 0, corrupted.targets, -1),
        }
        return super().loss(params, model_state, carry, pairs, context)


@dataclass(frozen=True)
class PrefixLanguageModelling(SequenceToSequence):
    """Predicts how `tokens` int32 [batch, time] go on after a part of them: other parts at each step.

    That is the prefix language modelling of Raffel et al. 2020 (section 3.2.1); see `jaxgen.objectives.split_prefix`.
    The encoder reads the prefix, the decoder writes the rest. Evaluation cuts each text at the same place always. A
    batch may say more: `lengths` and `weight`, as in `SequenceToSequence`.

    Attributes:
        model: as in `SequenceToSequence`.
        start_token: what the decoder begins with, and what fills prefixes up.
        label_smoothing: as in `SequenceToSequence`.
        tokenizer: as in `SequenceToSequence`.
        target_tokenizer: as in `SequenceToSequence`.
        end_token: what ends prefixes and what follows them.
    """

    end_token: int = 1

    def check(self, source: Any) -> None:
        """Checks that a data source is a text, of the model's vocabulary; raises UsageError where it isn't."""
        check_text(source, ("tokens",), self.tokenizer)
        check_vocabulary(source, self.model.vocabulary_size)

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives what `SequenceToSequence` gives, of what follows each text's prefix."""
        tokens = jnp.asarray(batch["tokens"]).astype(jnp.int32)
        lengths = jnp.asarray(batch.get("lengths", jnp.full(len(tokens), tokens.shape[1])))
        rngs = context.example_rngs() if context.train else content_rngs(tokens)
        pairs = {**batch, **self.pairs(tokens, lengths, split_prefix(rngs, lengths))}
        return super().loss(params, model_state, carry, pairs, context)

    def pairs(
        self,
        tokens: Int32[Array, "batch time"],
        lengths: Integer[Array, " batch"],
        prefixes: Int32[Array, " batch"],
    ) -> dict[str, Array]:
        """Gives prefixes as `tokens` and `lengths`, and what follows them as `labels`, each with the end token."""
        # A text of one token has no prefix, so that with its end it takes two places.
        place = jnp.arange(max(tokens.shape[1], 2))
        read = jnp.pad(tokens, ((0, 0), (0, len(place) - tokens.shape[1])))
        prefixes, lengths = prefixes[:, None], lengths[:, None]
        source = jnp.where(
            place < prefixes, read, jnp.where(place == prefixes, self.end_token, self.start_token)
        )
        rest = jnp.take_along_axis(read, jnp.minimum(prefixes + place, len(place) - 1), axis=1)
        left = lengths - prefixes
        labels = jnp.where(place < left, rest, jnp.where(place == left, self.end_token, -1))
        return {"tokens": source, "lengths": prefixes[:, 0] + 1, "labels": labels}
