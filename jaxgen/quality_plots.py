"""How good what runs write is for short and for long texts: the figure of Bahdanau et al. (2015)."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from jaxgen.metrics import AnyArray
from jaxgen.plot_style import COLOURS, GREY, INK, MARKERS, declutter, new_figure, styled
from jaxgen.run_directory import RunDirectory
from jaxgen.text_scores import CHOSEN_BY, SCORES
from jaxgen.written_pairs import WrittenPairs, read_written, scored_by

_MOST_BINS, _FEWEST_TEXTS = 8, 20
TITLES = {"bleu": "BLEU", "chrf": "chrF", "rougeL": "ROUGE-L", "exact_accuracy": "exact accuracy"}


@dataclass(frozen=True)
class LengthBin:
    """Texts of about one length.

    Attributes:
        shortest: the lowest length.
        longest: the highest.
        places: of the texts among all.
    """

    shortest: int
    longest: int
    places: Int[np.ndarray, " texts"]


def length_bins(
    lengths: Int[AnyArray, " texts"], most: int = _MOST_BINS, fewest: int = _FEWEST_TEXTS
) -> list[LengthBin]:
    """Sorts texts into bins by length, about as many in each; those of one length are never parted.

    Args:
        lengths: of the texts.
        most: bins, at most.
        fewest: texts of a bin, at least.
    """
    enough = max(fewest, -(-len(lengths) // most))
    values, counts = np.unique(lengths, return_counts=True)
    edges, gathered = [0], 0
    for place, count in enumerate(counts, start=1):
        gathered += count
        if gathered >= enough:
            edges.append(place)
            gathered = 0
    if gathered:  # the longest: a bin of their own, or with those before
        if gathered < fewest:
            edges = edges[:-1] or edges
        edges.append(len(values))
    bins = []
    for start, end in itertools.pairwise(edges):
        shortest, longest = int(values[start]), int(values[end - 1])
        places = np.flatnonzero((lengths >= shortest) & (lengths <= longest))
        if len(places) >= fewest:
            bins.append(LengthBin(shortest, longest, places))
    return bins


@styled
def quality_by_length(written: Mapping[str, WrittenPairs], scored_by: str, split: str) -> Figure | None:
    """Draws the score of what runs wrote against the length of what they read, and below how many texts it is of.

    There is nothing to draw, and None, where texts are too few, or all of one length.

    The length is in words, or in characters where most texts are single words. The axis is logarithmic where most
    texts are far shorter than the longest ones.

    Args:
        written: run to what it wrote, of the same sources and targets.
        scored_by: `bleu`, `rouge` or `exact`.
        split: what the texts are, for the title.
    """
    pairs = next(iter(written.values()))
    unit, lengths = _lengths(pairs.sources)
    bins = length_bins(lengths)
    name = CHOSEN_BY[scored_by]
    if len(bins) < 2:
        return None
    centres = np.array([lengths[found.places].mean() for found in bins])
    figure = new_figure(6.0, 4.2)
    grid = figure.add_gridspec(2, 1, height_ratios=(3.2, 1))
    axes = figure.add_subplot(grid[0])
    below = figure.add_subplot(grid[1], sharex=axes)
    for number, (run, of_run) in enumerate(written.items()):
        axes.plot(
            centres,
            [_score(of_run, found.places, scored_by) for found in bins],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number // len(COLOURS) % len(MARKERS)],
            markersize=4,
            linewidth=1.6,
            clip_on=False,
            label=run,
        )
    if centres[-1] > 5 * np.median(centres) and bins[0].shortest > 0:
        axes.set_xscale("log")
    _count(below, bins)
    _finish(axes, below, unit)
    axes.set(ylabel=TITLES[name], title=f"{TITLES[name]} by length of the source, {split}")
    if name.endswith("accuracy"):
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    if len(written) > 1:
        # About 13 characters an inch, the sample of a line included.
        columns = int(13 * figure.get_figwidth() / (max(map(len, written)) + 6))
        figure.legend(loc="outside lower center", ncols=max(1, min(columns, len(written))))
    return figure


def quality_of_run(directory: RunDirectory) -> dict[str, Figure]:
    """Draws `quality_by_length` of what a run wrote, of the test split where it can be; nothing of too few texts.

    Raises:
        JaxgenError: where the run, or what it wrote, can't be read.
    """
    kind = scored_by(directory.config())
    written = {} if kind is None else read_written(directory)
    if kind is None or not written:
        return {}
    split, pairs = next(iter(written.items()))
    figure = quality_by_length({directory.path.name: pairs}, kind, split)
    return {} if figure is None else {"quality_by_length": figure}


def _lengths(texts: Sequence[str]) -> tuple[str, Int[np.ndarray, " texts"]]:
    """Gives what lengths are counted in, and the lengths."""
    words = np.array([len(text.split()) for text in texts])
    return ("characters", np.array(list(map(len, texts)))) if np.median(words) < 2 else ("words", words)


def _score(pairs: WrittenPairs, places: Int[np.ndarray, " texts"], scored_by: str) -> float:
    texts, targets = ([column[place] for place in places] for column in (pairs.hypotheses, pairs.targets))
    return SCORES[scored_by](texts, targets)[CHOSEN_BY[scored_by]]


def _count(axes: Axes, bins: Sequence[LengthBin]) -> None:
    """Draws how many texts are in each bin, as wide as it is."""
    left = np.array([found.shortest - 0.5 for found in bins])
    right = np.array([found.longest + 0.5 for found in bins])
    counts = [len(found.places) for found in bins]
    bars = axes.bar(
        left, counts, right - left, align="edge", color=GREY, alpha=0.35, edgecolor="white", linewidth=0.8
    )
    axes.bar_label(bars, [f"{count:,}" for count in counts], fontsize=7, padding=1, color=INK)
    axes.set(ylim=(0, 1.35 * max(counts)), yticks=[], ylabel="texts")


def _finish(axes: Axes, below: Axes, unit: str) -> None:
    below.set_xlabel(f"{unit} of the source")
    declutter(axes)
    declutter(below)
    below.grid(visible=False)
    below.spines["left"].set_visible(False)
    axes.tick_params(axis="x", labelbottom=False)
    lowest, highest = axes.dataLim.intervaly
    if lowest < highest / 2:
        axes.set_ylim(bottom=0)
    if axes.get_xscale() == "log":
        below.xaxis.set_minor_formatter(NullFormatter())
    else:
        below.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    below.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
