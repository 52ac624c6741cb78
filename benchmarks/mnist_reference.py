"""The classic MNIST recipe for the feed-forward net, in PyTorch: the accuracy that jaxgen's must agree with.

    python -m benchmarks.mnist_reference --seeds 10

784-128-10, ReLU, PyTorch's own initialisation, Adam 1e-3, batch 64, 10 epochs, pixels to [-1, 1]. Prints a
test accuracy a seed, and their mean; `python -m experiments.mnist_fnn --seed N` gives jaxgen's.
"""

from pathlib import Path

import numpy as np


def train(data: dict[str, np.ndarray], seed: int, epochs: int = 10, batch_size: int = 64) -> float:
    """Trains one net and gives its test accuracy.

    Args:
        data: `train_images`, `test_images` uint8 [examples, 28, 28, 1], and `train_labels`, `test_labels`.
        seed: of the initialisation and the order of the examples.
        epochs: passes over the training split.
        batch_size: examples a step; the last batch of an epoch is smaller.
    """
    import torch
    from torch import nn

    torch.manual_seed(seed)
    images = {
        split: torch.from_numpy(data[f"{split}_images"]).reshape(-1, 784).float() / 127.5 - 1
        for split in ("train", "test")
    }
    labels = {split: torch.from_numpy(data[f"{split}_labels"]).long() for split in ("train", "test")}
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    cross_entropy = nn.CrossEntropyLoss()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels["train"])).split(batch_size):
            optimizer.zero_grad()
            cross_entropy(model(images["train"][rows]), labels["train"][rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return (model(images["test"]).argmax(1) == labels["test"]).double().mean().item()


def main(seeds: int = 10, data_dir: Path | None = None) -> None:
    """Trains a net a seed.

    Args:
        seeds: how many, from 0 on.
        data_dir: where the prepared MNIST lies; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    from jaxgen.data import load

    data = {}
    for split in ("train", "test"):
        arrays = load("mnist", split, data_dir=data_dir).arrays()
        data[f"{split}_images"], data[f"{split}_labels"] = arrays["image"], arrays["label"]
    accuracies = []
    for seed in range(seeds):
        accuracies.append(train(data, seed))
        print(f"seed {seed}: {100 * accuracies[-1]:.2f} %", flush=True)
    print(f"mean of {seeds}: {100 * np.mean(accuracies):.3f} %, deviation {100 * np.std(accuracies):.3f}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
