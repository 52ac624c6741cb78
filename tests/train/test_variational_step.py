"""The variational loss inside the train step: what is drawn is the same on 1 or 8 devices, with 1 or 4 microbatches."""

import jax
import numpy as np
import optax
import pytest
from problems import BATCH, MICROBATCHES, Problem, assert_close, ragged_weights, run

from jaxgen.models import DenseVAE
from jaxgen.tasks import Variational

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def problem():
    task = Variational(DenseVAE((4, 3, 1), 3, widths=(5,)), warmup_steps=4, free_bits=0.1)
    batches = [
        {
            "image": RNG.integers(0, 256, (BATCH, 4, 3, 1)).astype(np.uint8),
            "weight": ragged_weights(i),
        }
        for i in range(3)
    ]
    params, _ = task.init(jax.random.key(0), batches[0])
    return Problem(task.loss, jax.device_get(params), batches, optax.sgd(0.1))


@pytest.fixture(scope="module")
def expected(problem):
    return run(problem)


@pytest.mark.parametrize(
    ("way", "accumulate"), [("single", MICROBATCHES), ("mesh", 1), ("pmap", MICROBATCHES), ("shard_map", 1)]
)
def test_the_step_is_the_same_in_every_way_of_running(way, accumulate, problem, expected):
    assert_close(run(problem, way, accumulate=accumulate), expected, rtol=1e-4, atol=1e-5)
