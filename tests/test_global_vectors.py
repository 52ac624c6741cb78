"""GloVe: its counts against a naive loop, its step against NumPy, and what it learns."""

import collections

import jax
import numpy as np
import pytest

from experiments import word_vectors
from jaxgen import fit
from jaxgen.data import cooccurrence, corpus
from jaxgen.data.cooccurrence import cooccurrence_source, count_runs, merge
from jaxgen.data.corpus import encode_corpus
from jaxgen.data.sources import from_arrays
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.models import BiasedWordVectors
from jaxgen.optim import OptimizerConfig, Schedule
from jaxgen.run import run
from jaxgen.saved_run import SavedRun
from jaxgen.tasks import GlobalVectors
from jaxgen.train.state import TrainState
from jaxgen.train.step import make_train_step

DIM = 4


def lines_of_classes(count=60):
    random = np.random.default_rng(0)
    names = [[f"{kind}{n}" for n in range(8)] for kind in ("a", "b")]
    return [list(random.choice(names[n % 2], random.integers(1, 12))) for n in range(count)]


def naive(lines, window):
    counts = collections.Counter()
    for line in lines:
        for i, word in enumerate(line):
            for j in range(max(0, i - window), min(len(line), i + window + 1)):
                if i != j:
                    counts[word, line[j]] += 1 / abs(i - j)
    return counts


def as_dict(source):
    arrays, words = source.arrays(), source.reader.corpus.vocabulary.words
    counted = zip(arrays["pair"], arrays["count"], strict=True)
    return {(words[a], words[b]): float(count) for (a, b), count in counted}


@pytest.mark.parametrize(("held", "merged"), [(2**25, 2**23), (40, 16)])
def test_counts_are_those_of_a_naive_loop(held, merged, monkeypatch, tmp_path):
    monkeypatch.setattr(corpus, "_PIECE", 30)
    monkeypatch.setattr(cooccurrence, "_MERGED", merged)
    lines = lines_of_classes()
    found = encode_corpus("lines", lambda: iter(lines), 1)
    runs = count_runs(found, 4, tmp_path, held)
    assert (len(runs) > 3) == (held == 40)
    assert isinstance(runs[0].pairs, np.memmap) == (held == 40)
    parts = list(merge(runs, merged))
    assert (len(parts) > 3) == (held == 40)
    pairs = np.concatenate([part.pairs for part in parts])
    assert (np.diff(pairs) > 0).all()
    expected = naive(lines, 4)
    words, size = found.vocabulary.words, len(found.vocabulary)
    for pair, count in zip(pairs, np.concatenate([part.counts for part in parts]), strict=True):
        first, second = (words[number] for number in divmod(int(pair), size))
        assert count * (2 if first == second else 1) == pytest.approx(expected[first, second], rel=1e-12)
    assert as_dict(cooccurrence_source(found, 4)) == pytest.approx(dict(expected))


@pytest.fixture(scope="module")
def source():
    lines = lines_of_classes(400)
    return cooccurrence_source(encode_corpus("lines", lambda: iter(lines), 1), 5)


def make(source, rate=0.05, pairs=8):
    task = GlobalVectors(BiasedWordVectors(source.num_classes, DIM), x_max=10.0)
    return task, task.row_optimizer(OptimizerConfig("adagrad", Schedule(learning_rate=rate)), pairs)


