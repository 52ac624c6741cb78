"""Configuration: dataclasses to JSON and back by name, so that a run is rebuilt from its `config.json` alone."""

import dataclasses
import functools
import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import JaxgenError, OwnCodeError, unknown

# The packages whose exported dataclasses may be named in a config.json.
_NAMESPACES = ("jaxgen.models", "jaxgen.tasks", "jaxgen.optim", "jaxgen.augment", "jaxgen.lora")
# Fields that Flax adds to every module.
_FLAX_FIELDS = ("parent", "name")


def describe(value: Any) -> Any:
    """Turns a dataclass, such as a task with its model, into JSON values: `{"kind": CLASS, field: value, ...}`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value).__name__
        described: dict[str, Any] = {"kind": kind if _find(kind) is type(value) else _qualified(type(value))}
        for field in dataclasses.fields(value):
            if field.name not in _FLAX_FIELDS or "Module" not in {
                base.__name__ for base in type(value).__mro__
            }:
                described[field.name] = describe(getattr(value, field.name))
        return described
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _describe_other(value)


def _describe_other(value: Any) -> Any:
    """Names what has no fields to list, the same in every process: `repr` would often tell an address."""
    if isinstance(value, np.generic):
        return describe(value.item())
    if hasattr(value, "__qualname__"):  # functions and classes
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, functools.partial):
        parts = {"function": value.func, "arguments": value.args, "keywords": value.keywords}
        return {"kind": "functools:partial", **describe(parts)}
    if hasattr(value, "tobytes"):  # arrays
        return {
            "kind": "array",
            "dtype": str(value.dtype),
            "shape": list(value.shape),
            "sha256": hashlib.sha256(value.tobytes()).hexdigest(),
        }
    return {"kind": _qualified(type(value)), **describe(vars(value) if hasattr(value, "__dict__") else {})}


def rebuild(described: Any) -> Any:
    """Makes the dataclass that `describe` described.

    Raises:
        OwnCodeError: for a class that is a user's own.
        JaxgenError: for a class that jaxgen doesn't export, or fields that it doesn't have.
    """
    if isinstance(described, list):
        return tuple(rebuild(item) for item in described)
    if not isinstance(described, Mapping):
        return described
    if "kind" not in described:
        return {key: rebuild(item) for key, item in described.items()}
    kind = described["kind"]
    found = _find(kind)
    if found is None and ":" in kind:
        raise OwnCodeError(
            f"the run uses {kind}, which is not part of jaxgen: open it in your own code, as "
            "jaxgen.SavedRun(path, task=...)"
        )
    if found is None:
        raise unknown("class in the run's config.json", kind, _exported())
    fields = {key: rebuild(item) for key, item in described.items() if key != "kind"}
    extra = fields.keys() - {field.name for field in dataclasses.fields(found)}
    if extra:
        raise JaxgenError(
            f"the run's config.json has fields that {kind} doesn't know: {', '.join(sorted(extra))}"
        )
    return found(**fields)


def completed(described: Any) -> Any:
    """Adds the fields that a described value lacks, since they are younger than it, with their defaults.

    What this jaxgen can't make (a user's own class, unknown names) stays as it is.
    """
    if isinstance(described, list):
        return [completed(item) for item in described]
    if not isinstance(described, Mapping):
        return described
    found = _find(described["kind"]) if "kind" in described else None
    defaults = {} if found is None else _described_defaults(found)
    return {**defaults, **{key: completed(item) for key, item in described.items()}}


def _described_defaults(cls: Any) -> dict[str, Any]:
    fields = [field for field in dataclasses.fields(cls) if field.name not in _FLAX_FIELDS]
    plain = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    made = {
        field.name: field.default_factory()
        for field in fields
        if field.default_factory is not dataclasses.MISSING
    }
    return {name: describe(value) for name, value in {**plain, **made}.items()}


def differences(before: Any, after: Any, prefix: str = "") -> list[str]:
    """Lists where two described values differ, as `path: before -> after`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found = []
        for key in sorted({*before, *after}):
            found += differences(before.get(key), after.get(key), f"{prefix}.{key}" if prefix else key)
        return found
    return [] if before == after else [f"{prefix}: {before!r} -> {after!r}"]


def _find(kind: str) -> Any:
    for namespace in _NAMESPACES:
        found = getattr(importlib.import_module(namespace), kind, None)
        if dataclasses.is_dataclass(found):
            return found
    return None


def _exported() -> list[str]:
    modules = [importlib.import_module(namespace) for namespace in _NAMESPACES]
    return [
        name for module in modules for name in dir(module) if dataclasses.is_dataclass(getattr(module, name))
    ]


def _qualified(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"
