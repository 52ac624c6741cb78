"""Moving digits: sequences of frames in which two digits fly about and bounce at the walls, made as they are read.

What Srivastava et al. (2015, section 4.1) made of MNIST. The prepared set holds what a sequence is made of, two digits
with where each begins and how it flies; frames of any size, and as many as are wanted, are drawn of that when they are
read, on a device too: a thousandth of the memory that the frames would take.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Array, Float, Integer, UInt8

from jaxgen.data import builders
from jaxgen.data.sources import Records, Rows, Source
from jaxgen.errors import JaxgenError, UsageError, unknown

DIGITS = ("mnist", "digits")
"""The sets whose digits move."""
FRAME_SIZE, NUM_FRAMES = 64, 20
"""Height and width of the frames, and how many there are, where nothing else is said."""

_NAME = re.compile(r"moving_digits(?:/(?P<digits>[^/]+))?(?:/(?P<size>\d+))?(?:/(?P<frames>\d+))?")
# Of the training digits the last tenth is for validation, so that no digit is in two splits.
_SEQUENCES = {"train": 10_000, "validation": 1_000, "test": 1_000}
_DIGITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
_PAIR = 2
_SIZE = 28
# How far a digit flies from frame to frame, as a part of the room that it has. The code of the paper has 0.1; the text
# says that speeds are drawn.
_SLOWEST, _FASTEST = 0.05, 0.15

Digits = UInt8[np.ndarray, "sequences digits digit_height digit_width"]
Places = UInt8[np.ndarray, "sequences frames digits 2"]


class MovingDigits(tfds.core.GeneratorBasedBuilder):
    """Sequences of two moving digits: their images, where each begins, and how it flies, in parts of its room a frame.

    There are 10,000 to train on, 1,000 for validation and 1,000 to test; no digit is in two splits. Drawn once for all.
    """

    name = "moving_digits"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=digits, description=f"The digits of {digits}.") for digits in DIGITS
    ]
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "digits": tfds.features.Tensor(
                shape=(_PAIR, _SIZE, _SIZE), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
            ),
            "label": tfds.features.Tensor(shape=(_PAIR,), dtype=np.int64),
            "start": tfds.features.Tensor(shape=(_PAIR, 2), dtype=np.float32),
            "velocity": tfds.features.Tensor(shape=(_PAIR, 2), dtype=np.float32),
        }
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in _SEQUENCES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        from jaxgen.data.sources import load

        # The directory of the digits is that which was asked for; in a cache there may be none.
        directory = Path(self._data_dir_root)
        asked_for = directory not in (builders.data_directory(None), builders.cache_directory())
        source = load(self.builder_config.name, _DIGITS[split], data_dir=directory if asked_for else None)
        drawn = source.arrays()
        chosen, start, velocity = draw_motions(len(source), _SEQUENCES[split], list(_SEQUENCES).index(split))
        for number, pair in enumerate(chosen):
            yield (
                number,
                {
                    "digits": drawn["image"][pair, :, :, 0],
                    "label": drawn["label"][pair].astype(np.int64),
                    "start": start[number],
                    "velocity": velocity[number],
                },
            )


def draw_motions(
    num_digits: int, num_sequences: int, seed: int
) -> tuple[
    Integer[np.ndarray, "sequences pair"],
    Float[np.ndarray, "sequences pair 2"],
    Float[np.ndarray, "sequences pair 2"],
]:
    """Draws which digits fly, where each begins, and its velocity, all of them evenly, directions and speeds alike.

    Args:
        num_digits: how many there are to choose from.
        num_sequences: how many sequences.
        seed: of what is drawn.

    Returns:
        Numbers of digits; (down, right) from 0 to 1, and a frame's way, both in parts of the room that a digit has.
    """
    random = np.random.Generator(np.random.Philox(seed))
    shape = (num_sequences, _PAIR)
    chosen = random.integers(0, num_digits, shape)
    start = random.random((*shape, 2), np.float32)
    angle = random.uniform(0, 2 * np.pi, shape)
    speed = random.uniform(_SLOWEST, _FASTEST, shape)
    velocity = speed[..., None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return chosen, start, velocity.astype(np.float32)


def fly(
    start: Float[np.ndarray, "*sequences 2"],
    velocity: Float[np.ndarray, "*sequences 2"],
    room: tuple[int, int],
    num_frames: int,
) -> Integer[np.ndarray, "frames *sequences 2"]:
    """Gives where the upper left corners of digits are in each frame, in whole pixels: they bounce off the walls.

    Args:
        start: (down, right), in parts of the room.
        velocity: a frame's way, in parts of the room.
        room: how far down, and how far to the right, a digit can be.
        num_frames: how many frames.
    """
    times = np.arange(num_frames).reshape(-1, *[1] * start.ndim)
    # Mirrored at each wall, the way of a digit that bounces is a straight line.
    mirrored = np.mod(start.astype(np.float64) + times * velocity.astype(np.float64), 2)
    return np.rint(np.minimum(mirrored, 2 - mirrored) * np.array(room)).astype(np.int64)


@dataclass(frozen=True)
class MovingReader:
    """A reader of sequences, `video` uint8 [frames, size, size, 1], that draws digits where they are in each frame.

    Attributes:
        digits: that fly in each sequence.
        places: of their upper left corners, (row, column).
        size: height and width of the frames.
    """

    digits: Digits
    places: Places
    size: int

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.digits)

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Draws sequences, by index."""
        digits, places = self.digits[rows], self.places[rows]
        sequences, frames, number, _ = places.shape
        height, width = digits.shape[2:]
        video = np.zeros((sequences, frames, self.size, self.size, 1), np.uint8)
        for sequence, frame, digit in np.ndindex(sequences, frames, number):
            row, column = places[sequence, frame, digit].tolist()
            there = video[sequence, frame, row : row + height, column : column + width, 0]
            np.maximum(there, digits[sequence, digit], out=there)
        return {"video": video}

    def device_arrays(self) -> dict[str, np.ndarray]:
        """Gives the digits and their places."""
        return {"digits": self.digits, "places": self.places}

    def gather_on_device(self, arrays: Mapping[str, Any], rows: Any) -> dict[str, Any]:
        """Draws sequences, by index, as products with matrices of zeros and ones, which shift rows and columns."""
        digits, places = arrays["digits"][rows], arrays["places"][rows]
        height, width = digits.shape[2:]
        down = _shifts(places[..., 0], height, self.size)
        right = _shifts(places[..., 1], width, self.size)
        shifted = jnp.einsum("bthys,bhsr->bthyr", down, digits.astype(jnp.float32))
        drawn = jnp.einsum("bthyr,bthxr->bthyx", shifted, right)
        return {"video": drawn.max(axis=2)[..., None].astype(jnp.uint8)}


