"""The contenders of `benchmarks.recurrent`, each in a process of its own that trains or writes when it is told to.

python -m benchmarks.recurrent_workers CONTENDER JOB

JOB is words-CELL or characters-CELL, to train the classic word model or `shakespeare_lstm`'s with that cell, or
write-BATCH, to sample 256 tokens a row from the word model with an LSTM. The process prints its matmul peak in FLOP/s
once it has compiled; then it reads numbers of steps (or of samples), a line each, takes them, and prints the seconds
that they took.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.serving import Work, jax_peak, jaxgen_training, serve, torch_peak

STREAMS, EMBEDDING = 64, 64
NEW_TOKENS = 256
_BATCHES = 50  # of text that training goes round in


@dataclass(frozen=True)
class Sizes:
    """Of a model and its batches; no dense layer where its size is 0."""

    vocabulary: int
    hidden: int
    dense: int
    dropout: float
    length: int

    def products(self, gates: int) -> int:
        """Gives the multiplications of a token, forwards."""
        width = self.dense or self.hidden
        return (
            gates * self.hidden * (EMBEDDING + self.hidden)
            + self.hidden * self.dense
            + width * self.vocabulary
        )


SIZES = {"words": Sizes(1000, 128, 128, 0.1, 100), "characters": Sizes(65, 256, 0, 0.2, 128)}


def _tokens(sizes: Sizes) -> np.ndarray:
    """Draws a text whose words are as unequally frequent as those of a language."""
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, sizes.vocabulary + 1)
    count = STREAMS * sizes.length * _BATCHES + 1
    return random.choice(sizes.vocabulary, count, p=shares / shares.sum()).astype(np.int32)


def jaxgen(job: str, option: str) -> tuple[Work, float]:
    """The experiment's step and feed, or its decoding loop."""
    from jaxgen.memory import keep_freed_memory
    from jaxgen.models import RecurrentLanguageModel
    from jaxgen.parallel import split_host
    from jaxgen.tasks import LanguageModelling

    keep_freed_memory()
    if job != "write":
        split_host(STREAMS)  # as the command line does
    sizes, cell = SIZES.get(job, SIZES["words"]), "lstm" if job == "write" else option
    model = RecurrentLanguageModel(
        sizes.vocabulary, EMBEDDING, sizes.hidden, cell, dense_size=sizes.dense, dropout=sizes.dropout
    )
    task = LanguageModelling(model)
    return (_write(task, int(option)) if job == "write" else _train(task, sizes)), jax_peak()


def _train(task: Any, sizes: Sizes) -> Work:
    from jaxgen.data.streams import TextFormat, training_streams
    from jaxgen.data.text import Text
    from jaxgen.data.tokenizers import Words

    words = Words(tuple(f"w{number}" for number in range(sizes.vocabulary)))
    text = Text("made up", "train", (" ".join(words.words[token] for token in _tokens(sizes)),), "1")
    source = training_streams(text, TextFormat(words, sizes.length, STREAMS))
    return jaxgen_training(task, source, STREAMS, steps_per_call=5)


def _write(task: Any, batch_size: int) -> Work:
    import jax

    from jaxgen.generate import generate

    params, model_state = task.init(jax.random.key(0), None)
    prompt, lengths = np.ones((batch_size, 4), np.int32), np.full(batch_size, 4, np.int32)

    def write(samples: int) -> None:
        for number in range(samples):
            rng = jax.random.key(number)
            generate(task.decoder, params, model_state, prompt, lengths, rng, max_tokens=NEW_TOKENS)

    return write


