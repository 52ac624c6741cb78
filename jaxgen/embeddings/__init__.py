"""Trained word vectors: queries, the files that others read and write, and how good they are."""

from jaxgen._lazy import exports

_NAMES = {
    "FastTextModel": "jaxgen.embeddings.fasttext_binary",
    "KeyedVectors": "jaxgen.embeddings.keyed_vectors",
    "Ngrams": "jaxgen.embeddings.ngrams",
    "evaluate_analogies": "jaxgen.embeddings.evaluation",
    "evaluate_word_pairs": "jaxgen.embeddings.evaluation",
    "load": "jaxgen.embeddings.formats",
    "open_vectors": "jaxgen.word_vectors",
    "save": "jaxgen.embeddings.formats",
    "vectors_of_run": "jaxgen.word_vectors",
}

__all__ = sorted(_NAMES)
__getattr__ = exports(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__
