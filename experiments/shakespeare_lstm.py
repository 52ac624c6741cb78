"""Character language model of Shakespeare's plays: an LSTM whose state is carried along the text.

python -m experiments.shakespeare_lstm                     # one layer of 256, tiny_shakespeare through tfds
python -m experiments.shakespeare_lstm --preset best       # 512 units
python -m experiments.shakespeare_lstm --cell gru          # or elman
jaxgen sample runs/shakespeare_lstm/DATE-TIME --prompt "ROMEO:" --temperature 0.8

With the defaults 1.414 nats a character of the validation split, in 9 min on 2 CPU cores; with
`--preset best` 1.360, in 26 min.
"""

from dataclasses import dataclass

from jaxgen.data import Source
from jaxgen.data.tokenizers import digest
from jaxgen.experiment import Experiment
from jaxgen.models import RecurrentLanguageModel
from jaxgen.run import main
from jaxgen.tasks import LanguageModelling
from jaxgen.text_config import RecurrentTextConfig


@dataclass(frozen=True, kw_only=True)
class Config(RecurrentTextConfig):
    """A recurrent language model."""

    data: str = "tiny_shakespeare"
    """The text: tiny_shakespeare, pydocs or pycode (no network), a tfds set, or a file or directory."""
    epochs: int = 33
    """Length of the run, in passes over the training text."""
    learning_rate: float | None = 3e-3
    """Peak of the learning rate."""
    batch_size: int = 32
    """Streams that the text is cut into, a part of each a step, over all devices."""
    dropout: float = 0.25
    """Part of each layer's inputs that is dropped in training."""
    schedule: str = "cosine"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise."""
    clip_norm: float | None = 1.0
    """Clip gradients to this global norm."""


_BEST = {
    "embedding_size": 128,
    "hidden_size": 512,
    "dropout": 0.45,
    "learning_rate": 2e-3,
    "epochs": 30,
}


def make_task(config: RecurrentTextConfig, train: Source) -> LanguageModelling:
    """Makes the task for a training text: its vocabulary."""
    model = RecurrentLanguageModel(
        vocabulary_size=train.num_classes,
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        cell=config.cell,
        num_layers=config.num_layers,
        dense_size=config.dense_size,
        dropout=config.dropout,
        recurrent_dropout=config.recurrent_dropout,
        layer_norm=config.layer_norm,
        tied=config.tied,
        remat=config.remat,
    )
    return LanguageModelling(model, digest(train.text.tokenizer))


EXPERIMENT = Experiment(
    name="shakespeare_lstm",
    config=Config,
    task=make_task,
    summary="LSTM over characters",
    data="tiny_shakespeare (--data pydocs: no network)",
    time="9 min on 2 CPU cores",
    reference="1.414 nats a character of the validation split",
    smoke={"data": "pydocs"},
    presets={"best": _BEST},
    split_host=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
