"""GPTs beside PyTorch and Hugging Face's transformers, on this machine, in one run.

python -m benchmarks.transformers              # needs the bench extra

Training throughput of nanoGPT's configuration for CPUs (4 layers, 4 heads, 128 wide, 65 characters; 12 windows of 64
tokens a step; AdamW, clipped), on one device and on as many as there are cores; then how fast a GPT of 6 layers, 384
wide, writes 200 tokens behind a prompt of 32, one text at a time and 8. Contenders take turns, each in a process of its
own that sleeps while the others work. Figures are medians over the rounds, ratios are medians of the ratios of each
round.
"""

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Worker, machine, standings, take_turns
from benchmarks.transformer_workers import BATCH_SIZE, NANO, NEW_TOKENS, PROMPT

_STEPS = 50


def compare_training(rounds: int) -> Table:
    """Trains all contenders in turn, and sets their throughput side by side."""
    workers = [
        Worker.start("benchmarks.transformer_workers", name, "train")
        for name in ("jaxgen", "jaxgen-split", "pytorch", "pytorch-compiled")
    ]
    tokens = BATCH_SIZE * NANO.context
    rates = _STEPS * tokens / take_turns(workers, _STEPS, rounds)
    of_peak = 6 * NANO.products / np.nanmax([worker.peak for worker in workers])
    title = f"GPT 4 x 128, {BATCH_SIZE} x {NANO.context} tokens, {rounds} rounds of {_STEPS} steps"
    table = Table("", "tokens/s", "jaxgen / this", "of the matmul peak", title=title)
    for name, rate, ratio in standings(workers, rates):
        table.add_row(name, f"{rate:,.0f}", f"{ratio:.2f}", f"{100 * rate * of_peak:.0f} %")
    return table


def compare_writing(batch_size: int, rounds: int) -> Table:
    """Samples from all contenders in turn."""
    workers = [
        Worker.start("benchmarks.transformer_workers", name, f"write-{batch_size}")
        for name in ("jaxgen", "huggingface")
    ]
    rates = NEW_TOKENS * batch_size / take_turns(workers, 1, rounds)
    title = f"GPT 6 x 384 writes {batch_size} x {NEW_TOKENS} tokens behind {PROMPT}, {rounds} rounds"
    table = Table("", "tokens/s", "jaxgen / this", title=title)
    for name, rate, ratio in standings(workers, rates):
        table.add_row(name, f"{rate:,.0f}", f"{ratio:.1f}")
    return table


def main(rounds: int = 9) -> None:
    """Compares everything.

    Args:
        rounds: of each comparison.
    """
    console = Console()
    console.print(machine("torch", "transformers"), highlight=False)
    console.print(compare_training(rounds))
    for batch_size in (8, 1):
        console.print(compare_writing(batch_size, rounds))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
