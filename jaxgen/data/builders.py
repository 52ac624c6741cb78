"""tfds builders: found by name, prepared on first use, with every failure told in one line."""

import contextlib
import errno
import fcntl
import io
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import absl.logging
import numpy as np

from jaxgen.errors import JaxgenError, UsageError, unknown

_EMBEDDED = (
    "copying",
    "dates",
    "diabetes",
    "digits",
    "docstring_packages",
    "docstring_text",
    "docstrings",
    "moving_digits",
    "number_words",
    "pycode",
    "pydocs",
    "reversal",
    "sorting",
)
_IDX = ("mnist", "fashion_mnist", "kmnist", "emnist")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def data_directory(data_dir: Path | str | None) -> Path:
    """Gives the directory where prepared sets lie: the argument, else TFDS_DATA_DIR, else tfds's own."""
    if data_dir is not None:
        return Path(data_dir).expanduser()
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def cache_directory() -> Path:
    """Gives the directory where embedded sets go that can't be written to the default one."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxgen"


def prepared(
    name: str, data_dir: Path | str | None = None, check: Callable[[Any, str], Any] | None = None
) -> Any:
    """Gives a set's builder, prepared; embedded sets go to a cache where the default directory is read-only.

    Args:
        name: of the set.
        data_dir: where prepared sets lie.
        check: refuses a set of another kind before anything is downloaded; by default all that `kind` doesn't know.

    Raises:
        UsageError: for an unknown set, or one of another kind.
        JaxgenError: where it can't be downloaded or written.
    """
    directory = data_directory(data_dir)
    builder = find(name, directory)
    (check or kind)(builder, name)
    if (
        not builder.is_prepared()
        and builder.name in _EMBEDDED
        and data_dir is None
        and not _writable(directory)
    ):
        directory = cache_directory()
        builder = find(name, directory)
    if builder.is_prepared():
        return builder
    return build(builder, name, directory)


def known(name: str) -> bool:
    """Tells whether a name, be it with a configuration or a version, is that of an embedded set or of tfds's."""
    import tensorflow_datasets as tfds

    _register()
    return re.split("[/:]", name)[0] in tfds.core.registered.list_imported_builders()


def _register() -> None:
    """Imports the embedded sets' builders, which registers them with tfds."""
    from jaxgen.data import dates, docstrings, embedded, embedded_text, moving, number_words, symbols  # noqa: F401


def find(name: str, directory: Path) -> Any:
    """Gives a set's builder, prepared or not.

    Raises:
        UsageError: for an unknown set.
        JaxgenError: where what lies in the directory can't be read.
    """
    import tensorflow_datasets as tfds

    _register()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tfds announces what isn't installed
            return tfds.builder(name, data_dir=directory, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise unknown("data set or folder", name, tfds.core.registered.list_imported_builders()) from error
    except Exception as error:
        raise _cannot_open(name, directory, error) from error


def _cannot_open(name: str, directory: Path, error: Exception) -> JaxgenError:
    text = str(error)
    if text.startswith("Failed to construct"):  # what tfds puts before the reason
        text = text[text.find('}": ') + 4 :]
    if "File format is already set" in text:
        return JaxgenError(
            f"{name} lies in {directory} in a format that can't be read by random access without TensorFlow; "
            "prepare it as array_record in another --data-dir"
        )
    if "Parsing builder name" in text:
        return UsageError(
            f"{name!r} is no name of a data set; it looks like NAME, NAME/CONFIG or NAME:VERSION"
        )
    if "BuilderConfig" in text and "not found" in text:
        import tensorflow_datasets as tfds

        base, _, config = name.partition("/")
        if not (configs := tfds.builder_cls(base).builder_configs):
            return UsageError(f"{base} has no configurations, so there is no {name}: leave out /{config}")
        return unknown(f"configuration of {base}", config, configs)
    if "cannot be loaded at version" in text:
        return UsageError(text.splitlines()[0])
    if text.startswith("No module named 'tensorflow"):
        return JaxgenError(f"can't open the data set {name}: its builder needs TensorFlow")
    if "Failed to load JSON" in text:
        return JaxgenError(
            f"the data set {name} in {directory} is damaged ({text.splitlines()[0].rstrip('.')}): "
            "remove its directory and prepare it again"
        )
    return JaxgenError(f"can't open the data set {name} in {directory}: {(text.splitlines() or ['?'])[0]}")


def kind(builder: Any, name: str) -> tuple[str, str] | None:
    """Tells what a set holds: images with labels, (key of the image, key of the label); or rows, None.

    Raises:
        UsageError: for a set of another kind.
    """
    from tensorflow_datasets import features as kinds

    known = features_of(builder)
    if {"features", "target"} <= known.keys():
        return None
    keys = builder.info.supervised_keys
    if not (isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) for key in keys)):
        keys = ("image", "label")
    image, label = (known.get(key) for key in keys)
    bytes_ = (
        isinstance(image, kinds.Image)
        and np.dtype(image.np_dtype) == np.uint8
        and image.shape[-1] in (1, 3, 4)
    )
    if bytes_ and isinstance(label, kinds.ClassLabel) and label.num_classes:
        return keys
    raise UsageError(
        f"{name} is no image-classification set, it has {told_features(builder)}: take one with image and label"
    )


