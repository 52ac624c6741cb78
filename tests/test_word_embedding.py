"""Word2Vec: its loss against a slow loop, its rows against dense gradients, and what it learns and resumes."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import word_vectors
from jaxgen import fit
from jaxgen.data.corpus import encode_corpus, read_vocabulary
from jaxgen.data.orders import order_of
from jaxgen.data.pipeline import read_batch
from jaxgen.data.sources import from_arrays
from jaxgen.data.word_blocks import BlockFormat, word_source
from jaxgen.data.word_parts import NgramFormat
from jaxgen.embeddings.fasttext_binary import read_fasttext
from jaxgen.embeddings.ngrams import fnv1a, ngrams
from jaxgen.errors import UsageError
from jaxgen.models import WordVectors
from jaxgen.optim import OptimizerConfig, Schedule
from jaxgen.run import run
from jaxgen.saved_run import SavedRun
from jaxgen.tasks import WordEmbedding
from jaxgen.train.context import Context
from jaxgen.train.state import TrainState
from jaxgen.train.step import make_train_step
from jaxgen.word_config import load_words
from jaxgen.word_vectors import convert

GIVEN = BlockFormat(
    window=3, subsample=0.05, block_size=16, group_size=8, negatives_per_group=4, most_repeats=2
)
DIM, BUCKETS = 6, 7
METHODS = ("skipgram", "cbow", "fasttext")


def classes_corpus(sentences=200):
    """Two classes of words: those of one occur together, and never with those of the other."""
    random = np.random.default_rng(0)
    names = [[f"{kind}{n}" for n in range(10)] for kind in ("a", "b")]
    lines = [list(random.choice(names[n % 2], 8)) for n in range(sentences)]
    return encode_corpus("classes", lambda: iter(lines), 1)


@pytest.fixture(scope="module")
def source():
    return word_source(classes_corpus(), GIVEN, seed=0)


@pytest.fixture(scope="module")
def sources(source):
    given = replace(GIVEN, ngrams=NgramFormat(2, 3, BUCKETS))
    return {"skipgram": source, "cbow": source, "fasttext": word_source(source.reader.corpus, given, seed=0)}


def make(method, source):
    buckets = BUCKETS if method == "fasttext" else 0
    return WordEmbedding(WordVectors(source.num_classes, DIM, buckets), method, negatives=5)


def batch_of(source, size=2, step=1):
    batch = read_batch(source, order_of(source, size, 0), step)
    return {**batch, "weight": np.array([1.0, 0.0] if step == -1 else [1.0] * size, np.float32)}


def tables(source):
    random = np.random.default_rng(1)
    buckets = 0 if source.reader.parts is None else BUCKETS
    sizes = {"input": source.num_classes + buckets, "output": source.num_classes}
    return {name: random.normal(size=(-(-size // 128) * 128, DIM)) for name, size in sizes.items()}


def context():
    return Context(jax.random.key(0), jnp.int32(0), jnp.arange(2), train=True)


def slow(method, params, batch, negatives, parts):
    """The loss and the C code's gradients of a batch, pair by pair, in float64."""
    total, gradients = 0.0, {name: np.zeros_like(table) for name, table in params.items()}

    def pair(hidden, output, target, weight):
        nonlocal total
        score = hidden @ params["output"][output]
        total += weight * np.logaddexp(0, -score if target else score)
        of_score = weight * (1 / (1 + np.exp(-score)) - target)
        gradients["output"][output] += of_score * hidden
        return of_score * params["output"][output]

    blocks = zip(*(batch[name] for name in ("words", "counted", "left", "right", "negatives")), strict=True)
    for block in blocks:
        for words, part, left, right, drawn in zip(*block, strict=True):
            share = negatives / len(drawn)
            for place in range(len(left)):
                own = place + GIVEN.window
                near = [own + d for d in range(-int(left[place]), int(right[place]) + 1) if d]
                if not near:
                    continue
                if method != "cbow":
                    rows = [words[own]]
                    if parts is not None:
                        rows = parts.rows[slice(*parts.offsets[words[own] : words[own] + 2])]
                    hidden = params["input"][rows].mean(axis=0)
                    weights = part[own] * part[near]
                    of_hidden = sum(pair(hidden, words[o], 1, w) for o, w in zip(near, weights, strict=True))
                    of_hidden = of_hidden + sum(pair(hidden, n, 0, weights.sum() * share) for n in drawn)
                    np.add.at(gradients["input"], rows, of_hidden)
                else:
                    weights = part[near][:, None]
                    hidden = (weights * params["input"][words[near]]).sum(axis=0) / weights.sum()
                    of_hidden = pair(hidden, words[own], 1, part[own])
                    of_hidden = of_hidden + sum(pair(hidden, n, 0, part[own] * share) for n in drawn)
                    np.add.at(gradients["input"], words[near], weights * of_hidden)
    return total, gradients


