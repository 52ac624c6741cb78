"""Word vectors: Word2Vec, as skip-gram or CBOW with negative sampling. No network.

python -m experiments.word_vectors                                    # on Python's language reference
python -m experiments.word_vectors --data CORPUS.txt --epochs 5       # on a file of your own, a sentence a line
python -m experiments.word_vectors --data CORPUS.txt --method cbow --dim 300 --workdir vectors/
"""

from dataclasses import dataclass
from typing import Literal

from jaxgen.data import Source
from jaxgen.experiment import Experiment
from jaxgen.models import WordVectors
from jaxgen.run import main
from jaxgen.tasks import WordEmbedding
from jaxgen.word_config import WordConfig


@dataclass(frozen=True, kw_only=True)
class Config(WordConfig):
    """Word vectors."""

    method: Literal["skipgram", "cbow"] = "skipgram"
    """What learns: skipgram, words that foretell their context, or cbow, contexts that foretell their word."""
    learning_rate: float | None = 0.025
    """Learning rate of a pair of words at the beginning."""


def make_task(config: Config, train: Source) -> WordEmbedding:
    """Makes the task for a corpus: its vocabulary."""
    model = WordVectors(vocabulary_size=train.num_classes, embedding_size=config.dim)
    return WordEmbedding(model, config.method, config.negatives)


EXPERIMENT = Experiment(
    name="word_vectors",
    config=Config,
    task=make_task,
    summary="Word2Vec",
    data="Python's language reference (no network)",
    time="",
    reference="",
    smoke={"dim": 16, "block_size": 64, "epochs": 1},
    split_host=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
