"""How a recurrent language model writes: its cache is the state that it carries."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxgen.generate.contract import DecodeOutput


@dataclass(frozen=True)
class RecurrentDecoder:
    """A `Decoder` of a recurrent language model.

    Attributes:
        model: a `jaxgen.models.RecurrentLanguageModel`.
        max_length: None, for a state that is carried on has no window.
    """

    model: nn.Module
    max_length: None = None

    def prefill(
        self,
        params: Any,
        model_state: Any,
        inputs: None,
        prompt: Int32[Array, "batch time"],
        prompt_lengths: Int32[Array, " batch"],
        max_length: int,
    ) -> tuple[DecodeOutput, Any]:
        """Reads the prompts; the state is that after each prompt's last token."""
        variables = {"params": params, **model_state}
        features, carry = self._applied(variables, "features", prompt, lengths=prompt_lengths)
        last = jnp.take_along_axis(features, prompt_lengths[:, None, None] - 1, axis=1)[:, 0]
        return self._output(variables, last), carry

    def decode_step(
        self, params: Any, model_state: Any, tokens: Int32[Array, " batch"], cache: Any
    ) -> tuple[DecodeOutput, Any]:
        """Reads one more token a row."""
        variables = {"params": params, **model_state}
        features, carry = self._applied(variables, "features", tokens[:, None], cache)
        return self._output(variables, features[:, 0]), carry

    def _output(self, variables: Any, features: Float[Array, "batch width"]) -> DecodeOutput:
        kernel, bias = self._applied(variables, "output")
        logits = jnp.matmul(features, kernel.astype(features.dtype), preferred_element_type=jnp.float32)
        return DecodeOutput(logits + bias)

    def _applied(self, variables: Any, method: str, *arguments: Any, **options: Any) -> Any:
        return self.model.apply(variables, *arguments, method=method, **options)
