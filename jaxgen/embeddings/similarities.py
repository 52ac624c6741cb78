"""Questions about a few words that are given, under the names that gensim's users know."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from jaxgen.errors import UsageError, shortened


class Similarities(ABC):
    """How similar words are that have vectors; `KeyedVectors` also looks for similar ones among all.

    A text in place of several words raises UsageError; a word without a vector, as `KeyedVectors.get_vector` does.
    """

    @abstractmethod
    def get_vector(self, key: Any, norm: bool = False) -> Float32[np.ndarray, " width"]:
        """Gives a word's vector."""

    @abstractmethod
    def __contains__(self, key: object) -> bool:
        """Whether a word has a vector."""

    def similarity(self, key1: str, key2: str) -> float:
        """Gives the cosine of two words' vectors."""
        return float(self.get_vector(key1, norm=True) @ self.get_vector(key2, norm=True))

    def distance(self, key1: str, key2: str) -> float:
        """Gives 1 less the cosine of two words' vectors."""
        return 1 - self.similarity(key1, key2)

    def n_similarity(self, keys1: Sequence[str], keys2: Sequence[str]) -> float:
        """Gives the cosine of two means of words' vectors, of the lengths that they have."""
        means = []
        for keys in (_several(keys1), _several(keys2)):
            mean = np.stack([self.get_vector(key) for key in keys]).mean(axis=0, dtype=np.float64)
            means.append(unit(mean, f"the mean of {', '.join(map(repr, keys))}"))
        return float(means[0] @ means[1])

    def most_similar_to_given(self, key1: str, keys: Sequence[str]) -> str:
        """Gives the one of several words that is most similar to a word, the first of equally similar ones."""
        return max(_several(keys), key=lambda key: self.similarity(key1, key))

    def doesnt_match(self, words: Sequence[str]) -> str:
        """Gives the word that is farthest from the mean of all, each of length 1; words without a vector are left out.

        Raises:
            UsageError: where none has one.
        """
        known = [word for word in _several(words) if word in self]
        if not known:
            raise UsageError(f"none of {', '.join(map(repr, words))} is in the vocabulary")
        units = np.stack([self.get_vector(word, norm=True) for word in known])
        # Of equally far ones the first by the alphabet, as gensim has it.
        return min(zip((units @ units.mean(axis=0)).tolist(), known, strict=True))[1]


def _several(words: Sequence[str]) -> Sequence[str]:
    if isinstance(words, str):
        raise UsageError(f"give a list of words, not the text {shortened(words, 40)!r}; .split() makes one")
    if not len(words):
        raise UsageError("give a list of words with one at least")
    return words


def unit(vector: Float[np.ndarray, " width"], told: str) -> Float32[np.ndarray, " width"]:
    """Brings a vector to length 1; raises UsageError for one of zeros, called as `told`."""
    length = np.linalg.norm(vector.astype(np.float64))
    if not length:
        raise UsageError(f"{told} is a vector of zeros, which is similar to nothing")
    return (vector / length).astype(np.float32)
