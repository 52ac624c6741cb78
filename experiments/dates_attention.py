"""Dates as ten languages write them, to ISO 8601: "3 May 1979" to "1979-05-03", and the attention that finds the parts.

python -m experiments.dates_attention                         # LSTM with additive attention
python -m experiments.dates_attention --attention dot         # or none, to see what it is good for
jaxgen plot runs/dates_attention/DATE-TIME --text "3. Mai 1979"       # where it looks
jaxgen predict runs/dates_attention/DATE-TIME "3. Mai 1979"

The dates are made on the spot with Babel (`pip install 'jaxgen[text]'`): no network needed.
"""

from dataclasses import dataclass
from typing import Literal

from jaxgen.data import Source
from jaxgen.experiment import Experiment
from jaxgen.models import RecurrentEncoderDecoder
from jaxgen.pairs_config import RecurrentPairsConfig
from jaxgen.run import main
from jaxgen.tasks import SequenceToSequence


@dataclass(frozen=True, kw_only=True)
class Config(RecurrentPairsConfig):
    """A recurrent encoder-decoder from dates to dates."""

    vocabulary_size: int = 260
    """Tokens at most, of both texts; with 260 a token is about a byte."""
    batch_tokens: int = 3000
    """Tokens of a batch, at most, read and written, padding among them."""
    most_buckets: int = 3
    """Shapes of batches, at most: more of them have less padding, and take longer to compile."""
    scored_by: Literal["bleu", "rouge", "exact"] = "exact"
    """What the texts that are written are scored by, and so which state is the best."""
    epochs: int = 2
    """Length of the run, in passes over the pairs to train on."""
    learning_rate: float | None = 3e-3
    """Peak of the learning rate."""
    schedule: str = "cosine"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0 to its peak."""
    clip_norm: float | None = 1.0
    """Clip gradients to this global norm."""
    label_smoothing: float = 0.0
    """Part of each label that is spread evenly over the vocabulary."""
    dropout: float = 0.0
    """Part of the embeddings, and of the outputs of layers, that is dropped in training."""
    embedding_size: int = 64
    """Of each token's vector."""
    hidden_size: int = 128
    """Units of the decoder's layers, and of the encoder's in each direction."""


def make_task(config: Config, train: Source) -> SequenceToSequence:
    """Makes the task for dates: their tokens."""
    model = RecurrentEncoderDecoder(**config.vocabulary_sizes(train), **config.recurrent())
    return SequenceToSequence(model, **config.told(train))


EXPERIMENT = Experiment(
    name="dates_attention",
    config=Config,
    task=make_task,
    summary="LSTM encoder-decoder with attention",
    data="dates in ten languages, made on the spot (no network)",
    time="2 min on 1 CPU core",
    reference="100 % of unseen dates exact",
    smoke={"hidden_size": 16, "embedding_size": 16, "batch_tokens": 1000},
)

if __name__ == "__main__":
    main(EXPERIMENT)
