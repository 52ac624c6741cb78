"""Evaluation: every example of a split once, whatever the batch size and the number of devices."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgen.data.pipeline import HostBatch, bucketed_batches, evaluation_batches
from jaxgen.data.sources import Source
from jaxgen.errors import UsageError
from jaxgen.metrics import Metric
from jaxgen.parallel import batch_sharding, put_batch
from jaxgen.train.context import add_metrics
from jaxgen.train.gradients import GradientMethod, dense
from jaxgen.train.monitor import Judge
from jaxgen.train.state import TrainState
from jaxgen.train.step import make_eval_step

BATCH_SIZE = 256
_TOKENS = 2**14
_VALUES = 2**22
_RESIDENT_BYTES = 2**30
_QUEUE = 4


class Evaluator:
    """Gives a state's figures on named splits; small splits stay on the device between evaluations."""

    def __init__(
        self,
        task: Any,
        splits: Mapping[str, Source],
        mesh: Mesh,
        batch_size: int = BATCH_SIZE,
        gradient: GradientMethod = dense,
        judge: Judge | None = None,
    ) -> None:
        if splits and not hasattr(task, "loss"):
            raise UsageError(
                f"{type(task).__name__} has no loss to evaluate: leave out the validation and test splits"
            )
        self._task, self._splits, self._mesh, self._judge = task, splits, mesh, judge
        sizes = {name: _batch_size(source, batch_size) for name, source in splits.items()}
        self._batch_sizes = {name: -(-size // mesh.size) * mesh.size for name, size in sizes.items()}
        self._resident: dict[str, list[Any]] = {}
        self._step = None
        if splits:
            step = make_eval_step(task.loss, gradient=gradient)
            self._step = jax.jit(step, out_shardings=(None, batch_sharding(mesh)))

    def __call__(self, state: TrainState, splits: tuple[str, ...]) -> dict[str, float]:
        """Evaluates the moving average of the parameters where there is one, else the parameters.

        Returns:
            `SPLIT/NAME` to the figure over the whole split, in the order of `splits`.
        """
        figures = {}
        for split in splits:
            carry = self._task.initial_carry(self._batch_sizes[split] // jax.process_count())
            carry = put_batch(carry, self._mesh)  # as the step gives it, which is compiled once
            sums = []
            assert self._step is not None
            for batch in self._batches(split):
                metrics, carry = self._step(state, carry, batch)
                sums.append(metrics)
                shorten_queue(sums)
            figures.update(read_metrics(sums, split))
            if self._judge is not None:
                scores = self._judge.score(state, self._splits[split])
                figures.update({f"{split}/{name}": value for name, value in scores.items()})
        return figures

    def _batches(self, split: str) -> Iterator[Any]:
        if split in self._resident:
            yield from self._resident[split]
            return
        kept: list[Any] | None = []
        size = 0
        for batch in self._host_batches(split):
            size += sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
            placed = put_batch(batch, self._mesh)
            kept = [*kept, placed] if kept is not None and size < _RESIDENT_BYTES else None
            yield placed
        if kept is not None:
            self._resident[split] = kept

    def _host_batches(self, split: str) -> Iterator[HostBatch]:
        source = self._splits[split]
        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        if source.buckets is not None:
            return bucketed_batches(source, self._mesh.size, **share)
        return evaluation_batches(source, self._batch_sizes[split], **share)


def shorten_queue(outputs: Sequence[Any]) -> None:
    """Waits where many calls are under way whose outputs these are, the latest last; on CPUs alone.

    A long queue of programs that add up over devices can stop there, each waiting for the others.
    """
    if len(outputs) > _QUEUE and jax.default_backend() == "cpu":
        jax.block_until_ready(outputs[-_QUEUE])


def _batch_size(source: Source, batch_size: int) -> int:
    """Gives as many rows as a text has streams; of its windows fewer than of other examples, the longer they are.

    Of videos, too, fewer are taken.
    """
    if source.text is None:
        is_video = len(source.shape) == 4
        values = math.prod(size or 1 for size in source.shape)
        return max(1, min(batch_size, _VALUES // values)) if is_video else batch_size
    return source.streams or max(1, min(batch_size, _TOKENS // source.text.sequence_length))


def read_metrics(sums: list[Mapping[str, Metric]], prefix: str) -> dict[str, float]:
    """Reads device metrics, adds them up, and computes the figures, named `prefix/name`. Waits for the device."""
    total = add_up(sums)
    return {f"{prefix}/{name}": float(metric.compute()) for name, metric in total.items()}


def add_up(sums: list[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Reads a list of device metrics in one go and adds them up on the host."""
    read = [dict(metrics) for metrics in jax.device_get(sums)]
    total = read[0]
    for metrics in read[1:]:
        total = add_metrics(total, metrics)
    return total


def predict_split(
    task: Any, state: TrainState, source: Source, batch_size: int = BATCH_SIZE
) -> dict[str, np.ndarray]:
    """Gives the task's predictions for every example of a split, in order, as NumPy arrays."""
    return predict_source(jax.jit(task.predict), state, source, _batch_size(source, batch_size))


def predict_source(
    predict: Callable[..., Any], state: TrainState, source: Source, batch_size: int = BATCH_SIZE
) -> dict[str, np.ndarray]:
    """Does the same with a compiled `predict`, which can be kept for more."""
    params = state.evaluation_params()
    parts = [
        jax.device_get(predict(params, state.model_state, batch))
        for batch in evaluation_batches(source, batch_size)
    ]
    return {name: np.concatenate([part[name] for part in parts])[: len(source)] for name in parts[0]}
