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
    tokens = ["T", "o", " ", "$b\n"]
    figure = attention_maps(tokens, tokens, weights)
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
    few, many = (attention_maps(["a"] * time, ["a"] * time, causal(1, 8, time)) for time in (10, 120))
    names = [len(figure.axes[0].get_xticks()) for figure in (few, many)]
    assert names[0] == 10 and 20 < names[1] < 120
    assert many.get_size_inches()[0] < 28
    words = ["an extraordinarily long word", "b"]
    long = attention_maps(words, words, causal(1, 1, 2))
    assert long.axes[0].get_xticklabels()[0].get_text() == "an extraord…"


def test_tokens_must_be_those_of_the_weights():
    with pytest.raises(JaxgenError, match="there are 3 tokens and 2, but weights of 2 for 2"):
        attention_maps(["a", "b", "c"], ["a", "b"], causal(1, 1, 2))
    figure = attention_maps([], [], np.zeros((2, 2, 0, 0), np.float32))
    assert [text.get_text() for text in figure.texts] == ["no attention to draw"]


def test_what_one_text_looks_at_in_another():
    """All cells are squares, named by the text that looks on the left, and by what it looks at below."""
    weights = np.full((1, 2, 3, 20), 0.05, np.float32)
    figure = attention_maps(["<pad>", "x", "y"], list("abcdefghijklmnopqrst"), weights, "cross_attention")
    figure.draw_without_rendering()
    first, second = (axes for axes in figure.axes if axes.images)
    assert [label.get_text() for label in first.get_yticklabels()] == ["<pad>", "x", "y"]
    assert "".join(label.get_text() for label in second.get_xticklabels()) == "abcdefghijklmnopqrst"
    box = first.get_window_extent()
    assert box.width / 20 == pytest.approx(box.height / 3, rel=0.02)
    assert "from the text that is written (rows) to the text that was read" in figure.get_suptitle().replace(
        "\n", " "
    )
