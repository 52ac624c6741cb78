"""How a recurrent language model writes: its cache is the state that it carries."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int32

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
        return DecodeOutput(self._applied(variables, "logits", last)), carry

    def decode_step(
        self, params: Any, model_state: Any, tokens: Int32[Array, " batch"], cache: Any
    ) -> tuple[DecodeOutput, Any]:
        """Reads one more token a row."""
        variables = {"params": params, **model_state}
        features, carry = self._applied(variables, "features", tokens[:, None], cache)
        return DecodeOutput(self._applied(variables, "logits", features[:, 0])), carry

    def _applied(self, variables: Any, method: str, *arguments: Any, **options: Any) -> Any:
        return self.model.apply(variables, *arguments, method=method, **options)
