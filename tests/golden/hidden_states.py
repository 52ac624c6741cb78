"""What the blocks of a GPT, BERT or T5 give, to be compared with transformers' `hidden_states`."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.models import BERT, GPT, T5
from jaxgen.models.transformer import Block


def hidden_states(model: GPT | BERT | T5, params: Any, *inputs: Any, **named: Any) -> dict[str, jax.Array]:
    """Gives the outputs of all blocks but the last side by side, [batch, time, blocks * width].

    Args:
        model: the transformer.
        params: its parameters.
        inputs: as its `attention` takes them.
        named: likewise.

    Returns:
        `states`, or of a T5 `encoder_states` and `decoder_states`; none of a stack of one block. (The last ones are
        compared as features and logits.)
    """

    def is_block(module: Any, name: str) -> bool:
        return isinstance(module, Block) and name == "__call__"

    # Here blocks are called as modules, and not by their parameters alone.
    _, kept = model.apply(
        {"params": params},
        *inputs,
        **named,
        method="attention",
        capture_intermediates=is_block,
        mutable=["intermediates"],
    )
    names = {"layers": "states", "encoder": "encoder_states", "decoder": "decoder_states"}
    found = {}
    for stack, layers in kept["intermediates"].items():
        outputs = [layers[f"layer_{number}"]["__call__"][0] for number in range(len(layers))]
        if len(outputs) > 1:
            found[names[stack]] = jnp.concatenate(outputs[:-1], axis=-1)
    return found
