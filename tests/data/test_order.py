"""Which examples make up each batch: every one once an epoch, in an order that is a function of the seed."""

import numpy as np
import pytest

from jaxgen.data import BatchOrder
from jaxgen.errors import UsageError

SIZES = [(10, 5), (10, 4), (10, 10), (7, 1), (1, 1), (1437, 64)]


def epoch(order: BatchOrder, number: int) -> tuple[np.ndarray, np.ndarray]:
    """All indices and weights of an epoch, asked for a step at a time."""
    first = number * order.steps_per_epoch
    steps = [order(step) for step in range(first, first + order.steps_per_epoch)]
    return np.concatenate([indices for indices, _ in steps]), np.concatenate(
        [weights for _, weights in steps]
    )


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("examples", "batch"), SIZES)
def test_an_epoch_has_each_example_once(examples: int, batch: int, shuffle: bool) -> None:
    order = BatchOrder(examples, batch, seed=3, shuffle=shuffle)
    for number in range(3):
        indices, weights = epoch(order, number)
        assert set(weights.tolist()) <= {0.0, 1.0}
        assert sorted(indices[weights == 1].tolist()) == list(range(examples))
        assert indices.min() >= 0 and indices.max() < examples  # padding too is rows of the set


@pytest.mark.parametrize(("examples", "batch"), SIZES)
def test_only_the_end_of_an_epoch_is_padded(examples: int, batch: int) -> None:
    order = BatchOrder(examples, batch, seed=0)
    assert order.steps_per_epoch == int(np.ceil(examples / batch))
    _, weights = epoch(order, 1)
    np.testing.assert_array_equal(weights, (np.arange(len(weights)) < examples).astype(np.float32))


def test_mnist_at_64_has_938_steps_an_epoch() -> None:
    order = BatchOrder(60_000, 64, seed=0)
    assert order.steps_per_epoch == 938
    assert order(937)[1].sum() == 60_000 - 937 * 64


def test_types() -> None:
    indices, weights = BatchOrder(10, 4, seed=0)(0)
    assert (indices.dtype, weights.dtype, indices.shape, weights.shape) == (np.int32, np.float32, (4,), (4,))


def test_unshuffled_is_the_sets_own_order() -> None:
    order = BatchOrder(10, 4, seed=5, shuffle=False)
    np.testing.assert_array_equal(order(0)[0], [0, 1, 2, 3])
    np.testing.assert_array_equal(order(2)[0][:2], [8, 9])
    np.testing.assert_array_equal(order(3)[0], [0, 1, 2, 3])


def test_epochs_and_seeds_differ() -> None:
    orders = [
        epoch(BatchOrder(100, 10, seed=seed), number)[0].tolist() for seed in (0, 1) for number in (0, 1, 2)
    ]
    assert len(set(map(tuple, orders))) == len(orders)
    assert all(indices != list(range(100)) for indices in orders)


def test_a_step_depends_on_nothing_asked_before() -> None:
    asked_in_turn = [BatchOrder(23, 4, seed=8)(step) for step in range(60)]
    order = BatchOrder(23, 4, seed=8)
    for step in (59, 0, 31, 30, 6, 59):
        np.testing.assert_array_equal(order(step)[0], asked_in_turn[step][0])
        np.testing.assert_array_equal(order(step)[1], asked_in_turn[step][1])


def test_the_batch_size_does_not_change_the_order() -> None:
    # So that a run can be repeated with another batch size on the same permutations.
    np.testing.assert_array_equal(
        epoch(BatchOrder(60, 4, seed=1), 2)[0], epoch(BatchOrder(60, 12, seed=1), 2)[0]
    )


def test_the_order_of_a_seed_is_fixed_for_ever() -> None:
    # Runs made by earlier versions resume on these.
    np.testing.assert_array_equal(BatchOrder(10, 10, seed=0)(0)[0], [8, 0, 3, 7, 6, 4, 1, 5, 2, 9])
    np.testing.assert_array_equal(BatchOrder(10, 10, seed=7)(3)[0], [0, 9, 3, 6, 5, 1, 8, 7, 4, 2])


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 3), (2, 7), (5, 20), (299, 4)])
def test_stacked_equals_single_steps(first: int, count: int) -> None:
    order = BatchOrder(11, 4, seed=2)
    indices, weights = order.stacked(first, count)
    singles = [order(step) for step in range(first, first + count)]
    np.testing.assert_array_equal(indices, np.stack([single for single, _ in singles]))
    np.testing.assert_array_equal(weights, np.stack([single for _, single in singles]))
    assert indices.dtype == np.int32 and weights.dtype == np.float32


@pytest.mark.parametrize(
    ("batch", "said"),
    [(0, "at least 1, not 0"), (-4, "at least 1, not -4"), (11, "11 is larger than the training set of 10")],
)
def test_impossible_batch_sizes_are_refused(batch: int, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        BatchOrder(10, batch, seed=0)
    assert "\n" not in str(caught.value)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed"):
        BatchOrder(10, 2, seed=-1)


def test_batches_cannot_be_changed_by_their_users() -> None:
    indices, _ = BatchOrder(10, 5, seed=0)(0)
    with pytest.raises(ValueError, match="read-only"):
        indices[0] = 3
