"""Batches, in an order of `jaxgen.data.orders`, read on the host or gathered on the device."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32, Int32

from jaxgen.data.orders import BucketOrder, Order, cut_into_batches, order_of
from jaxgen.data.sources import Source, as_source
from jaxgen.errors import UsageError

HostBatch = dict[str, np.ndarray]


def gather_batch(
    arrays: Mapping[str, Array], indices: Int32[Array, " batch"], weights: Float32[Array, " batch"]
) -> dict[str, Array]:
    """Gathers a batch from a set that lies on the device: what `HostBatches` reads, bit for bit.

    A pure function for `jax.jit`; pass `arrays` as an argument, for what is closed over is compiled in.
    """
    return with_weights(jax.tree.map(lambda leaf: leaf[indices], dict(arrays)), weights)


def with_weights(examples: Mapping[str, Any], weights: Any) -> dict[str, Any]:
    """Gives a batch its `weight`: 0 for padding, else the example's own where the data has one, else 1."""
    return {**examples, "weight": weights * examples["weight"] if "weight" in examples else weights}


def read_batch(source: Source, order: Order, step: int, share: int = 0, shares: int = 1) -> HostBatch:
    """Reads the batch of a step on the host, or a contiguous part of it.

    Args:
        source: what to read.
        order: which examples make it up.
        step: from 0 on.
        share: which part.
        shares: how many parts there are, all of one size.
    """
    indices, weights = order(step)
    rows = _share(len(indices) // shares, share)
    of_epoch = source.of_epoch(step // order.steps_per_epoch)
    examples, bucket = of_epoch.gather(indices[rows]), order.bucket(step)
    return with_weights(examples if bucket is None else bucket.cut(examples), weights[rows])


class HostBatches:
    """Reads the batches of one host, in order and ahead of their use, by Grain's threads.

    An iterator of dicts of arrays, with "weight"; `close` it, or use it in a `with` statement.

    Args:
        source: what to read.
        order: which examples make up each global batch.
        start: the first step to read.
        process_index: this host's number; it gets its contiguous part of each batch, and reads nothing else.
        process_count: the number of hosts.
        num_threads: threads that read.
        transform: what is made of each batch, in the threads: a pure function, or runs can't be repeated.

    Raises:
        UsageError: where the batch can't be shared out evenly to the hosts.
    """

    def __init__(
        self,
        source: Source,
        order: Order,
        start: int = 0,
        *,
        process_index: int = 0,
        process_count: int = 1,
        num_threads: int = 4,
        transform: Callable[[HostBatch], HostBatch] | None = None,
    ) -> None:
        for size in order.batch_sizes:
            if size % process_count:
                raise UsageError(f"a batch of {size} can't be shared out evenly to {process_count} hosts")

        def read(step: int) -> HostBatch:
            batch = read_batch(source, order, step, process_index, process_count)
            return batch if transform is None else transform(batch)

        self._read, self._num_threads = read, num_threads
        self._iterator: Any = None
        self._next = start

    def __iter__(self) -> Iterator[HostBatch]:
        return self

    def __next__(self) -> HostBatch:
        if self._iterator is None:
            self._iterator = self._open()
        batch = next(self._iterator)
        self._next += 1
        return batch

    def _open(self) -> Any:
        import grain

        steps = grain.MapDataset.range(self._next, np.iinfo(np.int32).max).map(self._read)
        ahead = 2 * self._num_threads
        return iter(steps.to_iter_dataset(grain.ReadOptions(self._num_threads, prefetch_buffer_size=ahead)))

    def get_state(self) -> dict[str, int]:
        """Gives the state to save, JSON: the step that is next."""
        return {"next_step": self._next}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes on from a saved state; nothing is read that was consumed before it."""
        self.close()
        self._next = state["next_step"]

    def close(self) -> None:
        """Stops the threads."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def __enter__(self) -> "HostBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _share(size: int, process_index: int) -> slice:
    return slice(process_index * size, (process_index + 1) * size)


def training_batches(
    source: Source | Mapping[str, Any], batch_size: int, *, epochs: int = 1, seed: int = 0
) -> Iterator[HostBatch]:
    """Yields the batches of some epochs, shuffled, with "weight": for a loop of one's own.

    They are those that `jaxgen.fit` trains on. `HostBatches` reads ahead of their use, shares them out to several
    hosts, and can go on from a saved place.

    Args:
        source: what to read, or arrays as `from_arrays` takes them.
        batch_size: rows a batch; the last one of an epoch is filled up with rows of weight 0. Where the source has
            buckets they say it.
        epochs: passes over the set.
        seed: of the order.

    Raises:
        UsageError: for a batch size below 1 or above the size of the set, or a negative seed.
    """
    source = as_source(source, "train")
    order = order_of(source, batch_size, seed)
    for step in range(epochs * order.steps_per_epoch):
        yield read_batch(source, order, step)


def evaluation_batches(
    source: Source | Mapping[str, Any], batch_size: int, *, process_index: int = 0, process_count: int = 1
) -> Iterator[HostBatch]:
    """Yields every example once, in order; the last batch is filled up with rows of weight 0.

    The batches of a text hold an example of each of its streams, and are all filled up.

    Args:
        source: what to read, or arrays as `from_arrays` takes them.
        batch_size: rows a batch, over all hosts; rounded up to a multiple of `process_count`. For a text as many as it
            has streams, or more.
        process_index: this host's number; it gets its contiguous part of each batch.
        process_count: the number of hosts; all get the same number of batches.

    Raises:
        UsageError: for a batch size below 1.
    """
    if batch_size < 1:
        raise UsageError(f"the batch size must be at least 1, not {batch_size}")
    source = as_source(source, "evaluation")
    if batch_size < source.streams:
        raise UsageError(f"{source.name} is cut into {source.streams} streams: a batch needs a row for each")
    share = -(-batch_size // process_count)
    rows = _share(share, process_index)
    indices = np.arange(len(source), dtype=np.int32)
    pieces = indices.reshape(-1, source.streams) if source.streams else indices[None]
    for piece in pieces:
        for numbers, weights in zip(*cut_into_batches(piece, share * process_count), strict=True):
            yield with_weights(source.gather(numbers[rows]), weights[rows])


def bucketed_batches(
    source: Source, multiple: int = 1, *, process_index: int = 0, process_count: int = 1
) -> Iterator[HostBatch]:
    """Yields every example of a source with buckets once, bucket after bucket, with rows of weight 0 at their ends.

    Args:
        source: what to read.
        multiple: of what batches have, over all hosts; a bucket's rows are rounded up to it.
        process_index: this host's number; it gets its contiguous part of each batch.
        process_count: the number of hosts, a divisor of `multiple`.
    """
    assert source.buckets is not None
    shapes = tuple(
        bucket._replace(rows=-(-bucket.rows // multiple) * multiple) for bucket in source.buckets.shapes
    )
    order = BucketOrder(replace(source.buckets, shapes=shapes), seed=0, shuffle=False)
    for step in range(order.steps_per_epoch):
        yield read_batch(source, order, step, process_index, process_count)
