"""Sources: a split of a data set with random access to its examples, read through tfds without TensorFlow."""

import concurrent.futures
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, Shaped

from jaxgen.data import images
from jaxgen.data.buckets import Buckets
from jaxgen.errors import JaxgenError, UsageError

Indices = Sequence[int] | Shaped[np.ndarray, " batch"]
Rows = Int64[np.ndarray, " batch"]
# Examples that a thread reads and decodes at a time, at least, where a whole split is wanted.
_PIECE = 2000


@runtime_checkable
class Reader(Protocol):
    """Where a source's examples lie: `reader(rows)` gives them stacked."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads examples, at least one, by index."""
        ...


@runtime_checkable
class DeviceReader(Reader, Protocol):
    """A reader whose examples can be made on a device, of arrays that are smaller than all examples together."""

    def device_arrays(self) -> dict[str, np.ndarray]:
        """Gives what is to lie on the device."""
        ...

    def gather_on_device(self, arrays: Mapping[str, Any], rows: Any) -> dict[str, Any]:
        """Makes examples of these arrays, by index, int32 [batch]: what a call gives, bit for bit. For `jax.jit`."""
        ...


@runtime_checkable
class EpochReader(Reader, Protocol):
    """A reader whose examples are others in each epoch, to be read in their order; a call gives those of the first."""

    def of_epoch(self, epoch: int) -> Reader:
        """Gives the reader of an epoch's examples, as many as in any other."""
        ...

    @property
    def words_per_example(self) -> float:
        """Words of a text that an example stands for, on average."""
        ...


@runtime_checkable
class CorpusReader(Reader, Protocol):
    """A reader of what is made of the words of a `jaxgen.data.corpus.Corpus`."""

    corpus: Any

    def describe(self) -> dict[str, Any]:
        """Says as JSON how it is made of them."""
        ...


