"""Predictions for picture files, which are made what the run's training images were; as a table, and as a CSV."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxgen.data import folder, pictures
from jaxgen.data.strokes import Strokes, as_strokes
from jaxgen.errors import JaxgenError, UsageError, shown
from jaxgen.files import check_csv, write_csv
from jaxgen.saved_run import SavedRun
from jaxgen.train.hooks import say

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
        read = [file if isinstance(file, JaxgenError) else see(file, shape, strokes) for file in batch]
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
    """Lays predictions out for a terminal; see `lay_out`."""
    told = [shown(prediction.path) for prediction in predictions]
    return lay_out(told, [prediction.probabilities for prediction in predictions], names, _ROWS_SHOWN)


def lay_out(
    told: Sequence[str],
    probabilities: Iterable[np.ndarray],
    names: Sequence[str],
    most: int,
) -> "Table":
    """Lays out for a terminal what each prediction is of, the prediction, its probability, and the next best two."""
    from rich.table import Table
    from rich.text import Text

    rows = Table("", "prediction", "probability", "then")
    rows.columns[0].no_wrap = True
    for what, row in list(zip(told, probabilities, strict=True))[:most]:
        (name, probability), *others = ranked(row, names)
        then = ", ".join(f"{other} {100 * value:.1f} %" for other, value in others[:2])
        rows.add_row(Text(what), Text(name), f"{100 * probability:.1f} %", Text(then))
    if len(told) > most:
        rows.caption = f"and {len(told) - most:,} more"
    return rows


def ranked(probabilities: Float[np.ndarray, " classes"], names: Sequence[str]) -> list[tuple[str, float]]:
    """Gives the classes' names with their probabilities, the most probable first."""
    order = np.argsort(-probabilities, kind="stable")
    return [(names[index], float(probabilities[index])) for index in order]


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
    write_csv(output, rows_of_pictures(predictions, names))
    return [output, *paths]


def rows_of_pictures(predictions: Sequence[Prediction], names: Sequence[str]) -> list[list[Any]]:
    """Lays predictions out for a CSV; see `rows_of`. Bytes of a file's name that are no UTF-8 are escaped."""
    files = [os.fsencode(prediction.path).decode("utf-8", "backslashreplace") for prediction in predictions]
    return rows_of("file", files, [prediction.probabilities for prediction in predictions], names)


def header(column: str) -> tuple[str, ...]:
    """Gives the header of such a CSV, without the classes; the first column is what the predictions are of."""
    return (column, "prediction", "probability")


def rows_of(
    column: str,
    told: Sequence[str],
    probabilities: Iterable[np.ndarray],
    names: Sequence[str],
) -> list[list[Any]]:
    """Lays out for a CSV what each prediction is of, the prediction, its probability, and that of each class."""
    rows: list[list[Any]] = [[*header(column), *names]]
    for what, row in zip(told, probabilities, strict=True):
        name, probability = ranked(row, names)[0]
        rows.append([what, name, probability, *row.tolist()])
    return rows


def print_predictions(run: SavedRun, files: Sequence[Path], output: Path | None = None) -> None:
    """Prints the classes of picture files, and writes a CSV and a sheet of them.

    Args:
        run: of an image classifier.
        files: pictures, and folders of them.
        output: the CSV; by default predictions.csv in the run directory.

    Raises:
        UsageError: for no files, a run of another kind, and where something else would be written over.
        JaxgenError: at the end, where files couldn't be predicted.
    """
    from rich.console import Console

    given, output = output is not None, output or run.directory.path / "predictions.csv"
    if given:
        check_csv(output, header("file"))
    if not files:
        raise UsageError("give the pictures to predict, files or folders of them")
    if taken := {output.resolve(), output.with_suffix(".png").resolve()} & {file.resolve() for file in files}:
        raise UsageError(f"{shown(taken.pop())} would be written over: give another --output")
    if given:
        _check_output(output, files, run.config["data"]["name"])
    predictions, failed = [], 0
    for outcome in predict(run, files):
        if isinstance(outcome, Prediction):
            predictions.append(outcome)
        else:
            failed += 1
            say(f"jaxgen: {outcome}", sys.stderr)
    if predictions:
        names = run.task.class_names or tuple(map(str, range(len(predictions[0].probabilities))))
        if line := inverted_line(predictions):
            say(line)
        Console().print(table(predictions, names))
        say("\n".join(map(shown, save(predictions, names, output))))
    if failed:
        raise JaxgenError(f"{failed} of {failed + len(predictions)} files can't be predicted")


def _check_output(output: Path, files: Sequence[Path], data: str) -> None:
    """Refuses to write over a sheet of others, and among pictures: the given ones and those of the training."""
    sheet = output.with_suffix(".png")
    if sheet.exists() and not output.exists():
        raise UsageError(f"{shown(sheet)} would be written over: give another --output")
    folders = [file for file in files if os.path.isdir(file)]  # noqa: PTH112, pathlib's raises for long names
    if folder.is_folder(data):
        folders.append(Path(data))
    for place in folders:
        if output.resolve().is_relative_to(place.resolve()):
            raise UsageError(
                f"{shown(output)} would lie among the pictures of {shown(place)}: give another --output"
            )


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


def see(path: Path, shape: tuple[int, ...], strokes: Strokes | None) -> Seen | JaxgenError:
    """Makes of a picture file what the training images are, of a shape and with such strokes, or gives the error."""
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
