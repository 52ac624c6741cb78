"""The script that one finds for MNIST in PyTorch: a Dataset, a DataLoader, an epoch loop, a test.

python -m benchmarks.torch_script NETWORK DATA --epochs 1

DATA is an npz with `image`, `label`, `test_image`, `test_label`. Prints the seconds of each epoch, and the accuracy.
"""

import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tyro.conf import Positional

_MEAN, _DEVIATION = 0.1307, 0.3081


class Digits(Dataset):
    """Images and labels, made tensors one by one as torchvision's MNIST with ToTensor and Normalize does."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = torch.from_numpy(images[..., 0]), torch.from_numpy(labels).long()

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Gives one example."""
        picture = Image.fromarray(self.images[index].numpy(), mode="L")
        tensor = torch.from_numpy(np.array(picture, np.uint8, copy=True)).unsqueeze(0).float().div(255)
        return tensor.sub(_MEAN).div(_DEVIATION), int(self.labels[index])


def make_network(network: str) -> nn.Module:
    """Makes the standard networks: `fnn` 784-128-10, `cnn` conv32 - pool - conv64 - pool - 128 - 10."""
    if network == "fnn":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    convolutions: list[Any] = []
    for inputs, outputs in ((1, 32), (32, 64)):
        convolutions += [nn.Conv2d(inputs, outputs, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10))


def main(network: Positional[str], data: Positional[str], epochs: int = 1) -> None:
    """Trains and tests.

    Args:
        network: fnn or cnn.
        data: the npz.
        epochs: passes over the training images.
    """
    with np.load(data) as stored:
        arrays = dict(stored)
    batch_size = 64 if network == "fnn" else 32
    train = DataLoader(Digits(arrays["image"], arrays["label"]), batch_size=batch_size, shuffle=True)
    test = DataLoader(Digits(arrays["test_image"], arrays["test_label"]), batch_size=1000)
    model = make_network(network)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    cross_entropy = nn.CrossEntropyLoss()
    for _ in range(epochs):
        start = time.perf_counter()
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
        print(f"epoch {time.perf_counter() - start}", flush=True)
    model.eval()
    with torch.no_grad():
        correct = sum((model(images).argmax(1) == labels).sum().item() for images, labels in test)
    print(f"accuracy {correct / len(arrays['test_label'])}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
