"""Tables of texts: what is read, what is held out, and what is refused with its line."""

import collections
import gzip

import pytest

from jaxgen.data.tsv import named_table, read_all, read_labelled, read_pairs, read_sources
from jaxgen.errors import JaxgenError, UsageError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def rows_of(table, split="train"):
    return [(row.text, row.other) for row in table.splits[split]]


LINES = [f"text number {number}\t{'odd' if number % 2 else 'even'}" for number in range(400)]


@pytest.mark.parametrize("header", ["", "text\tlabel\n", "Sentence\tLabel\r\n", "\ufefftext\tlabel\n"])
def test_a_tenth_of_a_file_is_held_out_by_its_contents(header, tmp_path):
    found = read_labelled(write(tmp_path / "a.tsv", header + "\n".join(LINES)))
    assert found.class_names == ("even", "odd") and set(found.splits) == {"train", "validation"}
    train, validation = rows_of(found), rows_of(found, "validation")
    assert sorted([*train, *validation]) == sorted(tuple(line.split("\t")) for line in LINES)
    assert 25 < len(validation) < 55
    # Another order, and new and repeated lines, move none.
    more = [*reversed(LINES), "another one\todd", *LINES[:50]]
    again = read_labelled(write(tmp_path / "b.tsv", header + "\n".join(more)))
    assert {*train} <= {*rows_of(again)} and {*validation} <= {*rows_of(again, "validation")}
    assert not {*rows_of(again)} & {*rows_of(again, "validation")}
    assert again.version != found.version
    assert found.texts() == [text for text, _ in train]


def test_places_are_lines(tmp_path):
    found = read_labelled(write(tmp_path / "a.tsv", "text\tlabel\n\n" + "\n".join(LINES)))
    assert found.notes == (f"{tmp_path}/a.tsv: 1 of 402 lines are blank, and left out",)
    for rows in found.splits.values():
        for row in rows:
            number = int(row.text.split()[-1])
            assert row.place == f"{tmp_path}/a.tsv, line {number + 3}"


def test_every_label_keeps_a_text_to_train_on(tmp_path):
    lines = [f"{number}\tlabel {number // 2}" for number in range(60)]
    found = read_labelled(write(tmp_path / "a.tsv", "\n".join(lines)))
    counts = [collections.Counter(label for _, label in rows_of(found, part)) for part in found.splits]
    assert all(set(count.values()) == {1} and len(count) == 30 for count in counts)


def test_files_of_a_directory_are_splits(tmp_path):
    for name, lines in (("train", LINES[:6]), ("dev", LINES[6:8]), ("test", LINES[8:10])):
        write(tmp_path / f"{name}.tsv", "text\tlabel\n" + "\n".join(lines))
    found = read_labelled(str(tmp_path))
    assert {name: len(rows) for name, rows in found.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 2,
    }
    write(tmp_path / "validation.tsv", LINES[0])
    with pytest.raises(JaxgenError, match=r"has both validation\.tsv and dev\.tsv: keep one"):
        read_labelled(str(tmp_path))
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(JaxgenError, match=r"has both|has no train\.tsv"):
        read_labelled(str(tmp_path))


def test_fields_may_be_quoted(tmp_path):
    lines = [
        '"a ""quoted"" text"\tx',
        '"with\ta tab"\t"y"',
        '"Yes," he said.\tx',
        'she said "no"\ty',
        '"\tx',
        "  spaces \t x ",
    ]
    write(tmp_path / "train.tsv", "\n".join(lines))
    write(tmp_path / "validation.tsv", "a\tx")
    assert rows_of(read_labelled(str(tmp_path))) == [
        ('a "quoted" text', "x"),
        ("with\ta tab", "y"),
        ('"Yes," he said.', "x"),
        ('she said "no"', "y"),
        ('"', "x"),
        ("spaces", "x"),
    ]


def test_pairs(tmp_path):
    lines = [f"source {number}\ttarget {number}" for number in range(100)]
    found = read_pairs(write(tmp_path / "a.tsv", "source\ttarget\n" + "\r\n".join(lines)))
    assert found.class_names == () and len(found.splits["train"]) + len(found.splits["validation"]) == 100
    assert found.texts() == [text for part in zip(*rows_of(found), strict=True) for text in part]
    with pytest.raises(JaxgenError, match="has too few different texts: none is left for validation"):
        read_pairs(write(tmp_path / "b.tsv", "a\tb\na\tc\n"))


def test_blank_lines_are_counted_whatever_the_columns(tmp_path):
    name = write(tmp_path / "a.tsv", "\n1\ta\tb\n \t\n" + "2\tc\td\n" * 9 + "3\te\tf\n")
    told = f"{name}: 2 of 13 lines are blank, and left out"
    assert (
        read_pairs(name, columns=("2", "3")).notes == read_all(name, (), columns=("2", "3")).notes == (told,)
    )
    rows, notes = read_sources(name, columns=("2", "3"))
    assert ([row.place[-6:] for row in rows[:2]], notes) == (["line 2", "line 4"], [told])
    assert read_sources(write(tmp_path / "b.tsv", "a\n\nb"))[1] == [
        f"{tmp_path}/b.tsv: 1 of 3 lines are blank, and left out"
    ]


