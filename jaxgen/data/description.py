"""What `config.json` says of a run's data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxgen.data import tokenizers
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.sources import CorpusReader, Source
from jaxgen.data.streams import TextFormat
from jaxgen.data.strokes import find_strokes

# Fields of formats that are younger than runs which go on: they are told where they aren't the default.
_YOUNGER: dict[str, Any] = {
    "columns": (),
    "target_tokenizer": None,
    "target_last": (),
    "buckets": (),
    "cut_off": False,
}


def describe_splits(train: Source, splits: Mapping[str, Source]) -> dict[str, Any]:
    """Describes the data of a run: the set's name, those of splits of other sets, and the part that each is."""
    parts = {"train": train, **splits}
    others = {name: source.name for name, source in splits.items() if source.name != train.name}
    return {
        "name": train.name,
        **({"names": others} if others else {}),
        "splits": {name: source.split for name, source in parts.items()},
        "num_examples": {name: len(source) for name, source in parts.items()},
        "image_size": train.image_size,
        "image_channels": train.image_channels,
        "version": train.version,
        **({} if train.text is None else {"text": describe_text(train.text)}),
        **({"words": train.reader.describe()} if isinstance(train.reader, CorpusReader) else {}),
    }


def describe_text(given: TextFormat | SequenceFormat) -> dict[str, Any]:
    """Describes how a text is made into examples."""
    told = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    for name, default in _YOUNGER.items():
        if name in told and told[name] == default:
            del told[name]
    of_targets = told.get("target_tokenizer")
    if of_targets is not None:
        told["target_tokenizer"] = tokenizers.digest(of_targets)
    return {**told, "tokenizer": tokenizers.digest(given.tokenizer)}


def describe_examples(train: Source) -> dict[str, Any]:
    """Describes what predictions on new data need to know: an example's arrays, and how strokes lie in images."""
    arrays = train[0].items()
    strokes = find_strokes(train)
    return {
        "example": {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in arrays},
        "strokes": None if strokes is None else dataclasses.asdict(strokes),
    }
