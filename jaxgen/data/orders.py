"""Orders: which examples make up the batch of each step, as a function of the seed and the step alone."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from jaxgen.data.buckets import Bucket, Buckets
from jaxgen.data.sources import Source
from jaxgen.errors import UsageError

Rows = Int32[np.ndarray, " batch"]
Weights = Float32[np.ndarray, " batch"]


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
                "give a smaller batch size, --batch-size"
            )
        _check_seed(self.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a pass over the set; the last one may be padded."""
        return -(-self.num_examples // self.batch_size)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The one size that all batches have."""
        return (self.batch_size,)

    @property
    def mean_batch_size(self) -> float:
        """Examples a step."""
        return float(self.batch_size)

    def __call__(self, step: int) -> tuple[Rows, Weights]:
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

    def bucket(self, step: int) -> None:
        """Has none: all batches are as long as the longest example."""


@dataclass(frozen=True, eq=False)
class BucketOrder:
    """Which examples make up the batch of each step, where a batch holds examples of one bucket.

    In every epoch the examples of each bucket are permuted and cut into batches, the last one filled up with rows of
    weight 0, and the batches of all buckets are permuted.

    Attributes:
        buckets: of the examples.
        seed: of the permutations, from 0 on.
        shuffle: whether to permute; else bucket after bucket, each in the set's own order.

    Raises:
        UsageError: for a negative seed.
    """

    buckets: Buckets
    seed: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        """Refuses what can't be met."""
        _check_seed(self.seed)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Batches in a pass over the set; the last one of each bucket may be padded."""
        return len(_bucket_epoch(self, 0))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The rows of a batch of each bucket that examples are in."""
        return tuple(bucket.rows for bucket in self.buckets.in_use)

    @property
    def mean_batch_size(self) -> float:
        """Examples a step, without padding."""
        return len(self.buckets) / self.steps_per_epoch

    def __call__(self, step: int) -> tuple[Rows, Weights]:
        """Gives the batch of a step, counted from 0: indices into the set, and weights, 0 for padding."""
        _, indices, weights = self._batch(step)
        return indices, weights

    def stacked(
        self, step: int, count: int
    ) -> tuple[Int32[np.ndarray, "steps batch"], Float32[np.ndarray, "steps batch"]]:
        """Gives the batch of one step; those of several are of several shapes."""
        assert count == 1
        _, indices, weights = self._batch(step)
        return indices[None], weights[None]

    def bucket(self, step: int) -> Bucket:
        """Gives the shape of a step's batch."""
        number, _, _ = self._batch(step)
        return self.buckets.shapes[number]

    def _batch(self, step: int) -> tuple[int, Rows, Weights]:
        epoch, number = divmod(step, self.steps_per_epoch)
        return _bucket_epoch(self, epoch)[number]


Order = BatchOrder | BucketOrder


def order_of(source: Source, batch_size: int, seed: int) -> Order:
    """Gives the order to train on a source in: shuffled, but for a text, whose streams go on from batch to batch.

    Nor are examples shuffled that are drawn in each epoch.

    The batches of a source with buckets are as large as these say, whatever the batch size is.

    Raises:
        UsageError: for a batch size that can't be, or that isn't the number of a text's streams.
    """
    if source.buckets is not None:
        return BucketOrder(source.buckets, seed)
    if source.streams and batch_size != source.streams:
        raise UsageError(
            f"{source.name} is cut into {source.streams} streams: that must be the batch size, not {batch_size}"
        )
    return BatchOrder(len(source), batch_size, seed, shuffle=not (source.streams or source.drawn))


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise UsageError(f"the seed must be 0 or more and below 2^63, not {seed}")


@functools.lru_cache(maxsize=4)
def _epoch(
    order: BatchOrder, epoch: int
) -> tuple[Int32[np.ndarray, "steps batch"], Float32[np.ndarray, "steps batch"]]:
    """Gives an epoch's batches, read-only, because they are kept."""
    indices = np.arange(order.num_examples, dtype=np.int32)
    if order.shuffle:
        indices = np.random.Generator(np.random.Philox([order.seed, epoch])).permutation(indices)
    return cut_into_batches(indices, order.batch_size)


@functools.lru_cache(maxsize=4)
def _bucket_epoch(order: BucketOrder, epoch: int) -> list[tuple[int, Rows, Weights]]:
    """Gives the buckets, rows and weights of an epoch's batches."""
    random = np.random.Generator(np.random.Philox([order.seed, epoch]))
    batches: list[tuple[int, Rows, Weights]] = []
    for number, bucket in enumerate(order.buckets.shapes):
        indices = np.flatnonzero(order.buckets.numbers == number).astype(np.int32)
        if not len(indices):
            continue
        if order.shuffle:
            indices = random.permutation(indices)
        for rows, weights in zip(*cut_into_batches(indices, bucket.rows), strict=True):
            batches.append((number, rows, weights))
    if order.shuffle:
        batches = [batches[place] for place in random.permutation(len(batches))]
    return batches


def cut_into_batches(
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
