"""The ways to get and apply a gradient: dense, and by the rows of big tables that a batch touches."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Int

from jaxgen.train.context import Batch, Params

Objective = Callable[[Params, Batch], tuple[Array, Any]]
GradientMethod = Callable[[Objective, Params, Batch], tuple[Any, Any]]


@struct.dataclass
class RowGradient:
    """The gradient of a table with respect to some of its rows; a row that occurs twice counts twice.

    Attributes:
        indices: int32 [touched].
        rows: float32 [touched, width].
    """

    indices: Any
    rows: Any


def is_row_gradient(node: Any) -> bool:
    """Tells row gradients apart from arrays when a tree of gradients is mapped over."""
    return isinstance(node, RowGradient)


def dense(objective: Objective, params: Params, batch: Batch) -> tuple[Any, Any]:
    """Differentiates with respect to every parameter; returns (gradients, the objective's extra output)."""
    return jax.grad(objective, has_aux=True)(params, batch)


def rows(select: Callable[[Batch], Mapping[str, Int[Array, " touched"]]]) -> "ByRows":
    """Makes the gradient with respect to the rows of big tables that a batch touches.

    Args:
        select: names the rows: table name (a top-level entry of the parameters) to int32 indices [touched],
            repeats allowed. The loss sees the gathered rows [touched, width] in the table's place.

    The optimiser must be a `RowOptimizer` over the same tables.
    """
    return ByRows(select)


@dataclass(frozen=True)
class ByRows:
    """A `GradientMethod`: see `rows`.

    Attributes:
        select: names the rows.
        axis_name: the mapped axis that the tables are cut over, where each device holds a part of their rows.
    """

    select: Callable[[Batch], Mapping[str, Int[Array, " touched"]]]
    axis_name: str | None = None

    def __call__(self, objective: Objective, params: Params, batch: Batch) -> tuple[Any, Any]:
        """Differentiates; returns (gradients, the objective's extra output)."""
        indices = self.select(batch)
        look_up = functools.partial(_look_up, axis_name=self.axis_name)
        gathered = {**params, **{name: look_up(params[name], touched) for name, touched in indices.items()}}
        gradients, auxiliary = jax.grad(objective, has_aux=True)(gathered, batch)
        by_row = {name: RowGradient(touched, gradients[name]) for name, touched in indices.items()}
        return {**gradients, **by_row}, auxiliary


def _look_up(table: Array, indices: Int[Array, " touched"], axis_name: str | None) -> Array:
    """Gives rows of a table; of one that is cut, each device finds what it has of all devices' rows."""
    if axis_name is None:
        return table[indices]
    local = _local(jax.lax.all_gather(indices, axis_name), len(table), axis_name)
    found = jnp.where((local < len(table))[..., None], table[jnp.minimum(local, len(table) - 1)], 0)
    return jax.lax.psum_scatter(found, axis_name, scatter_dimension=0)


def _local(indices: Int[Array, "*batch"], size: int, axis_name: str) -> Int[Array, "*batch"]:
    """Numbers rows within the part that a device holds; those of others are beyond its last one."""
    local = indices - jax.lax.axis_index(axis_name) * size
    return jnp.where((local >= 0) & (local < size), local, size)


@runtime_checkable
class RowUpdate(Protocol):
    """How the rows of one table change: `init(table)` and `update(table, state, gradient)`."""

    def init(self, table: Array) -> Any:
        """Makes the table's optimiser state."""
        ...

    def update(self, table: Array, state: Any, gradient: RowGradient) -> tuple[Array, Any]:
        """Returns the table with its touched rows changed, and the new state."""
        ...


@dataclass(frozen=True)
class RowSGD:
    """Plain gradient descent on rows; equal to dense SGD, since a row's repeats are added up.

    Attributes:
        learning_rate: a number, or a schedule: a function of the number of steps taken before.
    """

    learning_rate: float | optax.Schedule

    def init(self, table: Array) -> Any:
        """Makes the state: the number of steps for a schedule, else nothing."""
        return jnp.zeros((), jnp.int32) if callable(self.learning_rate) else ()

    def update(self, table: Array, state: Any, gradient: RowGradient) -> tuple[Array, Any]:
        """Scatters the scaled gradients back."""
        rate = self.learning_rate
        if callable(rate):
            rate, state = rate(state), state + 1
        return table.at[gradient.indices].add(-rate * gradient.rows), state


@dataclass(frozen=True)
class RowAdaGrad:
    """AdaGrad on rows, as GloVe's C code has it: what moves is u / sqrt(1 + the sum of all u^2 before), u the scaled
    gradient.

    A row's repeats in a batch are moved side by side: each is divided by what was there before the batch.

    Attributes:
        learning_rate: what gradients are scaled by.
    """

    learning_rate: float

    def init(self, table: Array) -> Any:
        """Makes the sums of squares, 1 to begin with."""
        return jnp.ones_like(table)

    def update(self, table: Array, state: Any, gradient: RowGradient) -> tuple[Array, Any]:
        """Scatters the scaled gradients back, and their squares into the sums."""
        scaled = self.learning_rate * gradient.rows
        moved = scaled / jnp.sqrt(state[gradient.indices])
        return table.at[gradient.indices].add(-moved), state.at[gradient.indices].add(scaled**2)


@dataclass(frozen=True)
class RowOptimizer:
    """An optimiser that changes only the touched rows of some tables, and the rest through Optax.

    Attributes:
        tables: table name (a top-level entry of the parameters) to the way its rows change.
        rest: the Optax transformation for everything else.
        axis_name: the mapped axis that the tables are cut over; see `rows`.
    """

    tables: Mapping[str, RowUpdate]
    rest: optax.GradientTransformation
    axis_name: str | None = None

    def _split(self, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
        tables = {name: params[name] for name in self.tables}
        return tables, {name: value for name, value in params.items() if name not in self.tables}

    def init(self, params: Params) -> Any:
        """Makes the state: a dict with `tables` and `rest`."""
        tables, rest = self._split(params)
        return {
            "tables": {name: self.tables[name].init(table) for name, table in tables.items()},
            "rest": self.rest.init(rest),
        }

    def apply(
        self, gradients: Any, opt_state: Any, params: Params, finite: Bool[Array, ""]
    ) -> tuple[Params, Any]:
        """Returns the new parameters and optimiser state.

        Where the objective was not finite the row gradients are zeroed: choosing between the table before
        and after would cost a pass over both.
        """
        tables, rest = self._split(params)
        table_gradients, rest_gradients = self._split(gradients)
        new_rest, rest_state = apply_gradients(self.rest, rest_gradients, opt_state["rest"], rest, finite)
        new_tables, table_states = {}, {}
        for name, table in tables.items():
            gradient = table_gradients[name]
            gradient = replace(gradient, rows=jnp.where(finite, gradient.rows, 0))
            if self.axis_name is not None:
                # What lies beyond a table is not written.
                gradient = replace(gradient, indices=_local(gradient.indices, len(table), self.axis_name))
            new_tables[name], table_states[name] = self.tables[name].update(
                table, opt_state["tables"][name], gradient
            )
        return {**new_rest, **new_tables}, {"tables": table_states, "rest": rest_state}


def apply_gradients(
    optimizer: Any, gradients: Any, opt_state: Any, params: Params, finite: Bool[Array, ""]
) -> tuple[Params, Any]:
    """Takes the optimiser's step, or leaves everything as it was where the objective was not finite."""
    if isinstance(optimizer, RowOptimizer):
        return optimizer.apply(gradients, opt_state, params, finite)

    def move(gradients: Any, params: Params, opt_state: Any) -> tuple[Params, Any]:
        updates, new_opt_state = optimizer.update(gradients, opt_state, params)
        new = optax.apply_updates(params, updates), new_opt_state
        return jax.tree.map(_as_before, new, (params, opt_state))

    # On CPUs choosing leaf by leaf costs copies and another pass; on accelerators a branch could make the host wait.
    cpu, default = (functools.partial(choose, move) for choose in (branch, select))
    return jax.lax.platform_dependent(finite, gradients, params, opt_state, cpu=cpu, default=default)


def branch(move: Callable[..., Any], finite: Bool[Array, ""], gradients: Any, *old: Any) -> Any:
    """Moves where `finite` holds, and else gives what there was, as two branches."""
    return jax.lax.cond(finite, move, lambda gradients, *old: old, gradients, *old)


def select(move: Callable[..., Any], finite: Bool[Array, ""], gradients: Any, *old: Any) -> Any:
    """Does the same by moving in any case, and choosing leaf by leaf."""
    return keep_if(finite, move(gradients, *old), old)


def _as_before(new: Any, old: Any) -> Any:
    """Keeps the dtype that a leaf had: what a step gives, the next one takes."""
    new = jnp.asarray(new)
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def keep_if(finite: Bool[Array, ""], new: Any, old: Any) -> Any:
    """Chooses the new tree where `finite` holds, else the old one."""
    return jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, old)


def gather_rows(gradients: list[RowGradient], axis_name: str | tuple[str, ...]) -> list[RowGradient]:
    """Strings the rows of all devices together, those of several tables at once: devices wait for each other less."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, gradient in enumerate(gradients):
        by_shape.setdefault(gradient.rows.shape[1:], []).append(place)
    gathered = list(gradients)
    for places in by_shape.values():
        together = RowGradient(
            jnp.concatenate([gradients[place].indices for place in places]),
            jnp.concatenate([gradients[place].rows for place in places]),
        )
        everywhere = jax.lax.all_gather(together, axis_name, axis=0)
        begin = 0
        for place in places:
            end = begin + len(gradients[place].indices)
            gathered[place] = jax.tree.map(
                lambda leaf, own=slice(begin, end): leaf[:, own].reshape(-1, *leaf.shape[2:]), everywhere
            )
            begin = end
    return gathered
