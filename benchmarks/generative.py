"""The networks that make images beside PyTorch's, on this machine, in one run.

python -m benchmarks.generative                    # needs the bench extra, and MNIST
python -m benchmarks.generative --jobs unet        # of dcgan, vae, unet, sampling

Training throughput of `mnist_gan --conditional` (batches of 64), `mnist_vae` (128) and `mnist_diffusion` (64), each
with its optimiser and moving average, then how fast the latter makes 64 images in 50 steps with guidance: PyTorch as
it is, with channels last, compiled, and both. Contenders take turns, each in a process of its own that sleeps while the
others work. Figures are medians over the rounds, ratios are medians of the ratios of each round.
"""

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Worker, machine, table_of_rates, take_turns
from benchmarks.generative_workers import BATCH_SIZES, CONTENDERS, SAMPLING_STEPS
from jaxgen.data import load
from jaxgen.models import UNet

Job = Literal["dcgan", "vae", "unet", "sampling"]

_STEPS = {"dcgan": 20, "vae": 300, "unet": 6, "sampling": 1}


def compare(job: Job, data: Path, rounds: int) -> Table:
    """Has all contenders of a job take turns."""
    workers = [
        Worker.start("benchmarks.generative_workers", name, job, str(data)) for name in CONTENDERS[job]
    ]
    steps, batch_size = _STEPS[job], BATCH_SIZES[job]
    rates = steps * batch_size / take_turns(workers, steps, rounds)
    what = f"{SAMPLING_STEPS} steps with guidance" if job == "sampling" else f"{steps} steps"
    title = f"{job}, batch {batch_size}, {rounds} rounds of {what}"
    return table_of_rates(title, "images/s", workers, rates)


def main(
    rounds: int = 7,
    jobs: tuple[Job, ...] = ("dcgan", "vae", "unet", "sampling"),
    data_dir: Path | None = None,
) -> None:
    """Compares everything.

    Args:
        rounds: of each comparison.
        jobs: what to compare.
        data_dir: where the prepared MNIST lies; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    console = Console()
    console.print(machine("torch"), highlight=False)
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory, "mnist.npz")
        np.savez(data, **load("mnist", "train", data_dir=data_dir).arrays())
        for job in jobs:
            console.print(compare(job, data, rounds))
    flops = UNet(num_classes=10).flops((28, 28, 1))
    console.print(f"the U-Net: {flops / 1e6:.0f} MFLOP an image forwards", highlight=False)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
