"""`experiments.shakespeare_lstm` in PyTorch: the loss and the time that jaxgen's must not exceed.

    python -m benchmarks.shakespeare_reference --seed 0

torch.nn.LSTM, one layer of 256, embedding 64, dropout 0.2 of what the LSTM and the last layer read, 64 streams of 128
characters with the state carried on, Adam 3e-3 with a cosine to zero, gradients clipped to norm 1, 33 epochs. Prints
the validation loss after each epoch, over 16 streams as jaxgen's, and the seconds of training until then.
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from jaxgen.data import text
from jaxgen.data.streams import EVALUATION_STREAMS
from jaxgen.data.tokenizers import Characters


class Model(nn.Module):
    """Embedding, LSTM, logits."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 64)
        self.recurrent = nn.LSTM(64, 256, batch_first=True)
        self.output = nn.Linear(256, vocabulary_size)
        self.drop = nn.Dropout(0.2)

    def forward(self, tokens: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        """Gives logits and the state."""
        hidden, state = self.recurrent(self.drop(self.embedding(tokens)), state)
        return self.output(self.drop(hidden)), state


def evaluate(model: Model, tokens: torch.Tensor) -> float:
    """Gives the loss over a text, in streams that begin without context."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        for row in torch.arange(len(tokens) - 1).tensor_split(EVALUATION_STREAMS):
            logits, _ = model(tokens[row][None])
            total += nn.functional.cross_entropy(logits[0], tokens[row + 1], reduction="sum").item()
    model.train()
    return total / (len(tokens) - 1)


def main(
    seed: int = 0, epochs: int = 33, streams: int = 64, length: int = 128, data_dir: Path | None = None
) -> None:
    """Trains one model.

    Args:
        seed: of the initialisation and of dropout.
        epochs: passes over the text.
        streams: parts of the text that are read side by side.
        length: characters of each a step.
        data_dir: where the prepared tiny_shakespeare lies; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    torch.manual_seed(seed)
    texts = [
        "".join(text.read("tiny_shakespeare", part, data_dir=data_dir).documents)
        for part in ("train", "validation")
    ]
    tokenizer = Characters.train(texts)
    tokens, held_out = (torch.from_numpy(tokenizer.encode(part).astype(np.int64)) for part in texts)
    windows = (len(tokens) - 1) // (streams * length)
    size = windows * streams * length
    inputs, labels = (
        part.reshape(streams, windows, length) for part in (tokens[:size], tokens[1 : size + 1])
    )
    model = Model(len(tokenizer.vocabulary))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / (epochs * windows)))
    )
    seconds = 0.0
    for epoch in range(epochs):
        start, state = time.perf_counter(), None
        for window in range(windows):
            optimizer.zero_grad()
            logits, state = model(inputs[:, window], state)
            state = tuple(part.detach() for part in state)
            nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, window].flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        seconds += time.perf_counter() - start
        print(f"epoch {epoch + 1}  validation {evaluate(model, held_out):.4f}  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
