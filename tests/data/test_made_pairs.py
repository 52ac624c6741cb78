"""Pairs that are made on the spot: what is written is right, and no split has what another one has."""

import datetime
import sys

import pytest

from jaxgen.data import builders, dates, number_words, symbols, tables
from jaxgen.errors import JaxgenError

SIZES = {"train": 3000, "validation": 200, "test": 300}


@pytest.fixture(scope="module")
def made():
    return {"dates": dates.make_dates(SIZES), "number_words": number_words.make_numbers(SIZES)}


@pytest.mark.parametrize("name", ["dates", "number_words"])
def test_splits_are_disjoint_and_nothing_has_two_meanings(name, made):
    rows = [row for of_split in made[name].values() for row in of_split]
    assert {split: len(of_split) for split, of_split in made[name].items()} == SIZES
    assert len({row.other for row in rows}) == len({row.text for row in rows}) == sum(SIZES.values())
    assert all(row.text == row.text.strip() and "\xa0" not in row.text for row in rows)
    make = {"dates": dates.make_dates, "number_words": number_words.make_numbers}[name]
    assert make({"train": 5, "test": 2}) == make({"train": 5, "test": 2})


def test_dates_are_written_in_all_languages_and_formats(made):
    rows = made["dates"]["train"]
    places = {row.place for row in rows}
    assert {place.split(" ", 1)[0] for place in places} == {*dates.LANGUAGES} and len(places) == 90
    for row in rows:
        day = datetime.date.fromisoformat(row.other)
        assert 1900 <= day.year <= 2099 and str(day.year) in row.text and str(day.day) in row.text
    written = {row.place: row for row in rows}
    row = written["en_US long"]
    day = datetime.date.fromisoformat(row.other)
    assert row.text == f"{day:%B} {day.day}, {day.year}"
    row = written["de dd.MM.y"]
    assert row.text == f"{datetime.date.fromisoformat(row.other):%d.%m.%Y}"


def test_numbers_are_written_in_all_languages_and_lengths(made):
    rows = made["number_words"]["train"]
    assert {row.place for row in rows} == {*number_words.LANGUAGES}
    assert {len(row.other) for row in rows} == {1, 2, 3, 4, 5, 6}
    assert sum(len(row.other) == 6 for row in rows) < 0.3 * len(rows)
    english = {row.other: row.text for row in rows if row.place == "en"}
    small = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert all(english.get(str(digit), word) == word for digit, word in enumerate(small))
    assert all(
        text.endswith("thousand")
        for number, text in english.items()
        if number.endswith("000") and len(number) < 7
    )


def test_sequences_of_symbols(data_dir, monkeypatch):
    monkeypatch.setattr(symbols, "_TRAIN", 600)
    monkeypatch.setattr(symbols, "_HELD_OUT", 60)
    monkeypatch.setattr(symbols, "_OF_LENGTH", 7)
    found = {name: tables.read(name, labelled=False, data_dir=data_dir) for name in ("reversal", "sorting")}
    for name, table in found.items():
        assert [*table.splits][:3] == ["train", "validation", "test"]
        assert {*table.splits} - {"train", "validation", "test"} == {
            f"length_{length}" for length in symbols.LENGTHS
        }
        for split, rows in table.splits.items():
            for row in rows:
                read, written = ([*map(int, text.split())] for text in (row.text, row.other))
                assert written == (sorted(read) if name == "sorting" else read[::-1])
                assert 1 <= len(read) <= {"train": 25, "validation": 30, "test": 30}.get(split, 50)
                assert split[:6] != "length" or len(read) == int(split[7:])
                assert row.place == f"{len(read)} symbols"
    splits = found["reversal"].splits
    assert {len(rows) for rows in splits.values()} == {600, 60, 7}
    texts = {split: {row.text for row in rows} for split, rows in splits.items()}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    assert {symbol for text in texts["train"] for symbol in text.split()} == {*map(str, range(50))}
    copied = symbols.Copying(data_dir=data_dir)._splits()["test"]
    assert all(row.text == row.other for row in copied) and {row.text for row in copied} == texts["test"]


def test_sets_are_prepared_once_and_known_by_name(tmp_path, monkeypatch):
    for module in (dates, number_words):
        for part, size in (("_TRAIN", 40), ("_VALIDATION", 4), ("_TEST", 5)):
            monkeypatch.setattr(module, part, size)
    for name, module in (("dates", dates), ("number_words", number_words)):
        table = tables.read(name, labelled=False, data_dir=tmp_path)
        assert {split: len(rows) for split, rows in table.splits.items()} == {
            "train": 40,
            "validation": 4,
            "test": 5,
        }
        assert builders.known(name) and table.name == name and table.version.count(".") == 2
        monkeypatch.setattr(module, "_TRAIN", 50)
        again, split = tables.read_split(name, None, (), data_dir=tmp_path)
        assert split == "test" and again == table


@pytest.mark.parametrize(("name", "package"), [("dates", "babel"), ("number_words", "num2words")])
def test_a_missing_package_is_one_line(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.dates", None)
    with pytest.raises(JaxgenError, match=r"which is missing: pip install 'jaxgen\[text\]'") as error:
        tables.read(name, labelled=False, data_dir=tmp_path)
    assert "\n" not in str(error.value)
