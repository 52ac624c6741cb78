"""Buckets: few shapes, little padding, every pair once an epoch, and the same batches for the same seed and step."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tokenizers

from jaxgen.data import tables
from jaxgen.data.buckets import Bucket, Buckets, choose_buckets
from jaxgen.data.orders import BatchOrder, BucketOrder, order_of
from jaxgen.data.pipeline import HostBatches, bucketed_batches, training_batches
from jaxgen.data.sequences import Row, SequenceFormat, Table
from jaxgen.data.subwords import Subwords
from jaxgen.data.tokenizers import Characters
from jaxgen.errors import UsageError

RANDOM = np.random.default_rng(0)
READ = RANDOM.integers(1, 41, 3000)
LENGTHS = np.stack([READ, np.clip(READ + RANDOM.integers(-4, 5, 3000), 1, 44)], axis=1)
LONGEST = (42, 46)
ALPHABET = Characters("_abcdefgh")


def pairs(lengths):
    letters = np.array([*"abcdefgh"])
    return [
        Row(*("".join(RANDOM.choice(letters, length)) for length in pair), f"line {number}")
        for number, pair in enumerate(lengths)
    ]


TABLE = Table("made up", {"train": pairs(LENGTHS[:400]), "test": pairs(LENGTHS[400:450])}, (), "1")
FORM = TABLE.bucketed(SequenceFormat(ALPHABET, 42, target_length=46), 1000, most_buckets=4)
SOURCES = TABLE.sources(FORM)


@pytest.mark.parametrize("most", [1, 2, 5, 12])
def test_shapes_are_few_and_of_about_as_many_tokens(most):
    shapes = choose_buckets(LENGTHS, 3000, LONGEST, most=most)
    assert len(shapes) <= most and len({shape[:2] for shape in shapes}) == len(shapes)
    assert shapes == choose_buckets(LENGTHS[::-1], 3000, LONGEST, most=most)
    assert shapes[-1][:2] == LONGEST and [*shapes] == sorted(shapes, key=lambda shape: shape[0] + shape[1])
    for shape in shapes:
        assert shape.rows % 8 == 0 and shape.size <= 3000 < shape.size + 8 * (shape.tokens + shape.labels)
    buckets = Buckets(shapes, LENGTHS)
    # Each pair is in the smallest bucket that has room for it.
    for pair, number in zip(LENGTHS.tolist(), buckets.numbers, strict=True):
        fitting = [n for n, s in enumerate(shapes) if s.tokens >= pair[0] and s.labels >= pair[1]]
        assert number == fitting[0]


def test_more_buckets_make_less_padding():
    padding = [
        Buckets(choose_buckets(LENGTHS, 3000, LONGEST, most=most), LENGTHS).padding
        for most in (1, 2, 4, 8, 12)
    ]
    assert padding == sorted(padding, reverse=True) and padding[0] > 0.5 and padding[-1] < 0.2
    order = BucketOrder(Buckets(choose_buckets(LENGTHS, 3000, LONGEST, most=8), LENGTHS), 0)
    whole = sum(order.bucket(step).size for step in range(order.steps_per_epoch))
    assert padding[3] == pytest.approx(1 - LENGTHS.sum() / whole)


@pytest.mark.shared_data
def test_sixteen_buckets_leave_less_than_a_tenth_of_padding(shared_data):
    table = tables.read(str(shared_data / "text" / "es_en"), labelled=False, columns=("2", "3"))
    made = tokenizers.Tokenizer.from_str(Subwords.train(table.texts(), 4000).serialised)
    sides = (table.texts_to_read(), table.texts_to_write())
    lengths = np.stack([[len(row.ids) + 1 for row in made.encode_batch(side)] for side in sides], axis=1)
    shapes = choose_buckets(lengths, 3000, tuple(map(int, lengths.max(axis=0))))
    assert len(shapes) <= 16 and Buckets(shapes, lengths).padding < 0.1


def test_no_other_side_of_a_bucket_saves_tokens():
    shapes = [shape[:2] for shape in choose_buckets(LENGTHS, 3000, LONGEST, most=5)]

    def cost(shapes):
        sums = np.array([sum(shape) for shape in shapes])
        fits = (LENGTHS[:, None] <= np.array(shapes)).all(axis=2)
        return np.where(fits, sums, 10_000).min(axis=1).sum()

    for place, axis, by in itertools.product(range(len(shapes) - 1), (0, 1), (-8, -4, -2, -1, 1, 2, 4, 8)):
        moved = [[*shape] for shape in shapes]
        moved[place][axis] += by
        assert cost(moved) >= cost(shapes)


def test_a_set_of_one_length_has_one_bucket_and_no_padding_but_its_last_rows():
    lengths = np.full((64, 2), 5)
    shapes = choose_buckets(lengths, 320, (5, 5))
    assert shapes == (Bucket(5, 5, 32),) and Buckets(shapes, lengths).padding == 0.0
    assert Buckets(shapes, lengths[:48]).padding == pytest.approx(0.25)


def test_what_there_is_no_room_for():
    with pytest.raises(
        UsageError,
        match="have no room for 8 pairs of texts of 42 and 46: give --batch-tokens 704 or more, or lower limits",
    ):
        choose_buckets(LENGTHS, 703, LONGEST)
    with pytest.raises(UsageError, match="there can't be 0 buckets"):
        choose_buckets(LENGTHS, 3000, LONGEST, most=0)
    with pytest.raises(UsageError, match="longer than the largest bucket"):
        Buckets((Bucket(3, 3, 8),), np.array([[4, 1]])).numbers  # noqa: B018
    with pytest.raises(UsageError, match="the seed must be 0 or more"):
        BucketOrder(Buckets(FORM.buckets, LENGTHS), -1)


def test_every_pair_comes_once_an_epoch_in_a_batch_that_has_room_for_it():
    source, order = SOURCES["train"], order_of(SOURCES["train"], 64, seed=3)
    assert isinstance(order, BucketOrder) and 1 < len(order.batch_sizes) <= 4
    epochs = []
    for epoch in range(2):
        seen = []
        for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
            indices, weights = order(step)
            bucket = order.bucket(step)
            assert len(indices) == bucket.rows and bucket.size <= 1000
            assert (source.buckets.lengths[indices] <= bucket[:2]).all()
            seen += indices[weights > 0].tolist()
        assert sorted(seen) == [*range(400)]
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_the_order_is_a_function_of_seed_and_step():
    def steps(seed, which):
        order = order_of(SOURCES["train"], 64, seed)
        return [(order.bucket(step), *map(np.ndarray.tolist, order(step))) for step in which]

    count = order_of(SOURCES["train"], 64, 0).steps_per_epoch
    forth, back = steps(1, range(2 * count)), steps(1, reversed(range(2 * count)))
    assert forth == back[::-1] and forth != steps(2, range(2 * count))
    order = order_of(SOURCES["train"], 64, 1)
    assert [leaf[0].tolist() for leaf in order.stacked(3, 1)] == [*forth[3][1:]]
    # Short and long ones are mixed.
    assert len({bucket for bucket, *_ in forth[:6]}) > 1


def test_batches_are_the_texts_without_their_padding():
    source, order = SOURCES["train"], order_of(SOURCES["train"], 64, 0)
    whole = source.arrays()
    batches = list(training_batches(source, 64, epochs=1, seed=0))
    assert len(batches) == order.steps_per_epoch
    for step, batch in enumerate(batches):
        indices, bucket = order(step)[0], order.bucket(step)
        assert batch["tokens"].shape == (bucket.rows, bucket.tokens)
        assert batch["labels"].shape == (bucket.rows, bucket.labels)
        for name, rest in (("tokens", 0), ("labels", -1)):
            width = batch[name].shape[1]
            np.testing.assert_array_equal(batch[name], whole[name][indices][:, :width])
            assert (whole[name][indices][:, width:] == rest).all()
        np.testing.assert_array_equal(batch["lengths"], whole["lengths"][indices])


def test_host_batches_go_on_where_they_were_and_are_shared_out():
    source, order = SOURCES["train"], order_of(SOURCES["train"], 64, 5)
    with HostBatches(source, order) as batches:
        first = list(itertools.islice(batches, 7))
        state = batches.get_state()
    with HostBatches(source, order) as batches:
        batches.set_state({"next_step": 3})
        again = list(itertools.islice(batches, 4))
    assert state == {"next_step": 7}
    for one, other in zip(first[3:], again, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    with HostBatches(source, order, process_index=1, process_count=2) as batches:
        half = next(batches)
    rows = len(first[0]["weight"])
    np.testing.assert_array_equal(half["tokens"], first[0]["tokens"][rows // 2 :])
    with pytest.raises(UsageError, match="can't be shared out evenly to 16 hosts"):
        HostBatches(source, order, process_count=16)


@pytest.mark.parametrize("devices", [1, 3, 8, 16])
def test_evaluation_covers_every_pair_once_whatever_the_number_of_devices(devices):
    source = SOURCES["test"]
    numbered = replace(source, reader=_Numbered(source.reader))
    seen = []
    for batch in bucketed_batches(numbered, devices):
        assert len(batch["weight"]) % devices == 0
        seen += batch["number"][batch["weight"] > 0].tolist()
    assert sorted(seen) == [*range(len(source))]


class _Numbered:
    def __init__(self, reader):
        self.reader = reader

    def __len__(self):
        return len(self.reader)

    def __call__(self, rows):
        return {**self.reader(rows), "number": rows}


def test_splits_have_the_shapes_of_training():
    assert SOURCES["test"].buckets.shapes == SOURCES["train"].buckets.shapes == FORM.buckets
    assert FORM.buckets[-1][:2] == (42, 46)
    plain = TABLE.sources(replace(FORM, buckets=()))["train"]
    assert plain.buckets is None and isinstance(order_of(plain, 64, 0), BatchOrder)
    labelled = Table("made up", {"train": [Row("ab", "x", ""), Row("abcd", "y", "")] * 16}, ("x", "y"), "1")
    source = labelled.source("train", labelled.bucketed(SequenceFormat(ALPHABET, 4), 32))
    batches = list(training_batches(source, 1))
    assert {(*batch["tokens"].shape, *batch["label"].shape) for batch in batches} == {(16, 2, 16), (8, 4, 8)}
