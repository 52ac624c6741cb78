"""The command line: `jaxgen list | evaluate | plot | compare | data prepare`."""

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from jaxgen.errors import JaxgenError, UsageError
from jaxgen.experiment import Experiment
from jaxgen.run import guard

_app = SubcommandApp()
_data = SubcommandApp()
_app.command(_data, name="data", help="Prepare data sets.")

_Run = Annotated[Positional[Path], arg(metavar="RUN")]


@_app.command(name="list")
def list_experiments() -> None:
    """List the experiments: what each trains, on what, its presets, how long it takes, and the figure it reaches."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    table.add_column("experiment", no_wrap=True)
    for column in ("what it trains", "on what", "time", "reference result"):
        table.add_column(column)
    for experiment in experiments():
        name = "\n".join([experiment.name, *(f"--preset {preset}" for preset in experiment.presets)])
        table.add_row(name, experiment.summary, experiment.data, experiment.time, experiment.reference)
    console = Console()
    console.print(table)
    console.print("Run one with: python -m experiments.NAME (--help shows its options)", highlight=False)


@_app.command
def evaluate(run: _Run, split: tuple[str, ...] = (), data_dir: Path | None = None) -> None:
    """Evaluate a saved run again, from its directory alone.

    Args:
        run: the run directory.
        split: splits to evaluate: train, validation, test; by default all but train.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    from jaxgen.saved_run import SavedRun
    from jaxgen.train.hooks import format_figures

    saved = SavedRun(run, data_dir)
    figures = saved.evaluate(split)
    print(f"{saved.config.get('experiment') or run}, step {int(saved.state.step)}")
    print("  ".join(format_figures(figures)))


@_app.command
def plot(run: _Run, data_dir: Path | None = None) -> None:
    """Draw a saved run's plots: curves, and what its task has to show.

    Args:
        run: the run directory.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    from jaxgen.saved_run import SavedRun

    for path in SavedRun(run, data_dir).plot():
        print(path)


@_app.command
def compare(
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN ...")],
    output: Path = Path("comparison.png"),
) -> None:
    """Compare runs: a table of their figures, and one plot of their curves.

    Args:
        runs: the run directories.
        output: where the plot goes, a PNG.
    """
    from rich.console import Console
    from rich.table import Table

    from jaxgen import plots
    from jaxgen.saved_run import compare_runs

    if len(runs) < 2:
        raise UsageError("give two runs or more to compare")
    if output.suffix != ".png":
        raise UsageError(f"the plot is a PNG: --output {output.with_suffix('.png')}")
    rows, figure = compare_runs(list(runs))
    table = Table("", *(str(run) for run in runs))
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    (path,) = plots.save({output.stem: figure}, output.parent)
    print(path)


@_data.command
def prepare(
    name: Positional[str],
    from_dir: Annotated[Path | None, arg(name="from")] = None,
    data_dir: Path | None = None,
) -> None:
    """Prepare a data set: download it through tfds, or import its original files with no network.

    Args:
        name: the tfds name, such as mnist.
        from_dir: a directory with the set's original idx files, gzipped or raw, to import.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    from jaxgen.data import prepare as prepare_data

    print(prepare_data(name, from_dir=from_dir, data_dir=data_dir))


def experiments() -> list[Experiment]:
    """Finds the experiments.

    Raises:
        JaxgenError: where the `experiments` package is not there.
    """
    try:
        package = importlib.import_module("experiments")
    except ModuleNotFoundError as error:
        raise JaxgenError(
            "there is no `experiments` package here: run this in a checkout of jaxgen"
        ) from error
    modules = [
        importlib.import_module(f"experiments.{m.name}") for m in pkgutil.iter_modules(package.__path__)
    ]
    return [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code: 0 done, 1 failure, 2 usage."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    rest = [argument for argument in arguments if argument != "--debug"]
    guard(lambda: _app.cli(args=rest, prog="jaxgen"), debug=rest != arguments)
