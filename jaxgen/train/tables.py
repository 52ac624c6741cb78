"""Big tables, whose rows are cut over the devices where each would hold too much."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgen.parallel import put_state, state_shardings
from jaxgen.parallel.sharding import DATA_AXIS, PARAMETER_RULES, Rules, table_rules
from jaxgen.train.gradients import ByRows, GradientMethod, RowOptimizer
from jaxgen.train.state import TrainState

# Bytes of tables, with what the optimiser keeps of them, from which on they are cut.
_LARGE = 2**30


def cut_tables(
    create: Callable[..., TrainState], optimizer: Any, gradient: GradientMethod, mesh: Mesh
) -> tuple[Any, GradientMethod]:
    """Gives an optimiser and a gradient for tables that are cut over the mesh, where they are large.

    Args:
        create: makes the state; it isn't computed.
        optimizer: any; only the tables of a `RowOptimizer` are cut.
        gradient: `rows(...)` for these.
        mesh: of one axis. Tables whose rows don't divide by its devices stay whole.
    """
    if mesh.size == 1 or not (isinstance(optimizer, RowOptimizer) and isinstance(gradient, ByRows)):
        return optimizer, gradient
    state = jax.eval_shape(create)
    tables = [state.params[name] for name in optimizer.tables]
    kept = [*tables, *jax.tree.leaves(state.opt_state["tables"])]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in kept)
    if size < _LARGE or any(len(table) % mesh.size for table in tables):
        return optimizer, gradient
    return replace(optimizer, axis_name=DATA_AXIS), replace(gradient, axis_name=DATA_AXIS)


def rules_for(optimizer: Any) -> Rules:
    """Says where parameters lie: tables that are cut are, everything else is everywhere."""
    cut = isinstance(optimizer, RowOptimizer) and optimizer.axis_name is not None
    return table_rules(optimizer.tables) if cut else PARAMETER_RULES


def create_state(create: Callable[..., TrainState], optimizer: Any, mesh: Mesh) -> TrainState:
    """Makes a state where it is to lie; one with tables that are cut is never on one device as a whole."""
    rules = rules_for(optimizer)
    if rules is PARAMETER_RULES:
        return put_state(create(), mesh)
    return jax.jit(create, out_shardings=state_shardings(jax.eval_shape(create), mesh, rules))()
