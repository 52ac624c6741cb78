"""Predictions for a whole split: in order, and as many at a time as there is memory for."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.sources import as_source
from jaxgen.data.tokenizers import Bytes
from jaxgen.train.evaluate import predict_split
from jaxgen.train.state import TrainState


def test_the_longer_texts_are_the_fewer_are_predicted_at_a_time():
    shapes = []

    class Task:
        def predict(self, params, model_state, batch):
            shapes.append(batch["tokens"].shape)
            return {"first": batch["tokens"][:, 0]}

    tokens = np.arange(40 * 1024, dtype=np.int32).reshape(40, 1024)
    source = replace(as_source({"tokens": tokens}, "test"), text=SequenceFormat(Bytes(), 1024))
    state = TrainState(
        step=jnp.int32(0),
        params={},
        model_state={},
        opt_state=(),
        carry=(),
        rng=jax.random.key(0),
        ema_params=None,
    )
    np.testing.assert_array_equal(predict_split(Task(), state, source)["first"], tokens[:, 0])
    assert shapes == [(16, 1024)]
