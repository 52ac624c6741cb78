"""Official builders prepared without TensorFlow, from a server that stands in for theirs."""

import contextlib
import functools
import gzip
import http.server
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jaxgen.data import load, official, prepare
from jaxgen.data.official import without_tensorflow
from jaxgen.errors import JaxgenError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 28, 28), np.uint8)
LABELS = RNG.integers(0, 10, 12).astype(np.uint8)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the directory that it serves."""
    directory = tmp_path / "served"
    directory.mkdir()
    handler = functools.partial(_Quiet, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", directory
        running.shutdown()


def serve_mnist(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow_datasets.image_classification import mnist

    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 8)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 4)
    for prefix, part in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        images, labels = IMAGES[part], LABELS[part]
        (directory / f"{prefix}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(bytes(16) + images.tobytes())
        )
        (directory / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))


def found_once(read: np.ndarray, given: np.ndarray) -> list[int]:
    """Gives where each image read is among the given ones; all must be there."""
    where = [np.flatnonzero((given == image).all((1, 2, 3))).item() for image in read]
    assert sorted(where) == list(range(len(given)))
    return where


def test_mnist_family(
    server: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from tensorflow_datasets.core.download import downloader, extractor
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.image_classification import FashionMNIST, mnist

    url, directory = server
    serve_mnist(directory, monkeypatch)
    monkeypatch.setattr(FashionMNIST, "URL", url)
    monkeypatch.setattr(FashionMNIST, "url_infos", None)
    before = (
        mnist.tf,
        extractor.tf,
        image_feature._ImageEncoder._encode_image,
        downloader.MAX_RETRIES,
        downloader._open_with_requests,
    )
    told = prepare("fashion_mnist", data_dir=tmp_path / "sets")
    assert "(train 8, test 4 examples): prepared" in told
    assert capfd.readouterr().out == ""
    after = (
        mnist.tf,
        extractor.tf,
        image_feature._ImageEncoder._encode_image,
        downloader.MAX_RETRIES,
        downloader._open_with_requests,
    )
    assert all(one is other for one, other in zip(before, after, strict=True)), "the stand-ins are gone"
    arrays = load("fashion_mnist", "train", data_dir=tmp_path / "sets").arrays()
    where = found_once(arrays["image"], IMAGES[:8, ..., None])
    np.testing.assert_array_equal(arrays["label"], LABELS[:8][where])
    assert where != list(range(8)), "tfds has shuffled them"


def test_cifar10(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow_datasets.image_classification import Cifar10, cifar

    url, directory = server
    images, labels = RNG.integers(0, 256, (6, 32, 32, 3), np.uint8), np.arange(6, dtype=np.uint8)
    rows = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(6, -1)], axis=1)
    files = {f"data_batch_{n}.bin": rows[n - 1 : n].tobytes() for n in range(1, 6)}
    files |= {"test_batch.bin": rows[5:].tobytes(), "batches.meta.txt": "\n".join("abcdefghij").encode()}
    with tarfile.open(directory / "c.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    information = cifar.CifarInfo(
        name="cifar10",
        url=f"{url}c.tar.gz",
        train_files=[f"data_batch_{n}.bin" for n in range(1, 6)],
        test_files=["test_batch.bin"],
        prefix="cifar-10-batches-bin/",
        label_files=["batches.meta.txt"],
        label_keys=["label"],
    )
    monkeypatch.setattr(Cifar10, "_cifar_info", information)
    monkeypatch.setattr(Cifar10, "url_infos", None)
    source = load("cifar10", "train", data_dir=tmp_path / "sets")
    assert source.shape == (32, 32, 3) and source.class_names == tuple("abcdefghij")
    arrays = source.arrays()
    assert arrays["label"].tolist() == found_once(arrays["image"], images[:5])


def test_download_that_is_not_what_tfds_expects(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.image_classification import KMNIST

    url, directory = server
    serve_mnist(directory, monkeypatch)
    monkeypatch.setattr(KMNIST, "URL", url)
    infos = {
        f"{url}{path.name}": UrlInfo(path.stat().st_size, "0" * 64, path.name) for path in directory.iterdir()
    }
    monkeypatch.setattr(KMNIST, "url_infos", infos)
    with pytest.raises(JaxgenError) as raised:
        load("kmnist", "train", data_dir=tmp_path / "sets")
    assert "kmnist was downloaded, but it is not what tfds expects" in str(raised.value)
    assert not (tmp_path / "sets" / "kmnist").exists()


def test_server_without_the_files(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorflow_datasets.image_classification import KMNIST

    monkeypatch.setattr(KMNIST, "URL", server[0])
    monkeypatch.setattr(KMNIST, "url_infos", None)
    with pytest.raises(JaxgenError) as raised:
        load("kmnist", "train", data_dir=tmp_path / "sets")
    assert str(raised.value).startswith("kmnist is not prepared in ") and "can't be downloaded" in str(
        raised.value
    )
    assert not (tmp_path / "sets").exists(), "nothing is left behind"


def test_network_that_drops_packets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that never answers is given up soon, and so is a server that takes a call and says nothing."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    monkeypatch.setattr(official, "_TIMEOUT", (0.2, 0.2))
    monkeypatch.setattr(official, "_RETRIES", 0)
    builder = tfds.builder("mnist", data_dir=tmp_path)
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(type(builder), "url_infos", {url: None})
        with (
            without_tensorflow(builder),
            pytest.raises(requests.exceptions.ConnectionError, match="Read timed out"),
            downloader._open_url(url),
        ):
            pass
        # With its queue full the system drops further calls, as a firewall does.
        for _ in range(3):
            call = stack.enter_context(socket.socket())
            call.setblocking(False)
            call.connect_ex(silent.getsockname())
        with pytest.raises(requests.exceptions.ConnectTimeout):
            official.refuse_without_network(builder, tmp_path)


def test_what_no_stand_in_can_do_is_named(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import extractor

    with (
        without_tensorflow(tfds.builder("mnist", data_dir=tmp_path)),
        pytest.raises(NotImplementedError, match="TensorFlow's constant"),
    ):
        extractor.tf.constant(1)
