"""The rules of sampling against slow ones, the draw's frequencies, and values that are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow

from jaxgen.errors import UsageError
from jaxgen.generate import (
    LogitBias,
    MinP,
    PresencePenalty,
    RepetitionPenalty,
    Sampler,
    Temperature,
    TopK,
    TopP,
    Typical,
)
from jaxgen.generate.drawing import draw

RULES = [
    Temperature(0.7),
    Temperature(0.0),
    TopK(1),
    TopK(5),
    TopK(1000),
    TopP(0.01),
    TopP(0.5),
    TopP(0.95),
    TopP(1.0),
    MinP(0.1),
    Typical(0.2),
    Typical(0.9),
    Typical(1.0),
    RepetitionPenalty(1.3),
    RepetitionPenalty(0.8),
    PresencePenalty(0.5),
    LogitBias({3: -np.inf, 5: 2.0, 0: -1.0}),
]


def case(scale=3.0):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 37)) * scale
    return logits.astype(np.float32), rng.integers(0, 3, (40, 37)).astype(np.int32)


@functools.cache
def compiled(rule):
    return jax.jit(rule)


def assert_same(rules, logits, counts):
    changed = logits
    for rule in rules:
        changed = compiled(rule)(changed, counts)
    for row, got in enumerate(np.asarray(changed)):
        expected = logits[row].astype(np.float64)
        for rule in rules:
            expected = slow.apply_rule(rule, expected, counts[row])
        np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rules_are_the_slow_ones(rule):
    for scale in (0.1, 3.0):
        assert_same([rule], *case(scale))


def test_rules_compose():
    everything = Sampler.of(
        temperature=0.7,
        top_k=5,
        top_p=0.95,
        min_p=0.1,
        typical_p=0.9,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        logit_bias={3: -np.inf, 5: 2.0, 0: -1.0},
    )
    assert_same(everything.rules, *case())
    kinds = [type(rule) for rule in everything.rules]
    assert kinds == [RepetitionPenalty, PresencePenalty, LogitBias, Temperature, TopK, TopP, MinP, Typical]


def test_tokens_that_are_ruled_out_stay_so():
    logits, counts = case()
    logits[:, 10:] = -np.inf
    for rule in RULES:
        changed = np.asarray(compiled(rule)(logits, counts))
        assert np.isneginf(changed[:, 10:]).all() and np.isfinite(changed[:, :10]).any(axis=1).all(), rule


def test_equals_are_kept_together():
    logits = jnp.array([[1.0, 3.0, 2.0, 2.0, 0.0]])
    for rule in (TopK(2), TopP(0.7)):
        kept = np.isfinite(compiled(rule)(logits, None))
        np.testing.assert_array_equal(kept, [[False, True, True, True, False]])
    flat = jnp.zeros((2, 9))
    np.testing.assert_array_equal(compiled(TopK(3))(flat, None), flat)


def test_large_vocabularies_keep_exactly_k():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(8, 5000)), jnp.float32)
    kept = np.isfinite(np.asarray(compiled(TopK(50))(logits, None)))
    best = np.argsort(-np.asarray(logits), axis=-1)[:, :50]
    assert (kept.sum(axis=-1) == 50).all() and np.take_along_axis(kept, best, axis=-1).all()


@pytest.mark.parametrize("vocabulary", [1, 2, 7, 65, 1000])
def test_draw_inverts_the_distribution_function(vocabulary):
    rng = np.random.default_rng(vocabulary)
    logits = rng.normal(size=(500, vocabulary)).astype(np.float32) * 2
    logits[:, ::3][:, 1:] = -np.inf
    uniforms = rng.uniform(size=500).astype(np.float32)
    drawn = np.asarray(jax.jit(draw)(logits, uniforms))
    for row, token in enumerate(drawn):
        sums = np.cumsum(slow.softmax(logits[row].astype(np.float64)))
        # The token of a number next to the border may be either one.
        borders = np.searchsorted(sums, [uniforms[row] - 1e-6, uniforms[row] + 1e-6], side="right")
        assert borders[0] <= token <= borders[1]
        assert np.isfinite(logits[row, token])


def test_draw_never_takes_what_is_ruled_out():
    rng = np.random.default_rng(0)
    logits = np.where(rng.uniform(size=(4000, 300)) < 0.02, rng.normal(size=(4000, 300)), -np.inf)
    logits[np.arange(4000), rng.integers(0, 300, 4000)] = 0  # at least one is left
    drawing = jax.jit(draw)
    for uniform in (0.0, 0.5, 1 - 2**-24):
        drawn = drawing(logits.astype(np.float32), np.full(4000, uniform, np.float32))
        assert np.isfinite(logits[np.arange(4000), drawn]).all()


def test_frequencies_are_the_probabilities():
    """Within five standard deviations for each token, and by their chi-square together."""
    count, sampler = 40_000, Sampler.of(temperature=0.8, top_k=20)
    logits = np.random.default_rng(2).normal(size=37).astype(np.float32)
    uniforms = jax.random.uniform(jax.random.key(0), (count,))
    drawn = jax.jit(sampler)(np.tile(logits, (count, 1)), None, uniforms)
    expected = logits.astype(np.float64)
    for rule in sampler.rules:
        expected = slow.apply_rule(rule, expected, None)
    probs, seen = slow.softmax(expected), np.bincount(drawn, minlength=37)
    assert (abs(seen - count * probs) <= 5 * np.sqrt(count * probs * (1 - probs))).all()
    likely = probs > 0
    chi_square = ((seen - count * probs)[likely] ** 2 / (count * probs[likely])).sum()
    assert likely.sum() == 20 and chi_square < 19 + 5 * np.sqrt(2 * 19)


def test_greedy_takes_the_first_of_the_likeliest():
    logits = jnp.array([[0.0, 2.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    for sampler in (Sampler(greedy=True), Sampler.of(temperature=0.0)):
        assert sampler.greedy
        np.testing.assert_array_equal(compiled(sampler)(logits, None, None), [1, 0])
    assert not Sampler.of(temperature=1.0).greedy


def test_nan_gives_a_token_of_the_vocabulary():
    logits = jnp.full((2, 10), jnp.nan)
    for sampler in (Sampler(), Sampler(greedy=True)):
        drawn = np.asarray(compiled(sampler)(logits, None, jnp.array([0.1, 0.9])))
        assert ((drawn >= 0) & (drawn < 10)).all()


def test_samplers_are_hashable_and_equal_by_value():
    make = lambda: Sampler.of(temperature=0.8, top_k=3, logit_bias={2: 1.0, 1: 0.5})  # noqa: E731
    assert make() == make() and hash(make()) == hash(make())
    assert make() == Sampler.of(temperature=0.8, top_k=3, logit_bias={1: 0.5, 2: 1.0})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Temperature(-1.0), "temperature is -1.0; it must be at least 0"),
        (lambda: Temperature(float("nan")), "temperature is nan; it must be at least 0"),
        (lambda: TopK(0), "top-k is 0; it must be at least 1"),
        (lambda: TopP(0.0), "top-p is 0.0; it must be above 0 and at most 1"),
        (lambda: TopP(1.01), "top-p is 1.01; it must be above 0 and at most 1"),
        (lambda: MinP(-0.1), "min-p is -0.1; it must be above 0 and at most 1"),
        (lambda: Typical(2.0), "typical-p is 2.0; it must be above 0 and at most 1"),
        (lambda: RepetitionPenalty(0.0), "repetition penalty is 0.0; it must be above 0"),
        (lambda: PresencePenalty(float("inf")), "presence penalty is inf; it must be a finite number"),
        (lambda: LogitBias({-1: 1.0}), "logit bias of token -1: tokens are numbered from 0"),
        (lambda: LogitBias({1: float("nan")}), "logit bias of token 1 is nan; it must be finite or -inf"),
        (
            lambda: LogitBias({9: 1.0})(jnp.zeros((1, 5)), None),
            "logit bias of token 9: the vocabulary has tokens 0 to 4",
        ),
    ],
)
def test_impossible_values_are_refused(make, message):
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value) == message
