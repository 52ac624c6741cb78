"""A saved run, opened again: evaluated and plotted from its directory alone, without its experiment."""

from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.config import rebuild
from jaxgen.data.sources import Source, load
from jaxgen.data.strokes import Strokes, find_strokes
from jaxgen.errors import JaxgenError, UsageError, shown
from jaxgen.files import read_lines
from jaxgen.parallel import make_mesh, put_state
from jaxgen.run_directory import RunDirectory
from jaxgen.train.checkpoint import Checkpoints
from jaxgen.train.evaluate import Evaluator, predict_split
from jaxgen.train.state import TrainState


class SavedRun:
    """A run directory with its task, data and trained state, each made when it is first asked for.

    Args:
        path: the run directory.
        data_dir: where prepared sets lie, as for `jaxgen.data.load`.

    Raises:
        JaxgenError: where the directory holds no run.
    """

    def __init__(self, path: Path | str, data_dir: Path | None = None) -> None:
        self.directory = RunDirectory(path)
        self.config = self.directory.config()
        self._data_dir = data_dir or self.directory.data_dir()
        self._said_changed = False

    @cached_property
    def task(self) -> Any:
        """The task, with its model."""
        return rebuild(self.config["task"])

    def source(self, split: str) -> Source:
        """Loads one of the run's splits: `train`, `validation` or `test`."""
        data = self.config["data"]
        if split not in data["splits"]:
            raise UsageError(f"the run has no split {split!r}; it has {', '.join(data['splits'])}")
        source = load(
            data["name"],
            data["splits"][split],
            data_dir=self._data_dir,
            image_size=data["image_size"],
            image_channels=data.get("image_channels"),  # runs of the first version have none
        )
        self._check_unchanged(source)
        return source

    def _check_unchanged(self, source: Source) -> None:
        """Says where the data isn't what the run was trained on any more; refuses other classes."""
        names = getattr(self.task, "class_names", ())
        if names and source.class_names and names != source.class_names:
            changed = sorted({*names} ^ {*source.class_names}) or ["their order"]
            raise JaxgenError(
                f"{shown(source.name)} has other classes than the run was trained on: {', '.join(changed)}"
            )
        data = self.config["data"]
        if source.version != data["version"] and not self._said_changed:
            self._said_changed = True
            _say(
                f"{shown(source.name)} has changed since the run began (from {data['version']} to "
                f"{source.version}): the figures are those of what is there now"
            )

    @cached_property
    def example(self) -> dict[str, np.ndarray]:
        """A batch of one example as the run was trained on, all zero: its shapes and types."""
        recorded = self.config.get("example")
        if recorded is None:  # runs of the first version
            found = self.source(self.default_split).gather([0])
            return {name: np.zeros_like(values) for name, values in found.items()}
        return {
            name: np.zeros((1, *array["shape"]), jax.numpy.dtype(array["dtype"]))
            for name, array in recorded.items()
        }

    @cached_property
    def strokes(self) -> Strokes | None:
        """How the training images show light strokes on a dark ground, where they do."""
        if "strokes" not in self.config:  # runs of the first version
            return find_strokes(self.source("train"))
        recorded = self.config["strokes"]
        return None if recorded is None else Strokes(**recorded)

    @cached_property
    def state(self) -> TrainState:
        """The trained state, for evaluation: without the optimiser's part.

        It is that of the best validation loss where the run has a validation split, else the last one.
        """
        params, model_state = jax.eval_shape(self.task.init, jax.random.key(0), self.example)
        target = {"params": params, "model_state": model_state}
        if self.config["training"]["ema_decay"] is not None:
            target["ema_params"] = params
        monitor = "validation/loss" if "validation" in self.config["data"]["splits"] else None
        with Checkpoints(self.directory.checkpoints, best_metric=monitor, read_only=True) as checkpoints:
            step = checkpoints.best_step() if monitor else None
            restored, _, step = checkpoints.restore(target, step, on_fallback=_say, partial=True)
        state = TrainState(
            step=jax.numpy.int32(step),
            opt_state=(),
            carry=(),
            rng=jax.random.key(0),
            **{"ema_params": None, **restored},
        )
        return put_state(state, make_mesh())

    @property
    def default_split(self) -> str:
        """The split to show: `test`, or what there is."""
        available = self.config["data"]["splits"]
        return next(name for name in ("test", "validation", "train") if name in available)

    def evaluate(self, splits: tuple[str, ...] = ()) -> dict[str, float]:
        """Gives the figures of the trained state; by default on all splits but the training one."""
        available = self.config["data"]["splits"]
        splits = splits or tuple(name for name in available if name != "train") or ("train",)
        sources = {name: self.source(name) for name in splits}
        return Evaluator(self.task, sources, make_mesh())(self.state, splits)

    def plot(self) -> list[Path]:
        """Draws all plots again; first the curves, which can be drawn without the data."""
        draw_curves(self.directory)
        return draw_plots(self.directory, self.task, self.state, self.source(self.default_split))

    def history(self) -> list[dict[str, Any]]:
        """Reads the figures that were written during the run."""
        return read_lines(self.directory.metrics_path)


def draw_plots(directory: RunDirectory, task: Any, state: TrainState, source: Source) -> list[Path]:
    """Draws a run's curves and its task's plots of a split into `plots/`, and gives the files."""
    from jaxgen import plots

    # All processes predict; the first one draws.
    predictions = predict_split(task, state, source) if hasattr(task, "plots") else None
    if jax.process_index() != 0:
        return []
    paths = draw_curves(directory)
    if predictions is not None:
        params = jax.device_get(state.evaluation_params())
        paths += plots.save(task.plots(params, source.arrays(), predictions), directory.plots)
    return paths


def draw_curves(directory: RunDirectory) -> list[Path]:
    """Draws a run's curves, which need neither its data nor its model, and gives the file."""
    from jaxgen import plots

    return plots.save({"curves": plots.curves(read_lines(directory.metrics_path))}, directory.plots)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
