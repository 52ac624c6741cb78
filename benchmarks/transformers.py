"""Transformers beside PyTorch and Hugging Face's transformers, on this machine, in one run.

python -m benchmarks.transformers              # needs the bench extra
python -m benchmarks.transformers --parts gpt  # one of gpt, bert, t5, writing

Training throughput of nanoGPT's configuration for CPUs (4 layers, 4 heads, 128 wide, 65 characters; 12 windows of 64
tokens a step; AdamW, clipped), of a BERT (4 layers, 256 wide, 8,000 tokens; masked language modelling of 32 x 128
tokens) and of a T5 (4 and 4 layers, 256 wide, 8,000 tokens; 32 texts of 128 tokens to read and of 32 to write), on one
device and on as many as there are cores; then how fast a GPT of 6 layers, 384 wide, writes 200 tokens behind a prompt
of 32, one text at a time and 8. What PyTorch compiles has its fused AdamW, too. Contenders take turns, each in a
process of its own that sleeps while the others work. Figures are medians over the rounds, ratios are medians of the
ratios of each round.
"""

from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import encoder_workers
from benchmarks.contest import Worker, machine, standings, take_turns
from benchmarks.transformer_workers import BATCH_SIZE, NANO, NEW_TOKENS, PROMPT

Part = Literal["gpt", "bert", "t5", "writing"]


def compare_gpt(rounds: int, steps: int = 50) -> Table:
    """Trains nanoGPT's configuration."""
    tokens = BATCH_SIZE * NANO.context
    workers = [
        Worker.start("benchmarks.transformer_workers", name, "train")
        for name in ("jaxgen", "jaxgen-split", "pytorch", "pytorch-compiled")
    ]
    title = f"GPT 4 x 128, {BATCH_SIZE} x {NANO.context} tokens, {rounds} rounds of {steps} steps"
    return _trained(title, workers, steps, rounds, tokens, tokens * NANO.products)


def compare_encoder(job: Literal["bert", "t5"], rounds: int, steps: int = 3) -> Table:
    """Trains a BERT or a T5."""
    sizes = encoder_workers.SIZES[job]
    workers = [
        Worker.start("benchmarks.encoder_workers", name, job)
        for name in ("jaxgen", "jaxgen-split", "huggingface", "huggingface-compiled")
    ]
    model, each = (
        ("T5 4+4", f"({sizes.source} + {sizes.target})") if sizes.target else ("BERT 4", sizes.source)
    )
    title = f"{model} x 256, {sizes.batch} x {each} tokens, {rounds} rounds of {steps} steps"
    return _trained(title, workers, steps, rounds, sizes.tokens, sizes.products)


def _trained(title: str, workers: list[Worker], steps: int, rounds: int, tokens: int, products: int) -> Table:
    """Has all train in turn, and sets their throughput side by side; `tokens` and `products` are a step's."""
    rates = steps * tokens / take_turns(workers, steps, rounds)
    of_peak = 6 * products / tokens / np.nanmax([worker.peak for worker in workers])
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


def main(rounds: int = 9, parts: tuple[Part, ...] = ("gpt", "bert", "t5", "writing")) -> None:
    """Compares everything.

    Args:
        rounds: of each comparison.
        parts: what to compare.
    """
    console = Console()
    console.print(machine("torch", "transformers"), highlight=False)
    for part in parts:
        if part == "gpt":
            console.print(compare_gpt(rounds))
        elif part == "writing":
            for batch_size in (8, 1):
                console.print(compare_writing(batch_size, rounds))
        else:
            console.print(compare_encoder(part, rounds))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
