"""`run`: carries an experiment through, from the command line to a run directory with figures and plots."""

import datetime
import io
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxgen.errors import JaxgenError, UsageError
from jaxgen.experiment import (
    Experiment,
    ImageConfig,
    TrainConfig,
    optimizer_config,
    smoke_config,
    splits_to_load,
)
from jaxgen.run_directory import RunDirectory


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs an experiment from the command line, and exits: 0 done, 1 failure, 2 usage, 128 + a signal's number."""
    arguments = sys.argv[1:] if arguments is None else arguments

    guard(lambda: run(experiment, parse(experiment, arguments)), debug="--debug" in arguments)


def parse(experiment: Experiment, arguments: Sequence[str]) -> TrainConfig:
    """Reads an experiment's options; exits with code 2, and the nearest valid option, where they are wrong.

    Where the experiment has a recipe for the data set, that gives the defaults.
    """
    import tyro

    def read(**defaults: Any) -> TrainConfig:
        return tyro.cli(
            experiment.config,
            args=arguments,
            default=experiment.config(**defaults),
            prog=f"python -m experiments.{experiment.name}",
            description=experiment.summary,
        )

    config = read()
    return (
        read(data=config.data, **experiment.recipes[config.data])
        if config.data in experiment.recipes
        else config
    )


def guard(action: Callable[[], Any], debug: bool) -> NoReturn:
    """Carries out an action and exits, with one line for the person in place of a traceback."""
    from jaxgen.train.loop import Interrupted

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="surrogateescape"
        )  # paths whose bytes are no UTF-8 are printed as they are
    try:
        action()
    except JaxgenError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except Interrupted as stop:
        _fail(str(stop), 128 + stop.signal_number)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def run(experiment: Experiment, config: TrainConfig) -> RunDirectory:
    """Runs an experiment: trains or goes on training, evaluates, plots, and prints the figures.

    Raises:
        JaxgenError: with one line that says what is wrong and what to do.
        Interrupted: after SIGINT or SIGTERM, when the state is saved.
    """
    from jaxgen import parallel
    from jaxgen.saved_run import draw_plots
    from jaxgen.train.loop import Interrupted

    if config.smoke:
        config = smoke_config(experiment, config)
    directory = RunDirectory(config.workdir or _new_directory(experiment.name))
    directory.make()
    _say(f"run directory: {directory.path}")
    try:
        parallel.initialize()
        splits = _load_splits(experiment, config)
        task = experiment.task(config, splits["train"])
        result = _fit(experiment, config, task, splits, directory)
    except Interrupted as stop:
        _say(f"saved at step {stop.step}; go on with: {_command_to_resume(directory)}")
        raise
    except JaxgenError:
        directory.remove_if_empty()
        raise
    if not result.finished_before:
        test = splits[next(name for name in ("test", "validation", "train") if name in splits)]
        if experiment.baselines is not None:
            directory.finish(
                {**result.figures, **experiment.baselines(splits["train"].arrays(), test.arrays())}
            )
        draw_plots(directory, task, result.state, test)
    report(directory)
    return directory


def report(directory: RunDirectory) -> None:
    """Prints what a run has left, and as the last line its figures."""
    from jaxgen.train.hooks import format_figures

    plots = sorted(directory.plots.glob("*.png"))
    if plots:
        _say(f"plots: {directory.plots}/ ({', '.join(plot.stem for plot in plots)})")
    _say(f"run directory: {directory.path}")
    _say("  ".join(format_figures(directory.result() or {})))


def _fit(
    experiment: Experiment, config: TrainConfig, task: Any, splits: dict[str, Any], directory: RunDirectory
) -> Any:
    from jaxgen.config import describe
    from jaxgen.train.fit import fit

    steps_per_epoch = -(-len(splits["train"]) // max(1, config.batch_size))
    steps = config.steps if config.steps is not None else config.epochs * steps_per_epoch
    optimizer = optimizer_config(config, _horizon(directory, steps))
    return fit(
        task,
        splits["train"],
        optimizer.build(),
        steps=steps,
        batch_size=config.batch_size,
        seed=config.seed,
        validation=splits.get("validation"),
        test=splits.get("test"),
        patience=config.patience if config.until_converged else None,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        workdir=directory.path,
        record={"experiment": experiment.name, "optimizer": describe(optimizer)},
        report_every=config.report_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        keep=config.keep,
        steps_per_call=config.steps_per_call,
        resident=None if config.input == "auto" else config.input == "device",
    )


def _horizon(directory: RunDirectory, steps: int) -> int:
    """Gives the length that schedules are laid out for: that which the run began with, however it is prolonged."""
    if not directory.config_path.exists():
        return steps
    recorded = (directory.config().get("optimizer") or {}).get("schedule", {}).get("horizon")
    return recorded or steps


def _load_splits(experiment: Experiment, config: TrainConfig) -> dict[str, Any]:
    from jaxgen.data import folder
    from jaxgen.data.sources import load

    if config.epochs < 1 or (config.steps is not None and config.steps < 1):
        raise UsageError("--epochs and --steps must be at least 1")
    conversion: dict[str, Any] = {}
    if isinstance(config, ImageConfig):
        conversion = {"image_size": config.image_size, "image_channels": config.image_channels}
    splits = {
        name: load(config.data, split, data_dir=config.data_dir, **conversion)
        for name, split in splits_to_load(config).items()
    }
    if None in splits["train"].shape:
        raise UsageError(
            f"the images of {config.data} differ in size: resize them with --image-size, such as --image-size 64 64"
        )
    found = splits["train"][0]
    if any(name not in found for name in experiment.needs):
        raise UsageError(
            f"{experiment.name} needs data with {' and '.join(experiment.needs)}; {config.data} has "
            f"{' and '.join(found)}"
        )
    if folder.is_folder(config.data):
        counts = ", ".join(f"{len(source):,} for {name}" for name, source in splits.items())
        _say(f"pictures of {', '.join(splits['train'].class_names)}: {counts}")
    return splits


def _new_directory(name: str) -> Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    path = Path("runs", name, now)
    return path if not path.exists() else path.with_name(f"{now}-{os.getpid()}")


def _command_to_resume(directory: RunDirectory) -> str:
    arguments = list(directory.config()["arguments"])
    if not any(argument.startswith("--workdir") for argument in arguments):
        arguments += ["--workdir", str(directory.path)]
    return shlex.join(["python", "-m", f"experiments.{directory.config()['experiment']}", *arguments])


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _fail(message: str, code: int) -> NoReturn:
    print(f"jaxgen: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
