"""`run`: carries an experiment through, from the command line to a run directory with figures and plots."""

import contextlib
import datetime
import io
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxgen import signals
from jaxgen.data import folder, streams, text
from jaxgen.errors import JaxgenError, UsageError, shown
from jaxgen.experiment import Experiment, TrainConfig, command_line, optimizer_config
from jaxgen.memory import keep_freed_memory
from jaxgen.optim import OptimizerConfig
from jaxgen.pairs_config import PairsConfig
from jaxgen.run_directory import RunDirectory
from jaxgen.text_config import TextConfig
from jaxgen.train.hooks import Hook, format_figures, say
from jaxgen.word_config import WordConfig

_HELP = ("-h", "--help")


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs an experiment from the command line, and exits: 0 done, 1 failure, 2 usage, 128 + a signal's number."""
    arguments = sys.argv[1:] if arguments is None else arguments

    guard(lambda: run(experiment, parse(experiment, arguments)), debug="--debug" in arguments)


def parse(experiment: Experiment, arguments: Sequence[str]) -> TrainConfig:
    """Reads an experiment's options; exits with code 2, and the nearest valid option, where they are wrong.

    What isn't given has the default of a trial run, of the preset, or of the recipe for the data set, where there is
    one.

    Raises:
        UsageError: for an unknown preset, or values that can't be meant.
    """
    import tyro

    def read(arguments: Sequence[str], default: TrainConfig) -> TrainConfig:
        return tyro.cli(
            experiment.config,
            args=arguments,
            default=default,
            prog=f"python -m experiments.{experiment.name}",
            description="\n".join([experiment.summary, *_describe_presets(experiment)]),
        )

    # First only for the options that others' defaults depend on; help is to show these defaults.
    usual = experiment.options()
    first = read([argument for argument in arguments if argument not in _HELP], usual)
    decisive = {
        name: getattr(first, name)
        for name in ("smoke", "data", "preset")
        if getattr(first, name) != getattr(usual, name)
    }
    return read(arguments, experiment.options(**decisive))


def _describe_presets(experiment: Experiment) -> list[str]:
    return [
        f"--preset {name} stands for {command_line(options)}" for name, options in experiment.presets.items()
    ]


def guard(action: Callable[[], Any], debug: bool) -> NoReturn:
    """Carries out an action and exits, with one line for the person in place of a traceback."""
    keep_freed_memory()
    watch = signals.Watch()
    watch.install()
    # When a save fails, Orbax no longer waits for its other writes, and their own failures come out of nowhere.
    sys.unraisablehook = _report_unless_late
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Paths whose bytes are no UTF-8 are printed as they are.
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        action()
    except JaxgenError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except signals.Interrupted as stop:
        _leave(str(stop), stop.signal_number)
    except KeyboardInterrupt:
        _leave("interrupted", watch.caught or signal.SIGINT)
    sys.exit(0)


