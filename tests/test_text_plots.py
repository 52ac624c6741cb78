"""Text coloured by hidden units, as a figure and for the terminal."""

import io
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import PathPatch
from rich.console import Console

from jaxgen import plots, text_plots
from jaxgen.errors import JaxgenError

ODD = "a\tb$x$ \u200b\u0301é\x00\r\u2028日🙂]\\[bold]\n"


def written(figure):
    """The lines of each unit, as they were drawn."""
    return [patch.get_label().split("\n") for patch in figure.axes[0].patches if isinstance(patch, PathPatch)]


def background(figure):
    (image,) = figure.axes[0].images
    return np.asarray(image.get_array())


def test_units_of_the_highest_variance_are_chosen():
    time = np.arange(100)
    kinds = [0 * time, np.sign(time - 50.5), 0.5 * np.sign(time - 50.5), np.full(100, np.nan), np.sin(time)]
    activations = np.stack(kinds, axis=1).astype(np.float32)
    assert text_plots.most_varied_units(activations, 3) == [1, 4, 2]
    assert text_plots.most_varied_units(activations) == [1, 4, 2, 0, 3]
    figure = text_plots.hidden_units(["x"] * 100, activations)
    titles = [text.get_text() for text in figure.axes[0].texts]
    assert titles[1:] == ["unit 1", "unit 4", "unit 2", "unit 0", "unit 3"]


def test_below_zero_is_blue_above_is_red_and_zero_is_nearly_white():
    activations = np.array([[-1.0], [-0.2], [0.0], [0.2], [1.0], [7.0], [np.nan]], np.float32)
    figure = text_plots.hidden_units(list("abcdefg"), activations)
    red, green, blue = background(figure)[2, :7].T
    assert (blue[:2] > red[:2]).all() and (red[3:6] > blue[3:6]).all()
    assert red[0] < red[1] < red[2] and blue[4] < blue[3] < blue[2]
    np.testing.assert_allclose([red[5], green[5], blue[5]], [red[4], green[4], blue[4]])
    for nothing in (2, 6):
        assert min(red[nothing], green[nothing], blue[nothing]) > 0.95
    # Letters can be read on all of them: brightness is far from that of the ink.
    assert (0.3 * red + 0.59 * green + 0.11 * blue - 0.15 > 0.35).all()


@pytest.mark.parametrize("columns", [7, 20, 100])
def test_all_characters_are_there_and_lines_break_after_spaces(columns):
    tokens = ["the ", "cat", " sat\n", "on ", "the ", "extraordinarily", " long ", "mat"]
    figure = text_plots.hidden_units(tokens, np.zeros((8, 2), np.float32), [1, 0], columns)
    first, second = written(figure)
    assert first == second
    assert "".join(first) == "the cat sat↵on the extraordinarily long mat"
    assert max(map(len, first)) <= columns
    if columns == 20:
        assert first == ["the cat sat↵", "on the ", "extraordinarily ", "long mat"]


def test_each_character_lies_on_the_colour_of_its_token():
    tokens = ["ab", "c\nd", "", "e"]
    activations = np.array([[1.0], [-1.0], [0.5], [0.0]], np.float32)
    colours = background(text_plots.hidden_units(tokens, activations))[2:4]
    red, blue, white = (
        text_plots.hidden_units(list("xyz"), activations[[0, 1, 3]]).axes[0].images[0].get_array()[2, :3]
    )
    np.testing.assert_array_equal(colours[0, :4], [red, red, blue, blue])
    np.testing.assert_array_equal(colours[1, :2], [blue, white])
    assert (colours[0, 4:] == 1).all()


def test_odd_characters_are_signs_and_warn_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = text_plots.hidden_units(list(ODD), np.zeros((len(ODD), 1), np.float32))
        plots.save({"units": figure}, tmp_path)
    assert written(figure) == [["a⇥b$x$ □□é□␍□日🙂]\\[bold]↵"]]


def test_a_long_text_is_cut_and_says_so():
    text = "one line of many\n" * 500
    figure = text_plots.hidden_units(list(text), np.zeros((len(text), 2), np.float32), [0])
    assert len(written(figure)[0]) == 60
    assert figure.axes[0].texts[0].get_text().endswith("the first 60 of 500 lines")


def test_letters_stay_within_their_cells():
    """Ten letters take ten columns, however wide they are."""
    letters = "iWm日🙂l"
    for place, letter in enumerate(letters):
        spaced = [" "] * place + [letter] + [" "] * 3
        figure = text_plots.hidden_units(spaced, np.zeros((len(spaced), 1), np.float32))
        (shape,) = [p for p in figure.axes[0].patches if isinstance(p, PathPatch)]
        low, high = shape.get_path().vertices[:, 0].min(), shape.get_path().vertices[:, 0].max()
        assert place - 0.1 <= low < high <= place + 1.1


def test_the_terminal_shows_the_same():
    tokens = ["ab", "c\nd", *ODD]
    activations = np.linspace(-1, 1, len(tokens), dtype=np.float32)[:, None].repeat(2, axis=1)
    text = text_plots.hidden_units_text(tokens, activations, [1, 0])
    one = "abc↵\nda⇥b$x$ □□é□␍□日🙂]\\[bold]↵\n"
    assert text.plain == f"unit 1\n{one}\n\nunit 0\n{one}\n\n"
    colours = background(text_plots.hidden_units(tokens, activations))[2]
    found = next(span.style for span in text.spans if text.plain[span.start : span.end] == "ab")
    assert str(found).endswith(to_hex(colours[0]))
    out = io.StringIO()
    Console(file=out, width=40).print(text)
    assert out.getvalue() == f"{text.plain}\n"


@pytest.mark.parametrize("draw", [text_plots.hidden_units, text_plots.hidden_units_text])
def test_what_does_not_fit_is_one_line(draw):
    activations = np.zeros((3, 2), np.float32)
    with pytest.raises(JaxgenError, match="there is no unit 2: there are 2, from 0"):
        draw(list("abc"), activations, [2])
    with pytest.raises(JaxgenError, match="there are 2 tokens, but activations at 3"):
        draw(list("ab"), activations)


def test_nothing_to_draw():
    figure = text_plots.hidden_units([], np.zeros((0, 4), np.float32))
    assert not figure.axes and figure.texts[0].get_text() == "no text to draw"
