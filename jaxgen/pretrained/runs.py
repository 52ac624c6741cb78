"""Run directories made of others' directories of weights, and these of runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax.numpy as jnp

from jaxgen import pretrained
from jaxgen.config import describe
from jaxgen.data.description import describe_text
from jaxgen.data.pretrained_tokenizers import open_tokenizer, write_tokenizer
from jaxgen.data.sentencepieces import SentencePieces
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.streams import TextFormat
from jaxgen.data.subwords import Subwords
from jaxgen.data.tokenizers import Tokenizer, Words, digest
from jaxgen.errors import UsageError
from jaxgen.models import BERT, GPT, T5
from jaxgen.pretrained import family
from jaxgen.pretrained.bert import class_names, labels
from jaxgen.run_directory import RunDirectory
from jaxgen.tasks import LanguageModelling, MaskedLanguageModelling, SequenceToSequence, TextClassification
from jaxgen.train.checkpoint import Checkpoints

if TYPE_CHECKING:
    from jaxgen.saved_run import SavedRun

_T5_LENGTH = 512  # tokens that it was trained on; it has no window
# What config.json calls the numbers of special tokens, and their roles.
_TOKEN_FIELDS = {"bos_token_id": "begin", "eos_token_id": "end", "pad_token_id": "pad"}


def import_run(directory: Path, run: Path) -> None:
    """Makes a run directory of a directory with a model and its tokenizer: the run opens as if it was trained here.

    A GPT-2 becomes one of `LanguageModelling`, a BERT of `MaskedLanguageModelling` or `TextClassification`, a T5 of
    `SequenceToSequence`.

    Raises:
        UsageError: for a BERT with heads that there is no task for, a tokenizer of more tokens than the model knows,
            and if there is something at `run` already.
        JaxgenError: as `jaxgen.pretrained.load` and `open_tokenizer` do, and if the run can't be written.
    """
    stored = pretrained.read_stored(directory)
    model, params = pretrained.read(stored)
    tokenizer = open_tokenizer(directory)
    size: int = getattr(model, "vocabulary_size", 0)
    if len(tokenizer.vocabulary) > size:
        raise UsageError(f"the tokenizer has {len(tokenizer.vocabulary)} tokens, but the model knows {size}")
    task = task_of(model, tokenizer, stored.config)
    with pretrained.new_directory(run) as made:
        written = RunDirectory(made)
        written.keep_tokenizers(tokenizer)
        state = {"step": jnp.int32(0), "params": params, "model_state": {}}
        with Checkpoints(written.checkpoints) as checkpoints:
            checkpoints.save(0, state, {})
        written.begin(_record(task, tokenizer, directory), steps=0)


def export_run(run: "SavedRun", directory: Path) -> str:
    """Writes a new directory with a run's model as others have it, and with its tokenizer where it has such a form.

    Returns:
        What is worth saying about it; empty where nothing is.

    Raises:
        UsageError: for a model that others haven't, and if there is something at `directory` already.
        JaxgenError: if the run can't be read, or the directory not be written.
    """
    model, tokenizer = run.task.model, run.tokenizer
    kind = pretrained.family_of(model)
    start = getattr(run.task, "start_token", None)
    config = {
        **kind.config_of(model),
        **_token_numbers(tokenizer),
        **_labels(run.task),
        **({} if start is None else {"decoder_start_token_id": start}),
    }
    note = ""
    with pretrained.new_directory(directory) as made:
        family.write(made, config, run.state.evaluation_params(), kind.table(model))
        if isinstance(tokenizer, Words):
            note = "the tokenizer of words is left out: it has no form that others open"
        else:
            write_tokenizer(tokenizer, made)
    return note


def task_of(model: nn.Module, tokenizer: Tokenizer, config: Mapping[str, Any]) -> Any:
    """Gives the task that a model was made for.

    Raises:
        UsageError: for a BERT with heads that there is no task for.
    """
    known = digest(tokenizer)
    if isinstance(model, GPT):
        return LanguageModelling(model, known)
    if isinstance(model, T5):
        return SequenceToSequence(model, config.get("decoder_start_token_id") or 0, tokenizer=known)
    assert isinstance(model, BERT)
    if "masked" in model.heads and isinstance(tokenizer, Subwords):
        return MaskedLanguageModelling.of(model, tokenizer)
    if "classification" in model.heads:
        return TextClassification(model, class_names=class_names(config), tokenizer=known)
    heads = f"the heads {', '.join(model.heads)}" if model.heads else "no heads"
    raise UsageError(
        f"there is no task for a BERT with {heads}: open it in your own code, with jaxgen.pretrained.load"
    )


def _record(task: Any, tokenizer: Tokenizer, directory: Path) -> dict[str, Any]:
    """Gives what `config.json` says of a run, for one that was never trained and has no data."""
    length = getattr(task.model, "context_length", _T5_LENGTH)
    tokens: dict[str, Any] = {"shape": [length], "dtype": "int32"}
    number: dict[str, Any] = {"shape": [], "dtype": "int32"}
    given: TextFormat | SequenceFormat
    others: dict[type, dict[str, Any]]
    if isinstance(task, LanguageModelling):
        given, example = TextFormat(tokenizer, length, 0), {"tokens": tokens, "labels": tokens}
    else:
        target = length if isinstance(task, SequenceToSequence) else 0
        given = SequenceFormat.of(tokenizer, length, target_length=target)
        others = {SequenceToSequence: {"labels": tokens}, TextClassification: {"label": number}}
        example = {"tokens": tokens, "lengths": number, **others.get(type(task), {})}
    data: dict[str, Any] = {
        "name": str(directory.absolute()),
        "splits": {},
        "num_examples": {},
        "image_size": None,
        "image_channels": None,
        "version": None,
        "text": describe_text(given),
    }
    return {
        "experiment": None,
        "task": describe(task),
        "data": data,
        "training": {"ema_decay": None},
        "example": example,
        "strokes": None,
        "data_dir": None,
        "device_count": 1,
    }


def _token_numbers(tokenizer: Tokenizer) -> dict[str, int]:
    if not isinstance(tokenizer, Subwords | SentencePieces):
        return {}
    roles = {name: role for name, role in _TOKEN_FIELDS.items() if getattr(tokenizer.special, role)}
    return {name: int(tokenizer.special_id(role)) for name, role in roles.items()}


def _labels(task: Any) -> dict[str, Any]:
    names = getattr(task, "class_names", ())
    return labels(names) if names else {}
