"""Curves of one run, or of several beside each other."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from jaxgen.plot_style import COLOURS, GREY, INK, MARKERS, declutter, message, new_figure, styled

_SPLIT_COLOURS = {"train": GREY, "validation": COLOURS[0], "test": COLOURS[1]}
# What is measured, not learnt, needs no curve.
_NO_CURVE = ("steps_per_second", "examples_per_second", "tokens_per_second")
_SHARES = ("accuracy", "exact")
_PREFERRED = ("loss", "accuracy", "mse", "r2")
_MARKERS_UP_TO = 30
_SMOOTH_ABOVE = 400

Records = Sequence[Mapping[str, Any]]
Curves = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]


@styled
def curves(records: Records) -> Figure:
    """Draws each quantity of a run against the step, all splits in one panel.

    Long series are drawn faintly, with their running mean on top. A loss that spans more than two decades
    gets a logarithmic axis.

    Args:
        records: the lines of `metrics.jsonl`: `step`, and figures named `SPLIT/NAME`.
    """
    read = _read(records)
    if not read:
        return message("no figures yet")
    names, colours = _quantities(read), _split_colours(read)
    figure, panels = _panels(len(names))
    for axes, name in zip(panels, names, strict=True):
        for split, colour in colours.items():
            if (split, name) in read:
                _line(axes, *read[split, name], colour=colour)
        _finish(axes, name)
    _legend(figure, [_sample(split, colour=colour) for split, colour in colours.items()])
    return figure


@styled
def compare_curves(runs: Mapping[str, Records]) -> Figure:
    """Draws several runs in one figure, a panel a quantity: evaluated splits solid, the training split dashed.

    Args:
        runs: name to the lines of its `metrics.jsonl`.
    """
    read = {run: _read(records) for run, records in runs.items()}
    places = [place for series in read.values() for place in series]
    if not places:
        return message("no figures yet")
    names, splits = _quantities(places), list(_split_colours(places))
    figure, panels = _panels(len(names))
    key = []
    for number, (run, series) in enumerate(read.items()):
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number // len(COLOURS) % len(MARKERS)]
        for (split, name), (steps, values) in series.items():
            faint = {"linestyle": "--", "linewidth": 0.8, "alpha": 0.55} if split == "train" else {}
            _line(panels[names.index(name)], steps, values, colour=colour, marker=marker, **faint)
        label = run if series else f"{run} (no curve)"
        key.append(_sample(label, colour=colour, marker=marker if number >= len(COLOURS) else ""))
    for axes, name in zip(panels, names, strict=True):
        _finish(axes, name)
    evaluated = " and ".join(split for split in splits if split != "train")
    if evaluated:
        key.append(_sample(evaluated, colour=INK))
    if "train" in splits:
        key.append(_sample("train", colour=INK, dashed=True))
    _legend(figure, key)
    return figure


def _read(records: Records) -> Curves:
    """Sorts a run's figures by (split, quantity), as steps and values."""
    points: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
    for record in records:
        for key, value in record.items():
            split, _, name = key.partition("/")
            if name and name not in _NO_CURVE and isinstance(value, Real) and "step" in record:
                points.setdefault((split, name), []).append((record["step"], value))
    return {place: tuple(np.array(pairs, float).T) for place, pairs in points.items()}


def _quantities(read: Iterable[tuple[str, str]]) -> list[str]:
    found = dict.fromkeys(name for _, name in read)
    first = [name for name in _PREFERRED if name in found]
    return first + [name for name in found if name not in first]


def _split_colours(read: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Gives each split its colour, training first."""
    found = dict.fromkeys(split for split, _ in read)
    known = {split: colour for split, colour in _SPLIT_COLOURS.items() if split in found}
    others = (split for split in found if split not in _SPLIT_COLOURS)
    return {**known, **{split: COLOURS[(2 + i) % len(COLOURS)] for i, split in enumerate(others)}}


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    columns = 2 if number == 4 else min(number, 3)
    rows = -(-number // columns)
    figure = new_figure(4.2 * columns + (0.8 if columns == 1 else 0), 3.2 * rows + 0.3)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(number)]


def _line(
    axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, marker: str = "o", **options: Any
) -> None:
    """Draws a series: with markers where there is room for them, smoothed where it would be a band."""
    options = {"color": colour, "linewidth": 1.6, **options}
    if len(steps) <= _MARKERS_UP_TO:
        axes.plot(steps, values, marker=marker, markersize=3.5, **options)
        return
    if len(steps) > _SMOOTH_ABOVE:
        axes.plot(steps, values, **{**options, "linewidth": 0.5, "alpha": 0.3, "linestyle": "-"})
        finite = np.isfinite(values)
        blocks = max(1, min(_SMOOTH_ABOVE // 2, int(finite.sum())))
        steps, values = (
            np.array(
                [block.mean() if len(block) else np.nan for block in np.array_split(numbers[finite], blocks)]
            )
            for numbers in (steps, values)
        )
    axes.plot(steps, values, **options)


def _finish(axes: Axes, name: str) -> None:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    values = values[np.isfinite(values)]
    quantity = name.rpartition("/")[2]
    if quantity == "loss" and len(values) and 0 < 100 * values.min() < values.max():
        axes.set_yscale("log")
    elif quantity.endswith(_SHARES):
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set(xlabel="step", title=name.replace("_", " "))
    declutter(axes)


def _sample(label: str, colour: str, marker: str = "", dashed: bool = False) -> Line2D:
    linestyle: Literal["-", "--"] = "--" if dashed else "-"
    return Line2D([], [], label=label, color=colour, linestyle=linestyle, marker=marker, linewidth=1.6)


def _legend(figure: Figure, samples: Sequence[Line2D]) -> None:
    longest = max(len(str(sample.get_label())) for sample in samples)
    # About 13 characters an inch, the sample of a line included.
    columns = int(13 * figure.get_figwidth() / (longest + 6))
    figure.legend(handles=samples, loc="outside lower center", ncols=max(1, min(columns, len(samples))))
