"""How likely a model finds given tokens, by the contract that it writes with."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int32, Integer

from jaxgen.generate.contract import Decoder
from jaxgen.generate.prompts import prepare
from jaxgen.metrics import AnyArray


def score(
    decoder: Decoder,
    params: Any,
    model_state: Any,
    tokens: Integer[AnyArray, "batch time"],
    lengths: Integer[AnyArray, " batch"],
    *,
    inputs: Any = None,
) -> Float32[np.ndarray, "batch time"]:
    """Gives the log-probability of each token after those before it; 0 for the first one, and for padding.

    It is compiled once for each decoder, number of rows, and bucket of lengths.

    Args:
        decoder: the model.
        params: its parameters.
        model_state: its other variables.
        tokens: padded at their end with anything.
        lengths: those of each row that aren't padding.
        inputs: of an encoder, see `Decoder.prefill`.

    Raises:
        UsageError: for an empty row, or more tokens than the model's window.
    """
    request = prepare(tokens, lengths, 0, decoder.max_length)
    log_probs = np.asarray(_score(decoder, params, model_state, inputs, request.prompt, request.lengths))
    width = tokens.shape[1]
    return np.pad(log_probs, ((0, 0), (0, max(0, width - log_probs.shape[1]))))[:, :width]


@functools.partial(jax.jit, static_argnames="decoder")
def _score(
    decoder: Decoder,
    params: Any,
    model_state: Any,
    inputs: Any,
    tokens: Int32[Array, "batch time"],
    lengths: Int32[Array, " batch"],
) -> Float[Array, "batch time"]:
    batch, time = tokens.shape
    one = jnp.ones(batch, jnp.int32)
    output, cache = decoder.prefill(params, model_state, inputs, tokens[:, :1], one, time)

    def log_prob(logits: Array, position: Array) -> Array:
        logits = logits.astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, tokens[:, position, None], axis=1)[:, 0]
        return jnp.where(position < lengths, chosen - jax.nn.logsumexp(logits, axis=-1), 0)

    def step(position: Array, loop: Any) -> Any:
        log_probs, logits, cache = loop
        log_probs = lax.dynamic_update_index_in_dim(log_probs, log_prob(logits, position), position, axis=1)
        output, cache = decoder.decode_step(params, model_state, tokens[:, position], cache)
        return log_probs, output.logits, cache

    start = (jnp.zeros((batch, time), jnp.float32), output.logits, cache)
    return lax.fori_loop(1, lengths.max(), step, start)[0]
