"""Compares jaxgen's word vectors with what `make_word_vectors.py` wrote by gensim: stored results, and live ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxgen.embeddings import evaluate_analogies, evaluate_word_pairs, load
from jaxgen.embeddings.fasttext_binary import read_fasttext
from jaxgen.embeddings.ngrams import fnv1a, ngram_buckets, ngrams


def results(directory: Path) -> dict:
    return json.loads((directory / "results.json").read_text(encoding="utf-8"))


def check_files(directory: Path) -> None:
    """Asserts that files are read with the words and every bit of the numbers."""
    stored = results(directory)
    for name in ("word2vec.txt", "word2vec.bin", "glove.txt"):
        found = load(directory / name)
        assert found.index_to_key == stored["words"]
        np.testing.assert_array_equal(found.vectors, np.array(stored["vectors"], np.float32))


def check_fasttext(directory: Path) -> None:
    """Asserts that a model of fastText has its words, counts, vectors, output and those of unseen words."""
    stored = results(directory)["fasttext"]
    model = read_fasttext(directory / "fasttext.bin")
    vectors = model.vectors
    assert vectors.index_to_key == stored["words"] and vectors.counts.tolist() == stored["counts"]
    np.testing.assert_allclose(vectors.vectors, np.array(stored["vectors"]), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.output, np.array(stored["output"], np.float32))
    arguments = model.arguments
    assert (arguments.window, arguments.epochs, arguments.negatives, arguments.skip_gram) == (3, 1, 4, False)
    for word, vector in stored["unseen"].items():
        assert word not in vectors.key_to_index and word in vectors
        np.testing.assert_allclose(vectors[word], np.array(vector), rtol=0, atol=1e-6)


def check_answers(directory: Path) -> None:
    """Asserts that the nearest words, by both objectives, and odd ones are gensim's, with their cosines."""
    vectors = load(directory / "word2vec.bin")
    for stored in results(directory)["answers"]:
        given = {name: stored[name] for name in ("positive", "negative")}
        words = [*stored["positive"], *stored["negative"]]
        for found, name in (
            (vectors.most_similar(**given, topn=7), "added"),
            (vectors.most_similar(**given, topn=7, restrict_vocab=9), "restricted"),
            (vectors.most_similar_cosmul(**given, topn=7), "multiplied"),
        ):
            assert [word for word, _ in found] == [word for word, _ in stored[name]]
            wanted = [score for _, score in stored[name]]
            np.testing.assert_allclose([score for _, score in found], wanted, rtol=1e-5, atol=1e-6)
        assert vectors.doesnt_match([*words, *vectors.index_to_key[:2]]) == stored["odd"]
        assert vectors.similarity(words[0], words[-1]) == pytest.approx(stored["similarity"], abs=1e-6)


def check_evaluations(directory: Path) -> None:
    """Asserts that correlations, and the counts of answered questions, are gensim's with all its options."""
    vectors = load(directory / "word2vec.bin")
    for stored in results(directory)["evaluations"]:
        options = stored["options"]
        pairs = evaluate_word_pairs(vectors, directory / "pairs.tsv", **options)
        assert pairs.spearman == pytest.approx(stored["spearman"], abs=1e-6)
        assert pairs.pearson == pytest.approx(stored["pearson"], abs=1e-6)
        of_all = pairs.pairs if options["dummy4unknown"] else pairs.pairs + pairs.unknown
        assert 100 * pairs.unknown / of_all == pytest.approx(stored["unknown_percent"])
        *sections, total = evaluate_analogies(vectors, directory / "questions.txt", **options)
        wanted = {name: (right, right + wrong) for name, right, wrong in stored["sections"]}
        for found in sections:
            assert (found.added, found.questions) == wanted[found.section]
        assert (total.added, total.questions) == wanted["Total accuracy"]


def check_ngrams(directory: Path) -> None:
    """Asserts that n-grams and their buckets are fastText's, also of many words at once."""
    for stored in results(directory)["ngrams"]:
        word, shortest, longest = (stored[name] for name in ("word", "shortest", "longest"))
        found = ngrams(word, shortest, longest)
        assert [ngram.hex() for ngram in found] == stored["ngrams"]
        assert [fnv1a(ngram) % 2_000_000 for ngram in found] == stored["buckets"]
        buckets, offsets = ngram_buckets(["before", word, "behind"], shortest, longest, 2_000_000)
        assert buckets[offsets[1] : offsets[2]].tolist() == stored["buckets"]
