"""The copy task made on the spot."""

import numpy as np
import pytest

from jaxgen.data import copying
from jaxgen.data.sources import load
from jaxgen.errors import UsageError


def written(source):
    return {
        name: ["".join(source.class_names[token] for token in row) for row in rows]
        for name, rows in source.arrays().items()
    }


@pytest.mark.parametrize(
    ("name", "lag", "symbols"),
    [("copy", 100, 5), ("copy/7", 7, 5), ("copy/4/20", 4, 20), ("copy/1/2", 1, 2), ("copy/9/3", 9, 3)],
)
def test_each_symbol_is_to_be_written_after_the_lag_and_no_target_is_in_both_splits(name, lag, symbols):
    found = {}
    for split in ("train", "test"):
        source = load(name, split)
        examples = written(source)
        for read, target in zip(examples["input"], examples["target"], strict=True):
            assert read == target + (lag - 1) * "·" + "?" + symbols * "·"
            assert len(target) == symbols and set(target) <= set("abcdefgh")
        assert source.shape == (lag + 2 * symbols,)
        found[split] = set(examples["target"])
        assert len(found[split]) == len(source)
    assert not found["train"] & found["test"]


def test_the_usual_set_has_all_symbols_alike_at_every_place():
    train, test = load("copy/100", "train"), load("copy/100", "test")
    assert (len(train), len(test)) == (29_481, 2_000)
    for place in train.arrays()["target"].T:
        assert np.bincount(place, minlength=8).min() > 3_500 and place.max() == 7


def test_it_is_always_the_same_and_of_the_same_symbols_at_every_lag():
    first, again, other = (load(name, "test").arrays()["target"] for name in ("copy/5", "copy/5", "copy/6"))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, other)


def test_parts_of_splits():
    whole, head, tail = (
        load("copy/5/3", f"train{part}").arrays()["target"] for part in ("", "[:75%]", "[75%:]")
    )
    np.testing.assert_array_equal(np.concatenate([head, tail]), whole)


@pytest.mark.parametrize(
    ("name", "split", "told"),
    [
        ("copy/0", "train", "the lag is 1 to 1000 steps"),
        ("copy/1001", "train", "the lag is 1 to 1000 steps"),
        ("copy/100/1", "train", "there are 2 to 20 symbols to remember"),
        ("copy/100/21", "train", "there are 2 to 20 symbols to remember"),
        ("copy", "validation", "has the splits train and test"),
    ],
)
def test_what_there_is_not_is_one_line(name, split, told):
    with pytest.raises(UsageError, match=told):
        load(name, split)


def test_other_names_are_left_to_others():
    assert not any(map(copying.is_copying, ("copying", "copy/x", "data/copy", "copy/3/4/5", "copy/")))
