"""The sets that need no network: what they hold, and how they are split."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

from jaxgen.data import Source, load
from jaxgen.errors import JaxgenError


def keys(source: Source) -> list[bytes]:
    """Gives what tells the examples apart."""
    return [image.tobytes() for image in source.arrays()["image"]]


def test_digits_are_split_in_two_ways(data_dir: Path) -> None:
    train, test = (load("digits", split, data_dir=data_dir) for split in ("train", "test"))
    first, last = (load("digits", split, data_dir=data_dir) for split in ("first1437", "last360"))
    assert [len(source) for source in (train, test, first, last)] == [1437, 360, 1437, 360]
    everything = sorted(keys(train) + keys(test))
    assert everything == sorted(keys(first) + keys(last)), "each scan is in one part of either split"
    assert len(set(everything)) == 1797, "no scan comes twice, so the parts are disjoint"
    labels = load_digits().target
    assert sorted(first.arrays()["label"]) == sorted(labels[:1437])
    assert sorted(last.arrays()["label"]) == sorted(labels[1437:])


def test_digits_are_stratified_and_shuffled(data_dir: Path) -> None:
    share = np.bincount(load_digits().target) * 360 / 1797
    test = load("digits", "test", data_dir=data_dir).arrays()["label"]
    assert abs(np.bincount(test) - share).max() < 1
    # In file order writers follow one another; a part such as train[90%:] must not be a few of them.
    train, first = (
        load("digits", split, data_dir=data_dir).arrays()["label"] for split in ("train", "first1437")
    )
    assert train[:20].tolist() != load_digits().target[:20].tolist()
    assert first[:20].tolist() != load_digits().target[:20].tolist()


def test_digits_look_like_mnist(data_dir: Path) -> None:
    arrays = load("digits", "train", data_dir=data_dir).arrays()
    images = arrays["image"][..., 0].astype(float)
    assert images[:, :4].max() == images[:, -4:].max() == images[..., :4].max() == images[..., -4:].max() == 0
    assert images.max() == 255 and 30 < images.mean() < 45  # MNIST: 33
    # Averaged back to 8 x 8 they are the scans again: the class means agree.
    small = images[:, 4:24, 4:24].repeat(2, axis=1).repeat(2, axis=2).reshape(-1, 8, 5, 8, 5).mean((2, 4))
    scans, labels = load_digits(return_X_y=True)
    for label in range(10):
        mean = scans[labels == label].mean(0) * 255 / 16
        assert np.corrcoef(small[arrays["label"] == label].mean(0).ravel(), mean)[0, 1] > 0.97


def test_diabetes(data_dir: Path) -> None:
    train, test = (load("diabetes", split, data_dir=data_dir) for split in ("train", "test"))
    assert (len(train), len(test)) == (353, 89) and train.shape == (10,) and train.num_classes == 0
    rows = [np.column_stack([*source.arrays().values()]) for source in (train, test)]
    assert rows[0].dtype == np.float32
    features, target = load_diabetes(return_X_y=True, scaled=False)
    expected = np.column_stack([features, target]).astype(np.float32)
    assert sorted(map(tuple, np.concatenate(rows))) == sorted(map(tuple, expected)), (
        "each patient once, as measured"
    )
    assert train[0]["features"].shape == (10,) and train[0]["target"].shape == ()


def test_processes_that_prepare_at_once_without_tensorflow(tmp_path: Path) -> None:
    script = """
import sys

class Hiding:  # (sys.modules["tensorflow"] = None won't do: tfds takes it for TensorFlow being loaded)
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in ("tensorflow", "torch")
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Hiding, sys.meta_path)
from jaxgen.data import HostBatches, BatchOrder, load
source = load("digits", "train", data_dir=sys.argv[1])
with HostBatches(source, BatchOrder(len(source), 64, 0)) as batches:
    print(len(source), len(next(batches)["label"]))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path / "new" / "sets"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for _ in range(2)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, output, errors) == (0, "1437 64\n", "")
    assert [path.name for path in (tmp_path / "new" / "sets").iterdir()] == ["digits"]
    assert len(list((tmp_path / "new" / "sets" / "digits").iterdir())) == 1


def test_another_process_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a shared disk whose locks reach one machine only: the last to finish takes what the first made."""
    from jaxgen.data import builders

    real = builders._write

    def beaten(builder: object, directory: Path, generate: object) -> None:
        real(builders.find("diabetes", directory), directory, None)
        real(builder, directory, generate)
        raise OSError("Directory not empty")

    monkeypatch.setattr(builders, "_write", beaten)
    assert len(load("diabetes", "test", data_dir=tmp_path)) == 89


@pytest.mark.parametrize("full", [False, True])
def test_refused_writes(full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorflow_datasets.core import writer

    monkeypatch.setitem(os.environ, "TFDS_DATA_DIR", str(tmp_path / "sets"))
    (tmp_path / "sets").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if full:  # as array_record tells of a full disk

        def write(*_: object) -> None:
            raise RuntimeError("write() failed: No space left on device; writing x; at byte 307200")

        monkeypatch.setattr(writer.ExampleWriter, "write", write)
    try:
        if not full:  # the system refuses files of more than 16 KiB
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
        with pytest.raises(JaxgenError) as raised:
            load("digits", "train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = str(raised.value)
    assert "\n" not in told and str(tmp_path / "sets") in told and "another --data-dir" in told
    assert told.startswith("can't prepare digits") and ("is full; make room" in told) == full
    assert list((tmp_path / "sets").iterdir()) == []
