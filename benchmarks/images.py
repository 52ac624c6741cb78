"""The image networks beside PyTorch and Keras, on this machine, in one run.

python -m benchmarks.images                 # needs the bench extra, and MNIST

Training throughput of each contender, in turn, round after round, each in a process of its own that sleeps while the
others work; then whole jobs from the start of the process to the test accuracy, against the usual PyTorch script with
a DataLoader; then the trial run. Figures are medians over the rounds, ratios are medians of the ratios of each round.

The share of the matmul peak counts the multiplications of the plain network, also where a contender gets by with fewer;
the peak is the best that any of them reached. What the command line asks of the memory allocator is asked here.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Worker, machine, standings, take_turns
from benchmarks.image_workers import BATCH_SIZES, CONTENDERS
from jaxgen.data import load

# Multiply-adds of a forward pass; a step does three times as many, less the first layer's gradient of its input.
_FORWARD = {
    "fnn": (784 * 128, 128 * 10),
    "cnn": (26 * 26 * 9 * 32, 11 * 11 * 9 * 32 * 64 + 1600 * 128 + 128 * 10),
}
_STEPS = {"fnn": 900, "cnn": 100}


def compare_throughput(network: str, data: Path, rounds: int) -> Table:
    """Trains all contenders in turn, and sets their throughput side by side."""
    module = "benchmarks.image_workers"
    workers = [Worker.start(module, name, network, str(data)) for name in CONTENDERS[network]]
    steps, batch_size = _STEPS[network], BATCH_SIZES[network]
    rates = steps * batch_size / take_turns(workers, steps, rounds)
    peak = np.nanmax([worker.peak for worker in workers])
    first, rest = _FORWARD[network]
    flops = 2 * (2 * first + 3 * rest)
    columns = ("examples/s", "jaxgen / this", "of the matmul peak")
    table = Table("", *columns, title=f"{network}, batch {batch_size}, {rounds} rounds of {steps} steps")
    for name, rate, ratio in standings(workers, rates):
        table.add_row(name, f"{rate:,.0f}", f"{ratio:.2f}", f"{100 * rate * flops / peak:.0f} %")
    return table


def compare_jobs(network: str, data: Path, data_dir: Path | None, rounds: int) -> Table:
    """Runs whole jobs of an epoch in turn: process start to test accuracy, and the epoch by itself."""
    seconds: list[list[float]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as workdir:
            run = Path(workdir, "run")
            where = [] if data_dir is None else ["--data-dir", str(data_dir)]
            ours, _ = _timed(
                "-m", f"experiments.mnist_{network}", "--epochs", "1", "--workdir", str(run), *where
            )
            result = json.loads((run / "result.json").read_text())
        theirs, printed = _timed("-m", "benchmarks.torch_script", network, str(data), "--epochs", "1")
        epoch = float(re.search(r"epoch ([\d.e-]+)", printed)[1])  # type: ignore[index]
        seconds.append([ours, theirs, 60_000 / result["train/examples_per_second"], epoch])
    found = np.array(seconds)
    table = Table(
        "", "jaxgen", "PyTorch with a DataLoader", "ratio", title=f"{network}, one epoch, {rounds} rounds"
    )
    for name, a, b in (("whole job, s", 0, 1), ("an epoch's steps, compiled, s", 2, 3)):
        ours, theirs = found[:, a], found[:, b]
        table.add_row(
            name, f"{np.median(ours):.2f}", f"{np.median(theirs):.2f}", f"{np.median(theirs / ours):.1f}"
        )
    return table


def time_trial_run(rounds: int) -> str:
    """Times `mnist_fnn --smoke`: its first line, and all of it."""
    firsts, wholes = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as workdir:
            command = [
                sys.executable,
                "-m",
                "experiments.mnist_fnn",
                "--smoke",
                "--workdir",
                f"{workdir}/run",
            ]
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            process.stdout.readline()
            firsts.append(time.perf_counter() - start)
            process.communicate()
            wholes.append(time.perf_counter() - start)
    return (
        f"mnist_fnn --smoke: first line after {np.median(firsts):.1f} s, done after {np.median(wholes):.1f} s"
    )


def _timed(*arguments: str) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise SystemExit(f"{' '.join(arguments)} failed: {told}")
    return time.perf_counter() - start, done.stdout


def main(rounds: int = 7, job_rounds: int = 3, data_dir: Path | None = None) -> None:
    """Compares everything.

    Args:
        rounds: of throughput.
        job_rounds: of whole jobs.
        data_dir: where the prepared MNIST lies; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    console = Console()
    console.print(machine("torch", "keras"), highlight=False)
    train, test = (load("mnist", split, data_dir=data_dir).arrays() for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory, "mnist.npz")
        np.savez(data, **train, test_image=test["image"], test_label=test["label"])
        for network in CONTENDERS:
            console.print(compare_throughput(network, data, rounds))
        for network in CONTENDERS:
            console.print(compare_jobs(network, data, data_dir, job_rounds))
    console.print(time_trial_run(job_rounds), highlight=False)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
