"""What a model has to offer to be decoded: a prompt read at once, and then one token after the other."""

from typing import Any, Protocol, runtime_checkable

from flax import struct
from jaxtyping import Array, Float, Int32


@struct.dataclass
class DecodeOutput:
    """What a model says about the next token.

    Attributes:
        logits: of any float dtype, [batch, vocabulary].
        extras: whatever else there is to see of this step, such as attention, by name; batch on axis 0. Of the same
            shapes in each step, and in reading the prompt.
    """

    logits: Float[Array, "batch vocabulary"]
    extras: Any = struct.field(default_factory=dict)


@runtime_checkable
class Decoder(Protocol):
    """An autoregressive model, ready to write: a frozen dataclass, since it is a static argument of what is compiled.

    The cache is any pytree whose leaves have the batch on axis 0: the state of a recurrent net, keys and values of
    attention, and the encoder's states with their mask. Rows know nothing of each other, and each has its own length.
    What is the same for all texts of a prompt may be in a `jaxgen.models.cache.Shared`, which keeps a row each prompt,
    and keys and values of the texts in an `Own`: beams then copy neither.
    """

    @property
    def max_length(self) -> int | None:
        """The window, tokens of the prompt and new ones together; None where there is none."""
        ...

    def prefill(
        self,
        params: Any,
        model_state: Any,
        inputs: Any,
        prompt: Int32[Array, "batch time"],
        prompt_lengths: Int32[Array, " batch"],
        max_length: int,
    ) -> tuple[DecodeOutput, Any]:
        """Reads the prompts.

        Args:
            params: the model's parameters.
            model_state: its other variables.
            inputs: the encoder's batch, any pytree with the batch on axis 0; None without an encoder.
            prompt: tokens, padded at their end.
            prompt_lengths: those of each row that aren't padding, at least 1.
            max_length: tokens of a row, prompt and new ones, that the cache must have room for.

        Returns:
            What follows each row's last token, and the cache.
        """
        ...

    def decode_step(
        self, params: Any, model_state: Any, tokens: Int32[Array, " batch"], cache: Any
    ) -> tuple[DecodeOutput, Any]:
        """Reads one more token a row; gives what follows it, and the cache with it."""
        ...
