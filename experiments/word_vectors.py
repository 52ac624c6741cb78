"""Word vectors: Word2Vec, as skip-gram or CBOW with negative sampling, GloVe, and FastText. No network.

python -m experiments.word_vectors                                    # on Python's language reference, 60 epochs
python -m experiments.word_vectors --data CORPUS.txt --epochs 5       # on a file of your own, a sentence a line
python -m experiments.word_vectors --data CORPUS.txt --method cbow --dim 300 --workdir vectors/
python -m experiments.word_vectors --data CORPUS.txt --method fasttext --ngrams 3 5
python -m experiments.word_vectors --data CORPUS.txt --method glove --window 10 --epochs 25
"""

from jaxgen.data import Source
from jaxgen.experiment import Experiment
from jaxgen.models import BiasedWordVectors, WordVectors
from jaxgen.run import main
from jaxgen.tasks import GlobalVectors, WordEmbedding
from jaxgen.word_config import WordConfig


def make_task(config: WordConfig, train: Source) -> WordEmbedding | GlobalVectors:
    """Makes the task for a corpus: its vocabulary."""
    if config.method == "glove":
        return GlobalVectors(BiasedWordVectors(train.num_classes, config.dim), config.x_max)
    buckets = config.buckets if config.method == "fasttext" else 0
    model = WordVectors(train.num_classes, config.dim, buckets)
    return WordEmbedding(model, config.method, config.negatives)


EXPERIMENT = Experiment(
    name="word_vectors",
    config=WordConfig,
    task=make_task,
    summary="Word2Vec, GloVe, FastText",
    data="Python's language reference (no network)",
    time="11 s on 2 CPU cores, beside other work",
    reference="ten million words of English, 5 epochs: WordSim-353 0.507 (gensim: 0.482)",
    smoke={"dim": 16, "block_size": 32, "batch_size": 8, "epochs": 1},
    # It is small: more passes, and words that come again in larger blocks.
    recipes={"pydocs": {"epochs": 60, "block_size": 64}},
)

if __name__ == "__main__":
    main(EXPERIMENT)
