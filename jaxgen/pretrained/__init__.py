"""Weights of others: `load` and `save` their directories, a family a module, and the tables of what is what in them."""

from pathlib import Path
from typing import Any

import flax.linen as nn

from jaxgen.errors import UsageError
from jaxgen.models import BERT, GPT, T5
from jaxgen.pretrained import bert, family, gpt2, t5
from jaxgen.pretrained.storage import Stored, new_directory, read_stored, write_stored
from jaxgen.pretrained.table import Entry, Table, Transform, from_params, to_params

__all__ = [
    "Entry",
    "Stored",
    "Table",
    "Transform",
    "bert",
    "family_of",
    "from_params",
    "gpt2",
    "load",
    "new_directory",
    "read",
    "read_stored",
    "save",
    "t5",
    "to_params",
    "write_stored",
]

_FAMILIES: dict[str, Any] = {"gpt2": gpt2, "bert": bert, "t5": t5}
_OF_MODELS: dict[type, Any] = {GPT: gpt2, BERT: bert, T5: t5}


def load(directory: Path | str) -> tuple[nn.Module, dict[str, Any]]:
    """Opens a directory with a GPT-2, BERT or T5, as its `config.json` says.

    Returns:
        The model, and its parameters, nested dictionaries of float32 NumPy arrays.

    Raises:
        JaxgenError: if files are missing or damaged, the architecture isn't supported, the model has what ours
            hasn't, or tensors are missing, of no use or of the wrong shape; says which.
    """
    return read(read_stored(Path(directory)))


def read(stored: Stored) -> tuple[nn.Module, dict[str, Any]]:
    """Does for an opened directory what `load` does."""
    told = stored.config.get("architectures") or [stored.config.get("model_type")]
    for name, each in _FAMILIES.items():
        if told[0] == name or told[0] in each.ARCHITECTURES:
            return each.read(stored)
    supported = {name: None for each in _FAMILIES.values() for name in each.ARCHITECTURES}
    raise family.unsupported(stored.config, supported)


def save(model: nn.Module, params: Any, directory: Path | str) -> None:
    """Writes a new directory with a model, in the form of its family.

    Raises:
        UsageError: for a model that is of none, or is unlike theirs, and if there is something at `directory` already.
        JaxgenError: for parameters of another model, and if it can't be written.
    """
    family_of(model).save(model, params, directory)


def family_of(model: nn.Module) -> Any:
    """Gives the module of a model's family.

    Raises:
        UsageError: for a model that is of none.
    """
    if type(model) not in _OF_MODELS:
        raise UsageError(
            f"a {type(model).__name__} has no form that others open; those of {', '.join(_FAMILIES)} have"
        )
    return _OF_MODELS[type(model)]
