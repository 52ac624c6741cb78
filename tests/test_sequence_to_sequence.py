"""From text to text: the loss against one written out, what the decoder reads, and corrupted spans."""

import contextlib
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from weights import random_params

from jaxgen.config import describe, rebuild
from jaxgen.data import from_arrays
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.subwords import Subwords, t5_tokens
from jaxgen.errors import UsageError
from jaxgen.models import RecurrentEncoderDecoder, RecurrentLanguageModel
from jaxgen.objectives import content_rngs, corrupt_spans, spans_shapes, split_prefix
from jaxgen.tasks import PrefixLanguageModelling, SequenceToSequence, SpanCorruption
from jaxgen.train.context import Context

VOCABULARY = 40


class MeanAndLast(nn.Module):
    """Predicts a token from the one before and the mean of what was read."""

    vocabulary_size: int = VOCABULARY

    def setup(self):
        self.embedding = nn.Embed(self.vocabulary_size, 6)
        self.dense = nn.Dense(8)
        self.kernel = self.param("kernel", nn.initializers.normal(0.5), (8, self.vocabulary_size))
        self.bias = self.param("bias", nn.initializers.normal(0.5), (self.vocabulary_size,))

    def __call__(self, source, tokens, *, source_lengths=None, train=False):
        features = self.features(source, tokens, source_lengths=source_lengths, train=train)
        return features @ self.kernel + self.bias

    def features(self, source, tokens, *, source_lengths=None, train=False):
        source = jnp.asarray(source)
        there = jnp.ones(source.shape)
        if source_lengths is not None:
            there = jnp.arange(source.shape[1]) < source_lengths[:, None]
        mean = (self.embedding(source) * there[..., None]).sum(axis=1) / there.sum(axis=1)[:, None]
        previous = self.embedding(tokens)
        read = jnp.broadcast_to(mean[:, None], previous.shape)
        return nn.tanh(self.dense(jnp.concatenate([read, previous], axis=-1)))

    def output(self):
        return self.kernel, self.bias


TASK = SequenceToSequence(MeanAndLast())
PREFIX = PrefixLanguageModelling(MeanAndLast())
SPANS = SpanCorruption(MeanAndLast(), first_sentinel=VOCABULARY - 1, fraction=0.5)
TOKENS = np.random.default_rng(0).integers(2, 30, (4, 24)).astype(np.int32)
LABELS = np.array([[5, 6, 7, 8, 1], [9, 3, 1, -1, -1], [1, -1, -1, -1, -1], [4, 5, 6, 7, 1]], np.int32)
BATCH = {
    "tokens": TOKENS,
    "lengths": np.array([24, 10, 24, 1]),
    "labels": LABELS,
    "weight": np.array([1, 1, 1, 0], np.float32),
}
PARAMS = TASK.init(jax.random.key(0), BATCH)[0]
LOGITS = jax.jit(
    lambda params: TASK.model.apply(
        {"params": params}, TOKENS, TASK.shifted(LABELS), source_lengths=BATCH["lengths"]
    )
)
EVALUATION = Context(rng=jax.random.key(0), step=0, places=jnp.arange(4), train=False)
TRAINING = dataclasses.replace(EVALUATION, train=True)


@functools.lru_cache
def compiled(task):
    return jax.jit(lambda batch, context: task.loss(PARAMS, {}, (), batch, context))


def loss(task, batch, context=EVALUATION):
    terms, outputs = compiled(task)(batch, context)
    return terms["cross_entropy"], outputs.metrics


