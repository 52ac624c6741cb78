"""The recurrent language model beside PyTorch and Keras, on this machine, in one run.

python -m benchmarks.recurrent              # needs the bench extra

Training throughput of the classic word model (1,000 words, embedding 64, 128 units, a dense layer, dropout 0.1; 64
streams of 100 tokens a step) with each kind of cell, and of `shakespeare_lstm`'s model (65 characters, 256 units, 64
streams of 128); then how fast the word model writes, one text at a time and 64; then the memory of the vocabulary's
layer. Contenders take turns, each in a process of its own that sleeps while the others work.
Figures are medians over the rounds, ratios are medians of the ratios of each round.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Worker, machine, standings, take_turns
from benchmarks.recurrent_workers import NEW_TOKENS, SIZES, STREAMS
from jaxgen.losses import linear_cross_entropy

_GATES = {"lstm": 4, "gru": 3, "elman": 1}
_STEPS = 15
_SAMPLES = 8  # in turn: one alone is over before the processor has woken up


def compare_training(model: str, cell: str, rounds: int) -> Table:
    """Trains all contenders in turn, and sets their throughput side by side."""
    workers = [
        Worker.start("benchmarks.recurrent_workers", name, f"{model}-{cell}")
        for name in ("jaxgen", "pytorch", "pytorch-compiled", "keras")
    ]
    tokens, products = STREAMS * SIZES[model].length, SIZES[model].products(_GATES[cell])
    rates = _STEPS * tokens / take_turns(workers, _STEPS, rounds)
    of_peak = 6 * products / np.nanmax([worker.peak for worker in workers])
    title = f"{model}, {cell}, {STREAMS} x {SIZES[model].length} tokens, {rounds} rounds of {_STEPS} steps"
    table = Table("", "tokens/s", "jaxgen / this", "of the matmul peak", title=title)
    for name, rate, ratio in standings(workers, rates):
        table.add_row(name, f"{rate:,.0f}", f"{ratio:.2f}", f"{100 * rate * of_peak:.0f} %")
    return table


def compare_writing(batch_size: int, rounds: int) -> Table:
    """Samples from all contenders in turn."""
    workers = [
        Worker.start("benchmarks.recurrent_workers", name, f"write-{batch_size}")
        for name in ("jaxgen", "pytorch", "pytorch-compiled")
    ]
    rates = _SAMPLES * NEW_TOKENS * batch_size / take_turns(workers, _SAMPLES, rounds)
    table = Table(
        "",
        "tokens/s",
        "jaxgen / this",
        title=f"LSTM writes {batch_size} x {NEW_TOKENS} tokens, {rounds} rounds of {_SAMPLES}",
    )
    for name, rate, ratio in standings(workers, rates):
        table.add_row(name, f"{rate:,.0f}", f"{ratio:.1f}")
    return table


def compare_memory(vocabulary: int = 32_000) -> str:
    """Compares the working memory of the vocabulary's layer, forwards and backwards, with that of plain logits."""

    def plain(hidden: jax.Array, kernel: jax.Array, bias: jax.Array, labels: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(hidden @ kernel + bias, labels).mean()

    def fused(hidden: jax.Array, kernel: jax.Array, bias: jax.Array, labels: jax.Array) -> jax.Array:
        return linear_cross_entropy(hidden, kernel, bias, labels).compute()

    length, width = SIZES["words"].length, SIZES["words"].dense
    shapes = [(STREAMS, length, width), (width, vocabulary), (vocabulary,)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    labels = jax.ShapeDtypeStruct((STREAMS, length), jnp.int32)
    sizes = [
        jax.jit(jax.value_and_grad(way, argnums=(0, 1, 2)))
        .lower(*arguments, labels)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        / 2**20
        for way in (plain, fused)
    ]
    return (
        f"vocabulary of {vocabulary:,}, {STREAMS} x {length} tokens: plain logits take {sizes[0]:,.0f} MiB, "
        f"linear_cross_entropy {sizes[1]:,.0f} MiB, {sizes[0] / sizes[1]:.1f} times less"
    )


def main(rounds: int = 9) -> None:
    """Compares everything.

    Args:
        rounds: of each comparison.
    """
    console = Console()
    console.print(machine("torch", "keras"), highlight=False)
    for model, cell in (*(("words", cell) for cell in _GATES), ("characters", "lstm")):
        console.print(compare_training(model, cell, rounds))
    for batch_size in (1, 64):
        console.print(compare_writing(batch_size, rounds))
    console.print(compare_memory(), highlight=False)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
