"""Light strokes on a dark, even ground, as in MNIST: recognised in training data, and made of photos and scans."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image, ImageFilter

from jaxgen.data.sources import Source

_SAMPLE = 500
# Grey levels of 255: how dark a ground is, how even, and how far strokes stand out from it.
_DARK, _EVEN, _CONTRAST = 48, 16, 32
# The part of the contrast above which a pixel belongs to a stroke.
_STROKE = 0.25
# Photos are worked on at this size: a digit is still many pixels, and noise is averaged out.
_WORKING_SIZE = 400

Grey = UInt8[np.ndarray, "height width"]
Levels = Float[np.ndarray, "height width"]
# Of another size than what it is made from.
NewGrey = UInt8[np.ndarray, "new_height new_width"]
NewLevels = Float[np.ndarray, "new_height new_width"]


@dataclass(frozen=True)
class Strokes:
    """How a set's images show light strokes on a dark ground.

    Attributes:
        background: level of the ground, 0 to 255.
        extent: the longer side of the strokes' box, as a part of the image's, where strokes are centred by their
            mass; None where they lie anywhere.
        width: of the strokes, as a part of the image's shorter side.
    """

    background: int
    extent: float | None
    width: float


def find_strokes(source: Source) -> Strokes | None:
    """Tells whether a split's images are light strokes on a dark ground, from some hundred of them; None if not."""
    if len(source.shape) != 3 or source.shape[-1] != 1 or None in source.shape:
        return None
    if "image" not in source[0]:
        return None
    rows = np.unique(np.linspace(0, len(source) - 1, _SAMPLE).astype(int))
    images = source.gather(rows)["image"]
    if images.dtype != np.uint8:
        return None
    levels = images[..., 0].astype(np.float32)
    border = np.concatenate([_border(image, 1) for image in levels])
    background = float(np.median(border))
    even = np.mean(np.abs(border - background) <= _EVEN)
    if background > _DARK or even < 0.75:
        return None
    ink = (levels - background).clip(0)
    peaks = ink.max(axis=(1, 2), keepdims=True)
    masks = ink > _STROKE * np.maximum(peaks, _CONTRAST)
    with_strokes = masks.any(axis=(1, 2))
    if with_strokes.mean() < 0.5 or masks.mean() > 0.5:
        return None
    extents, widths, off_centre = [], [], []
    for mask, strength in zip(masks[with_strokes], ink[with_strokes], strict=True):
        top, bottom, left, right = _box(mask)
        extents.append(max((bottom - top) / mask.shape[0], (right - left) / mask.shape[1]))
        widths.append(_stroke_width(mask) / min(mask.shape))
        off_centre.append(np.abs(_centre_of_mass(strength) / mask.shape - 0.5).max())
    # Of images that were resized as a whole a model learns where strokes lie in whole pictures.
    centred = np.median(off_centre) < 0.08 and source.image_size is None
    extent, width = (round(float(np.median(values)), 4) for values in (extents, widths))
    return Strokes(round(background), extent if centred else None, width)


def as_strokes(picture: Grey, size: tuple[int, int], strokes: Strokes) -> tuple[NewGrey, bool]:
    """Makes of a picture what the set's images are: light on dark, and of their size.

    One of another size is cropped to its strokes and drawn as the set's are: as large, no thinner, centred by their
    mass, on an even ground. Where the set's strokes aren't centred, or nothing stands out, it is resized as a whole.

    Args:
        picture: any size, whose ground may be shaded and noisy.
        size: (height, width) of the set's images.
        strokes: of the set.

    Returns:
        The image, and whether the picture was dark on light.
    """
    inverted = _is_dark_on_light(picture)
    if inverted:
        picture = 255 - picture
    if picture.shape != size:
        picture = _centred(picture, size, strokes)
    return picture, inverted


