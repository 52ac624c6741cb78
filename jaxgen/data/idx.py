"""idx files, the form in which MNIST and its like are published: read, verified, imported as tfds data sets.

An idx file is a magic number (two zero bytes, the type of the values, the number of dimensions), the sizes as
big-endian int32, then the values (http://yann.lecun.com/exdb/mnist).
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxgen.data import builders, images
from jaxgen.errors import JaxgenError, UsageError

_UNSIGNED_BYTE = 8
_CONTENTS = {1: "labels", 3: "images"}
# SHA-256 of the decompressed files. (tfds records those of the gzip files, which change when they are repacked.)
_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def prepare(name: str, *, from_dir: Path | str | None = None, data_dir: Path | str | None = None) -> str:
    """Prepares a set, which `load` and tfds then read without a network.

    Args:
        name: as for `load`.
        from_dir: a directory with the set's four original idx files, gzipped or raw, to import: of mnist,
            fashion_mnist, kmnist or emnist/CONFIG. By default the set is downloaded.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.

    Returns:
        What there is now, in one line.

    Raises:
        UsageError: for an unknown set, or one that isn't published as idx files.
        JaxgenError: where files are missing, damaged or altered, or the set can't be downloaded or written.
    """
    directory = builders.data_directory(data_dir)
    builder = builders.find(name, directory)
    if builder.is_prepared():
        return f"{_summary(builder)}: was prepared already"
    if from_dir is None:
        return f"{_summary(builders.prepared(name, data_dir))}: prepared"
    files = _files(builder, name, Path(from_dir).expanduser())
    splits = {split: _read_split(builder, name, images, labels) for split, (images, labels) in files.items()}
    verified = [_verified(builder, builder.name, file) for pair in files.values() for file in pair]
    builder = builders.build(builder, name, directory, lambda download_manager: _examples(splits))
    how = "verified" if all(verified) else f"not verified, no checksums of {name}'s files match"
    return f"{_summary(builder)}: imported from {from_dir}, {how}"


def _summary(builder: Any) -> str:
    sizes = ", ".join(f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items())
    return f"{builder.info.full_name} in {builder.data_path} ({sizes} examples)"


@dataclass(frozen=True)
class _File:
    """A file's path, its official name without suffixes, and its contents decompressed."""

    path: Path
    name: str
    contents: bytes


def read_idx(path: Path | str, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Reads an idx file of bytes, gzipped or raw.

    Args:
        path: the file.
        dimensions: 3 for images, 1 for labels.

    Raises:
        JaxgenError: naming the file, where it can't be read, is damaged, or holds something else.
    """
    path = Path(path)
    return _parse(path, _contents(path), dimensions)


def _contents(path: Path) -> bytes:
    try:
        contents = path.read_bytes()
        return gzip.decompress(contents) if contents[:2] == b"\x1f\x8b" else contents
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise JaxgenError(f"{path} is damaged: it doesn't decompress ({error})") from error
    except OSError as error:
        raise JaxgenError(f"can't read {path}: {error.strerror}") from error


def _parse(path: Path, contents: bytes, dimensions: int) -> UInt8[np.ndarray, "..."]:
    header = 4 + 4 * dimensions
    if contents[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or len(contents) < 4:
        raise JaxgenError(
            f"{path} is no idx file of bytes: it begins with {contents[:4].hex(' ') or 'nothing'}"
        )
    if contents[3] != dimensions:
        held = _CONTENTS.get(contents[3], f"values in {contents[3]} dimensions")
        raise JaxgenError(f"{path} holds {held} where {_CONTENTS[dimensions]} are expected")
    if len(contents) < header:
        raise JaxgenError(f"{path} is cut off: it ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(contents[4:header], ">u4"))
    promised, present = int(np.prod(shape, dtype=object)), len(contents) - header
    if present < promised:
        raise JaxgenError(
            f"{path} is cut off: it holds {present} of the {promised} bytes that its header promises"
        )
    if present > promised:
        raise JaxgenError(f"{path} is damaged: {present - promised} bytes follow its last value")
    if not promised:
        raise JaxgenError(f"{path} holds no {_CONTENTS[dimensions]}")
    return np.frombuffer(contents, np.uint8, offset=header).reshape(shape)


def _files(builder: Any, name: str, directory: Path) -> dict[str, tuple[_File, _File]]:
    """Finds and reads the files of each split: images, labels."""
    from tensorflow_datasets.image_classification.mnist import MNIST

    if not isinstance(builder, MNIST):
        raise UsageError(
            f"{name} isn't published as idx files; --from imports mnist, fashion_mnist, kmnist and emnist/CONFIG"
        )
    if not directory.is_dir():
        raise JaxgenError(f"there is no directory {directory} to import {name} from")
    prefixes = {"train": "train", "test": "t10k"}
    if builder.builder_config is not None:
        prefixes = {split: f"emnist-{builder.builder_config.name}-{split}" for split in prefixes}
    wanted = {
        split: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        for split, prefix in prefixes.items()
    }
    found = {file: _find(directory, file) for pair in wanted.values() for file in pair}
    missing = [file for file, path in found.items() if path is None]
    if missing:
        raise JaxgenError(
            f"{directory} lacks {', '.join(missing)} (gzipped or raw): {name} needs all of {len(found)}"
        )
    read = {file: _File(path, file, _contents(path)) for file, path in found.items() if path is not None}
    return {split: (read[images], read[labels]) for split, (images, labels) in wanted.items()}


def _find(directory: Path, name: str) -> Path | None:
    # Some copies are called train-images.idx3-ubyte.
    names = (name, name.replace("-idx", ".idx"))
    paths = (directory / f"{name}{suffix}" for suffix in (".gz", "") for name in names)
    return next((path for path in paths if path.is_file()), None)


def _read_split(
    builder: Any, name: str, image_file: _File, label_file: _File
) -> tuple[UInt8[np.ndarray, "examples height width"], UInt8[np.ndarray, " examples"]]:
    features = builder.info.features
    read, labels = (
        _parse(image_file.path, image_file.contents, 3),
        _parse(label_file.path, label_file.contents, 1),
    )
    height, width, _ = features["image"].shape
    if read.shape[1:] != (height, width):
        size = " x ".join(map(str, read.shape[1:]))
        raise JaxgenError(f"{image_file.path} holds images of {size}; those of {name} are {height} x {width}")
    if len(read) != len(labels):
        raise JaxgenError(
            f"{label_file.path} holds {len(labels)} labels, but {image_file.path.name} holds {len(read)} images"
        )
    classes = features["label"].num_classes
    if labels.max() >= classes:
        raise JaxgenError(
            f"{label_file.path} holds the label {labels.max()}; those of {name} are 0 to {classes - 1}"
        )
    return read, labels


def _verified(builder: Any, name: str, file: _File) -> bool:
    """Tells whether a file is as it was published; raises where it is known that it isn't."""
    if name == "mnist":
        if hashlib.sha256(file.contents).hexdigest() != _MNIST[file.name]:
            raise JaxgenError(f"{file.path} is altered: its contents are not those of MNIST's {file.name}")
        return True
    known = {info.checksum for info in (builder.url_infos or {}).values()}
    return hashlib.sha256(file.path.read_bytes()).hexdigest() in known


def _examples(
    splits: dict[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    """Gives the examples by split, with the keys that the official builder gives them: tfds orders them by these."""

    def generate(read: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, (image, label) in enumerate(zip(read, labels, strict=True)):
            yield key, {"image": io.BytesIO(images.encode_png(image[..., None])), "label": int(label)}

    return {split: generate(*arrays) for split, arrays in splits.items()}
