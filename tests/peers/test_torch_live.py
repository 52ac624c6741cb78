"""The nets, losses and optimisers against PyTorch itself, on shapes that differ every day; `-m peers`."""

import datetime
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from golden.agreement import check_agreement
from golden.recurrent_agreement import check_recurrent_agreement

from jaxgen.models import ConvNet, FeedForward, Recurrent

pytestmark = pytest.mark.peers


@pytest.fixture
def peer() -> ModuleType:
    return script("make_torch_reference")


def script(name: str) -> ModuleType:
    pytest.importorskip("torch")
    path = Path(__file__).parents[1] / "golden" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=range(4))
def random(request: pytest.FixtureRequest) -> np.random.Generator:
    seed = [datetime.date.today().toordinal(), request.param]
    print(f"numpy.random.default_rng({seed})")
    return np.random.default_rng(seed)


def test_feed_forward(peer: ModuleType, random: np.random.Generator) -> None:
    grid = tuple(random.integers(1, 9, 3).tolist())
    widths = tuple(random.integers(1, 40, random.integers(1, 4)).tolist())
    num_classes, batch_size = random.integers(2, 20, 2).tolist()
    # Batch norm over a few rows amplifies rounding without bound.
    batch_norm = batch_size >= 8
    theirs = peer.FeedForward(grid, widths, num_classes, batch_norm)
    ours = FeedForward(widths, num_classes, batch_norm=batch_norm)
    check_agreement(ours, peer.reference(theirs, grid, num_classes, batch_size, seed=int(widths[0])), 1e-4)


def test_conv_net(peer: ModuleType, random: np.random.Generator) -> None:
    kernel_size = int(random.integers(1, 5))
    channels = tuple(random.integers(1, 20, 2).tolist())
    grid = (int(random.integers(1, 10)), *(random.integers(3 * kernel_size + 3, 30, 2).tolist()))
    widths = tuple(random.integers(1, 40, random.integers(0, 2)).tolist())
    num_classes, batch_size = random.integers(2, 20, 2).tolist()
    pooling = ("max", "average")[random.integers(2)]
    theirs = peer.ConvNet(grid, channels, widths, num_classes, kernel_size, pooling)
    ours = ConvNet(channels, kernel_size, pooling, widths, num_classes)
    check_agreement(ours, peer.reference(theirs, grid, num_classes, batch_size, seed=kernel_size), 1e-4, 1e-5)


@pytest.mark.parametrize("name", ["elman", "elman_relu", "gru", "lstm"])
def test_recurrent(name: str, random: np.random.Generator) -> None:
    features, hidden_size = random.integers(1, 30, 2).tolist()
    num_layers, bidirectional = int(random.integers(1, 4)), bool(random.integers(2))
    lengths = random.integers(1, 20, random.integers(1, 6)).tolist()
    sizes = (features, hidden_size, num_layers, bidirectional, lengths)
    reference = script("make_torch_recurrent").reference(name, *sizes, seed=features)
    cell, _, activation = name.partition("_")
    model = Recurrent(hidden_size, cell, num_layers, bidirectional, activation=activation or "tanh")
    check_recurrent_agreement(model, reference)
