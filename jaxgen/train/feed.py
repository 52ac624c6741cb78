"""Feeds: how batches reach the compiled step, from the host's pipeline or from a set that lies on the device.

Both give the same batches in the same order; `bind(step)` compiles the step once, with its batches' origin, and
returns `run(state, position, count) -> (state, metrics)`, which takes the `count` steps after `position`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.data.pipeline import BatchOrder, HostBatches, gather_batch
from jaxgen.data.sources import Source
from jaxgen.parallel import put_batch, state_shardings
from jaxgen.train.state import TrainState
from jaxgen.train.step import Metrics, Step, repeat

Run = Callable[[TrainState, int, int], tuple[TrainState, Metrics]]


def trace_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function for `jax.jit` that fails loudly where JAX would trace, and compile, it a second time.

    `chex.assert_max_traces` does the same, but counts by the function's code: two runs in one process would
    share a count.
    """
    traced = False

    @functools.wraps(function)
    def checked(*arguments: Any) -> Any:
        nonlocal traced
        if traced:
            raise AssertionError(f"{function.__qualname__} is traced again: a shape or a sharding has changed")
        traced = True
        return function(*arguments)

    return checked


class ResidentFeed:
    """A set that fits: put on every device once, and batches gathered there by index, many steps a call."""

    def __init__(self, source: Source, order: BatchOrder, mesh: Mesh, steps_per_call: int) -> None:
        self.source, self.order, self.steps_per_call = source, order, steps_per_call
        self._mesh = mesh
        self._arrays = jax.device_put(source.arrays(), NamedSharding(mesh, P()))
        self._rows = NamedSharding(mesh, P(None, "data"))

    def bind(self, step: Step, state: TrainState) -> Run:
        """Compiles the step for states like this one."""

        def call(state: TrainState, arrays: Any, rows: Any, count: Any) -> tuple[TrainState, Metrics]:
            def resident_step(state: TrainState, row: Any) -> tuple[TrainState, Metrics]:
                return step(state, gather_batch(arrays, row["indices"], row["weights"]))

            if self.steps_per_call == 1:
                return resident_step(state, jax.tree.map(lambda leaf: leaf[0], rows))
            return repeat(resident_step)(state, rows, count)

        compiled = jax.jit(
            trace_once(call),
            donate_argnums=0,
            out_shardings=(state_shardings(state, self._mesh), None),
        )

        def run(state: TrainState, position: int, count: int) -> tuple[TrainState, Metrics]:
            indices, weights = self.order.stacked(position, self.steps_per_call)
            rows = {"indices": self._put(indices), "weights": self._put(weights)}
            return compiled(state, self._arrays, rows, np.int32(count))

        return run

    def _put(self, rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(rows.shape, self._rows, lambda index: rows[index])

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Reads the batch of a step on the host, to look at it."""
        indices, weights = self.order(step)
        return {**self.source.gather(indices), "weight": weights}

    def state(self) -> Any:
        """Has no state: the order is a function of the step."""
        return None

    def restore(self, state: Any, position: int) -> None:
        """Needs nothing."""

    def close(self) -> None:
        """Holds nothing open."""


class HostFeed:
    """A set that is read by Grain's threads, each host its own rows, one step a call."""

    steps_per_call = 1

    def __init__(self, source: Source, order: BatchOrder, mesh: Mesh, position: int = 0) -> None:
        self.source, self.order = source, order
        self._mesh = mesh
        self._iterator: HostBatches | None = None
        self.restore(None, position)

    def bind(self, step: Step, state: TrainState) -> Run:
        """Compiles the step for states like this one."""
        compiled = jax.jit(
            trace_once(step),
            donate_argnums=0,
            out_shardings=(state_shardings(state, self._mesh), None),
        )

        def run(state: TrainState, position: int, count: int) -> tuple[TrainState, Metrics]:
            return compiled(state, put_batch(next(self._iterator), self._mesh))

        return run

    batch_at = ResidentFeed.batch_at

    def state(self) -> Any:
        """Gives the iterator's state, to save with the train state."""
        return self._iterator.get_state()

    def restore(self, state: Any, position: int) -> None:
        """Continues at a saved state, or at a position where there is none."""
        self.close()
        self._iterator = HostBatches(
            self.source,
            self.order,
            position,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        if state is not None:
            self._iterator.set_state(state)

    def close(self) -> None:
        """Stops the reading threads."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None
