"""Text that comes with every Python, as tfds builders: its language reference and its standard library's source."""

import abc
import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

# What is no library to read: tests, editors, what is generated or installed.
_LEFT_OUT = {"__pycache__", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo"}
_SHARE = 0.05

PYTHON_VERSION = tfds.core.Version("{}.{}.{}".format(*sys.version_info[:3]))
"""Of the Python that runs, and so of the sets that are made of it."""


class PythonText(tfds.core.GeneratorBasedBuilder):
    """Documents of the Python that runs, whose version is the set's."""

    VERSION = PYTHON_VERSION
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"name": tfds.features.Text(), "text": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features)
        )

    @abc.abstractmethod
    def _splits(self) -> dict[str, dict[str, str]]:
        """Gives each split's documents by name. Abstract, lest tfds take the class itself for a set."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(part) for name, part in self._splits().items()}

    def _generate_examples(self, documents: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
        for name, text in documents.items():
            yield name, {"name": name, "text": text}


class Pydocs(PythonText):
    """Python's language reference, as `help()` shows it: a document a topic, what stands in several only once.

    About a twentieth of the text each is for validation and for testing, by whole topics.
    """

    name = "pydocs"

    def _splits(self) -> dict[str, dict[str, str]]:
        from pydoc_data.topics import topics

        documents: dict[str, str] = {}
        seen: set[str] = set()
        # Short topics are often parts of long ones, which then hold the whole.
        for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
            paragraphs = [
                part for part in re.split(r"\n(?:\s*\n)+", topics[name].strip("\n")) if part.strip()
            ]
            fresh = [part for part in paragraphs if part.strip() not in seen]
            seen.update(part.strip() for part in paragraphs)
            if len(fresh) > len(paragraphs) / 2:
                documents[name] = "\n\n".join(fresh) + "\n"
        return share_out(documents)


class Pycode(PythonText):
    """The source of Python's standard library without its tests: a document a file.

    About a twentieth of the text each is for validation and for testing, by whole files.
    """

    name = "pycode"

    def _splits(self) -> dict[str, dict[str, str]]:
        return share_out(library_files())


def library_files() -> dict[str, str]:
    """Reads the files of Python's standard library, without its tests, by their names in it."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [path.relative_to(root) for path in root.rglob("*.py")]
    documents = {}
    for path in sorted(path for path in files if not _LEFT_OUT & {*path.parts}):
        source = (root / path).read_bytes().decode("utf-8", errors="replace")
        if source.strip():
            documents[path.as_posix()] = source
    return documents


def share_out(documents: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Shares documents out in an order that hangs on their names: test and validation take what fits in theirs."""
    room = {split: _SHARE * sum(map(len, documents.values())) for split in ("test", "validation")}
    chosen = {}
    for name in sorted(documents, key=lambda name: hashlib.sha256(name.encode()).digest()):
        fitting = [split for split, left in room.items() if len(documents[name]) <= left]
        chosen[name] = fitting[0] if fitting else "train"
        if fitting:
            room[fitting[0]] -= len(documents[name])
    return {
        split: {name: documents[name] for name in documents if chosen[name] == split}
        for split in ("train", "validation", "test")
    }
