"""Character language model of Shakespeare's plays: a GPT, by default nanoGPT's recipe for CPUs.

python -m experiments.shakespeare_gpt                      # 4 layers, 4 heads, 128 wide, context 64, 2,000 steps
python -m experiments.shakespeare_gpt --preset baby        # 6 layers, 384 wide, context 256: for an accelerator
jaxgen sample runs/shakespeare_gpt/DATE-TIME --prompt "ROMEO:" --temperature 0.8
jaxgen plot runs/shakespeare_gpt/DATE-TIME --text "To be, or not to be"

It trains on the first nine tenths of the text, which are the tfds split `train`. The test split, `validation+test`, is
the last tenth: nanoGPT's validation split. The tfds validation split is the first half of it.
"""

from dataclasses import dataclass

from jaxgen.data import Source
from jaxgen.data.tokenizers import digest
from jaxgen.experiment import Experiment
from jaxgen.models import GPT
from jaxgen.run import main
from jaxgen.tasks import LanguageModelling
from jaxgen.text_config import GPTTextConfig


@dataclass(frozen=True, kw_only=True)
class Config(GPTTextConfig):
    """A GPT."""

    data: str = "tiny_shakespeare"
    """The text: tiny_shakespeare, pydocs or pycode (no network), a tfds set, or a file or directory."""
    steps: int | None = 2000
    """Length of the run in steps; --steps None for that in epochs."""
    optimizer: str = "adamw"
    """Any Optax optimiser by its Optax name (adam, adamw, sgd, lion, ...), or momentum."""
    learning_rate: float | None = 3e-3
    """Peak of the learning rate."""
    schedule: str = "cosine"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0 to its peak."""
    final_fraction: float = 0.1
    """What cosine and linear come down to, as a part of the peak learning rate."""
    beta2: float | None = 0.99
    """For adam, adamw and their kin: part of the mean of squared gradients that is kept from step to step."""
    weight_decay: float = 0.1
    """Decay of weights (not of biases and scales), for optimisers that have it, else added."""
    clip_norm: float | None = 1.0
    """Clip gradients to this global norm."""
    evaluate_every: int | None = 250
    """Steps between evaluations."""


_LAST_TENTH = {"test_split": "validation+test"}
# A trial of a preset is to be as quick as any.
SMOKE = {"num_layers": 1, "embedding_size": 48, "sequence_length": 32, "batch_size": 8}
_BABY = {
    **_LAST_TENTH,
    "num_layers": 6,
    "num_heads": 6,
    "embedding_size": 384,
    "sequence_length": 256,
    "dropout": 0.2,
    "batch_size": 64,
    "steps": 5000,
    "learning_rate": 1e-3,
}
_BEST = {
    **_LAST_TENTH,
    "num_layers": 6,
    "num_heads": 6,
    "embedding_size": 192,
    "sequence_length": 128,
    "positions": "rotary",
    "dropout": 0.15,
    "batch_size": 24,
    "steps": 2500,
}


def make_task(config: GPTTextConfig, train: Source) -> LanguageModelling:
    """Makes the task for a training text: its vocabulary."""
    model = GPT(
        vocabulary_size=train.num_classes,
        context_length=config.sequence_length,
        num_kv_heads=config.num_kv_heads,
        feed_forward_size=config.feed_forward_size,
        positions=config.positions,
        activation=config.activation,
        norm=config.norm,
        use_bias=config.use_bias,
        tied=config.tied,
        **config.shared(),
    )
    return LanguageModelling(model, digest(train.text.tokenizer))


EXPERIMENT = Experiment(
    name="shakespeare_gpt",
    config=Config,
    task=make_task,
    summary="GPT over characters",
    data="tiny_shakespeare (--data pydocs: no network)",
    time="3 min on 1 CPU core",
    reference="1.771 nats a character of the last tenth (nanoGPT: 1.88)",
    smoke={**SMOKE, "data": "pydocs"},
    recipes={"tiny_shakespeare": _LAST_TENTH},
    presets={"baby": _BABY, "best": _BEST},
)

if __name__ == "__main__":
    main(EXPERIMENT)
