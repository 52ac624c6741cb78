"""Tables of what others' tensors are called, and how they become our parameters and parameters them."""

import fnmatch
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import Shaped

from jaxgen.errors import JaxgenError

Arrays = Sequence[Shaped[np.ndarray, "..."]]
_LISTED = 8


@dataclass(frozen=True)
class Transform:
    """How the tensors of an entry become its parameters, and back: the one undoes the other, bit for bit."""

    to_params: Callable[[Arrays], Arrays]
    from_params: Callable[[Arrays], Arrays]

    @property
    def inverse(self) -> "Transform":
        """The other way round."""
        return Transform(self.from_params, self.to_params)

    def then(self, other: "Transform") -> "Transform":
        """Gives this one, and another after it."""
        return Transform(
            lambda tensors: other.to_params(self.to_params(tensors)),
            lambda params: self.from_params(other.from_params(params)),
        )


same = Transform(list, list)
transposed = Transform(lambda tensors: [t.T for t in tensors], lambda params: [p.T for p in params])


def split(parts: int, axis: int = -1) -> Transform:
    """Cuts one tensor into equal parts, such as query, key and value; its inverse puts parts together."""
    return Transform(
        lambda tensors: np.split(tensors[0], parts, axis=axis),
        lambda params: [np.concatenate(params, axis=axis)],
    )


@dataclass(frozen=True)
class Entry:
    """A row of a table: tensors that become parameters.

    Attributes:
        tensors: their names, with `{layer}` or the like where there are several.
        params: paths of parameters, such as `layers/layer_{layer}/attention/query/kernel`.
        transform: how they become each other.
    """

    tensors: str | tuple[str, ...]
    params: str | tuple[str, ...]
    transform: Transform = same

    def each(self, sizes: Mapping[str, int]) -> Iterator[tuple[list[str], list[str]]]:
        """Gives the names of tensors and parameters, for each layer."""
        tensors, params = (
            [names] if isinstance(names, str) else list(names) for names in (self.tensors, self.params)
        )
        found = {
            name for text in (*tensors, *params) for _, name, _, _ in string.Formatter().parse(text) if name
        }
        assert len(found) <= 1, "an entry counts one thing"
        counted = next(iter(found), None)
        for number in range(sizes[counted] if counted else 1):
            numbers = {counted: number} if counted else {}
            yield [text.format(**numbers) for text in tensors], [text.format(**numbers) for text in params]


def linear(tensors: str, params: str, *, use_bias: bool = True) -> tuple[Entry, ...]:
    """Gives the entries of a linear layer of PyTorch's, whose weight is [out, in]."""
    weight = Entry(f"{tensors}.weight", f"{params}/kernel", transposed)
    return (weight, Entry(f"{tensors}.bias", f"{params}/bias")) if use_bias else (weight,)


def norm(tensors: str, params: str, *, use_bias: bool = True) -> tuple[Entry, ...]:
    """Gives the entries of a norm."""
    weight = Entry(f"{tensors}.weight", f"{params}/scale")
    return (weight, Entry(f"{tensors}.bias", f"{params}/bias")) if use_bias else (weight,)


@dataclass(frozen=True)
class Table:
    """All that a family's files hold.

    Attributes:
        entries: of the table.
        sizes: how many layers there are, by the name that entries have for their number.
        prefix: names may do without it; they are written with it, where entries have it.
        ignored: names of tensors that there may be and that are no weights, with `*` for anything.
        old_names: ends of names in old files, and what they are called now.
    """

    entries: tuple[Entry, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    old_names: tuple[tuple[str, str], ...] = ()

    def rows(self) -> Iterator[tuple[list[str], list[str], Transform]]:
        """Gives the names of tensors and parameters that become each other, and how."""
        for entry in self.entries:
            for tensors, params in entry.each(self.sizes):
                yield tensors, params, entry.transform

    def key(self, name: str) -> str:
        """Gives a tensor's name as it is looked for: without the prefix, and as it is called now."""
        for old, new in self.old_names:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return name.removeprefix(self.prefix)

    def ignores(self, name: str) -> bool:
        """Tells whether a tensor is no weight."""
        return any(fnmatch.fnmatchcase(self.key(name), self.key(pattern)) for pattern in self.ignored)


def to_params(tensors: Mapping[str, Shaped[np.ndarray, "..."]], table: Table, shapes: Any) -> dict[str, Any]:
    """Makes parameters of tensors.

    Args:
        tensors: by name.
        table: of the family.
        shapes: the model's parameters as `jax.eval_shape` gives them: what they must be like, dtypes included.

    Returns:
        Nested dictionaries of NumPy arrays.

    Raises:
        JaxgenError: lists the tensors that are missing, of no use, or of the wrong shape.
    """
    wanted = traverse_util.flatten_dict(shapes, sep="/")
    names = {table.key(name): name for name in tensors if not table.ignores(name)}
    rows = list(table.rows())
    keys = {table.key(name): name for row_tensors, _, _ in rows for name in row_tensors}
    missing = [name for key, name in keys.items() if key not in names]
    extra = [name for key, name in names.items() if key not in keys]
    misshaped: list[str] = []
    made: dict[str, Any] = {}
    for row_tensors, params, transform in rows:
        assert all(path in wanted for path in params), f"the table has {params}, the model hasn't"
        if any(table.key(name) not in names for name in row_tensors):
            continue
        given = [tensors[names[table.key(name)]] for name in row_tensors]
        expected = [wanted[path] for path in params]
        if unfit := _unfit(row_tensors, given, expected, transform):
            misshaped.extend(unfit)
            continue
        arrays = zip(params, transform.to_params(given), expected, strict=True)
        made.update({path: np.asarray(array, like.dtype, order="C") for path, array, like in arrays})
    _refuse("the weights don't fit the model", missing=missing, extra=extra, misshaped=misshaped)
    assert made.keys() == wanted.keys(), f"the table lacks {wanted.keys() - made.keys()}"
    return traverse_util.unflatten_dict(made, sep="/")


def from_params(params: Mapping[str, Any], table: Table) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Makes tensors, by name, of parameters.

    Raises:
        JaxgenError: lists the parameters that are missing, or have no place in the table.
    """
    given = traverse_util.flatten_dict(params, sep="/")
    rows = list(table.rows())
    paths = dict.fromkeys(path for _, row_params, _ in rows for path in row_params)
    missing = [path for path in paths if path not in given]
    extra = [path for path in given if path not in paths]
    _refuse("the parameters don't fit the table", missing=missing, extra=extra)
    made: dict[str, np.ndarray] = {}
    for tensors, row_params, transform in rows:
        arrays = transform.from_params([np.asarray(given[path]) for path in row_params])
        made.update(zip(tensors, arrays, strict=True))
    return made


def _unfit(names: list[str], given: Arrays, expected: Sequence[Any], transform: Transform) -> list[str]:
    """Tells which tensors of a row haven't the shapes that the parameters ask for."""
    blanks = [np.broadcast_to(np.zeros((), like.dtype), like.shape) for like in expected]
    shapes = [tensor.shape for tensor in transform.from_params(blanks)]
    return [
        f"{name} {list(tensor.shape)}, should be {list(shape)}"
        for name, tensor, shape in zip(names, given, shapes, strict=True)
        if tensor.shape != shape
    ]


def _refuse(told: str, **lists: list[str]) -> None:
    """Raises one error for all that is wrong."""
    parts = []
    for what, names in lists.items():
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        if names:
            parts.append(f"{what} {', '.join(names[:_LISTED])}{more}")
    if parts:
        raise JaxgenError(f"{told}: {'; '.join(parts)}")