def test_steps_are_those_of_the_paper(source):
    task, optimizer = make(source)
    random = np.random.default_rng(0)
    tables = {name: random.normal(size=(128, DIM + 1)) for name in ("input", "output")}
    squares = {name: np.ones_like(table) for name, table in tables.items()}
    rows = random.permutation(len(source))[:16].reshape(2, 8)
    batches = [{**source.gather(chosen), "weight": np.ones(8, np.float32)} for chosen in rows]
    batches[1]["weight"][5:] = 0
    # A word twice in a batch is moved twice, each time by what was there before.
    batches[0]["pair"][3, 0] = batches[0]["pair"][0, 0]
    state = TrainState.create(task, optimizer, jax.random.key(0), batches[0], params=tables)
    step = jax.jit(make_train_step(task.loss, optimizer, gradient=task.gradient))
    for batch in batches:
        state, metrics = step(state, batch)
        total, moves = 0.0, []
        for (word, other), count, weight in zip(*(batch[name] for name in batch), strict=True):
            w, c = tables["input"][word], tables["output"][other]
            difference = w[:-1] @ c[:-1] + w[-1] + c[-1] - np.log(count)
            factor = weight * min(1, count / 10) ** 0.75
            total += factor * difference**2 / 2
            for name, row, partner in (("input", word, c), ("output", other, w)):
                moves.append((name, row, 0.05 * factor * difference * np.append(partner[:-1], 1)))
        before = {name: values.copy() for name, values in squares.items()}
        for name, row, move in moves:
            tables[name][row] -= move / np.sqrt(before[name][row])
            squares[name][row] += move**2
        np.testing.assert_allclose(metrics["loss"].compute(), total / 8, rtol=1e-5)
    for name, table in tables.items():
        np.testing.assert_allclose(state.params[name], table, rtol=1e-4, atol=1e-5)


def test_products_come_to_tell_the_counts(source):
    task, optimizer = make(source, rate=0.2, pairs=16)
    given = {"batch_size": 16, "gradient": task.gradient, "progress": False, "devices": jax.devices()[:1]}
    params = fit(task, source, optimizer, epochs=60, **given).state.params
    vectors = np.asarray(task.vectors(params))
    assert vectors.shape == (16, DIM)
    counts = source.arrays()
    w, c = (np.asarray(params[name]) for name in ("input", "output"))
    w, c = w[counts["pair"][:, 0]], c[counts["pair"][:, 1]]
    told = (w[:, :-1] * c[:, :-1]).sum(1) + w[:, -1] + c[:, -1]
    assert np.corrcoef(told, np.log(counts["count"]))[0, 1] > 0.8


def test_tables_cut_over_devices_by_rows_train_as_whole_ones(source, monkeypatch):
    task, optimizer = make(source)
    given = {"batch_size": 8, "gradient": task.gradient, "progress": False, "devices": jax.devices()[:4]}
    whole = fit(task, source, optimizer, steps=20, **given).state
    monkeypatch.setattr("jaxgen.train.tables._LARGE", 0)
    cut = fit(task, source, optimizer, steps=20, **given).state
    for name, table in whole.params.items():
        squares = cut.opt_state["tables"][name]
        assert squares.addressable_shards[0].data.shape == (32, DIM + 1)
        np.testing.assert_array_equal(cut.params[name], table)
        np.testing.assert_array_equal(squares, whole.opt_state["tables"][name])


def test_the_experiment_makes_a_run(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(" ".join(line) for line in lines_of_classes(300)))
    options = {"data": str(tmp_path / "corpus.txt"), "workdir": tmp_path / "run", "epochs": 2, "dim": 5}
    experiment = word_vectors.EXPERIMENT
    run(experiment, experiment.options(**options, method="glove", block_size=8, batch_size=2))
    saved = SavedRun(tmp_path / "run")
    assert saved.task == GlobalVectors(BiasedWordVectors(16, 5))
    found = saved.task.keyed_vectors(saved.state.params, saved)
    row, params = found.key_to_index["a0"], saved.state.params
    np.testing.assert_array_equal(found["a0"], (params["input"] + params["output"])[row, :5])


def test_what_cannot_be_is_refused(source):
    with pytest.raises(UsageError, match="x_max and alpha must be positive"):
        GlobalVectors(BiasedWordVectors(8), x_max=0.0)
    with pytest.raises(UsageError, match="--optimizer adagrad alone"):
        make(source)[0].row_optimizer(OptimizerConfig("sgd"), 4)
    with pytest.raises(UsageError, match="isn't made of counts"):
        make(source)[0].check(from_arrays({"features": np.zeros((3, 2), np.float32)}))
    with pytest.raises(UsageError, match="has 16 words, but the model 8"):
        GlobalVectors(BiasedWordVectors(8)).check(source)
    with pytest.raises(UsageError, match="--window must be at least 1"):
        cooccurrence_source(source.reader.corpus, 0)
    alone = encode_corpus("lines", lambda: iter([["a"], ["b"]]), 1)
    with pytest.raises(JaxgenError, match="no sentence of lines has two words"):
        cooccurrence_source(alone, 2)
