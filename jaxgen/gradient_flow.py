"""How far back gradients reach in recurrent networks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.metrics import AnyArray


def gradient_norms(
    read: Callable[[Array], Array], inputs: Float[AnyArray, "batch time features"], rng: Key[Array, ""]
) -> Float[Array, " time"]:
    """Gives the norm of a gradient by lag: of the output at the last step, with respect to the input that many before.

    The output is projected on a random direction, another one for each example, and the norms are averaged over the
    examples. Where they fall exponentially with the lag, the gradient vanishes (Bengio et al. 1994; Pascanu et al.
    2013, section 2).

    Args:
        read: a network, from the inputs to outputs [batch, time, outputs].
        inputs: sequences of one length.
        rng: of the directions.

    Returns:
        The norms, at lag 0 first.
    """
    outputs, pull = jax.vjp(read, jnp.asarray(inputs))
    directions = jax.random.normal(rng, outputs[:, -1].shape)
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    (gradients,) = pull(jnp.zeros_like(outputs).at[:, -1].set(directions.astype(outputs.dtype)))
    return jnp.linalg.norm(gradients.astype(jnp.float32), axis=-1).mean(axis=0)[::-1]
