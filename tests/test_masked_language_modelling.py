"""Masked language modelling: the loss against one written out, and what is hidden when."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.config import describe, rebuild
from jaxgen.data import from_arrays
from jaxgen.errors import UsageError
from jaxgen.models import RecurrentLanguageModel
from jaxgen.objectives import content_rngs, mask_tokens
from jaxgen.tasks import MaskedLanguageModelling
from jaxgen.train.context import Context

VOCABULARY, MASK, SPECIAL = 9, 3, (0, 1, 2)


class Neighbours(nn.Module):
    """Predicts a token from those beside it, its own, and the mean of the whole text."""

    vocabulary_size: int = VOCABULARY
    heads: tuple[str, ...] = ()

    def setup(self):
        self.embedding = nn.Embed(self.vocabulary_size, 6)
        self.types = nn.Embed(2, 6)
        self.dense = nn.Dense(8)
        self.follows = nn.Dense(2)
        self.kernel = self.param("kernel", nn.initializers.normal(0.5), (8, self.vocabulary_size))
        self.bias = self.param("bias", nn.initializers.normal(0.5), (self.vocabulary_size,))

    def __call__(self, tokens, *, train=False):
        if self.heads:
            self.classes("next_sentence", self.features(tokens))
        return self.masked_features(self.features(tokens, train=train)) @ self.kernel + self.bias

    def features(self, tokens, *, lengths=None, token_types=None, train=False):
        tokens = jnp.asarray(tokens)
        types = jnp.zeros_like(tokens) if token_types is None else token_types
        embedded = self.embedding(tokens) + self.types(types)
        there = jnp.ones(tokens.shape) if lengths is None else jnp.arange(tokens.shape[1]) < lengths[:, None]
        embedded *= there[..., None]
        mean = embedded.sum(axis=1, keepdims=True) / there.sum(axis=1)[:, None, None]
        padded = jnp.pad(embedded, ((0, 0), (1, 1), (0, 0)))
        parts = [padded[:, :-2], embedded, padded[:, 2:], jnp.broadcast_to(mean, embedded.shape)]
        return jnp.concatenate(parts, axis=-1)

    def masked_features(self, features):
        return nn.tanh(self.dense(features))

    def classes(self, head, features, *, train=False):
        return self.follows(features.mean(axis=1))

    def output(self):
        return self.kernel, self.bias


TASK = MaskedLanguageModelling(Neighbours(), MASK, SPECIAL, fraction=0.4)
LENGTHS = np.array([12, 7, 10, 2, 12, 9])


def batch_of(rows=6, seed=0):
    tokens = np.random.default_rng(seed).integers(4, VOCABULARY, (rows, 12)).astype(np.int32)
    tokens[:, 0] = 1
    tokens *= np.arange(12) < LENGTHS[:rows, None]
    return {
        "tokens": tokens,
        "lengths": LENGTHS[:rows],
        "weight": np.array([1, 1, 1, 1, 1, 0], np.float32)[:rows],
    }


def context(train, rows=6, seed=0):
    return Context(rng=jax.random.key(seed), step=0, places=jnp.arange(rows), train=train)


PARAMS = TASK.init(jax.random.key(0), batch_of())[0]
LOSS = jax.jit(lambda batch, context: TASK.loss(PARAMS, {}, (), batch, context))
HIDE = jax.jit(
    lambda tokens, maskable: mask_tokens(
        content_rngs(tokens), tokens, maskable, mask_token=MASK, vocabulary_size=VOCABULARY, fraction=0.15
    )
)


@jax.jit
def features_at(tokens, positions):
    apply = functools.partial(TASK.model.apply, {"params": PARAMS})
    chosen = jnp.take_along_axis(
        apply(tokens, lengths=LENGTHS, method="features"), positions[..., None], axis=1
    )
    return apply(chosen, method="masked_features")


def test_loss_is_that_of_all_logits_at_the_hidden_places():
    batch = batch_of()
    terms, outputs = LOSS(batch, context(train=False))
    maskable = np.array(TASK.maskable(batch))
    assert maskable.tolist() == ((np.arange(12) < LENGTHS[:, None]) & (np.arange(12) > 0)).tolist()
    masked = jax.device_get(HIDE(batch["tokens"], maskable))
    everywhere = np.tile(np.arange(12), (6, 1))
    hidden = features_at(masked.inputs, everywhere)
    log_probs = np.asarray(jax.nn.log_softmax(hidden @ PARAMS["kernel"] + PARAMS["bias"]))
    nats, right = [], []
    for row, slot in zip(*np.nonzero(masked.weights), strict=True):
        if batch["weight"][row]:
            place = masked.positions[row, slot]
            nats.append(-log_probs[row, place, masked.labels[row, slot]])
            right.append(log_probs[row, place].argmax() == masked.labels[row, slot])
    assert len(nats) == 2 + 1 + 1 + 1 + 2  # 15 %, whatever training hides
    assert float(terms["cross_entropy"].count) == len(nats)
    assert terms["cross_entropy"].compute() == pytest.approx(np.mean(nats), rel=1e-5)
    assert outputs.metrics["perplexity"].compute() == pytest.approx(np.exp(np.mean(nats)), rel=1e-5)
    assert outputs.metrics["accuracy"].compute() == pytest.approx(np.mean(right))


def test_evaluation_hides_the_same_in_whatever_batch_and_step():
    batch = batch_of()
    (terms, _), (again, _) = (LOSS(batch, context(train=False, seed=seed)) for seed in (0, 1))
    assert again["cross_entropy"].total == terms["cross_entropy"].total
    order = np.array([3, 5, 0, 2, 1, 4])
    turned, _ = LOSS({name: array[order] for name, array in batch.items()}, context(train=False))
    assert turned["cross_entropy"].total == pytest.approx(float(terms["cross_entropy"].total), rel=1e-5)


def test_training_hides_others_at_each_step_but_the_same_in_microbatches():
    batch = batch_of()
    totals = {
        float(LOSS(batch, context(train=True, seed=seed))[0]["cross_entropy"].total) for seed in range(4)
    }
    assert len(totals) == 4
    whole, _ = LOSS(batch, context(train=True))
    parts = [
        LOSS(
            {name: array[part::2] for name, array in batch.items()},
            dataclasses.replace(context(train=True), places=jnp.arange(part, 6, 2)),
        )[0]["cross_entropy"]
        for part in (0, 1)
    ]
    assert parts[0].total + parts[1].total == pytest.approx(float(whole["cross_entropy"].total), rel=1e-5)
    assert parts[0].count + parts[1].count == whole["cross_entropy"].count


def test_types_and_words_are_taken_where_they_are_told():
    batch = batch_of()
    no, yes = np.zeros((6, 12), bool), np.ones((6, 12), bool)
    plain, typed, words = (
        LOSS({**batch, "type_ids": types.astype(np.int32), "continues": continues}, context(train=False))[0][
            "cross_entropy"
        ]
        for types, continues in ((no, no), (yes, no), (no, yes))
    )
    expected = LOSS(batch, context(train=False))[0]["cross_entropy"].total
    assert plain.total == pytest.approx(float(expected), rel=1e-6) and typed.total != plain.total
    # The whole text is one word, which is more than may be hidden.
    assert words.count < plain.count == typed.count


def test_whether_a_sentence_follows_is_told_by_its_head():
    task = dataclasses.replace(TASK, model=Neighbours(heads=("next_sentence",)))
    batch = {**batch_of(), "is_next": np.array([1, 0, 0, 1, 0, 1], np.int32)}
    params, _ = task.init(jax.random.key(1), batch)
    loss = jax.jit(lambda batch, context: task.loss(params, {}, (), batch, context))
    terms, outputs = loss(batch, context(train=False))
    masked = HIDE(batch["tokens"], TASK.maskable(batch))
    features = task.model.apply({"params": params}, masked.inputs, lengths=LENGTHS, method="features")
    logits = np.asarray(features).mean(axis=1) @ params["follows"]["kernel"] + params["follows"]["bias"]
    log_probs = np.asarray(jax.nn.log_softmax(logits))[:5]  # the last row is padding
    labels = np.array([0, 1, 1, 0, 1])
    assert terms["next_sentence"].compute() == pytest.approx(-log_probs[range(5), labels].mean(), rel=1e-5)
    right = (log_probs.argmax(axis=1) == labels).mean()
    assert outputs.metrics["next_sentence_accuracy"].compute() == pytest.approx(right)
    masked_only = {name: tree for name, tree in params.items() if name != "follows"}
    alone, _ = jax.jit(lambda batch, context: TASK.loss(masked_only, {}, (), batch, context))(
        batch, context(train=False)
    )
    assert alone.keys() == {"cross_entropy"}, "the model has no such head"
    assert terms["cross_entropy"].compute() == pytest.approx(
        float(alone["cross_entropy"].compute()), rel=1e-5
    )
    _, trained = jax.eval_shape(loss, batch, context(train=True))
    assert "next_sentence_accuracy" in trained.metrics
    del batch["is_next"]
    assert jax.eval_shape(loss, batch, context(train=False))[0].keys() == {"cross_entropy"}


def test_masks_are_filled_in():
    batch = batch_of()
    found = jax.jit(TASK.predict)(PARAMS, {}, batch)
    everywhere = np.tile(np.arange(12), (6, 1))
    hidden = features_at(batch["tokens"], everywhere)
    probabilities = jax.nn.softmax(hidden @ PARAMS["kernel"] + PARAMS["bias"])
    np.testing.assert_array_equal(found["prediction"], probabilities.argmax(-1))
    np.testing.assert_allclose(found["probability"], probabilities.max(-1), rtol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="digits has image, not tokens"):
        TASK.check(from_arrays({"image": np.zeros((2, 3, 3), np.uint8)}, name="digits"))
    source = dataclasses.replace(from_arrays({"tokens": batch_of()["tokens"]}), num_classes=VOCABULARY + 1)
    with pytest.raises(UsageError, match="arrays has 10 tokens, but the model knows 9"):
        TASK.check(source)
    with pytest.raises(UsageError, match="the mask token is 9, but the model knows 9 tokens"):
        dataclasses.replace(TASK, mask_token=9).check(from_arrays({"tokens": batch_of()["tokens"]}))


def test_it_is_made_again_from_its_description():
    task = MaskedLanguageModelling(RecurrentLanguageModel(5), 4, (0, 1), tokenizer="abc")
    assert rebuild(describe(task)) == task
