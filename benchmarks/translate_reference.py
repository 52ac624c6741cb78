"""A Transformer of `experiments.translate` again as Hugging Face's Marian: the scores that jaxgen's must come up to.

    python -m experiments.translate --model transformer ... --workdir RUN
    python -m benchmarks.translate_reference RUN

Marian has the size, vocabulary, batches, number of updates, schedule, label smoothing and dropout of the run. Prints
BLEU of the validation split after each epoch, greedily, and of the test split at the end, greedily and with 5 beams, of
the state whose BLEU of validation was the highest, as jaxgen takes it; and the seconds of training.
"""

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tyro.conf import Positional

from benchmarks.marian import make_marian
from experiments.translate import EXPERIMENT
from jaxgen.data.orders import BucketOrder
from jaxgen.data.pipeline import read_batch
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.sources import Source
from jaxgen.experiment import optimizer_config
from jaxgen.run import parse
from jaxgen.saved_run import SavedRun
from jaxgen.splits import load_splits
from jaxgen.text_scores import bleu
from jaxgen.text_to_text import texts_of

_ROWS = 64


def make_model(run: SavedRun, given: SequenceFormat, longest: int) -> Any:
    """Makes a Marian of the run's size."""
    model, (end,) = run.task.model, given.last
    return make_marian(
        vocab_size=model.vocabulary_size,
        width=model.embedding_size,
        layers=model.num_layers,
        heads=model.num_heads,
        inside=model.feed_forward_size or 4 * model.embedding_size,
        dropout=model.dropout,
        activation_function=model.activation,
        max_position_embeddings=longest,
        pad_token_id=given.padding,
        eos_token_id=end,
        bos_token_id=None,
        decoder_start_token_id=run.task.start_token,
    )


def as_inputs(examples: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Makes a batch what Marian takes."""
    tokens = torch.from_numpy(np.asarray(examples["tokens"], np.int64))
    seen = torch.arange(tokens.shape[1]) < torch.from_numpy(np.asarray(examples["lengths"]))[:, None]
    return {"input_ids": tokens, "attention_mask": seen.long()}


def translate(model: Any, source: Source, num_beams: int, max_tokens: int) -> float:
    """Gives BLEU of what a model writes for a split."""
    model.eval()
    given: Any = source.text
    lengths = source.gather(np.arange(len(source)))["lengths"]
    texts = [""] * len(source)
    for rows in np.array_split(np.argsort(lengths, kind="stable"), -(-len(source) // _ROWS)):
        examples = source.gather(rows)
        examples["tokens"] = examples["tokens"][:, : examples["lengths"].max()]
        with torch.no_grad():
            found = model.generate(
                **as_inputs(examples), num_beams=num_beams, do_sample=False, max_new_tokens=max_tokens
            )
        for number, row in zip(rows, found.tolist(), strict=True):
            written = row[1:]
            if given.last[0] in written:
                written = written[: written.index(given.last[0])]
            tokens = [token for token in written if token != given.padding]
            texts[number] = given.tokenizer.decode(tokens).strip()
    model.train()
    _, targets = texts_of(source)
    return bleu(texts, targets)["bleu"]


def loss_of(model: Any, batch: Any, start_token: int, label_smoothing: float) -> torch.Tensor:
    """Gives the loss that jaxgen's task has."""
    labels = torch.from_numpy(np.where(batch["weight"][:, None] > 0, batch["labels"], -1).astype(np.int64))
    before = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=start_token)
    before = torch.where(before < 0, start_token, before)
    logits = model(**as_inputs(batch), decoder_input_ids=before).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-1, label_smoothing=label_smoothing
    )


def main(run: Positional[Path], seed: int = 0) -> None:
    """Trains one model.

    Args:
        run: directory of a run of `experiments.translate --model transformer`, finished.
        seed: of the initialisation, of dropout, and of the order of batches.
    """
    torch.manual_seed(seed)
    saved = SavedRun(run)
    config = parse(EXPERIMENT, saved.config["arguments"])
    splits = load_splits(EXPERIMENT, config, config.data_dir)
    train, validation, test = (splits[split] for split in ("train", "validation", "test"))
    given: Any = train.text
    longest = max(given.sequence_length, given.target_length)
    model = make_model(saved, given, longest + 1)
    print(f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} parameters", flush=True)
    told = saved.config["optimizer"]
    schedule = optimizer_config(config, saved.config["steps"]).schedule.build()
    betas = (0.9, told["beta2"] or 0.999)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, betas=betas)
    order, steps = BucketOrder(train.buckets, seed), saved.config["steps"]
    seconds, best, kept = 0.0, -1.0, None
    start = time.perf_counter()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = float(schedule(step))
        optimizer.zero_grad()
        batch = read_batch(train, order, step)
        loss_of(model, batch, saved.task.start_token, saved.task.label_smoothing).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), told["clip_norm"] or float("inf"))
        optimizer.step()
        if (step + 1) % order.steps_per_epoch == 0 or step + 1 == steps:
            seconds += time.perf_counter() - start
            found = translate(model, validation, 1, given.target_length)
            print(f"step {step + 1}  validation BLEU {found:.2f}  {seconds:.0f} s", flush=True)
            if found > best:
                best, kept = found, copy.deepcopy(model.state_dict())
            start = time.perf_counter()
    model.load_state_dict(kept)
    for num_beams in (1, 5):
        print(
            f"test BLEU with {num_beams} beams: {translate(model, test, num_beams, given.target_length):.2f}"
        )


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
