"""Beam search: against all sequences there are, against a slow one by the same rules, and against greedy writing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow
from decoders import RecurrentToy, Table, Traced, TranslatorToy, WindowedToy, params_of
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from weights import random_params

from jaxgen.errors import UsageError
from jaxgen.generate import CausalDecoder, EncoderDecoder, Sampler, Text, beam_search, generate, pad_prompts
from jaxgen.generate.beam import highest
from jaxgen.models import GPT, T5, EncoderDecoderTransformer, RecurrentEncoderDecoder

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5, 8]]
STOPS = (2, 10)
RECURRENT, WINDOWED, TRANSLATOR = RecurrentToy(), WindowedToy(), TranslatorToy()


def together(decoder, prompts=PROMPTS, *, max_tokens=8, num_beams=4, params=None, **options):
    params = params_of(decoder) if params is None else params
    return beam_search(
        decoder, params, {}, *pad_prompts(prompts), max_tokens=max_tokens, num_beams=num_beams, **options
    )


def random_table(vocabulary, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(vocabulary, vocabulary)), jnp.float32)


def log_softmax(logits):
    return np.log(slow.softmax(np.asarray(logits, np.float64)))


def slow_search(
    decoder, params, prompt, max_tokens, num_beams, penalty=1.0, early=False, stops=(), inputs=None
):
    """One prompt, hypothesis by hypothesis; gives (score, tokens) of the finished ones, best first."""
    output, cache = slow.prefill(decoder, params, inputs, jnp.array([prompt]), len(prompt) + max_tokens)
    running, finished = [(0.0, [], output, cache)], []
    for length in range(1, max_tokens + 1):
        continued = []
        for total, tokens, output, cache in running:
            for token, log_prob in enumerate(log_softmax(output.logits[0])):
                continued.append((total + log_prob, [*tokens, token], cache))
        continued.sort(key=lambda hypothesis: -hypothesis[0])
        continued = continued[: max(2, 1 + len(stops)) * num_beams]
        for total, tokens, _ in continued[:num_beams]:
            if tokens[-1] in stops or length == max_tokens:
                finished.append((total / length**penalty, tokens))
        finished = sorted(finished, key=lambda hypothesis: -hypothesis[0])[:num_beams]
        running = [hypothesis for hypothesis in continued if hypothesis[1][-1] not in stops][:num_beams]
        if len(finished) == num_beams:
            hoped = max_tokens if early == "never" and penalty > 0 else length
            if early is True or running[0][0] / hoped**penalty <= finished[-1][0]:
                break
        running = [
            (total, tokens, *slow.decode_step(decoder, params, jnp.int32(tokens[-1]), cache))
            for total, tokens, cache in running
        ]
    return finished


def assert_found(got, row, expected):
    """The texts of one prompt are those expected, and their scores."""
    for place, (score, tokens) in enumerate(expected):
        at = row * len(expected) + place
        assert got.lengths[at] == len(tokens)
        assert got.tokens[at].tolist() == tokens + [0] * (got.tokens.shape[1] - len(tokens))
        np.testing.assert_allclose(got.scores[at], score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -0.5])
def test_with_room_for_all_it_finds_the_best_of_all(penalty):
    """All the 31 sequences that there are, the best first, and no 32nd; some have equal scores."""
    table, stop = random_table(3), 1
    log_probs = [log_softmax(row) for row in table]
    scored = {}
    for length in (1, 2, 3, 4):
        for tokens in itertools.product(range(3), repeat=length):
            if stop not in tokens[:-1] and (tokens[-1] == stop or length == 4):
                total = sum(log_probs[a][b] for a, b in itertools.pairwise([2, *tokens]))
                scored[tokens] = total / length**penalty
    got = together(
        Table(),
        [[2]],
        params=table,
        max_tokens=4,
        num_beams=32,
        num_returned=32,
        length_penalty=penalty,
        early_stopping="never",
        stop_tokens=(stop,),
    )
    found = [tuple(row[:length].tolist()) for row, length in zip(got.tokens, got.lengths, strict=True)]
    assert len(scored) == 31 and set(found) == {*scored, ()} and found[-1] == ()
    np.testing.assert_allclose(got.scores[:-1], [scored[tokens] for tokens in found[:-1]], rtol=1e-5)
    assert (np.diff(got.scores) <= 0).all() and got.scores[-1] == -np.inf
    assert got.stopped.tolist() == [tokens[-1] == stop for tokens in found[:-1]] + [False]


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [1.0, 0.0, -1.0, 2.5])
def test_it_is_the_slow_search(early, penalty):
    got = together(RECURRENT, num_returned=4, length_penalty=penalty, early_stopping=early, stop_tokens=STOPS)
    for row, prompt in enumerate(PROMPTS):
        expected = slow_search(RECURRENT, params_of(RECURRENT), prompt, 8, 4, penalty, early, STOPS)
        assert_found(got, row, expected)
        assert got.stopped[4 * row : 4 * row + 4].tolist() == [tokens[-1] in STOPS for _, tokens in expected]


def test_ways_to_stop_differ_as_they_should():
    """With other parameters the three give other texts; each time they are those of the slow search."""
    seen = set()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        params = jax.tree.map(lambda leaf, rng=rng: leaf + rng.normal(size=leaf.shape), params_of(RECURRENT))
        for early in (False, True, "never"):
            options = {"early_stopping": early, "length_penalty": 1.5, "stop_tokens": STOPS}
            got = together(RECURRENT, params=params, num_returned=4, **options)
            assert_found(got, 0, slow_search(RECURRENT, params, PROMPTS[0], 8, 4, 1.5, early, STOPS))
            seen.add((seed, got.tokens.tobytes()))
    assert len(seen) > 4


@pytest.mark.parametrize("decoder", [RECURRENT, WINDOWED], ids=["recurrent", "windowed"])
def test_a_ragged_batch_is_its_prompts_one_by_one(decoder):
    options = {"num_returned": 2, "stop_tokens": STOPS, "length_penalty": 0.7}
    prompt, lengths = pad_prompts(PROMPTS)
    prompt[np.arange(prompt.shape[1]) >= lengths[:, None]] = 7  # whatever stands there
    params = params_of(decoder)
    whole = beam_search(decoder, params, {}, prompt, lengths, max_tokens=8, num_beams=4, **options)
    for row, alone in enumerate(PROMPTS):
        got = together(decoder, [alone], **options)
        rows = slice(2 * row, 2 * row + 2)
        np.testing.assert_array_equal(got.tokens, whole.tokens[rows])
        np.testing.assert_array_equal(got.lengths, whole.lengths[rows])
        np.testing.assert_allclose(got.scores, whole.scores[rows], atol=1e-5)
    assert_found(whole, 2, slow_search(decoder, params, PROMPTS[2], 8, 4, 0.7, False, STOPS)[:2])


@pytest.mark.parametrize("early", [False, "never"])
def test_one_beam_is_greedy(early):
    stops = (2, 7)
    expected = generate(
        RECURRENT,
        params_of(RECURRENT),
        {},
        *pad_prompts(PROMPTS),
        jax.random.key(0),
        max_tokens=12,
        sampler=Sampler(greedy=True),
        stop_tokens=stops,
    )
    got = together(
        RECURRENT, max_tokens=12, num_beams=1, early_stopping=early, length_penalty=2.0, stop_tokens=stops
    )
    for name in ("tokens", "lengths", "stopped"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    np.testing.assert_allclose(got.log_probs, expected.log_probs, atol=1e-5)
    assert expected.stopped.any() and not expected.stopped.all()


def test_texts_are_sorted_and_scored_by_their_log_probabilities():
    got = together(RECURRENT, num_returned=4, length_penalty=0.5, stop_tokens=STOPS)
    scores = got.scores.reshape(3, 4)
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(got.scores, got.log_probs.sum(axis=1) / got.lengths**0.5, rtol=1e-5)
    inside = np.arange(8) < got.lengths[:, None]
    assert (got.log_probs[inside] < 0).all() and not got.log_probs[~inside].any()
    assert len({row.tobytes() for row in got.tokens[:4]}) == 4
    fewer = together(RECURRENT, num_returned=2, length_penalty=0.5, stop_tokens=STOPS)
    np.testing.assert_array_equal(fewer.tokens.reshape(3, 2, 8), got.tokens.reshape(3, 4, 8)[:, :2])


def test_a_stop_token_at_once():
    table = 50.0 * jnp.eye(6)[(jnp.arange(6) + 1) % 6]  # each token is followed by the next number
    got = together(Table(), [[3], [1]], params=table, num_beams=2, max_tokens=100, stop_tokens=(4,))
    assert got.tokens[:, :4].tolist() == [[4, 0, 0, 0], [2, 3, 4, 0]]
    assert got.lengths.tolist() == [1, 3] and got.stopped.all()


def test_a_vocabulary_of_stop_tokens_alone():
    got = together(Table(), [[1]], params=random_table(2), num_beams=3, num_returned=3, stop_tokens=(0, 1, 1))
    assert got.lengths.tolist() == [1, 1, 0] and got.stopped.tolist() == [True, True, False]
    assert got.scores[2] == -np.inf


def test_the_encoder_and_what_the_model_looked_at_go_with_the_beams():
    """Attention is that with which each token of the text was found, whatever beam it was on then."""
    source = jnp.array([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]])
    inputs = {"source": source, "source_mask": jnp.arange(5) < jnp.array([[5], [3]])}
    params, prompts = params_of(TRANSLATOR), [[1], [1, 6]]
    got = together(TRANSLATOR, prompts, num_returned=2, stop_tokens=(10,), inputs=inputs, extras=True)
    assert got.extras["attention"].shape == (4, 8, 5)
    for row, prompt in enumerate(prompts):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], inputs)
        assert_found(got, row, slow_search(TRANSLATOR, params, prompt, 8, 4, stops=(10,), inputs=alone)[:2])
        for place in (2 * row, 2 * row + 1):
            output, cache = slow.prefill(TRANSLATOR, params, alone, jnp.array([prompt]), 10)
            for position in range(got.lengths[place]):
                attention = got.extras["attention"][place, position]
                np.testing.assert_allclose(attention, output.extras["attention"][0], atol=1e-5)
                token = jnp.int32(got.tokens[place, position])
                np.testing.assert_allclose(
                    got.log_probs[place, position], log_softmax(output.logits[0])[token], atol=1e-5
                )
                output, cache = slow.decode_step(TRANSLATOR, params, token, cache)
            assert not got.extras["attention"][place, got.lengths[place] :].any()


TINY = {"vocabulary_size": 11, "num_layers": 2, "num_heads": 2, "embedding_size": 8}
DECODERS = {
    "gpt": CausalDecoder(GPT(**TINY, context_length=40, positions="rotary", num_kv_heads=1)),
    "t5": EncoderDecoder(T5(**TINY, head_size=5, feed_forward_size=8, num_buckets=8, max_distance=9)),
    "transformer": EncoderDecoder(EncoderDecoderTransformer(**TINY)),
    "additive": EncoderDecoder(RecurrentEncoderDecoder(11, embedding_size=8, hidden_size=8)),
    "copying": EncoderDecoder(
        RecurrentEncoderDecoder(11, embedding_size=8, hidden_size=8, attention_kind="dot", copies=True)
    ),
}


@pytest.mark.parametrize("kind", DECODERS)
def test_beams_that_share_what_was_read_find_what_those_with_copies_do(kind):
    """Keys and values stay where they were written, in parts of 16 tokens; the slow search has a cache a text."""
    decoder = DECODERS[kind]
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 11, length).tolist() for length in (14, 2)]
    source = jnp.asarray(rng.integers(0, 11, (2, 5)), jnp.int32)
    inputs = None if kind == "gpt" else {"tokens": source, "lengths": jnp.array([5, 3])}
    params = random_params(decoder.model, *([] if kind == "gpt" else [source]), source, deviation=0.7)
    got = together(
        decoder,
        prompts,
        params=params,
        max_tokens=6,
        num_beams=3,
        num_returned=3,
        stop_tokens=(2,),
        inputs=inputs,
    )
    for row, prompt in enumerate(prompts):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], inputs)
        assert_found(got, row, slow_search(decoder, params, prompt, 6, 3, stops=(2,), inputs=alone))


def test_devices_of_a_mesh_search_for_their_own_prompts():
    """Each until its own are done; a number of prompts that they can't share is searched for as ever."""
    mesh = Mesh(jax.devices()[:2], ("data",))
    params = params_of(RECURRENT)
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    for prompts in ([*PROMPTS, [4, 4]], PROMPTS):
        options = {"num_returned": 2, "stop_tokens": STOPS, "length_penalty": 0.7, "max_tokens": 12}
        expected = together(RECURRENT, prompts, params=params, **options)
        got = together(RECURRENT, prompts, params=everywhere, **options)
        for name in ("tokens", "lengths", "stopped"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
        np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-5)


