"""Docstrings of Python's standard library: as pairs of texts, with the packages they are of, and as a plain text.

The pairs are what follows the first line, and the first line. A model that writes the first line has to say in a few
words what the rest is about. The rules below are what it is compared with.
"""

import ast
import collections
import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from jaxgen.data.embedded_text import PYTHON_VERSION, PythonText, library_files, share_out
from jaxgen.data.sequences import Table
from jaxgen.data.stored_rows import read_rows

# Of the packages and modules with the most docstrings, those that all supported versions of Python have.
_PACKAGES = (
    "asyncio",
    "decimal",
    "email",
    "http",
    "importlib",
    "logging",
    "multiprocessing",
    "tkinter",
    "turtle",
    "unittest",
    "urllib",
    "xml",
)
# Fewer say too little to be summed up; a longer first line is no summary.
_LEAST_BODY_WORDS, _LEAST_WORDS, _MOST_WORDS = 8, 3, 20
_SIGNATURE = re.compile(r"[\w.]+\s*\(.*\)|.*->|.*=.*\(|>>>|:\w+:|[^\w\"'`*<(\[]")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[^\sa-z]|\s*\Z)|\n\s*\n")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Docstring(NamedTuple):
    """A docstring in two parts, and whose it is.

    Attributes:
        name: of the function, class or module, with that of its file.
        body: what follows the first line and the blank line after it.
        summary: the first line.
    """

    name: str
    body: str
    summary: str


class Docstrings(tfds.core.GeneratorBasedBuilder):
    """Docstrings of Python's standard library in two parts, the first line and the rest, none of them twice.

    About a twentieth each is for validation and for testing, by whole files.
    """

    name = "docstrings"
    VERSION = PYTHON_VERSION
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = {field: tfds.features.Text() for field in Docstring._fields}
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        files = library_files()
        found = find_docstrings(files)
        return {
            split: self._generate_examples({file: found[file] for file in of_split if file in found})
            for split, of_split in _split_files(files, found).items()
        }

    def _generate_examples(
        self, docstrings: Mapping[str, list[Docstring]]
    ) -> Iterator[tuple[str, dict[str, str]]]:
        for file, of_file in docstrings.items():
            for number, docstring in enumerate(of_file):
                yield f"{file}:{number}", docstring._asdict()


class DocstringText(PythonText):
    """All docstrings of Python's standard library, none of them twice: a document a file.

    What `docstrings` holds out for validation and testing is in the same split here.
    """

    name = "docstring_text"

    def _splits(self) -> dict[str, dict[str, str]]:
        files = library_files()
        texts, found = _distinct(files), find_docstrings(files)
        parts = _split_files(files, found)
        held_out = [one for split in ("validation", "test") for file in parts[split] for one in found[file]]
        for file in parts["train"]:
            texts[file] = [text for text in texts[file] if not any(one.body in text for one in held_out)]
        return {
            split: {file: "\n\n".join(texts[file]) for file in of_split if texts[file]}
            for split, of_split in parts.items()
        }


class DocstringPackages(tfds.core.GeneratorBasedBuilder):
    """Docstrings of twelve packages and modules of Python's standard library, to tell which one each is of.

    A tenth is for validation, a fifth for testing, by their contents.
    """

    name = "docstring_packages"
    VERSION = PYTHON_VERSION
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = {field: tfds.features.Text() for field in ("name", "text", "package")}
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        parts: dict[str, dict[str, dict[str, str]]] = {"train": {}, "validation": {}, "test": {}}
        for file, texts in _distinct(library_files()).items():
            package = file.split("/")[0].removesuffix(".py").removeprefix("_py")
            for number, text in enumerate(texts if package in _PACKAGES else ()):
                share = int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) / 2**32
                split = "test" if share < 0.2 else "validation" if share < 0.3 else "train"
                name = f"{file}:{number}"
                parts[split][name] = {"name": name, "text": " ".join(text.split()), "package": package}
        return {split: self._generate_examples(rows) for split, rows in parts.items()}

    def _generate_examples(self, rows: Mapping[str, dict[str, str]]) -> Iterator[tuple[str, dict[str, str]]]:
        yield from rows.items()


