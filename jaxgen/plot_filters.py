"""The weights of a first layer as images."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxgen.plot_style import new_figure, styled


@styled
def first_layer_filters(
    params: Mapping[str, Any], image_shape: Sequence[int], count: int = 64
) -> Figure | None:
    """Draws the first layer's weights as images, all on one scale: blue below zero, red above.

    Weights on red, green and blue are drawn as these colours, zero as grey. Other numbers of channels are
    averaged over.

    Args:
        params: a model's parameters. The first layer is the first convolution over the image's channels, by
            the layers' names; without any, the first dense layer with a row of weights a pixel.
        image_shape: (height, width, channels).
        count: how many units to show at most.

    Returns:
        The figure, or None where no layer looks at pixels.
    """
    filters = _first_filters(params, tuple(image_shape))
    if filters is None:
        return None
    units = len(filters)
    filters = filters[:count]
    # The few weights beyond are clipped, lest one of them fade all the others.
    limit = (
        float(np.percentile(np.abs(filters[np.isfinite(filters)]), 99.5)) if np.isfinite(filters).any() else 0
    )
    limit = limit or 1.0
    coloured = filters.shape[-1] == 3
    if coloured:
        sheet = _tiled(np.clip(0.5 + 0.5 * filters / limit, 0, 1), background=1.0)
    else:
        sheet = _tiled(filters.mean(axis=-1, keepdims=True), background=np.nan)[..., 0]
    height, width = sheet.shape[:2]
    figure = new_figure(7.5 if coloured else 8.4, 7.5 * height / width + 0.45)
    axes = figure.add_subplot()
    drawn = axes.imshow(sheet, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_axis_off()
    if not coloured:
        figure.colorbar(drawn, ax=axes, shrink=0.6, aspect=30, pad=0.02, label="weight")
    which = f"{units} units" if units == len(filters) else f"{len(filters)} of {units} units"
    axes.set_title(f"weights of the first layer, {which}")
    return figure


def _first_filters(params: Mapping[str, Any], image_shape: tuple[int, ...]) -> np.ndarray | None:
    """Finds the first layer's weights, as [units, height, width, channels]."""
    kernels = _kernels(params)
    for kernel in kernels:
        if kernel.ndim == 4 and kernel.shape[2] == image_shape[-1]:
            return np.moveaxis(kernel, -1, 0)
    for kernel in kernels:
        if kernel.ndim == 2 and kernel.shape[0] == np.prod(image_shape):
            return kernel.T.reshape(-1, *image_shape)
    return None


def _kernels(params: Mapping[str, Any]) -> list[np.ndarray]:
    """Finds all kernels by the order of their layers' names, numbers in them as numbers: 2 before 10."""
    kernels = []
    for name, value in sorted(
        params.items(), key=lambda item: re.sub(r"\d+", lambda m: m[0].zfill(9), item[0])
    ):
        if isinstance(value, Mapping):
            kernels += _kernels(value)
        elif name == "kernel":
            kernels.append(np.asarray(value, np.float32))
    return kernels


def _tiled(images: np.ndarray, background: float) -> np.ndarray:
    """Lays [number, height, width, channels] out as one sheet, enlarged, up to eight a row."""
    number, height, width, channels = images.shape
    enlargement = -(-32 // max(height, width))
    images = images.repeat(enlargement, axis=1).repeat(enlargement, axis=2)
    gap = max(2, images.shape[1] // 12)
    images = np.pad(images, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=background)
    columns = number if number <= 8 else min(range(8, 4, -1), key=lambda columns: -number % columns)
    rows = -(-number // columns)
    images = np.pad(
        images, ((0, rows * columns - number), (0, 0), (0, 0), (0, 0)), constant_values=background
    )
    _, height, width, _ = images.shape
    sheet = images.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return sheet.reshape(rows * height, columns * width, channels)[:-gap, :-gap]
