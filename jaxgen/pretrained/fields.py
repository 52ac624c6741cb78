"""Fields of others' `config.json` and of our models: what they are called in both, and what they may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxgen.errors import JaxgenError, UsageError

Config = Mapping[str, Any]

# Of a default: what its field is to be.
_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (float, int)),
    type(None): ("a whole number", (int, type(None))),
}


@dataclass(frozen=True)
class Field:
    """A field of `config.json` that is one of our model's.

    Attributes:
        theirs: its name there.
        ours: its name in our model.
        default: what it is where `config.json` doesn't say; values are of its type, or whole numbers where it is None.
        names: of values, theirs to ours, where there are some alone; of several for one of ours the first is written.
    """

    theirs: str
    ours: str
    default: Any
    names: Mapping[str, str] = field(default_factory=dict)


def read_fields(config: Config, fields: Sequence[Field], fixed: Config) -> dict[str, Any]:
    """Gives our model's fields.

    Args:
        config: of `config.json`.
        fields: of the family; of several for one of ours the last one counts.
        fixed: what other fields must be, where they are told.

    Raises:
        JaxgenError: names the field and its value, where it is none that we have.
    """
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise JaxgenError(
                f"config.json has {name} {config[name]!r}, which jaxgen doesn't have: it has {value!r} alone"
            )
    return {each.ours: _read(config.get(each.theirs, each.default), each) for each in fields}


def write_fields(
    model: Any, fields: Sequence[Field], fixed: Config, ours: Config, name: str
) -> dict[str, Any]:
    """Gives what `config.json` says of a model.

    Args:
        model: ours.
        fields: of the family.
        fixed: other fields, as they are for all of our models.
        ours: what those fields of the model must be that the family has no field for.
        name: of the family.

    Raises:
        UsageError: names the model's field and its value, where the family has none such.
    """
    others = [own for own, value in ours.items() if getattr(model, own) != value]
    if others:
        first, options = others[0], " and ".join(_option(own, ours[own]) for own in others)
        raise UsageError(
            f"the model has {first} {getattr(model, first)!r}, but {name} is written with {ours[first]!r} alone: that "
            f"takes a new run, with {options}"
        )
    return {**fixed, **{each.theirs: _written(getattr(model, each.ours), each, name) for each in fields}}


def _option(name: str, value: Any) -> str:
    """Names an option of the experiments, and the value that it is to have."""
    option = name.replace("_", "-")
    if value is None:
        return f"no --{option}"
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {value}"


def _read(value: Any, of: Field) -> Any:
    if of.names:
        if not isinstance(value, str) or value not in of.names:
            raise JaxgenError(
                f"config.json has {of.theirs} {value!r}, which jaxgen doesn't have: it has {', '.join(of.names)}"
            )
        return of.names[value]
    wanted, kinds = _KINDS[type(of.default)]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise JaxgenError(f"config.json has {of.theirs} {value!r}; it must be {wanted}")
    return value


def _written(value: Any, of: Field, name: str) -> Any:
    if not of.names:
        return value
    theirs = [told for told, own in of.names.items() if own == value]
    if not theirs:
        known = ", ".join(dict.fromkeys(of.names.values()))
        raise UsageError(f"the model has {of.ours} {value!r}, but {name} is written with {known} alone")
    return theirs[0]
