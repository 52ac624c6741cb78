"""Language modelling: the loss against one written out, streams that are carried on, and evaluation of every token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgen
from jaxgen import metrics
from jaxgen.data import from_arrays
from jaxgen.data.sources import InMemory
from jaxgen.data.streams import TextFormat, evaluation_streams, tokens_of, training_streams
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Characters
from jaxgen.data.windows import packed_windows
from jaxgen.errors import UsageError
from jaxgen.models import RecurrentLanguageModel
from jaxgen.parallel import make_mesh, put_batch, put_state
from jaxgen.tasks import LanguageModelling
from jaxgen.train.context import Context
from jaxgen.train.evaluate import Evaluator
from jaxgen.train.state import TrainState
from jaxgen.train.step import make_train_step

ONE = jax.devices()[:1]
ALPHABET = Characters("abcd")
TASK = LanguageModelling(RecurrentLanguageModel(4, embedding_size=3, hidden_size=5))
EVALUATION = Context(rng=jax.random.key(0), step=0, places=jnp.arange(8), train=False)


def letters(count, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("abcd"), count))


def streams_of(*documents, sequence_length=4, streams=8, **options):
    text = Text("made up", "train", documents, "1")
    given = TextFormat(ALPHABET, sequence_length, streams, **options)
    return training_streams(text, given), evaluation_streams(text, given)


def state_of(task, example, optimizer=optax.identity()):  # noqa: B008
    return TrainState.create(task, optimizer, jax.random.key(0), example)


def log_probs(params, tokens, task=TASK):
    """Gives each token's log-probability but the first one's, without streams, chunks, or a carried state."""
    logits, _ = jax.jit(task.model.apply)({"params": params}, np.asarray(tokens)[None, :-1])
    return np.asarray(jax.nn.log_softmax(logits))[0, np.arange(len(tokens) - 1), tokens[1:]]


def test_loss_is_that_of_the_text_read_in_one_go():
    source, _ = streams_of(letters(8 * 12 + 1))
    state = state_of(TASK, source.gather(np.arange(8)))
    # What the run before left must not matter: a stream starts.
    carry = jax.tree.map(lambda leaf: leaf + 0.3, TASK.initial_carry(8))
    loss = jax.jit(TASK.loss)
    total = metrics.Mean(0.0, 0.0)
    for window in range(3):
        batch = {
            **source.gather(8 * window + np.arange(8)),
            "weight": np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32),
        }
        terms, outputs = loss(state.params, {}, carry, batch, EVALUATION)
        carry, total = outputs.carry, total + terms["cross_entropy"]
        bits = outputs.metrics["bits_per_character"]
        assert float(bits.compute()) == pytest.approx(
            float(terms["cross_entropy"].compute()) / np.log(2), rel=1e-6
        )
    tokens = tokens_of(source)
    expected = np.concatenate([log_probs(state.params, tokens[12 * row : 12 * row + 13]) for row in range(7)])
    assert float(total.count) == 7 * 12
    assert float(total.compute()) == pytest.approx(-expected.mean(), rel=1e-5)


def test_state_is_forgotten_where_documents_start():
    documents = [letters(n, seed=n) for n in (11, 22)]
    source, _ = streams_of(*documents, streams=1, document_starts=True)
    state = state_of(TASK, source.gather([0]))
    carry, nats, loss = TASK.initial_carry(1), 0.0, jax.jit(TASK.loss)
    for window in range(len(source)):
        terms, outputs = loss(
            state.params,
            {},
            carry,
            source.gather([window]),
            dataclasses.replace(EVALUATION, places=jnp.arange(1)),
        )
        carry, nats = outputs.carry, nats + float(terms["cross_entropy"].total)
    # What the second one begins with can't be foreseen from the first one, and doesn't count.
    expected = np.concatenate([log_probs(state.params, ALPHABET.encode(document)) for document in documents])
    assert nats == pytest.approx(-sum(expected), rel=1e-5)


def test_packed_documents_have_the_loss_that_each_has_alone():
    documents = [letters(n, seed=n) for n in (5, 9, 2, 7, 3, 8, 4)]
    source = packed_windows(Text("made up", "train", tuple(documents), "1"), TextFormat(ALPHABET, 12, 0))
    state = state_of(TASK, source.gather([0]))
    assert len(source) < 4
    context = dataclasses.replace(EVALUATION, places=jnp.arange(len(source)))
    terms, _ = jax.jit(TASK.loss)(state.params, {}, TASK.initial_carry(len(source)), source.arrays(), context)
    expected = np.concatenate([log_probs(state.params, ALPHABET.encode(document)) for document in documents])
    assert float(terms["cross_entropy"].count) == len(expected)
    assert float(terms["cross_entropy"].total) == pytest.approx(-sum(expected), rel=1e-5)


@pytest.mark.parametrize("devices", [1, 3, 8])
def test_evaluation_is_the_same_on_any_number_of_devices(devices):
    _, source = streams_of(letters(301), sequence_length=6)
    mesh = make_mesh(jax.devices()[:devices])
    state = put_state(dataclasses.replace(state_of(TASK, source.gather([0])), carry=()), mesh)
    evaluate = Evaluator(TASK, {"test": source}, mesh)
    figures = evaluate(state, ("test",))
    assert evaluate(state, ("test",)) == figures and evaluate._step._cache_size() == 1
    tokens, params = tokens_of(source), jax.device_get(state.params)
    length = -(-300 // 16)
    rows = [tokens[length * row : length * row + length + 1] for row in range(16)]
    expected = -np.concatenate([log_probs(params, row) for row in rows if len(row) > 1])
    assert len(expected) == 300
    assert figures["test/loss"] == pytest.approx(expected.mean(), rel=1e-5)
    assert figures["test/perplexity"] == pytest.approx(np.exp(expected.mean()), rel=1e-5)
    assert figures["test/bits_per_character"] == pytest.approx(expected.mean() / np.log(2), rel=1e-5)


@pytest.mark.parametrize("way", ["mesh", "microbatches"])
def test_a_step_on_devices_or_in_microbatches_is_the_same_step(way):
    source, _ = streams_of(letters(8 * 8 + 1))
    batches = [
        {**source.gather(8 * window + np.arange(8)), "weight": np.ones(8, np.float32)} for window in range(2)
    ]
    optimizer = optax.sgd(0.5)

    def trained(mesh, accumulate):
        step = jax.jit(make_train_step(TASK.loss, optimizer, accumulate=accumulate))
        state = put_state(state_of(TASK, batches[0], optimizer), mesh)
        for batch in batches:
            state, _ = step(state, put_batch(batch, mesh))
        return jax.device_get((state.params, state.carry))

    one = make_mesh(ONE)
    other = trained(make_mesh(jax.devices()), 1) if way == "mesh" else trained(one, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), trained(one, 1), other)


def test_carried_state_remembers_what_the_window_does_not_show():
    # A period of six in windows of three: after three a's, which is all that some show, a and b are as likely.
    source, _ = streams_of("aaaaab" * 400, sequence_length=3)
    forgetful = {**source.arrays(), "stream_start": np.ones(len(source), bool)}
    task = LanguageModelling(RecurrentLanguageModel(4, embedding_size=4, hidden_size=16))
    least = []
    for given in (source, dataclasses.replace(source, reader=InMemory(forgetful))):
        result = jaxgen.fit(
            task, given, optax.adam(1e-2), steps=480, batch_size=8, progress=False, devices=ONE
        )
        least.append(min(record["train/loss"] for record in result.history))
    assert least[0] < 0.02
    assert np.log(2) / 3 - 1e-3 < least[1] < np.log(2) / 3 + 1e-2


def test_order_and_batch_size_of_streams_are_given():
    source, _ = streams_of(letters(200))
    fit = functools.partial(jaxgen.fit, TASK, source, optax.adam(1e-3), steps=1, progress=False)
    with pytest.raises(UsageError, match="made up is cut into 8 streams: that must be the batch size, not 4"):
        fit(batch_size=4)
    with pytest.raises(UsageError, match="digits is no text: it has image, label, not tokens and labels"):
        TASK.check(jaxgen.load("digits", "train"))
    with pytest.raises(UsageError, match=r"tells of no row whether it goes on: .*stream_start"):
        TASK.check(from_arrays({name: source.arrays()[name] for name in ("tokens", "labels")}))
    with pytest.raises(UsageError, match="are of another tokenizer than the task's"):
        dataclasses.replace(TASK, tokenizer="abc").check(source)
    small = LanguageModelling(RecurrentLanguageModel(3))
    with pytest.raises(UsageError, match="made up has 4 tokens, but the model knows 3"):
        small.check(source)


def test_perplexity():
    perplexity = metrics.Perplexity(np.float32(2 * np.log(8)), np.float32(2))
    assert perplexity.compute() == pytest.approx(8)
    assert (perplexity + metrics.Perplexity(np.float32(0), np.float32(1))).compute() == pytest.approx(4)
    assert metrics.Perplexity(np.float32(0), np.float32(0)).compute() == 0


@pytest.mark.parametrize(("dense_size", "tied"), [(0, False), (6, False), (0, True), (3, True)])
def test_head_of_every_form_is_fused_and_plain_alike(dense_size, tied):
    model = RecurrentLanguageModel(
        7, embedding_size=3, hidden_size=5, dense_size=dense_size, tied=tied, num_layers=2
    )
    task = LanguageModelling(model)
    tokens = np.random.default_rng(0).integers(0, 7, (2, 9)).astype(np.int32)
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:]}
    params, _ = task.init(jax.random.key(0), batch)
    assert ("output_kernel" in params) == (not tied)

    def plain(params):
        logits, _ = model.apply({"params": params}, batch["tokens"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    def fused(params):
        terms, _ = task.loss(params, {}, task.initial_carry(2), batch, EVALUATION)
        return terms["cross_entropy"].compute()

    (value, gradients), (expected, expected_gradients) = (
        jax.jit(jax.value_and_grad(f))(params) for f in (fused, plain)
    )
    assert value == pytest.approx(float(expected), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), gradients, expected_gradients)


def test_next_token_is_predicted_from_those_before_it_alone():
    model = RecurrentLanguageModel(7, embedding_size=3, hidden_size=5, num_layers=2)
    tokens = np.zeros((1, 6), np.int32)
    variables = model.init(jax.random.key(0), tokens)

    embedded = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 3)), jnp.float32)
    gradient = jax.grad(
        lambda inputs: model.apply(
            variables, inputs, method=lambda module, inputs: module.recurrent(inputs)[0]
        )[0, 3].sum()
    )(embedded)
    assert (gradient[0, 4:] == 0).all() and (gradient[0, :4] != 0).any(axis=-1).all()
