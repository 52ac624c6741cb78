"""One of two processes that train together: `python two_processes.py RESULT`; both print what they have found."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.metrics import Mean
from jaxgen.parallel import initialize, make_mesh, put_batch, put_state, state_shardings
from jaxgen.train.context import Outputs
from jaxgen.train.state import TrainState
from jaxgen.train.step import make_train_step

BATCH = 8


class Line:
    """A straight line, with noise that is drawn an example."""

    def init(self, rng, example):
        return {"slope": jnp.ones(3)}, {}

    def initial_carry(self, batch_size):
        return ()

    def loss(self, params, model_state, carry, batch, context):
        noise = jax.vmap(jax.random.normal)(context.example_rngs())
        values = (batch["x"] @ params["slope"] + noise) ** 2
        return {"squares": Mean.of(values, batch["weight"])}, Outputs({}, model_state, carry)


def batches():
    draw = np.random.default_rng(0)
    for _ in range(3):
        yield {
            "x": draw.normal(size=(BATCH, 3)).astype(np.float32),
            "weight": np.arange(BATCH, dtype=np.float32),
        }


def train():
    """Takes three steps, each process with its own rows; gives the slope."""
    mesh = make_mesh()
    optimizer = optax.sgd(0.1)
    state = TrainState.create(Line(), optimizer, jax.random.key(0), next(batches()))
    shardings = state_shardings(state, mesh)
    state = put_state(state, mesh)
    step = jax.jit(make_train_step(Line().loss, optimizer), donate_argnums=0, out_shardings=(shardings, None))
    rows = BATCH // jax.process_count()
    own = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
    for batch in batches():
        state, _ = step(state, put_batch({name: leaf[own] for name, leaf in batch.items()}, mesh))
    return np.asarray(state.params["slope"])


if __name__ == "__main__":
    # All of jaxgen.parallel is imported by now; had that touched a device, this would fail.
    found = initialize(timeout_seconds=60)
    np.save(sys.argv[1], train())
    print(f"{found} | {initialize()} | {jax.process_index()}/{jax.process_count()} | {jax.device_count()}")
