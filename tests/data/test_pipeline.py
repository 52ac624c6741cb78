"""Orders, and the batches read in them: on the host, on the device, and for evaluation."""

import json
import threading
from typing import Any

import jax
import numpy as np
import pytest

from jaxgen.data import (
    BatchOrder,
    HostBatches,
    evaluation_batches,
    from_arrays,
    gather_batch,
    training_batches,
)
from jaxgen.errors import JaxgenError, UsageError

RNG = np.random.default_rng(0)
ARRAYS = {
    "image": RNG.integers(0, 256, (50, 4, 4, 1), np.uint8),
    "label": np.arange(50, dtype=np.int32),
    "extra": RNG.normal(size=(50, 3)).astype(np.float32),
}
SOURCE = from_arrays(ARRAYS)


def take(batches: Any, count: int) -> list[dict[str, np.ndarray]]:
    return [next(batches) for _ in range(count)]


def assert_same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert jax.tree.map(lambda leaf: leaf.dtype.name, one) == jax.tree.map(
        lambda leaf: leaf.dtype.name, other
    )


@pytest.mark.parametrize(("num_examples", "batch_size"), [(50, 16), (48, 16), (7, 7), (5, 1), (17, 16)])
def test_every_epoch_holds_each_example_once(num_examples: int, batch_size: int) -> None:
    order = BatchOrder(num_examples, batch_size, seed=3)
    assert order.steps_per_epoch == -(-num_examples // batch_size)
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        batches = [order(step) for step in steps]
        for indices, weights in batches:
            assert indices.shape == weights.shape == (batch_size,)
            assert indices.dtype == np.int32 and weights.dtype == np.float32
            assert indices.min() >= 0 and indices.max() < num_examples
        assert all(weights.all() for _, weights in batches[:-1])
        real = np.concatenate([indices[weights > 0] for indices, weights in batches])
        assert sorted(real) == list(range(num_examples))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    order = BatchOrder(50, 16, seed=1)
    epochs = [np.concatenate([order(4 * epoch + step)[0] for step in range(4)]) for epoch in range(3)]
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])
    again = BatchOrder(50, 16, seed=1)
    assert_same(again(11), order(11))  # the twelfth step asked for first
    assert not np.array_equal(BatchOrder(50, 16, seed=2)(0)[0], order(0)[0])
    plain = BatchOrder(50, 16, seed=1, shuffle=False)
    assert plain(5)[0].tolist() == list(range(16, 32))
    # Fixed for ever: a resumed run goes on in the order that it began in.
    assert BatchOrder(10, 5, seed=0)(2)[0].tolist() == [1, 5, 6, 4, 8]


def test_stacked_is_the_steps_one_by_one() -> None:
    order = BatchOrder(50, 16, seed=1)
    for start, count in ((0, 1), (2, 9), (3, 1), (4, 4)):
        indices, weights = order.stacked(start, count)
        for row in range(count):
            assert_same((indices[row], weights[row]), order(start + row))


