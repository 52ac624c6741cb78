"""What Elman forgets and LSTM keeps: five symbols to be written down after a hundred steps of nothing.

python -m experiments.copy_recurrent                       # LSTM
python -m experiments.copy_recurrent --cell elman          # or gru
python -m experiments.copy_recurrent --data copy/50        # a lag of 50

The sequences are made on the spot: no network needed. With the defaults an LSTM writes 99.95 % of the 2,000 test
sequences without a mistake (seed 0), in 2.5 min on 2 CPU cores; a GRU in this time 54 % of the symbols; an Elman net
none of the sequences, and the symbols no better than by chance. `plots/gradient_by_lag.png` shows why.
"""

from dataclasses import dataclass
from typing import Literal

from jaxgen.data import Source
from jaxgen.experiment import Experiment, TrainConfig
from jaxgen.models import SequenceReader
from jaxgen.run import main
from jaxgen.tasks import SequencePrediction


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """A recurrent net that reads symbols, waits, and writes them."""

    data: str = "copy/100"
    """The data set: copy/LAG, and copy/LAG/SYMBOLS for another number of symbols than five."""
    epochs: int = 2
    """Length of the run, in passes over the training split."""
    batch_size: int = 32
    """Examples a step, over all devices."""
    learning_rate: float | None = 1e-2
    """Peak of the learning rate."""
    schedule: str = "cosine"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise."""
    clip_norm: float | None = 1.0
    """Clip gradients to this global norm."""
    cell: Literal["elman", "gru", "lstm"] = "lstm"
    """What carries the state from step to step."""
    hidden_size: int = 128
    """Units of each layer."""
    num_layers: int = 1
    """Recurrent layers."""
    dropout: float = 0.0
    """Part of a layer's outputs that is dropped in training."""
    chrono_span: float | None = 1000.0
    """Steps that a GRU's or LSTM's gates begin to remember over; of an Elman net nothing does."""
    evaluate_every: int | None = 100
    """Steps between evaluations."""


def make_task(config: Config, train: Source) -> SequencePrediction:
    """Makes the task for a training split: its characters, its number of symbols."""
    model = SequenceReader(
        vocabulary_size=train.num_classes,
        output_length=len(train[0]["target"]),
        hidden_size=config.hidden_size,
        cell=config.cell,
        num_layers=config.num_layers,
        dropout=config.dropout,
        chrono_span=config.chrono_span,
    )
    return SequencePrediction(model, "".join(train.class_names))


EXPERIMENT = Experiment(
    name="copy_recurrent",
    config=Config,
    task=make_task,
    summary="LSTM, GRU or Elman net that remembers five symbols over a hundred steps",
    data="symbols to copy, made on the spot",
    time="2.5 min on 2 CPU cores",
    reference="LSTM 99.95 %, GRU 0.9 %, Elman 0 % of the sequences exact (seed 0)",
    needs=("input", "target"),
    smoke={"data": "copy/10/3"},
    split_host=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
