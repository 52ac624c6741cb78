"""Queries of word vectors: against sorting all words, in blocks and batches, and requests that can't be met."""

from pathlib import Path

import numpy as np
import pytest

from jaxgen.embeddings import KeyedVectors, Ngrams, load, search
from jaxgen.errors import UsageError


def made(words=500, width=7, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(words, width)).astype(np.float32)
    if ties:  # few directions, so that many words are equally near, to the last bit
        vectors = np.eye(width, dtype=np.float32)[rng.integers(0, width, words)]
    return KeyedVectors([f"w{number}" for number in range(words)], vectors)


def cosines(vectors, query):
    units = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
    return units @ (query / np.linalg.norm(query))


def by_sorting(scores, excluded, count):
    order = [index for index in np.argsort(-scores, kind="stable") if index not in excluded]
    return order[:count]


@pytest.fixture(params=["whole", "blocks"])
def blocks(request, monkeypatch):
    """With blocks of 1,024 rows, the last of which begins before its turn; or all rows at once."""
    if request.param == "blocks":
        monkeypatch.setattr(search, "_AT_ONCE", 1)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("words", [40, 2000])
def test_nearest_words_are_those_of_sorting_all(blocks, ties, words):
    vectors = made(words, ties=ties)
    rng = np.random.default_rng(1)
    queries = vectors.vectors[rng.integers(0, words, 5)][:, None]
    excluded = rng.integers(-1, words, (5, 3))
    scores, found = vectors.search(queries, (1,), 12, excluded)
    assert scores.shape == found.shape == (5, 12)
    for row in range(5):
        wanted = cosines(vectors, queries[row, 0])
        order = by_sorting(wanted, set(excluded[row]), 12)
        assert found[row].tolist() == order
        length = np.linalg.norm(queries[row, 0])
        np.testing.assert_allclose(scores[row], wanted[order] * length, rtol=0, atol=1e-5)


@pytest.mark.parametrize("restrict", [1, 3, 1023, 1024, 1500, 9999])
def test_only_the_first_words_are_looked_at(blocks, restrict):
    vectors = made(2000)
    found = vectors.most_similar("w1999", topn=5, restrict_vocab=restrict)
    wanted = by_sorting(cosines(vectors, vectors["w1999"])[:restrict], {1999}, 5)
    assert [word for word, _ in found] == [f"w{index}" for index in wanted]


def test_sums_and_products_of_words():
    vectors = made()
    a, b, c = (cosines(vectors, vectors[word]) for word in ("w1", "w2", "w3"))
    units = [vectors.get_vector(word, norm=True) for word in ("w1", "w2", "w3")]
    added = vectors.most_similar(["w1", "w2"], ["w3"], topn=6)
    wanted = by_sorting(cosines(vectors, units[0] + units[1] - units[2]), {1, 2, 3}, 6)
    assert [word for word, _ in added] == [f"w{index}" for index in wanted]
    scores = (1 + a) / 2 * (1 + b) / 2 / ((1 + c) / 2 + 1e-6)
    multiplied = vectors.most_similar_cosmul(["w1", "w2"], ["w3"], topn=6)
    assert [word for word, _ in multiplied] == [f"w{index}" for index in by_sorting(scores, {1, 2, 3}, 6)]
    np.testing.assert_allclose(
        [score for _, score in multiplied], np.sort(np.delete(scores, [1, 2, 3]))[::-1][:6], rtol=1e-5
    )


def test_answers_to_what_gensim_calls_so():
    """The numbers are gensim 4.4's."""
    vectors = load(Path(__file__).parents[1] / "golden" / "word_vectors" / "word2vec.bin")
    words = vectors.index_to_key
    found = vectors.most_similar([(words[1], 2.0), words[2]], [(words[3], 0.5)], topn=3)
    assert [word for word, _ in found] == ["straßes", "a\x85bs", "A\x85BS"]
    np.testing.assert_allclose([cosine for _, cosine in found], [0.900446, 0.860329, 0.856541], atol=1e-5)
    assert vectors.n_similarity(words[:3], words[4:6]) == pytest.approx(0.5844687, abs=1e-6)
    assert vectors.distance(words[0], words[1]) == pytest.approx(0.9981454, abs=1e-6)
    assert vectors.most_similar_to_given(words[0], words[3:8]) == "oing"
    assert vectors.rank(words[1], words[5]) == 45 and vectors.rank(words[1], words[1]) == 1
    assert vectors.get_index(words[7]) == 7 and vectors.get_index("unheard", -1) == -1
    assert vectors.similar_by_word(words[2], topn=3) == vectors.most_similar(words[2], topn=3)
    added = vectors.most_similar(words[2], topn=None)
    assert added.shape == (60,) and vectors.most_similar(words[2], topn=None, restrict_vocab=5).shape == (5,)
    np.testing.assert_allclose(added[:4], [0.19407485, -0.0744843, 1, 0.59161764], atol=1e-5)
    multiplied = vectors.most_similar_cosmul([words[2]], [words[3]], topn=None)
    np.testing.assert_allclose(multiplied[:4], [0.8700865, 0.5703302, 1.2565814, 0.795808], rtol=1e-5)


