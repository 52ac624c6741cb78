"""Feeds: how batches reach the compiled step, from the host's pipeline or from a set that lies on the device.

Both give the same batches in the same order; `bind(step)` compiles the step once, or once for each bucket of lengths,
with its batches' origin, and returns `run(state, position, count) -> (state, metrics)`, which takes the `count` steps
after `position`.
"""

import abc
import concurrent.futures
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.data.buckets import Bucket
from jaxgen.data.orders import Order
from jaxgen.data.pipeline import HostBatches, read_batch, with_weights
from jaxgen.data.sources import Source
from jaxgen.parallel import put_batch
from jaxgen.parallel.sharding import DATA_AXIS
from jaxgen.train.state import TrainState
from jaxgen.train.step import Metrics, Step, repeat

Run = Callable[[TrainState, int, int], tuple[TrainState, Metrics]]


def trace_once(function: Callable[..., Any], shapes: int = 1) -> Callable[..., Any]:
    """Makes a function for `jax.jit` that fails loudly where JAX would trace, and compile, it more than once a shape.

    `chex.assert_max_traces` does the same, but counts by the function's code: two runs in one process would
    share a count.

    Args:
        function: to be compiled.
        shapes: of its arguments, as many as there are.
    """
    traces = 0

    @functools.wraps(function)
    def checked(*arguments: Any) -> Any:
        nonlocal traces
        if traces == shapes:
            raise AssertionError(
                f"{function.__qualname__} is traced again: a shape or a sharding has changed"
            )
        traces += 1
        return function(*arguments)

    return checked


