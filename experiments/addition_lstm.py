"""Addition as one writes it: an LSTM reads "535+61" character by character, another one writes "596".

python -m experiments.addition_lstm                           # three digits, the question from right to left
python -m experiments.addition_lstm --data addition/3         # from left to right: harder
python -m experiments.addition_lstm --cell gru                # or elman

The additions are made on the spot: no network needed. With the defaults 99.95 % of the 5,000 test answers are exact
(mean of 3 seeds), in 100 s on 2 CPU cores.
"""

from dataclasses import dataclass
from typing import Literal

from jaxgen.data import Source
from jaxgen.experiment import Experiment, TrainConfig
from jaxgen.models import SequenceNet
from jaxgen.run import main
from jaxgen.tasks import SequencePrediction


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """A recurrent encoder and decoder from questions to answers."""

    data: str = "addition/3/reversed"
    """The data set: addition/DIGITS, and /reversed for questions that are written from right to left."""
    epochs: int = 8
    """Length of the run, in passes over the training split."""
    batch_size: int = 128
    """Examples a step, over all devices."""
    learning_rate: float | None = 3e-3
    """Peak of the learning rate."""
    schedule: str = "cosine"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise."""
    clip_norm: float | None = 1.0
    """Clip gradients to this global norm."""
    cell: Literal["elman", "gru", "lstm"] = "lstm"
    """What carries the state from character to character."""
    hidden_size: int = 128
    """Units of each layer."""
    num_layers: int = 1
    """Layers of encoder and decoder each."""
    dropout: float = 0.0
    """Part of the state that is dropped in training."""


def make_task(config: Config, train: Source) -> SequencePrediction:
    """Makes the task for a training split: its characters, its length of answers."""
    model = SequenceNet(
        vocabulary_size=train.num_classes,
        output_length=len(train[0]["target"]),
        hidden_size=config.hidden_size,
        cell=config.cell,
        num_layers=config.num_layers,
        dropout=config.dropout,
    )
    return SequencePrediction(model, "".join(train.class_names), train.name.endswith("/reversed"))


EXPERIMENT = Experiment(
    name="addition_lstm",
    config=Config,
    task=make_task,
    summary="LSTM encoder and decoder that learn to add",
    data="additions of three digits, made on the spot",
    time="100 s on 2 CPU cores",
    reference="99.95 % of the answers exact (mean of 3 seeds)",
    needs=("input", "target"),
    smoke={"data": "addition/2"},
    split_host=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
