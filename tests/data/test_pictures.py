"""Picture files: every format and quirk is read, every damage is told in one line with the file's name."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import pictures
from jaxgen.errors import JaxgenError, shown

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (30, 20, 3), np.uint8)
GREY = COLOUR[..., 0]


def saved(image: np.ndarray | Image.Image, path: Path, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def refused(path: Path) -> str:
    with pytest.raises(JaxgenError) as raised:
        pictures.examine(path)
        pictures.read(path, 3)
    text = str(raised.value)
    assert "\n" not in text and text.isprintable()
    return text


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "jpg"])
def test_grey_in_every_format(suffix: str, tmp_path: Path) -> None:
    path = saved(np.repeat(np.repeat(GREY, 8, 0), 8, 1), tmp_path / f"a.{suffix}")
    known = pictures.examine(path)
    assert (known.size, known.channels) == ((240, 160), 1)
    expected = np.repeat(np.repeat(GREY, 8, 0), 8, 1)[..., None].astype(int)
    assert abs(pictures.read(path, 1).astype(int) - expected).mean() < (3 if suffix == "jpg" else 1e-9)


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_colour_without_loss(suffix: str, tmp_path: Path) -> None:
    path = saved(COLOUR, tmp_path / f"a.{suffix}")
    assert pictures.examine(path).channels == 3
    np.testing.assert_array_equal(pictures.read(path, 3), COLOUR)


def test_first_frame_of_a_gif(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((5, 7), level, np.uint8)) for level in (10, 200, 90)]
    path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (pictures.read(path, 1) == 10).all()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_orientation(suffix: str, tmp_path: Path) -> None:
    """A camera held upright writes its picture sideways, with a note."""
    exif = Image.Exif()
    exif[0x0112] = 6
    halves = np.zeros((16, 32), np.uint8)
    halves[:, 16:] = 255
    path = saved(halves, tmp_path / f"a.{suffix}", exif=exif)
    assert pictures.examine(path).size == (32, 16)
    upright = pictures.read(path, 1)
    assert upright.shape == (32, 16, 1)
    assert upright[:12].mean() < 5 and upright[20:].mean() > 250


def test_palettes(tmp_path: Path) -> None:
    colours = Image.fromarray(np.full((4, 4, 3), (10, 20, 30), np.uint8)).quantize(4)
    path = saved(colours, tmp_path / "colour.png")
    assert pictures.examine(path).channels == 3
    assert (pictures.read(path, 3) == [10, 20, 30]).all()
    path = saved(Image.fromarray(GREY).quantize(16), tmp_path / "grey.png")
    assert pictures.examine(path).channels == 1


def test_transparency_is_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, :3] = (200, 0, 0, 255)
    path = saved(pixels, tmp_path / "a.png")
    assert pictures.examine(path).channels == 3
    read = pictures.read(path, 3)
    assert (read[:, :3] == (200, 0, 0)).all() and (read[:, 3:] == 255).all()
    palette = saved(Image.fromarray(pixels[..., :3]).quantize(2), tmp_path / "b.gif", transparency=0)
    assert (pictures.read(palette, 3) == 255).any()


def test_white_on_transparency_is_put_on_black(tmp_path: Path) -> None:
    pixels = np.full((4, 6, 4), 255, np.uint8)
    pixels[:, 3:, 3] = 0
    read = pictures.read(saved(pixels, tmp_path / "a.png"), 1)
    assert (read[:, :3] == 255).all() and (read[:, 3:] == 0).all()


def test_16_bits_are_scaled(tmp_path: Path) -> None:
    path = saved(GREY.astype(np.uint16) * 257, tmp_path / "a.png")
    with Image.open(path) as stored:
        assert stored.mode.startswith("I")
    assert pictures.examine(path).channels == 1
    np.testing.assert_array_equal(pictures.read(path, 1)[..., 0], GREY)
    np.testing.assert_array_equal(pictures.read(path, 3), np.repeat(GREY[..., None], 3, -1))


def test_conversion_and_size(tmp_path: Path) -> None:
    path = saved(np.full((40, 30, 3), (0, 255, 0), np.uint8), tmp_path / "a.jpg")
    small = pictures.read(path, 1, (7, 9))
    assert small.shape == (7, 9, 1) and abs(small.astype(int) - 150).max() <= 2
    cmyk = saved(Image.fromarray(COLOUR).convert("CMYK"), tmp_path / "b.jpg")
    assert pictures.examine(cmyk).channels == 3 and pictures.read(cmyk, 3).shape == (30, 20, 3)


def test_large_jpeg_is_decoded_small_and_alike(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(640), np.arange(480)) * (255 / 1118)
    path = saved(ramp.astype(np.uint8), tmp_path / "a.jpg", quality=95)
    small = pictures.read(path, 1, (32, 24))[..., 0].astype(int)
    expected = np.asarray(Image.fromarray(ramp.astype(np.uint8)).resize((24, 32)))
    assert abs(small - expected).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_cut_off(suffix: str, part: float, tmp_path: Path) -> None:
    path = saved(COLOUR, tmp_path / f"a.{suffix}")
    encoded = path.read_bytes()
    path.write_bytes(encoded[: int(part * len(encoded))])
    assert refused(path) == f"{path} is damaged or cut off"


def test_altered_png(tmp_path: Path) -> None:
    path = saved(COLOUR, tmp_path / "a.png")
    encoded = bytearray(path.read_bytes())
    encoded[len(encoded) // 2] ^= 0xFF
    path.write_bytes(encoded)
    assert refused(path) == f"{path} is damaged or cut off"


def test_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    assert refused(tmp_path / "a.jpg") == f"{tmp_path / 'a.jpg'} is no PNG, JPEG, BMP or GIF picture"
    other = saved(COLOUR, tmp_path / "b.tiff")
    assert refused(other) == f"{other} is no PNG, JPEG, BMP or GIF picture"
    (tmp_path / "c.png").touch()
    assert refused(tmp_path / "c.png") == f"{tmp_path / 'c.png'} is empty"


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    assert refused(tmp_path / "dangling.png").endswith(
        "dangling.png can't be read: No such file or directory"
    )
    os.mkfifo(tmp_path / "pipe.png")
    assert refused(tmp_path / "pipe.png").endswith("pipe.png is no file")
    path = saved(COLOUR, tmp_path / "a.png")

    def forbid(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", forbid)  # root may read whatever the bits say
    assert refused(path) == f"{path} can't be read: Permission denied"


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_huge_picture(side: int, tmp_path: Path) -> None:
    """Pillow warns of the one and refuses the other; both heads are small files."""
    path = saved(Image.new("1", (side, side)), tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refused(path) == f"{path} is too large: it has more than 89 million pixels"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"a b\n.png", r"a b\n.png"),
        (b"\xff.png", r"\xff.png"),
        ("😀é.png".encode(), "😀é.png"),
        (b"-a", "-a"),
    ],
)
def test_odd_names_stay_on_one_line(name: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(name)
    assert shown(path) == f"{tmp_path}/{told}"
    path.write_text("no picture")
    assert refused(path) == f"{tmp_path}/{told} is no PNG, JPEG, BMP or GIF picture"
    saved(COLOUR, path, format="png")
    assert pictures.read(path, 3).shape == (30, 20, 3)


def test_find_leaves_clutter_out(tmp_path: Path) -> None:
    for name in (
        "b.png",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "sub/a.png",
        ".hidden/c.png",
        "__MACOSX/d.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert pictures.find(tmp_path) == [tmp_path / "b.png", tmp_path / "sub" / "a.png"]
