"""Optimisers and schedules by name."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.errors import UsageError
from jaxgen.optim import OptimizerConfig, Schedule, optimizers, train_only

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.array([0.5, -0.5])}
GRADIENTS = jax.tree.map(lambda leaf: 0.1 * leaf + 0.2, PARAMS)


def after(optimizer, steps=3, gradients=GRADIENTS):
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_plain_names_are_optaxs_own():
    assert_equal(after(OptimizerConfig().build()), after(optax.adam(1e-3)))
    assert_equal(after(OptimizerConfig("sgd", Schedule(learning_rate=0.1)).build()), after(optax.sgd(0.1)))
    momentum = OptimizerConfig("momentum", Schedule(learning_rate=0.1), momentum=0.8).build()
    assert_equal(after(momentum), after(optax.sgd(0.1, momentum=0.8)))


def test_the_names_are_found_in_optax():
    for name in ("adam", "adamw", "sgd", "lion", "adagrad", "rmsprop", "lamb", "nadam", "adafactor"):
        assert optimizers()[name] is getattr(optax, name)
    assert not any(
        "learning_rate" not in inspect.signature(make).parameters for make in optimizers().values()
    )


@pytest.mark.parametrize("name", sorted(optimizers()))
def test_every_optimiser_takes_a_step(name):
    moved = after(OptimizerConfig(name, Schedule(learning_rate=1e-2)).build(), steps=2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moved))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(PARAMS), strict=True))


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adam"])
def test_weight_decay_is_for_weights_alone(name):
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    moved = after(OptimizerConfig(name, Schedule(learning_rate=0.1), weight_decay=0.5).build(), 1, zeros)
    np.testing.assert_array_equal(moved["bias"], PARAMS["bias"])
    assert (abs(moved["kernel"]) < abs(PARAMS["kernel"])).all()
    unmoved = after(OptimizerConfig(name, Schedule(learning_rate=0.1), weight_decay=0.0).build(), 1, zeros)
    np.testing.assert_array_equal(unmoved["kernel"], PARAMS["kernel"])


def test_moments_decay_as_told():
    for name in ("adam", "adamw"):
        told = OptimizerConfig(name, beta1=0.2, beta2=0.5, weight_decay=None).build()
        assert_equal(after(told), after(getattr(optax, name)(1e-3, b1=0.2, b2=0.5)))


def test_clipping_comes_first():
    clipped = OptimizerConfig("sgd", Schedule(learning_rate=1.0), clip_norm=0.1).build()
    moved = after(clipped, steps=1)
    change = jax.tree.map(lambda a, b: a - b, moved, PARAMS)
    assert optax.global_norm(change) == pytest.approx(0.1, rel=1e-5)


def test_frozen_parameters_are_neither_moved_nor_decayed_nor_kept_account_of():
    params = {"a": jnp.array([[1.0, -0.5]]), "b": {"c": jnp.array([[3.0, 4.0]]), "d": jnp.array([[2.0]])}}
    gradients = {"a": jnp.array([[0.3, 0.4]]), "b": {"c": jnp.array([[1e6, 1e6]]), "d": jnp.array([[0.0]])}}
    config = OptimizerConfig("adamw", Schedule(learning_rate=0.1), weight_decay=0.5, clip_norm=0.1)
    optimizer = train_only(config.build(), {"a": True, "b": {"c": False, "d": False}})
    state = optimizer.init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * 2 + 1  # two moments of `a`, and the count
    alone = config.build()
    expected, alone_state = params["a"], alone.init(params["a"])
    for _ in range(3):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        updates, alone_state = alone.update(gradients["a"], alone_state, expected)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_array_equal(params["a"], expected)
    assert params["b"]["c"].tolist() == [[3.0, 4.0]] and params["b"]["d"].tolist() == [[2.0]]


def test_schedules_at_their_key_points():
    rate = Schedule("cosine", 0.2, warmup_steps=10, horizon=110, final_fraction=0.1).build()
    expected = {0: 0.0, 5: 0.1, 10: 0.2, 60: 0.11, 110: 0.02, 200: 0.02}
    assert {step: pytest.approx(float(rate(step)), abs=1e-6) for step in expected} == expected
    rate = Schedule("linear", 0.2, horizon=100).build()
    assert [float(rate(step)) for step in (0, 50, 100)] == pytest.approx([0.2, 0.1, 0.0])
    rate = Schedule("inverse_sqrt", 0.2, warmup_steps=4).build()
    assert [float(rate(step)) for step in (2, 4, 16, 400)] == pytest.approx([0.1, 0.2, 0.1, 0.02])
    rate = Schedule("piecewise", 1.0, boundaries=(3, 6), decay=0.5).build()
    assert [float(rate(step)) for step in (0, 2, 4, 7)] == pytest.approx([1.0, 1.0, 0.5, 0.25])
    rate = Schedule("constant", 0.3, warmup_steps=3).build()
    assert [float(rate(step)) for step in (0, 3, 9)] == pytest.approx([0.0, 0.3, 0.3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig("adma"), "unknown optimizer 'adma'; did you mean adam"),
        (lambda: Schedule("cosinus"), "unknown schedule 'cosinus'; did you mean cosine"),
        (lambda: Schedule(learning_rate=0.0), "learning_rate is 0.0; it must be positive"),
        (lambda: Schedule(learning_rate=float("nan")), "learning_rate"),
        (lambda: Schedule(warmup_steps=-1), "warmup_steps is -1"),
        (lambda: Schedule("cosine", warmup_steps=10, horizon=5), "warm"),
        (lambda: Schedule("cosine").build(), "needs a horizon"),
        (lambda: Schedule("linear").build(), "needs a horizon"),
        (lambda: OptimizerConfig(clip_norm=-1.0), "clip_norm is -1.0"),
        (lambda: OptimizerConfig(weight_decay=-0.1), "weight_decay is -0.1"),
        (lambda: OptimizerConfig("momentum", momentum=1.0), "momentum is 1.0"),
        (lambda: OptimizerConfig(beta2=1.0), "beta2 is 1.0"),
        (lambda: OptimizerConfig("sgd", beta2=0.9), "the optimizer sgd has no beta2"),
        (lambda: OptimizerConfig(beta1=-0.1), "beta1 is -0.1"),
        (lambda: OptimizerConfig("sgd", beta1=0.9), "the optimizer sgd has no beta1"),
    ],
)
def test_impossible_values_are_one_line(make, message):
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
