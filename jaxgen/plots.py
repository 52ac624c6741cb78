"""Pictures of runs: curves, confusion matrices, mistakes, filters. Each function gives a Matplotlib figure.

No function goes through pyplot: a notebook's own figures, backend and style stay as they are.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jaxgen.errors import JaxgenError
from jaxgen.plot_curves import compare_curves, curves
from jaxgen.plot_filters import first_layer_filters
from jaxgen.plot_style import COLOURS, GREY, INK, any_letters, declutter, message, new_figure, styled

__all__ = [
    "compare_curves",
    "confusion_matrix",
    "curves",
    "first_layer_filters",
    "predicted_against_true",
    "predicted_sequences",
    "prediction_sheet",
    "save",
    "worst_mistakes",
]

_MAX_CLASSES_WITH_COUNTS = 25
_MAX_CLASSES_WITH_NAMES = 50
_NAME_LENGTH = 22
MOST_ON_A_SHEET = 60


@styled
def confusion_matrix(
    labels: Int[np.ndarray, " examples"],
    predictions: Int[np.ndarray, " examples"],
    class_names: Sequence[str],
) -> Figure:
    """Draws which class was taken for which: counts, coloured by their share of the true class.

    The colours favour small shares, since those are the mistakes.

    Args:
        labels: the true classes.
        predictions: the predicted ones.
        class_names: a name a class.

    Raises:
        JaxgenError: for a class that has no name.
    """
    number = len(class_names)
    if not len(labels):
        return message("no examples")
    for kind, classes in (("label", labels), ("prediction", predictions)):
        beyond = classes[(classes < 0) | (classes >= number)]
        if len(beyond):
            raise JaxgenError(f"{kind} {beyond[0]} has no class name: there are {number} of them, from 0")
    counts = np.zeros((number, number), int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with_counts = number <= _MAX_CLASSES_WITH_COUNTS
    size = max(4.5, 1.6 + 0.42 * number) if with_counts else 9.0
    figure = new_figure(size if with_counts else size + 0.8, size)
    axes = figure.add_subplot()
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    drawn = axes.imshow(shares, cmap="Blues", norm=norm)
    if with_counts:
        for row, column in np.argwhere(counts):
            colour = "white" if norm(shares[row, column]) > 0.55 else INK
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
    else:
        share_of_class = PercentFormatter(1, symbol=" %")
        figure.colorbar(drawn, ax=axes, shrink=0.7, label="share of the true class", format=share_of_class)
    _name_classes(axes, class_names)
    correct = int(np.trace(counts))
    axes.set_title(f"accuracy {100 * correct / len(labels):.2f} %: {correct:,} of {len(labels):,} right")
    return figure


@styled
def worst_mistakes(
    images: Shaped[np.ndarray, "examples height width channels"],
    labels: Int[np.ndarray, " examples"],
    probabilities: Float[np.ndarray, "examples classes"],
    class_names: Sequence[str],
    count: int = 24,
) -> Figure:
    """Draws the wrong predictions that were made with the most confidence.

    Args:
        images: grey or colour, bytes from 0 to 255; other numbers are drawn from their lowest to their highest.
        labels: the true classes.
        probabilities: of each class; examples whose probabilities aren't all finite are left out.
        class_names: a name a class.
        count: how many to show at most.
    """
    finite = np.isfinite(probabilities).all(axis=1)
    left_out = f"; {np.sum(~finite):,} without finite probabilities left out" if not finite.all() else ""
    predictions = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(finite & (predictions != labels))
    if not len(wrong):
        return message(f"no mistakes among {np.sum(finite):,} examples{left_out}")
    confidence = probabilities.max(axis=1)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    columns = min(6, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(max(1.5 * columns, 4.0), 1.78 * rows + 0.45)
    shown = (
        "the only mistake" if len(wrong) == 1 else f"{len(chosen)} most confident of {len(wrong):,} mistakes"
    )
    figure.suptitle(f"{shown} (true → predicted){left_out}", wrap=True)
    pixels, grey = _displayable(images[chosen])
    for place, index in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(pixels[place], cmap=grey, vmin=0, vmax=1)
        true, predicted = (_shortened(class_names[c]) for c in (labels[index], predictions[index]))
        share = f"({100 * confidence[index]:.1f} %)"
        lines = f"{true} → {predicted} {share}"
        if len(lines) > _NAME_LENGTH:
            lines = f"{true} →\n{predicted} {share}"
        if len(predicted) > _NAME_LENGTH - len(share):
            lines = f"{true}\n→ {predicted}\n{share}"
        axes.set_title(lines, fontsize=8, pad=3)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#D0D0D0")
    return figure


@styled
def prediction_sheet(
    images: Shaped[np.ndarray, "pictures height width channels"],
    probabilities: Float[np.ndarray, "pictures classes"],
    class_names: Sequence[str],
    file_names: Sequence[str],
    total: int,
) -> Figure:
    """Draws pictures as a model sees them, each with its file's name and what it was taken for.

    Args:
        images: grey or colour, as for `worst_mistakes`; `MOST_ON_A_SHEET` at most.
        probabilities: of each class.
        class_names: a name a class.
        file_names: a name a picture.
        total: how many pictures there are beyond the sheet's, and with them.
    """
    columns = min(6, len(images))
    rows = -(-len(images) // columns)
    figure = new_figure(max(1.5 * columns, 4.0), 1.85 * rows + 0.45)
    which = f"the first {len(images)} of {total:,} pictures" if total > len(images) else f"{total:,} pictures"
    figure.suptitle("as the model saw it" if total == 1 else f"{which}, as the model saw them")
    pixels, _ = _displayable(images)
    for place, (picture, shares) in enumerate(zip(pixels, probabilities, strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        predicted, share = _shortened(class_names[shares.argmax()]), f"({100 * shares.max():.1f} %)"
        between = " " if len(predicted) + len(share) < _NAME_LENGTH else "\n"
        axes.set_title(f"{predicted}{between}{share}", fontsize=8, pad=3)
        axes.set_xlabel(_shortened(file_names[place]), fontsize=6, color=GREY, labelpad=3)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#D0D0D0")
    return figure


@styled
def predicted_against_true(
    targets: Float[np.ndarray, " examples"], predictions: Float[np.ndarray, " examples"]
) -> Figure:
    """Draws predictions over true values, with the line on which they agree; R² and RMSE above.

    Args:
        targets: the true values.
        predictions: in the same units; those that aren't finite are left out.
    """
    finite = np.isfinite(predictions) & np.isfinite(targets)
    targets, predictions = targets[finite].astype(np.float64), predictions[finite].astype(np.float64)
    left_out = f"\n{np.sum(~finite):,} that aren't finite left out" if not finite.all() else ""
    if not len(targets):
        return message(f"no predictions{left_out}")
    residual = np.sum((targets - predictions) ** 2)
    total = np.sum((targets - targets.mean()) ** 2)
    r2 = f"R² {1 - residual / total:.3f}" if total else "R² undefined (all targets equal)"
    figure = new_figure(5.0, 5.0)
    axes = figure.add_subplot()
    low, high = min(targets.min(), predictions.min()), max(targets.max(), predictions.max())
    axes.axline((low, low), slope=1, color=INK, linewidth=0.8, zorder=3)
    # Thousands of points show their density, some dozens themselves.
    size, opacity = (18, 0.7) if len(targets) <= 1000 else (6, 0.2)
    axes.scatter(targets, predictions, s=size, color=COLOURS[0], alpha=opacity, linewidths=0)
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    rmse = np.sqrt(residual / len(targets))
    axes.set(xlabel="true", ylabel="predicted", title=f"{r2}, RMSE {rmse:.4g}{left_out}", aspect="equal")
    axes.set(xlim=limits, ylim=limits)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
    declutter(axes)
    return figure


@styled
def predicted_sequences(
    inputs: Sequence[str], targets: Sequence[str], predictions: Sequence[str], count: int = 40
) -> Figure:
    """Writes out sequences with what they should have become and what they became, mistakes first.

    Args:
        inputs: what the model read; of long ones, the beginning and the end are written.
        targets: what was right.
        predictions: what the model wrote.
        count: sequences at most.
    """
    wrong = [i for i, (a, b) in enumerate(zip(targets, predictions, strict=True)) if a != b]
    right = [i for i, (a, b) in enumerate(zip(targets, predictions, strict=True)) if a == b]
    shown = [*wrong[: count // 2], *right][:count]
    rows = -(-len(shown) // 2)
    figure = new_figure(7.5, 0.25 * rows + 0.6)
    figure.suptitle(f"{len(wrong):,} of {len(targets):,} wrong; input → target, and what was written instead")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 2), ylim=(rows - 0.5, -0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    for place, index in enumerate(shown):
        column, row = divmod(place, rows)
        line = f"{_ends(inputs[index])} → {targets[index]}"
        mistaken = targets[index] != predictions[index]
        text = f"{line}   {predictions[index]}" if mistaken else line
        color = COLOURS[1] if mistaken else INK
        axes.text(
            column, row, text, family="monospace", fontsize=9, va="center", color=color, parse_math=False
        )
    return figure


def _ends(text: str) -> str:
    """Gives a text, without its middle where there is no room for it."""
    half = _NAME_LENGTH // 2
    return text if len(text) <= _NAME_LENGTH else f"{text[:half]}…{text[1 - half :]}"


def save(figures: Mapping[str, Figure], directory: Path) -> list[Path]:
    """Writes figures as PNG files, each there whole or not at all.

    Args:
        figures: name, which becomes the file's, to figure.
        directory: where to; made if need be.

    Returns:
        The files.

    Raises:
        JaxgenError: where they can't be written.
    """
    paths = []
    for name, figure in figures.items():
        path = directory / f"{name}.png"
        temporary = directory / f".{name}.png.{os.getpid()}.tmp"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with any_letters():
                figure.savefig(temporary, format="png")
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise JaxgenError(f"could not write {path}: {error.strerror or error}") from error
        paths.append(path)
    return paths


def _name_classes(axes: Axes, class_names: Sequence[str]) -> None:
    axes.tick_params(length=0, labelcolor=INK, labelsize=9 if len(class_names) <= 25 else 7)
    if len(class_names) > _MAX_CLASSES_WITH_NAMES:
        axes.tick_params(labelsize=9)
        axes.set(xlabel="predicted class, by number", ylabel="true class, by number")
        return
    names = [_shortened(name) for name in class_names]
    axes.set_xticks(range(len(names)), names)
    if max(map(len, names)) > 3:
        axes.tick_params(axis="x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")


def _shortened(name: str) -> str:
    """Gives a name that has room, in which dollars don't begin a formula."""
    short = name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
    return short.replace("$", r"\$")


def _displayable(images: np.ndarray) -> tuple[np.ndarray, str]:
    """Gives images from 0 to 1, grey [..., height, width] or with three channels, and the map for the grey ones."""
    if images.dtype == np.uint8:
        scaled = images / 255
    else:
        scaled = Normalize(np.nanmin(images), np.nanmax(images))(images.astype(np.float64)).filled(0)
    if images.shape[-1] in (3, 4):
        return scaled[..., :3], "gray"
    scaled = scaled.mean(axis=-1)
    border = np.concatenate([scaled[:, [0, -1]].ravel(), scaled[:, :, [0, -1]].ravel()])
    # Light strokes on black are drawn as ink on paper.
    return scaled, "gray_r" if np.median(border) < 0.1 else "gray"
