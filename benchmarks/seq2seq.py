"""Models that write a text for a text beside PyTorch and Hugging Face's Marian, on this machine, in one run.

python -m benchmarks.seq2seq                                 # needs the bench extra
python -m benchmarks.seq2seq --parts lstm                    # one of lstm, transformer, translate
python -m benchmarks.seq2seq --data train.tsv --columns 2 3  # pairs of texts, in 4,000 sub-words

Training throughput of the LSTM with additive attention and input feeding (256 wide, 4,000 tokens) beside the same model
in PyTorch, and of a Transformer (3 and 3 layers, 256 wide) beside Marian of the same sizes: batches of 4,000 tokens at
most in up to 16 buckets, the same for all, tokens without padding counted. Then how fast the two of jaxgen and Marian
translate 128 texts by 5 beams, 32 texts at a time; all write as many tokens, and none of them ends a text.

Without --data pairs are made up, as long as the verses of a Bible. Contenders take turns, each in a process of its own
that sleeps while the others work. Figures are medians over the rounds, ratios are medians of the ratios of each round.
"""

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import seq2seq_data
from benchmarks.contest import Worker, machine, standings, take_turns
from benchmarks.seq2seq_workers import BEAMS, LAP, batches, in_batches

Part = Literal["lstm", "transformer", "translate"]

_CONTENDERS: dict[Part, tuple[str, ...]] = {
    "lstm": ("jaxgen", "pytorch"),
    "transformer": ("jaxgen", "marian"),
    "translate": ("jaxgen", "jaxgen-lstm", "marian"),
}


def compare(part: Part, file: str, rounds: int) -> Table:
    """Trains or translates with all contenders in turn, and sets their throughput side by side."""
    workers = [Worker.start("benchmarks.seq2seq_workers", name, part, file) for name in _CONTENDERS[part]]
    if part == "translate":
        texts = seq2seq_data.load(file).to_translate
        tokens, steps = sum(len(batch) * count for batch, count in in_batches(texts)), 1
        title = f"{BEAMS} beams write {tokens:,} tokens for {len(texts)} texts, {rounds} rounds"
    else:
        lap = batches(file)
        tokens, steps = sum(int(b["lengths"].sum() + (b["labels"] >= 0).sum()) for b in lap), LAP
        title = f"{part}, {rounds} rounds of {LAP} steps, {tokens:,} tokens"
    rates = tokens / take_turns(workers, steps, rounds)
    table = Table("", "tokens/s", "jaxgen / this", "ratios of the rounds", title=title)
    for (name, rate, ratio), column in zip(standings(workers, rates), rates.T, strict=True):
        ratios = rates[:, 0] / column
        table.add_row(name, f"{rate:,.0f}", f"{ratio:.2f}", f"{ratios.min():.2f} to {ratios.max():.2f}")
    return table


def padding(file: str) -> str:
    """Tells how much of what is trained on is padding."""
    buckets = seq2seq_data.load(file).source.buckets
    assert buckets is not None
    longest = buckets.lengths.max(axis=0).sum()
    return (
        f"{len(buckets):,} pairs of {np.median(buckets.lengths, axis=0)} tokens (median) in {len(buckets.in_use)} "
        f"buckets: {100 * buckets.padding:.1f} % of an epoch's tokens are padding; without buckets "
        f"{100 - 100 * buckets.lengths.sum() / (longest * len(buckets)):.1f} %"
    )


def main(
    rounds: int = 5,
    parts: tuple[Part, ...] = ("lstm", "transformer", "translate"),
    data: str | None = None,
    columns: tuple[str, ...] = (),
) -> None:
    """Compares everything.

    Args:
        rounds: of each comparison.
        parts: what to compare.
        data: pairs of texts, as experiments read them; made up by default.
        columns: of it, those that are read and written.
    """
    console = Console()
    console.print(machine("torch", "transformers"), highlight=False)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "pairs.npz"
        seq2seq_data.save(seq2seq_data.read(data, columns) if data else seq2seq_data.make_up(), file)
        console.print(padding(str(file)), highlight=False)
        for part in parts:
            console.print(compare(part, str(file), rounds))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
