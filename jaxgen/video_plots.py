"""Pictures of predicted frames: how large the error is the further ahead, and the frames themselves."""

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxgen.films import Rest, Videos, copies
from jaxgen.plot_style import COLOURS, GREY, declutter, new_figure, styled

_SEQUENCES = 4


@styled
def error_by_frame(truth: Videos, predicted: Rest) -> Figure:
    """Draws the squared error of each predicted frame, summed over its pixels, beside that of copying.

    Args:
        truth: whole sequences.
        predicted: the last frames of each, predicted from those before them.
    """
    rest = predicted.shape[1]
    figure = new_figure(5.2, 3.4)
    axes = figure.add_subplot()
    ahead = np.arange(1, rest + 1)
    for name, frames, colour in (
        ("copying the last given frame", copies(truth, rest), GREY),
        ("predicted from its own predictions", predicted, COLOURS[0]),
    ):
        errors = [_squared_error(frames[:, n], truth[:, n - rest]) for n in range(rest)]
        axes.plot(ahead, errors, color=colour, label=name, marker="o", markersize=3)
    axes.set(xlabel="frames ahead", ylabel="squared error of a frame", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    declutter(axes)
    return figure


@styled
def rollouts(truth: Videos, predicted: Rest) -> Figure:
    """Draws the first sequences: what happened, and below it what was predicted from the frames before the line.

    Args:
        truth: whole sequences.
        predicted: the last frames of each, predicted from those before them.
    """
    rest, number = predicted.shape[1], min(_SEQUENCES, len(truth))
    rows = []
    for sequence in range(number):
        nothing = np.full_like(truth[sequence, :-rest], 255)
        rows += [truth[sequence], np.concatenate([nothing, predicted[sequence]])]
    page = np.concatenate([np.concatenate(list(_framed(row)), axis=1) for row in rows])
    height, width = page.shape[:2]
    figure = new_figure(10.0, 10 * height / width + 0.3)
    axes = figure.add_subplot()
    axes.imshow(page if page.shape[-1] == 3 else page[..., 0], cmap="gray", vmin=0, vmax=255)
    axes.axvline(width * (1 - rest / truth.shape[1]) - 0.5, color=COLOURS[1], linewidth=1.5)
    axes.set_title("what happened, and below it what was predicted from the frames before the line")
    axes.set_axis_off()
    return figure


def _framed(frames: UInt8[np.ndarray, "time height width channels"]) -> np.ndarray:
    """Puts white around frames."""
    return np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)


def _squared_error(
    frames: UInt8[np.ndarray, "sequences height width channels"],
    truth: UInt8[np.ndarray, "sequences height width channels"],
) -> float:
    """Gives the mean over sequences of the squared error of a frame, of pixels from 0 to 1."""
    difference = (frames.astype(np.float32) - truth.astype(np.float32)) / 255
    return float((difference**2).sum(axis=(1, 2, 3)).mean())