def _shifts(
    places: Integer[Array, "batch frames digits"], length: int, size: int
) -> Float[Array, "batch frames digits {size} {length}"]:
    """Makes matrices that put what is so long at places in what is of a size."""
    ends = places[..., None, None] + jnp.arange(length)
    return (jnp.arange(size)[:, None] == ends).astype(jnp.float32)


def moving_name(digits: str, size: int, num_frames: int) -> str:
    """Names a set of moving digits as `load` knows it.

    Raises:
        UsageError: for unknown digits.
    """
    _check_digits(digits)
    return f"{MovingDigits.name}/{digits}/{size}/{num_frames}"


def load(name: str, split: str, data_dir: Path | str | None = None) -> Source:
    """Loads a split of moving digits, and prepares the set on first use.

    Args:
        name: `moving_digits/DIGITS/SIZE/FRAMES`: whose digits, those of `mnist` or of `digits`, which needs no network;
            the height and width of the frames, 64 by default; how many there are, by default 20.
        split: in tfds notation: `train`, `train[:90%]`, `validation`, `test`.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.

    Raises:
        UsageError: for another name or split, frames that digits don't fit into, and fewer than two of them.
        JaxgenError: where the set can't be made, written or read.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"{name!r} is no set of moving digits: it looks like moving_digits/mnist/64/20")
    digits = found["digits"] or DIGITS[0]
    _check_digits(digits)
    size, num_frames = int(found["size"] or FRAME_SIZE), int(found["frames"] or NUM_FRAMES)
    check_frames(size, num_frames)
    builder = builders.prepared(f"{MovingDigits.name}/{digits}", data_dir, check=lambda *_: None)
    records = Records(builders.records(builder, name, split), str(builder.data_path))
    stored = _read(records)
    room = size - _SIZE
    places = fly(stored["start"], stored["velocity"], (room, room), num_frames)
    reader = MovingReader(stored["digits"], np.moveaxis(places, 0, 1).astype(np.uint8), size)
    return Source(name, split, reader, shape=(num_frames, size, size, 1), version=str(builder.version))


def _check_digits(digits: str) -> None:
    if digits not in DIGITS:
        raise unknown("set of digits", digits, DIGITS)


def check_frames(size: int, num_frames: int) -> None:
    """Refuses frames that digits don't fit into, or are too large, and too few of them.

    Raises:
        UsageError: which says what can be.
    """
    if not _SIZE <= size <= _SIZE + 255:
        raise UsageError(
            f"digits of {_SIZE} x {_SIZE} don't fly about in frames of {size} x {size}: take frames of {_SIZE} to "
            f"{_SIZE + 255}"
        )
    if num_frames < 2:
        raise UsageError(f"{num_frames} frames a sequence are too few to foresee any: take 2 at least")


def _read(records: Records) -> dict[str, np.ndarray]:
    """Reads what the sequences of a split are made of."""
    try:
        examples = records.read(np.arange(len(records)))
        shapes = {"start": (_PAIR, 2), "velocity": (_PAIR, 2)}
        stored = {
            name: np.array([example[name].float_list.value for example in examples], np.float32)
            for name in shapes
        }
        pixels = b"".join(example["digits"].bytes_list.value[0] for example in examples)
        digits = np.frombuffer(pixels, np.uint8).reshape(-1, _PAIR, _SIZE, _SIZE)
        return {"digits": digits, **{key: stored[key].reshape(-1, *shapes[key]) for key in shapes}}
    except JaxgenError:
        raise
    except Exception as error:
        raise records.damaged(error) from error
