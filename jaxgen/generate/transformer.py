"""How transformers write: their cache is the keys and values of the tokens read so far, with room for those to come."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxgen.generate.contract import DecodeOutput
from jaxgen.models.cache import with_room
from jaxgen.models.gpt import GPT
from jaxgen.models.t5 import T5


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
        layers = tuple({"own": with_room(layer["own"], max_length)} for layer in layers)
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


def last(
    features: Float[Array, "batch time width"], lengths: Int32[Array, " batch"]
) -> Float[Array, "batch width"]:
    """Gives the features of each row's last token."""
    return jnp.take_along_axis(features, lengths[:, None, None] - 1, axis=1)[:, 0]


@dataclass(frozen=True)
class EncoderDecoder:
    """A `Decoder` of a T5; its inputs are `{"tokens": int32 [batch, time], "lengths": int32 [batch]}`, the sources.

    A prompt is the token that texts begin with, and whatever is to follow it at any rate.

    Attributes:
        model: the T5.
        max_length: None, for relative positions have no window.
    """

    model: T5
    max_length: None = None

    def prefill(
        self,
        params: Any,
        model_state: Any,
        inputs: Any,
        prompt: Int32[Array, "batch time"],
        prompt_lengths: Int32[Array, " batch"],
        max_length: int,
    ) -> tuple[DecodeOutput, Any]:
        """Reads the sources, whose keys and values are kept, and the prompts."""
        variables: Any = {"params": params, **model_state}
        lengths = jnp.asarray(inputs["lengths"])
        encoded = self.model.apply(variables, inputs["tokens"], lengths=lengths, method="encode")
        read: Any = self.model.apply(variables, prompt, prompt_lengths, encoded, lengths, method="prefill")
        features, layers = read
        layers = tuple({**layer, "own": with_room(layer["own"], max_length)} for layer in layers)
        logits: Any = self.model.apply(variables, last(features, prompt_lengths), method="logits")
        return DecodeOutput(logits), {"layers": layers, "lengths": prompt_lengths, "source_lengths": lengths}

    def decode_step(
        self, params: Any, model_state: Any, tokens: Int32[Array, " batch"], cache: Any
    ) -> tuple[DecodeOutput, Any]:
        """Reads one more token a row."""
        variables: Any = {"params": params, **model_state}
        told = (tokens, cache["layers"], cache["lengths"], cache["source_lengths"])
        read: Any = self.model.apply(variables, *told, method="step")
        features, layers = read
        logits: Any = self.model.apply(variables, features, method="logits")
        return DecodeOutput(logits), {**cache, "layers": layers, "lengths": cache["lengths"] + 1}
