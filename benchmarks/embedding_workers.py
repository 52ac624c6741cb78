"""The contenders of `benchmarks.embeddings`, each in a process of its own that trains when it is told to.

python -m benchmarks.embedding_workers CONTENDER METHOD CORPUS

CONTENDER is jaxgen or gensim, METHOD skipgram, cbow or fasttext. The process prints a line once it has read the corpus
and compiled; then it reads numbers of words, in units of 100,000 of the text, trains on about as many, and prints the
seconds that it would have taken for just as many.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

WINDOW, NEGATIVES, MIN_COUNT, SUBSAMPLE, DIM = 5, 5, 5, 1e-3, 100
UNIT = 100_000
_CALLS = 50  # steps of one call

Work = Callable[[int], float]


@dataclass(frozen=True)
class Training:
    """The experiment's own task, blocks and step."""

    source: Any
    order: Any
    mesh: Any
    task: Any
    state: Any
    step: Any

    @classmethod
    def of(cls, method: str, path: str) -> "Training":
        """Reads the corpus, and makes the tables."""
        from experiments.word_vectors import EXPERIMENT, make_task
        from jaxgen.data.orders import order_of
        from jaxgen.data.pipeline import read_batch
        from jaxgen.experiment import optimizer_config
        from jaxgen.parallel import make_mesh, put_state
        from jaxgen.train.fit import make_step
        from jaxgen.train.state import TrainState
        from jaxgen.word_config import load_words

        given = {"data": path, "method": method, "dim": DIM, "window": WINDOW, "negatives": NEGATIVES}
        config = EXPERIMENT.options(**given, min_count=MIN_COUNT, subsample=SUBSAMPLE).settled()
        source = load_words(config, None)["train"]
        order, mesh = order_of(source, config.batch_size, 0), make_mesh()
        task = make_task(config, source)
        optimizer = task.row_optimizer(optimizer_config(config, 10**6), config.batch_size * source.shape[0])
        state = TrainState.create(task, optimizer, jax.random.key(0), read_batch(source, order, 0))
        step = make_step(task, optimizer, mesh=mesh, gradient=task.gradient)
        return cls(source, order, mesh, task, put_state(state, mesh), step)

    @property
    def words(self) -> float:
        """Words of the text that a step stands for."""
        return self.order.mean_batch_size * self.source.reader.words_per_example


def jaxgen(method: str, path: str) -> Work:
    """Through the feed that `fit` uses."""
    from jaxgen.memory import keep_freed_memory

    keep_freed_memory()
    from jaxgen.train.feed import DrawnFeed

    training = Training.of(method, path)
    state = training.state
    run = DrawnFeed(training.source, training.order, training.mesh, _CALLS).bind(training.step, state)
    words, position = training.words, 0

    def train(units: int) -> float:
        nonlocal state, position
        begun, first = time.perf_counter(), position
        while (position - first) * words < units * UNIT:
            state, _ = run(state, position, _CALLS)
            position += _CALLS
        jax.block_until_ready(state)
        return (time.perf_counter() - begun) * units * UNIT / ((position - first) * words)

    return train


def gensim(method: str, path: str) -> Work:
    """Two workers, which is as many as there are cores to begin with."""
    from gensim.models import FastText, Word2Vec

    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        sentences = [line.split() for line in file]
    options = {"vector_size": DIM, "window": WINDOW, "negative": NEGATIVES, "min_count": MIN_COUNT}
    kind = FastText if method == "fasttext" else Word2Vec
    workers = min(2, os.cpu_count() or 1)
    model = kind(**options, sample=SUBSAMPLE, sg=int(method != "cbow"), workers=workers, seed=1)
    model.build_vocab(sentences)
    ends = np.cumsum([len(sentence) for sentence in sentences])
    place = itertools.count()

    def train(units: int) -> float:
        size = units * UNIT
        number = next(place) % max(1, ends[-1] // size)
        first, last = np.searchsorted(ends, (number * size, (number + 1) * size))
        part = sentences[first:last]
        begun = time.perf_counter()
        model.train(part, total_examples=len(part), epochs=1)
        return (time.perf_counter() - begun) * size / sum(map(len, part))

    return train


def main(contender: str, method: str, path: str) -> None:
    """Serves one contender."""
    work = {"jaxgen": jaxgen, "gensim": gensim}[contender](method, path)
    work(1)
    print("nan", flush=True)
    for line in sys.stdin:
        print(work(int(line)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