def read(data_dir: Path | str | None = None) -> Table:
    """Reads the docstrings: bodies to read and first lines to write, as `train`, `validation` and `test`.

    The place of each row is the name of what it describes, such as `heapq.py merge`.

    Args:
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.

    Raises:
        JaxgenError: where they can't be read or written.
    """
    splits, version = read_rows("docstrings", ("body", "summary", "name"), data_dir)
    return Table("docstrings", splits, (), version)


def read_packages(data_dir: Path | str | None = None) -> Table:
    """Reads docstrings with the packages they are of, as `train`, `validation` and `test`.

    Args:
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.

    Raises:
        JaxgenError: where they can't be read or written.
    """
    splits, version = read_rows("docstring_packages", ("text", "package", "name"), data_dir)
    return Table("docstring_packages", splits, _PACKAGES, version)


def _split_files(files: Mapping[str, str], found: Mapping[str, list[Docstring]]) -> dict[str, list[str]]:
    """Shares files out by how much there is to sum up in them; those with nothing are to train on."""
    parts = share_out({file: "".join(one.body for one in of_file) for file, of_file in found.items()})
    held_out = {split: list(parts[split]) for split in ("validation", "test")}
    taken = {*held_out["validation"], *held_out["test"]}
    return {"train": [file for file in files if file not in taken], **held_out}


def _distinct(files: Mapping[str, str]) -> dict[str, list[str]]:
    """Gives the docstrings of at least so many words, each only once, by file.

    One that several files have is left out: it says nothing of any of them, and would stand on both sides.
    """
    found = {
        file: list(dict.fromkeys(text.strip() for _, text in _docstrings(source)))
        for file, source in files.items()
    }
    counts = collections.Counter(text for texts in found.values() for text in texts)
    return {
        file: [text for text in texts if counts[text] == 1 and len(text.split()) >= _LEAST_BODY_WORDS]
        for file, texts in found.items()
    }


def find_docstrings(files: Mapping[str, str]) -> dict[str, list[Docstring]]:
    """Finds the docstrings that have a summary and a body, in files' sources by name; each first line and body once."""
    found: dict[str, list[Docstring]] = {}
    seen: set[str] = set()
    for file, source in files.items():
        found[file] = []
        for name, text in _docstrings(source):
            docstring = _in_two(f"{file} {name.removeprefix('.')}".strip(), text)
            if docstring is None or seen & {docstring.summary, docstring.body}:
                continue
            seen |= {docstring.summary, docstring.body}
            found[file].append(docstring)
    return {file: of_file for file, of_file in found.items() if of_file}


def _docstrings(source: str) -> Iterator[tuple[str, str]]:
    """Gives all docstrings of a source with the names of what they describe, in order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes in old strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # templates, which are no Python yet
        return
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and (text := ast.get_docstring(node)):  # type: ignore[arg-type]
            yield name, text
        # What is defined in branches counts, too; in expressions nothing is.
        inside = [
            child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)
        ]
        names = [
            name if (own := getattr(child, "name", None)) is None else f"{name}.{own}" for child in inside
        ]
        waiting += reversed([*zip(names, inside, strict=True)])


def _in_two(name: str, text: str) -> Docstring | None:
    """Divides a docstring in two; None where its first line is no summary of a longer text."""
    summary, _, rest = text.strip().partition("\n")
    summary, body = summary.strip(), rest.strip()
    if not rest.startswith("\n") and rest.strip(" \t")[:1] != "\n":
        return None  # the first sentence goes on on the second line
    if not _LEAST_WORDS <= len(summary.split()) <= _MOST_WORDS or len(body.split()) < _LEAST_BODY_WORDS:
        return None
    return None if _SIGNATURE.match(summary) else Docstring(name, body, summary)


def first_sentence(body: str) -> str:
    """Gives a body's first sentence, on one line: as a summary it is the simplest rule."""
    end = _SENTENCE_END.search(body)
    return " ".join((body if end is None else body[: end.end()]).split())


def first_words(body: str, count: int) -> str:
    """Gives a body's first words, on one line."""
    return " ".join(body.split()[:count])


def name_in_words(name: str) -> str:
    """Gives the words that a name is made of: `heapq.py Heap.nsmallest_of` is `nsmallest of`."""
    return " ".join(_WORD.findall(re.split(r"[ .]", name)[-1])).lower()
