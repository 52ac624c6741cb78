"""The contenders of `benchmarks.seq2seq`, each in a process of its own that trains or translates when it is told to.

python -m benchmarks.seq2seq_workers CONTENDER JOB FILE

JOB is lstm, to train the recurrent model with attention, transformer, to train that, or translate, by five beams, as
many tokens for each text as the longest one of its batch has: nothing ends a text. FILE is what `save` of
`benchmarks.seq2seq_data` gave. The process prints its matmul peak in FLOP/s once it has compiled; then it reads numbers
of steps, or of times to translate all, a line each, does so, and prints the seconds that it took.

All train on the same batches: the first LAP of an epoch, again and again.
"""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.seq2seq_data import VOCABULARY, load
from benchmarks.serving import Work, jax_peak, jaxgen_training, serve, torch_peak

WIDTH, LAYERS, HEADS, INSIDE, DROPOUT = 256, 3, 4, 1024, 0.1
LAP = 12
BEAMS, AT_ONCE = 5, 32
PADDING = 0
_CLIP, _LEARNING_RATE = 1.0, 1e-3


def batches(file: str) -> list[dict[str, np.ndarray]]:
    """Gives the batches of a lap, cut to their buckets."""
    from jaxgen.data.orders import order_of
    from jaxgen.data.pipeline import read_batch

    source = load(file).source
    order = order_of(source, 1, seed=0)
    return [read_batch(source, order, step) for step in range(LAP)]


def jaxgen(job: str, file: str, kind: str = "transformer") -> tuple[Work, float]:
    """The experiments' step and feed, or their search."""
    from jaxgen.memory import keep_freed_memory
    from jaxgen.optim import OptimizerConfig, Schedule
    from jaxgen.parallel import split_host
    from jaxgen.tasks import SequenceToSequence

    keep_freed_memory()
    training = job != "translate"
    if not training:
        split_host(AT_ONCE)  # as `jaxgen translate` does
    task = SequenceToSequence(_model(job if training else kind), start_token=PADDING)
    loaded = load(file)
    if not training:
        return _translate(task, loaded.to_translate), jax_peak()
    schedule = Schedule(learning_rate=_LEARNING_RATE)
    optimizer = OptimizerConfig("adam", schedule, clip_norm=_CLIP).build()
    work = jaxgen_training(task, loaded.source, 1, steps_per_call=1, optimizer=optimizer, lap=LAP)
    return work, jax_peak()


def _model(kind: str) -> Any:
    from jaxgen.models import EncoderDecoderTransformer, RecurrentEncoderDecoder

    if kind == "lstm":
        return RecurrentEncoderDecoder(VOCABULARY, dropout=DROPOUT)
    return EncoderDecoderTransformer(
        VOCABULARY, None, WIDTH, LAYERS, num_heads=HEADS, feed_forward_size=INSIDE, dropout=DROPOUT
    )


def in_batches(texts: list[np.ndarray]) -> Iterator[tuple[list[np.ndarray], int]]:
    """Gives sources that are translated at once, and how many tokens are written for each."""
    for start in range(0, len(texts), AT_ONCE):
        batch = texts[start : start + AT_ONCE]
        yield batch, max(map(len, batch))


def _translate(task: Any, texts: list[np.ndarray]) -> Work:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxgen.generate import beam_search
    from jaxgen.generate.prompts import pad_to_bucket
    from jaxgen.parallel import make_mesh

    everywhere = NamedSharding(make_mesh(), PartitionSpec())
    params, model_state = jax.device_put(task.init(jax.random.key(0), None), everywhere)

    def translate(times: int) -> None:
        for _ in range(times):
            for batch, count in in_batches(texts):
                tokens, lengths = pad_to_bucket(batch)
                inputs = {"tokens": tokens, "lengths": lengths}
                prompt = np.full((len(batch), 1), PADDING, np.int32), np.ones(len(batch), np.int32)
                found = beam_search(
                    task.decoder,
                    params,
                    model_state,
                    *prompt,
                    max_tokens=count,
                    num_beams=BEAMS,
                    inputs=inputs,
                )
                assert (found.lengths == count).all()

    return translate


def pytorch(job: str, file: str) -> tuple[Work, float]:
    """The recurrent model as one writes it down, with PyTorch's layers and cells."""
    import torch

    from benchmarks.seq2seq_torch import EncoderDecoder

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model = EncoderDecoder(VOCABULARY, WIDTH, DROPOUT, PADDING)

    def loss(batch: dict[str, Any]) -> Any:
        before = torch.nn.functional.pad(batch["labels"][:, :-1], (1, 0), value=PADDING).clamp(min=PADDING)
        logits = model(batch["tokens"], batch["lengths"], before)
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-1
        )

    return _torch_training(model, loss, file), torch_peak()


def marian(job: str, file: str) -> tuple[Work, float]:
    """Hugging Face's Marian, of the same size."""
    import torch

    from benchmarks.marian import make_marian

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model = make_marian(
        vocab_size=VOCABULARY,
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        inside=INSIDE,
        dropout=DROPOUT,
        activation_function="relu",
        max_position_embeddings=512,
        pad_token_id=PADDING,
        decoder_start_token_id=PADDING,
        eos_token_id=None,
    )
    if job == "translate":
        return _marian_translates(model.eval(), load(file).to_translate), torch_peak()

    def loss(batch: dict[str, Any]) -> Any:
        mask = torch.arange(batch["tokens"].shape[1]) < batch["lengths"][:, None]
        labels = batch["labels"].masked_fill(batch["labels"] < 0, -100)
        return model(
            input_ids=batch["tokens"], attention_mask=mask.long(), labels=labels, use_cache=False
        ).loss

    return _torch_training(model, loss, file), torch_peak()


def _torch_training(model: Any, loss: Callable[[dict[str, Any]], Any], file: str) -> Work:
    import torch

    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    ready = [
        {name: torch.from_numpy(np.asarray(batch[name])).long() for name in ("tokens", "lengths", "labels")}
        for batch in batches(file)
    ]
    position = 0

    def train(steps: int) -> None:
        nonlocal position
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss(ready[position % LAP]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
            optimizer.step()
            position += 1

    return train


def _marian_translates(model: Any, texts: list[np.ndarray]) -> Work:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    def translate(times: int) -> None:
        for _ in range(times):
            for batch, count in in_batches(texts):
                rows = [torch.from_numpy(row).long() for row in batch]
                mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
                written = model.generate(
                    pad_sequence(rows, batch_first=True, padding_value=PADDING),
                    attention_mask=mask,
                    num_beams=BEAMS,
                    do_sample=False,
                    max_new_tokens=count,
                )
                assert written.shape[1] == 1 + count

    return translate


def main(contender: str, job: str, file: str) -> None:
    """Serves one contender."""
    name, *options = contender.split("-")
    makers: dict[str, Callable[..., tuple[Work, float]]] = {
        "jaxgen": jaxgen,
        "pytorch": pytorch,
        "marian": marian,
    }
    serve(lambda: makers[name](job, file, *options), warm_up=1 if job == "translate" else LAP)


if __name__ == "__main__":
    main(*sys.argv[1:])
