"""What the contenders' processes have in common: the peak of a matrix product, jaxgen's training, and taking orders."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

PEAK_SIZE = 2048

Work = Callable[[int], Any]


def peak(multiply: Callable[[], Any]) -> float:
    """Gives the best of several multiplications of square matrices, in FLOP/s."""
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - start)
    return 2 * PEAK_SIZE**3 / best


def jax_peak() -> float:
    """Gives XLA's."""
    import jax
    import jax.numpy as jnp

    square = jnp.ones((PEAK_SIZE, PEAK_SIZE))
    multiply = jax.jit(lambda a: a @ a)
    return peak(lambda: multiply(square).block_until_ready())


def torch_peak() -> float:
    """Gives PyTorch's."""
    import torch

    square = torch.ones(PEAK_SIZE, PEAK_SIZE)
    return peak(lambda: square @ square)


def jaxgen_training(
    task: Any,
    source: Any,
    batch_size: int,
    steps_per_call: int,
    optimizer: Any = None,
    lap: int | None = None,
    ema_decay: float | None = None,
) -> Work:
    """Makes what trains a task as `fit` does, by Adam unless another optimiser is given, the set on the device.

    Where a lap is given, it goes on with the first batch again after so many, by as many steps a call as divide it.
    """
    import jax
    import optax

    from jaxgen import TrainState
    from jaxgen.data.orders import order_of
    from jaxgen.parallel import make_mesh, put_state
    from jaxgen.train.feed import ResidentFeed
    from jaxgen.train.fit import make_step

    order = order_of(source, batch_size, seed=0)
    mesh = make_mesh()
    feed = ResidentFeed(source, order, mesh, steps_per_call)
    optimizer = optimizer or optax.adam(1e-3)
    example = source.gather(order(0)[0])
    state = TrainState.create(task, optimizer, jax.random.key(0), example, ema=ema_decay is not None)
    state = put_state(state, mesh)
    run = feed.bind(make_step(task, optimizer, mesh, ema_decay=ema_decay), state)
    position = 0

    def train(steps: int) -> None:
        nonlocal state, position
        end = position + steps
        while position < end:
            count = min(feed.steps_per_call, end - position)
            state, _ = run(state, position if lap is None else position % lap, count)
            position += count
        jax.block_until_ready(state.params)

    return train


def slices(examples: int, batch_size: int, steps: int) -> Iterator[slice]:
    """Gives the rows of one batch after the other, round and round."""
    for step in range(steps):
        start = step * batch_size % (examples - batch_size)
        yield slice(start, start + batch_size)


def serve(make: Callable[[], tuple[Work, float]], warm_up: int) -> None:
    """Makes a contender, warms it up, prints its peak, and then the seconds of each number of steps that it reads."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    work, found = make()
    work(warm_up)
    print(found, file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        work(int(line))
        print(time.perf_counter() - start, file=answers, flush=True)
