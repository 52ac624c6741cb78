"""What runs wrote, read from their directories and set beside each other."""

import pytest
from pretrained.test_runs import call

from jaxgen.compare import compare_runs
from jaxgen.errors import JaxgenError
from jaxgen.files import write_csv, write_json
from jaxgen.run_directory import RunDirectory
from jaxgen.written_pairs import WrittenPairs, comparable, read_written

HEADER = ("source", "hypothesis", "target")
SOURCES = [f"{'many ' * (number % 7)}words {number}" for number in range(60)]


def make_run(path, written, scored_by="exact"):
    """Makes as much of a run directory as is compared: what it wrote is by split, right in rows of these numbers."""
    path.mkdir()
    task = {"kind": "SequenceToSequence", "scored_by": scored_by}
    write_json(path / "config.json", {"format_version": 1, "task": task, "steps": 3})
    write_json(path / "result.json", {"steps": 3, "test/loss": 0.5})
    for split, (sources, right) in written.items():
        rows = [(s, s.upper() if n in right else "?", s.upper()) for n, s in enumerate(sources)]
        write_csv(path / "samples" / f"{split}.csv", [HEADER, *rows])
    return path


def test_files_are_read_as_they_were_written(tmp_path):
    odd = [("a\rb", 'c "d"\ne', "f, g"), ("", "\x00", "\u2028")]
    write_csv(tmp_path / "samples" / "validation.csv", [HEADER, *odd])
    write_csv(tmp_path / "samples" / "test.csv", [HEADER, ("a", "b", "c")])
    write_csv(tmp_path / "samples" / "other.csv", [("text", "score"), ("a", "1")])
    found = read_written(RunDirectory(tmp_path))
    assert list(found) == ["test", "validation"]
    pairs = found["validation"]
    assert list(zip(pairs.sources, pairs.hypotheses, pairs.targets, strict=True)) == odd


def test_a_row_of_too_few_texts_is_named(tmp_path):
    write_csv(tmp_path / "samples" / "test.csv", [HEADER, ("a", "b", "c"), ("a", "b")])
    with pytest.raises(JaxgenError, match=r"test\.csv is damaged: its pair 2 has 2 columns, not 3"):
        read_written(RunDirectory(tmp_path))


def test_only_what_is_for_the_same_pairs_is_compared_and_the_rest_is_told():
    pairs = WrittenPairs(("a", "b"), ("A", "?"), ("A", "B"))
    others = {
        "a": {"test": pairs, "validation": pairs},
        "b": {"test": WrittenPairs(("a", "b"), ("?", "B"), ("A", "B"))},
        "c": {"test": WrittenPairs(("a", "c"), ("A", "B"), ("A", "B"))},
        "d": {"test": WrittenPairs(("a", "b"), ("A", "B"), ("A", "C")), "validation": pairs},
        "e": {"test": WrittenPairs(("a",), ("A",), ("A",))},
    }
    found, notes = comparable(others)
    assert {split: list(runs) for split, runs in found.items()} == {
        "test": ["a", "b"],
        "validation": ["a", "d"],
    }
    assert "test: c can't be compared with a: it has other sources, first in pair 2: 'c', not 'b'" in notes
    assert "test: d can't be compared with a: it has other targets, first in pair 2: 'C', not 'B'" in notes
    assert "test: e can't be compared with a: it has 1 pairs, not 2" in notes
    assert "validation: b has no samples/validation.csv to compare: jaxgen evaluate writes it" in notes


def test_compare_tests_each_run_against_the_first_and_draws_by_length(tmp_path, capsys):
    a = make_run(tmp_path / "a", {"test": (SOURCES, range(20)), "validation": (SOURCES, range(20))})
    b = make_run(tmp_path / "b", {"test": (SOURCES, range(60))})
    c = make_run(tmp_path / "c", {"test": (SOURCES[1:], range(20))}, scored_by="bleu")
    code, out, err = call(capsys, "compare", a, b, c, "--output", tmp_path / "all.png")
    assert (code, err) == (0, "")
    flat = " ".join(out.split())
    assert "33.33 %" in flat and "100.00 %" in flat and "+66.67" in flat and "0.001" in flat
    assert "validation: b has no samples/validation.csv" in flat
    assert "test: c can't be compared with a: it has 59 pairs, not 60" in flat
    assert "scored by exact, as a is" in flat
    assert (tmp_path / "all.png").exists() and (tmp_path / "all-by-length.png").exists()


def test_runs_that_wrote_nothing_are_told_of_and_others_compared_as_ever(tmp_path):
    comparison = compare_runs([make_run(tmp_path / name, {}) for name in "ab"])
    assert comparison.tests() == [] and list(comparison.drawn("comparison")) == ["comparison"]
    assert comparison.notes == ["none of a, b has texts in samples/ to compare: jaxgen evaluate writes them"]
