"""Pictures of what recurrent networks keep in mind: text, coloured by the activations of their hidden units.

Karpathy et al. (2015), section 4.2, found units in this way that count the characters of a line, or know of an open
quotation mark.
"""

import unicodedata
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import text_to_path

from jaxgen.errors import JaxgenError
from jaxgen.plot_style import INK, message, new_figure, styled

if TYPE_CHECKING:
    from rich.text import Text

Activations = Float[np.ndarray, "time units"]

_MOST_LINES = 60
_FONT_SIZE, _LINE_HEIGHT = 8.0, 1.4
_UNPRINTABLE = "□"
_WHITE_SPACE = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def most_varied_units(activations: Activations, count: int = 6) -> list[int]:
    """Gives the units of the highest variance, highest first.

    Of values from -1 to 1 these are the ones that are at one end for a part of the text and at the other for the rest.

    Args:
        activations: of the hidden units at each token; those that aren't finite are left out.
        count: how many units at most.
    """
    finite = np.where(np.isfinite(activations), activations, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of units that are never finite
        variance = np.nan_to_num(np.nanvar(finite.astype(np.float64), axis=0))
    return np.argsort(-variance, kind="stable")[:count].tolist()


@styled
def hidden_units(
    tokens: Sequence[str], activations: Activations, units: Sequence[int] | None = None, columns: int = 100
) -> Figure:
    """Draws a text once for each unit, each token on the colour of the unit's activation: blue below zero, red above.

    Ends of lines, tabs and what can't be seen are drawn as signs. Of a long text the first 60 lines are drawn.

    Args:
        tokens: the text in parts, with the spaces that are to be seen between them.
        activations: of the hidden units after each token, from -1 to 1; beyond, the colours stay what they are there.
        units: which ones to show; by default those of the highest variance.
        columns: characters in a line.

    Raises:
        JaxgenError: for a unit that there isn't, or another number of tokens than of activations.
    """
    units = _checked(tokens, activations, units)
    if not len(tokens) or not units:
        return message("no text to draw")
    lines = _wrapped(tokens, columns)
    shown = lines[:_MOST_LINES]
    columns = max(64, *map(len, shown))  # the title needs some
    rows = len(units) * (len(shown) + 2) + 1
    advance = _glyph(_UNPRINTABLE)[1]
    figure = new_figure(
        (columns + 2) * _FONT_SIZE * advance / 72, (rows + 0.5) * _FONT_SIZE * _LINE_HEIGHT / 72
    )
    figure.set_layout_engine("none")
    axes = figure.add_axes((1 / (columns + 2), 0, columns / (columns + 2), 1))
    axes.set_axis_off()
    part = "" if len(lines) == len(shown) else f", the first {len(shown)} of {len(lines):,} lines"
    axes.text(0, 0.5, f"hidden units over text: blue below zero, red above{part}", va="center", fontsize=10)
    background = np.ones((rows, columns, 3))
    for place, unit in enumerate(units):
        top = 1 + place * (len(shown) + 2)
        axes.text(0, top + 0.55, f"unit {unit}", va="center", weight="bold", fontsize=_FONT_SIZE)
        colours = _colours(activations[:, unit])
        for row, line in enumerate(shown, start=top + 1):
            background[row, : len(line)] = colours[[index for _, index in line]]
        axes.add_patch(_written(shown, top + 1))
    axes.imshow(background, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest", zorder=0.5)
    axes.set(xlim=(0, columns), ylim=(rows, -0.5))
    return figure


def hidden_units_text(
    tokens: Sequence[str], activations: Activations, units: Sequence[int] | None = None
) -> "Text":
    """Writes what `hidden_units` draws for a terminal, which breaks the lines itself; the whole text.

    Raises:
        JaxgenError: for a unit that there isn't, or another number of tokens than of activations.
    """
    from rich.text import Text

    text = Text()
    for unit in _checked(tokens, activations, units):
        text.append(f"unit {unit}\n", style="bold")
        for token, colour in zip(tokens, _colours(activations[:, unit]), strict=True):
            for line in token.splitlines(keepends=True):
                text.append(visible(line), style=f"{INK} on {to_hex(colour)}")
                if line.endswith("\n"):
                    text.append("\n")
        text.append("\n\n")
    return text


def _checked(tokens: Sequence[str], activations: Activations, units: Sequence[int] | None) -> list[int]:
    if len(tokens) != len(activations):
        raise JaxgenError(f"there are {len(tokens)} tokens, but activations at {len(activations)}")
    number = activations.shape[1]
    for unit in units or ():
        if not 0 <= unit < number:
            raise JaxgenError(f"there is no unit {unit}: there are {number}, from 0")
    return most_varied_units(activations) if units is None else list(units)


def visible(text: str) -> str:
    """Gives a text of which each character can be seen, and has a place of its own."""
    return "".join(
        _WHITE_SPACE.get(c, _UNPRINTABLE if unicodedata.category(c)[0] in "CM" or c in "\u2028\u2029" else c)
        for c in text
    )


def _colours(activations: Float[np.ndarray, " time"]) -> Float[np.ndarray, "time 3"]:
    """Gives colours on which dark letters can be read; what is not finite is white, as zero is."""
    clipped = np.clip(np.nan_to_num(activations.astype(np.float64), posinf=0, neginf=0), -1, 1)
    return matplotlib.colormaps["RdBu_r"](0.5 + 0.25 * clipped)[:, :3]


def _wrapped(tokens: Sequence[str], columns: int) -> list[list[tuple[str, int]]]:
    """Breaks a text into lines of characters, each with its token's number: after spaces, where there are any."""
    lines: list[list[tuple[str, int]]] = [[]]
    for index, token in enumerate(tokens):
        for character in token:
            if len(lines[-1]) == columns:
                words = max((i + 1 for i, (c, _) in enumerate(lines[-1]) if c == " "), default=0)
                words = words or columns
                lines[-1:] = [lines[-1][:words], lines[-1][words:]]
            lines[-1].append((visible(character), index))
            if character == "\n":
                lines.append([])
    return lines if lines[-1] else lines[:-1]


def _written(lines: Sequence[Sequence[tuple[str, int]]], top: int) -> PathPatch:
    """Gives the letters as one shape: they stay on their background at every resolution, and are quick to draw."""
    glyphs = {c: _glyph(c)[0] for line in lines for c, _ in line if c != " "}
    scale = np.array([_glyph(_UNPRINTABLE)[1], -_LINE_HEIGHT])
    shapes = []
    for row, line in enumerate(lines, start=top):
        for column, (character, _) in enumerate(line):
            if character != " ":
                glyph = glyphs[character]
                # The baseline is a third of the line above its end.
                vertices = glyph.vertices / scale + (column, row + 0.72)
                shapes.append(Path(vertices, glyph.codes))
    text = "\n".join("".join(c for c, _ in line) for line in lines)
    shape = Path.make_compound_path(*shapes) if shapes else Path(np.zeros((0, 2)))
    return PathPatch(shape, facecolor=INK, linewidth=0, label=text)


def _glyph(character: str) -> tuple[Path, float]:
    """Gives a letter's shape and its width, in units of the font's size; a box where it has none of this width."""
    font = FontProperties(family="monospace", size=text_to_path.FONT_SCALE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        widths = [
            text_to_path.get_text_width_height_descent(c, font, ismath=False)[0]
            for c in (character, _UNPRINTABLE)
        ]
        if widths[0] != widths[1]:
            character = _UNPRINTABLE
        vertices, codes = text_to_path.get_text_path(font, character, ismath=False)
    vertices = np.reshape(np.asarray(vertices, np.float64), (-1, 2))
    return Path(vertices / text_to_path.FONT_SCALE, codes), widths[1] / text_to_path.FONT_SCALE
