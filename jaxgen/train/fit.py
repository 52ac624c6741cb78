"""`fit`: from a task, data and an optimiser to a trained state, in a notebook or in an experiment."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxgen.config import describe
from jaxgen.data.description import describe_examples, describe_splits
from jaxgen.data.pipeline import BatchOrder
from jaxgen.data.sources import Source, from_arrays
from jaxgen.errors import UsageError
from jaxgen.parallel import check_batch_size, make_mesh, put_state
from jaxgen.run_directory import RunDirectory
from jaxgen.tasks.base import Task
from jaxgen.train.evaluate import Evaluator
from jaxgen.train.feed import Feed, HostFeed, ResidentFeed
from jaxgen.train.hooks import Hook, MetricsFile, Progress, TensorBoard
from jaxgen.train.loop import DivergedError, Loop, LoopSettings, Tally, default_cadence
from jaxgen.train.players import Players, make_players_step
from jaxgen.train.state import TrainState, count_parameters
from jaxgen.train.step import Step, make_eval_step, make_train_step

Data = Source | Mapping[str, Any]

_RESIDENT_BYTES = 2**30
# A save takes some 0.2 s beside the training, as long as an epoch of a small net.
_CHECKPOINT_SECONDS = 15.0


@dataclass
class FitResult:
    """What a run ends with.

    Attributes:
        state: the trained state: that of the best validation loss where there is a validation split, else
            the last one.
        figures: `SPLIT/NAME` to value, with `train/examples_per_second`, `seconds`, `steps`, `parameters`.
        history: every report and evaluation in order, each with its `step`.
        finished_before: whether the run directory held the finished run already.
    """

    state: TrainState
    figures: dict[str, Any]
    history: list[dict[str, Any]] = field(repr=False)
    finished_before: bool


class _History(Hook):
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_report(self, step: int, figures: dict[str, float]) -> None:
        self.records.append({"step": step, **figures})

    def on_evaluation(self, step: int, figures: dict[str, float], state: TrainState) -> None:
        self.on_report(step, figures)


class _BestInMemory(Hook):
    """Keeps a copy of the best state where no checkpoint does."""

    def __init__(self, monitor: str) -> None:
        self._monitor, self._best = monitor, float("inf")
        self.kept: tuple[int, TrainState] | None = None

    def on_evaluation(self, step: int, figures: dict[str, float], state: TrainState) -> None:
        if figures[self._monitor] < self._best:
            self._best = figures[self._monitor]
            self.kept = (step, jax.tree.map(jnp.copy, state))


def fit(
    task: Task,
    data: Data,
    optimizer: Any,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    validation: Data | None = None,
    test: Data | None = None,
    patience: int | None = None,
    accumulate: int = 1,
    ema_decay: float | None = None,
    workdir: Path | str | None = None,
    record: Mapping[str, Any] | None = None,
    report_every: int | None = None,
    evaluate_every: int | None = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    steps_per_call: int | None = None,
    resident: bool | None = None,
    devices: Sequence[jax.Device] | None = None,
    hooks: Sequence[Hook] = (),
    progress: bool = True,
) -> FitResult:
    """Trains a task: the loop that every experiment uses.

    Args:
        task: what to optimise, see `jaxgen.tasks`.
        data: the training split: a `Source`, or a dict of arrays with the examples on axis 0.
        optimizer: an Optax transformation, or `Players` for adversarial training.
        steps: the length of the run; or give `epochs`.
        epochs: the length in passes over the data.
        batch_size: examples a step, over all devices.
        seed: of the parameters, the order of the examples, and the steps' randomness.
        validation: a split to evaluate during the run and to choose the best state by.
        test: a split to evaluate at the end, and during the run where there is no validation split.
        patience: stop after this many evaluations without a better validation loss.
        accumulate: microbatches a step.
        ema_decay: keep a moving average of the parameters, and evaluate with it.
        workdir: a run directory; checkpoints in it are resumed.
        record: what `config.json` says of the run beside what is written in any case.
        report_every: steps between reports; ten an epoch, at most 100 steps apart, by default.
        evaluate_every: steps between evaluations; an epoch by default.
        checkpoint_every: steps between checkpoints; by default as often as evaluations, but 15 s apart where
            they aren't the best.
        keep: how many of the last checkpoints to keep, beside the best one.
        steps_per_call: steps in one call of the device where the data lies on it; as many as between
            reports by default, or 1 for convolutions on a CPU.
        resident: whether the data is put on the device; where it is under 1 GiB by default.
        devices: the devices to use; all by default.
        hooks: what else looks on.
        progress: whether to show progress.

    Raises:
        UsageError: for a request that can't be met.
        DivergedError: where the objective turns NaN or infinite.
        Interrupted: after SIGINT or SIGTERM, when the state is saved.
    """
    train, splits = _sources(data, validation, test)
    if hasattr(task, "check"):
        for source in (train, *splits.values()):
            task.check(source)
    order = BatchOrder(len(train), batch_size, seed)
    length = _length(steps, epochs, order)
    _check_positive(
        accumulate=accumulate,
        patience=patience,
        keep=keep,
        report_every=report_every,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        steps_per_call=steps_per_call,
    )
    if patience is not None and "validation" not in splits:
        raise UsageError("patience needs a validation split: the test split decides nothing")
    report, evaluation = default_cadence(length, order.steps_per_epoch)
    settings = LoopSettings(
        steps=length,
        batch_size=batch_size,
        report_every=report_every or report,
        evaluate_every=evaluate_every or evaluation,
        checkpoint_every=checkpoint_every or evaluate_every or evaluation,
        checkpoint_seconds=0.0 if checkpoint_every else _CHECKPOINT_SECONDS,
        splits=("validation",) if "validation" in splits else tuple(splits),
        monitor="validation/loss" if "validation" in splits else None,
        patience=patience,
    )
    training = {
        "batch_size": batch_size,
        "seed": seed,
        "patience": patience,
        "accumulate": accumulate,
        "ema_decay": ema_decay,
    }
    directory = None if workdir is None else RunDirectory(workdir)
    mesh = make_mesh(_devices(devices, directory))
    check_batch_size(batch_size, mesh.size * accumulate * getattr(optimizer, "slices", 1))
    if directory is not None:
        described = {"task": describe(task), "data": describe_splits(train, splits), "training": training}
        described |= describe_examples(train)
        directory.begin({**described, **(record or {}), "device_count": mesh.size}, length)
    indices, weights = order(0)
    example = {**train.gather(indices), "weight": weights}
    state = TrainState.create(task, optimizer, jax.random.key(seed), example, ema=ema_decay is not None)
    run = _Run(
        settings=settings,
        state=put_state(state, mesh),
        step=_make_step(task, optimizer, accumulate, ema_decay),
        feed=_make_feed(
            train,
            order,
            mesh,
            steps_per_call or _steps_per_call(task, state, example, settings.report_every),
            resident,
        ),
        mesh=mesh,
        evaluate=Evaluator(task, splits, mesh),
        splits=tuple(splits),
        hooks=[*([Progress()] if progress and jax.process_index() == 0 else []), *hooks],
        directory=directory,
        keep=keep,
    )
    return run()


@dataclass
class _Run:
    """A run with all its parts: restores, drives the loop, and gathers what it ends with."""

    settings: LoopSettings
    state: TrainState
    step: Step
    feed: Feed
    mesh: Mesh
    evaluate: Evaluator
    splits: tuple[str, ...]
    hooks: list[Hook]
    directory: RunDirectory | None
    keep: int

    def __call__(self) -> FitResult:
        history = _History()
        best = _BestInMemory(self.settings.monitor) if self.settings.monitor and not self.directory else None
        self.hooks = [history, *([best] if best else []), *self.hooks]
        with contextlib.ExitStack() as stack:
            stack.callback(self.feed.close)
            stack.callback(self._end_hooks)
            checkpoints = self._open_checkpoints(stack)
            position, tally = self._restore(checkpoints) if checkpoints else (0, Tally())
            if self.directory is not None and jax.process_index() == 0:
                self.hooks += [
                    MetricsFile(self.directory.metrics_path),
                    TensorBoard(self.directory.tensorboard),
                ]
            loop = Loop(
                self.settings,
                self.state,
                position,
                self.feed.bind(self.step, self.state),
                self.feed,
                self.evaluate,
                functools.partial(self._save, checkpoints) if checkpoints else None,
                checkpoints.check if checkpoints else None,
                self.hooks,
                tally,
            )
            for hook in self.hooks:
                hook.on_start(position, self.settings.steps, self.feed.order.steps_per_epoch)
            try:
                self.state = loop()
            except DivergedError as error:
                raise DivergedError(f"{error}; {self._last_good(checkpoints)}") from error
            step = loop.position
            if checkpoints:
                checkpoints.wait()
                chosen = checkpoints.best_step() if self.settings.monitor else None
                if chosen is not None and chosen != step:
                    self.state, _, step = checkpoints.restore(abstract(self.state), chosen)
            elif best and best.kept:
                step, self.state = best.kept
            before = None if self.directory is None else self.directory.result()
            if before is not None:
                self._say(f"finished already, at step {loop.position}: nothing to do")
            figures = before or {**self._figures(loop), "evaluated_step": step}
            if self.directory is not None and before is None and jax.process_index() == 0:
                self.directory.finish(figures)
        return FitResult(self.state, figures, history.records, before is not None)

    def _open_checkpoints(self, stack: contextlib.ExitStack) -> Any:
        if self.directory is None:
            return None
        from jaxgen.train.checkpoint import Checkpoints  # Orbax takes a second to import

        return stack.enter_context(
            Checkpoints(self.directory.checkpoints, keep=self.keep, best_metric=self.settings.monitor)
        )

    def _restore(self, checkpoints: Any) -> tuple[int, Tally]:
        """Goes on from the newest good checkpoint, or begins."""
        if not checkpoints.steps():
            return 0, Tally()
        self.state, extra, position = checkpoints.restore(abstract(self.state), on_fallback=self._say)
        self.feed.restore(extra["data"], position)
        if position < self.settings.steps:
            self._say(f"resumed at step {position}")
        return position, Tally(**extra["tally"])

    def _save(
        self, checkpoints: Any, step: int, state: TrainState, metrics: Mapping[str, float], tally: Tally
    ) -> None:
        extra = {"data": self.feed.state(), "tally": dataclasses.asdict(tally)}
        checkpoints.save(step, state, extra, dict(metrics))

    def _last_good(self, checkpoints: Any) -> str:
        if checkpoints is not None:
            checkpoints.wait()
        if checkpoints is None or not checkpoints.steps():
            return "no checkpoint had been made"
        return (
            f"the last good checkpoint is that of step {checkpoints.latest_step()} in {checkpoints.directory}"
        )

    def _figures(self, loop: Loop) -> dict[str, Any]:
        figures: dict[str, Any] = self.evaluate(self.state, self.splits)
        tally = loop.tally
        if tally.measured_seconds:
            rate = tally.measured_steps / tally.measured_seconds
            figures["train/examples_per_second"] = rate * self.settings.batch_size
        return {
            **figures,
            "seconds": round(tally.seconds, 3),
            "steps": loop.position,
            "parameters": count_parameters(self.state.params),
            "device": f"{self.mesh.size} x {self.mesh.devices.flat[0].device_kind}",
        }

    def _say(self, text: str) -> None:
        for hook in self.hooks:
            hook.on_message(text)

    def _end_hooks(self) -> None:
        for hook in self.hooks:
            hook.on_end()


def abstract(state: TrainState) -> TrainState:
    """Gives the shapes, dtypes and shardings of a state, as a target to restore onto."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def _sources(data: Data, validation: Data | None, test: Data | None) -> tuple[Source, dict[str, Source]]:
    named = {"validation": validation, "test": test}
    splits = {name: _as_source(value, name) for name, value in named.items() if value is not None}
    return _as_source(data, "train"), splits


