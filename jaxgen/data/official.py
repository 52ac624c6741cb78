"""Preparing tfds's official builders without TensorFlow, and without long waits where there is no network."""

import contextlib
import functools
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from jaxgen.data import images

# Seconds to connect, and between two pieces of an answer.
_TIMEOUT = (5.0, 60.0)
_RETRIES = 2


def refuse_without_network(builder: Any, directory: Path) -> None:
    """Asks where the set would be downloaded from, so that no network is noticed before anything is written.

    Raises:
        requests.exceptions.RequestException: where nothing answers.
    """
    import requests

    hosts = {urlsplit(url).netloc: url for url in builder.url_infos or () if url.startswith("http")}
    if not hosts or any((directory / "downloads" / builder.name).glob("*")):
        return
    failure: Exception | None = None
    for url in list(hosts.values())[:3]:
        try:
            requests.head(url, timeout=_TIMEOUT[0]).close()
            return
        except requests.exceptions.ReadTimeout:  # a slow answer is left to the download's own patience
            return
        except requests.exceptions.RequestException as error:
            failure = error
    assert failure is not None
    raise failure


@contextlib.contextmanager
def without_tensorflow(builder: Any) -> Iterator[None]:
    """Lets an official builder prepare its records with no TensorFlow, where there is none.

    The builders unpack archives and read files through `tf.io.gfile`, and encode images with `tf.image`; stand-ins
    do this while the context lasts. Downloads don't wait for ever.
    """
    from tensorflow_datasets.core import shuffle
    from tensorflow_datasets.core.download import downloader, extractor
    from tensorflow_datasets.core.features import image_feature

    open_url = functools.partial(downloader._open_with_requests, timeout=_TIMEOUT)
    replaced: list[tuple[Any, str, Any]] = [
        (downloader, "MAX_RETRIES", _RETRIES),
        (downloader, "_open_with_requests", open_url),
    ]
    if not _importable("tensorflow"):
        modules = {extractor, shuffle, *filter(None, map(inspect.getmodule, type(builder).__mro__))}
        replaced += [
            (module, "tf", _TENSORFLOW)
            for module in modules
            if hasattr(module, "tf") and not module.__name__.startswith("tensorflow_datasets.core.dataset")
        ]
        replaced.append((image_feature._ImageEncoder, "_encode_image", _encode_image))
    with contextlib.ExitStack() as stack:
        for place, name, stand_in in replaced:
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, stand_in)
        yield


def _importable(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


class _StandIn(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(f"its builder calls TensorFlow's {name}")


def _as_text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _file(path: Any, mode: str = "r") -> Any:
    return Path(path).open(mode)


def _exists(path: Any) -> bool:
    return Path(path).exists()


def _list_directory(path: Any) -> list[str]:
    return [child.name for child in Path(path).iterdir()]


_GFILE = _StandIn(
    GFile=_file,
    Open=_file,
    exists=_exists,
    listdir=_list_directory,
    remove=lambda path: Path(path).unlink(),
)
_TENSORFLOW = _StandIn(
    io=_StandIn(gfile=_GFILE),
    compat=_StandIn(as_text=_as_text),
    errors=SimpleNamespace(ResourceExhaustedError=MemoryError),
)


def _encode_image(encoder: Any, image: np.ndarray) -> bytes:
    """Encodes an image of bytes as PNG, as tfds's `_ImageEncoder` does."""
    if encoder.encoding_format != "png" or image.dtype != np.uint8:
        raise NotImplementedError(
            f"its images of {image.dtype} are to be encoded as {encoder.encoding_format}"
        )
    if image.ndim != len(encoder.shape) or any(
        size not in (None, given) for size, given in zip(encoder.shape, image.shape, strict=True)
    ):
        raise ValueError(f"an image has the shape {image.shape}, not {encoder.shape}")
    return images.encode_png(image)
