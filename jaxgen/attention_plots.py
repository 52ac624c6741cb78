"""Pictures of what transformers look at: the weights that tokens give to each other, a map for each head."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from jaxgen.errors import JaxgenError
from jaxgen.plot_style import message, new_figure, styled
from jaxgen.text_plots import visible

_UNSEEN = "#EEEEEE"
_SPACE = "␣"
_LONGEST_NAME = 12
_ROWS_AND_COLUMNS = "each row is a token, its columns those that it looks at"
_TITLES = {
    "encoder_attention": f"attention in the text that is read: {_ROWS_AND_COLUMNS}",
    "decoder_attention": f"attention in the text that is written: {_ROWS_AND_COLUMNS}",
    "cross_attention": "attention from the text that is written (rows) to the text that was read (columns)",
}
# In inches: of a map, of a single one, what a token has room for, and the picture's width; in points, letters that can
# be read; of a title, letters to an inch.
_LEAST_SIZE, _SINGLE_SIZE, _TOKEN_SIZE, _WIDTH = 1.5, 4.0, 0.085, 24.0
_LETTERS = 11
_LEAST_FONT, _FONT = 5.0, 8.0


@styled
def attention_maps(
    queries: Sequence[str],
    keys: Sequence[str],
    weights: Float[np.ndarray, "layers heads queries keys"],
    name: str = "attention",
) -> Figure:
    """Draws the attention of all heads over a text: layers below each other, heads side by side.

    In each map a row is a token, and the columns are those that it looks at; what no head may see is grey. The colours
    favour small weights. Where tokens have no room for their names, only some are named.

    Args:
        queries: the text in parts.
        keys: what it looks at: the same, or another text.
        weights: that each token gives to each, from 0 to 1.
        name: what this is, for the title: `attention`, or of an encoder and decoder `encoder_attention`,
            `decoder_attention`, `cross_attention`.

    Raises:
        JaxgenError: for another number of tokens than the weights have.
    """
    layers, heads, rows, columns = weights.shape
    if (rows, columns) != (len(queries), len(keys)):
        raise JaxgenError(
            f"there are {len(queries)} tokens and {len(keys)}, but weights of {rows} for {columns}"
        )
    if not weights.size:
        return message("no attention to draw")
    # All cells are squares of one size.
    least = _LEAST_SIZE if layers * heads > 1 else _SINGLE_SIZE
    cell = max(least / max(rows, columns), min(_TOKEN_SIZE, _WIDTH / heads / columns))
    width, height = cell * columns, cell * rows
    room = 0.85 * 72 * cell
    figure = new_figure(heads * (width + 0.08) + 1.3, layers * (height + 0.12) + 1.2)
    maps = figure.subplots(layers, heads, squeeze=False)
    shown = np.where((weights != 0).any(axis=(0, 1)), weights, np.nan)
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=_UNSEEN)
    for (layer, head), axes in np.ndenumerate(maps):
        drawn = axes.imshow(
            shown[layer, head], cmap=colours, norm=PowerNorm(0.5, 0, 1), interpolation="nearest"
        )
        _name(axes, queries, keys, room, left=head == 0, below=layer == layers - 1)
        if layer == 0 and maps.size > 1:
            axes.set_title(f"head {head + 1}")
        if head == 0 and maps.size > 1:
            axes.set_ylabel(f"layer {layer + 1}", fontsize=10)
    title = _TITLES.get(name, f"attention: {_ROWS_AND_COLUMNS}")
    figure.suptitle(textwrap.fill(title, int(_LETTERS * figure.get_figwidth())))
    figure.colorbar(drawn, ax=maps, label="weight", fraction=0.02, aspect=30, ticks=[0, 0.05, 0.2, 0.5, 1])
    return figure


def _name(
    axes: Axes, queries: Sequence[str], keys: Sequence[str], room: float, left: bool, below: bool
) -> None:
    """Writes tokens along the outer edges of the maps, as many as have room."""
    font: Any = {"fontsize": min(_FONT, max(room, _LEAST_FONT)), "family": "monospace"}

    def named(tokens: Sequence[str]) -> tuple[range, list[str]]:
        places = range(0, len(tokens), math.ceil(_LEAST_FONT / room))
        return places, [_shown(tokens[place]) for place in places]

    places, names = named(keys)
    upright = max(map(len, names)) > 1
    axes.set_xticks(places if below else [], names if below else [], rotation=90 if upright else 0, **font)
    axes.set_yticks(*(named(queries) if left else ([], [])), **font)
    axes.tick_params(length=0, pad=2)


def _shown(token: str) -> str:
    """Gives a token of which each character can be seen, not too long, in which dollars don't begin a formula."""
    name = visible(token).replace(" ", _SPACE) if token.isspace() else visible(token).strip(" ")
    return (name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…").replace("$", r"\$")
