"""The contenders of `benchmarks.images`, each in a process of its own that trains when it is told to.

python -m benchmarks.image_workers CONTENDER NETWORK DATA

DATA is an npz with `image` uint8 [examples, 28, 28, 1] and `label`. The process prints its matmul peak in FLOP/s once
it has compiled; then it reads numbers of steps, a line each, takes them, and prints the seconds that they took.
"""

import os
import sys
from typing import Any

import numpy as np

from benchmarks.serving import Work, jax_peak, jaxgen_training, serve, slices, torch_peak

BATCH_SIZES = {"fnn": 64, "cnn": 32}
CONTENDERS = {
    "fnn": ("jaxgen", "pytorch", "pytorch-compiled", "keras"),
    "cnn": (
        "jaxgen",
        "pytorch",
        "pytorch-channels_last",
        "pytorch-compiled",
        "pytorch-compiled-channels_last",
        "keras",
    ),
}
_SHUFFLED = 10_000  # examples that the bare loops go round in


def jaxgen(network: str, data: dict[str, np.ndarray]) -> tuple[Work, float]:
    """The experiments' step and feed, the set on the device."""
    from jaxgen import ConvNet, FeedForward, ImageClassification
    from jaxgen.data import from_arrays
    from jaxgen.memory import keep_freed_memory

    keep_freed_memory()
    model = FeedForward() if network == "fnn" else ConvNet()
    task = ImageClassification(model, pixel_range=(-1.0, 1.0) if network == "fnn" else (0.0, 1.0))
    source = from_arrays({name: data[name] for name in ("image", "label")})
    # As `fit` chooses: convolutions run one step a call on CPUs, other nets as many as between reports.
    train = jaxgen_training(task, source, BATCH_SIZES[network], 100 if network == "fnn" else 1)
    return train, jax_peak()


def pytorch(network: str, data: dict[str, np.ndarray], *options: str) -> tuple[Work, float]:
    """The usual loop without a DataLoader: slices of tensors that lie in memory."""
    import torch
    from torch import nn

    from benchmarks.torch_script import make_network

    torch.set_num_threads(os.cpu_count() or 1)
    images = torch.from_numpy(data["image"][:_SHUFFLED]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(data["label"][:_SHUFFLED]).long()
    model: Any = make_network(network)
    if "channels_last" in options:
        model, images = (part.to(memory_format=torch.channels_last) for part in (model, images))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    forward = torch.compile(model) if "compiled" in options else model
    cross_entropy = nn.CrossEntropyLoss()

    def train(steps: int) -> None:
        for rows in slices(len(labels), BATCH_SIZES[network], steps):
            optimizer.zero_grad()
            cross_entropy(forward(images[rows]), labels[rows]).backward()
            optimizer.step()

    return train, torch_peak()


def keras(network: str, data: dict[str, np.ndarray]) -> tuple[Work, float]:
    """`fit`, on the backend that KERAS_BACKEND names; by default JAX's."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras
    from keras import layers

    convolutions = [
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPool2D(),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPool2D(),
    ]
    body = convolutions if network == "cnn" else []
    head = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)]
    model = keras.Sequential([keras.Input((28, 28, 1)), *body, *head])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = data["image"].astype(np.float32) / 255, data["label"]
    batch_size = BATCH_SIZES[network]

    def train(steps: int) -> None:
        rows = steps * batch_size
        model.fit(images[:rows], labels[:rows], batch_size=batch_size, verbose=0)

    return train, float("nan")


def main(contender: str, network: str, path: str) -> None:
    """Serves one contender."""
    name, *options = contender.split("-")
    with np.load(path) as stored:
        data = dict(stored)
    make = {"jaxgen": jaxgen, "pytorch": pytorch, "keras": keras}[name]
    serve(lambda: make(network, data, *options), warm_up=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
