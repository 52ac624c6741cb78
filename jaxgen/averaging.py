"""The mean of a run's last checkpoints, often better than each of them (Vaswani et al. 2017, section 6.1)."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxgen.config import rebuild
from jaxgen.errors import JaxgenError, OwnCodeError, UsageError, shown
from jaxgen.lora import LowRank
from jaxgen.pretrained import new_directory
from jaxgen.print_evaluation import listed, scored
from jaxgen.run_directory import RunDirectory
from jaxgen.saved_run import SavedRun
from jaxgen.train.checkpoint import Checkpoints
from jaxgen.train.hooks import format_value, say

# What of a state is evaluated; the optimiser's part belongs to none of the checkpoints alone.
_AVERAGED = ("params", "ema_params", "model_state")


def average_checkpoints(run: Path, last: int = 5, output: Path | None = None) -> RunDirectory:
    """Makes a run directory whose parameters are the mean of those of a run's last checkpoints.

    Averaged are the parameters, their moving average where there is one, and the model's state such as batch
    statistics: in float64, then stored in their own types. What is no fraction is the last checkpoint's. LoRA's changes
    are added to the kernels first, for the mean of products is not the product of means.

    Args:
        run: the run directory, which stays as it is.
        last: how many checkpoints, those of the highest steps.
        output: the new run directory; by default beside the other, with `-average` after its name.

    Returns:
        The new run directory: its `config.json` is that of the run, with the run and the steps as `averaged`.

    Raises:
        UsageError: for fewer than 2 checkpoints, more than there are, and if there is something at `output` already.
        JaxgenError: for a damaged checkpoint, and where files can't be read or written.
    """
    directory, beside = RunDirectory(run), run.resolve()
    config = directory.config()
    if output is None:
        output = beside.with_name(f"{beside.name}-average")
        if output.exists():
            raise UsageError(f"{shown(output)} is there already; name a new directory by --output")
    fine_tuning = config.get("fine_tuning") or {}
    low_rank = rebuild(fine_tuning.get("low_rank"))
    if low_rank is not None:
        config = {**config, "fine_tuning": {**fine_tuning, "low_rank": None}}
    with Checkpoints(directory.checkpoints, read_only=True) as checkpoints:
        steps = _last_steps(checkpoints, run, last)
        mean = mean_of(_evaluated(checkpoints, step, low_rank) for step in steps)
    told = {"run": str(beside), "steps": steps}
    with new_directory(output) as made:
        written = RunDirectory(made)
        for path in (directory.tokenizer_path, directory.target_tokenizer_path):
            if path.exists():
                shutil.copy(path, made)
        with Checkpoints(written.checkpoints) as checkpoints:
            checkpoints.save(steps[-1], {"step": jnp.int32(steps[-1]), **mean}, {"averaged": told})
        written.begin({**config, "averaged": told}, steps=config["steps"])
    return RunDirectory(output)


def mean_of(states: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Averages arrays by name, in float64, and gives them in their own types; what is no fraction is the last one's."""
    sums: dict[str, Any] = {}
    types, count = {}, 0
    for state in states:
        count += 1
        for name, leaf in state.items():
            types[name] = leaf.dtype
            fraction = jnp.issubdtype(leaf.dtype, jnp.floating)
            sums[name] = leaf.astype(np.float64) + sums.get(name, 0.0) if fraction else leaf
    for name, dtype in types.items():
        if jnp.issubdtype(dtype, jnp.floating):
            sums[name] = np.asarray(sums[name] / count, dtype)
    return sums


def print_average(run: Path, last: int, output: Path | None, data_dir: Path | None) -> None:
    """Averages a run's last checkpoints, and prints the figures of the mean beside the run's own.

    What the mean writes for pairs of texts is kept in `samples/` of its run directory, its figures in `result.json`.

    Raises:
        JaxgenError: as `average_checkpoints` does, and where the run's data can't be had.
    """
    directory = average_checkpoints(run, last, output)
    saved = SavedRun(directory.path, data_dir)
    steps = saved.config["averaged"]["steps"]
    say(f"mean of the checkpoints of steps {listed(steps)}")
    say(f"run directory: {shown(directory.path)}")
    try:
        sources = saved.sources()
        figures = scored(saved, sources, {name: name for name in sources})
    except OwnCodeError as error:
        say(f"not evaluated: {error}")
        return
    directory.finish({**figures, "evaluated_step": steps[-1]})
    _print_beside(figures, RunDirectory(run).result(), len(steps))


def _last_steps(checkpoints: Checkpoints, run: Path, last: int) -> list[int]:
    """Gives the steps of the last checkpoints, if there are so many."""
    if last < 2:
        raise UsageError(f"--last {last}: a mean is of 2 checkpoints or more")
    steps = checkpoints.steps()
    if last > len(steps):
        there = f"{len(steps)}, of steps {listed(steps)}" if steps else "none"
        fewer = f"give --last {len(steps)}, or " if len(steps) > 1 else ""
        raise UsageError(
            f"--last {last}: of checkpoints {shown(run)} has {there}: {fewer}train with --keep {last}, with which a "
            "run that is there can also be made longer"
        )
    return steps[-last:]


def _evaluated(checkpoints: Checkpoints, step: int, low_rank: LowRank | None) -> dict[str, np.ndarray]:
    """Reads what is evaluated of a checkpoint by path, onto the host."""
    leaves = checkpoints.metadata(step)["state"]
    target = {
        name: jax.ShapeDtypeStruct(leaf["shape"], jnp.dtype(leaf["dtype"]))
        for name, leaf in leaves.items()
        if name.split("/")[0] in _AVERAGED
    }
    if not target:
        raise JaxgenError(f"the checkpoint of step {step} in {checkpoints.directory} has no parameters")
    state, *_ = checkpoints.restore(target, step, partial=True)
    if low_rank is None:
        return jax.device_get(state)
    tree = traverse_util.unflatten_dict(state, sep="/")
    tree["params"] = low_rank.merge(tree["params"]["base"], tree["params"]["low_rank"])
    return jax.device_get(traverse_util.flatten_dict(tree, sep="/"))


def _print_beside(figures: Mapping[str, Any], before: Mapping[str, Any] | None, count: int) -> None:
    """Prints figures beside those that the run ended with."""
    from rich.console import Console
    from rich.table import Table

    if before is None:
        say("the run isn't finished: it has no figures to stand beside")
    before = before or {}
    own = f"step {before['evaluated_step']}" if "evaluated_step" in before else "the run"
    table = Table("", own, f"mean of {count}")
    for name in dict.fromkeys([*(name for name in before if name in figures), *figures]):
        own = format_value(name, before[name]) if name in before else "-"
        table.add_row(name, own, format_value(name, figures[name]))
    Console().print(table)