def test_decoder_reads_the_start_and_all_labels_but_the_last():
    task = dataclasses.replace(TASK, start_token=2)
    assert task.shifted(LABELS).tolist() == [
        [2, 5, 6, 7, 8],
        [2, 9, 3, 1, 2],
        [2, 1, 2, 2, 2],
        [2, 4, 5, 6, 7],
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_that_of_all_logits(smoothing):
    found, figures = loss(dataclasses.replace(TASK, label_smoothing=smoothing), BATCH)
    logits = LOGITS(PARAMS)
    counted = (LABELS >= 0) & (BATCH["weight"] > 0)[:, None]
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS, VOCABULARY), smoothing)
    assert found.compute() == pytest.approx(
        float(optax.softmax_cross_entropy(logits, targets)[counted].mean()), rel=1e-5
    )
    plain = optax.softmax_cross_entropy(logits, jax.nn.one_hot(LABELS, VOCABULARY))[counted].mean()
    assert figures["perplexity"].compute() == pytest.approx(float(jnp.exp(plain)), rel=1e-5)
    assert figures["accuracy"].compute() == pytest.approx(
        float((logits.argmax(-1) == LABELS)[counted].mean())
    )
    assert found.count == 5 + 3 + 1
    assert not jax.eval_shape(lambda: TASK.loss(PARAMS, {}, (), BATCH, TRAINING)[1]).metrics