def _report_unless_late(unraisable: Any) -> None:
    """Reports what can't be raised, but not what comes for an event loop that is gone."""
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def run(experiment: Experiment, config: TrainConfig) -> RunDirectory:
    """Runs an experiment: trains or goes on training, evaluates, plots, and prints the figures.

    Raises:
        JaxgenError: with one line that says what is wrong and what to do.
        signals.Interrupted: after SIGINT or SIGTERM in training, when the state is saved.
    """
    import jax

    from jaxgen import parallel
    from jaxgen.splits import load_splits  # reads sets by tfds, which takes a second to import

    config = config.settled()
    parallel.initialize()
    if experiment.split_host and not jax.distributed.is_initialized():
        parallel.split_host(config.batch_size // max(1, config.accumulate))
    directory = RunDirectory(config.workdir or _new_directory(experiment.name))
    of_text = isinstance(config, PairsConfig | TextConfig | WordConfig)
    is_path = text.is_path(config.data) if of_text else folder.is_folder(config.data)
    if is_path and directory.path.expanduser().resolve().is_relative_to(text.absolute(config.data).resolve()):
        raise UsageError(
            f"the run directory {shown(directory.path)} would lie among the {'texts' if of_text else 'pictures'} of "
            f"{shown(config.data)}: give a --workdir that lies elsewhere"
        )
    directory.make()
    with telling_how_to_go_on(directory, _command_to_resume(experiment.name, directory)):
        try:
            splits = load_splits(experiment, config, config.data_dir or directory.data_dir())
            if is_path and not of_text:
                counts = ", ".join(f"{len(source):,} for {name}" for name, source in splits.items())
                _say(f"pictures of {', '.join(splits['train'].class_names)}: {counts}")
            config = config.within(len(splits["train"]))
            task = experiment.task(config, splits["train"])
            signals.raise_if_caught()
            _fit(experiment, config, task, splits, directory)
        except BaseException:
            directory.remove_if_empty()
            raise
        report(directory)
        if experiment.then is not None:
            experiment.then(config, directory)
    return directory


@contextlib.contextmanager
def telling_how_to_go_on(directory: RunDirectory, command: str) -> Iterator[None]:
    """Says where a run is stopped which command goes on with it."""
    try:
        yield
    except (signals.Interrupted, KeyboardInterrupt) as error:
        if directory.config_path.exists():
            step = error.step if isinstance(error, signals.Interrupted) else 0
            saved = f"saved at step {step}; " if step else ""
            _say(f"{saved}go on with: {command}")
        raise


def report(directory: RunDirectory) -> None:
    """Prints what a run has left, and as the last line its figures."""
    plots = sorted(directory.plots.glob("*.png"))
    if plots:
        _say(f"plots: {directory.plots}/ ({', '.join(plot.stem for plot in plots)})")
    if sheets := sorted(directory.samples.glob("step-*.png")):
        _say(f"samples: {directory.samples}/ ({len(sheets)} sheets, film.gif)")
    elif (film := directory.samples / "film.gif").exists():
        _say(f"film: {film}")
    _say(f"run directory: {directory.path}")
    _say("  ".join(format_figures(directory.result() or {})))


def _fit(
    experiment: Experiment, config: TrainConfig, task: Any, splits: dict[str, Any], directory: RunDirectory
) -> None:
    from jaxgen.collapse import CollapseWatch
    from jaxgen.data.orders import order_of
    from jaxgen.text_to_text import judge_of
    from jaxgen.train.fit import fit
    from jaxgen.train.gradients import dense

    # A game's batch holds the examples of each of the updates of a round.
    batch_size = config.batch_size * getattr(task, "slices", 1)
    epoch = order_of(splits["train"], batch_size, config.seed).steps_per_epoch
    steps = config.steps if config.steps is not None else config.epochs * epoch
    optimizer = optimizer_config(config, horizon(directory, steps), experiment.usual(config).warmup_steps)
    trained_by, described = _trained_by(task, optimizer, splits["train"], config)
    validation, test = _measured_by(config, task, splits)
    fit(
        task,
        splits["train"],
        trained_by,
        gradient=task.gradient if hasattr(task, "row_optimizer") else dense,
        steps=steps,
        batch_size=batch_size,
        seed=config.seed,
        validation=validation,
        test=test,
        patience=config.patience if config.until_converged else None,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        workdir=directory.path,
        record={
            "experiment": experiment.name,
            "optimizer": described,
            "data_dir": None if config.data_dir is None else str(config.data_dir.expanduser().absolute()),
        },
        report_every=config.report_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        keep=config.keep,
        steps_per_call=config.steps_per_call,
        resident=None if config.input == "auto" else config.input == "device",
        judge=None if validation is None else judge_of(directory, task, validation),
        hooks=[
            *([CollapseWatch()] if hasattr(task, "players") else []),
            _Epilogue(experiment, task, splits, directory),
            *_pictures(task, splits, directory),
        ],
    )


def _measured_by(config: TrainConfig, task: Any, splits: dict[str, Any]) -> tuple[Any, Any]:
    """Gives the splits that choose the best state, and that the result is told of; None where there is none."""
    validation, test = splits.get("validation"), splits.get("test")
    if not hasattr(task, "players"):
        return validation, test
    if config.until_converged or config.validation_fraction:
        option = "--until-converged" if config.until_converged else "--validation-fraction"
        raise UsageError(f"{option} is not for games, whose losses don't tell which state is the best")
    # What a folder of pictures has for validation is there to look at.
    return None, test or validation


def _trained_by(
    task: Any, optimizer: OptimizerConfig, train: Any, config: TrainConfig
) -> tuple[Any, dict[str, Any]]:
    """Makes what a task is trained by, and what `config.json` says of it."""
    from jaxgen.config import describe

    if hasattr(task, "players"):
        optimizers = task.optimizers(optimizer)
        built = {name: one.build() for name, one in optimizers.items()}
        return task.players(built), describe(optimizers)
    if hasattr(task, "row_optimizer"):
        # Its gradients add up over a step's words, or pairs of words.
        return task.row_optimizer(optimizer, config.batch_size * train.shape[0]), describe(optimizer)
    return optimizer.build(), describe(optimizer)


def horizon(directory: RunDirectory, steps: int) -> int:
    """Gives the length that schedules are laid out for: that which the run began with, however it is prolonged."""
    if not directory.config_path.exists():
        return steps
    optimizer = directory.config().get("optimizer") or {}
    optimizer = optimizer.get("generator", optimizer)  # of a game
    return optimizer.get("schedule", {}).get("horizon") or steps


class _Epilogue(Hook):
    """What an experiment does beside its training: says where, and draws and compares before the run is finished."""

    def __init__(
        self, experiment: Experiment, task: Any, splits: dict[str, Any], directory: RunDirectory
    ) -> None:
        self._experiment, self._task, self._splits, self._directory = experiment, task, splits, directory

    def on_start(self, step: int, steps: int, steps_per_epoch: int) -> None:
        """Says where the run is kept, and how much text there is."""
        from jaxgen.text_to_text import of_pairs

        _say(f"run directory: {self._directory.path}")
        train = self._splits["train"]
        if train.corpus is not None:
            words, enough = train.corpus.num_words, train.num_classes
            _say(f"{shown(train.name)}: {words:,} words; {enough:,} different ones are frequent enough")
        elif of_pairs(train):
            sizes = [f"{len(source):,} for {name}" for name, source in self._splits.items()]
            shapes = ""
            if train.buckets:
                count = len(train.buckets.in_use)
                several = "" if count == 1 else "s"
                shapes = f"; batches of {count} shape{several}, {train.buckets.padding:.1%} padding"
            _say(f"{shown(train.name)}: pairs {', '.join(sizes)}{shapes}")
        elif train.text is not None:
            sizes = [f"{len(streams.tokens_of(s)):,} for {name}" for name, s in self._splits.items()]
            _say(f"{train.name}: tokens {', '.join(sizes)}; {train.num_classes:,} different ones")

    def on_finish(self, figures: dict[str, Any], state: Any) -> None:
        """Adds the rivals' figures, and draws the plots."""
        import jax

        from jaxgen.run_plots import draw_plots
        from jaxgen.run_sample import write_sample

        train = self._splits["train"]
        test = _held_out(self._splits)
        if self._experiment.baselines is not None:
            figures.update(self._experiment.baselines(self._task, train, test))
        draw_plots(self._directory, self._task, state, test)
        alone = jax.process_count() == 1
        if (
            train.text is not None
            and alone
            and (text := write_sample(self._directory, self._task, state, test))
        ):
            _say(text)


def _pictures(task: Any, splits: dict[str, Any], directory: RunDirectory) -> list[Hook]:
    """Makes what shows how a model that generates images learns, or what one of frames foresees in the end.

    Of several processes none, as each would draw.
    """
    import jax

    from jaxgen.films import Films, PredictsFrames
    from jaxgen.image_samples import GeneratesImages
    from jaxgen.sample_sheets import SampleSheets

    if jax.process_count() > 1:
        return []
    if isinstance(task, PredictsFrames):
        return [Films(task, _held_out(splits), directory.samples / "film.gif")]
    return [SampleSheets(task, directory.samples)] if isinstance(task, GeneratesImages) else []


def _held_out(splits: dict[str, Any]) -> Any:
    """Gives the split to show: `test`, or what there is."""
    return splits[next(name for name in ("test", "validation", "train") if name in splits)]


def _new_directory(name: str) -> Path:
    """Names a directory by the time; that of the first process, where there are several."""
    import jax

    seconds = int(time.time())
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import broadcast_one_to_all

        seconds = int(broadcast_one_to_all(np.uint32(seconds)))
    now = datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d-%H%M%S")
    path = Path("runs", name, now)
    alone = jax.process_count() == 1 and path.exists()
    return path.with_name(f"{now}-{os.getpid()}") if alone else path


def _command_to_resume(name: str, directory: RunDirectory) -> str:
    arguments = sys.argv[1:]
    if not any(argument.startswith("--workdir") for argument in arguments):
        arguments += ["--workdir", str(directory.path)]
    return shlex.join(["python", "-m", f"experiments.{name}", *arguments])


def _say(text: str) -> None:
    import jax

    if jax.process_index() == 0:
        say(text)


def _fail(message: str, code: int) -> NoReturn:
    print(f"jaxgen: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _leave(message: str, signal_number: int) -> NoReturn:
    """Ends the process without waiting for threads, which may be in the middle of something."""
    print(f"jaxgen: {message}", file=sys.stderr)  # noqa: T201
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + signal_number)