@pytest.mark.parametrize(
    ("batch_size", "seed", "message"),
    [
        (0, 0, "at least 1, not 0"),
        (-3, 0, "not -3"),
        (51, 0, "training set of 50"),
        (5, -1, "seed must be 0"),
    ],
)
def test_impossible_orders(batch_size: int, seed: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BatchOrder(50, batch_size, seed)


def test_host_and_device_give_the_same_bits() -> None:
    order = BatchOrder(50, 16, seed=5)
    gather = jax.jit(gather_batch)
    on_device = jax.device_put(dict(SOURCE.arrays()))
    with HostBatches(SOURCE, order) as batches:
        for step, host in enumerate(take(batches, 9)):
            assert_same(host, jax.device_get(gather(on_device, *order(step))))


def test_state_restored_anywhere_gives_the_rest() -> None:
    order = BatchOrder(50, 16, seed=5)
    with HostBatches(SOURCE, order) as batches:
        whole = take(batches, 12)
    for consumed in (0, 1, 4, 7):
        with HostBatches(SOURCE, order, num_threads=2) as first:
            take(first, consumed)
            state = json.loads(json.dumps(first.get_state()))
            assert_same(
                take(first, 2), whole[consumed : consumed + 2]
            )  # asking for the state changes nothing
        with HostBatches(SOURCE, order) as second:
            take(second, 3)
            second.set_state(state)
            assert_same(take(second, 12 - consumed), whole[consumed:])
        with HostBatches(SOURCE, order, consumed) as third:
            assert third.get_state() == state
            assert_same(take(third, 12 - consumed), whole[consumed:])


def test_restoring_reads_nothing_before() -> None:
    seen = []

    def note(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(batch["label"].tolist())
        return {"label": batch["label"] * 2, "weight": batch["weight"]}

    order = BatchOrder(50, 5, seed=5)
    with HostBatches(SOURCE, order, 1000, num_threads=1, transform=note) as batches:
        assert next(batches)["label"].tolist() == (order(1000)[0] * 2).tolist()
    assert seen[0] == order(1000)[0].tolist() and len(seen) <= 4


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_share_each_batch(count: int) -> None:
    order = BatchOrder(50, 16, seed=5)
    with HostBatches(SOURCE, order) as batches:
        whole = take(batches, 6)
    parts = []
    for index in range(count):
        with HostBatches(SOURCE, order, process_index=index, process_count=count) as batches:
            parts.append(take(batches, 6))
    assert all(len(batch["label"]) == 16 // count for part in parts for batch in part)
    joined = [jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches) for batches in zip(*parts)]  # noqa: B905
    assert_same(joined, whole)


def test_uneven_share_is_refused() -> None:
    with pytest.raises(UsageError, match="batch of 16 can't be shared out evenly to 3 hosts"):
        HostBatches(SOURCE, BatchOrder(50, 16, 0), process_count=3)


def test_threads_end() -> None:
    before = set(threading.enumerate())
    batches = HostBatches(SOURCE, BatchOrder(50, 16, seed=5))
    take(batches, 2)
    assert set(threading.enumerate()) - before
    batches.close()
    batches.close()
    for thread in set(threading.enumerate()) - before:  # they finish what they are at
        thread.join(5)
        assert not thread.is_alive()
    assert next(batches)["label"].tolist() == BatchOrder(50, 16, seed=5)(2)[0].tolist()
    batches.close()


def test_what_fails_in_a_thread_reaches_the_loop() -> None:
    def fail(batch: Any) -> Any:
        raise JaxgenError("the files are damaged")

    with HostBatches(SOURCE, BatchOrder(50, 16, 0), transform=fail) as batches:
        with pytest.raises(JaxgenError) as raised:
            next(batches)
        assert str(raised.value) == "the files are damaged"


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50, 64])
@pytest.mark.parametrize("count", [1, 3])
def test_evaluation_sees_every_example_once(batch_size: int, count: int) -> None:
    hosts = [
        list(evaluation_batches(SOURCE, batch_size, process_index=index, process_count=count))
        for index in range(count)
    ]
    assert len({len(batches) for batches in hosts}) == 1, "else the hosts wait for one another"
    seen: list[int] = []
    for step in zip(*hosts, strict=True):
        shapes = {batch["label"].shape for batch in step}
        assert shapes == {(-(-batch_size // count),)}
        for batch in step:
            seen += batch["label"][batch["weight"] > 0].tolist()
            np.testing.assert_array_equal(batch["image"], ARRAYS["image"][batch["label"]])
    assert seen == list(range(50))


def test_evaluation_of_arrays() -> None:
    (batch,) = evaluation_batches({"label": [1, 2, 3]}, 4)
    assert batch["label"].tolist() == [1, 2, 3, 1] and batch["weight"].tolist() == [1, 1, 1, 0]
    with pytest.raises(UsageError, match="at least 1"):
        next(evaluation_batches(SOURCE, 0))


def test_training_batches_are_those_that_are_trained_on() -> None:
    order = BatchOrder(50, 16, seed=3)
    expected = take(HostBatches(SOURCE, order), 2 * order.steps_per_epoch)
    assert_same(list(training_batches(ARRAYS, 16, epochs=2, seed=3)), expected)