def test_lengths_of_vectors_change_nothing():
    vectors = made()
    lengths = np.exp(np.random.default_rng(2).uniform(-60, 60, (500, 1)))
    scaled = KeyedVectors(vectors.index_to_key, (vectors.vectors * lengths).astype(np.float32))
    before, after = (found.most_similar("w7", "w8", topn=8) for found in (vectors, scaled))
    assert [word for word, _ in before] == [word for word, _ in after]
    np.testing.assert_allclose([score for _, score in before], [score for _, score in after], atol=1e-5)


def test_words_of_the_same_kind_are_left_out_together():
    vectors = made(60)
    kinds = np.arange(60) // 4
    query = vectors.vectors[:3][:, None]
    _, found = vectors.search(query, (1,), 60, np.array([[0, -1], [0, 5], [-1, -1]]), kinds=kinds)
    scores, _ = vectors.search(query, (1,), 60, np.array([[0, -1], [0, 5], [-1, -1]]), kinds=kinds)
    for row, left_out in enumerate(({0}, {0, 5}, set())):
        answers = found[row][np.isfinite(scores[row])]
        assert set(kinds[answers]) == set(kinds) - left_out and len(answers) == 60 - 4 * len(left_out)


def test_batches_answer_as_single_queries_and_few_shapes_are_compiled():
    vectors = made(90)
    queries = np.random.default_rng(3).normal(size=(600, 1, 7)).astype(np.float32)
    nothing = np.full((600, 1), -1)
    _, together = vectors.search(queries, (1,), 3, nothing)
    before = search.nearest._cache_size()
    for count in (600, 257, 300, 1, 5, 8):
        _, found = vectors.search(queries[:count], (1,), 5, nothing[:count])
        np.testing.assert_array_equal(found[:, :3], together[:count])
    assert search.nearest._cache_size() <= before + 2  # of 1 and 8


def test_vectors_of_words():
    vectors = made(9, width=4)
    assert len(vectors) == 9 and vectors.vector_size == 4 and vectors.key_to_index["w3"] == 3
    assert "w3" in vectors and "w9" not in vectors and 3 not in vectors
    np.testing.assert_array_equal(vectors[["w2", "w0"]], vectors.vectors[[2, 0]])
    assert vectors[[]].shape == (0, 4)
    assert np.linalg.norm(vectors.get_vector("w5", norm=True)) == pytest.approx(1, abs=1e-6)
    first, second = vectors["w1"], vectors["w2"]
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert vectors.similarity("w1", "w2") == pytest.approx(cosine, abs=1e-6)
    assert vectors.similar_by_vector(vectors["w4"], topn=1)[0][0] == "w4"
    with pytest.raises(ValueError, match="read-only"):
        vectors.vectors[0] = 0


def test_the_odd_word_is_the_farthest_from_the_mean():
    near = np.eye(3)[[0, 0, 0, 1]] + 0.1
    vectors = KeyedVectors(["a", "b", "c", "odd"], near)
    assert vectors.doesnt_match(["a", "odd", "b", "unheard", "c"]) == "odd"
    with pytest.raises(UsageError, match="none of 'x', 'y' is in the vocabulary"):
        vectors.doesnt_match(["x", "y"])


