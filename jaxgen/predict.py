"""Predictions for picture files, which are made what the run's training images were; as a table, and as a CSV."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxgen.data import pictures
from jaxgen.data.strokes import Strokes, as_strokes
from jaxgen.errors import JaxgenError, UsageError, shown
from jaxgen.files import write_text
from jaxgen.saved_run import SavedRun

if TYPE_CHECKING:
    from rich.table import Table

_READ_AT_ONCE = 1024
_ROWS_SHOWN = 100


@dataclass(frozen=True)
class Seen:
    """A picture file as the model sees it.

    Attributes:
        path: of the file.
        image: of the model's size and channels.
        inverted: whether it is dark on light, where the training images are light strokes on a dark ground.
    """

    path: Path
    image: UInt8[np.ndarray, "height width channels"]
    inverted: bool


@dataclass(frozen=True)
class Prediction(Seen):
    """A picture file with the probability of each class."""

    probabilities: Float[np.ndarray, " classes"]

    def ranked(self, names: Sequence[str]) -> list[tuple[str, float]]:
        """Gives the classes' names with their probabilities, the most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")
        return [(names[index], float(self.probabilities[index])) for index in order]


def predict(run: SavedRun, paths: Sequence[Path]) -> Iterator[Prediction | JaxgenError]:
    """Predicts the classes of picture files, and of all in folders, in order; an error in place of a bad file.

    Raises:
        UsageError: where the run is of no image classifier.
    """
    if "image" not in run.example or not hasattr(run.task, "predict"):
        raise UsageError(
            f"{run.directory.path} was trained on {' and '.join(run.example)}: only image classifiers predict files"
        )
    shape, dtype = run.example["image"].shape[1:], run.example["image"].dtype
    if dtype != np.uint8 or shape[-1] not in (1, 3):
        raise UsageError(
            f"{run.directory.path} was trained on images of {dtype} with {shape[-1]} channels: pictures are bytes, "
            "grey or in colour; use jaxgen.SavedRun(path).predict with arrays like those"
        )
    strokes = run.strokes
    files = _find(paths)
    while batch := list(islice(files, _READ_AT_ONCE)):
        read = [file if isinstance(file, JaxgenError) else _see(file, shape, strokes) for file in batch]
        images = [item.image for item in read if isinstance(item, Seen)]
        probabilities = iter(_probabilities(run, np.stack(images)) if images else ())
        for item in read:
            if isinstance(item, Seen):
                yield Prediction(**vars(item), probabilities=next(probabilities))
            else:
                yield item


def inverted_line(predictions: Sequence[Prediction]) -> str:
    """Says which pictures were inverted; empty where none was."""
    inverted = [shown(prediction.path) for prediction in predictions if prediction.inverted]
    if not inverted:
        return ""
    more = f" and {len(inverted) - 3:,} more" if len(inverted) > 3 else ""
    return f"dark on light, so inverted, since the run was trained on light on dark: {', '.join(inverted[:3])}{more}"


def table(predictions: Sequence[Prediction], names: Sequence[str]) -> "Table":
    """Lays predictions out for a terminal: file, prediction, probability, and the next best two."""
    from rich.table import Table
    from rich.text import Text

    rows = Table("", "prediction", "probability", "then")
    rows.columns[0].no_wrap = True
    for prediction in predictions[:_ROWS_SHOWN]:
        (name, probability), *others = prediction.ranked(names)
        then = ", ".join(f"{other} {100 * value:.1f} %" for other, value in others[:2])
        rows.add_row(Text(shown(prediction.path)), Text(name), f"{100 * probability:.1f} %", Text(then))
    if len(predictions) > _ROWS_SHOWN:
        rows.caption = f"and {len(predictions) - _ROWS_SHOWN:,} more"
    return rows


def save(predictions: Sequence[Prediction], names: Sequence[str], output: Path) -> list[Path]:
    """Writes the CSV, and beside it under the same name a sheet of the pictures as PNG; gives both files.

    Raises:
        JaxgenError: where they can't be written.
    """
    from jaxgen import plots

    shown_on_sheet = predictions[: plots.MOST_ON_A_SHEET]
    sheet = plots.prediction_sheet(
        np.stack([prediction.image for prediction in shown_on_sheet]),
        np.stack([prediction.probabilities for prediction in shown_on_sheet]),
        names,
        [shown(prediction.path.name) for prediction in shown_on_sheet],
        total=len(predictions),
    )
    paths = plots.save({output.stem: sheet}, output.parent)
    write_text(output, as_csv(predictions, names))
    return [output, *paths]


def as_csv(predictions: Sequence[Prediction], names: Sequence[str]) -> str:
    """Writes predictions as a CSV: file, prediction, probability, and the probability of each class in full.

    In a file's name bytes that are no UTF-8 are escaped, lest the CSV be no text.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "prediction", "probability", *names])
    for prediction in predictions:
        name, probability = prediction.ranked(names)[0]
        file = os.fsencode(prediction.path).decode("utf-8", "backslashreplace")
        writer.writerow([file, name, probability, *prediction.probabilities.tolist()])
    return text.getvalue()


def not_ours(output: Path) -> Path | None:
    """Gives the file that `save` would write over though it wrote neither it nor the other one; None if there is none.

    Args:
        output: the CSV; its sheet lies beside it.
    """
    if not output.exists():
        sheet = output.with_suffix(".png")
        return sheet if sheet.exists() else None
    with output.open(encoding="utf-8", errors="replace") as file:
        return None if file.readline().startswith("file,prediction,probability") else output


def _find(paths: Sequence[Path]) -> Iterator[Path | JaxgenError]:
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112, pathlib's raises for names that are too long
            yield path
            continue
        try:
            found = pictures.find(path)
            yield from found
            if not found:
                yield JaxgenError(f"{shown(path)} holds no pictures")
        except JaxgenError as error:
            yield error


def _see(path: Path, shape: tuple[int, ...], strokes: Strokes | None) -> Seen | JaxgenError:
    height, width, channels = shape
    try:
        pictures.examine(path)
        if strokes is None:
            return Seen(path, pictures.read(path, channels, (height, width)), inverted=False)
        image, inverted = as_strokes(pictures.read(path, channels)[..., 0], (height, width), strokes)
        return Seen(path, image[..., None], inverted)
    except JaxgenError as error:
        return error


def _probabilities(run: SavedRun, images: UInt8[np.ndarray, "images height width channels"]) -> Any:
    return run.predict({"image": images})["probabilities"]
