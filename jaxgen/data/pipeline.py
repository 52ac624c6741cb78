"""Batches: an order of examples that is a function of the seed and the step, read on the host or on the device."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float32, Int32

from jaxgen.data.sources import Source
from jaxgen.errors import UsageError


@dataclass(frozen=True)
class BatchOrder:
    """Which examples make up the batch of each step.

    Every epoch is a fresh permutation of the whole set; batches don't mix epochs, and the last one of an epoch
    is kept, filled up with rows of weight 0.

    Attributes:
        num_examples: size of the set.
        batch_size: examples a step, over all devices and hosts.
        seed: of the permutations.

    Raises:
        UsageError: for a batch size below 1 or above the size of the set.
    """

    num_examples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        """Refuses batch sizes that can't be met."""
        if self.batch_size < 1:
            raise UsageError(f"the batch size must be at least 1, not {self.batch_size}")
        if self.batch_size > self.num_examples:
            raise UsageError(
                f"a batch of {self.batch_size} is larger than the training set of {self.num_examples}: "
                "give a smaller --batch-size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a pass over the set; the last one may be padded."""
        return -(-self.num_examples // self.batch_size)

    def __call__(self, step: int) -> tuple[Int32[np.ndarray, " batch"], Float32[np.ndarray, " batch"]]:
        """Gives the batch of a step, counted from 0: indices into the set, and weights, 0 for padding."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order = _permutation(self.num_examples, self.seed, epoch)
        indices = order[number * self.batch_size : (number + 1) * self.batch_size]
        return _fill(indices, self.batch_size)

    def stacked(
        self, step: int, count: int
    ) -> tuple[Int32[np.ndarray, "steps batch"], Float32[np.ndarray, "steps batch"]]:
        """Gives the batches of `count` steps from `step` on."""
        batches = [self(number) for number in range(step, step + count)]
        return np.stack([indices for indices, _ in batches]), np.stack([weights for _, weights in batches])


@functools.lru_cache(maxsize=4)
def _permutation(num_examples: int, seed: int, epoch: int) -> Int32[np.ndarray, " examples"]:
    order = np.random.Generator(np.random.Philox([seed, epoch])).permutation(num_examples).astype(np.int32)
    order.flags.writeable = False
    return order


def _fill(
    indices: Int32[np.ndarray, " rows"], size: int
) -> tuple[Int32[np.ndarray, " batch"], Float32[np.ndarray, " batch"]]:
    """Fills a short batch up by repeating its first row, at weight 0."""
    weights = np.zeros(size, np.float32)
    weights[: len(indices)] = 1.0
    return np.concatenate([indices, np.full(size - len(indices), indices[0], np.int32)]), weights


def gather_batch(
    arrays: Mapping[str, Array], indices: Int32[Array, " batch"], weights: Float32[Array, " batch"]
) -> dict[str, Array]:
    """Gathers a batch from a set that lies on the device: what `host_batches` reads, bit for bit."""
    return {**jax.tree.map(lambda leaf: leaf[indices], dict(arrays)), "weight": weights}


class HostBatches:
    """Reads the batches of one host, ahead of their use, by Grain's threads.

    Args:
        source: what to read.
        order: which examples make up each global batch.
        start: the first step to read.
        process_index: this host's number; it gets its contiguous part of each batch, and reads nothing else.
        process_count: the number of hosts.
        num_threads: threads that read.
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
    ) -> None:
        import grain

        if order.batch_size % process_count:
            raise UsageError(
                f"a batch of {order.batch_size} can't be shared out evenly to {process_count} hosts"
            )
        share = order.batch_size // process_count
        rows = slice(process_index * share, (process_index + 1) * share)

        def read(step: int) -> dict[str, np.ndarray]:
            indices, weights = order(step)
            return {**source.gather(indices[rows]), "weight": weights[rows]}

        steps = grain.MapDataset.range(np.iinfo(np.int32).max).map(read)
        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
        self._iterator = iter(steps.to_iter_dataset(options))
        if start:
            self.set_state({**self.get_state(), "next_index": start})

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """Gives the state to save: which step is next."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        self._iterator.set_state(state)

    def close(self) -> None:
        """Stops the threads."""
        self._iterator.close()


def evaluation_batches(
    source: Source, batch_size: int, *, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example once, in order; the last batch is filled up with rows of weight 0.

    Args:
        source: what to read.
        batch_size: rows a batch, over all hosts; a multiple of `process_count`.
        process_index: this host's number; it gets its contiguous part of each batch.
        process_count: the number of hosts; all get the same number of batches.
    """
    share = batch_size // process_count
    rows = slice(process_index * share, (process_index + 1) * share)
    for first in range(0, len(source), batch_size):
        indices, weights = _fill(
            np.arange(first, min(first + batch_size, len(source)), dtype=np.int32), batch_size
        )
        yield {**source.gather(indices[rows]), "weight": weights[rows]}
