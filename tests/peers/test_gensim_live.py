"""Word vectors against gensim and fastText themselves, on vectors that differ every day; `-m peers`."""

import datetime
import importlib
from types import ModuleType

import numpy as np
import pytest
from golden import word_vectors_agreement as agreement

from jaxgen.embeddings import KeyedVectors, Ngrams, load, save
from jaxgen.embeddings.fasttext_binary import Arguments, write_fasttext

pytestmark = pytest.mark.peers

WORDS = ["the", "straße", "東京", "воз", "12", "-1e5", "🚑🚒🚓🚕", "o'clock", "a", "naïve"]


@pytest.fixture(scope="module")
def gensim() -> ModuleType:
    pytest.importorskip("gensim")
    return importlib.import_module("gensim.models")


@pytest.fixture(params=range(3))
def random(request: pytest.FixtureRequest) -> np.random.Generator:
    seed = [datetime.date.today().toordinal(), request.param]
    print(f"numpy.random.default_rng({seed})")
    return np.random.default_rng(seed)


def test_files_and_answers_are_gensims(gensim, random, tmp_path):
    make = importlib.import_module("golden.make_word_vectors")
    make.write(tmp_path / "made", seed=int(random.integers(10**6)), width=int(random.integers(3, 12)))
    agreement.check_files(tmp_path / "made")
    agreement.check_fasttext(tmp_path / "made")
    agreement.check_answers(tmp_path / "made")
    agreement.check_evaluations(tmp_path / "made")


@pytest.mark.parametrize("format", ["word2vec", "word2vec-binary", "glove"])
def test_gensim_opens_what_is_written(gensim, random, tmp_path, format):
    vectors = KeyedVectors(WORDS, random.normal(size=(len(WORDS), 7)).astype(np.float32))
    path = str(tmp_path / "vectors")
    save(path, vectors, format)
    found = gensim.KeyedVectors.load_word2vec_format(
        path, binary=format == "word2vec-binary", no_header=format == "glove"
    )
    assert found.index_to_key == WORDS
    np.testing.assert_array_equal(found.vectors, vectors.vectors)


def fasttext_vectors(random: np.random.Generator, words: list[str], buckets: int) -> KeyedVectors:
    own, of_ngrams = (random.normal(size=(rows, 6)).astype(np.float32) for rows in (len(words), buckets))
    shortest = int(random.integers(1, 4))
    ngrams = Ngrams(own, of_ngrams, shortest, shortest + int(random.integers(0, 4)))
    counts = np.sort(random.integers(1, 99, len(words)))[::-1]
    return KeyedVectors.of_ngrams(words, ngrams, np.ascontiguousarray(counts))


def test_gensim_opens_models_of_fasttext_and_trains_on(gensim, random, tmp_path):
    vectors = fasttext_vectors(random, WORDS, 37)
    output = random.normal(size=vectors.vectors.shape).astype(np.float32)
    path = str(tmp_path / "model.bin")
    write_fasttext(tmp_path / "model.bin", vectors, output, Arguments(window=3, skip_gram=False))
    model = gensim.fasttext.load_facebook_model(path)
    assert model.wv.index_to_key == WORDS and (model.window, model.sg) == (3, 0)
    assert [model.wv.get_vecattr(word, "count") for word in WORDS] == vectors.counts.tolist()
    np.testing.assert_array_equal(model.syn1neg, output)
    np.testing.assert_allclose(model.wv.vectors, vectors.vectors, rtol=0, atol=1e-5)
    read = gensim.fasttext.load_facebook_vectors(path)
    for word in ("unseen", "東京都", "паровоз"):
        np.testing.assert_allclose(read[word], vectors[word], rtol=0, atol=1e-5)
    model.train([WORDS] * 3, total_examples=3, epochs=1)
    gensim.fasttext.save_facebook_model(model, path)
    np.testing.assert_allclose(load(path).vectors, model.wv.vectors, rtol=0, atol=1e-5)


def test_gensim_opens_a_model_without_ngrams(gensim, random, tmp_path):
    vectors = KeyedVectors(WORDS, random.normal(size=(len(WORDS), 5)).astype(np.float32))
    save(tmp_path / "model.bin", vectors, "fasttext")
    found = gensim.fasttext.load_facebook_vectors(str(tmp_path / "model.bin"))
    assert found.index_to_key == WORDS
    np.testing.assert_array_equal(found.vectors, vectors.vectors)
    np.testing.assert_array_equal(load(tmp_path / "model.bin").vectors, vectors.vectors)


@pytest.mark.parametrize("buckets", [0, 37])
def test_fasttext_opens_what_is_written(random, tmp_path, buckets):
    fasttext = pytest.importorskip("fasttext")
    words = [*WORDS, "</s>"]
    if buckets:
        vectors = fasttext_vectors(random, words, buckets)
    else:
        vectors = KeyedVectors(words, random.normal(size=(len(words), 6)).astype(np.float32))
    save(tmp_path / "model.bin", vectors, "fasttext")
    model = fasttext.load_model(str(tmp_path / "model.bin"))
    assert model.get_words() == words
    unseen = ["unseen", "東京都", "паровоз"] if buckets else []
    for word in (*words, *unseen):
        np.testing.assert_allclose(model.get_word_vector(word), vectors[word], rtol=0, atol=1e-5)
    near = model.get_nearest_neighbors("воз", k=4)
    wanted = vectors.most_similar("воз", topn=4)
    assert [word for _, word in near] == [word for word, _ in wanted]
    np.testing.assert_allclose([score for score, _ in near], [score for _, score in wanted], atol=1e-5)


def test_models_that_fasttext_trained_are_read(random, tmp_path):
    fasttext = pytest.importorskip("fasttext")
    text = tmp_path / "text.txt"
    lines = (" ".join(random.choice(WORDS, 12)) for _ in range(60))
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for model, loss in (("skipgram", "ns"), ("cbow", "hs"), ("skipgram", "softmax")):
        made = fasttext.train_unsupervised(
            str(text), model=model, loss=loss, dim=5, bucket=50, minCount=1, epoch=1, thread=1, minn=2, maxn=4
        )
        made.save_model(str(tmp_path / "model.bin"))
        found = load(tmp_path / "model.bin")
        assert found.index_to_key == made.get_words()
        for word in (*found.index_to_key, "unseen", "паровоз"):
            np.testing.assert_allclose(found[word], made.get_word_vector(word), rtol=0, atol=1e-5)
