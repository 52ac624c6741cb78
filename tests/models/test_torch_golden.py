"""The nets, losses and optimisers against stored results of PyTorch; see tests/golden."""

from pathlib import Path

import numpy as np
import pytest
from golden.agreement import check_agreement
from golden.recurrent_agreement import check_recurrent_agreement

from jaxgen.models import ConvNet, FeedForward, Recurrent

GOLDEN = Path(__file__).parents[1] / "golden"

MODELS = {
    "feed_forward": FeedForward(widths=(6, 7), num_classes=5),
    "feed_forward_norm": FeedForward(widths=(6, 7), num_classes=5, batch_norm=True),
    "conv_net": ConvNet(channels=(8, 6), widths=(10,), num_classes=5),
    "conv_net_average": ConvNet(channels=(8, 6), widths=(10,), num_classes=5, pooling="average"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_what_pytorch_computes(name: str) -> None:
    with np.load(GOLDEN / f"torch_{name}.npz") as stored:
        check_agreement(MODELS[name], dict(stored))


@pytest.mark.parametrize("name", ["elman", "elman_relu", "gru", "lstm"])
def test_recurrent_layers_are_pytorchs(name: str) -> None:
    cell, _, activation = name.partition("_")
    model = Recurrent(4, cell, num_layers=2, bidirectional=True, activation=activation or "tanh")
    with np.load(GOLDEN / f"torch_{name}.npz") as stored:
        check_recurrent_agreement(model, dict(stored))
