"""Docstrings of the standard library: what is found, how it is split, and the simple rules."""

import pytest

from jaxgen.data import docstrings, tables, text
from jaxgen.data.docstrings import Docstring, find_docstrings, first_sentence, first_words, name_in_words
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.tokenizers import Bytes
from jaxgen.errors import JaxgenError, UsageError

BODY = "It has so many words that there is something to be said of it in short."

SOURCE = f'''"""Everything about nothing at all.

{BODY}
"""

if True:
    class Heap:
        """Keeps the smallest on top.

        {BODY} Again.
        """

        async def push_all(self, items=lambda: 0):
            """Pushes many things at once.

                {BODY} Twice.
            """
            def inner():
                """Does it for one of them.

                {BODY} Thrice.
                """

        def signature(self):
            """signature(self) -> int

            {BODY} No summary.
            """

        def goes_on(self):
            """Has a first sentence that goes on
            on the second line.

            {BODY} No summary.
            """

        def short(self):
            """Says little of itself.

            Too little.
            """

        def plain(self):
            """Has a single line alone."""
'''


def test_first_lines_and_what_follows_them_are_found():
    found = find_docstrings(
        {"a.py": SOURCE, "b.py": SOURCE.replace("nothing", "something"), "c.py": "no python at all"}
    )
    assert found["a.py"] == [
        Docstring("a.py", BODY, "Everything about nothing at all."),
        Docstring("a.py Heap", f"{BODY} Again.", "Keeps the smallest on top."),
        Docstring("a.py Heap.push_all", f"{BODY} Twice.", "Pushes many things at once."),
        Docstring("a.py Heap.push_all.inner", f"{BODY} Thrice.", "Does it for one of them."),
    ]
    assert found.keys() == {"a.py"}, "nothing twice, be it the rest alone"


@pytest.fixture(scope="module")
def table(data_dir):
    return docstrings.read(data_dir)


def test_files_are_on_one_side_and_nothing_is_there_twice(table):
    assert list(table.splits) == ["train", "validation", "test"]
    files = {split: {row.place.split()[0] for row in rows} for split, rows in table.splits.items()}
    everything = [row for rows in table.splits.values() for row in rows]
    assert sum(map(len, files.values())) == len({row.place.split()[0] for row in everything}) > 200
    assert len(everything) > 1500
    for field in ("text", "other"):
        assert len({getattr(row, field) for row in everything}) == len(everything)
    characters = {split: sum(len(row.text) for row in rows) for split, rows in table.splits.items()}
    for split in ("validation", "test"):
        assert 0.03 < characters[split] / sum(characters.values()) <= 0.05
    assert table.version == str(docstrings.PYTHON_VERSION)


def test_first_lines_are_one_line_and_known_ones_are_there(table):
    everything = {row.place: row for rows in table.splits.values() for row in rows}
    assert everything["subprocess.py getoutput"].other.startswith("Return output (stdout or stderr)")
    for row in everything.values():
        assert "\n" not in row.other and 3 <= len(row.other.split()) <= 20 and len(row.text.split()) >= 8
    form = SequenceFormat(Bytes(), 256, target_length=64, truncate=True)
    examples = table.sources(form)["validation"].arrays()
    assert (
        bytes(examples["tokens"][0].astype("uint8")).decode(errors="replace")[:20]
        == (table.splits["validation"][0].text[:20])
    )


def test_simple_rules():
    assert (
        first_sentence("The e.g. first\nsentence ends here. And a second.")
        == "The e.g. first sentence ends here."
    )
    assert first_sentence("No end") == "No end"
    assert first_sentence("Arguments:\n\n  a: one.") == "Arguments:"
    assert first_words("one  two\nthree", 2) == "one two"
    assert name_in_words("heapq.py Heap.nsmallest_of") == "nsmallest of"
    assert name_in_words("a.py HTTPServerError2") == "http server error 2"
    assert name_in_words("xml/etree/ElementTree.py") == "py"


def test_all_docstrings_are_on_the_side_of_their_pairs(data_dir, table):
    texts = dict(
        zip(
            ("train", "validation", "test"),
            text.read_splits("docstring_text", ("train", "validation", "test"), data_dir=data_dir),
            strict=True,
        )
    )
    whole = {split: "\n".join(of_split.documents) for split, of_split in texts.items()}
    assert len(whole["train"]) > 20 * len(table.splits["train"])
    held_out = [row for split in ("validation", "test") for row in table.splits[split]]
    assert not any(row.text in whole["train"] for row in held_out)
    of_test = [row.text in whole["test"] for row in table.splits["test"]]
    assert sum(of_test) > 0.9 * len(of_test), "some stand in several files, and so in none here"


def test_packages_have_docstrings_in_every_split_and_none_twice(data_dir):
    table = tables.read("docstring_packages", labelled=True, data_dir=data_dir)
    assert len(table.class_names) == 12 and table.class_names == tuple(sorted(table.class_names))
    for rows in table.splits.values():
        assert {row.other for row in rows} == set(table.class_names)
    everything = [row.text for rows in table.splits.values() for row in rows]
    assert len(everything) == len(set(everything)) > 2000
    sizes = {split: len(rows) / len(everything) for split, rows in table.splits.items()}
    assert 0.15 < sizes["test"] < 0.25 and 0.07 < sizes["validation"] < 0.13


def test_tables_of_another_kind_are_refused(data_dir, tmp_path):
    with pytest.raises(UsageError, match="docstrings holds no texts with classes: take docstring_packages"):
        tables.read("docstrings", labelled=True, data_dir=data_dir)
    with pytest.raises(UsageError, match="pydocs holds no pairs of texts: take docstrings"):
        tables.read("pydocs", labelled=False, data_dir=data_dir)
    with pytest.raises(UsageError, match="unknown file or directory"):
        tables.read(str(tmp_path / "nothing.tsv"), labelled=True)
    for split in (None, "test"):
        with pytest.raises(
            UsageError, match="pydocs holds no texts with classes: take docstring_packages, or"
        ):
            tables.read_split("pydocs", split, ("a", "b"), data_dir=data_dir)
        with pytest.raises(
            UsageError, match="docstring_packages holds no pairs of texts: take docstrings, copying, dates, "
        ):
            tables.read_split("docstring_packages", split, (), data_dir=data_dir)


def test_a_trained_model_reads_all_rows_of_a_file_but_only_its_own_classes(data_dir, tmp_path):
    file = tmp_path / "labels.tsv"
    file.write_text("one\ta\ntwo\tb\nthree\ta\n")
    table, split = tables.read_split(str(file), None, ("a", "b", "c"))
    assert [row.other for row in table.splits[split]] == ["a", "b", "a"] and table.class_names == (
        "a",
        "b",
        "c",
    )
    with pytest.raises(JaxgenError, match="line 2: no training text has the label 'b'; they have a, c"):
        tables.read_split(str(file), None, ("a", "c"))
    table, split = tables.read_split("docstrings", None, (), data_dir=data_dir)
    assert split == "test" and len(table.splits[split]) > 50
    with pytest.raises(UsageError, match="split"):
        tables.read_split("docstrings", "rest", (), data_dir=data_dir)
