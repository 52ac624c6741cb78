"""Texts: files, directories, sets, and how they are split."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxgen.data import builders, text
from jaxgen.data.tokenizers import Bytes
from jaxgen.errors import JaxgenError, UsageError

PARTS = ("train", "validation", "test")
LINES = "".join(f"line {number} of the text\n" for number in range(500))


class OnlyTrain(tfds.core.GeneratorBasedBuilder):
    """A set without a validation and a test split, whose text isn't called text."""

    name = "only_train"
    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"verse": tfds.features.Text(), "number": tfds.features.Scalar(np.int32)}
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": ((number, {"verse": f"verse {number}", "number": number}) for number in range(100))}

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def only_train(tmp_path_factory):
    directory = tmp_path_factory.mktemp("only_train")
    builder = tfds.builder("only_train", data_dir=directory, file_format="array_record")
    builder.download_and_prepare(file_format="array_record")
    return directory


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def documents(name, split, **options):
    return text.read(name, split, **options).documents


@pytest.mark.parametrize(
    "content", [LINES, LINES.replace("\n", " "), "ä" * 999 + "\n"], ids=["lines", "one line", "ä"]
)
def test_the_parts_of_a_file_are_the_file(content, tmp_path):
    name = write(tmp_path / "a.txt", content)
    parts = ["".join(documents(name, part)) for part in PARTS]
    assert "".join(parts) == content
    sizes = [len(part) / len(content) for part in parts]
    assert sizes == pytest.approx([0.9, 0.05, 0.05], abs=0.01)
    if content == LINES:
        assert all(part.endswith("\n") for part in parts)


def test_a_directory_is_its_files_in_order(tmp_path):
    for name in ("b.txt", "a/z.md", "c.txt", ".hidden", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "" if name == "d.txt" else f"{name}\n" * 50)
    parts = [document for part in PARTS for document in documents(f"{tmp_path}/", part)]
    assert "".join(parts) == "a/z.md\n" * 50 + "b.txt\n" * 50 + "c.txt\n" * 50
    assert len(documents(f"{tmp_path}/", "train")) == 3
    versions = {text.read(f"{tmp_path}/", part).version for part in PARTS}
    write(tmp_path / "b.txt", "other")
    assert len(versions) == 1 and text.read(f"{tmp_path}/", "train").version not in versions


def test_marks_and_ends_of_lines_of_other_systems_are_left_out(tmp_path):
    name = write(tmp_path / "a.txt", b"\xef\xbb\xbf" + b"one\r\ntwo\r\n" * 100)
    assert "".join("".join(documents(name, part)) for part in PARTS) == "one\ntwo\n" * 100


def test_other_encodings(tmp_path):
    content = "für älter\n" * 40
    name = write(tmp_path / "a.txt", content.encode("latin-1"))
    with pytest.raises(
        JaxgenError, match=r"a\.txt is not utf-8: byte 0xfc at offset 1; .*--encoding.*--tokenizer bytes"
    ):
        text.read(name, "train")
    assert "".join("".join(documents(name, part, encoding="latin-1")) for part in PARTS) == content
    raw = "".join("".join(documents(name, part, as_bytes=True)) for part in PARTS)
    assert bytes(Bytes().encode(raw).astype("uint8").tolist()) == content.encode("latin-1")
    with pytest.raises(UsageError, match="unknown encoding 'latin-99'"):
        text.read(name, "train", encoding="latin-99")


@pytest.mark.parametrize("content", ["", " \n\n", None])
def test_nothing_to_read(content, tmp_path):
    if content is None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(JaxgenError, match="holds no files"):
            text.read(f"{tmp_path}/empty", "train")
        return
    with pytest.raises(JaxgenError, match=r"a\.txt is empty: there is no text to train on"):
        text.read(write(tmp_path / "a.txt", content), "train")


def test_parts_of_a_file_add_up(tmp_path):
    name = write(tmp_path / "a.txt", "".join(f"line {number}\n" for number in range(400)))
    whole = "".join(documents(name, "validation+test"))
    assert whole == "".join("".join(documents(name, part)) for part in ("validation", "test")) != ""
    with pytest.raises(UsageError, match="splits train, validation and test, not dev"):
        text.read(name, "test+dev")


def test_missing_file_is_told_with_one_of_a_similar_name(tmp_path):
    write(tmp_path / "shakespeare.txt", "a")
    write(tmp_path / ".shakespear.txt", "hidden")
    with pytest.raises(
        UsageError, match=r"unknown file or directory .*; did you mean [^ ]*/shakespeare\.txt\?$"
    ):
        text.read(str(tmp_path / "shakespear.txt"), "train")
    with pytest.raises(UsageError, match="splits train, validation and test, not dev"):
        text.read(write(tmp_path / "b.txt", "b\n"), "dev")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("pydocs", False),
        ("tiny_shakespeare", False),
        ("a.txt", True),
        ("./a", True),
        ("pydocs:3.11.7", False),
        ("wikipedia/20230601.en", False),
    ],
)
def test_names_and_paths(name, path):
    assert text.is_path(name) == path


@pytest.mark.parametrize("name", ["pydocs", "pycode"])
def test_the_texts_of_python(name, data_dir):
    parts = {part: documents(name, part, data_dir=data_dir) for part in PARTS}
    sizes = {part: sum(map(len, texts)) for part, texts in parts.items()}
    total = sum(sizes.values())
    assert total > {"pydocs": 300_000, "pycode": 5_000_000}[name]
    assert 0.03 < sizes["validation"] / total <= 0.05 and 0.03 < sizes["test"] / total <= 0.05
    everything = [document for texts in parts.values() for document in texts]
    assert len(set(everything)) > 0.98 * len(everything)
    known = {"pydocs": "if_stmt", "pycode": "def namedtuple"}[name]
    assert any(known in document for document in everything)
    assert text.read(name, "train", data_dir=data_dir).version == builders.find(name, data_dir).version


def test_the_language_reference_says_nothing_twice(data_dir):
    paragraphs = {
        part: {
            p.strip()
            for document in documents("pydocs", part, data_dir=data_dir)
            for p in re.split("\n\n+", document)
        }
        for part in PARTS
    }
    shared = paragraphs["train"] & (paragraphs["validation"] | paragraphs["test"])
    assert not shared - {""}


def test_set_without_validation_holds_out_its_end(only_train):
    names = text.split_names("only_train", "train", "test", only_train)
    assert names == {"train": "train[:95%]", "validation": "train[95%:]"}
    parts = [documents("only_train", split, data_dir=only_train) for split in names.values()]
    assert [len(part) for part in parts] == [95, 5] and len({*parts[0], *parts[1]}) == 100
    with pytest.raises(UsageError, match="none can be held out of"):
        text.split_names("only_train", "train[:50%]", "test", only_train)


def test_set_without_text_is_refused(data_dir):
    with pytest.raises(UsageError, match=r"digits is no set of text, it has .*image"):
        text.read("digits", "train", data_dir=data_dir)
    with pytest.raises(UsageError, match="unknown data set or folder 'pydoc'; did you mean pydocs"):
        text.read("pydoc", "train", data_dir=data_dir)


@pytest.mark.shared_data
def test_tiny_shakespeare(shared_data):
    directory = shared_data / "tfds"
    assert text.split_names("tiny_shakespeare", "train", "test", directory) == {part: part for part in PARTS}
    sizes = [len(text.read("tiny_shakespeare", part, data_dir=directory)) for part in PARTS]
    assert sizes == [1_003_854, 55_770, 55_770]
