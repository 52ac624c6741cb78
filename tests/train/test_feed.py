"""Feeds: windows of a text that are gathered on the device are the batches that the host reads, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.data.orders import order_of
from jaxgen.data.sources import Source
from jaxgen.data.streams import TextFormat
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Characters
from jaxgen.data.windows import training_windows
from jaxgen.parallel import make_mesh, put_state
from jaxgen.train.feed import HostFeed, ResidentFeed
from jaxgen.train.state import TrainState

LETTERS = "".join(np.random.default_rng(0).choice(list("abcdefgh"), 150))
SOURCE = training_windows(Text("made up", "train", (LETTERS,), "1"), TextFormat(Characters("abcdefgh"), 7, 0))


class Keeper:
    """A task whose parameters are the last batch."""

    def init(self, rng, example):
        return jax.tree.map(jnp.zeros_like, example), {}

    def initial_carry(self, batch_size):
        return ()


def step(state, batch):
    return state.replace(params=batch), {}


@pytest.mark.parametrize("devices", [1, 8])
def test_windows_on_the_device_are_the_hosts_bit_for_bit(devices, monkeypatch):
    order, mesh = order_of(SOURCE, 16, seed=3), make_mesh(jax.devices()[:devices])

    def batches(feed):
        example = feed.batch_at(0)
        state = put_state(TrainState.create(Keeper(), optax.identity(), jax.random.key(0), example), mesh)
        run, found = feed.bind(step, state), []
        for position in range(order.steps_per_epoch + 2):  # a padded batch, and the next epoch's
            state, _ = run(state, position, 1)
            found.append(jax.device_get(state.params))
        feed.close()
        return found

    host = batches(HostFeed(SOURCE, order, mesh))
    monkeypatch.setattr(Source, "arrays", None)  # the windows are not made
    device = batches(ResidentFeed(SOURCE, order, mesh, steps_per_call=1))
    for one, other in zip(host, device, strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            assert values.dtype == other[name].dtype and values.tobytes() == other[name].tobytes()
