"""Co-occurrence counts for GloVe: which words stand near which, sparse, sorted, and on disk where they are many."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64

from jaxgen.data.corpus import Corpus
from jaxgen.data.sources import InMemory, Source
from jaxgen.errors import JaxgenError, UsageError, shown

# Different pairs that are held in memory before they are written as a sorted run.
_HELD = 2**25
# Pairs of all runs together that are merged at a time.
_MERGED = 2**23
# Examples that are kept in memory; more lie in files.
_RESIDENT = 2**25


class Run(NamedTuple):
    """Counts of pairs in order, each pair once.

    Attributes:
        pairs: the smaller number of a pair times the vocabulary's size, plus the larger one.
        counts: of each.
    """

    pairs: Int64[np.ndarray, " pairs"]
    counts: Float64[np.ndarray, " pairs"]


@dataclass(frozen=True)
class Cooccurrences(InMemory):
    """A reader of co-occurrence counts: `pair` int32 [2], in either order, and `count` float32.

    Attributes:
        corpus: that they are counted in.
        window: words on either side.
    """

    corpus: Corpus = field(kw_only=True)
    window: int = field(kw_only=True)

    def describe(self) -> dict[str, Any]:
        """Says as JSON how words are counted."""
        return {"window": self.window}


def cooccurrence_source(corpus: Corpus, window: int) -> Source:
    """Counts how often words stand near each other, each time by one over their distance (Pennington et al. 2014).

    Args:
        corpus: the text; words that it leaves out stand nowhere, as in GloVe's own code.
        window: the widest distance; none goes beyond its sentence.

    Raises:
        UsageError: for no window.
        JaxgenError: for a corpus in which nothing stands near anything.
    """
    if window < 1:
        raise UsageError(f"--window must be at least 1, not {window}")
    with tempfile.TemporaryDirectory() as directory:
        runs = count_runs(corpus, window, Path(directory))
        arrays = _examples(merge(runs, _MERGED), len(corpus.vocabulary))
    if not arrays:
        raise JaxgenError(
            f"no sentence of {shown(corpus.name)} has two words that occur often enough: there is no context to learn "
            "from; take a longer text, or a smaller --min-count"
        )
    reader = Cooccurrences(arrays, corpus=corpus, window=window)
    return Source(
        corpus.name,
        "train",
        reader,
        num_classes=len(corpus.vocabulary),
        shape=(1,),
        version=corpus.version,
    )


def _examples(runs: Iterable[Run], size: int) -> dict[str, np.ndarray]:
    """Gives the pairs of sorted runs in both orders, and their counts; beyond `_RESIDENT` of them from files."""
    held: dict[str, list[np.ndarray]] = {"pair": [], "count": []}
    held_now = 0
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for run in runs:
            first, second = (part.astype(np.int32) for part in np.divmod(run.pairs, size))
            found = run.counts.astype(np.float32)
            apart = first != second
            # A word near itself is counted from both sides.
            held["pair"] += [
                np.stack(both, axis=1) for both in ((first, second), (second[apart], first[apart]))
            ]
            held["count"] += [np.where(apart, found, 2 * found), found[apart]]
            held_now += len(first) + int(apart.sum())
            if held_now > _RESIDENT:
                # Without names they are gone with the process.
                files = files or {key: stack.enter_context(tempfile.TemporaryFile()) for key in held}
                _write_out(held, files)
                held_now = 0
        if not files:
            return {key: np.concatenate(parts) for key, parts in held.items()} if held_now else {}
        _write_out(held, files)
        pairs = np.memmap(files["pair"], np.int32, "r").reshape(-1, 2)
        return {"pair": pairs, "count": np.memmap(files["count"], np.float32, "r")}


def _write_out(held: dict[str, list[np.ndarray]], files: dict[str, BinaryIO]) -> None:
    """Moves what is held into files."""
    for key, parts in held.items():
        for part in parts:
            part.tofile(files[key])
        files[key].flush()
        parts.clear()


def count_runs(corpus: Corpus, window: int, directory: Path, held: int = _HELD) -> list[Run]:
    """Counts pairs piece by piece, and writes them as sorted runs where they become many.

    Args:
        corpus: the text.
        window: the widest distance.
        directory: where runs are written.
        held: different pairs to hold in memory.
    """
    size, runs, parts, held_now = len(corpus.vocabulary), list[Run](), list[Run](), 0
    for begin, end in zip(corpus.bounds, corpus.bounds[1:], strict=False):
        found = _count(corpus.tokens[begin:end], window, size)
        parts.append(found)
        held_now += len(found.pairs)
        if held_now > held:
            parts = [_summed(parts)]
            held_now = len(parts[0].pairs)
            if held_now > held // 2:
                runs.append(_written(parts.pop(), directory / str(len(runs))))
                held_now = 0
    return [*runs, *([_summed(parts)] if parts else [])]


def merge(runs: Sequence[Run], at_once: int) -> Iterator[Run]:
    """Merges sorted runs into parts in order, which hold about so many pairs of all runs together at most."""
    total = sum(len(run.pairs) for run in runs)
    if not total:
        return
    # Cut where the largest run is cut evenly: a part may be larger, where others are dense.
    largest = max(runs, key=lambda run: len(run.pairs)).pairs
    count = -(-total // at_once)
    cuts = largest[np.linspace(0, len(largest) - 1, count + 1).astype(np.int64)[1:-1]]
    bounds = [np.array([0, *np.searchsorted(run.pairs, cuts), len(run.pairs)]) for run in runs]
    for part in range(count):
        pieces = [
            Run(run.pairs[b[part] : b[part + 1]], run.counts[b[part] : b[part + 1]])
            for run, b in zip(runs, bounds, strict=True)
        ]
        if any(len(piece.pairs) for piece in pieces):
            yield _summed(pieces)


def _count(tokens: Int32[np.ndarray, " tokens"], window: int, size: int) -> Run:
    sentences = np.cumsum(tokens < 0, dtype=np.int32)[tokens >= 0]
    words = tokens[tokens >= 0].astype(np.int64)
    found = []
    for distance in range(1, window + 1):
        together = sentences[distance:] == sentences[:-distance]
        before, after = words[:-distance][together], words[distance:][together]
        pairs = np.minimum(before, after) * size + np.maximum(before, after)
        found.append(Run(pairs, np.full(len(pairs), 1 / distance)))
    return _summed(found)


def _summed(runs: Sequence[Run]) -> Run:
    """Adds up the counts of each pair, and sorts the pairs."""
    pairs = np.concatenate([run.pairs for run in runs])
    counts = np.concatenate([run.counts for run in runs])
    if not len(pairs):
        return Run(pairs, counts)
    order = np.argsort(pairs, kind="stable")
    pairs, counts = pairs[order], counts[order]
    first = np.flatnonzero(np.diff(pairs, prepend=-1))
    return Run(pairs[first], np.add.reduceat(counts, first))


def _written(run: Run, path: Path) -> Run:
    """Moves a run into files, mapped into memory."""
    mapped = []
    for name, values in run._asdict().items():
        file = path.with_suffix(f".{name}")
        values.tofile(file)
        mapped.append(np.memmap(file, values.dtype, "r"))
    return Run(*mapped)