@dataclass(frozen=True)
class Source:
    """A split of a data set, by random access: what `load` and `from_arrays` give.

    Attributes:
        name: of the set, as `load` knows it.
        split: in tfds notation, such as `train[:90%]`.
        reader: gives the examples.
        num_classes: of a classification set, else 0.
        class_names: their names; empty where there are none.
        shape: of one input: (height, width, channels), None where it differs, or (features,).
        image_size: (height, width) that images are resized to, or None.
        image_channels: 1 or 3, which images are converted to, or None.
        version: of the set, where it has one; of a folder or a text, a digest of its contents.
        text: of a text, how it is made into examples, a `jaxgen.data.streams.TextFormat`; else None.
        buckets: where examples of about one length make up batches; None where any do.
        rows: of a table of texts, its rows, `jaxgen.data.sequences.Row`, as they were before they were cut into tokens.
    """

    name: str
    split: str
    reader: Reader = field(repr=False)
    num_classes: int = 0
    class_names: tuple[str, ...] = field(default=(), repr=False)
    shape: tuple[int | None, ...] = ()
    image_size: tuple[int, int] | None = None
    image_channels: int | None = None
    version: str | None = None
    text: Any = None
    buckets: Buckets | None = field(default=None, repr=False, compare=False)
    rows: Sequence[Any] = field(default=(), repr=False, compare=False)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.reader)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Reads one example, without a batch axis; raises IndexError beyond the last one."""
        return {name: values[0] for name, values in self.gather([range(len(self))[index]]).items()}

    def gather(self, indices: Indices) -> dict[str, np.ndarray]:
        """Reads examples by index, from 0 on, and stacks them.

        Returns:
            `image` uint8 [batch, height, width, channels] and `label` int32 [batch], or
            `features` float32 [batch, features] and `target` float32 [batch].

        Raises:
            IndexError: for an index outside the split.
            JaxgenError: where the stored files are damaged.
        """
        rows = np.asarray(indices, np.int64)
        if rows.size == 0 or rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"{self.name} {self.split} has examples 0 to {len(self) - 1}")
        return self.reader(rows)

    def arrays(self) -> dict[str, np.ndarray]:
        """Reads the whole split, in order, by several threads."""
        if isinstance(self.reader, InMemory):
            return dict(self.reader.arrays)
        threads = os.cpu_count() or 1
        pieces = np.array_split(np.arange(len(self)), max(1, min(2 * threads, len(self) // _PIECE)))
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(self.gather, pieces))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def device_arrays(self) -> dict[str, np.ndarray]:
        """Gives what is to lie on a device for examples to be gathered there: all of them, or what they are made of."""
        return self.reader.device_arrays() if isinstance(self.reader, DeviceReader) else self.arrays()

    def gather_on_device(self, arrays: Mapping[str, Any], rows: Any) -> dict[str, Any]:
        """Gathers examples of `device_arrays` by index, int32 [batch]: what `gather` gives. For `jax.jit`."""
        if isinstance(self.reader, DeviceReader):
            return self.reader.gather_on_device(arrays, rows)
        return {name: values[rows] for name, values in arrays.items()}

    @property
    def device_bytes(self) -> int:
        """The size of `device_arrays`, which are only made where that is no work."""
        if isinstance(self.reader, DeviceReader):
            return sum(values.nbytes for values in self.reader.device_arrays().values())
        return len(self) * sum(values.nbytes for values in self[0].values())

    def of_epoch(self, epoch: int) -> "Source":
        """Gives the source of an epoch's examples; itself where they are the same in all."""
        reader = self.reader
        return replace(self, reader=reader.of_epoch(epoch)) if isinstance(reader, EpochReader) else self

    @property
    def drawn(self) -> bool:
        """Whether examples are drawn anew each epoch; then they come in their order."""
        return isinstance(self.reader, EpochReader)

    @property
    def corpus(self) -> Any:
        """Of word vectors, the corpus that the examples are made of; else None."""
        return self.reader.corpus if isinstance(self.reader, CorpusReader) else None

    @property
    def streams(self) -> int:
        """Of a text, the number of its streams: its examples come in order, as many at a time; else 0."""
        return self.text.streams if self.text is not None else 0

    def held(self, most_bytes: int = 2**28) -> "Source":
        """Reads the split into memory, so that nothing is decoded twice; one of more bytes stays as it is."""
        size = len(self) * sum(values.nbytes for values in self[0].values())
        return replace(self, reader=InMemory(self.arrays())) if size <= most_bytes else self


@dataclass(frozen=True)
class InMemory:
    """A reader of arrays."""

    arrays: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        """Reads examples, at least one, by index."""
        return {key: values[rows] for key, values in self.arrays.items()}


def from_arrays(arrays: Mapping[str, Any], *, name: str = "arrays", split: str = "train") -> Source:
    """Makes a source from arrays in memory, examples on axis 0.

    Args:
        arrays: such as {"image": uint8 [examples, height, width, channels], "label": integers [examples]} or
            {"features": [examples, features], "target": [examples]}; images may lack the axis of channels.
        name: what to call the set.
        split: what to call the split.

    Raises:
        UsageError: where they are empty, of different lengths, no numbers, or the labels no class numbers.
    """
    held = {key: _plain(key, values, split) for key, values in arrays.items()}
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
    if "image" in held and held["image"].ndim == 3:
        held["image"] = held["image"][..., None]
    inputs = next((held[key] for key in ("image", "features") if key in held), next(iter(held.values())))
    return Source(name, split, InMemory(held), num_classes, shape=inputs.shape[1:])


def as_source(data: Any, split: str) -> Source:
    """Takes a source as it is, and makes one of arrays.

    Raises:
        UsageError: where it is neither.
    """
    if isinstance(data, Source):
        return data
    if not isinstance(data, Mapping):
        raise UsageError(
            f"the {split} data is no data: give jaxgen.load('digits', 'train'), or a dict of arrays"
        )
    return from_arrays(data, split=split)


