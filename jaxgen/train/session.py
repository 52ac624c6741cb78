"""A run under way: restored, driven by the loop, saved, and brought to its figures."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgen.run_directory import RunDirectory
from jaxgen.train.feed import Feed
from jaxgen.train.hooks import Hook, MetricsFile, TensorBoard
from jaxgen.train.loop import DivergedError, Loop, LoopSettings, Tally
from jaxgen.train.monitor import Monitor
from jaxgen.train.state import TrainState, count_parameters
from jaxgen.train.step import Step


@dataclass
class FitResult:
    """What a run ends with.

    Attributes:
        state: the trained state: the best one by the validation loss (or by what a judge chooses) where there is a
            validation split, else the last one.
        figures: `SPLIT/NAME` to value, with `train/examples_per_second` (or tokens), `seconds`, `steps`, `parameters`.
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

    def __init__(self, monitor: Monitor) -> None:
        self._monitor, self._best = monitor, (float("inf"), -float("inf"))
        self.kept: tuple[int, TrainState] | None = None

    def on_evaluation(self, step: int, figures: dict[str, float], state: TrainState) -> None:
        if (cost := self._monitor.cost(figures)) < self._best:
            self._best = cost
            self.kept = (step, jax.tree.map(jnp.copy, state))


@dataclass
class Session:
    """A run with all its parts; called, it goes from where it stands to its end.

    Attributes:
        settings: of the loop.
        state: what it starts from, on the mesh.
        step: the train step.
        feed: where the batches come from.
        mesh: the devices.
        evaluate: gives a state's figures on some splits.
        splits: the splits that are evaluated at the end.
        hooks: what looks on.
        directory: the run directory, or None.
        keep: how many of the last checkpoints to keep.
        notes: lines to say at the start.
    """

    settings: LoopSettings
    state: TrainState
    step: Step
    feed: Feed
    mesh: Mesh
    evaluate: Callable[[TrainState, tuple[str, ...]], dict[str, float]]
    splits: tuple[str, ...]
    hooks: list[Hook]
    directory: RunDirectory | None
    keep: int
    notes: list[str]

    def __call__(self) -> FitResult:
        """Goes to the end, or on from a checkpoint; see `jaxgen.fit` for what it raises."""
        history = _History()
        best = _BestInMemory(self.settings.monitor) if self.settings.monitor and not self.directory else None
        self.hooks = [history, *([best] if best else []), *self.hooks]
        with contextlib.ExitStack() as stack:
            stack.callback(self.feed.close)
            stack.callback(self._end_hooks)
            checkpoints = self._open_checkpoints(stack)
            loop = self._make_loop(checkpoints)
            before = self._result_of(loop)
            for hook in self.hooks:
                hook.on_start(loop.position, self.settings.steps, self.feed.order.steps_per_epoch)
            for note in self.notes:
                self._say(note)
            try:
                self.state = loop()
            except DivergedError as error:
                raise DivergedError(f"{error}; {self._last_good(checkpoints)}") from error
            step = self._choose_state(loop.position, checkpoints, best)
            figures = self._finish(loop, step) if before is None else before
            if before is not None:
                self._say(f"finished already, at step {loop.position}: nothing to do")
        return FitResult(self.state, figures, history.records, before is not None)

    def _result_of(self, loop: Loop) -> dict[str, Any] | None:
        """Gives the figures of a run that is at its end already, and was finished."""
        at_end = loop.position >= self.settings.steps or loop.tally.converged
        return self.directory.result() if self.directory is not None and at_end else None

    def _make_loop(self, checkpoints: Any) -> Loop:
        """Restores what there is, and makes the loop that goes on from there."""
        position, tally = self._restore(checkpoints) if checkpoints else (0, Tally())
        if self.directory is not None and jax.process_index() == 0:
            self.hooks += [MetricsFile(self.directory.metrics_path), TensorBoard(self.directory.tensorboard)]
        return Loop(
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

    def _choose_state(self, step: int, checkpoints: Any, best: _BestInMemory | None) -> int:
        """Takes the best state where there is a validation split, else keeps the last one; gives its step."""
        if checkpoints:
            checkpoints.wait()
            chosen = checkpoints.best_step() if self.settings.monitor else None
            if chosen is not None and chosen != step:
                self.state, _, step = checkpoints.restore(abstract(self.state), chosen)
        elif best and best.kept:
            step, self.state = best.kept
        return step

    def _finish(self, loop: Loop, step: int) -> dict[str, Any]:
        """Evaluates the state that the run ends with; what marks it as finished is written last of all."""
        if self.settings.patience is not None:
            self._say(self._how_it_ended(loop, step))
        elif step != loop.position:
            assert self.settings.monitor is not None
            self._say(
                f"the result is the state of step {step}, which had the best {self.settings.monitor.title}"
            )
        figures = {**self._figures(loop), "evaluated_step": step}
        for hook in self.hooks:
            hook.on_finish(figures, self.state)
        if self.directory is not None and jax.process_index() == 0:
            self.directory.finish(figures)
        return figures

    def _how_it_ended(self, loop: Loop, step: int) -> str:
        assert self.settings.monitor is not None  # patience needs one
        if loop.tally.converged:
            evaluations = (
                f"{self.settings.patience} evaluations without a better {self.settings.monitor.title}"
            )
            return f"converged: {evaluations}; the result is the state of step {step}"
        return (
            f"not converged in {loop.position} steps; the result is the state of step {step}, the best so far: "
            "a longer run may do better"
        )

    def _open_checkpoints(self, stack: contextlib.ExitStack) -> Any:
        if self.directory is None:
            return None
        from jaxgen.train.checkpoint import Checkpoints  # Orbax takes a second to import

        return stack.enter_context(
            Checkpoints(self.directory.checkpoints, keep=self.keep, monitor=self.settings.monitor)
        )

    def _restore(self, checkpoints: Any) -> tuple[int, Tally]:
        """Goes on from the newest good checkpoint, or begins."""
        if not checkpoints.steps():
            return 0, Tally()
        self.state, extra, position = checkpoints.restore(abstract(self.state), on_fallback=self.notes.append)
        self.feed.restore(extra["data"], position)
        if position < self.settings.steps and not extra["tally"]["converged"]:
            self.notes.append(f"resumed at step {position}")
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
            figures.update(self.settings.throughput(tally.measured_steps / tally.measured_seconds))
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
        with contextlib.ExitStack() as stack:  # all of them, whatever one of them raises
            for hook in reversed(self.hooks):
                stack.callback(hook.on_end)


def abstract(state: TrainState) -> TrainState:
    """Gives the shapes, dtypes and shardings of a state, as a target to restore onto."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