def features_of(builder: Any) -> dict[str, Any]:
    """Gives a set's features by key; none where an example is no dict."""
    from tensorflow_datasets import features as kinds

    features = builder.info.features
    return dict(features.items()) if isinstance(features, kinds.FeaturesDict) else {}


def told_features(builder: Any) -> str:
    """Tells what an example of a set has."""
    known = features_of(builder).items()
    return ", ".join(f"{key} ({type(feature).__name__})" for key, feature in known) or str(
        builder.info.features
    )


def records(builder: Any, name: str, split: str) -> Any:
    """Opens a split of a prepared set for reading serialised examples by index.

    Raises:
        UsageError: for an unknown or empty split.
    """
    from tensorflow_datasets import decode

    try:
        opened = builder.as_data_source(split=split, deserialize_method=decode.DeserializeMethod.RAW_BYTES)
        if not len(opened):
            raise ValueError(split)
        return opened
    except Exception as error:
        known = ", ".join(f"{key} ({info.num_examples})" for key, info in builder.info.splits.items())
        raise UsageError(
            f"{name} has no split {split!r}; it has {known}, and parts of them such as train[:90%]"
        ) from error


def build(builder: Any, name: str, directory: Path, generate: Any = None) -> Any:
    """Prepares a set, in turn with other processes, and gives its builder anew.

    Args:
        builder: of the set.
        name: of the set.
        directory: where prepared sets lie.
        generate: what to prepare it from, (download manager) -> examples by split; by default, its downloads.

    Raises:
        JaxgenError: where it can't be downloaded or written.
    """
    if builder.data_path.exists() and not builder.is_prepared():
        raise _incomplete(builder, name)
    embedded = builder.name in _EMBEDDED
    with _locked(directory, builder.name):
        if not builder.is_prepared():
            leftovers = _Leftovers(builder, directory)
            try:
                with _quiet(text=not embedded and generate is None, bars=not embedded):
                    _write(builder, directory, generate)
            except Exception as error:
                if not builder.is_prepared():  # else another process was faster
                    raise explain(error, name, directory, _offline(builder)) from error
            finally:
                leftovers.remove()
        builder = find(name, directory)
        if not builder.is_prepared() or not builder.info.splits:
            raise _incomplete(builder, name)
    return builder


def _offline(builder: Any) -> str:
    from tensorflow_datasets import features as kinds

    held = features_of(builder).values()
    with_text, with_images = (any(isinstance(f, kind) for f in held) for kind in (kinds.Text, kinds.Image))
    return "pydocs" if with_text and not with_images else "digits"


def _incomplete(builder: Any, name: str) -> JaxgenError:
    return JaxgenError(f"{builder.data_path} holds no complete data set: remove it, and prepare {name} again")


def _write(builder: Any, directory: Path, generate: Any) -> None:
    from jaxgen.data.official import refuse_without_network, without_tensorflow

    with contextlib.ExitStack() as stack:
        if generate is not None:
            builder._split_generators = generate
        elif builder.name not in _EMBEDDED:
            refuse_without_network(builder, directory)
            stack.enter_context(without_tensorflow(builder))
        builder.download_and_prepare(file_format="array_record")


