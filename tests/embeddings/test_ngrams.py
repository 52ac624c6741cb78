"""FastText's n-grams: hashes and n-grams against published ones, whole vocabularies against one word at a time."""

import numpy as np
import pytest

from jaxgen.embeddings.ngrams import Ngrams, fnv1a, ngram_buckets, ngrams
from jaxgen.errors import UsageError

# Of the FNV reference implementation, and for letters beyond ASCII of fastText (gensim's test of its hash).
HASHES = {
    "": 0x811C9DC5,
    "a": 0xE40C292C,
    "foobar": 0xBF9CF968,
    "mysterious": 1903186891,
    "команда": 1725507386,
    "北海道": 4096045468,
}


@pytest.mark.parametrize("word", HASHES)
def test_hashes_are_the_published_ones(word):
    assert fnv1a(word.encode()) == HASHES[word]


def test_letters_of_several_bytes_are_one_character():
    assert ngrams("тест", 4, 5) == [part.encode() for part in ("<тес", "<тест", "тест", "тест>", "ест>")]
    assert ngrams("é", 1, 3) == [part.encode() for part in ("<é", "<é>", "é", "é>")]


def test_n_grams_end_with_their_word_however_long_they_may_be():
    short, long = (ngram_buckets(["king", "a"], 2, longest, 100) for longest in (6, 2**31 - 1))
    for found, wanted in zip(long, short, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("shortest", "longest"), [(4, 3), (-1, 3), (0, -1)])
def test_lengths_that_cannot_be_are_refused(shortest, longest):
    with pytest.raises(UsageError, match=f"n-grams can't have {shortest} to {longest} characters"):
        Ngrams(np.zeros((1, 2), np.float32), np.zeros((3, 2), np.float32), shortest, longest)


@pytest.mark.parametrize(("shortest", "longest"), [(3, 6), (1, 2), (1, 9), (5, 4), (0, 0)])
def test_many_words_have_the_buckets_of_each(shortest, longest):
    rng = np.random.default_rng(shortest)
    alphabet = list("ab<>é東🚑\u0301")
    words = ["".join(rng.choice(alphabet, length)) for length in rng.integers(0, 9, 50)]
    buckets, offsets = ngram_buckets(words, shortest, longest, 1000)
    for number, word in enumerate(words):
        wanted = [fnv1a(ngram) % 1000 for ngram in ngrams(word, shortest, longest)]
        assert buckets[offsets[number] : offsets[number + 1]].tolist() == wanted
    assert offsets[-1] == len(buckets)


def test_vectors_are_means_of_a_words_own_and_its_ngrams(monkeypatch):
    monkeypatch.setattr("jaxgen.embeddings.ngrams._WORDS", 3)
    rng = np.random.default_rng(0)
    words = ["king", "</s>", "a", "東京", "", "kings", "x" * 30]
    own, buckets = (rng.normal(size=(rows, 5)).astype(np.float32) for rows in (len(words), 17))
    made = Ngrams(own, buckets, 3, 4)
    composed, inferred = made.compose(words), made.infer(words)
    for number, word in enumerate(words):
        parts = [] if word == "</s>" else [buckets[fnv1a(ngram) % 17] for ngram in ngrams(word, 3, 4)]
        wanted = np.mean([own[number], *parts], axis=0)
        np.testing.assert_allclose(composed[number], wanted, rtol=0, atol=1e-6)
        unseen = np.mean(parts, axis=0) if parts else np.zeros(5)
        np.testing.assert_allclose(inferred[number], unseen, rtol=0, atol=1e-6)
    assert not inferred[1].any() and not inferred[4].any()
