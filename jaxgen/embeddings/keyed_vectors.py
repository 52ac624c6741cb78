"""Vectors of words, and what is asked of them, under the names that gensim's users know."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int, Int32, Num

from jaxgen.embeddings import search
from jaxgen.embeddings.given import Key, Keys, checked_word, listed, neither, weighted
from jaxgen.embeddings.ngrams import Ngrams
from jaxgen.embeddings.similarities import Similarities, unit
from jaxgen.errors import UsageError, nearest, shortened

# Queries go to the device in batches of these sizes, so that there are as many shapes to compile, and no more.
_BATCHES = (1, 8, 64, 256)
_FEWEST_FOUND = 16
# Spellings are compared with so many words: millions would take minutes.
_SPELLINGS = 50_000


class KeyedVectors(Similarities):
    """Vectors of words, all queries of which are one product on the device, with the exact nearest words.

    Args:
        index_to_key: the words, the most frequent first where that is known.
        vectors: of each, finite.
        counts: how often each occurred, where it is known.
        ngrams: what gives vectors of words that aren't among them, for FastText; `of_ngrams` makes `vectors` of them.

    Attributes:
        key_to_index: word to the number of its vector.

    Raises:
        UsageError: for no vectors, as many words or counts as there are vectors not, words that are there twice, and
            numbers that aren't finite as float32.
    """

    def __init__(
        self,
        index_to_key: Sequence[str],
        vectors: Num[np.ndarray, "..."],
        counts: Int[np.ndarray, "..."] | None = None,
        ngrams: Ngrams | None = None,
    ) -> None:
        self.index_to_key = list(index_to_key)
        if vectors.ndim != 2 or not vectors.size:
            raise UsageError(f"vectors must be [words, width] and some; these are {list(vectors.shape)}")
        if len(self.index_to_key) != len(vectors):
            raise UsageError(f"there are {len(self.index_to_key):,} words, but {len(vectors):,} vectors")
        if counts is not None and counts.shape != (len(vectors),):
            raise UsageError(f"there are {len(vectors):,} words, but counts of shape {list(counts.shape)}")
        with np.errstate(over="ignore"):  # what is too large is told below
            vectors = np.ascontiguousarray(vectors, np.float32)
        if (place := not_finite(vectors)) is not None:
            word = shortened(self.index_to_key[place], 40)
            raise UsageError(
                f"the vector of {word!r} (row {place}) has numbers that aren't finite as float32"
            )
        self.key_to_index = {word: index for index, word in enumerate(self.index_to_key)}
        if len(self.key_to_index) < len(self) and (twice := first_twice(self.index_to_key)):
            first, second = twice
            word = shortened(self.index_to_key[first], 40)
            raise UsageError(f"the word {word!r} is there twice, as number {first} and {second}")
        # They may lie on the device as they are, without a copy: a change would be seen by some queries only.
        self.vectors: Float32[np.ndarray, "words width"] = vectors.view()
        self.vectors.flags.writeable = False
        self.counts = counts
        self.ngrams = ngrams

    @classmethod
    def of_ngrams(
        cls, index_to_key: Sequence[str], ngrams: Ngrams, counts: Int[np.ndarray, " words"] | None = None
    ) -> "KeyedVectors":
        """Makes the vectors of FastText's words from what they consist of; raises as the class does."""
        if len(index_to_key) != len(ngrams.word_vectors):
            raise UsageError(
                f"there are {len(index_to_key):,} words, but {len(ngrams.word_vectors):,} vectors of words"
            )
        return cls(index_to_key, ngrams.compose(index_to_key), counts, ngrams)

    @property
    def vector_size(self) -> int:
        """How many numbers a vector has."""
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.index_to_key)

    def __repr__(self) -> str:
        return f"KeyedVectors({len(self):,} words, {self.vector_size} numbers each)"

    def __contains__(self, key: object) -> bool:
        """Whether there is a vector, for FastText also one from n-grams."""
        return isinstance(key, str) and (key in self.key_to_index or self._inferred(key) is not None)

    def __getitem__(self, keys: Keys) -> Float32[np.ndarray, "..."]:
        """Gives a word's vector, or several words' as rows; raises as `get_vector` does."""
        if isinstance(keys, str) or not isinstance(keys, Iterable):
            return self.get_vector(keys)
        rows = [self.get_vector(key) for key in keys]
        return np.stack(rows) if rows else self.vectors[:0]

    @staticmethod
    def load_word2vec_format(path: Path | str, binary: bool = False) -> "KeyedVectors":
        """Reads vectors as `jaxgen.embeddings.load` does, which tells by itself whether a file is binary."""
        from jaxgen.embeddings.formats import load

        return load(path)

    def save_word2vec_format(self, path: Path | str, binary: bool = False) -> None:
        """Writes the vectors in one of word2vec's formats; raises as `jaxgen.embeddings.save` does."""
        from jaxgen.embeddings.formats import save

        save(path, self, "word2vec-binary" if binary else "word2vec")

    def get_index(self, key: Any, default: int | None = None) -> int:
        """Gives the number of a word, or of an unknown one the default; raises as `get_vector` does."""
        index = self.key_to_index.get(checked_word(key), default)
        if index is None:
            raise self._unknown(key)
        return index

    def get_vector(self, key: Any, norm: bool = False) -> Float32[np.ndarray, " width"]:
        """Gives a word's vector, of an unseen one the mean of its n-grams' where there are n-grams.

        Args:
            key: the word.
            norm: whether it is brought to length 1.

        Raises:
            UsageError: for a word without a vector, names those that are spelt like it; and for what is no word.
        """
        index = self.key_to_index.get(checked_word(key))
        vector = self._inferred(key) if index is None else self.vectors[index]
        if vector is None:
            raise self._unknown(key)
        return unit(vector, repr(key)) if norm else vector

    def most_similar(
        self,
        positive: Keys = (),
        negative: Keys = (),
        topn: int | None = 10,
        restrict_vocab: int | None = None,
    ) -> Any:
        """Gives the words nearest to the sum of some less that of others, by cosine (3CosAdd).

        Words' vectors are brought to length 1 before, given vectors are taken as they are.

        Args:
            positive: words or vectors (arrays), or pairs of one and its weight.
            negative: the same; a weight that is given counts with its own sign here, too, as in gensim.
            topn: how many words to give, at most; those that were given are left out. None for all words' cosines.
            restrict_vocab: so many words are looked at, from the first; by default all.

        Returns:
            A list of words and their cosines, the nearest first; or float32 [words], in the order of the vocabulary.

        Raises:
            UsageError: for nothing given, or what cancels itself, and words without a vector.
        """
        terms = [*weighted(positive, 1.0), *weighted(negative, -1.0)]
        if not terms:
            raise UsageError("there is nothing to be similar to: give a word at least")
        added = np.zeros(self.vector_size, np.float64)
        for key, weight in terms:
            added += np.multiply(self._given(key), weight, dtype=np.float64)
        query = unit(added, "what was given, added up,")
        given = [key for key, _ in terms if isinstance(key, str)]
        return self._named(query[None, None], (1,), given, topn, restrict_vocab)

    def most_similar_cosmul(
        self,
        positive: Keys = (),
        negative: Keys = (),
        topn: int | None = 10,
        restrict_vocab: int | None = None,
    ) -> Any:
        """Gives the words with the highest product of cosines (3CosMul, Levy & Goldberg 2014, equation 4).

        Cosines are brought to 0 to 1 first. Arguments, but for weights, and errors are those of `most_similar`.
        """
        positive, negative = listed(positive), listed(negative)
        if not positive:
            raise UsageError("there is nothing to be similar to: give a word at least")
        terms = np.zeros((_power_of_two(len(positive) + len(negative)), self.vector_size), np.float32)
        for place, key in enumerate((*positive, *negative)):
            terms[place] = unit(self._given(key), "a vector")
        signs = [1] * len(positive) + [-1] * len(negative)
        signs += [0] * (len(terms) - len(signs))
        given = [key for key in (*positive, *negative) if isinstance(key, str)]
        return self._named(terms[None], signs, given, topn, restrict_vocab, multiply=True)

    def similar_by_vector(self, vector: Key, topn: int | None = 10, restrict_vocab: int | None = None) -> Any:
        """Gives the words nearest to a vector; arguments and errors are those of `most_similar`."""
        return self.most_similar([vector], topn=topn, restrict_vocab=restrict_vocab)

    def similar_by_word(self, key: Key, topn: int | None = 10, restrict_vocab: int | None = None) -> Any:
        """Gives the words nearest to a word; arguments and errors are those of `most_similar`."""
        return self.most_similar([key], topn=topn, restrict_vocab=restrict_vocab)

    def rank(self, key1: str, key2: str) -> int:
        """Gives how near a word is to another among all, from 1; raises as `get_index` does."""
        index, cosines = self.get_index(key2), self.similar_by_word(key1, topn=None)
        closer = cosines > cosines[index]
        closer[self.get_index(key1)] = False
        return int(closer.sum()) + 1

    def search(
        self,
        terms: Float32[np.ndarray, "queries terms width"],
        signs: Sequence[int],
        count: int,
        excluded: Int[np.ndarray, "queries excluded"],
        *,
        kinds: Int[np.ndarray, " words"] | None = None,
        restrict_vocab: int | None = None,
        multiply: bool = False,
    ) -> tuple[Float32[np.ndarray, "queries found"], Int32[np.ndarray, "queries found"]]:
        """Answers any number of queries; what `most_similar` and the analogies are made of.

        Args:
            terms: of each query, of length 1.
            signs: of each term; see `jaxgen.embeddings.search.nearest`.
            count: of words to find.
            excluded: what is left out of each answer: words' numbers, or kinds; -1 is none.
            kinds: of each word, where words are left out together; by default each is its own.
            restrict_vocab: so many words are looked at, from the first; by default all.
            multiply: see `jaxgen.embeddings.search.nearest`.

        Returns:
            Scores, from the highest, and the words' numbers; -inf where there are fewer words.

        Raises:
            UsageError: for no words to find, or to look at.
        """
        words, queries = len(self), len(terms)
        limit = np.int32(self._looked_at(count, restrict_vocab))
        # One word is what analogies ask for, thousands of times: it is worth a program of its own.
        asked = 1 if count == 1 else min(_power_of_two(max(count, _FEWEST_FOUND)), words)
        vectors, inverse_norms = self._on_device
        of_kind = jnp.asarray(np.arange(words) if kinds is None else kinds, jnp.int32)
        values, found = [], []
        batch = next((size for size in _BATCHES if size >= queries), _BATCHES[-1])
        for start in range(0, queries, batch):
            rows = slice(start, start + batch)
            best, numbers = search.nearest(
                vectors,
                inverse_norms,
                _filled(terms[rows], batch, 0),
                np.asarray(signs, np.int32),
                of_kind,
                _filled(excluded[rows].astype(np.int32), batch, -1),
                limit,
                count=asked,
                rows=search.rows_at_once(words, batch * terms.shape[1], asked),
                multiply=multiply,
            )
            values.append(np.asarray(best)[: queries - start, :count])
            found.append(np.asarray(numbers)[: queries - start, :count])
        return np.concatenate(values), np.concatenate(found)

    @cached_property
    def _on_device(self) -> tuple[Float32[Array, "words width"], Float32[Array, " words"]]:
        # In float64, since squares of large numbers are no float32.
        norms = np.sqrt(np.einsum("ij,ij->i", self.vectors, self.vectors, dtype=np.float64))
        inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        return jnp.asarray(self.vectors), jnp.asarray(inverse, jnp.float32)

    def _named(
        self,
        terms: Float32[np.ndarray, "1 terms width"],
        signs: Sequence[int],
        given: Sequence[str],
        count: int | None,
        restrict_vocab: int | None,
        multiply: bool = False,
    ) -> Any:
        if count is None:
            limit = self._looked_at(1, restrict_vocab)
            scores = search.scores(*self._on_device, terms[0], np.asarray(signs, np.int32), multiply=multiply)
            return np.asarray(scores)[:limit]
        known = [self.key_to_index[word] for word in given if word in self.key_to_index]
        excluded = np.full((1, _power_of_two(len(known))), -1)
        excluded[0, : len(known)] = known
        scores, found = self.search(
            terms, signs, count, excluded, restrict_vocab=restrict_vocab, multiply=multiply
        )
        return [
            (self.index_to_key[index], float(score))
            for score, index in zip(scores[0], found[0], strict=True)
            if np.isfinite(score)
        ]

    def _looked_at(self, count: int, restrict_vocab: int | None) -> int:
        if count < 1 or (restrict_vocab is not None and restrict_vocab < 1):
            raise UsageError("ask for at least one word, among at least one")
        return min(restrict_vocab or len(self), len(self))

    def _inferred(self, key: str) -> Float32[np.ndarray, " width"] | None:
        """Gives the vector of an unseen word, where it has n-grams."""
        # Bytes of the command line that are no UTF-8 are surrogates, which have no n-grams.
        if self.ngrams is None or any("\ud800" <= character <= "\udfff" for character in key):
            return None
        vector = self.ngrams.infer([key])[0]
        return vector if vector.any() else None

    def _given(self, key: Any) -> Float32[np.ndarray, " width"]:
        """Gives a word's vector of length 1, or a vector as it is."""
        if isinstance(key, str):
            return self.get_vector(key, norm=True)
        if not isinstance(key, np.ndarray):
            raise neither(key)
        if key.shape != (self.vector_size,) or not np.isfinite(key).all():
            raise UsageError(
                f"a vector to be similar to must be {self.vector_size} finite numbers; this is {list(key.shape)}"
            )
        return key.astype(np.float32)

    def _unknown(self, key: str) -> UsageError:
        folded = key.casefold()
        # The same word in other case may be anywhere.
        near = [word for word in self.index_to_key if word.casefold() == folded][:3]
        near = near or nearest(key, self.index_to_key[:_SPELLINGS])
        told = f"did you mean {' or '.join(near)}?" if near else f"none of the {len(self):,} is spelt like it"
        return UsageError(f"the word {shortened(key, 40)!r} is not in the vocabulary; {told}")


def not_finite(rows: Num[np.ndarray, "rows width"]) -> int | None:
    """Gives the first row that has a number that isn't finite, if there is one."""
    # A sum tells of all of them, without an array as large as the rows; it may also overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum(dtype=np.float64)):
            return None
    bad: Bool[np.ndarray, " rows"] = ~np.isfinite(rows).all(axis=1)
    return int(bad.argmax()) if bad.any() else None


def first_twice(words: Sequence[str]) -> tuple[int, int] | None:
    """Gives the places of the first word that is there twice, if there is one."""
    if len(set(words)) == len(words):
        return None
    places: dict[str, int] = {}
    return next(
        (places[word], index) for index, word in enumerate(words) if places.setdefault(word, index) != index
    )


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def _filled(rows: np.ndarray, count: int, value: int) -> np.ndarray:
    """Gives rows with more behind them, up to so many."""
    return np.pad(rows, ((0, count - len(rows)), *((0, 0),) * (rows.ndim - 1)), constant_values=value)