def _plain(key: str, values: Any, split: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise UsageError(f"{key!r} of the {split} data is no array of numbers")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def load(
    name: str,
    split: str,
    *,
    data_dir: Path | str | None = None,
    image_size: Sequence[int] | None = None,
    image_channels: int | None = None,
) -> Source:
    """Loads a split of a data set, and prepares the set on first use.

    Args:
        name: `digits` or `diabetes`, which need no network, any tfds image-classification set, the path of a folder
            with a subfolder of pictures a class, see `jaxgen.data.folder`, additions, see `jaxgen.data.arithmetic`, a
            copy task, see `jaxgen.data.copying`, or moving digits, see `jaxgen.data.moving`.
        split: in tfds notation: `train`, `train[:90%]`, `train[55000:]`, `test`; of a folder, by name alone.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
        image_size: (height, width) to resize images to.
        image_channels: 1 to convert images to grey, 3 to colour.

    Raises:
        UsageError: for an unknown set or split, a set of another kind, or a size or channels that can't be.
        JaxgenError: where the set can't be had or read.
    """
    from jaxgen.data import arithmetic, builders, copying, folder

    if arithmetic.is_addition(name):
        return arithmetic.load(name, split)
    if copying.is_copying(name):
        return copying.load(name, split)
    if name.partition("/")[0] == "moving_digits":
        from jaxgen.data import moving

        return moving.load(name, split, data_dir)
    size = None if image_size is None else (int(image_size[0]), int(image_size[1]))
    if size is not None and min(size) < 1:
        raise UsageError(
            f"images can't be resized to {size[0]} x {size[1]}: give a height and a width from 1"
        )
    if image_channels not in (None, 1, 3):
        raise UsageError(f"images have 1 channel (grey) or 3 (colour), not {image_channels}")
    if folder.is_folder(name):
        return folder.load(name, split, size, image_channels)
    builder = builders.prepared(name, data_dir)
    records = Records(builders.records(builder, name, split), str(builder.data_path))
    version = str(builder.version)
    kind = builders.kind(builder, name)
    if kind is None:
        return Source(
            name, split, _Rows(records), shape=builder.info.features["features"].shape, version=version
        )
    image, label = (builder.info.features[key] for key in kind)
    channels = image_channels or image.shape[-1]
    return Source(
        name,
        split,
        _Images(records, kind, channels, size),
        label.num_classes,
        tuple(label.names),
        shape=(*(size or image.shape[:2]), channels),
        image_size=size,
        image_channels=image_channels,
        version=version,
    )


@dataclass(frozen=True)
class Records:
    """The serialised examples of a split of a tfds set."""

    stored: Any
    directory: str

    def __len__(self) -> int:
        return len(self.stored)

    def read(self, rows: Rows) -> list[Any]:
        """Reads examples as maps of features; what tfds makes of them takes three times as long."""
        from tensorflow_datasets.proto import tf_example_pb2

        serialised = self.stored.__getitems__(rows.tolist())
        return [tf_example_pb2.Example.FromString(example).features.feature for example in serialised]

    def damaged(self, error: Exception) -> JaxgenError:
        """Says what is wrong with the files."""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return JaxgenError(
            f"the data set in {self.directory} is damaged ({reason}): remove this directory and prepare it again"
        )


@dataclass(frozen=True)
class _Images:
    """Images with their labels."""

    records: Records
    keys: tuple[str, str]
    channels: int
    size: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.records)

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        image, label = self.keys
        try:
            examples = self.records.read(rows)
            encoded = [example[image].bytes_list.value[0] for example in examples]
            labels = [example[label].int64_list.value[0] for example in examples]
            decoded = images.decode(encoded, self.channels, self.size)
        except JaxgenError:
            raise
        except Exception as error:
            raise self.records.damaged(error) from error
        return {"image": decoded, "label": np.array(labels, np.int32)}


@dataclass(frozen=True)
class _Rows:
    """Rows of features with their targets."""

    records: Records

    def __len__(self) -> int:
        return len(self.records)

    def __call__(self, rows: Rows) -> dict[str, np.ndarray]:
        try:
            examples = self.records.read(rows)
            features = [example["features"].float_list.value for example in examples]
            targets = [example["target"].float_list.value[0] for example in examples]
            return {"features": np.array(features, np.float32), "target": np.array(targets, np.float32)}
        except Exception as error:
            raise self.records.damaged(error) from error
