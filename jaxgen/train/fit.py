"""`fit`: from a task, data and an optimiser to a trained state, in a notebook or in an experiment."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgen.config import describe
from jaxgen.data.corpus import write_vocabulary
from jaxgen.data.description import describe_examples, describe_splits
from jaxgen.data.orders import Order, order_of
from jaxgen.data.pipeline import read_batch
from jaxgen.data.sources import EpochReader, Source, as_source
from jaxgen.errors import UsageError
from jaxgen.parallel import check_batch_size, make_mesh
from jaxgen.parallel.sharding import DATA_AXIS, sharded_step
from jaxgen.run_directory import RunDirectory
from jaxgen.train.evaluate import Evaluator
from jaxgen.train.feed import DrawnFeed, Feed, HostFeed, ResidentFeed
from jaxgen.train.gradients import GradientMethod, RowOptimizer, dense
from jaxgen.train.hooks import Hook, Progress
from jaxgen.train.loop import LoopSettings, default_cadence
from jaxgen.train.monitor import Judge, Monitor
from jaxgen.train.players import Players, make_players_step
from jaxgen.train.session import FitResult, Session
from jaxgen.train.state import TrainState
from jaxgen.train.step import Step, make_train_step
from jaxgen.train.tables import create_state, cut_tables, rules_for

Data = Source | Mapping[str, Any]

_RESIDENT_BYTES = 2**30
# A save takes some 0.2 s beside the training, as long as an epoch of a small net.
_CHECKPOINT_SECONDS = 15.0


def fit(
    task: Any,
    data: Any,
    optimizer: Any,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    params: Any = None,
    validation: Data | None = None,
    test: Data | None = None,
    judge: Judge | None = None,
    patience: int | None = None,
    accumulate: int = 1,
    ema_decay: float | None = None,
    gradient: GradientMethod = dense,
    workdir: Path | str | None = None,
    record: Mapping[str, Any] | None = None,
    report_every: int | None = None,
    evaluate_every: int | None = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    steps_per_call: int | None = None,
    resident: bool | None = None,
    devices: Sequence[jax.Device] | None = None,
    hooks: Sequence[Hook] = (),
    progress: bool = True,
) -> FitResult:
    """Trains a task: the loop that every experiment uses.

    Args:
        task: what to optimise, see `jaxgen.tasks`.
        data: the training split: a `Source`, or a dict of arrays with the examples on axis 0.
        optimizer: an Optax transformation, or `Players` for adversarial training.
        steps: the length of the run; or give `epochs`.
        epochs: the length in passes over the data.
        batch_size: examples a step, over all devices; where the data has buckets, they say it.
        seed: of the parameters, the order of the examples, and the steps' randomness.
        params: what to begin with in the place of parameters that are drawn, such as those of a trained model.
        validation: a split to evaluate during the run and to choose the best state by.
        test: a split to evaluate at the end, and during the run where there is no validation split.
        judge: gives more figures of the splits, and chooses the best state in the place of the validation loss.
        patience: stop after this many evaluations without a better state.
        accumulate: microbatches a step.
        ema_decay: keep a moving average of the parameters, and evaluate with it.
        gradient: `dense`, or `rows(...)` with a `RowOptimizer`.
        workdir: a run directory; checkpoints in it are resumed.
        record: what `config.json` says of the run beside what is written in any case, or in its place. Give the
            optimiser's settings as `optimizer`, and a run isn't gone on with under others: a transformation can't be
            read.
        report_every: steps between reports; ten an epoch, at most 100 steps apart, by default.
        evaluate_every: steps between evaluations; an epoch by default.
        checkpoint_every: steps between checkpoints; by default as often as evaluations, but 15 s apart where
            they aren't the best.
        keep: how many of the last checkpoints to keep, beside the best one.
        steps_per_call: steps in one call of the device where the data lies on it; as many as between
            reports by default, or 1 for convolutions on a CPU.
        resident: whether the data is put on the device; where it is under 1 GiB by default.
        devices: the devices to use; all by default.
        hooks: what else looks on.
        progress: whether to show progress.

    Raises:
        UsageError: for a request that can't be met.
        DivergedError: where the objective turns NaN or infinite.
        Interrupted: after SIGINT or SIGTERM, when the state is saved, if there is a `workdir`.
    """
    _check_parts(task, optimizer)
    train, splits = _sources(data, validation, test)
    if hasattr(task, "check"):
        for source in (train, *splits.values()):
            task.check(source)
    if isinstance(optimizer, Players) and "validation" in splits and judge is None:
        raise UsageError(
            "a game's losses don't tell which state is the best: leave out the validation split, or give a judge"
        )
    order = order_of(train, batch_size, seed)
    length = _length(steps, epochs, order)
    _check_positive(
        accumulate=accumulate,
        patience=patience,
        keep=keep,
        report_every=report_every,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        steps_per_call=steps_per_call,
    )
    if train.buckets is not None and (steps_per_call or 1) > 1:
        raise UsageError(f"the batches of {train.name} have several shapes: leave out steps_per_call")
    if patience is not None and "validation" not in splits:
        raise UsageError("patience needs a validation split: the test split decides nothing")
    chosen_by = None if judge is None else judge.chosen_by
    settings = _settings(
        length,
        train,
        order,
        tuple(splits),
        chosen_by,
        patience,
        report_every,
        evaluate_every,
        checkpoint_every,
    )
    directory = None if workdir is None else RunDirectory(workdir)
    with contextlib.nullcontext() if directory is None else directory.held():
        mesh = make_mesh(_devices(devices, directory))
        for size in order.batch_sizes:
            check_batch_size(size, mesh.size * accumulate * getattr(optimizer, "slices", 1))
        example = read_batch(train, order, 0)
        create = functools.partial(
            TrainState.create,
            task,
            optimizer,
            jax.random.key(seed),
            example,
            ema=ema_decay is not None,
            params=params,
        )
        optimizer, by_part = cut_tables(create, optimizer, gradient, mesh)
        step = make_step(task, optimizer, mesh, accumulate, ema_decay, by_part)
        evaluate = Evaluator(task, splits, mesh, gradient=gradient, judge=judge)
        notes = []
        if directory is not None:
            training = {
                "batch_size": None if train.buckets else batch_size,
                "seed": seed,
                "patience": patience,
                "accumulate": accumulate,
                "ema_decay": ema_decay,
                **({} if chosen_by is None else {"chosen_by": chosen_by}),
            }
            described = {"task": describe(task), "data": describe_splits(train, splits), "training": training}
            described |= describe_examples(train)
            notes = directory.begin({**described, **(record or {}), "device_count": mesh.size}, length)
            if train.corpus is not None and jax.process_index() == 0:
                write_vocabulary(train.corpus.vocabulary, directory.vocabulary_path)
            if train.text is not None:
                of_targets = getattr(train.text, "target_tokenizer", None)
                directory.keep_tokenizers(train.text.tokenizer, of_targets)
        state = create_state(create, optimizer, mesh)
        count = steps_per_call or _steps_per_call(step, state, example, settings.report_every, train)
        session = Session(
            settings=settings,
            state=state,
            step=step,
            feed=_make_feed(train, order, mesh, count, resident),
            mesh=mesh,
            evaluate=evaluate,
            splits=tuple(splits),
            hooks=[*([Progress()] if progress and jax.process_index() == 0 else []), *hooks],
            directory=directory,
            keep=keep,
            notes=notes,
        )
        return session()


def _settings(
    length: int,
    train: Source,
    order: Order,
    splits: tuple[str, ...],
    chosen_by: str | None,
    patience: int | None,
    report_every: int | None,
    evaluate_every: int | None,
    checkpoint_every: int | None,
) -> LoopSettings:
    report, evaluation = default_cadence(length, order.steps_per_epoch)
    # Several processes save together; their clocks could not agree on when.
    by_clock = checkpoint_every is None and jax.process_count() == 1
    return LoopSettings(
        steps=length,
        batch_size=order.mean_batch_size,
        tokens_per_step=_tokens_per_step(train, order),
        report_every=report_every or report,
        evaluate_every=evaluate_every or evaluation,
        checkpoint_every=checkpoint_every or evaluate_every or evaluation,
        checkpoint_seconds=_CHECKPOINT_SECONDS if by_clock else 0.0,
        splits=("validation",) if "validation" in splits else splits,
        monitor=Monitor.of(splits, chosen_by),
        patience=patience,
    )


def _tokens_per_step(train: Source, order: Order) -> float:
    """Gives the tokens of a step where there are any; of pairs in buckets those that are no padding."""
    if isinstance(train.reader, EpochReader):
        return order.mean_batch_size * train.reader.words_per_example
    if train.text is None:
        return 0.0
    if train.buckets is not None:
        return float(train.buckets.lengths.sum()) / order.steps_per_epoch
    return order.mean_batch_size * train.text.sequence_length


def _sources(data: Any, validation: Data | None, test: Data | None) -> tuple[Source, dict[str, Source]]:
    named = {"validation": validation, "test": test}
    splits = {name: as_source(value, name) for name, value in named.items() if value is not None}
    return as_source(data, "train"), splits


def _length(steps: int | None, epochs: int | None, order: Order) -> int:
    if (steps is None) == (epochs is None):
        raise UsageError("give the length of the run as steps or as epochs, one of the two")
    _check_positive(steps=steps, epochs=epochs)
    return steps if steps is not None else (epochs or 0) * order.steps_per_epoch


def _check_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")


def _devices(devices: Sequence[jax.Device] | None, directory: RunDirectory | None) -> Sequence[jax.Device]:
    """Takes all devices, or as many as the run in the directory began with: equality bit for bit rests on it."""
    available = jax.devices() if devices is None else devices
    if devices is None and directory is not None and directory.config_path.exists():
        available = available[: directory.config()["device_count"]]
    return available


def _check_parts(task: Any, optimizer: Any) -> None:
    if not (hasattr(task, "init") and hasattr(task, "initial_carry")):
        raise UsageError(
            f"{type(task).__name__} is no task: give what is optimised, such as ImageClassification(model)"
        )
    if not hasattr(optimizer, "init"):
        raise UsageError(
            f"{optimizer!r} is no optimizer: give an Optax transformation, such as optax.adam(1e-3)"
        )


def make_step(
    task: Any,
    optimizer: Any,
    mesh: Mesh,
    accumulate: int = 1,
    ema_decay: float | None = None,
    gradient: GradientMethod = dense,
) -> Step:
    """Makes the step of a task on a mesh, of an optimiser, or of the players of a game."""
    if isinstance(optimizer, Players):
        return make_players_step(optimizer, accumulate=accumulate, ema_decay=ema_decay)
    make = functools.partial(
        make_train_step,
        task.loss,
        optimizer,
        accumulate=accumulate,
        ema_decay=ema_decay,
        gradient=gradient,
    )
    # XLA would have each device scatter its own rows into zeros, and add up whole tables.
    by_rows = isinstance(optimizer, RowOptimizer) and mesh.size > 1
    return sharded_step(make(axis_name=DATA_AXIS), mesh, rules_for(optimizer)) if by_rows else make()


def _steps_per_call(step: Step, state: TrainState, example: Any, report_every: int, train: Source) -> int:
    """Takes as many steps a call as lie between reports, but one where the loop would cost more than it saves.

    XLA's CPU backend runs a convolution several times slower inside a loop (jax-ml/jax#12868). Batches of several
    shapes can't be in one.
    """
    if train.buckets is not None:
        return 1
    if jax.default_backend() == "cpu" and "conv_general_dilated" in str(jax.make_jaxpr(step)(state, example)):
        return 1
    return min(report_every, 100)


def _make_feed(train: Source, order: Order, mesh: Mesh, steps_per_call: int, resident: bool | None) -> Feed:
    if train.drawn:
        return DrawnFeed(train, order, mesh, steps_per_call)
    if resident is None:
        resident = train.device_bytes < _RESIDENT_BYTES
    return ResidentFeed(train, order, mesh, steps_per_call) if resident else HostFeed(train, order, mesh)