@contextlib.contextmanager
def _quiet(text: bool, bars: bool) -> Iterator[None]:
    """Keeps tfds's text from the standard output, and bars from where there is no terminal."""
    from tensorflow_datasets.core.utils import tqdm_utils

    active = tqdm_utils._active
    tqdm_utils._active = active and bars and sys.stderr.isatty()
    try:
        with contextlib.redirect_stdout(sys.stderr if text else io.StringIO()):
            yield
    finally:
        tqdm_utils._active = active


def explain(error: Exception, name: str, directory: Path, offline: str = "digits") -> JaxgenError:
    """Tells why a set couldn't be prepared; `offline` is one of its kind that needs no network."""
    import requests
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    if isinstance(error, NonMatchingChecksumError):
        return JaxgenError(
            f"{name} was downloaded, but it is not what tfds expects (its checksum differs): try again, or "
            "prepare it with tfds elsewhere, as array_record, and name its --data-dir"
        )
    if isinstance(error, requests.exceptions.RequestException | DownloadError):
        way_out = f"`jaxgen data prepare {name} --from DIR` with the set's original files"
        if name.split("/")[0].split(":")[0] not in _IDX:
            way_out = f"run `jaxgen data prepare {name}` where there is a network and name its --data-dir"
        return JaxgenError(
            f"{name} is not prepared in {directory} and can't be downloaded (no network?): use --data {offline}, "
            f"which needs none, or {way_out}"
        )
    if isinstance(error, JaxgenError):
        return error
    cause = _system_error(error)
    if (cause is not None and cause.errno in _FULL_DISK) or "space left on device" in str(error):
        return JaxgenError(
            f"can't prepare {name}: the disk of {directory} is full; make room, or name another --data-dir"
        )
    if cause is not None:
        reason = cause.strerror or _first_line(cause)
        return JaxgenError(f"can't prepare {name} in {directory}: {reason}; name another --data-dir")
    if type(error) is RuntimeError:  # array_record's way to tell what the system refused
        return JaxgenError(
            f"can't prepare {name} in {directory}: {_first_line(error)}; name another --data-dir"
        )
    return JaxgenError(
        f"can't prepare {name} without TensorFlow: {_first_line(error)}; prepare it with tfds elsewhere, "
        "as array_record, and name its --data-dir"
    )


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Leftovers:
    """What a preparation leaves behind: empty directories, and downloads that were broken off."""

    def __init__(self, builder: Any, directory: Path) -> None:
        self._set, self._downloads = directory / builder.name, directory / "downloads"
        self._before = self._unfinished()

    def _unfinished(self) -> set[Path]:
        return set(self._downloads.glob("*/*.tmp.*"))

    def remove(self) -> None:
        """Removes it; directories that hold anything else stay."""
        for path in self._unfinished() - self._before:
            shutil.rmtree(path, ignore_errors=True)
        if not any(path.is_file() and path.parent.name != ".config" for path in self._set.rglob("*")):
            shutil.rmtree(self._set, ignore_errors=True)
        for path in (*self._downloads.glob("*"), self._downloads):
            with contextlib.suppress(OSError):
                path.rmdir()


class _Quiet(logging.Filter):
    """Drops tfds's warning that a set isn't prepared yet: jaxgen prepares it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells which records stay."""
        return "has no dataset_info.json" not in record.getMessage()


absl.logging.get_absl_logger().addFilter(_Quiet())


def _writable(directory: Path) -> bool:
    """Tells whether sets may be written there: not where the bits forbid it, even for root."""
    while not directory.exists():
        directory = directory.parent
    return os.access(directory, os.W_OK) and bool(directory.stat().st_mode & 0o222)


@contextlib.contextmanager
def _locked(directory: Path, name: str) -> Iterator[None]:
    """Lets one process at a time prepare a set, in a directory that is made if need be."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    lock = directory / f".{name.replace('/', '-')}.lock"
    try:
        if not _writable(directory):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        directory.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise JaxgenError(
            f"{name} is not prepared in {directory}, and nothing can be written there ({error.strerror}): "
            "name another --data-dir"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            for path in missing:
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
