"""A saved run, opened again: it predicts, is evaluated and plotted from its directory, without its experiment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.errors
import jax
import numpy as np

from jaxgen.config import rebuild
from jaxgen.data import builders, tables, text, tokenizers
from jaxgen.data.buckets import Bucket
from jaxgen.data.examples import evaluation_source
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.sources import Source, as_source, load
from jaxgen.data.streams import TextFormat
from jaxgen.data.strokes import Strokes, find_strokes
from jaxgen.data.subset import take_rows
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.errors import JaxgenError, OwnCodeError, UsageError, shown, unknown
from jaxgen.files import read_lines
from jaxgen.lora import Adapted
from jaxgen.parallel import make_mesh, put_state
from jaxgen.run_directory import RunDirectory
from jaxgen.run_plots import draw_curves, draw_plots
from jaxgen.train.checkpoint import Checkpoints
from jaxgen.train.evaluate import BATCH_SIZE, Evaluator, predict_source
from jaxgen.train.monitor import Monitor
from jaxgen.train.state import TrainState
from jaxgen.writing import Writer


class SavedRun:
    """A run directory with its task, data and trained state, each made when it is first asked for.

    Args:
        path: the run directory.
        data_dir: where prepared sets lie, as for `jaxgen.data.load`.
        task: the run's task where it, or its model, is of your own code, so that it can't be made from the
            `config.json`: equal to the one that was trained.

    Raises:
        JaxgenError: where the directory holds no run.
    """

    def __init__(self, path: Path | str, data_dir: Path | str | None = None, *, task: Any = None) -> None:
        self.directory = RunDirectory(path)
        self.config = self.directory.config()
        self._task = task
        self._data_dir = data_dir or self.directory.data_dir()
        self._said_changed = False

    @cached_property
    def task(self) -> Any:
        """The task, with its model."""
        return rebuild(self.config["task"]) if self._task is None else self._task

    def source(self, split: str) -> Source:
        """Loads one of the run's splits: `train`, `validation` or `test`.

        Raises:
            OwnCodeError: where the run was trained on arrays, which its directory doesn't hold.
            JaxgenError: where the data can't be had, or has other classes by now.
        """
        data = self.config["data"]
        if not data["splits"]:
            raise _without_data()
        if split not in data["splits"]:
            raise UsageError(f"the run has no split {split!r}; it has {', '.join(data['splits'])}")
        name = data.get("names", {}).get(split, data["name"])
        if data["version"] is None or name == "arrays":  # every set that `load` gives has one
            raise OwnCodeError(
                "the run was trained on arrays of your own code: evaluate it there, as "
                "jaxgen.SavedRun(path).evaluate({'test': arrays})"
            )
        if "words" in data:
            raise OwnCodeError(
                f"{self.directory.path} is a run of word vectors: jaxgen evaluate takes --pairs FILE or --analogies "
                "FILE, jaxgen plot --words FILE"
            )
        if "text" in data:
            source = self._text(split)
            self._check_unchanged(source)
            return source
        source = load(
            name,
            data["splits"][split],
            data_dir=self._data_dir,
            image_size=data["image_size"],
            image_channels=data.get("image_channels"),  # runs of the first version have none
        )
        if name == data["name"]:
            self._check_unchanged(source)
        return source

    def sources(self, splits: Sequence[str] = ()) -> dict[str, Source]:
        """Loads several of the run's splits, by default all but the training one; raises as `source` does."""
        splits = splits or [name for name in self.config["data"]["splits"] if name != "train"] or ["train"]
        return {name: self.source(name) for name in splits}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that a language model was trained with.

        Raises:
            UsageError: for a run of another kind.
            JaxgenError: where it is missing, damaged, or another one.
        """
        return tokenizers.load(self.directory.tokenizer_path, self._format()["tokenizer"])

    @cached_property
    def writer(self) -> Writer:
        """The trained language model with its tokenizer, which writes: see `jaxgen.writing.Writer`.

        Raises:
            UsageError: for a run of another kind.
        """
        given = self.text_format  # refuses runs of another kind before anything is loaded
        return Writer.of(self.task, self.state, given)

    def _text(self, split: str) -> Source:
        data = self.config["data"]
        if not (text.is_path(data["name"]) or builders.known(data["name"])):
            raise OwnCodeError(
                f"the run was trained on {data['name']}, a text of your own code: evaluate it there"
            )
        given, part = self.text_format, data["splits"][split]
        if not isinstance(given, SequenceFormat) or not self._of_table:
            return self.other_text(data["name"], part)
        labelled = "label" in self.example
        table = tables.read(
            data["name"],
            labelled=labelled,
            data_dir=self._data_dir,
            encoding=given.encoding,
            columns=given.columns,
        )
        if part not in table.splits:
            raise unknown("split", part, table.splits)
        count = (self.config.get("fine_tuning") or {}).get("labels")
        if part == "train" and count:
            table = take_rows(table, count, self.config["training"]["seed"])
        return table.source(part, given)

    @property
    def _of_table(self) -> bool:
        """Whether examples are rows of a table, with a class or a text to write."""
        return bool({"label", "labels"} & self.example.keys())

    def other_text(self, name: str, split: str | None = None, truncate: bool = False) -> Source:
        """Reads any text, or table of texts, and makes it what the run evaluates.

        Args:
            name: as for `jaxgen.data.text.read`, or for `jaxgen.data.tables.read` where the run needs a table.
            split: of it; by default all of a file or directory, of a set the test split.
            truncate: whether what is longer than the run's rows is cut off, of a table; else it is refused, or read
                as a whole where the run has buckets of lengths. Where the run was trained on texts that were cut off,
                so are these in any case.

        Raises:
            UsageError: for a run of another kind, an unknown name or split, and a text of a table that is too long.
            JaxgenError: where the text can't be had or read.
        """
        given = self.text_format
        if isinstance(given, SequenceFormat) and self._of_table:
            names = self.task.class_names if "label" in self.example else ()
            if "label" in self.example and not names:
                names = tuple(map(str, range(self.task.model.num_classes)))
            table, split = tables.read_split(
                name, split, names, data_dir=self._data_dir, encoding=given.encoding, columns=given.columns
            )
            for note in table.notes:
                _say(note)
            # What was left out of training for its length is told of others as a whole.
            if given.buckets and not (truncate or given.cut_off):
                return table.uncut(split, given)
            return table.source(split, replace(given, truncate=given.truncate or truncate))
        as_bytes = isinstance(self.tokenizer, tokenizers.Bytes)
        if split is None:
            split = "train+validation+test" if text.is_path(name) else "test"
        found = text.read(name, split, data_dir=self._data_dir, encoding=given.encoding, as_bytes=as_bytes)
        return evaluation_source(found, given)

    @cached_property
    def text_format(self) -> TextFormat | SequenceFormat:
        """How texts are made into the run's examples.

        Raises:
            UsageError: for a run that has no text.
        """
        told = {**self._format(), "tokenizer": self.tokenizer}
        if "streams" in told:
            return TextFormat(**told)
        tuples = ("first", "last", "columns", "target_last")
        told |= {name: tuple(told[name]) for name in tuples if name in told}
        told["buckets"] = tuple(Bucket(*bucket) for bucket in told.get("buckets", ()))
        if told.get("target_tokenizer") is not None:
            path = self.directory.target_tokenizer_path
            told["target_tokenizer"] = tokenizers.load(path, told["target_tokenizer"])
        return SequenceFormat(**told)

    def _format(self) -> dict[str, Any]:
        """Gives how texts are cut, as `config.json` has it.

        Raises:
            UsageError: for a run that has no text.
        """
        if "text" not in self.config["data"]:
            raise UsageError(
                f"{self.directory.path} is a run of {type(self.task).__name__}, not of a model of texts"
            )
        return self.config["data"]["text"]

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

        It is the best one, by the validation loss or what else chose, where the run has a validation split, else the
        last one.
        """
        low_rank = rebuild((self.config.get("fine_tuning") or {}).get("low_rank"))
        trained = self.task if low_rank is None else Adapted(self.task, low_rank)
        params, model_state = jax.eval_shape(trained.init, jax.random.key(0), self.example)
        target = {"params": params, "model_state": model_state}
        if self.config["training"]["ema_decay"] is not None:
            target["ema_params"] = params
        monitor = Monitor.of(self.config["data"]["splits"], self.config["training"].get("chosen_by"))
        with Checkpoints(self.directory.checkpoints, monitor=monitor, read_only=True) as checkpoints:
            step = checkpoints.best_step()
            restored, _, step = checkpoints.restore(target, step, on_fallback=_say, partial=True)
        if isinstance(trained, Adapted):
            restored["params"] = trained.merged(restored["params"])
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
        if not available:
            raise _without_data()
        return next(name for name in ("test", "validation", "train") if name in available)

    def predict(self, examples: Any) -> dict[str, np.ndarray]:
        """Gives the trained task's predictions for examples of any number, in order, as NumPy arrays.

        Args:
            examples: a source, or arrays with the examples on axis 0, such as {"image": uint8 [examples, height,
                width, channels]}: what the run was trained on, without what is to be predicted.

        Returns:
            What the task's `predict` gives: of `ImageClassification` `probabilities` [examples, classes] and
            `prediction` [examples], of `Regression` `prediction` [examples].

        Raises:
            UsageError: where the task predicts nothing, or the examples don't fit the run's.
        """
        if not hasattr(self.task, "predict"):
            raise UsageError(
                f"{type(self.task).__name__} has no predict: a task of your own needs one for this"
            )
        source = as_source(examples, "given")
        if not source[0].keys() & self.example.keys():
            raise UsageError(
                f"the run was trained on {_shapes(self.example)}, not on {_shapes(source.gather([0]))}"
            )
        try:
            return predict_source(self._compiled_predict, self.state, source, min(len(source), BATCH_SIZE))
        except flax.errors.ScopeParamShapeError as error:
            raise UsageError(
                f"the model was trained on {_shapes(self.example)}, and can't be applied to "
                f"{_shapes(source.gather([0]))}"
            ) from error

    @cached_property
    def _compiled_predict(self) -> Callable[..., Any]:
        return jax.jit(self.task.predict)

    def evaluate(
        self, splits: Sequence[str] | Mapping[str, Source | Mapping[str, Any]] = ()
    ) -> dict[str, float]:
        """Gives the figures of the trained state, as `SPLIT/NAME`.

        Args:
            splits: names of the run's splits, by default all but the training one; or data of your own by name,
                such as {"test": arrays}.
        """
        if isinstance(splits, Mapping):
            sources = {name: as_source(data, name) for name, data in splits.items()}
        else:
            sources = self.sources(splits)
        return Evaluator(self.task, sources, make_mesh())(self.state, tuple(sources))

    def plot(self) -> list[Path]:
        """Draws all plots again; first the curves, which can be drawn without the data and the model."""
        paths = draw_curves(self.directory)
        try:
            return draw_plots(self.directory, self.task, self.state, self.source(self.default_split))
        except OwnCodeError as error:
            _say(f"only the curves can be drawn: {error}")
            return paths

    def history(self) -> list[dict[str, Any]]:
        """Reads the figures that were written during the run."""
        return read_lines(self.directory.metrics_path)


def _without_data() -> OwnCodeError:
    return OwnCodeError("the run was imported, and has no data of its own: name a text, --data PATH")


def _shapes(arrays: Mapping[str, Any]) -> str:
    """Tells of arrays what one example is."""
    return " and ".join(f"{name} {list(array.shape[1:])}" for name, array in arrays.items())


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