@pytest.mark.parametrize("columns", [100, 640, 1000])
def test_the_highest_are_those_of_top_k_equal_ones_in_the_same_order(columns):
    values = np.random.default_rng(0).integers(0, 40, (7, columns)).astype(np.float32)
    values[values < 20] = -np.inf
    values[0], values[1, 3:] = -np.inf, -np.inf
    for found, expected in zip(highest(jnp.asarray(values), 10), jax.lax.top_k(values, 10), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_one_compilation_serves_a_bucket():
    decoder = Traced(Table())
    together(decoder, params=random_table(11))
    log = list(decoder.log)
    assert log == [("prefill", 16, 32), "step"]
    together(decoder, [[1] * 16, [2], [3]], params=random_table(11, 1), max_tokens=16, length_penalty=0.3)
    assert decoder.log == log
    together(decoder, params=random_table(11), early_stopping=True)
    assert len(decoder.log) == 2 * len(log)


def test_texts():
    text = Text(lambda ids: "".join(chr(97 + token) for token in ids))
    got = together(RECURRENT, num_returned=2, length_penalty=-1.0, stop_tokens=STOPS, text=text)
    for place, written in enumerate(got.texts):
        count = got.lengths[place] - got.stopped[place]
        assert written == text.decode(got.tokens[place, :count])
    assert got.stopped.any() and len(got.texts) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_beams": 0}, "num beams is 0; it must be at least 1"),
        ({"num_returned": 0}, "num returned is 0; it must be at least 1"),
        ({"max_tokens": 0}, "max tokens is 0; it must be at least 1"),
        ({"num_returned": 5}, "5 texts of 4 beams: ask for fewer, or for more beams"),
        ({"length_penalty": np.nan}, "length penalty is nan; it must be a finite number"),
        ({"early_stopping": "always"}, "early stopping is 'always'; it must be True, False or \"never\""),
        (
            {"text": Text(lambda ids: "", ("end",))},
            "beam search ends at stop tokens alone: leave stop strings out",
        ),
        ({"stop_tokens": (99,)}, "stop token 99: the vocabulary has tokens 0 to 10"),
        ({"prompts": [[]]}, "prompt 1 of 1 is empty; give at least one token to begin with"),
        (
            {"max_tokens": 17},
            "8 tokens of prompt and 17 new ones are more than the model's window of 24; "
            "ask for fewer, or shorten the prompt",
        ),
    ],
)
def test_impossible_requests_are_refused(change, message):
    with pytest.raises(UsageError) as error:
        together(WINDOWED, **change)
    assert str(error.value) == message
