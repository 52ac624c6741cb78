"""Pictures of runs: curves, confusion matrices, mistakes, filters. Each function gives a Matplotlib figure."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxgen.errors import JaxgenError

# Okabe and Ito's colours, told apart by nearly everybody.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_SPLIT_COLOURS = {"train": "#9A9A9A", "validation": "#0072B2", "test": "#D55E00"}
# What is measured, not learnt, needs no curve.
_NO_CURVE = ("steps_per_second", "examples_per_second", "tokens_per_second", "step")
_PREFERRED = ("loss", "accuracy", "mse", "r2")
_MAX_CLASSES_WITH_COUNTS = 25

Records = Sequence[Mapping[str, Any]]


def curves(records: Records) -> Figure:
    """Draws each quantity of a run against the step, all splits in one panel.

    Args:
        records: the lines of `metrics.jsonl`.
    """
    names = _quantities(records)
    if not names:
        return _message("no figures yet")
    figure, panels = _panels(len(names))
    for axes, name in zip(panels, names, strict=True):
        for split, colour in _SPLIT_COLOURS.items():
            steps, values = _series(records, f"{split}/{name}")
            _line(axes, steps, values, split, colour)
        _finish(axes, name)
    return figure


def compare_curves(runs: Mapping[str, Records]) -> Figure:
    """Draws several runs' evaluations in one figure, a panel a quantity.

    Args:
        runs: name to the lines of its `metrics.jsonl`.
    """
    names = list(dict.fromkeys(name for records in runs.values() for name in _quantities(records)))
    if not names:
        return _message("no figures yet")
    figure, panels = _panels(len(names))
    for axes, name in zip(panels, names, strict=True):
        for number, (run, records) in enumerate(runs.items()):
            split = next(
                (s for s in ("validation", "test", "train") if _series(records, f"{s}/{name}")[0]), None
            )
            if split is not None:
                steps, values = _series(records, f"{split}/{name}")
                _line(axes, steps, values, f"{run} ({split})", _COLOURS[number % len(_COLOURS)])
        _finish(axes, name)
    return figure


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws which class was taken for which: counts, coloured by their share of the true class.

    Args:
        labels: int [examples], the true classes.
        predictions: int [examples].
        class_names: a name a class.
    """
    number = len(class_names)
    counts = np.zeros((number, number), int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(12.0, max(4.5, 1.6 + 0.5 * number))
    figure = Figure(figsize=(size, size), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if number <= _MAX_CLASSES_WITH_COUNTS:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(number), class_names, rotation=45 if max(map(len, class_names)) > 3 else 0)
        axes.set_yticks(range(number), class_names)
    accuracy = float(np.trace(counts) / max(counts.sum(), 1))
    axes.set(xlabel="predicted", ylabel="true", title=f"accuracy {100 * accuracy:.2f} % of {counts.sum():,}")
    return figure


def worst_mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    count: int = 24,
) -> Figure:
    """Draws the wrong predictions that were made with the most confidence.

    Args:
        images: uint8 [examples, height, width, channels].
        labels: int [examples], the true classes.
        probabilities: float [examples, classes].
        class_names: a name a class.
        count: how many to show.
    """
    predictions = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    if not len(wrong):
        return _message("no mistakes")
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    columns = min(6, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(1.55 * columns + 0.3, 1.85 * rows + 0.5), layout="constrained", dpi=130)
    figure.suptitle(
        f"the {len(chosen)} most confident of {len(wrong):,} mistakes: true → predicted", fontsize=10
    )
    for place, index in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1)
        _show_image(axes, images[index])
        true, predicted = class_names[labels[index]], class_names[predictions[index]]
        separator = "\n" if len(true) + len(predicted) > 8 else " "
        axes.set_title(f"{true} → {predicted}{separator}({100 * confidence[index]:.0f} %)", fontsize=8)
    return figure


