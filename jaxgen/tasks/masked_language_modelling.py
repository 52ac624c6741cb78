"""Masked language modelling: the hidden tokens of a text, from those on both sides of them (Devlin et al. 2019)."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key

from jaxgen import losses, metrics
from jaxgen.data.subwords import Subwords
from jaxgen.data.tokenizers import digest
from jaxgen.errors import UsageError
from jaxgen.metrics import Mean, Metric
from jaxgen.objectives import FRACTION, MaskedTokens, content_rngs, mask_tokens
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
class MaskedLanguageModelling:
    """Predicts tokens of `tokens` int32 [batch, time] that are hidden: others at each step, the same in evaluation.

    A batch may say more: `lengths` int32 [batch], the tokens that aren't padding; `type_ids` int32 [batch, time];
    `continues` bool [batch, time], which tokens go on the word of the token before: then whole words are hidden;
    `is_next` int32 [batch], whether a second sentence followed the first one in the text, which is a second thing to
    learn if the model has the head `next_sentence`; and `weight` [batch].

    Attributes:
        model: a module with `vocabulary_size`, that has, beside its call on `tokens`, which makes all parameters,
            `features(tokens, *, lengths, token_types, train)` [batch, time, width]; `masked_features(features)`, what
            the masked-LM head predicts tokens from; and `output()`, the kernel [width, vocabulary] and bias
            [vocabulary] that make logits of it, such as `BERT`. The head reads the places that count alone. With
            `next_sentence` among its `heads` it has `classes(head, features, train)`, too, logits [batch, 2] that a
            sentence followed and that it didn't.
        mask_token: what stands in the place of a hidden token.
        special_tokens: those that are never hidden.
        fraction: of the tokens that is hidden in training. Evaluation hides BERT's 15 % whatever this is, so that runs
            are compared by the same tokens.
        tokenizer: fingerprint of the tokenizer that the tokens are of.
    """

    model: nn.Module
    mask_token: int
    special_tokens: tuple[int, ...] = ()
    fraction: float = FRACTION
    tokenizer: str = ""

    @classmethod
    def of(
        cls, model: nn.Module, tokenizer: Subwords, fraction: float = FRACTION
    ) -> "MaskedLanguageModelling":
        """Makes the task with a tokenizer's special tokens; raises UsageError where it has none to hide with."""
        roles = tokenizer.special.told().keys() - {"sentinels"}
        special = tuple(sorted({tokenizer.special_id(role) for role in roles}))
        return cls(model, tokenizer.special_id("mask"), special, fraction, digest(tokenizer))

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the model's parameters; they don't hang on the length of the texts."""
        return init_model(self.model, rng, jax.ShapeDtypeStruct((1, 2), jnp.int32))

    def check(self, source: Any) -> None:
        """Checks that a data source is a text, and of the model's vocabulary.

        Raises:
            UsageError: where it isn't.
        """
        check_text(source, ("tokens",), self.tokenizer)
        check_vocabulary(source, self.model.vocabulary_size)
        if not 0 <= self.mask_token < self.model.vocabulary_size:
            raise UsageError(
                f"the mask token is {self.mask_token}, but the model knows {self.model.vocabulary_size} tokens"
            )

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Has no recurrent state."""
        return ()

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives the cross-entropy in nats a hidden token, and its perplexity; in evaluation also the accuracy.

        With `is_next` also that of the second sentences, in nats a pair, and how many were told right.
        """
        masked = (
            self._hide(context.example_rngs(), batch, self.fraction)
            if context.train
            else self.hide_to_evaluate(batch)
        )
        whole = self._features(params, model_state, masked.inputs, batch, context)
        features = self._masked_features(params, model_state, whole, masked.positions)
        kernel, bias = output_layer(self.model, params)
        weights = masked.weights
        if "weight" in batch:
            weights = weights * metrics.spread(batch["weight"], weights.shape)
        nats = losses.linear_cross_entropy(features, kernel, bias, masked.labels, weights)
        reported: dict[str, Metric] = {"perplexity": metrics.Perplexity(nats.total, nats.count)}
        if not context.train:
            found, _ = likeliest(features, kernel, bias)
            reported["accuracy"] = Mean.of(found == masked.labels, weights)
        terms = {"cross_entropy": nats}
        if "is_next" in batch and "next_sentence" in getattr(self.model, "heads", ()):
            terms["next_sentence"], reported["next_sentence_accuracy"] = self._next_sentence(
                params, model_state, whole, batch, context
            )
        return terms, Outputs(reported, model_state, carry)

    def _next_sentence(
        self, params: Params, model_state: Any, features: Array, batch: Batch, context: Context
    ) -> tuple[Mean, Mean]:
        """Gives the cross-entropy of which sentences follow, and the accuracy."""
        logits: Any = self.model.apply(
            {"params": params, **model_state},
            "next_sentence",
            features,
            train=context.train,
            method="classes",
        )
        labels, weights = 1 - jnp.asarray(batch["is_next"]), batch.get("weight")
        return losses.cross_entropy(logits, labels, weights), metrics.accuracy(logits, labels, weights)

    def hide_to_evaluate(self, batch: Batch) -> MaskedTokens:
        """Hides what is hidden of a batch in evaluation: of each text the same in every batch."""
        return self._hide(content_rngs(batch["tokens"]), batch, FRACTION)

    def _hide(self, rngs: Key[Array, " batch"], batch: Batch, fraction: float) -> MaskedTokens:
        return mask_tokens(
            rngs,
            batch["tokens"],
            self.maskable(batch),
            mask_token=self.mask_token,
            vocabulary_size=self.model.vocabulary_size,
            fraction=fraction,
            continues=batch.get("continues"),
        )

    def maskable(self, batch: Batch) -> Bool[Array, "batch time"]:
        """Tells which tokens of a batch may be hidden: neither special ones nor padding."""
        tokens = jnp.asarray(batch["tokens"])
        found = ~jnp.isin(tokens, jnp.array(self.special_tokens, jnp.int32))
        if "lengths" in batch:
            found &= jnp.arange(tokens.shape[1]) < jnp.asarray(batch["lengths"])[:, None]
        return found

    def _features(
        self,
        params: Params,
        model_state: Any,
        tokens: Array,
        batch: Batch,
        context: Context | None,
    ) -> Array:
        features: Array = read_text(
            self.model,
            params,
            model_state,
            context,
            "features",
            tokens,
            lengths=batch.get("lengths"),
            token_types=batch.get("type_ids"),
        )
        return features

    def _masked_features(self, params: Params, model_state: Any, features: Array, positions: Array) -> Array:
        chosen = jnp.take_along_axis(features, positions[..., None], axis=1)
        read: Any = self.model.apply({"params": params, **model_state}, chosen, method="masked_features")
        return read

    def predict(self, params: Params, model_state: Any, batch: Batch) -> dict[str, Array]:
        """Fills texts in as they are: gives each place's likeliest token and its probability.

        Returns:
            `prediction` int32 and `probability` float32 [batch, time].
        """
        tokens = jnp.asarray(batch["tokens"])
        everywhere = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        whole = self._features(params, model_state, tokens, batch, None)
        features = self._masked_features(params, model_state, whole, everywhere)
        found, probabilities = likeliest(features, *output_layer(self.model, params))
        return {"prediction": found, "probability": probabilities}
