"""BERT's and T5's contenders in `benchmarks.transformers`, each in a process of its own that trains when it is told to.

python -m benchmarks.encoder_workers CONTENDER JOB

JOB is bert, masked language modelling, or t5, from texts to texts. The process prints its matmul peak in FLOP/s once it
has compiled; then it reads numbers of steps, a line each, takes them, and prints the seconds that they took.

No text is padded, and nobody is given a mask. Tokens to be hidden are chosen anew in each step on both sides.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.serving import Work, jax_peak, jaxgen_training, serve, torch_peak
from benchmarks.transformer_workers import torch_adamw

LAYERS, HEADS, WIDTH, INSIDE, VOCABULARY = 4, 4, 256, 1024, 8000
DROPOUT = 0.1  # as published
_EXAMPLES = 1024
_MASK, _FRACTION = 4, 0.15
_LEARNING_RATE, _BETA2, _DECAY = 1e-4, 0.999, 0.01


@dataclass(frozen=True)
class Sizes:
    """Of a batch."""

    batch: int
    source: int
    target: int = 0

    @property
    def tokens(self) -> int:
        """The tokens of a step, read and written."""
        return self.batch * (self.source + self.target)

    @property
    def products(self) -> int:
        """The multiplications of a step, forwards: what is needed, logits of hidden tokens alone."""
        read = LAYERS * (4 * WIDTH**2 + 2 * WIDTH * INSIDE + 2 * self.source * WIDTH)
        if not self.target:
            head = round(_FRACTION * self.source) * (WIDTH**2 + WIDTH * VOCABULARY)
            return self.batch * (self.source * read + head)
        of_source = 2 * WIDTH**2 * LAYERS  # its keys and values
        written = LAYERS * (6 * WIDTH**2 + 2 * WIDTH * INSIDE + (self.target + 2 * self.source) * WIDTH)
        return self.batch * (self.source * (read + of_source) + self.target * (written + WIDTH * VOCABULARY))


SIZES = {"bert": Sizes(32, 128), "t5": Sizes(32, 128, 32)}


def _tokens(length: int) -> np.ndarray:
    """Draws texts whose tokens are as unequally frequent as those of a language."""
    random = np.random.default_rng(length)
    shares = 1 / np.arange(1, VOCABULARY - _MASK)
    drawn = random.choice(len(shares), (_EXAMPLES, length), p=shares / shares.sum())
    return (drawn + _MASK + 1).astype(np.int32)


def jaxgen(job: str, *options: str) -> tuple[Work, float]:
    """The experiments' step and feed."""
    from jaxgen.data import from_arrays
    from jaxgen.memory import keep_freed_memory
    from jaxgen.optim import OptimizerConfig, Schedule
    from jaxgen.parallel import split_host

    keep_freed_memory()
    sizes = SIZES[job]
    if "split" in options:
        split_host(sizes.batch)
    arrays = {
        "tokens": _tokens(sizes.source),
        **({"labels": _tokens(sizes.target)} if sizes.target else {}),
    }
    schedule = Schedule(learning_rate=_LEARNING_RATE)
    optimizer = OptimizerConfig("adamw", schedule, beta2=_BETA2, weight_decay=_DECAY).build()
    task = _t5_task() if sizes.target else _bert_task()
    work = jaxgen_training(task, from_arrays(arrays), sizes.batch, steps_per_call=5, optimizer=optimizer)
    return work, jax_peak()


def _bert_task() -> Any:
    from jaxgen.models import BERT
    from jaxgen.tasks import MaskedLanguageModelling

    model = BERT(VOCABULARY, 128, LAYERS, HEADS, WIDTH, INSIDE, pooler=False, dropout=DROPOUT)
    return MaskedLanguageModelling(model, mask_token=_MASK)


def _t5_task() -> Any:
    from jaxgen.models import T5
    from jaxgen.tasks import SequenceToSequence

    model = T5(
        VOCABULARY,
        WIDTH,
        LAYERS,
        num_heads=HEADS,
        head_size=WIDTH // HEADS,
        feed_forward_size=INSIDE,
        dropout=DROPOUT,
    )
    return SequenceToSequence(model)


def huggingface(job: str, *options: str) -> tuple[Work, float]:
    """The model that transformers has, its loss, and the usual loop."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    sizes, compiled = SIZES[job], "compiled" in options
    model = (_huggingface_t5() if sizes.target else _huggingface_bert()).train()
    forward = torch.compile(model) if compiled else model
    optimizer = torch_adamw(model, _LEARNING_RATE, _BETA2, _DECAY, fused=compiled)
    source = torch.from_numpy(_tokens(sizes.source)).long()
    target = torch.from_numpy(_tokens(sizes.target)).long() if sizes.target else None

    def train(steps: int) -> None:
        for _ in range(steps):
            rows = torch.randint(_EXAMPLES, (sizes.batch,))
            tokens, labels = _hidden(source[rows]) if target is None else (source[rows], target[rows])
            optimizer.zero_grad(set_to_none=True)
            forward(input_ids=tokens, labels=labels).loss.backward()
            optimizer.step()

    return train, torch_peak()


def _hidden(tokens: Any) -> tuple[Any, Any]:
    """Hides tokens as `DataCollatorForLanguageModeling` does, with as few operations; labels are -100 elsewhere."""
    import torch

    chosen = torch.rand(tokens.shape) < _FRACTION
    fates, others = torch.rand(tokens.shape), torch.randint(VOCABULARY, tokens.shape)
    replaced = torch.where(fates < 0.8, _MASK, torch.where(fates < 0.9, others, tokens))
    return torch.where(chosen, replaced, tokens), torch.where(chosen, tokens, -100)


def _huggingface_bert() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INSIDE,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        max_position_embeddings=128,
    )
    return BertForMaskedLM(config)


def _huggingface_t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=INSIDE,
        num_layers=LAYERS,
        num_heads=HEADS,
        dropout_rate=DROPOUT,
        decoder_start_token_id=0,
        use_cache=False,
    )
    return T5ForConditionalGeneration(config)


def main(contender: str, job: str) -> None:
    """Serves one contender."""
    name, *options = contender.split("-")
    makers: dict[str, Callable[..., tuple[Work, float]]] = {"jaxgen": jaxgen, "huggingface": huggingface}
    serve(lambda: makers[name](job, *options), warm_up=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
