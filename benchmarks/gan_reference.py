"""A conditional DCGAN in PyTorch by `mnist_gan --conditional`'s recipe, and the quality of its images.

    python -m benchmarks.gan_reference --classifier RUN --epochs 10      # needs the bench extra, and MNIST

The same networks, beginnings, losses, optimisers, schedule and moving average; RUN is of `mnist_cnn`. Prints what
`jaxgen evaluate GAN --classifier RUN` prints of a run of jaxgen's, with the same classifier and the same real images.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.contest import machine


def train(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int, final_fraction: float) -> Any:
    """Trains for some epochs, by a learning rate that falls linearly to a part of itself.

    Args:
        images: uint8 [examples, 28, 28, 1].
        labels: of them.
        epochs: passes over all whole batches of 64.
        seed: of the beginnings, the order and the noise.
        final_fraction: what the learning rate comes down to.

    Returns:
        `generative_torch.Adversaries`.
    """
    import torch

    from benchmarks.generative_torch import Adversaries

    torch.manual_seed(seed)
    batch_size, learning_rate = 64, 2e-4
    # Channels last are the fastest form; it changes no number but by rounding.
    adversaries = Adversaries(("channels_last",), learning_rate)
    real = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    real, classes = real.contiguous(memory_format=torch.channels_last), torch.from_numpy(labels).long()
    steps = epochs * (len(labels) // batch_size)
    step = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(labels))[: len(labels) // batch_size * batch_size].split(batch_size):
            adversaries.set_learning_rate(learning_rate * (1 - (1 - final_fraction) * step / steps))
            adversaries.step(real[rows], classes[rows])
            step += 1
    return adversaries


def sample(adversaries: Any, labels: np.ndarray) -> np.ndarray:
    """Makes images of classes, uint8 [images, 28, 28, 1]."""
    import torch

    parts = [adversaries.sample(torch.from_numpy(part).long()) for part in np.array_split(labels, 20)]
    images = torch.cat(parts).permute(0, 2, 3, 1).numpy()
    return np.round(255 * images.clip(0, 1)).astype(np.uint8)


def main(
    classifier: Path,
    epochs: int = 10,
    seed: int = 0,
    final_fraction: float = 0.1,
    data_dir: Path | None = None,
    samples: Path | None = None,
) -> None:
    """Trains, and measures 10,000 images.

    Args:
        classifier: a run of `mnist_cnn`.
        epochs: of training.
        seed: of all that is drawn.
        final_fraction: what the learning rate comes down to.
        data_dir: where the prepared MNIST lies; by default TFDS_DATA_DIR, or tfds's own directory.
        samples: a PNG to write with ten images of each class.
    """
    from jaxgen.data import load
    from jaxgen.image_quality.features import Classifier
    from jaxgen.image_quality.measures import measure, rows
    from jaxgen.image_sheets import save_png, sheet
    from jaxgen.saved_run import SavedRun

    console = Console()
    console.print(machine("torch"), highlight=False)
    judge = Classifier(SavedRun(classifier))
    data, held_out = (load("mnist", split, data_dir=data_dir).arrays() for split in ("train", "test"))
    begun = time.perf_counter()
    adversaries = train(data["image"], data["label"], epochs, seed, final_fraction)
    console.print(f"{epochs} epochs in {time.perf_counter() - begun:,.0f} s", highlight=False)
    images, seen = sample(adversaries, held_out["label"]), judge(held_out["image"])
    chosen = np.sort(np.random.default_rng(seed).choice(len(data["label"]), len(images), replace=False))
    generated = measure(judge(images), held_out["label"], seen, 10, seed)
    floor = measure(judge(data["image"][chosen]), data["label"][chosen], seen, 10, seed)
    table = Table(f"{len(images):,} images", "PyTorch", "real, of training")
    for row in rows(generated, floor):
        table.add_row(*row)
    console.print(table)
    if samples is not None:
        save_png(samples, sheet(sample(adversaries, np.tile(np.arange(10), 10)), 10))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