def first_layer_filters(
    params: Mapping[str, Any], image_shape: Sequence[int], count: int = 64
) -> Figure | None:
    """Draws the first layer's weights as images: blue against, red for.

    Args:
        params: a model's parameters; the first convolution in it, else the first dense kernel whose rows are
            the pixels of an image.
        image_shape: (height, width, channels).
        count: how many units to show at most.

    Returns:
        The figure, or None where no layer looks at pixels.
    """
    kernels = _kernels(params)
    convolutions = [kernel for kernel in kernels if kernel.ndim == 4 and kernel.shape[2] == image_shape[-1]]
    dense = [kernel for kernel in kernels if kernel.ndim == 2 and kernel.shape[0] == np.prod(image_shape)]
    if convolutions:
        filters = np.moveaxis(convolutions[0], -1, 0)
    elif dense:
        filters = dense[0].T.reshape(-1, *image_shape)
    else:
        return None
    filters = filters[:count].mean(axis=-1)
    columns = min(8, len(filters))
    rows = -(-len(filters) // columns)
    figure = Figure(figsize=(0.95 * columns, 0.95 * rows + 0.4), layout="constrained", dpi=130)
    figure.suptitle(f"first layer, {len(filters)} units", fontsize=10)
    for place, weights in enumerate(filters):
        axes = figure.add_subplot(rows, columns, place + 1)
        limit = float(np.abs(weights).max()) or 1.0
        axes.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_axis_off()
    return figure


def predicted_against_true(targets: np.ndarray, predictions: np.ndarray) -> Figure:
    """Draws predictions over true values, with the line on which they agree.

    Args:
        targets: float [examples].
        predictions: float [examples], in the same units.
    """
    residual = float(np.sum((targets - predictions) ** 2))
    total = float(np.sum((targets - targets.mean()) ** 2))
    r2 = 1 - residual / total if total else float("nan")
    figure = Figure(figsize=(5, 5), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    low, high = min(targets.min(), predictions.min()), max(targets.max(), predictions.max())
    axes.plot([low, high], [low, high], color="#9A9A9A", linewidth=1)
    axes.scatter(targets, predictions, s=18, color=_COLOURS[0], alpha=0.7, linewidths=0)
    rmse = (residual / len(targets)) ** 0.5
    axes.set(xlabel="true", ylabel="predicted", title=f"R² {r2:.3f}, RMSE {rmse:.4g}", aspect="equal")
    _declutter(axes)
    return figure


def save(figures: Mapping[str, Figure], directory: Path) -> list[Path]:
    """Writes figures as PNG files, each there whole or not at all.

    Returns:
        The files.

    Raises:
        JaxgenError: where they can't be written.
    """
    paths = []
    for name, figure in figures.items():
        path = directory / f"{name}.png"
        temporary = directory / f".{name}.{os.getpid()}.png"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            figure.savefig(temporary)
            temporary.replace(path)
        except OSError as error:
            raise JaxgenError(f"could not write {path}: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
        paths.append(path)
    return paths


def _quantities(records: Records) -> list[str]:
    found = dict.fromkeys(key.partition("/")[2] for record in records for key in record if "/" in key)
    names = [name for name in found if name not in _NO_CURVE]
    first = [name for name in _PREFERRED if name in names]
    return first + [name for name in names if name not in first]


def _series(records: Records, key: str) -> tuple[list[float], list[float]]:
    points = [(float(record["step"]), float(record[key])) for record in records if key in record]
    return [step for step, _ in points], [value for _, value in points]


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    columns = 2 if number == 4 else min(number, 3)
    rows = -(-number // columns)
    figure = Figure(figsize=(4.4 * columns, 3.3 * rows), layout="constrained", dpi=130)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(number)]


def _line(axes: Axes, steps: Sequence[float], values: Sequence[float], label: str, colour: str) -> None:
    if steps:
        marker = "o" if len(steps) <= 30 else None
        axes.plot(steps, values, color=colour, label=label, linewidth=1.5, marker=marker, markersize=3.5)


def _finish(axes: Axes, name: str) -> None:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    if name == "loss" and values.min() > 0 and values.max() > 100 * values.min():
        axes.set_yscale("log")
    axes.set(xlabel="step", title=name.replace("_", " "))
    axes.legend(frameon=False, fontsize=8)
    _declutter(axes)


def _declutter(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def _show_image(axes: Axes, image: np.ndarray) -> None:
    if image.shape[-1] == 1:
        axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=255)
    else:
        axes.imshow(image)
    axes.set_axis_off()


def _kernels(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Finds all kernels, in the order of the layers' names."""
    kernels = []
    for name, value in params.items():
        if isinstance(value, Mapping):
            kernels += _kernels(value)
        elif name == "kernel":
            kernels.append(np.asarray(value))
    return kernels


def _message(text: str) -> Figure:
    figure = Figure(figsize=(4, 2), layout="constrained", dpi=130)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=14)
    return figure