def _is_dark_on_light(picture: Grey) -> bool:
    """Tells whether a picture's marks are darker than its ground."""
    levels = np.asarray(_reduced(picture), np.float32)
    ground = np.median(_border(levels, max(1, min(levels.shape) // 20)))
    darker, lighter = ground - levels.min(), levels.max() - ground
    return bool(darker > max(lighter, _CONTRAST))


def _centred(picture: Grey, size: tuple[int, int], strokes: Strokes) -> NewGrey:
    height, width = size
    ink = _ink(picture)
    mask = ink > _STROKE
    if strokes.extent is None or not mask.any():
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
    scale, _ = _fitted(mask, size, strokes.extent)
    thickened = _thickened(Image.fromarray(ink), strokes.width * min(size) / scale - _stroke_width(mask))
    mask = np.asarray(thickened) > _STROKE
    scale, (top, bottom, left, right) = _fitted(mask, size, strokes.extent)
    target = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    drawn = thickened.resize(target, Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    placed = _place(np.asarray(drawn).clip(0, None), height, width)
    levels = strokes.background + (255 - strokes.background) * placed / max(placed.max(), _STROKE)
    return levels.round().clip(0, 255).astype(np.uint8)


def _fitted(
    mask: Bool[np.ndarray, "height width"], size: tuple[int, int], extent: float
) -> tuple[float, tuple[int, int, int, int]]:
    """Gives the scale at which strokes have their extent in an image, and their box."""
    box = top, bottom, left, right = _box(mask)
    return extent * min(size[0] / (bottom - top), size[1] / (right - left)), box


def _thickened(ink: Image.Image, by: float) -> Image.Image:
    """Makes strokes wider by so many pixels: those of a thin pen would hardly be left at the set's size."""
    for _ in range(round(by / 2)):
        ink = ink.filter(ImageFilter.MaxFilter(3))
    return ink


def _ink(picture: Grey) -> NewLevels:
    """Gives how much of a stroke each pixel is, 0 to 1, at the working size; all 0 where nothing stands out."""
    image = _reduced(picture)
    if min(image.size) >= 64:
        image = image.filter(ImageFilter.MedianFilter(3))  # specks of dust and noise
    levels = np.asarray(image, np.float32)
    above = levels - np.asarray(_ground(image), np.float32)
    above -= np.median(above)
    noise = 1.4826 * np.median(np.abs(above))
    peak = np.percentile(above[above >= 0.5 * above.max()], 50)
    if peak < max(_CONTRAST, 6 * noise):
        return np.zeros_like(levels)
    floor = max(0.05 * peak, 3 * noise)
    return ((above - floor) / (peak - floor)).clip(0, 1).astype(np.float32)


def _ground(image: Image.Image) -> Image.Image:
    """Estimates the ground behind light strokes: what is left when everything narrower is taken away."""
    small = image.reduce(max(1, max(image.size) // 80))
    passes = max(1, max(small.size) // 10)
    for rank in (ImageFilter.MinFilter(5), ImageFilter.MaxFilter(5)):
        for _ in range(passes):
            small = small.filter(rank)
    smooth = small.filter(ImageFilter.GaussianBlur(passes))
    return smooth.resize(image.size, Image.Resampling.BILINEAR)


def _place(drawn: Levels, height: int, width: int) -> NewLevels:
    """Puts strokes on an empty image so that their centre of mass lies in its middle, or as near as they fit."""
    canvas = np.zeros((height, width), np.float32)
    drawn = drawn[:height, :width]
    room = np.array(canvas.shape) - drawn.shape
    top, left = (
        (np.array(canvas.shape) / 2 - _centre_of_mass(drawn)).round().clip(0, room).astype(int).tolist()
    )
    canvas[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return canvas


def _reduced(picture: Grey) -> Image.Image:
    image = Image.fromarray(picture)
    factor = -(-max(image.size) // _WORKING_SIZE)
    return image.reduce(factor) if factor > 1 else image


def _border(image: Levels, thickness: int) -> Shaped[np.ndarray, " pixels"]:
    middle = np.zeros(image.shape, bool)
    middle[thickness:-thickness, thickness:-thickness] = True
    return image[~middle]


def _stroke_width(mask: Bool[np.ndarray, "height width"]) -> float:
    """Gives the mean width of what is set, in pixels: its area over half the length of its outline."""
    padded = np.pad(mask, 1)
    outline = sum(np.sum(np.diff(padded, axis=axis)) for axis in (0, 1))
    return float(2 * mask.sum() / outline)


def _box(mask: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """Gives (top, bottom, left, right) of what is set, ends exclusive."""
    (rows,), (columns,) = np.nonzero(mask.any(axis=1)), np.nonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _centre_of_mass(levels: Levels) -> Float[np.ndarray, "2"]:
    """Gives (y, x) of the mass's centre, in pixels from the corner; the middle where there is none."""
    total = levels.sum()
    if total == 0:
        return np.array(levels.shape) / 2
    return np.array(
        [
            (levels.sum(axis=1) * (np.arange(levels.shape[0]) + 0.5)).sum() / total,
            (levels.sum(axis=0) * (np.arange(levels.shape[1]) + 0.5)).sum() / total,
        ]
    )
