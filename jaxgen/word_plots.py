"""Maps of words: their vectors in two dimensions, with labels that don't lie on each other."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxgen.errors import UsageError, shortened
from jaxgen.plot_style import COLOURS, GREY, any_letters, new_figure, styled

_FEWEST, _MOST = 3, 400
# With fewer words t-SNE has no neighbourhoods to keep.
_FEWEST_NEIGHBOURS = 12
_COMPONENTS = 50
_LABEL_SIZE, _LABEL_LENGTH = 8, 24
# Around a point, in points: near to it first, then with a line.
_DISTANCES = (5, 12, 20, 30, 42)
_ANGLES = np.deg2rad(np.arange(0, 360, 30))


def flat(vectors: Float[np.ndarray, "words width"]) -> tuple[Float[np.ndarray, "words 2"], str]:
    """Gives words' places on a map, and what it is: t-SNE after principal components, of a few words these alone.

    Vectors are brought to length 1 first, so that distances are those of cosines. The same vectors have the same map.
    """
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    centred = units - units.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    components = left * sizes
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 1)))
    if len(vectors) < _FEWEST_NEIGHBOURS:
        return components[:, :2], "principal components"
    from sklearn.manifold import TSNE

    start = components[:, :2] / max(components[:, 0].std(), 1e-30) * 1e-4
    perplexity = min(30, (len(vectors) - 1) / 3)
    # Of so few words exact gradients take no longer, and leave the other cores, and their order of adding, alone.
    made = TSNE(perplexity=perplexity, init=start.astype(np.float32), method="exact", random_state=0)
    return made.fit_transform(components[:, :_COMPONENTS].astype(np.float32)), "t-SNE"


@styled
def word_map(words: Sequence[str], vectors: Float[np.ndarray, "words width"]) -> Figure:
    """Draws words where `flat` puts them.

    Raises:
        UsageError: for fewer words than make a map, or more than can be read.
    """
    if not _FEWEST <= len(words) <= _MOST:
        raise UsageError(
            f"a map has {_FEWEST} to {_MOST} words; {len(words)} are given that are in the vocabulary"
        )
    places, kind = flat(vectors)
    side = float(np.clip(0.75 * np.sqrt(len(words)), 5.0, 14.0))
    figure = new_figure(side, 0.8 * side)
    axes = figure.add_subplot()
    axes.scatter(places[:, 0], places[:, 1], s=10, color=COLOURS[0], linewidths=0, zorder=3)
    axes.set(xticks=[], yticks=[], title=f"{len(words):,} words, {kind}")
    axes.spines[:].set_color("#DDDDDD")
    axes.margins(0.08)
    figure.draw_without_rendering()  # only now it is known where on the paper the points are
    with any_letters():
        _label(axes, places, [shortened(word, _LABEL_LENGTH) for word in words])
    return figure


def _label(axes: Axes, places: Float[np.ndarray, "words 2"], words: Sequence[str]) -> None:
    """Puts each label beside its point, where it covers the least; in turn, those with near neighbours first."""
    scale = 72 / axes.figure.dpi  # everything below in points of the paper
    points = axes.transData.transform(places) * scale
    inside = axes.get_window_extent()
    frame = np.array([inside.x0, inside.y0, inside.x1, inside.y1]) * scale
    sizes = [_size(axes, word, scale) for word in words]
    distances = np.linalg.norm(points[:, None] - points, axis=-1) + np.diag(np.full(len(points), np.inf))
    dots = np.hstack([points - 2.5, points + 2.5])
    taken = np.empty((0, 4))
    for index in np.argsort(distances.min(axis=1), kind="stable"):
        boxes = _boxes(points[index], sizes[index])
        outside = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - _overlap(boxes, frame[None])
        covered = _overlap(boxes, taken) + 3 * _overlap(boxes, np.delete(dots, index, axis=0)) + 10 * outside
        best = int(np.argmin(covered + np.repeat(_DISTANCES, len(_ANGLES)) * 0.2))
        taken = np.vstack([taken, boxes[best]])
        axes.annotate(
            words[index],
            places[index],
            xytext=(boxes[best, :2] + boxes[best, 2:]) / 2 - points[index],
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_LABEL_SIZE,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2}
            if best >= len(_ANGLES)
            else None,
        )


def _size(axes: Axes, word: str, scale: float) -> Float[np.ndarray, "2"]:
    """Gives how wide and high a label is."""
    text = axes.text(0, 0, word, fontsize=_LABEL_SIZE, parse_math=False)
    extent = text.get_window_extent()
    text.remove()
    return np.array([extent.width, extent.height]) * scale


def _boxes(point: Float[np.ndarray, "2"], size: Float[np.ndarray, "2"]) -> Float[np.ndarray, "places 4"]:
    """Gives where a label may lie: left, bottom, right and top of boxes around a point, the nearest ones first."""
    directions = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    # As far off as the box's own extent in that direction, so that its edge is near the point.
    offsets = [(size / 2 + distance) * directions for distance in _DISTANCES]
    centres = point + np.concatenate(offsets)
    return np.hstack([centres - size / 2, centres + size / 2])


def _overlap(
    boxes: Float[np.ndarray, "boxes 4"], others: Float[np.ndarray, "others 4"]
) -> Float[np.ndarray, " boxes"]:
    """Gives the area that others cover of each box."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    return np.prod(np.maximum(high - low, 0), axis=-1).sum(axis=1)