def test_columns_are_taken_by_number_or_name(tmp_path):
    lines = [f"verse {number}\tsentence {number}\tfrase {number}" for number in range(50)]
    wanted = [(f"sentence {number}", f"frase {number}") for number in range(50)]
    plain = write(tmp_path / "a.tsv", "\n".join(lines))
    named = write(tmp_path / "b.tsv", "verse\tenglish\tspanish\n" + "\n".join(lines))
    for name, columns in ((plain, ("2", "3")), (named, ("english", "spanish"))):
        found = read_pairs(name, columns=columns)
        assert sorted(rows_of(found) + rows_of(found, "validation")) == sorted(wanted)
    back = read_pairs(plain, columns=("3", "2"))
    assert {(target, source) for source, target in rows_of(back)} <= {*wanted}
    everything = read_all(plain, (), columns=("2", "3"))
    assert rows_of(everything, "all") == wanted


@pytest.mark.parametrize(
    ("columns", "content", "told"),
    [
        (
            (),
            "a\tb\tc\n",
            r"line 1: 3 columns, not two; a line is source TAB target; name the two to take, --col",
        ),
        (("1", "3"), "a\tb\tc\na\tb\n", r"line 2: 2 columns, not 3 as in the first line"),
        (("1", "4"), "a\tb\tc\n", r"--columns 1 4: .*a\.tsv has 1 to 3"),
        (("0", "1"), "a\tb\tc\n", r"--columns 0 1: .*a\.tsv has 1 to 3"),
        (("de", "en"), "de\tes\n", r"unknown column of .*a\.tsv 'en'; did you mean"),
        (("1",), "a\tb\n", r"--columns 1: name two"),
        (("1", "2"), "a\tb\n\tc\n", r"line 2: the source is empty"),
        (("1", "2"), "", r"a\.tsv is empty"),
    ],
)
def test_columns_that_there_are_not(columns, content, told, tmp_path):
    with pytest.raises(JaxgenError, match=told) as error:
        read_pairs(write(tmp_path / "a.tsv", content), columns=columns)
    assert "\n" not in str(error.value)


def test_splits_that_are_packed_or_named_valid(tmp_path):
    (tmp_path / "train.tsv.gz").write_bytes(gzip.compress(b"a\tx\nb\ty\n"))
    write(tmp_path / "valid.tsv", "c\tx\n")
    found = read_pairs(str(tmp_path))
    assert rows_of(found) == [("a", "x"), ("b", "y")] and rows_of(found, "validation") == [("c", "x")]
    write(tmp_path / "train.tsv", "a\tx\n")
    with pytest.raises(JaxgenError, match=r"has both train\.tsv and train\.tsv\.gz: keep one"):
        read_pairs(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a\tx\nb\n", r"a\.tsv, line 2: one column, not two; a line is text TAB label"),
        ("a\tx\n\nb\ty\tz\n", r"a\.tsv, line 3: 3 columns, not two"),
        ("a\tx\n\ty\n", r"a\.tsv, line 2: the text is empty"),
        ("a\tx\nb\t \n", r"a\.tsv, line 2: the label is empty"),
        ("", r"a\.tsv is empty: there is no text in it"),
        ("text\tlabel\n\n", r"a\.tsv is empty: there is no text in it"),
        ("a\tx\nb\tx\n", r"a\.tsv has one label only, x: a classifier needs two or more"),
        (b"a\tx\nf\xfcr\ty\n", r"a\.tsv, line 2: not utf-8, byte 0xfc; name the right --encoding"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(content, told, tmp_path):
    with pytest.raises(JaxgenError, match=told) as error:
        read_labelled(write(tmp_path / "a.tsv", content))
    assert "\n" not in str(error.value)


def test_labels_that_are_not_in_training_are_named(tmp_path):
    write(tmp_path / "train.tsv", "a\tx\nb\ty\n")
    write(tmp_path / "validation.tsv", "c\tx\n")
    write(tmp_path / "test.tsv", "c\tx\nd\tz\n")
    with pytest.raises(
        JaxgenError, match=r"test\.tsv, line 2: no training text has the label 'z'; they have x, y"
    ):
        read_labelled(str(tmp_path))


def test_sentences_that_end_as_files_do_are_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    endings = (".tsv", ".txt")
    assert named_table(["please open readme.txt", "a"], endings) is None
    assert named_table(["readme.txt"], endings) == "readme.txt"
    write(tmp_path / "my lines.txt", "a\n")
    assert named_table(["my lines.txt"], endings) == "my lines.txt"
    with pytest.raises(UsageError, match="not several, nor both"):
        named_table(["see readme.txt", "lines.txt"], endings)


def test_encodings(tmp_path):
    name = write(tmp_path / "a.tsv", "für\tx\nälter\ty\n".encode("latin-1") * 2)
    with pytest.raises(JaxgenError, match="not utf-8"):
        read_pairs(name)
    assert ("für", "x") in rows_of(read_pairs(name, "latin-1")) + rows_of(
        read_pairs(name, "latin-1"), "validation"
    )
    with pytest.raises(UsageError, match="can't be read line by line as utf-16: write it as utf-8"):
        read_pairs(name, "utf-16")
    with pytest.raises(UsageError, match="unknown encoding 'latin-99'"):
        read_pairs(name, "latin-99")
    with pytest.raises(UsageError, match=r"unknown file or directory .*b\.tsv'; did you mean .*a\.tsv"):
        read_pairs(str(tmp_path / "b.tsv"))
