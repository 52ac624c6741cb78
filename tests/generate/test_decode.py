"""The loop: against a slow one, alone and in a batch, in one go and in chunks, and how often it is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow
from decoders import RecurrentToy, Table, Traced, WindowedToy, params_of

from jaxgen.errors import UsageError
from jaxgen.generate import Sampler, generate, pad_prompts, stream

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5, 8]]
RNG = jax.random.key(7)
DRAWN = Sampler.of(temperature=0.9, top_k=8, top_p=0.95, repetition_penalty=1.1, logit_bias={0: 0.3})
GREEDY = Sampler.of(temperature=0.0, presence_penalty=0.4)
RECURRENT, WINDOWED = RecurrentToy(), WindowedToy()


def together(decoder, prompts=PROMPTS, rng=RNG, *, max_tokens=12, **options):
    return generate(
        decoder, params_of(decoder), {}, *pad_prompts(prompts), rng, max_tokens=max_tokens, **options
    )


@pytest.mark.parametrize(
    ("decoder", "sampler"),
    [(RECURRENT, DRAWN), (RECURRENT, GREEDY), (WINDOWED, DRAWN)],
    ids=["drawn", "greedy", "windowed"],
)
def test_each_row_is_what_a_slow_loop_writes_alone(decoder, sampler):
    """Ragged prompts, two samples each, a stop token: no row knows of another one, or of padding."""
    stops = (2, 10)
    prompt, lengths = pad_prompts(PROMPTS)
    prompt[np.arange(prompt.shape[1]) >= lengths[:, None]] = 7  # whatever stands there
    got = generate(
        decoder,
        params_of(decoder),
        {},
        prompt,
        lengths,
        RNG,
        max_tokens=12,
        sampler=sampler,
        stop_tokens=stops,
        num_samples=2,
    )
    assert got.tokens.shape == got.log_probs.shape == (6, 12)
    for row in range(6):
        tokens, log_probs, _ = slow.write(
            decoder, params_of(decoder), PROMPTS[row // 2], RNG, divmod(row, 2), sampler, 12, stops
        )
        assert got.tokens[row].tolist() == tokens + [0] * (12 - len(tokens))
        assert got.lengths[row] == len(tokens)
        assert got.stopped[row] == (tokens[-1] in stops)
        np.testing.assert_allclose(got.log_probs[row, : len(tokens)], log_probs, rtol=1e-5, atol=1e-5)
        assert not got.log_probs[row, len(tokens) :].any()
    assert got.stopped.any() and not got.stopped.all()


def test_rows_are_what_they_are_alone():
    whole = together(RECURRENT, sampler=GREEDY)
    for row, prompt in enumerate(PROMPTS):
        alone = together(RECURRENT, [prompt], sampler=GREEDY)
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[row])
        np.testing.assert_allclose(alone.log_probs[0], whole.log_probs[row], atol=1e-5)


def test_what_is_drawn_depends_on_neither_shapes_nor_other_rows():
    table = jnp.asarray(np.random.default_rng(5).normal(size=(11, 11)), jnp.float32)

    def tokens(prompts=PROMPTS, rng=RNG, max_tokens=12, **options):
        return generate(
            Table(), table, {}, *pad_prompts(prompts), rng, max_tokens=max_tokens, **options
        ).tokens

    expected = tokens()
    larger = tokens([*PROMPTS, [1] * 20], max_tokens=40)  # other buckets, of prompts and of new tokens
    more = tokens(num_samples=3)
    for got in (larger[:3, :12], more[::3]):
        np.testing.assert_array_equal(got, expected)
    assert (more[0] != more[1]).any() and (more[1] != more[2]).any()
    assert (tokens(rng=jax.random.key(8)) != expected).any()


@pytest.mark.parametrize("chunk", [1, 2, 5, 12, 100])
def test_chunks_are_what_is_written_in_one_go(chunk):
    options = {"sampler": DRAWN, "stop_tokens": (2, 4)}
    whole = together(RECURRENT, **options)
    chunks = list(
        stream(
            RECURRENT,
            params_of(RECURRENT),
            {},
            *pad_prompts(PROMPTS),
            RNG,
            max_tokens=12,
            chunk=chunk,
            **options,
        )
    )
    assert all(1 <= part.tokens.shape[1] <= chunk for part in chunks)
    assert len(chunks) == -(-int(whole.lengths.max()) // chunk)
    joined = np.concatenate([part.tokens for part in chunks], axis=1)
    np.testing.assert_array_equal(joined, whole.tokens[:, : joined.shape[1]])
    np.testing.assert_array_equal(
        np.concatenate([part.log_probs for part in chunks], axis=1), whole.log_probs[:, : joined.shape[1]]
    )
    np.testing.assert_array_equal(sum(part.lengths for part in chunks), whole.lengths)
    np.testing.assert_array_equal(sum(part.stopped for part in chunks), whole.stopped)


def chain(length):
    """A table in which each token is followed by the next number, for certain."""
    return 50.0 * jnp.eye(length)[(jnp.arange(length) + 1) % length]


def test_loop_ends_when_all_rows_have():
    """A chunk of a hundred tokens ends after three, and the cache counts the steps before each."""
    prompt, lengths = pad_prompts([[3], [4]])
    got = generate(Table(), chain(9), {}, prompt, lengths, RNG, max_tokens=100, stop_tokens=(6,), extras=True)
    assert got.tokens[:, :4].tolist() == [[4, 5, 6, 0], [5, 6, 0, 0]]
    assert got.lengths.tolist() == [3, 2] and got.stopped.all()
    assert got.extras["steps"].shape == (2, 100)
    assert got.extras["steps"][:, :4].tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert [part.tokens.shape for part in table_stream(prompt, lengths, chunk=100)] == [(2, 3)]
    steps = [part.extras["steps"].max() for part in table_stream(prompt, lengths, chunk=1)]
    assert steps == [0, 1, 2]


def table_stream(prompt, lengths, **options):
    return stream(
        Table(), chain(9), {}, prompt, lengths, RNG, max_tokens=100, stop_tokens=(6,), extras=True, **options
    )


def test_samples_have_the_probabilities_of_their_sequences():
    """Of pairs of tokens, by a chi-square over all of them."""
    count, vocabulary = 6000, 4
    table = jnp.asarray(np.random.default_rng(0).normal(size=(vocabulary, vocabulary)), jnp.float32)
    got = generate(
        Table(), table, {}, np.array([[2]]), np.array([1]), RNG, max_tokens=2, num_samples=count
    ).tokens
    probs = np.asarray(jax.nn.softmax(table), np.float64)
    expected = count * (probs[2][:, None] * probs).reshape(-1)
    seen = np.bincount(got[:, 0] * vocabulary + got[:, 1], minlength=vocabulary**2)
    freedom = vocabulary**2 - 1
    assert ((seen - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


def test_one_compilation_serves_a_bucket():
    decoder, params = Traced(Table()), chain(9)

    def run(length, max_tokens):
        prompt, lengths = pad_prompts([[1] * length, [2]])
        sampler = Sampler(greedy=True)  # another one of equal value each time
        generate(decoder, params, {}, prompt, lengths, RNG, max_tokens=max_tokens, sampler=sampler)

    run(1, 1)
    first = list(decoder.log)
    assert first[0] == ("prefill", 16, 32)
    for length, max_tokens in ((5, 3), (16, 16), (9, 7)):
        run(length, max_tokens)
    prompt, lengths = pad_prompts([[1] * 3, [2]])
    greedy = Sampler(greedy=True)
    list(stream(decoder, params, {}, prompt, lengths, RNG, max_tokens=9, chunk=2, sampler=greedy))
    assert decoder.log == first
    run(17, 16)
    assert decoder.log[len(first)] == ("prefill", 32, 48)
    second = list(decoder.log)
    run(32, 10)
    assert decoder.log == second
    run(5, 17)
    assert decoder.log[len(second)] == ("prefill", 16, 48)


def test_buckets_stay_within_the_window():
    decoder = Traced(WINDOWED)
    prompt, lengths = pad_prompts([[1] * 20])
    greedy = Sampler(greedy=True)
    got = generate(decoder, params_of(WINDOWED), {}, prompt, lengths, RNG, max_tokens=4, sampler=greedy)
    assert got.lengths.tolist() == [4] and decoder.log[0] == ("prefill", 24, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "there is no prompt; give at least one"),
        ({"prompts": [[1], []]}, "prompt 2 of 2 is empty; give at least one token to begin with"),
        ({"max_tokens": 0}, "max tokens is 0; it must be at least 1"),
        ({"num_samples": 0}, "num samples is 0; it must be at least 1"),
        (
            {"max_tokens": 17},
            "8 tokens of prompt and 17 new ones are more than the model's window of 24; "
            "ask for fewer, or shorten the prompt",
        ),
        ({"stop_tokens": (99,)}, "stop token 99: the vocabulary has tokens 0 to 10"),
        ({"prompts": [[1, 11]]}, "prompt token 11: the vocabulary has tokens 0 to 10"),
        ({"prompts": [[-2, 1]]}, "prompt token -2: the vocabulary has tokens 0 to 10"),
        ({"stop_tokens": (-1,)}, "stop token -1: the vocabulary has tokens 0 to 10"),
    ],
)
def test_impossible_requests_are_refused(change, message):
    with pytest.raises(UsageError) as error:
        together(WINDOWED, **change)
    assert str(error.value) == message


def test_stream_refuses_before_it_is_read():
    prompt, lengths = pad_prompts(PROMPTS)
    with pytest.raises(UsageError, match="chunk is 0; it must be at least 1"):
        stream(WINDOWED, params_of(WINDOWED), {}, prompt, lengths, RNG, max_tokens=1, chunk=0)
    with pytest.raises(UsageError, match="a prompt length is 9, but there are 8 tokens a prompt"):
        stream(WINDOWED, params_of(WINDOWED), {}, prompt, lengths + 1, RNG, max_tokens=1)


def test_padded_prompts():
    prompt, lengths = pad_prompts([[1, 2, 3], [], np.array([4], np.int64)])
    assert prompt.tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]] and lengths.tolist() == [3, 0, 1]
    assert prompt.dtype == lengths.dtype == np.int32
    assert pad_prompts([])[0].shape == (0, 0)
