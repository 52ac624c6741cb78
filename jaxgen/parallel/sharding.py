"""What lies where: the mesh, one table of parameter paths to mesh axes, and batches cut over the devices."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.errors import UsageError
from jaxgen.train.state import TrainState

Rules = Sequence[tuple[str, P]]

DATA_AXIS = "data"
"""The mesh axis over which batches and carries are cut."""

PARAMETER_RULES: Rules = ((r".*", P()),)
"""Pattern, searched for in a parameter's path (`hidden_0/kernel`), to the mesh axes of its dimensions.

The first that matches counts; axes that the mesh lacks are left out. Today every device holds everything; rules
for the axes `fsdp` and `tensor` go before the last one.
"""


def make_mesh(devices: Sequence[jax.Device] | None = None, axes: Mapping[str, int] | None = None) -> Mesh:
    """Arranges devices in a mesh with automatic axes: XLA places what nothing is said about.

    Args:
        devices: all devices of all processes by default.
        axes: axis name to size, in order; by default one axis, `data`, of all devices.

    Raises:
        UsageError: if the axes don't take up the devices exactly.
    """
    devices = jax.devices() if devices is None else list(devices)
    axes = {DATA_AXIS: len(devices)} if axes is None else axes
    if math.prod(axes.values()) != len(devices):
        taken = math.prod(axes.values())
        raise UsageError(f"a mesh of {_describe(axes)} takes {taken} devices, not {len(devices)}")
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), devices=devices, axis_types=(AxisType.Auto,) * len(axes)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Cuts axis 0 over the devices of the axis `data`; the carry lies like that too."""
    return NamedSharding(mesh, P(DATA_AXIS))


def state_shardings(state: TrainState, mesh: Mesh, rules: Rules = PARAMETER_RULES) -> TrainState:
    """Says where each leaf of a train state lies.

    Parameters follow the rules; moving averages and what the optimiser keeps in a parameter's shape lie like
    their parameter. The carry is cut over `data`; everything else is on every device.

    Args:
        state: a `TrainState`, or a tree of `jax.ShapeDtypeStruct` like one.
        mesh: see `make_mesh`.
        rules: see `PARAMETER_RULES`.

    Returns:
        A `TrainState` of `NamedSharding`.

    Raises:
        UsageError: if a rule cuts a dimension that a parameter lacks, or one into unequal parts.
    """
    everywhere = NamedSharding(mesh, P())
    by_path = {
        _path(path): (leaf.shape, NamedSharding(mesh, _spec(_path(path), leaf.shape, mesh, rules)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }

    def like_parameter(path: tuple, leaf: Any) -> NamedSharding:
        """Finds the parameter whose path this one ends with: `0/mu/hidden_0/kernel` belongs to `hidden_0/kernel`."""
        for start in range(len(path) + 1):
            shape, sharding = by_path.get(_path(path[start:]), (None, everywhere))
            if shape == leaf.shape:
                return sharding
        return everywhere

    def all_everywhere(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: everywhere, tree)

    return replace(
        state,
        step=everywhere,
        params=jax.tree_util.tree_map_with_path(like_parameter, state.params),
        opt_state=jax.tree_util.tree_map_with_path(like_parameter, state.opt_state),
        model_state=all_everywhere(state.model_state),
        carry=jax.tree.map(lambda leaf: batch_sharding(mesh), state.carry),
        ema_params=jax.tree_util.tree_map_with_path(like_parameter, state.ema_params),
        rng=everywhere,
    )


def put_state(state: TrainState, mesh: Mesh, rules: Rules = PARAMETER_RULES) -> TrainState:
    """Puts a state where `state_shardings` says; with several processes each must have the same one, in full."""
    shardings = state_shardings(state, mesh, rules)
    if jax.process_count() == 1:
        return jax.device_put(state, shardings)
    return jax.tree.map(_put_global, state, shardings)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Puts a batch of host arrays on the devices, cut over `data`.

    Args:
        batch: tree of arrays, batch on axis 0; with several processes each gives its own rows, as many as the
            others, and the result is the batch of them all.
        mesh: see `make_mesh`.
    """
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)  # in two thirds of the time
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch
    )


def table_rules(names: Iterable[str]) -> Rules:
    """Makes the rules by which big tables are cut over `data` by their rows."""
    return (*((f"^{name}$", P(DATA_AXIS)) for name in names), *PARAMETER_RULES)


def sharded_step(
    step: Callable[[TrainState, Any], Any], mesh: Mesh, rules: Rules = PARAMETER_RULES
) -> Callable[[TrainState, Any], Any]:
    """Maps a step that was made for the axis `data` over the devices: each takes its part of the batch.

    Args:
        step: `step(state, batch) -> (state, metrics)`, of a state without a carry.
        mesh: see `make_mesh`.
        rules: of the state.
    """

    def mapped(state: TrainState, batch: Any) -> Any:
        specs = jax.tree.map(lambda sharding: sharding.spec, state_shardings(state, mesh, rules))
        over = jax.shard_map(
            step, mesh=mesh, in_specs=(specs, P(DATA_AXIS)), out_specs=(specs, P()), check_vma=False
        )
        return over(state, batch)

    return mapped


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Refuses a batch that can't be cut into equal parts.

    Args:
        batch_size: rows of the global batch.
        num_devices: parts to cut it into; times the microbatches where there are several.

    Raises:
        UsageError: names the nearest sizes that can.
    """
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} is impossible; take 1 or more")
    if batch_size % num_devices:
        below = batch_size // num_devices * num_devices
        nearest = " or ".join(str(size) for size in (below, below + num_devices) if size)
        raise UsageError(
            f"batch size {batch_size} can't be cut into {num_devices} equal parts, one for each device"
            f" (and microbatch); take {nearest}"
        )


def _put_global(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Puts what every process has in full; JAX does it for arrays, and checks that they are equal."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put_global(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jax.device_put(np.asarray(leaf), sharding)


def _describe(axes: Mapping[str, int]) -> str:
    return " x ".join(f"{name} {size}" for name, size in axes.items())


def _path(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> P:
    """Finds the first rule for a parameter, without the axes that the mesh lacks."""
    rule = next((spec for pattern, spec in rules if re.search(pattern, path)), P())
    spec = P(*(_present(axes, mesh) for axes in rule))
    try:
        NamedSharding(mesh, spec).shard_shape(shape)
    except (ValueError, IndexError) as error:
        raise UsageError(
            f"parameter {path!r} of shape {shape} can't be cut as {rule} says, on a mesh of {_describe(mesh.shape)};"
            " change its rule"
        ) from error
    return spec


def _present(axes: str | tuple[str, ...] | None, mesh: Mesh) -> tuple[str, ...] | None:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return tuple(name for name in names if name in mesh.shape) or None
