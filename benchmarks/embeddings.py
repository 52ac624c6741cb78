"""Word vectors beside gensim's, on this machine, in one run: how fast they are trained.

python -m benchmarks.embeddings --data corpus_en.txt          # needs the bench extra

Skip-gram, CBOW and FastText with 100 dimensions, a window of 5, 5 negatives, words that occur 5 times, subsampling at
1e-3; gensim with 2 workers. Words are those of the text, before any are dropped, as gensim counts them. Contenders take
turns, each in a process of its own; figures are medians over the rounds, ratios are medians of the ratios. What a step
takes for a word is told as well, for other devices.
"""

from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Worker, machine, table_of_rates, take_turns
from benchmarks.embedding_workers import DIM, UNIT, Training


def compare(method: str, data: Path, rounds: int, units: int) -> Table:
    """Trains both in turn, and sets their throughput side by side."""
    workers = [
        Worker.start("benchmarks.embedding_workers", name, method, str(data)) for name in ("jaxgen", "gensim")
    ]
    rates = units * UNIT / take_turns(workers, units, rounds)
    title = f"{method}, {rounds} rounds of {units * UNIT:,} words"
    return table_of_rates(title, "words/s", workers, rates)


def cost(method: str, data: Path) -> str:
    """Tells what a word takes whatever the device: operations of the step as it is given to the compiler, and rows."""
    from jaxgen.data.pipeline import read_batch

    training = Training.of(method, str(data))
    batch = read_batch(training.source, training.order, 0)
    flops = jax.jit(training.step).lower(training.state, batch).cost_analysis()["flops"]
    rows = sum(len(touched) for touched in training.task.touched(batch).values())
    # Read, and in the update read and written.
    size = 3 * 4 * DIM * rows
    per_word = (value / training.words for value in (flops, rows, size))
    return "{}: {:,.0f} operations a word, {:.1f} rows of tables, {:,.0f} bytes of them moved".format(
        method, *per_word
    )


def main(
    data: Path,
    methods: tuple[str, ...] = ("skipgram", "cbow", "fasttext"),
    rounds: int = 5,
    units: int = 10,
) -> None:
    """Compares everything.

    Args:
        data: a corpus, a sentence a line.
        methods: what to compare.
        rounds: of each comparison.
        units: hundred thousands of words that each trains on in a round.
    """
    console = Console()
    console.print(machine("gensim"), highlight=False)
    for method in methods:
        console.print(compare(method, data, rounds, units))
        console.print(cost(method, data), highlight=False)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
