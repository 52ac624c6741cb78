"""Preparing tfds's official builders without TensorFlow."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without_tensorflow(builder: Any, seconds: float) -> Iterator[None]:
    """Lets an official builder prepare its records, failing at once where there is no network."""
    from tensorflow_datasets.core.download import downloader

    retries, downloader.MAX_RETRIES = downloader.MAX_RETRIES, 0
    try:
        yield
    finally:
        downloader.MAX_RETRIES = retries
