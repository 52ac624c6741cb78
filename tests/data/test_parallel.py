"""Parallel files: lines of one number are pairs, whatever the files are called, and what is no pair is named."""

import gzip

import pytest

from jaxgen.data import tables
from jaxgen.errors import JaxgenError, UsageError

ENGLISH = [f"sentence {number}" for number in range(100)]
SPANISH = [f"frase {number}" for number in range(100)]


def write(path, lines):
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def read(name, **options):
    return tables.read(str(name), labelled=False, **options)


def rows_of(table, split="train"):
    return [(row.text, row.other) for row in table.splits[split]]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_directory_of_parallel_files(ending, tmp_path):
    for stem, part in (("train", slice(80)), ("dev", slice(80, 90)), ("test", slice(90, 100))):
        write(tmp_path / f"{stem}.en{ending}", ENGLISH[part])
        write(tmp_path / f"{stem}.es", SPANISH[part])
    found = read(tmp_path, columns=("en", "es"))
    assert list(found.splits) == ["train", "validation", "test"] and found.class_names == ()
    assert rows_of(found) == list(zip(ENGLISH[:80], SPANISH[:80], strict=True))
    assert rows_of(found, "test") == list(zip(ENGLISH[90:], SPANISH[90:], strict=True))
    assert found.splits["train"][4].place == f"{tmp_path}/train.en{ending}, line 5"
    back = read(tmp_path, columns=("es", "en"))
    assert rows_of(back) == list(zip(SPANISH[:80], ENGLISH[:80], strict=True))
    assert back.version != found.version
    everything, split = tables.read_split(str(tmp_path), None, (), columns=("en", "es"))
    assert split == "all" and len(everything.splits["all"]) == 100
    with pytest.raises(
        UsageError, match=r"holds texts in en, es: say in which one they are read.* --columns en es"
    ):
        read(tmp_path)
    with pytest.raises(UsageError, match=r"unknown language of .* 'ed'; did you mean e[ns]"):
        read(tmp_path, columns=("ed", "es"))
    (tmp_path / "dev.es").unlink()
    with pytest.raises(JaxgenError, match=rf"dev\.en{ending} has no file beside it that ends with \.es"):
        read(tmp_path, columns=("en", "es"))


def test_two_files_of_which_a_tenth_is_held_out(tmp_path):
    english = write(tmp_path / "a.txt", ["", *ENGLISH])
    spanish = write(tmp_path / "b.txt.gz", [" ", *SPANISH])
    found = read(f"{english},{spanish}")
    assert found.name == f"{english},{spanish}" and set(found.splits) == {"train", "validation"}
    pairs = rows_of(found) + rows_of(found, "validation")
    assert sorted(pairs) == sorted(zip(ENGLISH, SPANISH, strict=True))
    assert rows_of(read(f"{english},{spanish}"), "validation") == rows_of(found, "validation")
    assert found.notes == (f"{english} and b.txt.gz: 1 of 101 lines are blank, and left out",)
    assert tables.read_split(found.name, None, ())[0].notes == found.notes
    for row in found.splits["train"]:  # blank lines count
        assert row.place.endswith(f", line {int(row.text.split()[-1]) + 2}")


@pytest.mark.parametrize(
    ("english", "spanish", "told"),
    [
        (b"a\nb\n", b"x\n", r"a\.en has 2 lines, .*a\.es 1: each line needs its other one"),
        (b"a\n", b"x\n\n", r"a\.en has 1 lines, .*a\.es 2"),
        (b"a\nb\n", b"x\n \n", r"a\.es, line 2: empty, but not in a\.en; leave out the line in both"),
        (b"\nb\n", b"x\ny\n", r"a\.en, line 1: empty, but not in a\.es"),
        (b"a\nb\xfc\n", b"x\ny\n", r"a\.en, line 2: not utf-8, byte 0xfc; name the right --encoding"),
        (b"\n", b"\n", r"a\.en and a\.es are empty"),
        (b"", b"", r"a\.en and a\.es are empty"),
    ],
)
def test_what_is_no_pair_is_refused_in_one_line(english, spanish, told, tmp_path):
    (tmp_path / "a.en").write_bytes(english)
    (tmp_path / "a.es").write_bytes(spanish)
    with pytest.raises(JaxgenError, match=told) as error:
        read(f"{tmp_path / 'a.en'},{tmp_path / 'a.es'}")
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_or_damaged(tmp_path):
    spanish = write(tmp_path / "a.es", SPANISH)
    with pytest.raises(UsageError, match=r"unknown file or directory .*a\.en'; did you mean .*a\.es"):
        read(f"{tmp_path / 'a.en'},{spanish}")
    packed = gzip.compress("\n".join(ENGLISH).encode())
    for content in (b"no gzip", packed[:-12]):
        (tmp_path / "a.en.gz").write_bytes(content)
        with pytest.raises(JaxgenError, match=r"a\.en\.gz is damaged, or no gzip file .*: pack it again"):
            read(f"{tmp_path / 'a.en.gz'},{spanish}")
