"""Films of what a model foresees: sequences as they went on, as they were predicted, and as copying has them."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from jaxgen.data.sources import Source
from jaxgen.errors import UsageError
from jaxgen.image_samples import seed_rng
from jaxgen.image_sheets import Sheet, enlarged, save_film, sheet
from jaxgen.metrics import AnyArray
from jaxgen.train.context import Params
from jaxgen.train.hooks import Hook
from jaxgen.train.state import TrainState

NUM_SEQUENCES = 8
"""Sequences of a film where nothing else is asked for."""

_MOST = 16
_SIDE = 128
_GIVEN, _PREDICTED, _LAST = 150, 300, 1500  # milliseconds
_MARGIN = 6
_INK, _PAPER = 0, 255

Videos = UInt8[np.ndarray, "sequences time height width channels"]
Rest = UInt8[np.ndarray, "sequences rest height width channels"]


@runtime_checkable
class PredictsFrames(Protocol):
    """What a task has beside the methods of `jaxgen.tasks.Task` where it predicts frames.

    Attributes:
        given: frames that a prediction begins with.
    """

    given: int

    def rollout(
        self, params: Params, model_state: Any, frames: Shaped[AnyArray, "..."], steps: int
    ) -> Float[Array, "batch steps height width channels"]:
        """Predicts the next frames, from 0 to 1, each from those given and those predicted before."""
        ...

    def predict(self, params: Params, model_state: Any, batch: Any) -> dict[str, Array]:
        """Gives the frames after the given ones, `prediction` uint8, predicted from these alone."""
        ...


class Films(Hook):
    """Writes a film of some sequences and what is predicted of them when a run is finished.

    Args:
        task: one that predicts frames.
        source: of the sequences.
        path: the GIF.
    """

    def __init__(self, task: Any, source: Source, path: Path) -> None:
        self._task, self._source, self._path = task, source, path

    def on_finish(self, figures: dict[str, Any], state: TrainState) -> None:
        """Writes it."""
        self._path.parent.mkdir(exist_ok=True)
        videos = choose(self._source, min(NUM_SEQUENCES, len(self._source)), seed=0)
        write_film(self._path, self._task, state, videos)


def choose(source: Source, number: int, seed: int) -> Videos:
    """Chooses sequences; the first of a seed are the same however many there are.

    Raises:
        UsageError: for fewer than one, or more than a film has room for, and a seed out of range.
    """
    most = min(_MOST, len(source))
    if not 1 <= number <= most:
        raise UsageError(f"num samples is {number}; a film has room for 1 to {most} sequences")
    order = jax.random.permutation(seed_rng(seed), len(source))
    return source.gather(np.asarray(order)[:number])["video"]


def write_film(path: Path, task: PredictsFrames, state: TrainState, videos: Videos) -> None:
    """Writes a film of sequences as GIF: what happened, what is predicted, and the last given frame, row by row."""
    predict = jax.jit(task.predict)
    found = predict(state.evaluation_params(), state.model_state, {"video": videos})
    pages, captions = film(videos, np.asarray(jax.device_get(found["prediction"])))
    given = videos.shape[1] - found["prediction"].shape[1]
    seen = [*[_GIVEN] * given, *[_PREDICTED] * (len(pages) - given - 1), _LAST]
    save_film(path, pages, seen, captions)


def film(videos: Videos, predicted: Rest) -> tuple[list[Sheet], list[str]]:
    """Arranges the frames of a film, and gives a caption for each; where prediction begins, its ground turns black.

    Args:
        videos: whole sequences.
        predicted: the last frames of each.
    """
    number, frames = videos.shape[:2]
    rest = predicted.shape[1]
    given = videos[:, : frames - rest]
    rows = [videos, *(np.concatenate([given, after], axis=1) for after in (predicted, copies(videos, rest)))]
    pages, captions = [], []
    for frame in range(frames):
        page = sheet(enlarged(np.concatenate([row[:, frame] for row in rows]), _SIDE), columns=number)
        is_given = frame < frames - rest
        margin = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))
        pages.append(np.pad(page, margin, constant_values=_PAPER if is_given else _INK))
        what = "given" if is_given else "truth, predicted, last given"
        captions.append(f"{frame + 1}/{frames}  {what}")
    return pages, captions


def copies(videos: Videos, rest: int) -> Rest:
    """Gives what copying predicts for the last `rest` frames: the one before them again and again."""
    return np.repeat(videos[:, -rest - 1 : -rest], rest, axis=1)
