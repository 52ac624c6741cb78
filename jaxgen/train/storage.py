"""How a state is stored: its arrays by path, in Orbax's format, with some JSON beside them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxgen.errors import JaxgenError

META = "meta/meta.json"


class _Quiet(logging.Filter):
    """Drops Orbax's log lines: warnings that are harmless here, and failures that are raised as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.ERROR or "orbax" not in Path(record.pathname).parts


logging.getLogger("absl").addFilter(_Quiet())


def named_leaves(tree: Any) -> dict[str, Any]:
    """Gives a tree's leaves by path ("params/Dense_0/kernel"), whatever its containers are.

    Orbax is given this flat dict, not the tree: containers, None and `()` then come from the target alone and
    can't be changed by a round trip.
    """
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "value"
        if name in leaves:
            raise JaxgenError(f"two leaves of the state are both called {name}; rename one")
        # A copy, because the caller may change a NumPy array while it is being written.
        leaves[name] = leaf if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else jnp.array(leaf)
    return leaves


def shapes(leaves: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Describes leaves in JSON: path to {"shape", "dtype"}."""
    return {name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for name, leaf in leaves.items()}


def make_checkpointer(on_written: Callable[[], None] | None = None) -> ocp.AsyncCheckpointer:
    """Makes Orbax's checkpointer for the two items of a checkpoint, the state and `META`.

    `on_written` is called on one process when all is written but not yet renamed into place.
    """
    options = ocp.options.AsyncOptions(
        post_finalization_callback=on_written,
        # Else, where a directory can't be made, threads wait minutes for it, and the process for them.
        create_directories_asynchronously=False,
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(async_options=options),
        state=ocp.PyTreeCheckpointHandler(),
        meta=ocp.JsonCheckpointHandler(Path(META).name),
    )
    return ocp.AsyncCheckpointer(handler, async_options=options)


def save_args(leaves: dict[str, Any], meta: dict[str, Any]) -> ocp.args.Composite:
    """Makes the arguments with which Orbax saves a checkpoint."""
    items: dict[str, Any] = {"meta": ocp.args.JsonSave(meta)}
    # Orbax refuses arrays without elements, and trees without arrays; there is nothing to save of them.
    arrays = {name: leaf for name, leaf in leaves.items() if leaf.size}
    if arrays:
        items["state"] = ocp.args.PyTreeSave(arrays)
    return ocp.args.Composite(**items)


def read_state(directory: Path, abstract_state: Any, saved: dict[str, Any], *, partial: bool) -> Any:
    """Reads the arrays of an intact checkpoint into the target's containers, onto the target's devices.

    Args:
        directory: the checkpoint.
        abstract_state: a tree of `jax.ShapeDtypeStruct` or arrays.
        saved: `shapes` of what was saved.
        partial: whether the target may be a part of what was saved.

    Raises:
        JaxgenError: the target differs from what was saved; lists the paths.
    """
    wanted = named_leaves(abstract_state)
    _refuse_other_model(saved, shapes(wanted), directory, partial)
    default = jnp.zeros(()).sharding
    targets = {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or default
        )
        for name, leaf in wanted.items()
    }
    stored = {name: target for name, target in targets.items() if target.size}
    leaves = _read_arrays(directory, stored) if stored else {}
    for name, target in targets.items():
        if not target.size:
            leaves[name] = jax.device_put(np.zeros(target.shape, target.dtype), target.sharding)
        elif leaves[name].sharding != target.sharding:
            # Orbax spells the sharding of typed keys in its own way, for which a jitted step is traced again.
            leaves[name] = jax.device_put(leaves[name], target.sharding)
    return jax.tree.unflatten(jax.tree.structure(abstract_state), [leaves[name] for name in wanted])


def _read_arrays(directory: Path, targets: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Reads arrays by path, each onto its target's sharding."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(targets)
    args = ocp.args.PyTreeRestore(targets, restore_args=restore_args, partial_restore=True)
    reader = make_checkpointer()
    try:
        return dict(reader.restore(directory, args=ocp.args.Composite(state=args))["state"])
    finally:
        reader.close()


def _refuse_other_model(
    saved: dict[str, Any], wanted: dict[str, Any], directory: Path, partial: bool
) -> None:
    """Raises JaxgenError listing the paths where a checkpoint and the target differ."""

    def show(leaf: dict[str, Any] | None) -> str:
        return f"{leaf['dtype']}{leaf['shape']}" if leaf else "nothing"

    differing = [
        f"{name}: saved {show(saved.get(name))}, wanted {show(wanted.get(name))}"
        for name in dict.fromkeys(wanted if partial else (*wanted, *saved))
        if saved.get(name) != wanted.get(name)
    ]
    if differing:
        more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise JaxgenError(
            f"{directory} holds another model's state ({'; '.join(differing[:5])}{more}); "
            "use the configuration that it was trained with, or another --workdir"
        )
