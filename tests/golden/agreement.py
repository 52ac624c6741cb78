"""Compares jaxgen with what `make_torch_reference.py` computed: for the stored results and for live ones."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen import losses
from jaxgen.optim import OptimizerConfig, Schedule

# As in make_torch_reference.py: learning rate and weight decay.
OPTIMIZERS = {"sgd": (0.1, 0.0), "momentum": (0.05, 0.0), "adam": (1e-3, 0.0), "adamw": (1e-3, 0.1)}
STEPS = 3
LOSSES = ("cross_entropy", "smoothed_cross_entropy", "mse", "huber")


def check_agreement(
    model: nn.Module, reference: dict[str, np.ndarray], tolerance: float = 1e-5, rounding: float = 0.0
) -> None:
    """Asserts that logits, losses, gradients, running averages and updated parameters are PyTorch's.

    The tolerance, absolute and relative, is some ten float32 roundings of sums of a few hundred products. Weights whose
    gradient is below `rounding` times the largest one are left out where Adam is compared: it makes full steps of them.
    """
    inputs, labels, targets = (reference[key] for key in ("inputs", "labels", "targets"))
    initial = model.init(jax.random.key(0), inputs)
    batch_stats = initial.get("batch_stats", {})

    def values(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = model.apply(variables, inputs, train=True, mutable=["batch_stats"])
        means = (
            losses.cross_entropy(logits, labels),
            losses.cross_entropy(logits, labels, label_smoothing=0.1),
            losses.mean_squared_error(logits, targets),
            losses.huber(logits, targets, delta=0.7),
        )
        found = jnp.stack([mean.compute() for mean in means])
        return found, (found, logits, updated.get("batch_stats", {}))

    # All four gradients in one compilation: the rows of the Jacobian.
    differentiate = jax.jit(jax.jacrev(values, has_aux=True))
    params = _tree(reference, "params")
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, initial["params"])
    gradients, (found, logits, updated) = differentiate(params)

    _assert_close(logits, reference["logits"], tolerance)
    _assert_close(found, np.ravel([reference[f"losses/{name}"] for name in LOSSES]), tolerance)
    _assert_close(updated, _tree(reference, "batch_stats"), tolerance)
    for row, name in enumerate(LOSSES):
        gradient = jax.tree.map(lambda leaf: leaf[row], gradients)  # noqa: B023
        _assert_close(gradient, _tree(reference, f"gradients/{name}"), tolerance)
    # A bias before batch norm has a gradient of rounding errors alone, which Adam blows up to its full step.
    told = jax.tree.map(
        lambda g: np.abs(g) >= rounding * np.abs(g).max(), _tree(reference, "gradients/cross_entropy")
    )
    for name in ("sgd", "momentum") if batch_stats else OPTIMIZERS:
        found = _train(name, params, lambda p: jax.tree.map(lambda leaf: leaf[0], differentiate(p)[0]))
        expected = _tree(reference, f"after/{name}")
        if name.startswith("adam"):
            found, expected = (
                jax.tree.map(lambda a, t: np.where(t, a, 0), b, told) for b in (found, expected)
            )
        _assert_close(found, expected, tolerance)


def _train(name: str, params: Any, gradient: Any) -> Any:
    learning_rate, weight_decay = OPTIMIZERS[name]
    config = OptimizerConfig(name, Schedule(learning_rate=learning_rate), weight_decay=weight_decay)
    optimizer = config.build()
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for _ in range(STEPS):
        updates, state = update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def _tree(reference: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    start = f"{prefix}/"
    flat = {key.removeprefix(start): value for key, value in reference.items() if key.startswith(start)}
    return unflatten_dict(flat, sep="/")


def _assert_close(found: Any, expected: Any, tolerance: float) -> None:
    if isinstance(expected, dict):
        found, expected = (flatten_dict(tree, sep="/") for tree in (found, expected))
        assert found.keys() == expected.keys()
    else:
        found, expected = {"": found}, {"": expected}
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=tolerance, atol=tolerance, err_msg=key)
