"""Pictures of attention: a map for each head, whose cells are the weights."""

import numpy as np
import pytest

from jaxgen.attention_plots import attention_maps
from jaxgen.errors import JaxgenError


def causal(layers, heads, time):
    weights = np.tril(np.random.default_rng(0).uniform(0.1, 1, (layers, heads, time, time)))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def test_layers_below_each_other_heads_side_by_side_the_unseen_apart():
    weights = causal(2, 3, 4)
    figure = attention_maps(["T", "o", " ", "$b\n"], weights)
    figure.draw_without_rendering()
    maps = [axes for axes in figure.axes if axes.images]
    assert len(maps) == 6
    for number, axes in enumerate(maps):
        drawn = np.ma.filled(axes.images[0].get_array(), np.nan)
        layer, head = divmod(number, 3)
        np.testing.assert_array_equal(drawn[np.tri(4) > 0], weights[layer, head][np.tri(4) > 0])
        assert np.isnan(drawn[np.tri(4) == 0]).all()
        assert axes.get_title() == (f"head {head + 1}" if layer == 0 else "")
        assert axes.get_ylabel() == (f"layer {layer + 1}" if head == 0 else "")
        names = ["T", "o", "␣", "\\$b↵"]
        assert [label.get_text() for label in axes.get_xticklabels()] == (names if layer == 1 else [])
        assert [label.get_text() for label in axes.get_yticklabels()] == (names if head == 0 else [])


def test_names_have_room():
    """Of a long text some tokens are named, and the picture doesn't grow with it."""
    few, many = (attention_maps(["a"] * time, causal(1, 8, time)) for time in (10, 120))
    names = [len(figure.axes[0].get_xticks()) for figure in (few, many)]
    assert names[0] == 10 and 20 < names[1] < 120
    assert many.get_size_inches()[0] < 28
    long = attention_maps(["an extraordinarily long word", "b"], causal(1, 1, 2))
    assert long.axes[0].get_xticklabels()[0].get_text() == "an extraord…"


def test_tokens_must_be_those_of_the_weights():
    with pytest.raises(JaxgenError, match="there are 3 tokens, but weights of 2 for 2"):
        attention_maps(["a", "b", "c"], causal(1, 1, 2))
    figure = attention_maps([], np.zeros((2, 2, 0, 0), np.float32))
    assert [text.get_text() for text in figure.texts] == ["no attention to draw"]
