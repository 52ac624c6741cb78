"""idx files: read, checked, and imported as the data sets that tfds would have made of them."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from jaxgen.data import load, prepare
from jaxgen.data.idx import read_idx
from jaxgen.errors import JaxgenError, UsageError

RNG = np.random.default_rng(0)


def idx(values: np.ndarray) -> bytes:
    """Makes an idx file's contents."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def write_set(directory: Path, train: int = 30, test: int = 20, zipped: bool = True) -> dict[str, np.ndarray]:
    """Writes the four files of a small set, and gives its arrays."""
    arrays = {}
    directory.mkdir(exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        arrays[f"{prefix}-images-idx3-ubyte"] = RNG.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = RNG.integers(0, 10, count).astype(np.uint8)
    for name, values in arrays.items():
        content = idx(values)
        path = directory / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return arrays


def refusal(name: str, from_dir: Path, data_dir: Path) -> str:
    """Imports what can't be imported, and gives the line that says so."""
    with pytest.raises(JaxgenError) as raised:
        prepare(name, from_dir=from_dir, data_dir=data_dir)
    assert not data_dir.exists(), "nothing is left behind"
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("zipped", [True, False])
def test_import(zipped: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arrays = write_set(tmp_path / "files", zipped=zipped)
    (tmp_path / "files" / "readme").touch()
    if not zipped:  # as other copies are called
        (tmp_path / "files" / "t10k-images-idx3-ubyte").rename(tmp_path / "files" / "t10k-images.idx3-ubyte")
    told = prepare("fashion_mnist", from_dir=tmp_path / "files", data_dir=tmp_path / "sets")
    assert told.startswith("fashion_mnist/3.0.1 in ") and "train 30, test 20 examples" in told
    assert "not verified" in told and capfd.readouterr() == ("", "")
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["fashion_mnist"]
    for split, prefix in (("train", "train"), ("test", "t10k")):
        source = load("fashion_mnist", split, data_dir=tmp_path / "sets")
        assert source.class_names[9] == "Ankle boot"
        read, labels = source.arrays()["image"][..., 0], source.arrays()["label"]
        images = arrays[f"{prefix}-images-idx3-ubyte"]
        where = [np.flatnonzero((images == image).all((1, 2))).item() for image in read]
        assert sorted(where) == list(range(len(images))), "each image once"
        np.testing.assert_array_equal(labels, arrays[f"{prefix}-labels-idx1-ubyte"][where])
    import tensorflow_datasets as tfds

    builder = tfds.builder("fashion_mnist", data_dir=tmp_path / "sets")
    np.testing.assert_array_equal(builder.as_data_source(split="test")[3]["image"][..., 0], read[3])
    again = prepare("fashion_mnist", from_dir=tmp_path / "nowhere", data_dir=tmp_path / "sets")
    assert "train 30, test 20 examples" in again and again.endswith("was prepared already")


def test_original_files_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gzip files' checksums are those that tfds records."""
    import hashlib

    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.image_classification import KMNIST

    write_set(tmp_path / "files", 3, 2)
    infos = {}
    for path in (tmp_path / "files").iterdir():
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        infos[f"https://there/{path.name}"] = UrlInfo(path.stat().st_size, checksum, path.name)
    monkeypatch.setattr(KMNIST, "url_infos", infos)
    told = prepare("kmnist", from_dir=tmp_path / "files", data_dir=tmp_path / "sets")
    assert told.endswith(", verified") and len(load("kmnist", "train", data_dir=tmp_path / "sets")) == 3


def test_emnist(tmp_path: Path) -> None:
    write_set(tmp_path / "files", 4, 3)
    for path in list((tmp_path / "files").iterdir()):
        path.rename(path.with_name(f"emnist-letters-{path.name.replace('t10k', 'test')}"))
    prepare("emnist/letters", from_dir=tmp_path / "files", data_dir=tmp_path / "sets")
    source = load("emnist/letters", "test", data_dir=tmp_path / "sets")
    assert len(source) == 3 and source.num_classes == 37


@pytest.mark.shared_data
def test_import_gives_the_official_order(shared_data: Path, tmp_path: Path) -> None:
    """tfds orders records by a hash of their number and the split's name: MNIST's test files under another name."""
    write_set(tmp_path / "files", 5, 5)
    for path in (shared_data / "idx" / "mnist").iterdir():
        (tmp_path / "files" / path.name).write_bytes(path.read_bytes())
    prepare("kmnist", from_dir=tmp_path / "files", data_dir=tmp_path / "sets")
    imported = load("kmnist", "test", data_dir=tmp_path / "sets").arrays()
    official = load("mnist", "test", data_dir=shared_data / "tfds").arrays()
    for name, values in official.items():
        np.testing.assert_array_equal(imported[name], values)


@pytest.mark.shared_data
def test_mnist_is_verified(shared_data: Path, tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    from jaxgen.data import idx as module

    builder = tfds.builder("mnist", data_dir=tmp_path / "sets")
    directory = tmp_path / "files"
    directory.mkdir()
    for path in (shared_data / "idx" / "mnist").iterdir():
        (directory / path.name).symlink_to(path)
        name = path.name.removesuffix(".gz")
        file = module._File(path, name, gzip.decompress(path.read_bytes()))
        assert module._verified(builder, "mnist", file)
        altered = module._File(path, name, file.contents[:-1] + bytes([file.contents[-1] ^ 1]))
        with pytest.raises(JaxgenError, match=f"{re.escape(str(path))} is altered"):
            module._verified(builder, "mnist", altered)
    told = refusal("mnist", directory, tmp_path / "sets")
    assert told == (
        f"{directory} lacks train-images-idx3-ubyte, train-labels-idx1-ubyte (gzipped or raw): mnist needs all of 4"
    )


@pytest.mark.parametrize("name", ["mnist", "mnist:3.0.1", "MNIST"])
def test_altered_mnist(name: str, tmp_path: Path) -> None:
    write_set(tmp_path / "files")
    told = refusal(name, tmp_path / "files", tmp_path / "sets")
    path = tmp_path / "files" / "train-images-idx3-ubyte.gz"
    assert told == f"{path} is altered: its contents are not those of MNIST's train-images-idx3-ubyte"


IMAGES, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FEW = np.zeros((3, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (IMAGES, b"", "is no idx file of bytes: it begins with nothing"),
        (IMAGES, b"\x89PNG....", "is no idx file of bytes: it begins with 89 50 4e 47"),
        (IMAGES, b"\0\0\x0d\x03" + bytes(40), "is no idx file of bytes: it begins with 00 00 0d 03"),
        (IMAGES, idx(np.zeros(5)), "holds labels where images are expected"),
        (LABELS, idx(FEW), "holds images where labels are expected"),
        (LABELS, idx(np.zeros((2, 3))), "holds values in 2 dimensions where labels are expected"),
        (IMAGES, idx(FEW)[:9], "is cut off: it ends within its header"),
        (IMAGES, idx(FEW)[:-1], "is cut off: it holds 2351 of the 2352 bytes that its header promises"),
        (IMAGES, idx(FEW) + b"ab", "is damaged: 2 bytes follow its last value"),
        (IMAGES, idx(FEW[:0]), "holds no images"),
        (IMAGES, idx(np.zeros((30, 8, 9))), "holds images of 8 x 9; those of kmnist are 28 x 28"),
        (IMAGES, b"\0\0\x08\x03" + b"\xff" * 12 + b"abc", "is cut off: it holds 3 of the"),
        (LABELS, idx(np.full(20, 10)), "holds the label 10; those of kmnist are 0 to 9"),
        (LABELS, idx(np.zeros(19)), "holds 19 labels, but t10k-images-idx3-ubyte holds 20 images"),
        (
            LABELS,
            gzip.compress(idx(np.zeros(20)), mtime=0)[:-9],
            "is damaged: it doesn't decompress (Compressed file ended",
        ),
        (
            LABELS,
            gzip.compress(idx(np.zeros(20)), mtime=0)[:12] + b"??????",
            "is damaged: it doesn't decompress",
        ),
        (
            LABELS,
            gzip.compress(idx(np.zeros(20)), mtime=0)[:-8] + bytes(8),
            "is damaged: it doesn't decompress (CRC",
        ),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_files_that_are_wrong(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    write_set(tmp_path / "files", zipped=False)
    path = tmp_path / "files" / name
    path.write_bytes(content)
    assert refusal("kmnist", tmp_path / "files", tmp_path / "sets").startswith(f"{path} {told}")


def test_other_refusals(tmp_path: Path) -> None:
    write_set(tmp_path / "files")
    for name in ("cifar10", "digits"):
        with pytest.raises(UsageError, match=f"{name} isn't published as idx files; --from imports mnist"):
            prepare(name, from_dir=tmp_path / "files", data_dir=tmp_path / "sets")
    assert refusal("mnist", tmp_path / "none", tmp_path / "sets").startswith("there is no directory")
    path = tmp_path / "files" / f"{LABELS}.gz"
    path.unlink()
    assert f"lacks {LABELS} (gzipped" in refusal("kmnist", tmp_path / "files", tmp_path / "sets")
    with pytest.raises(JaxgenError, match=f"can't read {re.escape(str(path))}: No such file"):
        read_idx(path, 1)


def test_prepare_embedded(tmp_path: Path) -> None:
    told = prepare("diabetes", data_dir=tmp_path)
    assert told.startswith("diabetes/") and told.endswith("(train 353, test 89 examples): prepared")