@pytest.mark.parametrize("method", METHODS)
def test_loss_and_rows_equal_a_slow_loop(method, sources):
    source = sources[method]
    task, batch, params = make(method, source), batch_of(source), tables(source)
    total, gradients = slow(method, params, batch, task.negatives, source.reader.parts)
    words = 2 * GIVEN.block_size
    optimizer = task.row_optimizer(OptimizerConfig("sgd", Schedule(learning_rate=0.1)), words)
    state = TrainState.create(task, optimizer, jax.random.key(0), batch, params=params)
    step = jax.jit(make_train_step(task.loss, optimizer, gradient=task.gradient))
    after, metrics = step(state, batch)
    np.testing.assert_allclose(metrics["loss"].compute(), total / words, rtol=1e-5)
    for name, table in params.items():
        expected = table - 0.1 * gradients[name]
        np.testing.assert_allclose(after.params[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_rows_equal_the_dense_gradient(method, sources):
    source = sources[method]
    task, batch, params = make(method, source), batch_of(source), tables(source)
    schedule = Schedule("linear", learning_rate=0.01, horizon=4)
    words = 2 * GIVEN.block_size
    by_row = task.row_optimizer(OptimizerConfig("sgd", schedule), words)

    def dense_loss(params, model_state, carry, batch, context):
        gathered = {name: params[name][rows] for name, rows in task.touched(batch).items()}
        return task.loss(gathered, model_state, carry, batch, context)

    dense = optax.sgd(lambda step: words * schedule.build()(step))
    steps = (make_train_step(task.loss, by_row, gradient=task.gradient), make_train_step(dense_loss, dense))
    states = []
    for step, optimizer in zip(steps, (by_row, dense), strict=True):
        state = TrainState.create(task, optimizer, jax.random.key(0), batch, params=params)
        step = jax.jit(step)
        for _ in range(3):
            state, _ = step(state, batch)
        states.append(state.params)
    touched = np.unique(np.concatenate(list(task.touched(batch).values())))
    assert len(touched) > 10
    for name in params:
        np.testing.assert_allclose(states[0][name], states[1][name], rtol=1e-4, atol=1e-5)
        assert np.abs(states[0][name] - params[name]).max() > 1e-2


def test_padding_has_no_part_in_the_loss(source):
    task, batch = make("skipgram", source), batch_of(source)
    params = {name: jnp.asarray(table, jnp.float32) for name, table in tables(source).items()}

    @jax.jit
    def total(batch):
        gathered = {name: params[name][rows] for name, rows in task.touched(batch).items()}
        return task.loss(gathered, {}, (), batch, context())[0]["negative_sampling"].total

    alone = {name: values[:1] for name, values in batch.items()}
    padded = {**batch, "weight": np.array([1, 0], np.float32)}
    assert float(total(padded)) == pytest.approx(float(total(alone)))
    assert float(total(batch)) > 1.5 * float(total(alone))


def train(source, method, rate=0.05, **options):
    task = make(method, source)
    optimizer = task.row_optimizer(
        OptimizerConfig("sgd", Schedule("linear", learning_rate=rate, horizon=10_000)),
        2 * GIVEN.block_size,
    )
    given = {"batch_size": 2, "gradient": task.gradient, "progress": False, "devices": jax.devices()[:1]}
    return fit(task, source, optimizer, **{**given, **options})


@pytest.mark.parametrize("method", METHODS)
def test_words_that_occur_together_come_to_lie_together(method, sources):
    source = sources[method]
    # All words share the few n-grams.
    state = train(source, method, rate=0.01 if method == "fasttext" else 0.05, epochs=15).state
    vectors = make(method, source).vectors(state.params)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first = np.array([word[0] == "a" for word in source.reader.corpus.vocabulary.words])
    similar = np.asarray(vectors @ vectors.T)
    within = similar[first][:, first].mean() + similar[~first][:, ~first].mean()
    assert within / 2 > similar[first][:, ~first].mean() + 0.3


def test_a_run_that_goes_on_is_equal_bit_for_bit(source, tmp_path):
    epoch = order_of(source, 2, 0).steps_per_epoch
    steps = 2 * epoch + 7
    whole = train(source, "skipgram", steps=steps, steps_per_call=5)
    # It stops in the second epoch, and its calls of the device end elsewhere.
    train(source, "skipgram", steps=epoch + 3, steps_per_call=4, workdir=tmp_path)
    resumed = train(source, "skipgram", steps=steps, steps_per_call=7, workdir=tmp_path)
    assert int(resumed.state.step) == steps
    for name, table in whole.state.params.items():
        np.testing.assert_array_equal(table, resumed.state.params[name])
    assert read_vocabulary(tmp_path / "vocabulary.tsv").words == source.reader.corpus.vocabulary.words


def test_two_devices_train_as_one(source):
    one, two = (train(source, "skipgram", steps=6, devices=jax.devices()[:count]) for count in (1, 2))
    for name, table in one.state.params.items():
        np.testing.assert_allclose(table, two.state.params[name], rtol=1e-4, atol=1e-6)
    assert np.abs(one.state.params["output"]).max() > 1e-3


@pytest.mark.parametrize("method", ["skipgram", "fasttext"])
def test_tables_cut_over_devices_by_rows_train_as_whole_ones(method, sources, monkeypatch, tmp_path):
    options = {"batch_size": 8, "devices": jax.devices()[:4]}
    whole = train(sources[method], method, steps=6, **options)
    assert whole.state.params["input"].sharding.is_fully_replicated
    monkeypatch.setattr("jaxgen.train.tables._LARGE", 0)
    cut = train(sources[method], method, steps=6, **options)
    train(sources[method], method, steps=3, workdir=tmp_path, **options)
    resumed = train(sources[method], method, steps=6, workdir=tmp_path, **options)
    for name, table in whole.state.params.items():
        for state in (cut.state, resumed.state):
            shards = state.params[name].addressable_shards
            assert [shard.data.shape for shard in shards] == [(32, DIM)] * 4
            assert {shard.index[0].start or 0 for shard in shards} == {0, 32, 64, 96}
            np.testing.assert_array_equal(state.params[name], table)
    assert np.abs(whole.state.params["output"]).max() > 1e-3


def test_tables_whose_rows_do_not_divide_stay_whole(source, monkeypatch):
    monkeypatch.setattr("jaxgen.train.tables._LARGE", 0)
    state = train(source, "skipgram", steps=1, batch_size=3, devices=jax.devices()[:3]).state
    assert state.params["input"].sharding.is_fully_replicated


def test_the_experiment_makes_a_run(tmp_path):
    random = np.random.default_rng(0)
    text = "\n".join(" ".join(random.choice(list("abcdefgh"), 9)) for _ in range(200))
    (tmp_path / "corpus.txt").write_text(text)
    options = {"data": str(tmp_path / "corpus.txt"), "workdir": tmp_path / "run", "steps": 6, "dim": 5}
    run(
        word_vectors.EXPERIMENT,
        word_vectors.EXPERIMENT.options(**options, method="cbow", block_size=32, batch_size=8),
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 6
    saved = SavedRun(tmp_path / "run")
    assert saved.task == WordEmbedding(WordVectors(8, 5), "cbow", 5)
    found = saved.task.keyed_vectors(saved.state.params, saved)
    assert len(found) == 8
    assert found.vectors.shape == (8, 5)
    np.testing.assert_array_equal(found["a"], saved.state.params["input"][found.key_to_index["a"]])
    with pytest.raises(UsageError, match="--pairs FILE or --analogies FILE"):
        saved.evaluate()
    assert [path.name for path in saved.plot()] == ["curves.png"]


def test_words_that_were_not_seen_have_vectors_of_their_n_grams(tmp_path):
    text = "cat cats catty\ndog dogs doggy\n" * 80
    (tmp_path / "corpus.txt").write_text(text)
    options = {"data": str(tmp_path / "corpus.txt"), "workdir": tmp_path / "run", "steps": 2, "dim": 5}
    options |= {"method": "fasttext", "buckets": 40, "ngrams": (2, 3), "subsample": 0.0}
    run(word_vectors.EXPERIMENT, word_vectors.EXPERIMENT.options(**options, block_size=32, batch_size=8))
    saved = SavedRun(tmp_path / "run")
    found = saved.task.keyed_vectors(saved.state.params, saved)
    table = np.asarray(saved.state.params["input"])
    buckets = [6 + fnv1a(gram) % 40 for gram in ngrams("cattle", 2, 3)]
    np.testing.assert_allclose(found["cattle"], table[buckets].mean(axis=0), rtol=1e-5, atol=1e-7)
    convert(tmp_path / "run", tmp_path / "ft", "fasttext")
    model = read_fasttext(tmp_path / "ft" / "vectors.bin")
    np.testing.assert_array_equal(model.output, saved.state.params["output"][:6])
    assert (model.arguments.window, model.arguments.subsampling, model.arguments.epochs) == (5, 0.0, 1)
    parts = [found.key_to_index["cats"], *(6 + fnv1a(gram) % 40 for gram in ngrams("cats", 2, 3))]
    np.testing.assert_allclose(found["cats"], table[parts].mean(axis=0), rtol=1e-5, atol=1e-7)


def test_tables_begin_as_in_the_c_code(sources):
    for method, bound in (("skipgram", 0.5 / DIM), ("fasttext", 1 / DIM)):
        params, _ = make(method, sources[method]).init(jax.random.key(0), {})
        assert 0.95 * bound < params["input"].max() <= bound
        assert -bound <= params["input"].min() < -0.95 * bound
        assert abs(params["input"].mean()) < 0.1 * bound
        assert not params["output"].any()


def settled(path, **options):
    return word_vectors.EXPERIMENT.options(data=str(path), min_count=1, **options).settled()


def test_options_reach_the_blocks(tmp_path):
    (tmp_path / "corpus.txt").write_text("A cat sat. The dog\nsat. A cat sat, too!\n" * 30)
    cases = (("skipgram", 256, 16, 16), ("cbow", 512, 32, 20), ("fasttext", 128, 16, 16))
    for method, block, group, negatives in cases:
        reader = load_words(settled(tmp_path / "corpus.txt", method=method, window=3, seed=4), None)[
            "train"
        ].reader
        assert (reader.given.block_size, reader.given.group_size) == (block, group)
        assert reader.given.negatives_per_group == negatives
        assert (reader.given.window, reader.seed) == (3, 4)
        assert (reader.given.ngrams is None) == (method != "fasttext")
    assert set(reader.corpus.vocabulary.words) == {"A", "cat", "sat.", "The", "dog", "sat,", "too!"}
    prose = settled(tmp_path / "corpus.txt", sentences="prose", method="glove", window=2)
    reader = load_words(prose, None)["train"].reader
    assert reader.window == 2
    assert set(reader.corpus.vocabulary.words) == {"a", "cat", "sat", "the", "dog", "too"}


def test_options_of_other_methods_are_refused(tmp_path):
    for options, message in (
        ({"x_max": 5.0}, "--x-max is for glove alone, not for --method skipgram"),
        ({"buckets": 7, "method": "cbow"}, "--buckets is for fasttext alone"),
        ({"negatives": 2, "method": "glove"}, "--negatives is for skipgram and cbow and fasttext alone"),
        ({"optimizer": "adam", "method": "glove"}, "--optimizer is for skipgram"),
        ({"ngrams": (6, 3), "method": "fasttext"}, "n-grams of 6 to 3 characters can't be"),
        ({"buckets": 0, "method": "fasttext"}, "--buckets must be between 1 and"),
        ({"block_size": 0}, "at least 1 word each"),
    ):
        with pytest.raises(UsageError, match=message):
            settled(tmp_path, **options).block_format()
    with pytest.raises(UsageError, match="word vectors have no validation split"):
        load_words(settled(tmp_path, validation_fraction=0.1), None)


def test_what_cannot_be_is_refused(source):
    with pytest.raises(UsageError, match="unknown method 'cbo'; did you mean cbow"):
        make("cbo", source)
    with pytest.raises(UsageError, match="--negatives must be at least 1"):
        WordEmbedding(WordVectors(8), negatives=0)
    with pytest.raises(UsageError, match="--optimizer sgd alone"):
        make("cbow", source).row_optimizer(OptimizerConfig("adam"), 4)
    with pytest.raises(UsageError, match="isn't made of blocks of words"):
        make("cbow", source).check(from_arrays({"features": np.zeros((3, 2), np.float32)}))
    with pytest.raises(UsageError, match="has 20 words, but the model 8"):
        WordEmbedding(WordVectors(8)).check(source)
    with pytest.raises(UsageError, match="buckets of n-grams are for the method fasttext"):
        WordEmbedding(WordVectors(8), "fasttext")
    with pytest.raises(UsageError, match="has 0 buckets of n-grams, the model 7"):
        make("fasttext", source).check(source)
