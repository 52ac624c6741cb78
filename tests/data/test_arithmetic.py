"""Additions made on the spot."""

import numpy as np
import pytest

from jaxgen.data import arithmetic
from jaxgen.data.sources import load
from jaxgen.errors import UsageError


def written(source):
    arrays = source.arrays()
    return [
        tuple("".join(source.class_names[token] for token in row) for row in (question, answer))
        for question, answer in zip(arrays["input"], arrays["target"], strict=True)
    ]


@pytest.mark.parametrize(("name", "digits"), [("addition", 3), ("addition/1", 1), ("addition/5", 5)])
def test_answers_are_right_and_no_pair_is_in_both_splits(name, digits):
    pairs = {}
    for split in ("train", "test"):
        examples = written(load(name, split))
        for question, answer in examples:
            assert (len(question), len(answer)) == (2 * digits + 1, digits + 1)
            assert sum(map(int, question.split("+"))) == int(answer)
        pairs[split] = {tuple(sorted(map(int, question.split("+")))) for question, _ in examples}
        assert len(pairs[split]) == len(examples)
    assert not pairs["train"] & pairs["test"]


def test_the_usual_set_has_numbers_of_every_length():
    examples = written(load("addition/3", "train"))
    assert len(examples) == 122_241 and len(load("addition/3", "test")) == 5_000
    counts = np.bincount([len(number) for question, _ in examples for number in question.strip().split("+")])
    assert counts[1:].min() > 5_000


def test_reversed_questions_are_the_others_from_right_to_left():
    for plain, turned in zip(
        written(load("addition/2", "test")), written(load("addition/2/reversed", "test")), strict=True
    ):
        assert (plain[0][::-1], plain[1]) == turned


def test_parts_of_splits():
    whole, head, tail = (written(load("addition/2", f"train{part}")) for part in ("", "[:75%]", "[75%:]"))
    assert head + tail == whole and len(head) == round(0.75 * len(whole))


@pytest.mark.parametrize(
    ("name", "split", "told"),
    [
        ("addition/0", "train", "numbers have 1 to 9 digits"),
        ("addition/10", "train", "numbers have 1 to 9 digits"),
        ("addition", "validation", "has the splits train and test"),
        ("addition", "train[90%", "has the splits train and test"),
        ("addition", "train[:0]", "has the splits train and test"),
    ],
)
def test_what_there_is_not_is_one_line(name, split, told):
    with pytest.raises(UsageError, match=told):
        load(name, split)


def test_other_names_are_left_to_others():
    assert not any(
        map(arithmetic.is_addition, ("additions", "addition/x", "data/addition", "addition/3/backwards"))
    )
