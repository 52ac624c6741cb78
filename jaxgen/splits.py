"""The splits of a run: what it trains on, chooses by, and tests on, as its options say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxgen.data import folder, streams, tables, text
from jaxgen.data.examples import evaluation_source, training_source
from jaxgen.data.filters import filter_pairs
from jaxgen.data.sequences import EncodedRow, SequenceFormat, Table
from jaxgen.data.sources import Source, load
from jaxgen.data.subwords import Subwords
from jaxgen.errors import UsageError
from jaxgen.experiment import Experiment, PictureConfig, TrainConfig
from jaxgen.pairs_config import PairsConfig
from jaxgen.text_config import TextConfig
from jaxgen.train.hooks import say
from jaxgen.word_config import WordConfig, load_words

_SPLITS = ("train", "validation", "test")
_TRIED = 200  # pairs of a split in a trial run, which writes for all that it holds out


def load_splits(experiment: Experiment, config: TrainConfig, data_dir: Path | None) -> dict[str, Source]:
    """Loads `train`, perhaps `validation`, and `test` where there is one.

    Args:
        experiment: what the data is for.
        config: its options.
        data_dir: where prepared sets lie.

    Raises:
        UsageError: for options that don't fit the data, or data that doesn't fit the experiment.
        JaxgenError: where the data can't be had or read.
    """
    if config.epochs < 1 or (config.steps is not None and config.steps < 1) or config.patience < 1:
        raise UsageError("--epochs, --steps and --patience must be at least 1")
    if isinstance(config, TextConfig):
        return _load_texts(config, data_dir)
    if isinstance(config, PairsConfig):
        config.check(experiment.usual(config))
        return _load_pairs(config, data_dir)
    if isinstance(config, WordConfig):
        return load_words(config, data_dir)
    conversion: dict[str, Any] = {}
    if isinstance(config, PictureConfig):
        conversion = {"image_size": _size(config.image_size), "image_channels": config.image_channels}

    def read(split: str) -> Source:
        return load(config.data, split, data_dir=data_dir, **conversion)

    splits = {name: read(split) for name, split in _splits(config).items()}
    if fraction := _held_out(config):
        kept = _kept(fraction, len(splits["train"]))
        splits["train"], splits["validation"] = (
            read(f"{config.train_split}[{part}]") for part in (f":{kept}", f"{kept}:")
        )
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
    # What is evaluated is read several times; the training split goes to the device.
    return {name: source if name == "train" else source.held() for name, source in splits.items()}


def _load_texts(config: TextConfig, data_dir: Path | None) -> dict[str, Source]:
    """Loads the splits of a text, cut as the model needs it, with a tokenizer that is made of them."""
    if config.validation_fraction:
        raise UsageError(
            "--validation-fraction is for sets of examples: a text has a validation split in any case"
        )
    as_bytes = config.tokenizer == "bytes"
    names = text.split_names(config.data, config.train_split, config.test_split, data_dir)
    found = text.read_splits(
        config.data, names.values(), data_dir=data_dir, encoding=config.encoding, as_bytes=as_bytes
    )
    texts = dict(zip(names, found, strict=True))
    tokenizer = streams.make_tokenizer(
        config.tokenizer, texts.values(), config.vocabulary_size, config.lowercase, config.special
    )
    given = config.text_format(tokenizer)
    train = training_source(texts.pop("train"), given)
    return {"train": train, **{name: evaluation_source(held, given) for name, held in texts.items()}}


def _size(given: tuple[int, ...] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    if len(given) not in (1, 2):
        raise UsageError(
            f"--image-size takes a height and a width, or one number for squares, not {len(given)} numbers"
        )
    return given[0], given[-1]


def _load_pairs(config: PairsConfig, data_dir: Path | None) -> dict[str, Source]:
    """Loads the splits of pairs of texts in buckets, with a tokenizer made of both texts; says what is left out."""
    table = tables.read(
        config.data, labelled=False, data_dir=data_dir, encoding=config.encoding, columns=config.columns
    )
    for note in table.notes:
        say(note)
    most = _TRIED if config.smoke else None
    splits = {name: table.splits[name][:most] for name in _SPLITS if name in table.splits}
    table = replace(table, splits=splits)
    tokenizer, target_tokenizer = _make_tokenizers(config, table)
    encoded = {split: table.encoded(split, tokenizer, target_tokenizer) for split in table.splits}
    read, written = (
        {
            getattr(row, name): getattr(tokens, name)
            for split, rows in table.splits.items()
            for row, tokens in zip(rows, encoded[split], strict=True)
        }
        for name in ("text", "other")
    )
    table, left_out = filter_pairs(
        table, config.limits(), lambda text: len(read[text]), lambda text: len(written[text])
    )
    for line in left_out.lines():
        say(line)
    encoded["train"] = [EncodedRow(read[row.text], written[row.other]) for row in table.splits["train"]]
    kept = [row for rows in table.splits.values() for row in rows]
    longest = [1 + max(len(read[row.text]) for row in kept), 1 + max(len(written[row.other]) for row in kept)]
    given = SequenceFormat.of(
        tokenizer,
        config.sequence_length or longest[0],
        target_length=config.target_length or longest[1],
        target_tokenizer=target_tokenizer,
        truncate=True,
        cut_off=config.cut_off,
        encoding=config.encoding,
        columns=config.columns,
    )
    given = table.bucketed(given, config.batch_tokens, config.most_buckets, encoded["train"])
    return table.sources(given, encoded)


def _make_tokenizers(config: PairsConfig, table: Table) -> tuple[Subwords, Subwords | None]:
    """Makes the tokenizer of texts to read, and that of texts to write where it is another one."""

    def make(texts: list[str]) -> Subwords:
        return Subwords.train(texts, config.vocabulary_size, config.tokenizer, config.special)

    if config.vocabularies == "joint":
        return make(table.texts()), None
    return make(table.texts_to_read()), make(table.texts_to_write())


def _splits(config: TrainConfig) -> dict[str, str]:
    """Gives the splits that there are from the start; a folder has its own validation split, and perhaps no test."""
    if not folder.is_folder(config.data):
        return {"train": config.train_split, "test": config.test_split}
    has_test = config.test_split != "test" or "test" in folder.split_names(config.data)
    test = {"test": config.test_split} if has_test else {}
    return {"train": config.train_split, "validation": "validation", **test}


def _held_out(config: TrainConfig) -> float:
    """Gives the part of the training split that is held out for validation; 0 for none."""
    fraction = config.validation_fraction
    if folder.is_folder(config.data):
        if fraction:
            raise UsageError(
                "--validation-fraction is for prepared sets: of a folder about a tenth is held out, or what lies in "
                "its folder validation"
            )
        return 0.0
    if config.until_converged and fraction == 0:
        fraction = 0.1
    if not 0 <= fraction < 1:
        raise UsageError(f"--validation-fraction must be at least 0 and below 1, not {fraction}")
    if fraction and {"[", "+"} & set(config.train_split):
        raise UsageError(
            f"--train-split {config.train_split} is a part or a sum: hold out validation from a whole split"
        )
    return fraction


def _kept(fraction: float, size: int) -> str:
    """Writes where validation begins, for tfds: in percent where they are whole, else as a number of examples."""
    percent = 100 * (1 - fraction)
    kept = size - round(fraction * size)
    if not 0 < kept < size:
        raise UsageError(f"--validation-fraction {fraction} of {size} examples leaves nothing on one side")
    whole = abs(percent - round(percent)) < 1e-9 and 0 < round(percent) < 100
    return f"{round(percent)}%" if whole else str(kept)
