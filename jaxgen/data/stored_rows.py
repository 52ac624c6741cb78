"""Tables of texts that are prepared as tfds sets, and pairs of texts that are made on the spot."""

import abc
import importlib
import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxgen.data import builders
from jaxgen.data.sequences import Row, Table
from jaxgen.data.sources import Records
from jaxgen.errors import JaxgenError

_FIELDS = ("source", "target", "name")


class MadePairs(tfds.core.GeneratorBasedBuilder):
    """Pairs of texts that are made on the spot, always the same ones."""

    pkg_dir_path = Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = {field: tfds.features.Text() for field in _FIELDS}
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features)
        )

    @abc.abstractmethod
    def _splits(self) -> dict[str, list[Row]]:
        """Gives each split's rows, whose places say how they were made. Abstract, lest tfds take this for a set."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(rows) for split, rows in self._splits().items()}

    def _generate_examples(self, rows: Sequence[Row]) -> Iterator[tuple[int, dict[str, str]]]:
        for number, row in enumerate(rows):
            yield number, dict(zip(_FIELDS, row, strict=True))


def version_of_package(name: str) -> tfds.core.Version:
    """Gives the version of a package that a set is made with, and so of the set; 0.0.0 where it isn't installed."""
    try:
        numbers = re.findall(r"\d+", metadata.version(name))[:3]
    except metadata.PackageNotFoundError:
        numbers = []
    return tfds.core.Version(".".join([*numbers, "0", "0", "0"][:3]))


def import_extra(module: str, told: str) -> Any:
    """Imports a module that a set is made with, of the extra `text`.

    Args:
        module: its name.
        told: what it is for, to be told where it is missing.

    Raises:
        JaxgenError: where it isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise JaxgenError(f"{told}, which is missing: pip install 'jaxgen[text]'") from error


def read_pairs(name: str, data_dir: Path | str | None = None) -> Table:
    """Reads a set of pairs that are made on the spot.

    Args:
        name: of the set.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.

    Raises:
        JaxgenError: where it can't be made, read or written.
    """
    splits, version = read_rows(name, _FIELDS, data_dir)
    return Table(name, splits, (), version)


def read_rows(
    name: str, fields: Sequence[str], data_dir: Path | str | None = None
) -> tuple[dict[str, list[Row]], str]:
    """Gives the rows of a prepared set's splits, and its version.

    Args:
        name: of the set.
        fields: those that hold the text, what belongs to it, and where it stands.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.

    Raises:
        JaxgenError: where it can't be read or written.
    """
    builder = builders.prepared(name, data_dir, lambda builder, name: None)
    first = ("train", "validation", "test")
    splits: dict[str, list[Row]] = {}
    for split in (*first, *sorted(set(builder.info.splits) - {*first})):
        records = Records(builders.records(builder, name, split), str(builder.data_path))
        try:
            examples = records.read(np.arange(len(records)))
            rows = [[example[field].bytes_list.value[0].decode() for field in fields] for example in examples]
        except Exception as error:
            raise records.damaged(error) from error
        splits[split] = [Row(*row) for row in rows]
    return splits, str(builder.version)