def _as_source(data: Data, split: str) -> Source:
    return data if isinstance(data, Source) else from_arrays(data, split=split)


def _length(steps: int | None, epochs: int | None, order: BatchOrder) -> int:
    if (steps is None) == (epochs is None):
        raise UsageError("give the length of the run as steps or as epochs, one of the two")
    _check_positive(steps=steps, epochs=epochs)
    return steps if steps is not None else (epochs or 0) * order.steps_per_epoch


def _check_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")


def _devices(devices: Sequence[jax.Device] | None, directory: RunDirectory | None) -> Sequence[jax.Device]:
    """Takes all devices, or as many as the run in the directory began with: equality bit for bit rests on it."""
    available = jax.devices() if devices is None else devices
    if devices is None and directory is not None and directory.config_path.exists():
        available = available[: directory.config()["device_count"]]
    return available


def _make_step(task: Any, optimizer: Any, accumulate: int, ema_decay: float | None) -> Step:
    if isinstance(optimizer, Players):
        return make_players_step(optimizer, accumulate=accumulate, ema_decay=ema_decay)
    return make_train_step(task.loss, optimizer, accumulate=accumulate, ema_decay=ema_decay)


def _steps_per_call(task: Task, state: TrainState, example: Any, report_every: int) -> int:
    """Takes as many steps a call as lie between reports, but one where the loop would cost more than it saves.

    XLA's CPU backend runs a convolution several times slower inside a loop (jax-ml/jax#12868).
    """
    if jax.default_backend() == "cpu":
        loss = jax.make_jaxpr(make_eval_step(task.loss))(state, state.carry, example)
        if "conv_general_dilated" in str(loss):
            return 1
    return min(report_every, 100)


def _make_feed(
    train: Source, order: BatchOrder, mesh: Mesh, steps_per_call: int, resident: bool | None
) -> Feed:
    if resident is None:
        example = train.gather(np.zeros(1, np.int32))
        resident = len(train) * sum(leaf.nbytes for leaf in example.values()) < _RESIDENT_BYTES
    return ResidentFeed(train, order, mesh, steps_per_call) if resident else HostFeed(train, order, mesh)