def test_loss_of_a_model_that_copies_is_that_of_its_mixtures():
    model = RecurrentEncoderDecoder(VOCABULARY, embedding_size=6, hidden_size=6, copies=True)
    task = SequenceToSequence(model)
    params = random_params(model, TOKENS[:, :2], TOKENS[:, :2])
    labels = np.where(np.arange(4)[:, None] == 1, TOKENS[:, :5], LABELS)
    batch = {**BATCH, "labels": labels}
    terms, outputs = jax.jit(lambda: task.loss(params, {}, (), batch, EVALUATION))()
    log_probs = jax.jit(
        lambda: model.apply({"params": params}, TOKENS, task.shifted(labels), source_lengths=BATCH["lengths"])
    )()
    counted = (labels >= 0) & (BATCH["weight"] > 0)[:, None]
    own = np.take_along_axis(np.asarray(log_probs), np.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    assert terms["cross_entropy"].compute() == pytest.approx(-own[counted].mean(), rel=1e-5)
    figures = outputs.metrics
    assert figures["perplexity"].compute() == pytest.approx(np.exp(-own[counted].mean()), rel=1e-5)
    right = np.asarray(log_probs.argmax(axis=-1)) == labels
    assert figures["accuracy"].compute() == pytest.approx(right[counted].mean())
    with pytest.raises(UsageError, match="not for one with copying: leave them 0"):
        dataclasses.replace(task, label_smoothing=0.1).loss(params, {}, (), batch, EVALUATION)
    assert rebuild(describe(task)) == task


def test_more_padding_changes_nothing():
    padded = {
        **BATCH,
        "tokens": np.pad(TOKENS, ((0, 0), (0, 5)), constant_values=7),
        "labels": np.pad(LABELS, ((0, 0), (0, 3)), constant_values=-1),
    }
    (one, _), (other, _) = loss(TASK, BATCH), loss(TASK, padded)
    assert other.count == one.count and other.total == pytest.approx(float(one.total), rel=1e-5)


def test_spans_are_corrupted_as_pairs_of_texts_would_be():
    batch = {name: BATCH[name] for name in ("tokens", "lengths", "weight")}
    corrupt = functools.partial(corrupt_spans, first_sentinel=VOCABULARY - 1, end_token=1, fraction=0.5)
    corrupted = jax.jit(lambda tokens, lengths: corrupt(content_rngs(tokens), tokens, lengths))(
        TOKENS, BATCH["lengths"]
    )
    pairs = {
        "tokens": corrupted.inputs,
        "lengths": corrupted.input_lengths,
        "labels": np.where(corrupted.weights > 0, corrupted.targets, -1),
        "weight": BATCH["weight"],
    }
    (found, _), (expected, _) = loss(SPANS, batch), loss(TASK, pairs)
    assert found.total == expected.total and found.count == expected.count
    # Texts that fill their rows need no lengths.
    (one, _), (other, _) = (
        loss(SPANS, {"tokens": TOKENS, "weight": BATCH["weight"], **lengths})
        for lengths in ({}, {"lengths": np.full(4, 24)})
    )
    assert one.total == other.total


def test_prefixes_are_read_and_the_rest_is_written():
    tokens = jnp.array([[5, 6, 7, 8], [5, 6, 7, 0], [5, 0, 0, 0]], jnp.int32)
    pairs = PREFIX.pairs(tokens, jnp.array([4, 3, 1]), jnp.array([3, 1, 0], jnp.int32))
    assert pairs["tokens"].tolist() == [[5, 6, 7, 1], [5, 1, 0, 0], [1, 0, 0, 0]]
    assert pairs["lengths"].tolist() == [4, 2, 1]
    assert pairs["labels"].tolist() == [[8, 1, -1, -1], [6, 7, 1, -1], [5, 1, -1, -1]]
    alone = PREFIX.pairs(jnp.array([[5]], jnp.int32), jnp.array([1]), jnp.array([0], jnp.int32))
    assert alone["tokens"].tolist() == [[1, 0]] and alone["labels"].tolist() == [[5, 1]]


def test_loss_of_prefixes_is_that_of_such_pairs_of_texts():
    batch = {name: BATCH[name] for name in ("tokens", "lengths", "weight")}
    prefixes = split_prefix(content_rngs(TOKENS), batch["lengths"])
    pairs = PREFIX.pairs(jnp.asarray(TOKENS), jnp.asarray(batch["lengths"]), prefixes)
    (found, figures), (expected, _) = loss(PREFIX, batch), loss(TASK, {**batch, **pairs})
    assert found.total == expected.total
    # All that counts is written but the prefixes, and an end each.
    assert found.count == (batch["lengths"] - prefixes + 1)[:3].sum() and "accuracy" in figures


@pytest.mark.parametrize("task", [SPANS, PREFIX], ids=["spans", "prefix"])
def test_evaluation_changes_texts_the_same_in_any_order_and_training_others_at_each_step(task):
    batch = {"tokens": TOKENS, "weight": np.ones(4, np.float32)}
    order = np.array([2, 0, 3, 1])
    (found, _), (turned, _) = loss(task, batch), loss(task, {**batch, "tokens": TOKENS[order]})
    assert turned.total == pytest.approx(float(found.total), rel=1e-5)
    totals = [
        loss(task, batch, dataclasses.replace(TRAINING, rng=jax.random.key(seed)))[0].total for seed in (1, 2)
    ]
    assert totals[0] != totals[1] and totals[0] != found.total


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="arrays has tokens, not tokens and labels"):
        TASK.check(from_arrays({"tokens": TOKENS}))
    source = from_arrays({"tokens": TOKENS, "labels": LABELS})
    TASK.check(source)
    SPANS.check(source)
    PREFIX.check(source)
    with pytest.raises(UsageError, match="arrays has 41 tokens, but the model knows 40"):
        TASK.check(dataclasses.replace(source, num_classes=41))
    assert spans_shapes(24, 0.5).spans == 4
    for first in (2, VOCABULARY):
        task = dataclasses.replace(SPANS, first_sentinel=first)
        with pytest.raises(
            UsageError, match=f"the 4 sentinels from {first} down are not in the model's vocabulary of 40"
        ):
            task.check(source)
    for count in (3, 4):
        tokenizer = Subwords.train(["a text"], 270, "bpe", t5_tokens(count))
        text = SequenceFormat(tokenizer, 24)
        with (
            contextlib.nullcontext()
            if count == 4
            else pytest.raises(
                UsageError, match="texts of 24 tokens lose 4 spans, but the tokenizer has 3 sentinels"
            )
        ):
            SPANS.check(dataclasses.replace(source, text=text))


def test_it_is_made_again_from_its_description():
    task = SpanCorruption(RecurrentLanguageModel(5), label_smoothing=0.1, first_sentinel=4, fraction=0.2)
    assert rebuild(describe(task)) == task