class Feed(abc.ABC):
    """Where a run's batches come from.

    Attributes:
        source: the training split.
        order: which examples make up the batch of each step.
        steps_per_call: the most steps that one call takes.
    """

    source: Source
    order: Order
    steps_per_call: int

    @abc.abstractmethod
    def bind(self, step: Step, state: TrainState) -> Run:
        """Compiles the step, once for each shape of batches, for states like this one."""

    @abc.abstractmethod
    def state(self) -> Any:
        """Gives what a checkpoint must hold of the feed, as JSON."""

    @abc.abstractmethod
    def restore(self, state: Any, position: int) -> None:
        """Goes on at a position; `state` is what the feed that saved it gave."""

    @abc.abstractmethod
    def close(self) -> None:
        """Lets go of threads and files."""

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Reads the batch of a step on the host, to look at it."""
        return read_batch(self.source, self.order, step)


class ResidentFeed(Feed):
    """A set that fits: put on every device once, and batches gathered there by index, many steps a call.

    Of a set that is larger than what it is made of, such as all windows of a text, the latter is put there.
    """

    def __init__(self, source: Source, order: Order, mesh: Mesh, steps_per_call: int) -> None:
        self.source, self.order, self.steps_per_call = source, order, steps_per_call
        self._arrays = jax.device_put(source.device_arrays(), NamedSharding(mesh, P()))
        self._rows = NamedSharding(mesh, P(None, "data"))

    def bind(self, step: Step, state: TrainState) -> Run:
        """Compiles the step with the gathering of its batches."""

        def call(
            state: TrainState, arrays: Any, rows: Any, count: Any, bucket: Bucket | None
        ) -> tuple[TrainState, Metrics]:
            def resident_step(state: TrainState, row: Any) -> tuple[TrainState, Metrics]:
                examples = self.source.gather_on_device(arrays, row["indices"])
                examples = examples if bucket is None else bucket.cut(examples)
                return step(state, with_weights(examples, row["weights"]))

            if self.steps_per_call == 1:
                return resident_step(state, jax.tree.map(lambda leaf: leaf[0], rows))
            return repeat(resident_step)(state, rows, count)

        compiled = _compile(call, state, self.order, static_argnums=4)

        def run(state: TrainState, position: int, count: int) -> tuple[TrainState, Metrics]:
            indices, weights = self.order.stacked(position, self.steps_per_call)
            rows = {"indices": _put(indices, self._rows), "weights": _put(weights, self._rows)}
            return compiled(state, self._arrays, rows, np.int32(count), self.order.bucket(position))

        return run

    def state(self) -> Any:
        """Has no state: the order is a function of the step."""
        return None

    def restore(self, state: Any, position: int) -> None:
        """Needs nothing."""

    def close(self) -> None:
        """Holds nothing open."""


class HostFeed(Feed):
    """A set that is read by Grain's threads, each host its own rows, one step a call."""

    def __init__(self, source: Source, order: Order, mesh: Mesh) -> None:
        self.source, self.order, self.steps_per_call = source, order, 1
        self._mesh = mesh
        self._batches = self._open(0)

    def bind(self, step: Step, state: TrainState) -> Run:
        """Compiles the step."""
        compiled = _compile(step, state, self.order)

        def run(state: TrainState, position: int, count: int) -> tuple[TrainState, Metrics]:
            return compiled(state, put_batch(next(self._batches), self._mesh))

        return run

    def state(self) -> Any:
        """Gives the iterator's state."""
        return self._batches.get_state()

    def restore(self, state: Any, position: int) -> None:
        """Goes on with the iterator's state, or, where the run was begun on the device, at the position."""
        self.close()
        self._batches = self._open(position)
        if state is not None:
            self._batches.set_state(state)

    def close(self) -> None:
        """Stops the reading threads."""
        self._batches.close()

    def _open(self, position: int) -> HostBatches:
        return HostBatches(
            self.source,
            self.order,
            position,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


class DrawnFeed(Feed):
    """Examples that are drawn anew each epoch, by a thread ahead of their use, many steps a call."""

    def __init__(self, source: Source, order: Order, mesh: Mesh, steps_per_call: int) -> None:
        self.source, self.order, self.steps_per_call = source, order, steps_per_call
        self._rows = NamedSharding(mesh, P(None, DATA_AXIS))
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._ahead: tuple[int, concurrent.futures.Future[dict[str, np.ndarray]]] | None = None

    def bind(self, step: Step, state: TrainState) -> Run:
        """Compiles several steps as one call."""
        compiled = _compile(repeat(step), state, self.order)

        def run(state: TrainState, position: int, count: int) -> tuple[TrainState, Metrics]:
            batches = self._read_at(position)
            self._ahead = (position + count, self._thread.submit(self._read, position + count))
            placed = {name: _put(leaf, self._rows) for name, leaf in batches.items()}
            return compiled(state, placed, np.int32(count))

        return run

    def _read_at(self, position: int) -> dict[str, np.ndarray]:
        if self._ahead is not None and self._ahead[0] == position:
            return self._ahead[1].result()
        return self._read(position)

    def _read(self, position: int) -> dict[str, np.ndarray]:
        """Reads the batches of as many steps as a call takes, stacked."""
        batches = [self._part(*part) for part in self._epochs(position)]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def _epochs(self, position: int) -> Iterator[tuple[int, int]]:
        """Cuts the steps of a call where an epoch ends: yields the first one of each part, and how many it has."""
        end = position + self.steps_per_call
        while position < end:
            count = min(end - position, self.order.steps_per_epoch - position % self.order.steps_per_epoch)
            yield position, count
            position += count

    def _part(self, position: int, count: int) -> dict[str, np.ndarray]:
        indices, weights = self.order.stacked(position, count)
        source = self.source.of_epoch(position // self.order.steps_per_epoch)
        examples = source.gather(indices.ravel())
        stacked = {name: leaf.reshape(*indices.shape, *leaf.shape[1:]) for name, leaf in examples.items()}
        return with_weights(stacked, weights)

    def state(self) -> Any:
        """Has no state: all that is drawn is a function of the step."""
        return None

    def restore(self, state: Any, position: int) -> None:
        """Needs nothing."""

    def close(self) -> None:
        """Stops the thread."""
        self._thread.shutdown(cancel_futures=True)


def _put(rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Puts what every process has in full where each device needs its part."""
    return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])


def _compile(call: Callable[..., Any], state: TrainState, order: Order, **options: Any) -> Callable[..., Any]:
    once = trace_once(call, len(order.batch_sizes))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(once, donate_argnums=0, out_shardings=(shardings, None), **options)
