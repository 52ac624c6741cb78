"""What all plots have in common: colours, type, a figure apart from pyplot."""

import contextlib
import functools
import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by nearly everybody; grey for their yellow, which is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
GREY = "#8C8C8C"
INK = "#262626"
MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE = {
    "figure.dpi": 130,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "figure.titlesize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def styled(draw: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Draws in the library's style, whatever the user's own is."""

    @functools.wraps(draw)
    def styled(*args: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        with matplotlib.style.context(_STYLE, after_reset=True):
            return draw(*args, **options)

    return styled


@contextlib.contextmanager
def any_letters() -> Iterator[None]:
    """Lets texts have letters that the font lacks, without a word: a box stands for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield


def new_figure(width: float, height: float) -> Figure:
    """Makes a figure, sizes in inches, that pyplot doesn't know of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def message(text: str) -> Figure:
    """Makes a figure that says why there is nothing to see."""
    figure = new_figure(4.5, 2.0)
    figure.text(0.5, 0.5, textwrap.fill(text, 40), ha="center", va="center", fontsize=12)
    return figure


def declutter(axes: Axes) -> None:
    """Leaves of the axes what is needed to read them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
