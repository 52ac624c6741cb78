"""Many PNGs at once are decoded as Pillow decodes each."""

import io
import itertools
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import images
from jaxgen.errors import UsageError

RNG = np.random.default_rng(0)


def filtered_png(image: np.ndarray, filters: list[int]) -> bytes:
    """Encodes an image with a given filter for each row, by the specification's definitions, byte by byte."""
    height, width, channels = image.shape
    data = bytearray()
    for y in range(height):
        data.append(filters[y])
        for x, channel in itertools.product(range(width), range(channels)):
            a = int(image[y, x - 1, channel]) if x else 0
            b = int(image[y - 1, x, channel]) if y else 0
            c = int(image[y - 1, x - 1, channel]) if x and y else 0
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            predicted = [0, a, b, (a + b) // 2, paeth][filters[y]]
            data.append((int(image[y, x, channel]) - predicted) % 256)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        )

    colour = {1: 0, 3: 2}[channels]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, colour, 0, 0, 0])
    packed = zlib.compress(bytes(data))
    # The compressed data may be spread over several chunks, with others before.
    parts = chunk(b"tEXt", b"Title\0x") + chunk(b"IDAT", packed[:5]) + chunk(b"IDAT", packed[5:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + parts + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 3])
def test_every_filter(channels: int) -> None:
    given = RNG.integers(0, 256, (60, 5, 4, channels), np.uint8)
    given[30:] %= 6  # small values: the ties that the Paeth predictor breaks by rule
    encoded = [filtered_png(image, RNG.integers(0, 5, 5).tolist()) for image in given]
    assert len(given) > 5 * 4, "else they are decoded one at a time"
    np.testing.assert_array_equal(images.decode(encoded, channels), given)
    np.testing.assert_array_equal(images.decode(encoded[:3], channels), given[:3])  # by Pillow


def test_round_trip_and_resize() -> None:
    given = RNG.integers(0, 256, (2, 6, 4, 3), np.uint8)
    encoded = [images.encode_png(image) for image in given]
    np.testing.assert_array_equal(images.decode(encoded, 3), given)
    assert images.decode(encoded, 3, (12, 10)).shape == (2, 12, 10, 3)
    flat = images.encode_png(np.full((5, 5, 1), 77, np.uint8))
    assert (images.decode([flat] * 100, 1, (9, 7)) == 77).all()


def test_other_kinds_are_converted() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(file, "jpeg")
    assert abs(images.decode([file.getvalue()], 3).astype(int) - 99).max() <= 1
    palette = io.BytesIO()
    Image.fromarray(np.full((3, 3, 3), (10, 20, 30), np.uint8)).quantize(4).save(palette, "png")
    many = images.decode([palette.getvalue()] * 20, 3)
    assert many.shape == (20, 3, 3, 3) and (many == [10, 20, 30]).all()


def test_different_sizes_need_a_size() -> None:
    encoded = [images.encode_png(np.zeros((size, 5, 1), np.uint8)) for size in [4] * 30 + [5]]
    for few_or_many in (encoded[-2:], encoded):
        with pytest.raises(UsageError, match="differ in size"):
            images.decode(few_or_many, 1)
        assert images.decode(few_or_many, 1, (5, 5)).shape == (len(few_or_many), 5, 5, 1)


@pytest.mark.parametrize(("keep", "count"), [(10, 1), (40, 1), (10, 30), (40, 30), (-20, 30), (-6, 30)])
def test_damaged_png(keep: int, count: int) -> None:
    encoded = images.encode_png(np.zeros((2, 2, 1), np.uint8))[:keep]
    with pytest.raises((ValueError, OSError, zlib.error)):
        images.decode([encoded] * count, 1)
