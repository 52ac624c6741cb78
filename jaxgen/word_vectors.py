"""Word vectors of a run or of a file, and what the command line does with them but asking for similar words."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxgen.embeddings.evaluation import Analogies, WordPairs, evaluate_analogies, evaluate_word_pairs
from jaxgen.embeddings.fasttext_binary import write_fasttext
from jaxgen.embeddings.formats import Format, load, save
from jaxgen.embeddings.keyed_vectors import KeyedVectors
from jaxgen.errors import JaxgenError, UsageError, shown
from jaxgen.pretrained.storage import new_directory
from jaxgen.run_directory import RunDirectory
from jaxgen.saved_run import SavedRun
from jaxgen.train.hooks import say

if TYPE_CHECKING:
    from rich.table import Table


_FILES: dict[Format, dict[str, Format]] = {
    "word2vec": {"vectors.txt": "word2vec"},
    "word2vec-binary": {"vectors.bin": "word2vec-binary"},
    "glove": {"vectors.txt": "glove"},
    "fasttext": {"vectors.bin": "fasttext", "vectors.vec": "word2vec"},
}


@runtime_checkable
class GivesWordVectors(Protocol):
    """A task whose runs have word vectors: what `jaxgen similar`, `evaluate --pairs`, `plot --words` ask of it."""

    def keyed_vectors(self, params: Any, run: SavedRun) -> KeyedVectors:
        """Gives the vectors.

        Args:
            params: that were trained.
            run: where the words, and what else belongs to them, are kept: its `directory` and `config`.
        """


def vectors_of_run(path: Path | str) -> KeyedVectors:
    """Gives the word vectors that a run has trained.

    Raises:
        UsageError: where the directory holds no run, or one of something else.
        JaxgenError: where it can't be read.
    """
    return _vectors_of(SavedRun(Path(path)))


def _vectors_of(run: Any) -> KeyedVectors:
    if not isinstance(run.task, GivesWordVectors):
        path = run.directory.path
        raise UsageError(f"{shown(path)} is a run of {type(run.task).__name__}, which has no word vectors")
    return run.task.keyed_vectors(run.state.evaluation_params(), run)


def open_vectors(path: Path | str) -> KeyedVectors:
    """Opens the word vectors of a run, of a directory that was exported, or of a file; raises as `load` does."""
    run = _run_at(Path(path))
    return load(_file_at(Path(path))) if run is None else _vectors_of(run)


def has_word_vectors(path: Path) -> bool:
    """Tells whether there are word vectors at a path, of a run or in a file; raises as `SavedRun` does."""
    run = _run_at(path)
    return run is None or isinstance(run.task, GivesWordVectors)


def _run_at(path: Path) -> Any:
    """Opens the `SavedRun` at a path; gives None where there is a file, or a directory that was exported."""
    return SavedRun(path) if path.is_dir() and _file_at(path) == path else None


def _file_at(path: Path) -> Path:
    """Gives the file of vectors that lies in a directory that was exported; else the path itself."""
    if RunDirectory(path).config_path.exists():
        return path
    found = (path / name for files in _FILES.values() for name in files)
    return next((file for file in found if file.is_file()), path)


def convert(path: Path, output: Path, format: Format) -> None:
    """Writes the word vectors of a run or a file in another format; see `jaxgen.embeddings.save`.

    Args:
        path: the run, or the file.
        output: a new file by its suffix, or without one a new directory: `vectors.txt` in it, or `vectors.bin` of a
            binary format, and for fastText `vectors.bin` and `vectors.vec`, as it leaves them itself.
        format: what to write.

    Raises:
        UsageError: where there is something already.
        JaxgenError: where the vectors can't be read or written.
    """
    if output.suffix:
        if output.exists():
            raise UsageError(f"{shown(output)} would be written over: name another file")
        _write(path, {output: format})
        say(f"{format}: {shown(output)}")
        return
    with new_directory(output) as made:
        _write(path, {made / name: kind for name, kind in _FILES[format].items()})
    say(f"{format}: {', '.join(shown(output / name) for name in _FILES[format])}")


def _write(path: Path, files: dict[Path, Format]) -> None:
    """Writes vectors into files; of a run of FastText all that it takes to train it on."""
    run = _run_at(path)
    vectors = load(_file_at(path)) if run is None else _vectors_of(run)
    for file, kind in files.items():
        if kind == "fasttext" and run is not None and vectors.ngrams is not None:
            output, arguments = run.task.fasttext_parts(run.state.evaluation_params(), run)
            write_fasttext(file, vectors, output, arguments)
        else:
            save(file, vectors, kind)


def print_word_evaluation(vectors: KeyedVectors, pairs: Path | None, analogies: Path | None) -> None:
    """Prints how well cosines agree with people's judgements of pairs, and how many analogies are answered.

    Args:
        vectors: the vectors.
        pairs: a file of pairs, see `jaxgen.embeddings.evaluate_word_pairs`.
        analogies: a file of questions, see `jaxgen.embeddings.evaluate_analogies`.

    Raises:
        JaxgenError: as these do.
    """
    from rich.console import Console

    if pairs is not None:
        Console().print(pairs_table(evaluate_word_pairs(vectors, pairs), pairs.name))
    if analogies is not None:
        Console().print(analogies_table(evaluate_analogies(vectors, analogies), analogies.name))


def pairs_table(found: WordPairs, name: str) -> "Table":
    """Lays the correlations with a file of pairs out for a terminal."""
    from rich.table import Table

    table = Table("Spearman", "Pearson", "pairs", "not in the vocabulary", title=shown(name))
    row = (f"{found.spearman:.4f}", f"{found.pearson:.4f}", f"{found.pairs:,}", f"{found.unknown:,}")
    table.add_row(*row)
    return table


def analogies_table(found: Sequence[Analogies], name: str) -> "Table":
    """Lays the answers to a file of analogies out for a terminal, a section a row."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=shown(name))
    table.add_column("section")
    for column in ("questions", "3CosAdd", "3CosMul", "not in the vocabulary"):
        table.add_column(column, justify="right")
    for row in found:
        shares = (_share(right, row.questions) for right in (row.added, row.multiplied))
        if row is found[-1]:
            table.add_section()
        table.add_row(Text(row.section), f"{row.questions:,}", *shares, f"{row.unknown:,}")
    return table


def _share(right: int, questions: int) -> str:
    return f"{100 * right / questions:.1f} %" if questions else "-"


def plot_words(path: Path, words: Path) -> None:
    """Draws a map of the words of a file, by the vectors of a run or of another file.

    It goes into `plots/` of the run directory, or beside the file of words, as `word_map_NAME.png`.

    Args:
        path: the run directory, or the file of vectors.
        words: a file of words, between spaces or one a line.

    Raises:
        UsageError: where there are too few words, or too many.
        JaxgenError: where a file can't be read or written.
    """
    from jaxgen import plots
    from jaxgen.word_plots import word_map

    try:
        given = list(dict.fromkeys(words.read_text(encoding="utf-8-sig").split()))
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise JaxgenError(f"could not read {shown(words)}: {told}") from error
    vectors = open_vectors(path)
    known = [word for word in given if word in vectors]
    if missing := [word for word in given if word not in vectors]:
        more = f" and {len(missing) - 10:,} more" if len(missing) > 10 else ""
        say(f"not in the vocabulary, so left out: {', '.join(map(shown, missing[:10]))}{more}")
    directory = path / "plots" if path.is_dir() else words.parent
    (written,) = plots.save({f"word_map_{words.stem}": word_map(known, vectors[known])}, directory)
    say(shown(written))
