"""The one loop: it drives a compiled step to its end, and never stops the device between steps.

Metrics are read a call late, when the next call is under way. Only an evaluation and a checkpoint wait.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import JaxgenError
from jaxgen.parallel import agreed_to_stop
from jaxgen.signals import Interrupted, collected
from jaxgen.train.evaluate import add_up, shorten_queue
from jaxgen.train.feed import Feed, Run
from jaxgen.train.hooks import Hook
from jaxgen.train.monitor import Monitor
from jaxgen.train.state import TrainState


class DivergedError(JaxgenError):
    """The objective turned NaN or infinite."""


@dataclass(frozen=True)
class LoopSettings:
    """When the loop stops, and when it looks up from its work; all in steps.

    Attributes:
        steps: the length of the run.
        batch_size: examples a step, or their mean, for the throughput.
        tokens_per_step: of text, or their mean, for the throughput, else 0.
        report_every: steps between reports of the training figures.
        evaluate_every: steps between evaluations.
        checkpoint_every: steps between checkpoints; one is made at the end in any case.
        checkpoint_seconds: no checkpoint sooner than this after the last one, unless it is the best.
        splits: the splits that are evaluated during the run.
        monitor: what decides which checkpoint is best; None when nothing does.
        patience: stop after this many evaluations without a better one; None to go on to the end.
    """

    steps: int
    batch_size: float
    report_every: int
    evaluate_every: int
    checkpoint_every: int
    checkpoint_seconds: float = 0.0
    splits: tuple[str, ...] = ()
    monitor: Monitor | None = None
    patience: int | None = None
    tokens_per_step: float = 0

    def throughput(self, steps_per_second: float) -> dict[str, float]:
        """Gives how many examples, or tokens, a second that is."""
        name, size = (
            ("tokens", self.tokens_per_step) if self.tokens_per_step else ("examples", self.batch_size)
        )
        return {f"train/{name}_per_second": steps_per_second * size}


@dataclass
class Tally:
    """What a run has to show beside its state; saved with it, so that a resumed run goes on counting.

    Attributes:
        seconds: wall-clock time of the loop so far.
        measured_steps: steps whose time was measured, without compilation, evaluations and checkpoints.
        measured_seconds: the time that these took.
        best: the lowest cost so far, of what is monitored.
        tie: what decides between states of this cost: the lowest so far.
        evaluations_since_best: evaluations that brought no better one.
        converged: whether patience has ended the run.
    """

    seconds: float = 0.0
    measured_steps: int = 0
    measured_seconds: float = 0.0
    best: float | None = None
    tie: float | None = None
    evaluations_since_best: int = 0
    converged: bool = False

    def note(self, cost: tuple[float, float], patience: int | None) -> bool:
        """Takes a cost into account, see `Monitor.cost`; gives whether it is the lowest so far.

        Patience waits for the figure itself: what only decides between equals doesn't prolong a run.
        """
        value, tie = cost
        if not math.isnan(value) and (self.best is None or value < self.best):
            self.best, self.tie, self.evaluations_since_best = value, tie, 0
            lowest = True
        else:
            self.evaluations_since_best += 1
            # None in a checkpoint that was made before ties were decided.
            lowest = value == self.best and (self.tie is None or tie < self.tie)
            self.tie = tie if lowest else self.tie
        self.converged = patience is not None and self.evaluations_since_best >= patience
        return lowest


class Loop:
    """Drives a run from the state's step to `settings.steps`.

    Args:
        state: where to start; its buffers are donated.
        step_number: the number of steps that the state has taken.
        run: the compiled step, see `jaxgen.train.feed`.
        feed: where the batches come from.
        evaluate: figures of a state on some splits.
        save: `save(step, state, metrics, tally)`, or None where nothing is kept.
        check_save: raises what an earlier save in the background has met.
        hooks: what looks on.
        tally: that of the run so far.
    """

    def __init__(
        self,
        settings: LoopSettings,
        state: TrainState,
        step_number: int,
        run: Run,
        feed: Feed,
        evaluate: Callable[[TrainState, tuple[str, ...]], dict[str, float]],
        save: Callable[[int, TrainState, Mapping[str, float], Tally], None] | None,
        check_save: Callable[[], None] | None,
        hooks: Sequence[Hook],
        tally: Tally,
    ) -> None:
        self.settings, self.state, self.position, self.tally = settings, state, step_number, tally
        self._run, self._feed, self._evaluate, self._hooks = run, feed, evaluate, hooks
        self._save, self._check_save = save, check_save
        self._window: list[Any] = []
        self._late: tuple[int, list[Any]] | None = None
        self._mark: tuple[float, int] | None = None
        self._rate: float | None = None
        self._reported_at = step_number
        self._saved_at = -1
        self._saved_time = time.perf_counter()

    def __call__(self) -> TrainState:
        """Runs to the end; raises `Interrupted` after a signal, `DivergedError` at a bad objective."""
        started, before, first = time.perf_counter(), self.tally.seconds, self.position
        calls, several = 0, jax.process_count() > 1
        with collected(forward=several) as caught:
            while self.position < self.settings.steps and not self.tally.converged:
                if not caught:
                    self._advance()
                self.tally.seconds = before + time.perf_counter() - started
                calls += 1
                if several and agreed_to_stop(calls):
                    caught.append(signal.SIGTERM)
                if caught:
                    self._look_up(saving=self.position != first)
                    raise Interrupted(caught[0], self.position)
        self._look_up(saving=self._saved_at != self.position)
        return self.state

    def _advance(self) -> None:
        """Takes the steps of one call, and does what falls due after them."""
        settings = self.settings
        every = (settings.evaluate_every, settings.checkpoint_every)
        report_at = self._reported_at + settings.report_every
        boundary = min(settings.steps, report_at, *(self.position // n * n + n for n in every))
        count = min(boundary - self.position, self._feed.steps_per_call)
        self.state, metrics = self._run(self.state, self.position, count)
        self.position += count
        self._window.append(metrics)
        shorten_queue(self._window)
        self._deliver()
        if self._check_save is not None:
            self._check_save()
        for hook in self._hooks:
            hook.on_progress(self.position)
        self._show()
        evaluation_due, checkpoint_due = (
            self.position % n == 0 or self.position == settings.steps for n in every
        )
        if evaluation_due or checkpoint_due or self.position == report_at:
            self._close_window()
        figures: dict[str, float] = {}
        is_best = False
        if evaluation_due and settings.splits:
            self._look_up()
            figures, is_best = self._evaluate_now()
        rested = time.perf_counter() - self._saved_time >= settings.checkpoint_seconds
        at_end = self.position == settings.steps or self.tally.converged
        if is_best or at_end or (checkpoint_due and rested):
            self._look_up(saving=True, figures=figures)

    def _show(self) -> None:
        """Gives the state to the hooks that want it; what they do isn't counted as the steps' time."""
        hooks = [hook for hook in self._hooks if hook.wants_state(self.position)]
        if not hooks:
            return
        jax.block_until_ready(self.state)
        started = time.perf_counter()
        for hook in hooks:
            hook.on_state(self.position, self.state)
        if self._mark is not None:
            self._mark = (self._mark[0] + time.perf_counter() - started, self._mark[1])

    def _deliver(self) -> None:
        """Reads the report that fell due a call ago, and gives it to the hooks."""
        if self._late is None:
            return
        (step, window), self._late = self._late, None
        total = add_up(window)
        self._raise_if_diverged(total)
        figures = {f"train/{name}": float(metric.compute()) for name, metric in total.items()}
        self._measure(step)
        if self._rate is not None:
            figures["train/steps_per_second"] = self._rate
            figures.update(self.settings.throughput(self._rate))
        for hook in self._hooks:
            hook.on_report(step, figures)

    def _close_window(self) -> None:
        """Ends the interval of a report, to be read a call later."""
        self._late, self._window, self._reported_at = (self.position, self._window), [], self.position

    def _measure(self, step: int) -> None:
        """Notes how fast the device is; it has done `step` steps at least, and perhaps the call after them."""
        if all(leaf.is_ready() for leaf in jax.tree.leaves(self._window)):
            step = self.position
        now = time.perf_counter()
        if self._mark is not None and step > self._mark[1]:
            seconds, steps = now - self._mark[0], step - self._mark[1]
            self.tally.measured_seconds += seconds
            self.tally.measured_steps += steps
            self._rate = steps / seconds
        self._mark = (now, step)

    def _look_up(self, saving: bool = False, figures: Mapping[str, float] | None = None) -> None:
        """Waits for the device, reads what is outstanding, and saves if asked."""
        self._deliver()
        if self._window:
            self._close_window()
            self._deliver()
        if saving and self._saved_at != self.position:
            # A gradient can be bad where the loss was good: it would be noticed a step too late.
            if not _all_finite(self.state.params):
                raise DivergedError(diagnose(self.state, self.position, self._feed.batch_at))
            if self._save is not None:
                self._save(self.position, self.state, figures or {}, self.tally)
            self._saved_at, self._saved_time = self.position, time.perf_counter()
        self._mark = None if self._mark is None else (time.perf_counter(), self.position)

    def _evaluate_now(self) -> tuple[dict[str, float], bool]:
        """Gives the figures of the state, and whether it is the best so far."""
        figures, is_best = self._evaluate(self.state, self.settings.splits), False
        if self.settings.monitor is not None:
            is_best = self.tally.note(self.settings.monitor.cost(figures), self.settings.patience)
        for hook in self._hooks:
            hook.on_evaluation(self.position, figures, self.state)
        self._mark = None if self._mark is None else (time.perf_counter(), self.position)
        return figures, is_best

    def _raise_if_diverged(self, total: Mapping[str, Any]) -> None:
        bad = [b for name in total if name.endswith("loss") if (b := _first_bad(total[name])) is not None]
        if bad:
            raise DivergedError(diagnose(self.state, min(bad), self._feed.batch_at))


def _first_bad(metric: Any) -> int | None:
    return metric.first_bad_step() if hasattr(metric, "first_bad_step") else None


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jax.tree.reduce(
        jnp.logical_and, jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), params), jnp.bool_(True)
    )


def diagnose(state: TrainState, step: int, batch_at: Callable[[int], Mapping[str, np.ndarray]]) -> str:
    """Says in one line what went bad first; a bad step leaves the parameters as they were before it.

    Args:
        state: the state after the bad step.
        step: the number of steps before it.
        batch_at: reads the batch of a step.
    """
    head = f"training turned NaN or infinite at step {step + 1}"
    for earlier in (step - 1, step):
        for name, values in batch_at(earlier).items() if earlier >= 0 else ():
            if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
                rows = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
                where = f"{rows} of the {len(values)} examples in the batch of step {earlier + 1}"
                return f"{head}: {name!r} is not finite in {where}; mend the data"
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
        if not np.isfinite(np.asarray(leaf)).all()
    ]
    # Rows of tables are moved by themselves: there is no norm of a whole gradient.
    by_rows = isinstance(state.opt_state, dict) and "tables" in state.opt_state
    advice = f"try a smaller --learning-rate or {'--block-size' if by_rows else '--clip-norm 1'}"
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"{head}: the parameters {', '.join(names[:3])}{more} went bad in step {step}; {advice}"
    return f"{head}: it overflowed on a finite batch with finite parameters; {advice}"


def default_cadence(steps: int, steps_per_epoch: int) -> tuple[int, int]:
    """Gives (report_every, evaluate_every): ten reports and one evaluation an epoch, more in a short run."""
    length = min(steps, steps_per_epoch)
    return max(1, min(100, math.ceil(length / 10))), length
