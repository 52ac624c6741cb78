"""Fine-tuning: a trained BERT learns to classify texts, or a T5 to write one text for another, from a table of them."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from jaxgen import signals, transfer
from jaxgen.config import describe
from jaxgen.data import tables
from jaxgen.data.sequences import ANY_LENGTH, EncodedRow, SequenceFormat, Table
from jaxgen.data.sources import Source
from jaxgen.data.subset import take_rows
from jaxgen.data.tokenizers import digest
from jaxgen.errors import UsageError, shown
from jaxgen.fine_tune_config import FineTuneConfig
from jaxgen.lora import Adapted, LowRank
from jaxgen.models import BERT, T5
from jaxgen.optim import OptimizerConfig, Schedule, train_only
from jaxgen.run import horizon, report, telling_how_to_go_on
from jaxgen.run_directory import RunDirectory
from jaxgen.run_plots import draw_plots
from jaxgen.saved_run import SavedRun
from jaxgen.tasks import SequenceToSequence, TextClassification
from jaxgen.text_to_text import judge_of
from jaxgen.train.fit import fit
from jaxgen.train.hooks import Hook, say
from jaxgen.train.state import TrainState, count_parameters

_LONGEST = 512  # tokens of a row that isn't asked for, of models without a window
_WARMUP, _WEIGHT_DECAY = 0.1, 0.01


def fine_tune(run: Path, config: FineTuneConfig, command: str | None = None) -> RunDirectory:
    """Fine-tunes a run's model: a new run directory with its figures and plots; one that is there is gone on with.

    Args:
        run: the run directory, of a BERT or a T5.
        config: the options.
        command: what goes on with it, which is told where it is stopped; by default nothing is.

    Raises:
        UsageError: for a run or options that can't be meant, and texts that are too long.
        JaxgenError: for data, or a run, that can't be read.
        jaxgen.signals.Interrupted: after SIGINT or SIGTERM in training, when the state is saved.
    """
    saved = SavedRun(run, config.data_dir)
    _check_head(saved, config.head)
    beside = run.resolve()
    directory = RunDirectory(config.workdir or beside.with_name(f"{beside.name}-{config.head}"))
    table = tables.read(
        config.data,
        labelled=config.head == "classification",
        data_dir=config.data_dir or directory.data_dir(),
        encoding=config.encoding,
    )
    for note in table.notes:
        say(note)
    if config.labels is not None:
        table = take_rows(table, config.labels, config.seed)
    encoded = {split: table.encoded(split, saved.tokenizer) for split in table.splits}
    splits = table.sources(_format(saved, encoded, config), encoded)
    signals.raise_if_caught()
    with contextlib.nullcontext() if command is None else telling_how_to_go_on(directory, command):
        _fit(_Start.of(saved, table, config), splits, directory, config)
    report(directory)
    return directory


def _check_head(saved: SavedRun, head: str) -> None:
    """Refuses a run whose model can't have the head."""
    wanted = BERT if head == "classification" else T5
    model = getattr(saved.task, "model", None)
    if not isinstance(model, wanted):
        held = "no such model" if model is None else f"a {type(model).__name__}"
        raise UsageError(
            f"{shown(saved.directory.path)} holds {held} ({type(saved.task).__name__}): --head {head} is for a "
            f"{wanted.__name__}"
        )


def _format(
    saved: SavedRun, encoded: Mapping[str, Sequence[EncodedRow]], config: FineTuneConfig
) -> SequenceFormat:
    """Gives how texts are made into rows: as long as the longest one, where nothing is said and the model can."""
    tokenizer, context = saved.tokenizer, getattr(saved.task.model, "context_length", None)
    length, target = config.sequence_length, config.target_length
    if context is not None and length is not None and length > context:
        raise UsageError(f"--sequence-length {length}: the model sees {context} tokens")
    wide = SequenceFormat.of(tokenizer, ANY_LENGTH)
    rows = [row for of_split in encoded.values() for row in of_split]
    lengths = [len(wide.first) + len(row.text) + len(wide.last) for row in rows]
    length = _enough(lengths, context or _LONGEST) if length is None else length
    _tell_cut(config, "texts", lengths, length)
    if config.head == "classification":
        target = 0
    elif not wide.last:
        raise UsageError(
            f"the tokenizer of {shown(saved.directory.path)} has no token that ends a text: the model couldn't learn "
            "when to stop"
        )
    else:
        lengths = [len(row.other) + len(wide.last) for row in rows]
        target = _enough(lengths, _LONGEST) if target is None else target
        _tell_cut(config, "texts to write", lengths, target)
    return SequenceFormat.of(
        tokenizer, length, target_length=target, truncate=config.truncate, encoding=config.encoding
    )


def _tell_cut(config: FineTuneConfig, what: str, lengths: Sequence[int], room: int) -> None:
    """Says how many texts are cut off, if they are."""
    count = sum(length > room for length in lengths)
    if config.truncate and count:
        say(f"{count:,} of {len(lengths):,} {what} are longer than {room} tokens, and cut off")


