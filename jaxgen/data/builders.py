"""tfds builders: found by name, prepared on first use, with every failure told in one line."""

import contextlib
import fcntl
import io
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxgen.errors import JaxgenError, unknown

_EMBEDDED = ("digits", "diabetes")
_CONNECT_SECONDS = 20.0


def data_directory(data_dir: Path | str | None) -> Path:
    """Gives the directory where prepared sets lie: the argument, else TFDS_DATA_DIR, else tfds's own."""
    if data_dir is not None:
        return Path(data_dir).expanduser()
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def prepared(name: str, data_dir: Path | str | None = None) -> Any:
    """Gives a set's builder, prepared.

    Raises:
        UsageError: for an unknown set.
        JaxgenError: where it can't be downloaded or written.
    """
    directory = data_directory(data_dir)
    builder = find(name, directory)
    if not builder.is_prepared():
        with _locked(directory, name):
            if not builder.is_prepared():
                _prepare(builder, name, directory)
            builder = find(name, directory)
    return builder


def find(name: str, directory: Path) -> Any:
    """Gives a set's builder, prepared or not.

    Raises:
        UsageError: for an unknown set.
    """
    if name in _EMBEDDED:
        from jaxgen.data.embedded import BUILDERS

        return BUILDERS[name](data_dir=directory, file_format="array_record")
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=directory, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise unknown("data set", name, [*_EMBEDDED, *_tfds_names()]) from error
    except Exception as error:
        raise JaxgenError(f"tfds can't open the data set {name}: {_first_line(error)}") from error


def _tfds_names() -> list[str]:
    """Lists the sets that tfds knows, from its package's files: its own list needs TensorFlow."""
    import tensorflow_datasets as tfds

    root = Path(tfds.__file__).parent
    found = {path.name for path in (root / "datasets").iterdir() if path.is_dir()}
    found |= {path.stem for path in (root / "image_classification").glob("*.py")}
    return sorted(name for name in found if not name.endswith("_test") and not name.startswith("_"))


def _prepare(builder: Any, name: str, directory: Path) -> None:
    from jaxgen.data.official import without_tensorflow

    try:
        with _silence() if name in _EMBEDDED else without_tensorflow(builder, _CONNECT_SECONDS):
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        _remove_if_empty(Path(builder.data_path).parent)
        raise _explain(error, name, directory) from error


def _explain(error: Exception, name: str, directory: Path) -> JaxgenError:
    import requests

    if isinstance(error, requests.exceptions.RequestException):
        return JaxgenError(
            f"{name} is not prepared in {directory} and can't be downloaded (no network?): use --data digits, which "
            f"needs none, or `jaxgen data prepare {name} --from DIR` with the set's original files"
        )
    if isinstance(error, OSError):
        return JaxgenError(
            f"can't prepare {name} in {directory}: {error.strerror or _first_line(error)}; name another --data-dir"
        )
    return JaxgenError(
        f"can't prepare {name} without TensorFlow: {_first_line(error)}; prepare it with tfds elsewhere, "
        "as array_record, and name its --data-dir"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _remove_if_empty(path: Path) -> None:
    """Removes what a failed preparation leaves behind."""
    if path.is_dir() and not any(item.is_file() for item in path.rglob("*")):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps tfds from reporting on work that takes a fraction of a second."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


class _Quiet(logging.Filter):
    """Drops tfds's warnings, which are of no use to who reads them: OpenCV, folders yet to be filled."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells which records stay."""
        return record.levelno > logging.WARNING or "tensorflow_datasets" not in record.pathname


logging.getLogger("absl").addFilter(_Quiet())


@contextlib.contextmanager
def _locked(directory: Path, name: str) -> Iterator[None]:
    """Lets one process at a time prepare a set."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / f".{name}.lock").open("w")
    except OSError as error:
        raise JaxgenError(
            f"can't write the data directory {directory}: {error.strerror}; name another with --data-dir"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
