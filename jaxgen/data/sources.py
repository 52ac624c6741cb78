"""Sources: a split of a data set with random access to its examples, read through tfds without TensorFlow."""

import concurrent.futures
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxgen.errors import JaxgenError, UsageError
from jaxgen.metrics import AnyArray


@runtime_checkable
class _Examples(Protocol):
    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Source:
    """A split of a data set, by random access.

    Attributes:
        name: of the set, as `load` knows it.
        split: in tfds notation, such as `train[:90%]`.
        num_classes: of a classification set, else 0.
        class_names: their names.
        image_size: (height, width) that images were resized to, or None.
        version: of the set.
        records: the stored examples.
        read: makes a batch's arrays from stored examples.
    """

    name: str
    split: str
    records: Any = field(repr=False)
    read: Any = field(repr=False)
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    version: str | None = None

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Reads one example, without a batch axis."""
        return {name: values[0] for name, values in self.gather([index]).items()}

    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Reads examples by index and stacks them.

        Returns:
            `image` uint8 [batch, height, width, channels] and `label` int32 [batch], or
            `features` float32 [batch, features] and `target` float32 [batch].

        Raises:
            JaxgenError: where the stored files are damaged.
        """
        return self.read(self.records, indices)

    def arrays(self) -> dict[str, np.ndarray]:
        """Reads the whole split, in order, by several threads."""
        if isinstance(self.records, _InMemory):
            return dict(self.records.arrays)
        pieces = np.array_split(np.arange(len(self)), max(1, len(self) // 2000))
        with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            parts = list(pool.map(self.gather, pieces))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class _InMemory:
    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))


def from_arrays(arrays: Mapping[str, AnyArray], *, name: str = "arrays", split: str = "train") -> Source:
    """Makes a source from arrays in memory, examples on axis 0.

    Raises:
        UsageError: where they are empty or of different lengths.
    """
    held = {key: np.asarray(values) for key, values in arrays.items()}
    lengths = {key: len(values) if values.ndim else 0 for key, values in held.items()}
    if not held or 0 in lengths.values():
        raise UsageError(f"the {split} data holds no examples")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise UsageError(f"the arrays of the {split} data have different lengths: {told}")
    num_classes = 0
    if "label" in held:
        if not np.issubdtype(held["label"].dtype, np.integer) or held["label"].min() < 0:
            raise UsageError(f"the labels of the {split} data must be integers from 0 on")
        held["label"] = held["label"].astype(np.int32)
        num_classes = int(held["label"].max()) + 1

    def read(records: _InMemory, indices: Any) -> dict[str, np.ndarray]:
        return {key: values[indices] for key, values in records.arrays.items()}

    return Source(name, split, _InMemory(held), read, num_classes)


def load(
    name: str, split: str, *, data_dir: Path | str | None = None, image_size: tuple[int, int] | None = None
) -> Source:
    """Loads a split of a data set, and prepares the set on first use.

    Args:
        name: `digits` or `diabetes`, which need no network, or any tfds image-classification set.
        split: in tfds notation: `train`, `train[:90%]`, `train[55000:]`, `test`.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
        image_size: (height, width) to resize images to.

    Raises:
        UsageError: for an unknown set or split, or a set of another kind.
        JaxgenError: where the set can't be had or read.
    """
    from jaxgen.data import builders

    builder = builders.prepared(name, data_dir)
    try:
        records = builder.as_data_source(split=split)
    except ValueError as error:
        known = ", ".join(f"{key} ({info.num_examples})" for key, info in builder.info.splits.items())
        raise UsageError(
            f"{name} has no split {split!r}; it has {known}, and parts of them such as train[:90%]"
        ) from error
    if not len(records):
        raise UsageError(f"the split {split!r} of {name} is empty")
    features = builder.info.features
    common = {"version": str(builder.version), "image_size": image_size}
    if "target" in features:
        return Source(name, split, records, _read_rows, **common)
    if "image" not in features or "label" not in features:
        raise UsageError(f"{name} is no image-classification set: it has {', '.join(features)}")
    label = features["label"]
    read = _image_reader(image_size)
    return Source(name, split, records, read, label.num_classes, tuple(label.names), **common)


def _image_reader(image_size: tuple[int, int] | None) -> Any:
    def read(records: _Examples, indices: Any) -> dict[str, np.ndarray]:
        examples = _get(records, indices)
        images = [_resize(example["image"], image_size) for example in examples]
        if len({image.shape for image in images}) > 1:
            raise JaxgenError("the images of this set differ in size: it needs resizing to one image_size")
        return {
            "image": np.stack(images),
            "label": np.array([example["label"] for example in examples], np.int32),
        }

    return read


def _read_rows(records: _Examples, indices: Any) -> dict[str, np.ndarray]:
    examples = _get(records, indices)
    return {
        "features": np.stack([example["features"] for example in examples]).astype(np.float32),
        "target": np.array([example["target"] for example in examples], np.float32),
    }


def _get(records: _Examples, indices: Any) -> list[dict[str, Any]]:
    try:
        return records.__getitems__([int(index) for index in indices])
    except Exception as error:
        raise JaxgenError(
            f"the data set's files can't be read, they may be damaged: {str(error).splitlines()[0]}; "
            "remove its directory and prepare it again"
        ) from error


def _resize(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or image.shape[:2] == size:
        return image
    from PIL import Image

    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(squeezed).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(*size, image.shape[-1])
