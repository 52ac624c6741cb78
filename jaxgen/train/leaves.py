"""A state's leaves by path: what a checkpoint holds, and what it is compared with when it is read."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.errors import JaxgenError


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


def refuse_other_model(saved: dict[str, Any], wanted: dict[str, Any], directory: Path) -> None:
    """Raises JaxgenError listing the paths where the checkpoint and the target differ."""
    was = {name: f"{leaf['dtype']}{leaf['shape']}" for name, leaf in saved.items()}
    now = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in wanted.items()}
    differing = [
        f"{name}: saved {was.get(name, 'nothing')}, wanted {now.get(name, 'nothing')}"
        for name in dict.fromkeys((*now, *was))
        if was.get(name) != now.get(name)
    ]
    if differing:
        more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise JaxgenError(
            f"{directory} holds another model's state ({'; '.join(differing[:5])}{more}); "
            "use the configuration that it was trained with, or another --workdir"
        )
