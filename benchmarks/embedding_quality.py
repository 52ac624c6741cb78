"""Word vectors beside gensim's after as many epochs: how well they agree with people, and answer analogies.

python -m benchmarks.embedding_quality --data corpus_en.txt --pairs wordsim353.tsv      # needs the bench extra

Skip-gram, CBOW and FastText with 100 dimensions, a window of 5, 5 negatives, words that occur 5 times, subsampling at
1e-3; gensim with as many workers as there are cores. The vectors of both are measured by the same code, for both
several seeds. `--negatives-apart` trains another skip-gram of jaxgen's in which no two words share negatives.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.contest import machine
from jaxgen.embeddings import KeyedVectors
from jaxgen.embeddings.evaluation import evaluate_analogies, evaluate_word_pairs


class Quality(NamedTuple):
    """What one training has brought: rank correlation, right answers in percent, and what it took in seconds."""

    spearman: float
    analogies: float
    seconds: float


def train_jaxgen(method: str, data: Path, epochs: int, seed: int) -> KeyedVectors:
    """Runs the experiment in a process of its own, and opens what it leaves."""
    from jaxgen.word_vectors import vectors_of_run

    with tempfile.TemporaryDirectory() as directory:
        options = {
            "data": data,
            "method": method,
            "epochs": epochs,
            "seed": seed,
            "workdir": f"{directory}/run",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "experiments.word_vectors", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return vectors_of_run(Path(directory) / "run")


def train_apart(method: str, data: Path, epochs: int, seed: int) -> KeyedVectors:
    """Trains with negatives of each word's own: six pairs of five each, as many as a word has on average."""
    import numpy as np

    from experiments.word_vectors import EXPERIMENT, make_task
    from jaxgen import fit
    from jaxgen.data.corpus import read_corpus
    from jaxgen.data.word_blocks import word_source
    from jaxgen.experiment import optimizer_config

    config = EXPERIMENT.options(data=str(data), method=method, epochs=epochs).settled()
    corpus = read_corpus(str(data), min_count=config.min_count)
    given = replace(config.block_format(), group_size=1, negatives_per_group=30)
    source = word_source(corpus, given, seed)
    task = make_task(config, source)
    steps = epochs * -(-len(source) // config.batch_size)
    optimizer = task.row_optimizer(optimizer_config(config, steps), config.batch_size * source.shape[0])
    result = fit(
        task,
        source,
        optimizer,
        steps=steps,
        batch_size=config.batch_size,
        seed=seed,
        gradient=task.gradient,
        progress=False,
    )
    vectors = np.asarray(task.vectors(result.state.params))
    return KeyedVectors(corpus.vocabulary.words, vectors, corpus.vocabulary.counts)


def train_gensim(method: str, data: Path, epochs: int, seed: int) -> KeyedVectors:
    """Trains with gensim; words as the lines of the file have them."""
    from gensim.models import FastText, Word2Vec
    from gensim.models.word2vec import LineSentence

    kind: Any = FastText if method == "fasttext" else Word2Vec
    model = kind(
        list(LineSentence(str(data))),
        vector_size=100,
        window=5,
        negative=5,
        min_count=5,
        sample=1e-3,
        sg=int(method != "cbow"),
        epochs=epochs,
        workers=os.cpu_count() or 1,
        seed=seed + 1,
    )
    return KeyedVectors(model.wv.index_to_key, model.wv.vectors)


def measure(vectors: KeyedVectors, pairs: Path, analogies: Path, seconds: float) -> Quality:
    """Measures vectors."""
    answered = evaluate_analogies(vectors, analogies)
    right, asked = (sum(getattr(part, name) for part in answered) for name in ("added", "questions"))
    return Quality(evaluate_word_pairs(vectors, pairs).spearman, 100 * right / asked, seconds)


def table_of(method: str, epochs: int, found: dict[str, list[Quality]]) -> Table:
    """Sets means and all seeds side by side."""
    seeds = len(next(iter(found.values())))
    table = Table(
        "", "WordSim-353", "analogies, %", "seconds", title=f"{method}, {epochs} epochs, {seeds} seeds"
    )
    for name, runs in found.items():
        columns = zip(*runs, strict=True)
        table.add_row(
            name, *(_told(column, f".{digits}f") for column, digits in zip(columns, (3, 1, 0), strict=True))
        )
    return table


def _told(values: tuple[float, ...], form: str) -> str:
    return f"{statistics.mean(values):{form}} ({', '.join(format(value, form) for value in values)})"


def _trainings(method: str, negatives_apart: bool) -> Iterator[tuple[str, Any]]:
    yield "jaxgen", train_jaxgen
    yield "gensim", train_gensim
    if negatives_apart and method == "skipgram":
        yield "negatives apart", train_apart


def main(
    data: Path,
    pairs: Path,
    analogies: Path | None = None,
    methods: tuple[str, ...] = ("skipgram", "cbow", "fasttext"),
    epochs: int = 5,
    seeds: int = 3,
    negatives_apart: bool = False,
) -> None:
    """Compares everything.

    Args:
        data: a corpus, a sentence a line.
        pairs: words and how near each other people find them.
        analogies: questions; by default those that gensim brings.
        methods: what to compare.
        epochs: of each training.
        seeds: of each.
        negatives_apart: another skip-gram, whose words share no negatives.
    """
    from gensim.test.utils import datapath

    questions = analogies or Path(datapath("questions-words.txt"))
    console = Console()
    console.print(machine("gensim"), highlight=False)
    for method in methods:
        found: dict[str, list[Quality]] = {}
        for seed in range(seeds):
            for name, train in _trainings(method, negatives_apart):
                begun = time.perf_counter()
                vectors = train(method, data.resolve(), epochs, seed)
                seconds = time.perf_counter() - begun
                found.setdefault(name, []).append(measure(vectors, pairs, questions, seconds))
                console.print(f"{method}, seed {seed}, {name}: {found[name][-1]}", highlight=False)
        console.print(table_of(method, epochs, found))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
