"""N-grams that may not come again: the rule against an obvious one, and in the loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import VOCABULARY, RecurrentToy, Table, params_of

from jaxgen.errors import UsageError
from jaxgen.generate import History, NoRepeatNgrams, PresencePenalty, Sampler, generate, pad_prompts, stream


def ngrams(tokens, size):
    return [tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]


def forbidden(tokens, size):
    """The tokens that would complete an n-gram that is there."""
    before = ngrams(tokens, size)
    return {token for token in range(VOCABULARY) if tuple([*tokens, token][-size:]) in before}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_rule_is_the_obvious_one(size):
    rng = np.random.default_rng(size)
    rows = [rng.integers(0, 3, rng.integers(1, 20)).tolist() for _ in range(200)]
    tokens, lengths = pad_prompts(rows)
    tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] = 1  # whatever stands there
    logits = rng.normal(size=(200, VOCABULARY)).astype(np.float32)
    history = History(jnp.asarray(tokens), jnp.asarray(lengths))
    got = np.asarray(jax.jit(NoRepeatNgrams(size))(logits, history))
    for row, row_tokens in enumerate(rows):
        ruled_out = np.flatnonzero(np.isneginf(got[row])).tolist()
        assert ruled_out == sorted(forbidden(row_tokens, size) if len(row_tokens) >= size else set())
        kept = np.isfinite(got[row])
        np.testing.assert_array_equal(got[row][kept], logits[row][kept])


def test_rows_that_are_too_short_for_any():
    history = History(jnp.array([[1, 1]]), jnp.array([2]))
    np.testing.assert_array_equal(NoRepeatNgrams(3)(jnp.zeros((1, 4)), history), np.zeros((1, 4)))


PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5, 8]]


@pytest.mark.parametrize("sampler", [Sampler(greedy=True), Sampler.of(temperature=0.3)])
def test_nothing_is_written_twice(sampler):
    """The prompt's n-grams count, too; and without the rule they do come again."""

    def written(rules):
        got = generate(
            RecurrentToy(),
            params_of(RecurrentToy()),
            {},
            *pad_prompts(PROMPTS),
            jax.random.key(0),
            max_tokens=30,
            sampler=Sampler((*rules, *sampler.rules), sampler.greedy),
            num_samples=2,
        )
        return [[*PROMPTS[row // 2], *tokens.tolist()] for row, tokens in enumerate(got.tokens)]

    for row in written([NoRepeatNgrams(2)]):
        assert len(set(ngrams(row, 2))) == len(ngrams(row, 2))
    assert any(len(set(ngrams(row, 2))) < len(ngrams(row, 2)) for row in written([]))


def test_greedy_takes_the_best_of_what_is_left():
    table = np.random.default_rng(1).normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32)
    sampler = Sampler.of(temperature=0.0, no_repeat_ngrams=2, presence_penalty=0.5)
    assert [type(rule) for rule in sampler.rules][:2] == [PresencePenalty, NoRepeatNgrams]
    prompt, lengths = pad_prompts(PROMPTS)
    chunks = stream(
        Table(),
        table,
        {},
        prompt,
        lengths,
        jax.random.key(0),
        max_tokens=20,
        chunk=7,
        sampler=sampler,
    )
    tokens = np.concatenate([chunk.tokens for chunk in chunks], axis=1)
    for row, prompt_tokens in enumerate(PROMPTS):
        expected = list(prompt_tokens)
        for _ in range(20):
            logits = table[expected[-1]] - 0.5 * np.isin(np.arange(VOCABULARY), expected)
            logits[list(forbidden(expected, 2))] = -np.inf
            expected.append(int(np.argmax(logits)))
        assert tokens[row].tolist() == expected[len(prompt_tokens) :]


def test_impossible_sizes_are_refused():
    with pytest.raises(UsageError, match="size of n-grams is 0; it must be at least 1"):
        NoRepeatNgrams(0)
