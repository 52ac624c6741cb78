"""Compares jaxgen's recurrent layers with what `make_torch_recurrent.py` computed: stored results and live ones."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxgen.models import Recurrent


def check_recurrent_agreement(
    model: Recurrent, reference: dict[str, np.ndarray], tolerance: float = 1e-5
) -> None:
    """Asserts that outputs, last states, and the gradients of parameters, inputs and first states are PyTorch's.

    The tolerance is relative, and absolute in parts of an array's largest value where that is above 1: gradients are
    sums over rows and steps, and what cancels in them leaves the rounding errors of what is large.
    """

    def tree(prefix: str) -> dict:
        begin = f"{prefix}/"
        flat = {k.removeprefix(begin): v for k, v in reference.items() if k.startswith(begin)}
        return unflatten_dict(flat, sep="/")

    def states(prefix: str) -> tuple:
        found = tree(prefix)
        return tuple(found[str(index)] for index in range(len(found)))

    def objective(params, begin, inputs):
        outputs, last = model.apply({"params": params}, inputs, begin, lengths=reference["lengths"])
        pairs = ((reference["weights"], outputs), (states("last_weights"), last))
        weighted = (jax.tree.map(lambda w, v: (w * v).sum(), *pair) for pair in pairs)
        return sum(jax.tree.leaves(list(weighted)), jnp.float32(0)), (outputs, last)

    arguments = (tree("params"), states("begin"), jnp.asarray(reference["inputs"]))
    gradients, (outputs, last) = jax.jit(jax.grad(objective, argnums=(0, 1, 2), has_aux=True))(*arguments)
    found = (outputs, last, *gradients)
    expected = (
        reference["outputs"],
        states("last"),
        tree("of_params"),
        states("of_begin"),
        reference["of_inputs"],
    )
    assert jax.tree.structure(found) == jax.tree.structure(expected)

    def compare(ours, theirs):
        largest = max(1, np.abs(theirs).max(initial=0))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * largest)

    jax.tree.map(compare, found, expected)
