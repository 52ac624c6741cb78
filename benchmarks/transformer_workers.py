"""The contenders of `benchmarks.transformers`, each in a process of its own that trains or writes when it is told to.

python -m benchmarks.transformer_workers CONTENDER JOB

JOB is train, for nanoGPT's configuration for CPUs, or write-BATCH, for sampling from a GPT of 6 layers, 384 wide. The
process prints its matmul peak in FLOP/s once it has compiled; then it reads numbers of steps (or of samples), a line
each, takes them, and prints the seconds that they took.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.serving import Work, jax_peak, jaxgen_training, serve, torch_peak

BATCH_SIZE = 12
PROMPT, NEW_TOKENS = 32, 200
_TEXT_LENGTH = 100_000


@dataclass(frozen=True)
class Sizes:
    """Of a GPT over characters."""

    layers: int
    heads: int
    width: int
    context: int
    vocabulary: int = 65

    @property
    def products(self) -> int:
        """The multiplications of a token, forwards, half the context seen on average."""
        return self.layers * (12 * self.width**2 + self.context * self.width) + self.width * self.vocabulary


NANO, BABY = Sizes(4, 4, 128, 64), Sizes(6, 6, 384, 256)


def _tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, NANO.vocabulary, _TEXT_LENGTH)


def jaxgen(job: str, batch_size: int, *options: str) -> tuple[Work, float]:
    """The experiment's step and feed, or its decoding loop."""
    from jaxgen.memory import keep_freed_memory
    from jaxgen.models import GPT
    from jaxgen.parallel import split_host
    from jaxgen.tasks import LanguageModelling

    keep_freed_memory()
    if "split" in options:
        split_host(BATCH_SIZE)
    sizes = NANO if job == "train" else BABY
    model = GPT(sizes.vocabulary, sizes.context, sizes.layers, sizes.heads, sizes.width, use_bias=False)
    task = LanguageModelling(model)
    return (_train(task) if job == "train" else _write(task, batch_size)), jax_peak()


def _train(task: Any) -> Work:
    from jaxgen.data.streams import TextFormat
    from jaxgen.data.text import Text
    from jaxgen.data.tokenizers import Characters
    from jaxgen.data.windows import training_windows
    from jaxgen.optim import OptimizerConfig

    characters = Characters("".join(map(chr, range(48, 48 + NANO.vocabulary))))
    text = Text("made up", "train", (characters.decode(_tokens().tolist()),), "1")
    source = training_windows(text, TextFormat(characters, NANO.context, 0))
    optimizer = OptimizerConfig("adamw", beta2=0.99, weight_decay=0.1, clip_norm=1.0).build()
    return jaxgen_training(task, source, BATCH_SIZE, steps_per_call=50, optimizer=optimizer)


def _write(task: Any, batch_size: int) -> Work:
    import jax

    from jaxgen.generate import generate

    params, model_state = task.init(jax.random.key(0), None)
    prompt, lengths = np.ones((batch_size, PROMPT), np.int32), np.full(batch_size, PROMPT, np.int32)

    def write(samples: int) -> None:
        for number in range(samples):
            rng = jax.random.key(number)
            generate(task.decoder, params, model_state, prompt, lengths, rng, max_tokens=NEW_TOKENS)

    return write


def pytorch(job: str, batch_size: int, *options: str) -> tuple[Work, float]:
    """The usual module and loop in Python, with PyTorch's own attention and AdamW."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model = _torch_gpt(NANO)
    forward = torch.compile(model) if "compiled" in options else model
    optimizer = torch_adamw(model, 1e-3, 0.99, 0.1, fused="compiled" in options)
    text = torch.from_numpy(_tokens().astype(np.int64))
    window = torch.arange(NANO.context)

    def train(steps: int) -> None:
        for _ in range(steps):
            places = torch.randint(len(text) - NANO.context, (BATCH_SIZE, 1)) + window
            logits = forward(text[places])
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(logits.flatten(0, 1), text[places + 1].flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return train, torch_peak()


def torch_adamw(model: Any, learning_rate: float, beta2: float, decay: float, *, fused: bool) -> Any:
    """Makes AdamW, which decays matrices alone, as jaxgen's does."""
    import torch

    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) == decays], "weight_decay": decay * decays}
        for decays in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, beta2), fused=fused)


def _torch_gpt(sizes: Sizes) -> Any:
    """Makes nanoGPT's model: no biases, the last layer tied to the embedding."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        """Attention and a feed-forward layer."""

        def __init__(self) -> None:
            super().__init__()
            width = sizes.width
            self.attention_norm = nn.LayerNorm(width, bias=False)
            self.projected = nn.Linear(width, 3 * width, bias=False)
            self.output = nn.Linear(width, width, bias=False)
            self.feed_forward = nn.Sequential(
                nn.LayerNorm(width, bias=False),
                nn.Linear(width, 4 * width, bias=False),
                nn.GELU(),
                nn.Linear(4 * width, width, bias=False),
            )

        def forward(self, hidden: Any) -> Any:
            """Gives what goes to the next block."""
            batch, time, width = hidden.shape
            parts = self.projected(self.attention_norm(hidden)).split(width, dim=2)
            query, key, value = (part.view(batch, time, sizes.heads, -1).transpose(1, 2) for part in parts)
            attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            hidden = hidden + self.output(attended.transpose(1, 2).reshape(batch, time, width))
            return hidden + self.feed_forward(hidden)

    class Model(nn.Module):
        """The embeddings, the blocks, and the logits."""

        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
            self.positions = nn.Embedding(sizes.context, sizes.width)
            self.blocks = nn.Sequential(*(Block() for _ in range(sizes.layers)))
            self.norm = nn.LayerNorm(sizes.width, bias=False)
            for matrix in self.parameters():
                if matrix.ndim > 1:
                    nn.init.normal_(matrix, std=0.02)

        def forward(self, tokens: Any) -> Any:
            """Gives logits."""
            hidden = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
            return functional.linear(self.norm(self.blocks(hidden)), self.tokens.weight)

    return Model()


def huggingface(job: str, batch_size: int) -> tuple[Work, float]:
    """`generate` of the GPT-2 that transformers has, with its cache."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=BABY.vocabulary,
        n_positions=BABY.context,
        n_embd=BABY.width,
        n_layer=BABY.layers,
        n_head=BABY.heads,
        bos_token_id=None,
        eos_token_id=None,  # it writes to the end
    )
    model = GPT2LMHeadModel(config).eval()
    prompt = torch.ones(batch_size, PROMPT, dtype=torch.long)
    mask = torch.ones_like(prompt)

    def write(samples: int) -> None:
        for _ in range(samples):
            written = model.generate(
                prompt,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                max_new_tokens=NEW_TOKENS,
                pad_token_id=0,
            )
            assert written.shape[1] == PROMPT + NEW_TOKENS

    return write, torch_peak()


def main(contender: str, job: str) -> None:
    """Serves one contender."""
    name, *options = contender.split("-")
    kind, _, batch_size = job.partition("-")
    makers: dict[str, Callable[..., tuple[Work, float]]] = {
        "jaxgen": jaxgen,
        "pytorch": pytorch,
        "huggingface": huggingface,
    }
    serve(lambda: makers[name](kind, int(batch_size or 0), *options), warm_up=2 if kind == "write" else 50)


if __name__ == "__main__":
    main(*sys.argv[1:])
