"""Training of transformers: one trace serves a run, whatever the number of steps of a call."""

import jax
import numpy as np
import optax
import pytest

import jaxgen
from jaxgen.data import from_arrays
from jaxgen.models import BERT, GPT, T5
from jaxgen.tasks import LanguageModelling, MaskedLanguageModelling, SequenceToSequence, SpanCorruption
from jaxgen.train.hooks import Hook

SIZES = {"vocabulary_size": 19, "num_layers": 1, "num_heads": 2, "embedding_size": 8, "dropout": 0.1}
MODEL = T5(**SIZES, head_size=4, feed_forward_size=8)
TASKS = {
    "gpt": LanguageModelling(GPT(**SIZES, context_length=12)),
    "bert": MaskedLanguageModelling(BERT(**SIZES, context_length=12), mask_token=3),
    "t5": SequenceToSequence(MODEL),
    "spans": SpanCorruption(MODEL, first_sentinel=18),
}
RNG = np.random.default_rng(0)
TOKENS, LABELS = (RNG.integers(4, 12, (22, time)).astype(np.int32) for time in (12, 6))
LENGTHS = RNG.integers(2, 13, 22).astype(np.int32)
ARRAYS = {
    "gpt": {"tokens": TOKENS, "labels": np.roll(TOKENS, -1, axis=1), "stream_start": np.ones(22, bool)},
    "bert": {"tokens": TOKENS, "lengths": LENGTHS},
    "t5": {"tokens": TOKENS, "lengths": LENGTHS, "labels": LABELS},
    "spans": {"tokens": TOKENS, "lengths": LENGTHS},
}


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_traces_its_loss_once(kind, monkeypatch):
    task, traced, seen = TASKS[kind], [], []
    loss = type(task).loss

    def counted(self, params, model_state, carry, batch, context):
        if context.train and self is task:
            traced.append(1)
        return loss(self, params, model_state, carry, batch, context)

    class Watch(Hook):
        def on_progress(self, step):
            seen.append((step, len(traced)))

    monkeypatch.setattr(type(task), "loss", counted)
    jaxgen.fit(
        task,
        from_arrays(ARRAYS[kind]),
        optax.adam(1e-3),
        steps=7,
        batch_size=4,  # the last batch of an epoch is filled up
        steps_per_call=2,
        evaluate_every=5,
        validation=from_arrays(ARRAYS[kind]),
        devices=jax.devices()[:1],
        progress=False,
        hooks=[Watch()],
    )
    steps, counts = zip(*seen, strict=True)
    assert len(steps) > 2 and steps[-1] == 7
    assert len(set(counts)) == 1, "traced in the first call alone"
