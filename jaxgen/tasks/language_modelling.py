"""Language modelling: the next token of texts, read in streams with a state that is carried on, or in windows."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key

from jaxgen import losses, metrics
from jaxgen.data.tokenizers import digest
from jaxgen.errors import UsageError
from jaxgen.generate.recurrent import RecurrentDecoder
from jaxgen.generate.transformer import CausalDecoder
from jaxgen.metrics import AnyArray, Mean, Metric
from jaxgen.models.gpt import GPT
from jaxgen.tasks.base import init_model
from jaxgen.train.context import Batch, Context, Outputs, Params


@dataclass(frozen=True)
class LanguageModelling:
    """Predicts `labels` int32 [batch, time], each the token after that of `tokens`; labels below 0 don't count.

    A batch may say more: `stream_start` bool [batch], where a row is no continuation of the same row of the batch
    before; `document_start` bool [batch, time], where the state is to be forgotten; `weight` [batch]; and
    `characters` float32 [batch], how many of these a row's labels stand for.

    Attributes:
        model: a module with `initial_carry`, `features` and `output`: `RecurrentLanguageModel`, `GPT` and the like.
        tokenizer: fingerprint of the tokenizer that the tokens are of.
    """

    model: nn.Module
    tokenizer: str = ""

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the model's parameters; they don't hang on the length of the texts."""
        return init_model(self.model, rng, jax.ShapeDtypeStruct((1, 2), jnp.int32))

    def check(self, source: Any) -> None:
        """Checks that a data source is a text, and of the model's vocabulary.

        Raises:
            UsageError: where it isn't.
        """
        example = source[0]
        if "tokens" not in example or "labels" not in example:
            raise UsageError(f"{source.name} is no text: it has {', '.join(example)}, not tokens and labels")
        if not source.streams and "stream_start" not in example:
            raise UsageError(
                f"{source.name} tells of no row whether it goes on: cut a text by jaxgen.data.streams, or give "
                "stream_start, true where a row begins anew"
            )
        if self.tokenizer and source.text is not None and self.tokenizer != digest(source.text.tokenizer):
            raise UsageError(f"the tokens of {source.name} are of another tokenizer than the task's")
        if source.num_classes > self.model.vocabulary_size:
            raise UsageError(
                f"{source.name} has {source.num_classes} tokens, but the model knows {self.model.vocabulary_size}"
            )

    def initial_carry(self, batch_size: int) -> Any:
        """Gives the state that texts begin with."""
        return self.model.initial_carry(batch_size)

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean], Outputs]:
        """Gives the cross-entropy in nats a token, its perplexity, and bits per character."""
        labels = jnp.asarray(batch["labels"])
        if "stream_start" in batch:
            carry = _begin_anew(jnp.asarray(batch["stream_start"]), carry, self.initial_carry(len(labels)))
        outputs: Any = self.model.apply(
            {"params": params, **model_state},
            batch["tokens"],
            carry,
            starts=batch.get("document_start"),
            train=context.train,
            method="features",
            rngs={"dropout": context.block_rng()} if context.train else {},
        )
        features, carry = outputs
        head: Any = self.model.apply({"params": params}, method="output")
        kernel, bias = head
        counted = (labels >= 0).astype(jnp.float32)
        weights = metrics.spread(batch["weight"], labels.shape) * counted if "weight" in batch else counted
        nats = losses.linear_cross_entropy(features, kernel, bias, labels, weights)
        reported = _figures(nats, batch)
        return {"cross_entropy": nats}, Outputs(reported, model_state, carry)

    def activations(
        self, params: Params, model_state: Any, tokens: Int32[AnyArray, "batch time"]
    ) -> Float[Array, "batch time units"]:
        """Gives the hidden state of the last layer after each token of texts."""
        hidden: Any = self.model.apply({"params": params, **model_state}, tokens, method="hidden")
        return hidden[0].astype(jnp.float32)

    @property
    def decoder(self) -> CausalDecoder | RecurrentDecoder:
        """What `jaxgen.generate` writes with."""
        return CausalDecoder(self.model) if isinstance(self.model, GPT) else RecurrentDecoder(self.model)


def _begin_anew(where: Array, carry: Any, initial: Any) -> Any:
    return jax.tree.map(
        lambda old, new: jnp.where(where.reshape(-1, *(1,) * (old.ndim - 1)), new, old), carry, initial
    )


def _figures(nats: Mean, batch: Batch) -> dict[str, Metric]:
    figures: dict[str, Metric] = {"perplexity": metrics.Perplexity(nats.total, nats.count)}
    if "characters" in batch:
        counts = Mean.of(batch["characters"], batch.get("weight")).total
        figures["bits_per_character"] = Mean(nats.total / jnp.log(2.0), counts)
    return figures