def _enough(lengths: Sequence[int], limit: int) -> int:
    """Gives a length that all have room in, a multiple of 8, but not beyond the limit."""
    return min(-(-max(lengths) // 8) * 8, limit)


@dataclass(frozen=True)
class _Start:
    """What a run of fine-tuning begins with.

    Attributes:
        task: the plain one, as `config.json` tells it.
        trained: the task that is trained; another one where its model is adapted by LoRA.
        params: of this one; None where they are drawn.
        part: which of them are trained; None for all.
        told: what `config.json` says of it.
    """

    task: Any
    trained: Any
    params: Any
    part: Any
    told: dict[str, Any]

    @classmethod
    def of(cls, saved: SavedRun, table: Table, config: FineTuneConfig) -> "_Start":
        """Takes a run's model, with a head of its own for classes."""
        task = _task(saved, table, config.scored_by or "rouge")
        adapted = None if config.lora_rank is None else Adapted(task, _low_rank(config))
        told = {
            "run": str(saved.directory.path.resolve()),
            "step": None if config.from_scratch else int(saved.state.step),
            "labels": config.labels,
            "frozen_layers": config.frozen_layers,
            "low_rank": None if adapted is None else describe(adapted.low_rank),
        }
        if config.from_scratch:
            return cls(task, task, None, None, told)
        drawn, _ = (adapted or task).init(jax.random.key(config.seed), {})
        same_classes = bool(table.class_names) and getattr(saved.task, "class_names", ()) == table.class_names
        before = jax.device_get(saved.state.evaluation_params())
        part: Any = None
        if adapted is not None:
            base = transfer.begin_with(drawn["base"], before, same_classes)
            every = jax.tree.map(lambda _: True, drawn["low_rank"])
            part = {"base": transfer.of_classes(base), "low_rank": every}
            return cls(task, adapted, {**drawn, "base": base}, part, told)
        params = transfer.begin_with(drawn, before, same_classes)
        if config.frozen_layers is not None:
            part = transfer.above(task.model, params, config.frozen_layers)
        return cls(task, task, params, part, told)

    def plain(self, state: TrainState) -> TrainState:
        """Gives a state of the plain task."""
        if isinstance(self.trained, Adapted):
            return replace(state, params=self.trained.merged(state.params))
        return state


def _task(saved: SavedRun, table: Table, scored_by: str) -> Any:
    model, tokenizer = saved.task.model, digest(saved.tokenizer)
    if not table.class_names:
        start = getattr(saved.task, "start_token", 0)
        return SequenceToSequence(model, start, tokenizer=tokenizer, scored_by=scored_by)
    model = model.clone(heads=("classification",), num_classes=len(table.class_names), pooler=True)
    return TextClassification(model, class_names=table.class_names, tokenizer=tokenizer)


def _low_rank(config: FineTuneConfig) -> LowRank:
    rank = config.lora_rank or 0
    return LowRank(rank, 2.0 * rank if config.lora_alpha is None else config.lora_alpha)


def usual_learning_rate(model: BERT | T5, low_rank: bool) -> float:
    """Gives the peak of AdamW's learning rate where none is given; narrower models take larger ones."""
    of_768 = 5e-5 if isinstance(model, BERT) else 3e-4
    return of_768 * 768 / model.embedding_size * (10 if low_rank else 1)


def _optimizer(model: Any, config: FineTuneConfig, directory: RunDirectory, steps: int) -> OptimizerConfig:
    length = horizon(directory, steps)
    rate = config.learning_rate
    if rate is None:
        rate = usual_learning_rate(model, config.lora_rank is not None)
    warmup = min(math.ceil(_WARMUP * length), length - 1)
    return OptimizerConfig(
        "adamw", Schedule("linear", rate, warmup, length), weight_decay=_WEIGHT_DECAY, clip_norm=1.0
    )


def _fit(start: _Start, splits: dict[str, Source], directory: RunDirectory, config: FineTuneConfig) -> None:
    steps = config.steps or config.epochs * -(-len(splits["train"]) // config.batch_size)
    optimizer = _optimizer(start.task.model, config, directory, steps)
    built = optimizer.build()
    fit(
        start.trained,
        splits["train"],
        built if start.part is None else train_only(built, start.part),
        steps=steps,
        batch_size=config.batch_size,
        seed=config.seed,
        params=start.params,
        validation=splits["validation"],
        test=splits.get("test"),
        workdir=directory.path,
        record={
            "experiment": "fine-tune",
            "task": describe(start.task),
            "optimizer": describe(optimizer),
            "fine_tuning": start.told,
            "data_dir": None if config.data_dir is None else str(config.data_dir.expanduser().absolute()),
        },
        judge=judge_of(directory, start.task, splits["validation"], start.plain),
        hooks=[_Told(start, splits, directory)],
    )


class _Told(Hook):
    """What is told of a run of fine-tuning, and drawn before it is finished."""

    def __init__(self, start: _Start, splits: dict[str, Source], directory: RunDirectory) -> None:
        self._start, self._splits, self._directory = start, splits, directory

    def on_start(self, step: int, steps: int, steps_per_epoch: int) -> None:
        """Says where the run is kept, what it is trained on, and how much of the model is trained."""
        say(f"run directory: {self._directory.path}")
        train = self._splits["train"]
        sizes = ", ".join(f"{len(source):,} for {name}" for name, source in self._splits.items())
        classes = f", {len(train.class_names)} classes" if train.class_names else ""
        say(f"{shown(train.name)}: rows {sizes}, of {train.text.sequence_length} tokens{classes}")
        if self._start.part is not None:
            part, whole = self._counts()
            say(f"trained are {part:,} parameters beside {whole - part:,} that stay as they are")

    def on_finish(self, figures: dict[str, Any], state: TrainState) -> None:
        """Counts what was trained, and draws the plots."""
        if self._start.part is not None:
            figures["trained_parameters"] = self._counts()[0]
        shown_split = self._splits.get("test", self._splits["validation"])
        draw_plots(self._directory, self._start.task, self._start.plain(state), shown_split)

    def _counts(self) -> tuple[int, int]:
        params = self._start.params
        return transfer.count_trained(params, self._start.part), count_parameters(params)
