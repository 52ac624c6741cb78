"""Sheets of images as PNG and films as GIF: the pixels themselves, enlarged, on white."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxgen.errors import UsageError, shown
from jaxgen.files import new_file, suggested
from jaxgen.run_directory import RunDirectory

# The side that small images are enlarged to, at least, by whole factors.
_SIDE, _FILM_SIDE = 56, 224
_GAP = 2
_CAPTION = 18
_INK, _PAPER = 38, 255
# What marks a picture as ours, so that no other is written over.
_SOFTWARE = "jaxgen"

Images = UInt8[np.ndarray, "images height width channels"]
Sheet = UInt8[np.ndarray, "sheet_height sheet_width channels"]


def sheet(images: Images, columns: int) -> Sheet:
    """Arranges images row by row, with white between them.

    Args:
        images: at least one, grey or in colour.
        columns: images in a row.
    """
    images = enlarged(images, _SIDE)
    number, height, width, channels = images.shape
    columns = min(columns, number)
    rows = -(-number // columns)
    page = np.full(
        (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), _PAPER, np.uint8
    )
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        page[top : top + height, left : left + width] = image
    return page


def enlarged(images: Images, side: int = _FILM_SIDE) -> UInt8[np.ndarray, "images height_ width_ channels"]:
    """Repeats the pixels of small images, so that their shorter side is about as long as asked."""
    factor = max(1, round(side / min(images.shape[1:3])))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def output_path(directory: RunDirectory, given: Path | None, name: str) -> Path:
    """Gives where a picture goes, by default into a run's `samples/`, after a look whether it may.

    Raises:
        UsageError: as `check_picture` does.
    """
    path = given or directory.samples / name
    if given is None:
        path.parent.mkdir(exist_ok=True)
    check_picture(path, name)
    return path


def check_picture(output: Path, name: str) -> None:
    """Refuses an `--output` that isn't of the kind of `name`, or would replace a picture that jaxgen didn't write.

    Raises:
        UsageError: for such a file, and where its directory is missing.
    """
    if output.suffix != Path(name).suffix or output.is_dir():
        kind = Path(name).suffix[1:].upper()
        raise UsageError(f"what is written is a {kind}: --output {suggested(output, name)}")
    if not output.parent.is_dir():
        raise UsageError(f"there is no directory {shown(output.parent)}: make it, or give another --output")
    if output.exists() and not _is_ours(output):
        raise UsageError(f"{shown(output)} would be written over: give another --output")


def save_png(path: Path, image: Sheet) -> None:
    """Writes a picture, whole or not at all; raises JaxgenError where it can't be written."""
    from PIL.PngImagePlugin import PngInfo

    told = PngInfo()
    told.add_text("Software", _SOFTWARE)
    with new_file(path) as file:
        _picture(image).save(file, format="png", pnginfo=told)


def read_png(path: Path) -> Sheet:
    """Reads a picture that `save_png` wrote."""
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def save_film(
    path: Path, frames: Sequence[Sheet], milliseconds: Sequence[int], captions: Sequence[str] = ()
) -> None:
    """Writes pictures one after another as a GIF that begins again at its end.

    Args:
        path: the file.
        frames: at least one, all of one shape.
        milliseconds: how long each is seen.
        captions: a line above each; none by default.

    Raises:
        JaxgenError: where it can't be written.
    """
    if captions:
        frames = [_captioned(frame, caption) for frame, caption in zip(frames, captions, strict=True)]
    first, *others = map(_picture, frames)
    with new_file(path) as file:
        first.save(
            file,
            format="gif",
            save_all=True,
            append_images=others,
            duration=list(milliseconds),
            loop=0,
            comment=_SOFTWARE.encode(),
        )


def _captioned(frame: Sheet, caption: str) -> UInt8[np.ndarray, "taller_height sheet_width channels"]:
    """Puts a line above a picture."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("L", (frame.shape[1], _CAPTION), _PAPER)
    font = ImageFont.load_default(size=12)
    ImageDraw.Draw(strip).text((_GAP + 1, _CAPTION // 2), caption, fill=_INK, font=font, anchor="lm")
    pixels = np.repeat(np.asarray(strip)[..., None], frame.shape[-1], axis=-1)
    return np.concatenate([pixels, frame])


def _picture(image: Sheet) -> Any:
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _is_ours(path: Path) -> bool:
    """Tells whether a file is a picture that `save_png` or `save_film` wrote."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            told = image.info
    except OSError:
        return False
    return told.get("Software") == _SOFTWARE or told.get("comment") == _SOFTWARE.encode()