def pytorch(job: str, option: str, *options: str) -> tuple[Work, float]:
    """The usual module, and the usual loops in Python."""
    import torch
    from torch import nn

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    kinds = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}

    sizes = SIZES.get(job, SIZES["words"])

    class Model(nn.Module):
        """Embedding, recurrent layer, perhaps a dense layer with ReLU, logits."""

        def __init__(self, cell: str) -> None:
            super().__init__()
            self.embedding = nn.Embedding(sizes.vocabulary, EMBEDDING)
            self.recurrent = kinds[cell](EMBEDDING, sizes.hidden, batch_first=True)
            self.drop = nn.Dropout(sizes.dropout)
            if sizes.dense:
                self.dense = nn.Linear(sizes.hidden, sizes.dense)
            self.output = nn.Linear(sizes.dense or sizes.hidden, sizes.vocabulary)

        def forward(self, tokens: Any, state: Any) -> tuple[Any, Any]:
            """Gives logits and the state."""
            hidden, state = self.recurrent(self.drop(self.embedding(tokens)), state)
            hidden = self.drop(hidden)
            if sizes.dense:
                hidden = self.drop(torch.relu(self.dense(hidden)))
            return self.output(hidden), state

    model: Any = Model("lstm" if job == "write" else option)
    forward = torch.compile(model) if "compiled" in options else model
    found = torch_peak()
    if job == "write":
        model.eval()
        return _torch_writing(forward, int(option)), found
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    cross_entropy = nn.CrossEntropyLoss()
    tokens = torch.from_numpy(_tokens(sizes).astype(np.int64))
    inputs, labels = (t.reshape(STREAMS, -1, sizes.length) for t in (tokens[:-1], tokens[1:]))
    state: Any = None
    batch = 0

    def train(steps: int) -> None:
        nonlocal state, batch
        for _ in range(steps):
            if state is not None:
                state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
            optimizer.zero_grad()
            logits, state = forward(inputs[:, batch % _BATCHES], state)
            cross_entropy(logits.flatten(0, 1), labels[:, batch % _BATCHES].flatten()).backward()
            optimizer.step()
            batch += 1

    return train, found


def _torch_writing(forward: Any, batch_size: int) -> Work:
    import torch

    prompt = torch.ones(batch_size, 4, dtype=torch.long)

    @torch.inference_mode()
    def write(samples: int) -> None:
        for _ in range(samples):
            logits, state = forward(prompt, None)
            written = []
            for _ in range(NEW_TOKENS):
                token = torch.multinomial(torch.softmax(logits[:, -1], dim=-1), 1)
                written.append(token)
                logits, state = forward(token, state)
            torch.cat(written, dim=1)

    return write


def keras(job: str, option: str) -> tuple[Work, float]:
    """`fit`, on the backend that KERAS_BACKEND names; by default JAX's. The state is not carried on."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras
    from keras import layers

    kinds = {"lstm": layers.LSTM, "gru": layers.GRU, "elman": layers.SimpleRNN}
    sizes = SIZES[job]
    dense = (
        [layers.Dense(sizes.dense, activation="relu"), layers.Dropout(sizes.dropout)] if sizes.dense else []
    )
    model = keras.Sequential(
        [
            keras.Input((sizes.length,), dtype="int32"),
            layers.Embedding(sizes.vocabulary, EMBEDDING),
            layers.Dropout(sizes.dropout),
            kinds[option](sizes.hidden, return_sequences=True),
            layers.Dropout(sizes.dropout),
            *dense,
            layers.Dense(sizes.vocabulary),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = _tokens(sizes)
    inputs, labels = (t.reshape(-1, sizes.length) for t in (tokens[:-1], tokens[1:]))

    def train(steps: int) -> None:
        rows = np.arange(steps * STREAMS) % len(inputs)
        model.fit(inputs[rows], labels[rows], batch_size=STREAMS, verbose=0, shuffle=False)

    return train, float("nan")


def main(contender: str, job: str) -> None:
    """Serves one contender."""
    name, *options = contender.split("-")
    kind, option = job.split("-")
    makers: dict[str, Callable[..., tuple[Work, float]]] = {
        "jaxgen": jaxgen,
        "pytorch": pytorch,
        "keras": keras,
    }
    serve(lambda: makers[name](kind, option, *options), warm_up=2 if kind == "write" else 10)


if __name__ == "__main__":
    main(*sys.argv[1:])
