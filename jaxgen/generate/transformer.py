"""How transformers write, and all models that read a text first.

The cache of a transformer is the keys and values of the tokens read so far, with room for those to come.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxgen.generate.contract import DecodeOutput
from jaxgen.models.cache import Own, with_room
from jaxgen.models.gpt import GPT
from jaxgen.models.masks import last


@dataclass(frozen=True)
class CausalDecoder:
    """A `Decoder` of a GPT.

    Attributes:
        model: the GPT.
    """

    model: GPT

    @property
    def max_length(self) -> int:
        """The model's context."""
        return self.model.context_length

    def prefill(
        self,
        params: Any,
        model_state: Any,
        inputs: None,
        prompt: Int32[Array, "batch time"],
        prompt_lengths: Int32[Array, " batch"],
        max_length: int,
    ) -> tuple[DecodeOutput, Any]:
        """Reads the prompts, all tokens at once."""
        variables: Any = {"params": params, **model_state}
        read: Any = self.model.apply(variables, prompt, prompt_lengths, method="prefill")
        features, layers = read
        layers = tuple({"own": Own(with_room(layer["own"], max_length))} for layer in layers)
        logits: Any = self.model.apply(variables, last(features, prompt_lengths), method="logits")
        return DecodeOutput(logits), {"layers": layers, "lengths": prompt_lengths}

    def decode_step(
        self, params: Any, model_state: Any, tokens: Int32[Array, " batch"], cache: Any
    ) -> tuple[DecodeOutput, Any]:
        """Reads one more token a row."""
        variables: Any = {"params": params, **model_state}
        read: Any = self.model.apply(variables, tokens, cache["layers"], cache["lengths"], method="step")
        features, layers = read
        logits: Any = self.model.apply(variables, features, method="logits")
        return DecodeOutput(logits), {"layers": layers, "lengths": cache["lengths"] + 1}


@dataclass(frozen=True)
class EncoderDecoder:
    """A `Decoder` of a model that reads a text first, such as `T5` or `RecurrentEncoderDecoder`.

    Its inputs are `{"tokens": int32 [batch, time], "lengths": int32 [batch]}`, the sources. A prompt is the token that
    texts begin with, and whatever is to follow it at any rate. The extras are `attention`, float32 [batch, source
    time], what the model looked at when it predicted a token; a model without attention has none.

    Attributes:
        model: a module with `encode(source, *, lengths)`, which gives what was read, any pytree; `prefill(tokens,
            lengths, encoded, source_lengths, max_length)`, which gives the logits behind each row's last token, the
            attention, and the cache; and `step(tokens, cache)`, which gives these of one more token a row. Where it has
            a window, `max_length` says so.
    """

    model: nn.Module

    @property
    def max_length(self) -> int | None:
        """The model's window."""
        return getattr(self.model, "max_length", None)

    def prefill(
        self,
        params: Any,
        model_state: Any,
        inputs: Any,
        prompt: Int32[Array, "batch time"],
        prompt_lengths: Int32[Array, " batch"],
        max_length: int,
    ) -> tuple[DecodeOutput, Any]:
        """Reads the sources and the prompts; of the sources it keeps what each step looks at."""
        variables: Any = {"params": params, **model_state}
        lengths = jnp.asarray(inputs["lengths"])
        encoded = self.model.apply(variables, jnp.asarray(inputs["tokens"]), lengths=lengths, method="encode")
        told = (prompt, prompt_lengths, encoded, lengths, max_length)
        return _output(*self._applied(variables, "prefill", *told))

    def decode_step(
        self, params: Any, model_state: Any, tokens: Int32[Array, " batch"], cache: Any
    ) -> tuple[DecodeOutput, Any]:
        """Reads one more token a row."""
        return _output(*self._applied({"params": params, **model_state}, "step", tokens, cache))

    def _applied(self, variables: Any, method: str, *arguments: Any) -> Any:
        return self.model.apply(variables, *arguments, method=method)


def _output(logits: Array, attention: Array | None, cache: Any) -> tuple[DecodeOutput, Any]:
    return DecodeOutput(logits, {} if attention is None else {"attention": attention}), cache
