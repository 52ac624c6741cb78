"""One's own pictures: a folder with a subfolder a class, as a source.

The folder holds `train/`, and perhaps `test/` and `validation/` (or `val/`), with the classes' folders inside; or the
classes' folders alone. Where there is no validation folder, a picture's own bytes decide whether it is held out from
training (a tenth are): so equal pictures lie on one side, and new ones move no others. Only where that leaves a class
without a picture for validation, its picture with the smallest digest is taken, and without one to train on, that
with the largest.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from jaxgen.data import builders, pictures
from jaxgen.data.held_out import held_out
from jaxgen.data.pictures import Picture
from jaxgen.data.sources import InMemory, Source
from jaxgen.errors import JaxgenError, UsageError, shown

_FOLDERS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
_IN_MEMORY_BYTES = 2**30
# Beyond it neither net would fit in memory: a photo straight from the camera.
_MOST_PIXELS = 2**20

# By split, by class: what is known of the pictures.
Splits = dict[str, dict[str, list[Picture]]]


def is_folder(name: str) -> bool:
    """Tells whether the name of a data set is a path: by its form, or since it is a directory and no known set."""
    if name.startswith((".", "~", os.sep)) or name.endswith(os.sep):
        return True
    # pathlib's is_dir raises for names that are too long.
    return os.path.isdir(name) and not builders.known(name)  # noqa: PTH112


def split_names(name: str) -> list[str]:
    """Names the splits of a folder: train, validation, and test where it has that.

    Raises:
        JaxgenError: where the folder or what lies in it can't be used; names it.
    """
    return list(_find_splits(_absolute(name)))


def load(name: str, split: str, size: tuple[int, int] | None, channels: int | None) -> Source:
    """Loads a split of a folder; its pictures are all decoded once, so that a bad one is found at the start.

    Args:
        name: the folder's path.
        split: train, validation or test.
        size: (height, width) to resize to.
        channels: 1 or 3 to convert to.

    Raises:
        UsageError: for an unknown split, or pictures that differ in size or channels and aren't converted.
        JaxgenError: where the folder or what lies in it can't be used; names it.
    """
    folder = _absolute(name)
    splits = _find_splits(folder)
    if split not in splits:
        have = ", ".join(
            f"{key} ({sum(map(len, classes.values()))} pictures)" for key, classes in splits.items()
        )
        parts = "; parts such as train[:90%] are for prepared sets only" if "[" in split else ""
        raise UsageError(f"{shown(folder)} has no split {split!r}; it has {have}{parts}")
    shape = _common_shape(splits, size, channels)
    names = list(splits["train"])
    ordered = [
        (picture, names.index(name))
        for name, of_class in splits[split].items()
        for picture in sorted(of_class, key=lambda picture: picture.digest)
    ]
    reader = _Pictures([picture.path for picture, _ in ordered], np.array([c for _, c in ordered]), shape)
    return Source(
        str(folder),
        split,
        reader.checked(folder),
        len(names),
        tuple(map(shown, names)),
        shape=shape,
        image_size=size,
        image_channels=channels,
        version=_fingerprint(splits),
    )


@dataclass(frozen=True)
class _Pictures:
    """Reads picture files with their labels."""

    paths: Sequence[Path]
    labels: Int64[np.ndarray, " pictures"]
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __call__(self, rows: Int64[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        images = [pictures.read(self.paths[row], channels=self.shape[2], size=self.shape[:2]) for row in rows]
        return {"image": np.stack(images), "label": self.labels[rows].astype(np.int32)}

    def checked(self, folder: Path) -> "InMemory | _Pictures":
        """Decodes every picture, and keeps them where that is little."""
        keep = len(self) * int(np.prod(self.shape)) < _IN_MEMORY_BYTES
        kept: list[UInt8[np.ndarray, "height width channels"]] = []
        bad = []
        for image in pictures.read_all(self.paths, channels=self.shape[2], size=self.shape[:2]):
            if isinstance(image, JaxgenError):
                bad.append(image)
            elif keep and not bad:
                kept.append(image)
        _refuse(bad, folder)
        return InMemory({"image": np.stack(kept), "label": self.labels.astype(np.int32)}) if keep else self


def _absolute(name: str) -> Path:
    try:
        folder = Path(name).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"there is no folder {shown(Path(name))}: {error}") from error
    if folder.is_file():
        raise UsageError(
            f"{shown(folder)} is a file: --data takes a folder with a subfolder of pictures a class"
        )
    if not folder.is_dir():
        raise UsageError(f"there is no folder {shown(folder)}")
    return folder


def _find_splits(folder: Path) -> Splits:
    """Finds the pictures of every split and class; the classes of `train` come by name."""
    found = {split: _find_classes(path) for split, path in _split_folders(folder).items()}
    for split, classes in found.items():
        for name in classes:
            if name not in found["train"]:
                raise JaxgenError(f"{shown(folder)} has the class {shown(name)} in {split}, but not in train")
    if len(found["train"]) == 1:
        (name,) = found["train"]
        raise JaxgenError(
            f"{shown(folder)} has one class only, {shown(name)}: a classifier needs two class folders or more"
        )
    examined = _examined(found, folder)
    if "validation" not in examined:
        training = examined.pop("train")
        chosen = held_out(
            {name: [picture.digest for picture in of_class] for name, of_class in training.items()}
        )
        examined = {
            "train": {name: [p for p in all_ if p.digest not in chosen] for name, all_ in training.items()},
            "validation": {name: [p for p in all_ if p.digest in chosen] for name, all_ in training.items()},
            **examined,
        }
    for split in ("train", "validation"):
        if not any(examined[split].values()):
            raise JaxgenError(
                f"{shown(folder)} has too few pictures: none is left for {split}; a class needs two different ones"
            )
    return {split: examined[split] for split in ("train", "validation", "test") if split in examined}


def _split_folders(folder: Path) -> dict[str, Path]:
    """Finds the folders of the splits; the whole folder is `train` where it has none."""
    inside = {path.name: path for path in _folders(folder)}
    if "train" not in inside or not list(_folders(inside["train"])):
        if inside and inside.keys() <= _FOLDERS.keys():
            raise JaxgenError(
                f"{shown(folder)} holds {' and '.join(inside)}, but no folders of classes in them: put pictures into a "
                "subfolder a class"
            )
        return {"train": folder}
    for name, path in inside.items():
        if name not in _FOLDERS:
            raise JaxgenError(
                f"{shown(path)} lies beside train, but is none of {', '.join(_FOLDERS)}: is it a class? "
                "Then put it into train"
            )
    if {"validation", "val"} <= inside.keys():
        raise JaxgenError(f"{shown(folder)} has both validation and val: keep one of them")
    return {_FOLDERS[name]: path for name, path in inside.items()}


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(
            path for path in folder.iterdir() if path.is_dir() and not pictures.is_clutter(path.name)
        )
    except OSError as error:
        raise JaxgenError(f"can't read {shown(folder)}: {error.strerror}") from error


def _find_classes(folder: Path) -> dict[str, list[Path]]:
    classes = {path.name: pictures.find(path) for path in _folders(folder)}
    if not classes:
        raise JaxgenError(
            f"{shown(folder)} has no class folders: put the pictures of each class into a folder of its own"
        )
    for name, paths in classes.items():
        if not paths:
            raise JaxgenError(
                f"the class folder {shown(folder / name)} is empty: put pictures into it, or remove it"
            )
    return classes


def _examined(found: Mapping[str, Mapping[str, list[Path]]], folder: Path) -> Splits:
    examined: Splits = {}
    bad = []
    for split, classes in found.items():
        examined[split] = {}
        for name, paths in classes.items():
            examined[split][name] = []
            for path in paths:
                try:
                    examined[split][name].append(pictures.examine(path))
                except JaxgenError as error:
                    bad.append(error)
    _refuse(bad, folder)
    return examined


def _refuse(bad: list[JaxgenError], folder: Path) -> None:
    """Tells of the first bad pictures, in one line."""
    if bad:
        more = f"; and {len(bad) - 3} more files of {shown(folder)} can't be used" if len(bad) > 3 else ""
        raise JaxgenError(f"{'; '.join(map(str, bad[:3]))}{more}: mend or remove what is named")


def _common_shape(splits: Splits, size: tuple[int, int] | None, channels: int | None) -> tuple[int, int, int]:
    """Gives the shape of all pictures, which they have or are to be converted to."""
    by_size: dict[tuple[int, int], Path] = {}
    by_channels: dict[int, Path] = {}
    for classes in splits.values():
        for of_class in classes.values():
            for picture in of_class:
                by_size.setdefault(picture.size, picture.path)
                by_channels.setdefault(picture.channels, picture.path)
    if size is None and len(by_size) > 1:
        one, other = (
            f"{shown(path)} is {height} x {width}" for (height, width), path in list(by_size.items())[:2]
        )
        raise UsageError(
            f"the pictures differ in size, {one} and {other} (height x width): resize them all with --image-size, "
            "such as --image-size 64 64"
        )
    if channels is None and len(by_channels) > 1:
        raise UsageError(
            f"{shown(by_channels[1])} is grey and {shown(by_channels[3])} has colour: convert them all with "
            "--image-channels 1 or --image-channels 3"
        )
    height, width = size or next(iter(by_size))
    if size is None and height * width > _MOST_PIXELS:
        raise UsageError(
            f"{shown(next(iter(by_size.values())))} and the others are {height} x {width}, too large to train on: "
            "resize them with --image-size, such as --image-size 64 64"
        )
    return height, width, channels or next(iter(by_channels))


def _fingerprint(splits: Splits) -> str:
    """Digests which pictures lie in which split and class, whatever their files are called."""
    lines = sorted(
        f"{split}/{shown(name)}/{picture.digest}"
        for split, classes in splits.items()
        for name, of_class in classes.items()
        for picture in of_class
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
