"""Pictures of recurrent networks."""

import numpy as np
import pytest

from jaxgen import recurrent_plots


def curve(rate, length=20):
    return (rate ** np.arange(length)).astype(np.float32)


def test_trained_solid_untrained_dashed_a_colour_a_name():
    fresh = {"elman": curve(0.5), "lstm": curve(0.9)}
    figure = recurrent_plots.gradient_by_lag({"lstm": curve(0.99)}, fresh)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["lstm, trained", "elman, untrained", "lstm, untrained"]
    assert [line.get_linestyle() for line in lines.values()] == ["-", "--", "--"]
    colours = [line.get_color() for line in lines.values()]
    assert colours[0] == colours[2] != colours[1]
    np.testing.assert_array_equal(lines["elman, untrained"].get_xdata(), np.arange(20))
    np.testing.assert_array_equal(lines["elman, untrained"].get_ydata(), fresh["elman"])
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lag in steps", "norm of the gradient")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)


@pytest.mark.parametrize("lost", [0.0, np.nan, np.inf])
def test_a_gradient_that_is_lost_leaves_the_rest_readable(lost):
    broken = curve(0.5)
    broken[7] = lost
    figure = recurrent_plots.gradient_by_lag({}, {"elman": broken, "gru": curve(1e-3)})
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_ylim()
    assert 1e-13 < low < 1e-12 and 1 < high < 10


def test_nothing_to_draw():
    figure = recurrent_plots.gradient_by_lag({}, {"elman": np.zeros(5, np.float32)})
    assert not figure.axes and [text.get_text() for text in figure.texts] == ["no gradients"]
