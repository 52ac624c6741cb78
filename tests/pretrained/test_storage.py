"""Directories of weights: written and read, whole or in parts, and refused where they are no use."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxgen.errors import JaxgenError, UsageError
from jaxgen.pretrained import new_directory, read_stored, write_stored

CONFIG = {"model_type": "toy", "layers": 2}
RNG = np.random.default_rng(0)
TENSORS = {
    "embedding": RNG.normal(size=(7, 5)).astype(np.float32),
    "turned": RNG.normal(size=(4, 6)).astype(np.float32).T,  # lies the other way round in memory
    "every/second": RNG.normal(size=(4, 6)).astype(np.float16)[:, ::2],
    "short": np.asarray(jnp.asarray(RNG.normal(size=(3, 3)), jnp.bfloat16)),
    "scalar": np.array(2.5, np.float32),
    "numbers": np.arange(6, dtype=np.int64),
    "nothing": np.zeros((0, 3), np.float32),
}


@pytest.fixture
def directory(tmp_path):
    with new_directory(tmp_path / "made") as made:
        write_stored(made, CONFIG, TENSORS)
    return tmp_path / "made"


@pytest.fixture
def parts(tmp_path):
    with new_directory(tmp_path / "parts") as made:
        write_stored(made, CONFIG, TENSORS, shard_bytes=150)
    return tmp_path / "parts"


def assert_same(tensors):
    assert list(tensors) == list(TENSORS) or sorted(tensors) == sorted(TENSORS)
    for name, expected in TENSORS.items():
        got = tensors[name]
        assert got.dtype == expected.dtype and got.shape == expected.shape
        assert got.tobytes() == expected.tobytes()


def test_what_is_written_is_read(directory):
    stored = read_stored(directory)
    assert stored.config == CONFIG and len(stored.tensors) == len(TENSORS)
    assert_same(stored.tensors)
    assert {path.name for path in directory.iterdir()} == {"config.json", "model.safetensors"}
    # As others see it, users and libraries.
    modes = {path.stat().st_mode for path in directory.iterdir()}
    assert len(modes) == 1
    np.testing.assert_array_equal(load_file(directory / "model.safetensors")["turned"], TENSORS["turned"])


def test_in_parts_too(parts):
    assert_same(read_stored(parts).tensors)
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in parts.glob("*.safetensors"))
    assert files == sorted(set(index["weight_map"].values())) and len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    for file in files:
        held = load_file(parts / file)
        assert {name for name, place in index["weight_map"].items() if place == file} == set(held)
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= 150


def test_a_tensor_that_is_not_there_is_a_key_error(directory):
    with pytest.raises(KeyError):
        read_stored(directory).tensors["other"]


def test_a_directory_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "down"
    with pytest.raises(RuntimeError), new_directory(target) as made:
        write_stored(made, CONFIG, TENSORS)
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    target.mkdir()  # an empty one may be taken
    with new_directory(target) as made:
        (made / "a").write_text("a")
        assert not any(target.iterdir())
    assert [path.name for path in target.iterdir()] == ["a"]
    with pytest.raises(UsageError, match="is there already; name a new directory"), new_directory(target):
        pass
    assert (target / "a").read_text() == "a"
    with (
        pytest.raises(JaxgenError, match=r"could not write .*/a/b: Not a directory"),
        new_directory(target / "a" / "b"),
    ):
        pass


def test_weights_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(JaxgenError, match=r"could not write .*model\.safetensors") as raised:
        write_stored(tmp_path, CONFIG, TENSORS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            [],
            "holds no weights that can be read: looked for config.json, and model.safetensors or "
            "model.safetensors.index.json; it has nothing",
        ),
        (["config.json", "tf_model.h5"], "model.safetensors.index.json; it has config.json, tf_model.h5"),
        (["model.safetensors"], "looked for config.json"),
        (["config.json", "pytorch_model.bin"], "as a pickle only, which can run any code when it is opened"),
        (["pytorch_model-00001-of-00002.bin"], "AutoModel.from_pretrained(DIR).save_pretrained(NEW)"),
    ],
)
def test_directories_without_weights_are_one_line(files, told, tmp_path):
    for name in files:
        (tmp_path / name).write_text("{}")
    assert_refused(tmp_path, told)


def assert_refused(directory, told):
    with pytest.raises(JaxgenError, match=re.escape(told)) as raised:
        read_stored(directory)
    assert "\n" not in str(raised.value)


def test_no_directory_at_all(tmp_path):
    assert_refused(tmp_path / "none", "none is no directory; give one with config.json and model.safetensors")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_weights_that_were_cut_off_are_one_line(kept, directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert_refused(directory, "model.safetensors is damaged (")


def test_weights_that_are_something_else_are_one_line(directory):
    (directory / "model.safetensors").write_bytes(b"\xff" * 1000)
    assert_refused(directory, "model.safetensors is damaged (")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_config_is_one_line(content, directory):
    (directory / "config.json").write_text(content)
    assert_refused(directory, "config.json is damaged")


def test_parts_that_are_missing_are_named(parts):
    first, second, *_ = sorted(parts.glob("*.safetensors"))
    first.unlink()
    second.unlink()
    assert_refused(parts, f"lacks parts that model.safetensors.index.json names: {first.name}, {second.name}")


@pytest.mark.parametrize(
    ("weight_map", "told"),
    [
        (
            {"embedding": "../other.safetensors"},
            "lacks parts that model.safetensors.index.json names: other.safetensors",
        ),
        (None, "index.json is damaged, it has no map of names to files"),
        ({"embedding": 3}, "index.json is damaged, it has no map of names to files"),
    ],
)
def test_an_index_that_is_no_use_is_one_line(weight_map, told, parts):
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_refused(parts, told)


def test_tensors_that_a_part_lacks_are_named(parts):
    path = parts / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["other"] = index["weight_map"]["embedding"]
    path.write_text(json.dumps(index))
    assert_refused(parts, "lacks tensors that model.safetensors.index.json names: other")
