"""Hooks: what looks on while the loop runs, and the loop's own reports, which are hooks too."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from jaxgen.files import append_line, truncate_after
from jaxgen.train.state import TrainState


class Hook:
    """Watches a run; override what you need. Figures are floats named `SPLIT/NAME`."""

    def on_start(self, step: int, steps: int, steps_per_epoch: int) -> None:
        """Is called once, before the first step of this process."""

    def on_progress(self, step: int) -> None:
        """Is called after each call of the device, whose work may still be under way."""

    def wants_state(self, step: int) -> bool:
        """Is asked after each call of the device whether to see the state, for which the loop waits."""
        return False

    def on_state(self, step: int, state: TrainState) -> None:
        """Is called where `wants_state` says so; the state is donated right after, copy what you keep."""

    def on_report(self, step: int, figures: dict[str, float]) -> None:
        """Is called with the training figures averaged since the last report, a call late."""

    def on_evaluation(self, step: int, figures: dict[str, float], state: TrainState) -> None:
        """Is called with the figures of the evaluated splits; the state is donated right after, copy what you keep."""

    def on_finish(self, figures: dict[str, Any], state: TrainState) -> None:
        """Is called with the final figures, to which it may add, and the state they are of; then all is written."""

    def on_message(self, text: str) -> None:
        """Is called with a line for the person who watches."""

    def on_end(self) -> None:
        """Is called once at the end, also after an error."""


class MetricsFile(Hook):
    """Writes `metrics.jsonl`: one JSON object a line, with its `step`. A resumed run drops what it will redo."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def on_start(self, step: int, steps: int, steps_per_epoch: int) -> None:
        truncate_after(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")

    def on_report(self, step: int, figures: dict[str, float]) -> None:
        assert self._file is not None
        append_line(self._file, {"step": step, **figures})

    def on_evaluation(self, step: int, figures: dict[str, float], state: TrainState) -> None:
        self.on_report(step, figures)

    def on_end(self) -> None:
        if self._file is not None:
            self._file.close()


class TensorBoard(Hook):
    """Writes the same figures as TensorBoard event files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None

    def on_start(self, step: int, steps: int, steps_per_epoch: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(self._directory), purge_step=step + 1 if step else None)

    def on_report(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def on_evaluation(self, step: int, figures: dict[str, float], state: TrainState) -> None:
        self.on_report(step, figures)

    def on_end(self) -> None:
        if self._writer is not None:
            self._writer.close()


# What a line has room for; the other figures are in the files.
_SHOWN = ("loss", "accuracy", "mse", "perplexity", "r2", "diversity", "margin")
_SHOWN_OF_TRAINING = ("train/loss", "train/generator/loss", "train/discriminator/loss")


class Progress(Hook):
    """Shows step, epoch, loss, throughput and time left: a bar on a terminal, plain lines elsewhere."""

    SECONDS_BETWEEN_LINES = 10.0
    SECONDS_BETWEEN_EVALUATIONS = 0.2

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._bar: Any = None
        self._latest: dict[str, float] = {}
        self._last_line = self._last_evaluation = -float("inf")

    def on_start(self, step: int, steps: int, steps_per_epoch: int) -> None:
        self._steps, self._steps_per_epoch = steps, steps_per_epoch
        if not self._stream.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}"))
        self._bar = Bar(*columns, console=Console(file=self._stream), refresh_per_second=8)
        self._bar.start()
        self._task = self._bar.add_task("", total=steps, completed=step, text="compiling")

    def on_progress(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def on_report(self, step: int, figures: dict[str, float]) -> None:
        self._latest = figures
        if self._bar is not None:
            self._bar.update(self._task, text=self._describe(step))
        elif time.monotonic() - self._last_line >= self.SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.on_message(f"step {step}/{self._steps}  {self._describe(step)}")

    def on_evaluation(self, step: int, figures: dict[str, float], state: TrainState) -> None:
        now = time.monotonic()
        if now - self._last_evaluation < self.SECONDS_BETWEEN_EVALUATIONS and step < self._steps:
            return
        self._last_evaluation = now
        shown = {
            name: value
            for name, value in {**self._latest, **figures}.items()
            if name in _SHOWN_OF_TRAINING
            or (not name.startswith("train/") and name.rpartition("/")[2] in _SHOWN)
        }
        epoch, steps = f"{step / self._steps_per_epoch:.4g}", f"{self._steps:,}"
        place = f"epoch {epoch:>{len(str(self._steps // self._steps_per_epoch))}}  step {step:>{len(steps)},}"
        self.on_message("  ".join([place, *format_figures(shown, width=6)]))

    def on_message(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            say(text, self._stream)

    def on_end(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _describe(self, step: int) -> str:
        parts = [f"epoch {step / self._steps_per_epoch:.2f}"]
        parts += [
            f"{name} {self._latest[f'train/{name}']:.4f}"
            for name in ("loss",)
            if f"train/{name}" in self._latest
        ]
        rate = self._latest.get("train/steps_per_second")
        if rate:
            unit = "tokens" if "train/tokens_per_second" in self._latest else "examples"
            parts.append(f"{self._latest[f'train/{unit}_per_second']:,.0f} {unit}/s")
            parts.append(f"ETA {format_seconds((self._steps - step) / rate)}")
        return "  ".join(parts)


def say(text: str, stream: Any = None, end: str = "\n") -> None:
    """Prints a line; where nobody reads any more (`| head`), the run goes on without a word."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True, end=end)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def format_figures(figures: Mapping[str, Any], width: int = 0) -> list[str]:
    """Writes each figure as `name value`, the values at least so wide that lines stand in columns."""
    return [f"{name} {format_value(name, value):<{width}}" for name, value in figures.items()]


def format_value(name: str, value: Any) -> str:
    """Writes a figure as people read it: accuracies in percent, counts whole, the rest with four digits."""
    if name.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def format_seconds(seconds: float) -> str:
    """Writes a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
