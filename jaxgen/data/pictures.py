"""Picture files as people have them: PNG, JPEG, BMP and GIF, upright, as bytes; each refusal names its file."""

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jaxgen.errors import JaxgenError, shown

_FORMATS = ("PNG", "JPEG", "BMP", "GIF")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8")
# What systems leave beside people's pictures, beyond hidden files.
_CLUTTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir")
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
# The visible part of a picture that is as light as this would be lost on white.
_NEARLY_WHITE = 224


@dataclass(frozen=True)
class Picture:
    """What is known of a picture file before it is decoded.

    Attributes:
        path: of the file.
        digest: SHA-256 of its bytes, in hexadecimal.
        size: (height, width), upright.
        channels: 1 for grey, 3 for colour.
    """

    path: Path
    digest: str
    size: tuple[int, int]
    channels: int


def is_clutter(name: str) -> bool:
    """Tells whether a file or folder of this name is hidden, or one that systems leave beside pictures."""
    return name.startswith(".") or name.lower() in _CLUTTER


def find(folder: Path) -> list[Path]:
    """Lists the files in a folder and the folders in it, by name, without clutter.

    Raises:
        JaxgenError: where a folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise JaxgenError(f"can't read {shown(error.filename)}: {error.strerror}") from error

    found = []
    for directory, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        found += [Path(directory, name) for name in sorted(names) if not is_clutter(name)]
    return found


def examine(path: Path) -> Picture:
    """Reads a picture file's head, and the digest of all of it.

    Raises:
        JaxgenError: where it can't be read, is none of the formats, is damaged in its head, or is too large.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise JaxgenError(f"{shown(path)} is no file")
    return _examine(path, status.st_size, status.st_mtime_ns)


# The splits of a folder are loaded one after another, and each looks at all of it.
@functools.lru_cache(maxsize=2**18)
def _examine(path: Path, length: int, modified: int) -> Picture:
    encoded = _read_bytes(path)
    with _bombs_refused(), _opened(path, encoded) as image:
        width, height = image.size
        # Pillow would decode the whole PNG to look for an orientation behind the pixels.
        turned = (image.format != "PNG" or b"eXIf" in encoded) and image.getexif().get(
            _ORIENTATION
        ) in _SIDEWAYS
        size = (width, height) if turned else (height, width)
        return Picture(path, hashlib.sha256(encoded).hexdigest(), size, _channels(image))


def read(
    path: Path, channels: int, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "height width channels"]:
    """Decodes a picture file: the first frame, upright, 16 bits scaled to 8, what is transparent on white.

    A picture whose visible part is itself nearly white is put on black instead, lest nothing be seen.

    Args:
        path: of a file that `examine` accepts.
        channels: 1 or 3; pictures of the other kind are converted.
        size: (height, width) to resize to.

    Raises:
        JaxgenError: where it can't be read or decoded.
    """
    encoded = _read_bytes(path)
    with _opened(path, encoded) as image:
        if size is not None:
            # A JPEG is decoded at a fraction of its size, where that is at least twice what is wanted.
            image.draft(None, (2 * max(size), 2 * max(size)))
        converted = _flattened(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    if size is not None and (converted.height, converted.width) != size:
        converted = converted.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.array(converted).reshape(converted.height, converted.width, channels)


def read_all(
    paths: Sequence[Path], channels: int, size: tuple[int, int] | None = None
) -> Iterator[UInt8[np.ndarray, "height width channels"] | JaxgenError]:
    """Decodes picture files by several threads, in order, and gives the error in place of a bad one."""

    def attempt(path: Path) -> Any:
        try:
            return read(path, channels, size)
        except JaxgenError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(attempt, paths)


def _read_bytes(path: Path) -> bytes:
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not encoded:
        raise JaxgenError(f"{shown(path)} is empty")
    return encoded


def _unreadable(path: Path, error: OSError) -> JaxgenError:
    return JaxgenError(f"{shown(path)} can't be read: {error.strerror}")


@contextlib.contextmanager
def _bombs_refused() -> Iterator[None]:
    """Makes an error of the size from which Pillow warns; for one thread at a time, as all filters of warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextlib.contextmanager
def _opened(path: Path, encoded: bytes) -> Iterator[Image.Image]:
    """Opens a picture, and tells in one line what goes wrong then or later."""
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise JaxgenError(f"{shown(path)} is too large: it has more than {limit} million pixels") from error
    except MemoryError as error:
        raise JaxgenError(f"{shown(path)} is too large for this machine's memory") from error
    except Exception as error:  # Pillow's decoders raise whatever the damage makes them stumble over
        if isinstance(error, Image.UnidentifiedImageError) and not encoded.startswith(_SIGNATURES):
            raise JaxgenError(f"{shown(path)} is no PNG, JPEG, BMP or GIF picture") from error
        raise JaxgenError(f"{shown(path)} is damaged or cut off") from error


def _channels(image: Image.Image) -> int:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        return 1 if (palette == palette[:, :1]).all() else 3
    return 1 if image.mode in ("1", "L", "LA") or image.mode.startswith("I") else 3


def _flattened(image: Image.Image) -> Image.Image:
    """Gives a picture of 8 bits without transparency."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if not image.has_transparency_data:
        return image
    visible = image.convert("RGBA")
    grey, opacity = np.asarray(image.convert("LA")).astype(np.float32).transpose(2, 0, 1)
    lightness = (grey * opacity).sum() / max(opacity.sum(), 1)
    ground = Image.new("RGBA", visible.size, "black" if lightness > _NEARLY_WHITE else "white")
    return Image.alpha_composite(ground, visible)
