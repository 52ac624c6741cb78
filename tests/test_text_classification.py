"""Text classification: the loss against one written out, predictions, and what is refused."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgen
from jaxgen.config import describe, rebuild
from jaxgen.data import from_arrays
from jaxgen.errors import UsageError
from jaxgen.models import RecurrentLanguageModel
from jaxgen.tasks import TextClassification
from jaxgen.train.context import Context


class BagOfTokens(nn.Module):
    """Gives logits of three classes from the mean of a text's embeddings."""

    @nn.compact
    def __call__(self, tokens, *, lengths=None, token_types=None, train=False):
        tokens = jnp.asarray(tokens)
        there = jnp.ones(tokens.shape) if lengths is None else jnp.arange(tokens.shape[1]) < lengths[:, None]
        types = nn.Embed(2, 4)(jnp.zeros_like(tokens) if token_types is None else token_types)
        embedded = (nn.Embed(12, 4)(tokens) + types) * there[..., None]
        hidden = nn.Dropout(0.5, deterministic=not train)(embedded.sum(axis=1) / there.sum(axis=1)[:, None])
        return nn.Dense(3)(hidden)


TASK = TextClassification(BagOfTokens(), class_names=("bad", "good", "so so"))
RANDOM = np.random.default_rng(0)
BATCH = {
    "tokens": RANDOM.integers(0, 12, (5, 9)).astype(np.int32),
    "lengths": np.array([9, 3, 1, 9, 5]),
    "label": np.array([0, 2, 1, 1, 0], np.int32),
    "weight": np.array([1, 1, 1, 1, 0], np.float32),
}
PARAMS = TASK.init(jax.random.key(0), BATCH)[0]
LOSS = jax.jit(lambda batch, context: TASK.loss(PARAMS, {}, (), batch, context))
PREDICT = jax.jit(TASK.predict)
EVALUATION = Context(rng=jax.random.key(0), step=0, places=jnp.arange(5), train=False)


def test_loss_and_predictions_are_those_of_the_logits():
    terms, outputs = LOSS(BATCH, EVALUATION)
    logits = TASK.model.apply({"params": PARAMS}, BATCH["tokens"], lengths=BATCH["lengths"])
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, BATCH["label"])[:4]
    assert terms["cross_entropy"].compute() == pytest.approx(float(nats.mean()), rel=1e-6)
    right = (logits.argmax(-1) == BATCH["label"])[:4]
    assert outputs.metrics["accuracy"].compute() == pytest.approx(float(right.mean()))
    assert set(outputs.metrics) == {"accuracy", "calibration_error"}
    predicted = PREDICT(PARAMS, {}, BATCH)
    np.testing.assert_allclose(predicted["probabilities"], jax.nn.softmax(logits), rtol=1e-6)
    np.testing.assert_array_equal(predicted["prediction"], logits.argmax(-1))
    typed = PREDICT(PARAMS, {}, {**BATCH, "type_ids": np.ones((5, 9), np.int32)})
    assert (typed["probabilities"] != predicted["probabilities"]).all()
    assert set(TASK.plots(PARAMS, BATCH, jax.device_get(predicted))) == {"confusion_matrix"}


def test_dropout_drops_in_training_alone():
    training = dataclasses.replace(EVALUATION, train=True)
    calls = [LOSS(BATCH, dataclasses.replace(training, rng=jax.random.key(seed))) for seed in (1, 2)]
    assert calls[0][0]["cross_entropy"].total != calls[1][0]["cross_entropy"].total
    assert set(calls[0][1].metrics) == {"accuracy"}


def test_it_learns_which_token_tells_the_class():
    tokens = RANDOM.integers(3, 12, (300, 6)).astype(np.int32)
    labels = RANDOM.integers(0, 3, 300).astype(np.int32)
    tokens[np.arange(300), RANDOM.integers(0, 6, 300)] = labels
    data = {"tokens": tokens, "label": labels}
    result = jaxgen.fit(
        TASK,
        data,
        optax.adam(0.1),
        epochs=12,
        batch_size=50,
        test=data,
        progress=False,
        devices=jax.devices()[:1],
    )
    assert result.figures["test/accuracy"] > 0.95


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="arrays has tokens, not tokens and label"):
        TASK.check(from_arrays({"tokens": BATCH["tokens"]}))
    source = from_arrays({name: BATCH[name] for name in ("tokens", "label")})
    TASK.check(source)
    with pytest.raises(UsageError, match="arrays has 4 classes, but the model has 3 outputs"):
        TASK.check(dataclasses.replace(source, num_classes=4))


def test_it_is_made_again_from_its_description():
    task = TextClassification(RecurrentLanguageModel(5), 0.1, ("a", "b"))
    assert rebuild(describe(task)) == task
