"""What a model draws as it learns: sheets of samples of the same noise through a run, and a film of them."""

import time
from pathlib import Path
from typing import Any

from jaxgen.image_samples import BATCH_SIZE, ImageGenerator, sheet_columns
from jaxgen.image_sheets import read_png, save_film, save_png, sheet
from jaxgen.train.hooks import Hook
from jaxgen.train.state import TrainState

_SHEETS = 24
# Part of a run's time that sheets may take, once they have taken so many seconds.
_SHARE, _SECONDS = 0.05, 5.0
_FRAME, _LAST_FRAME = 300, 2000  # milliseconds
_PATTERN = "step-*.png"


class SampleSheets(Hook):
    """Saves sheets of samples from fixed noise through a run, close together at first, and a film of them at the end.

    Sheet k of K shows the state after (k / K)² of the run: most changes early. Where they have taken some seconds,
    one that would take more than a twentieth of the time since the last one is left out.

    Args:
        task: one that generates images.
        directory: where the sheets go.

    Raises:
        UsageError: for a task that generates no images.
    """

    def __init__(self, task: Any, directory: Path) -> None:
        self._generator = ImageGenerator(task)
        self._directory = directory
        self._columns = sheet_columns(task.num_classes)
        self._due: list[int] = []
        self._seconds = self._spent = 0.0
        self._compiled = False
        self._last = -float("inf")

    def on_start(self, step: int, steps: int, steps_per_epoch: int) -> None:
        """Lays out the steps; a resumed run drops the sheets that it will draw again."""
        laid_out = {max(1, round(steps * (k / _SHEETS) ** 2)) for k in range(1, _SHEETS + 1)}
        self._due = sorted(due for due in laid_out if due > step)
        for path in self._directory.glob(_PATTERN):
            if _step_of(path) > step:
                path.unlink()

    def wants_state(self, step: int) -> bool:
        """Tells whether a sheet is due, and may be drawn already."""
        due = bool(self._due) and step >= self._due[0]
        cheap = self._spent < _SECONDS or time.monotonic() - self._last >= self._seconds / _SHARE
        return due and (cheap or step >= self._due[-1])

    def on_state(self, step: int, state: TrainState) -> None:
        """Draws a sheet."""
        self._due = [due for due in self._due if due > step]
        started = time.monotonic()
        self._draw(step, state)
        self._last = time.monotonic()
        # The first one takes as long as it does because it is compiled.
        self._seconds = self._last - started if self._compiled else 0.0
        self._spent += self._seconds
        self._compiled = True

    def on_finish(self, figures: dict[str, Any], state: TrainState) -> None:
        """Draws the sheet of the state that the run ends with, where it isn't there, and the film."""
        self._draw(figures["evaluated_step"], state)
        paths = sorted(self._directory.glob(_PATTERN), key=_step_of)
        frames = [read_png(path) for path in paths]
        seen = [*[_FRAME] * (len(frames) - 1), _LAST_FRAME]
        captions = [f"step {_step_of(path):,}" for path in paths]
        save_film(self._directory / "film.gif", frames, seen, captions)

    def _draw(self, step: int, state: TrainState) -> None:
        path = self._directory / f"step-{step:08}.png"
        if path.exists():
            return
        self._directory.mkdir(exist_ok=True)
        images = self._generator.sample(state, BATCH_SIZE // self._columns * self._columns)
        save_png(path, sheet(images, self._columns))


def _step_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
