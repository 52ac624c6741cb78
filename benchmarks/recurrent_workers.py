"""The contenders of `benchmarks.recurrent`, each in a process of its own that trains or writes when it is told to.

python -m benchmarks.recurrent_workers CONTENDER JOB

JOB is train-CELL, the classic word model with that cell, or write-BATCH, to sample from the LSTM one. The process
prints its matmul peak in FLOP/s once it has compiled; then it reads numbers of steps (or of tokens a row), a line each,
takes them, and prints the seconds that they took.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.image_workers import peak

VOCABULARY, EMBEDDING, HIDDEN, DENSE, DROPOUT = 1000, 64, 128, 128, 0.1
STREAMS, SEQUENCE_LENGTH = 64, 100
_PEAK_SIZE = 2048
_BATCHES = 50  # of text that training goes round in

Work = Callable[[int], Any]


def _tokens() -> np.ndarray:
    """Draws a text whose words are as unequally frequent as those of a language."""
    random = np.random.default_rng(0)
    shares = 1 / np.arange(1, VOCABULARY + 1)
    count = STREAMS * SEQUENCE_LENGTH * _BATCHES + 1
    return random.choice(VOCABULARY, count, p=shares / shares.sum()).astype(np.int32)


def jaxgen(job: str, option: str) -> tuple[Work, float]:
    """The experiment's step and feed, or its decoding loop."""
    import jax
    import jax.numpy as jnp

    from jaxgen.memory import keep_freed_memory
    from jaxgen.models import RecurrentLanguageModel
    from jaxgen.tasks import LanguageModelling

    keep_freed_memory()
    cell = option if job == "train" else "lstm"
    model = RecurrentLanguageModel(VOCABULARY, EMBEDDING, HIDDEN, cell, dense_size=DENSE, dropout=DROPOUT)
    task = LanguageModelling(model)
    square = jnp.ones((_PEAK_SIZE, _PEAK_SIZE))
    multiply = jax.jit(lambda a: a @ a)
    found = peak(lambda: multiply(square).block_until_ready())
    return (_train(task) if job == "train" else _write(task, int(option))), found


def _train(task: Any) -> Work:
    import jax
    import optax

    from jaxgen import TrainState, make_train_step
    from jaxgen.data import BatchOrder
    from jaxgen.data.streams import TextFormat, training_streams
    from jaxgen.data.text import Text
    from jaxgen.data.tokenizers import Words
    from jaxgen.parallel import make_mesh, put_state
    from jaxgen.train.feed import ResidentFeed

    words = Words(tuple(f"w{number}" for number in range(VOCABULARY)))
    text = Text("made up", "train", (" ".join(words.words[token] for token in _tokens()),), "1")
    source = training_streams(text, TextFormat(words, SEQUENCE_LENGTH, STREAMS))
    order = BatchOrder(len(source), STREAMS, seed=0, shuffle=False)
    mesh = make_mesh()
    feed = ResidentFeed(source, order, mesh, steps_per_call=5)
    optimizer = optax.adam(1e-3)
    state = put_state(TrainState.create(task, optimizer, jax.random.key(0), source.gather(order(0)[0])), mesh)
    run = feed.bind(make_train_step(task.loss, optimizer), state)
    position = 0

    def train(steps: int) -> None:
        nonlocal state, position
        end = position + steps
        while position < end:
            count = min(feed.steps_per_call, end - position)
            state, _ = run(state, position, count)
            position += count
        jax.block_until_ready(state.params)

    return train


def _write(task: Any, batch_size: int) -> Work:
    import jax

    from jaxgen.generate import generate

    params, model_state = task.init(jax.random.key(0), None)
    prompt, lengths = np.ones((batch_size, 4), np.int32), np.full(batch_size, 4, np.int32)

    def write(tokens: int) -> None:
        generate(task.decoder, params, model_state, prompt, lengths, jax.random.key(1), max_tokens=tokens)

    return write


def pytorch(job: str, option: str, *options: str) -> tuple[Work, float]:
    """The usual module, and the usual loops in Python."""
    import torch
    from torch import nn

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    kinds = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}

    class Model(nn.Module):
        """Embedding, recurrent layer, dense layer with ReLU, logits."""

        def __init__(self, cell: str) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
            self.recurrent = kinds[cell](EMBEDDING, HIDDEN, batch_first=True)
            self.dense, self.output = nn.Linear(HIDDEN, DENSE), nn.Linear(DENSE, VOCABULARY)
            self.drop = nn.Dropout(DROPOUT)

        def forward(self, tokens: Any, state: Any) -> tuple[Any, Any]:
            """Gives logits and the state."""
            hidden, state = self.recurrent(self.drop(self.embedding(tokens)), state)
            return self.output(self.drop(torch.relu(self.dense(self.drop(hidden))))), state

    model: Any = Model(option if job == "train" else "lstm")
    forward = torch.compile(model) if "compiled" in options else model
    square = torch.ones(_PEAK_SIZE, _PEAK_SIZE)
    found = peak(lambda: square @ square)
    if job == "write":
        model.eval()
        return _torch_writing(forward, int(option)), found
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    cross_entropy = nn.CrossEntropyLoss()
    tokens = torch.from_numpy(_tokens().astype(np.int64))
    inputs, labels = (t.reshape(STREAMS, -1, SEQUENCE_LENGTH) for t in (tokens[:-1], tokens[1:]))
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
    def write(tokens: int) -> Any:
        logits, state = forward(prompt, None)
        written = []
        for _ in range(tokens):
            token = torch.multinomial(torch.softmax(logits[:, -1], dim=-1), 1)
            written.append(token)
            logits, state = forward(token, state)
        return torch.cat(written, dim=1)

    return write


def keras(job: str, option: str) -> tuple[Work, float]:
    """`fit`, on the backend that KERAS_BACKEND names; by default JAX's. The state is not carried on."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras
    from keras import layers

    kinds = {"lstm": layers.LSTM, "gru": layers.GRU, "elman": layers.SimpleRNN}
    model = keras.Sequential(
        [
            keras.Input((SEQUENCE_LENGTH,), dtype="int32"),
            layers.Embedding(VOCABULARY, EMBEDDING),
            layers.Dropout(DROPOUT),
            kinds[option](HIDDEN, return_sequences=True),
            layers.Dropout(DROPOUT),
            layers.Dense(DENSE, activation="relu"),
            layers.Dropout(DROPOUT),
            layers.Dense(VOCABULARY),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = _tokens()
    inputs, labels = (t.reshape(-1, SEQUENCE_LENGTH) for t in (tokens[:-1], tokens[1:]))

    def train(steps: int) -> None:
        rows = np.arange(steps * STREAMS) % len(inputs)
        model.fit(inputs[rows], labels[rows], batch_size=STREAMS, verbose=0, shuffle=False)

    return train, float("nan")


def main(contender: str, job: str) -> None:
    """Serves one contender."""
    name, *options = contender.split("-")
    kind, option = job.split("-")
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    makers: dict[str, Callable[..., tuple[Work, float]]] = {
        "jaxgen": jaxgen,
        "pytorch": pytorch,
        "keras": keras,
    }
    work, found = makers[name](kind, option, *options)
    work(10 if kind == "train" else 256)
    print(found, file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        work(int(line))
        print(time.perf_counter() - start, file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