def test_unseen_words_have_vectors_by_their_ngrams():
    rng = np.random.default_rng(0)
    parts = Ngrams(np.zeros((3, 40), np.float32), rng.normal(size=(999, 40)).astype(np.float32))
    vectors = KeyedVectors.of_ngrams(["walking", "walked", "東京"], parts)
    assert "walks" in vectors and "walks" not in vectors.key_to_index and "" not in vectors
    assert vectors.most_similar("walkin", topn=1)[0][0] == "walking"
    np.testing.assert_array_equal(vectors["walks"], parts.infer(["walks"])[0])
    with pytest.raises(UsageError, match="2 words, but 3 vectors"):
        KeyedVectors.of_ngrams(["walking", "walked"], parts)
    assert "wa\udcfflks" not in vectors
    with pytest.raises(UsageError, match=r"the word 'wa\\udcfflks' is not in the vocabulary"):
        vectors.most_similar("wa\udcfflks")


def test_unknown_words_are_told_with_their_nearest_spellings():
    vectors = KeyedVectors(["Berlin", "king", "queen", "東京"], np.eye(4))
    for word, told in {
        "kng": "did you mean king",
        "BERLIN": "did you mean Berlin",
        "qqqq": "none of the 4 is spelt like it",
    }.items():
        with pytest.raises(UsageError, match=f"the word '{word}' is not in the vocabulary; {told}"):
            vectors.most_similar(word)


def test_requests_that_mean_nothing_are_refused():
    vectors = made(9, width=4)
    for message, ask in {
        "nothing to be similar to": lambda: vectors.most_similar(),
        "nothing to be similar to: ": lambda: vectors.most_similar_cosmul(negative="w1"),
        "what was given, added up, is a vector of zeros": lambda: vectors.most_similar("w1", "w1"),
        "must be 4 finite numbers; this is": lambda: vectors.most_similar(np.ones(3)),
        "must be 4 finite numbers": lambda: vectors.similar_by_vector(np.full(4, np.nan)),
        r"3 is neither a word nor a vector: give a text, or a NumPy array": lambda: vectors.most_similar(3),
        r"0.5 is neither a word nor": lambda: vectors.most_similar([0.5, 1.0, 2.0, 3.0]),
        r"\[0.5, 1.0, 2.0, 3.0\] is neither": lambda: vectors.most_similar([[0.5, 1.0, 2.0, 3.0]]),
        r"\('w1', nan\) is neither": lambda: vectors.most_similar([("w1", np.nan)]),
        r"\('w1', 2.0\) is neither": lambda: vectors.most_similar_cosmul([("w1", 2.0)]),
        "3 is no word: give a text; index_to_key has them": lambda: vectors[3],
        "3 is no word": lambda: vectors[["w1", 3]],
        "'w99' is not in the vocabulary": lambda: vectors.get_index("w99"),
        "give a list of words, not the text 'w1 w2'": lambda: vectors.doesnt_match("w1 w2"),
        "give a list of words, not the text 'w2'": lambda: vectors.n_similarity(["w1"], "w2"),
        "give a list of words with one at least": lambda: vectors.most_similar_to_given("w1", []),
        "among at least one": lambda: vectors.most_similar("w1", topn=None, restrict_vocab=0),
        "ask for at least one word": lambda: vectors.most_similar("w1", topn=0),
        "ask for at least one word, among": lambda: vectors.most_similar("w1", restrict_vocab=0),
    }.items():
        with pytest.raises(UsageError, match=message):
            ask()


@pytest.mark.parametrize(
    ("words", "vectors", "message"),
    [
        (["a"], np.ones(3), r"must be \[words, width\] and some; these are \[3\]"),
        ([], np.ones((0, 3)), "must be"),
        (["a"], np.ones((2, 3)), "1 words, but 2 vectors"),
        (
            ["a", "b"],
            np.array([[1.0, 2], [np.nan, 0]]),
            r"vector of 'b' \(row 1\) has numbers that aren't finite",
        ),
        (
            ["a", "b"],
            np.array([[1.0, 2], [-1e39, 0]]),
            r"'b' \(row 1\) has numbers that aren't finite as float32",
        ),
        (["a", "b", "a"], np.ones((3, 2)), "'a' is there twice, as number 0 and 2"),
    ],
)
def test_vectors_that_cannot_be_are_refused(words, vectors, message):
    with pytest.raises(UsageError, match=message):
        KeyedVectors(words, vectors)


def test_a_word_of_zeros_is_near_to_nothing():
    vectors = KeyedVectors(["a", "b", "zero"], np.array([[1.0, 0], [1, 1], [0, 0]]))
    assert [word for word, _ in vectors.most_similar("a")] == ["b", "zero"]
    assert dict(vectors.most_similar("a"))["zero"] == 0
    with pytest.raises(UsageError, match="'zero' is a vector of zeros"):
        vectors.most_similar("zero")
