"""What the families of models have in common: architectures by name, and parameters of a directory's tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from jaxgen.errors import JaxgenError
from jaxgen.pretrained.storage import Stored, new_directory, write_stored
from jaxgen.pretrained.table import Table, from_params, to_params


def architecture_of(config: Mapping[str, Any], model_type: str, supported: Mapping[str, Any]) -> str:
    """Gives the architecture that `config.json` tells, or the family's first one where it tells the family alone.

    Raises:
        JaxgenError: for another one, names those that are supported.
    """
    told = config.get("architectures") or []
    named = str(told[0]) if isinstance(told, list) and told else None
    if named is None and config.get("model_type") == model_type:
        return next(iter(supported))
    if named is None or named not in supported:
        raise unsupported(config, supported)
    return named


def unsupported(config: Mapping[str, Any], supported: Mapping[str, Any]) -> JaxgenError:
    """Builds the error for an architecture that isn't supported."""
    told = config.get("architectures") or config.get("model_type")
    named = ", ".join(map(str, told)) if isinstance(told, list) else told
    what = "tells no architecture" if named is None else f"tells of {named}, which can't be opened here"
    return JaxgenError(f"config.json {what}; supported: {', '.join(supported)}")


def params_of(stored: Stored, table: Table, model: nn.Module, texts: int = 1) -> dict[str, Any]:
    """Makes a model's parameters of a directory's tensors; float32 NumPy arrays.

    Args:
        stored: the directory.
        table: of the model.
        model: ours.
        texts: that the model is called with.

    Raises:
        JaxgenError: lists the tensors that are missing, of no use, or of the wrong shape.
    """
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), *[tokens] * texts)
    return to_params(stored.tensors, table, shapes["params"])


def write(directory: Path, config: Mapping[str, Any], params: Any, table: Table) -> None:
    """Writes a model into a directory that is there.

    Raises:
        JaxgenError: for parameters that aren't the model's, and if a file can't be written.
    """
    write_stored(directory, config, from_params(params, table))


def save(directory: Path | str, config: Mapping[str, Any], params: Any, table: Table) -> None:
    """Writes a model into a new directory, which is there whole or not at all."""
    with new_directory(Path(directory)) as made:
        write(made, config, params, table)


def is_own(tensors: Mapping[str, Shaped[np.ndarray, "..."]], name: str, embedding: str) -> bool:
    """Tells whether there is a last layer that isn't the embedding: old files have it twice."""
    if name not in tensors or embedding not in tensors:
        return False
    return not np.array_equal(tensors[name], tensors[embedding])
