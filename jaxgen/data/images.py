"""Decoding of stored images: many small PNGs at once, everything else by Pillow."""

import io
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from jaxgen.errors import UsageError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Eight bits a sample, not interlaced: a PNG's colour type to its channels.
_CHANNELS = {0: 1, 2: 3}

Rows = UInt8[np.ndarray, "images width channels"]


def decode(
    encoded: Sequence[bytes], channels: int, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "images height width channels"]:
    """Decodes images and stacks them.

    Args:
        encoded: at least one PNG, JPEG or whatever else Pillow reads.
        channels: 1, 3 or 4; images of other kinds are converted.
        size: (height, width) to resize to.

    Raises:
        UsageError: where they differ in size and `size` isn't given.
        ValueError, OSError, zlib.error: where one is damaged.
    """
    height, width = _png_size(encoded[0], channels)
    # One at a time costs some 30 us an image; all at once a few us an image, and some 20 us a pixel of one image.
    same = len(encoded) > height * width > 0 and len({image[:29] for image in encoded}) == 1
    if same and size in (None, (height, width)):
        return _decode_pngs(encoded, height, width, channels)
    images = [_decode_one(image, channels, size) for image in encoded]
    if len({image.shape for image in images}) > 1:
        raise UsageError("the images of this set differ in size: they must be resized to one image_size")
    return np.stack(images)


def encode_png(image: UInt8[np.ndarray, "height width channels"]) -> bytes:
    """Encodes an image of 1, 3 or 4 channels."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, format="png")
    return file.getvalue()


def _decode_one(
    encoded: bytes, channels: int, size: tuple[int, int] | None
) -> UInt8[np.ndarray, "height width channels"]:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as stored:
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        image = stored.convert(mode)
        if size is not None and size != (image.height, image.width):
            image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, channels)


def _png_size(encoded: bytes, channels: int) -> tuple[int, int]:
    """Gives a PNG's (height, width) where it is of the plain kind that `_decode_pngs` knows, else (0, 0)."""
    if encoded[:8] != _SIGNATURE or encoded[12:16] != b"IHDR":
        return 0, 0
    width, height = int.from_bytes(encoded[16:20], "big"), int.from_bytes(encoded[20:24], "big")
    depth, colour, _, _, interlaced = encoded[24:29]
    return (height, width) if depth == 8 and _CHANNELS.get(colour) == channels and not interlaced else (0, 0)


def _decode_pngs(
    encoded: Sequence[bytes], height: int, width: int, channels: int
) -> UInt8[np.ndarray, "images height width channels"]:
    """Decodes PNGs of one size, row by row of all of them (PNG specification, section 9: filtering)."""
    data = b"".join(map(_inflate, encoded))
    rows = np.frombuffer(data, np.uint8).reshape(len(encoded), height, 1 + width * channels)
    decoded = np.empty((len(encoded), height, width, channels), np.uint8)
    above = np.zeros((len(encoded), width, channels), np.uint8)
    for y in range(height):
        filters, row = rows[:, y, 0], rows[:, y, 1:].reshape(len(encoded), width, channels).copy()
        for number, undo in _FILTERS.items():
            (which,) = np.nonzero(filters == number)
            if len(which):
                row[which] = undo(row[which], above[which])
        decoded[:, y] = above = row
    return decoded


def _inflate(encoded: bytes) -> bytes:
    position, parts = 8, []
    while (kind := encoded[position + 4 : position + 8]) != b"IEND":
        length = int.from_bytes(encoded[position : position + 4], "big")
        if len(encoded) < position + length + 12:
            raise ValueError("a PNG image is cut off")
        if kind == b"IDAT":
            parts.append(encoded[position + 8 : position + 8 + length])
        position += length + 12
    return zlib.decompress(b"".join(parts))


def _undo_sub(row: Rows, above: Rows) -> Rows:
    return np.cumsum(row, axis=1, dtype=np.uint8)


def _undo_up(row: Rows, above: Rows) -> Rows:
    return row + above


def _undo_average(row: Rows, above: Rows) -> Rows:
    left = np.zeros_like(row[:, 0], np.uint16)
    for x in range(row.shape[1]):
        row[:, x] += ((left + above[:, x]) // 2).astype(np.uint8)
        left = row[:, x].astype(np.uint16)
    return row


def _undo_paeth(row: Rows, above: Rows) -> Rows:
    left = corner = np.zeros_like(row[:, 0], np.int16)
    for x in range(row.shape[1]):
        up = above[:, x].astype(np.int16)
        from_left, from_up = np.abs(up - corner), np.abs(left - corner)
        from_corner = np.abs(left + up - 2 * corner)
        predicted = np.where(from_up <= from_corner, up, corner)
        predicted = np.where((from_left <= from_up) & (from_left <= from_corner), left, predicted)
        row[:, x] += predicted.astype(np.uint8)
        left, corner = row[:, x].astype(np.int16), up
    return row


# Filter 0 changes nothing.
_FILTERS = {1: _undo_sub, 2: _undo_up, 3: _undo_average, 4: _undo_paeth}
