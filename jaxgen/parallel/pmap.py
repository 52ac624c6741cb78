"""A thin adapter for `jax.pmap`, which wants a device axis in front; states keep their global layout."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.errors import UsageError
from jaxgen.train.context import Batch
from jaxgen.train.state import TrainState
from jaxgen.train.step import Metrics, Step


def pmap_step(step: Step, axis_name: str = "batch", devices: Sequence[jax.Device] | None = None) -> Step:
    """Makes a compiled step over several devices with `jax.pmap`.

    It takes and returns what the step under `jit` does: a whole batch [batch, ...], and a state whose carry is
    [batch, ...] and that has no device axis anywhere, so checkpoints are the same. The state is donated.

    Args:
        step: made with this `axis_name`.
        axis_name: the mapped axis.
        devices: all devices by default. With several processes each gives its own rows of batch and carry.

    Raises:
        UsageError: if the step was made for another axis, or for none; when it is called, if the batch can't be
            shared out equally over the devices.
    """
    made_for = getattr(step, "axis_name", axis_name)
    if made_for != axis_name:
        raise UsageError(
            f"the step was made with axis_name={made_for!r}, so it would not add up over the devices: give "
            f"make_train_step(..., axis_name={axis_name!r})"
        )
    devices = jax.devices() if devices is None else devices
    num_devices = sum(device.process_index == jax.process_index() for device in devices)
    mesh = Mesh(np.asarray(devices), (axis_name,))
    axes: Any = TrainState(
        step=None, params=None, opt_state=None, model_state=None, carry=0, ema_params=None, rng=None
    )
    mapped = jax.pmap(
        step, axis_name, in_axes=(axes, 0), out_axes=(axes, None), devices=devices, donate_argnums=0
    )

    def apply(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state = _place(state, mesh)
        state = replace(state, carry=_stack(state.carry, num_devices))
        state, metrics = mapped(state, _stack(batch, num_devices))
        return replace(state, carry=jax.tree.map(_unstack, state.carry)), metrics

    return apply


def _place(state: TrainState, mesh: Mesh) -> TrainState:
    """Puts a state where the step will leave it, so that the second call finds nothing new to trace."""
    if jax.process_count() > 1 or state.step.sharding == NamedSharding(mesh, P()):
        return state
    shardings = jax.tree.map(lambda leaf: NamedSharding(mesh, P()), state)
    rows = jax.tree.map(lambda leaf: NamedSharding(mesh, P(*mesh.axis_names)), state.carry)
    return jax.device_put(state, replace(shardings, carry=rows))


def _stack(tree: Any, num_devices: int) -> Any:
    """Gives every leaf the device axis: [batch, ...] to [devices, batch / devices, ...]."""

    def stack(leaf: Any) -> Any:
        size = leaf.shape[0]
        if size % num_devices:
            raise UsageError(f"a batch of {size} can't be shared out equally over {num_devices} devices")
        return leaf.reshape(num_devices, size // num_devices, *leaf.shape[1:])

    return jax.tree.map(stack, tree)


def _unstack(leaf: Any) -> Any:
    return leaf.reshape(-1, *leaf.shape[2:])
