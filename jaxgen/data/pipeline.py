"""Batches: an order of examples that is a function of the seed and the step, read on the host or on the device."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32, Int32

from jaxgen.data.sources import Source, as_source
from jaxgen.errors import UsageError

HostBatch = dict[str, np.ndarray]


@dataclass(frozen=True)
class BatchOrder:
    """Which examples make up the batch of each step.

    Every epoch is a fresh permutation of the whole set; batches don't mix epochs, and the last one of an epoch
    is kept, filled up with rows of weight 0.

    Attributes:
        num_examples: size of the set.
        batch_size: examples a step, over all devices and hosts.
        seed: of the permutations, from 0 on.
        shuffle: whether to permute; else every epoch is in the set's own order.

    Raises:
        UsageError: for a batch size below 1 or above the size of the set, or a negative seed.
    """

    num_examples: int
    batch_size: int
    seed: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        """Refuses what can't be met."""
        if self.batch_size < 1:
            raise UsageError(f"the batch size must be at least 1, not {self.batch_size}")
        if self.batch_size > self.num_examples:
            raise UsageError(
                f"a batch of {self.batch_size} is larger than the training set of {self.num_examples}: "
                "give a smaller batch size"
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"the seed must be 0 or more and below 2^63, not {self.seed}")

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a pass over the set; the last one may be padded."""
        return -(-self.num_examples // self.batch_size)

    def __call__(self, step: int) -> tuple[Int32[np.ndarray, " batch"], Float32[np.ndarray, " batch"]]:
        """Gives the batch of a step, counted from 0: indices into the set, and weights, 0 for padding."""
        epoch, number = divmod(step, self.steps_per_epoch)
        indices, weights = _epoch(self, epoch)
        return indices[number], weights[number]

    def stacked(
        self, step: int, count: int
    ) -> tuple[Int32[np.ndarray, "steps batch"], Float32[np.ndarray, "steps batch"]]:
        """Gives the batches of `count` steps, at least one, from `step` on."""
        parts, end = [], step + count
        while step < end:
            epoch, number = divmod(step, self.steps_per_epoch)
            part = slice(number, min(number + end - step, self.steps_per_epoch))
            parts.append([leaf[part] for leaf in _epoch(self, epoch)])
            step += part.stop - part.start
        indices, weights = zip(*parts, strict=True)
        return np.concatenate(indices), np.concatenate(weights)


def order_of(source: Source, batch_size: int, seed: int) -> BatchOrder:
    """Gives the order to train on a source in: shuffled, but for a text, whose streams go on from batch to batch.

    Raises:
        UsageError: for a batch size that can't be, or that isn't the number of a text's streams.
    """
    if source.streams and batch_size != source.streams:
        raise UsageError(
            f"{source.name} is cut into {source.streams} streams: that must be the batch size, not {batch_size}"
        )
    return BatchOrder(len(source), batch_size, seed, shuffle=not source.streams)


@functools.lru_cache(maxsize=4)
def _epoch(
    order: BatchOrder, epoch: int
) -> tuple[Int32[np.ndarray, "steps batch"], Float32[np.ndarray, "steps batch"]]:
    """Gives an epoch's batches, read-only, because they are kept."""
    indices = np.arange(order.num_examples, dtype=np.int32)
    if order.shuffle:
        indices = np.random.Generator(np.random.Philox([order.seed, epoch])).permutation(indices)
    return _cut(indices, order.batch_size)


def _cut(
    indices: Int32[np.ndarray, " rows"], batch_size: int
) -> tuple[Int32[np.ndarray, "steps batch"], Float32[np.ndarray, "steps batch"]]:
    """Cuts rows into batches; the last one is filled up by repeating its first row, at weight 0."""
    steps = -(-len(indices) // batch_size)
    batches = np.full((steps, batch_size), indices[(steps - 1) * batch_size], np.int32)
    weights = np.zeros((steps, batch_size), np.float32)
    batches.ravel()[: len(indices)] = indices
    weights.ravel()[: len(indices)] = 1.0
    batches.flags.writeable = weights.flags.writeable = False
    return batches, weights


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
        order: BatchOrder,
        start: int = 0,
        *,
        process_index: int = 0,
        process_count: int = 1,
        num_threads: int = 4,
        transform: Callable[[HostBatch], HostBatch] | None = None,
    ) -> None:
        if order.batch_size % process_count:
            raise UsageError(
                f"a batch of {order.batch_size} can't be shared out evenly to {process_count} hosts"
            )
        rows = _share(order.batch_size // process_count, process_index)

        def read(step: int) -> HostBatch:
            indices, weights = order(step)
            batch = with_weights(source.gather(indices[rows]), weights[rows])
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
        batch_size: rows a batch; the last one of an epoch is filled up with rows of weight 0.
        epochs: passes over the set.
        seed: of the order.

    Raises:
        UsageError: for a batch size below 1 or above the size of the set, or a negative seed.
    """
    source = as_source(source, "train")
    order = order_of(source, batch_size, seed)
    for step in range(epochs * order.steps_per_epoch):
        indices, weights = order(step)
        yield with_weights(source.gather(indices), weights)


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
        for numbers, weights in zip(*_cut(piece, share * process_count), strict=True):
            yield with_weights(source.gather(numbers[rows]), weights[rows])
