"""The contract, by an encoder-decoder with attention and a source mask; and the scores of given tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow
from decoders import VOCABULARY, RecurrentToy, Table, Traced, TranslatorToy, WindowedToy, params_of

from jaxgen.errors import UsageError
from jaxgen.generate import Decoder, Sampler, generate, pad_prompts, score

RNG = jax.random.key(1)
TRANSLATOR = TranslatorToy()
PARAMS = params_of(TRANSLATOR)
PROMPT, PROMPT_LENGTHS = pad_prompts([[1], [1, 6], [1]])
SAMPLER = Sampler.of(temperature=0.9)


def sources(garbage):
    source = np.full((3, 5), garbage, np.int32)
    lengths = [5, 2, 3]
    for row, length in enumerate(lengths):
        source[row, :length] = np.arange(row, row + length)
    return {"source": jnp.asarray(source), "source_mask": jnp.arange(5) < jnp.array(lengths)[:, None]}


def translate(inputs, **options):
    return generate(
        TRANSLATOR,
        PARAMS,
        {},
        PROMPT,
        PROMPT_LENGTHS,
        RNG,
        max_tokens=10,
        sampler=SAMPLER,
        stop_tokens=(10,),
        inputs=inputs,
        **options,
    )


def test_decoders_keep_the_contract():
    for decoder in (TRANSLATOR, Table(), RecurrentToy(), WindowedToy()):
        assert isinstance(decoder, Decoder)


def test_attention_is_stacked_and_keeps_to_the_mask():
    inputs = sources(0)
    got = translate(inputs, extras=True)
    attention = got.extras["attention"]
    assert attention.shape == (3, 10, 5)
    written = np.arange(10) < got.lengths[:, None]
    np.testing.assert_allclose(attention.sum(axis=-1), written, atol=1e-6)
    mask = np.asarray(inputs["source_mask"])
    assert not attention[np.broadcast_to(~mask[:, None], attention.shape)].any()
    assert (attention[written][:, 0] < 1).all() and got.lengths.min() < 10


def test_each_row_is_what_a_slow_loop_writes_alone():
    """The attention, too, is that with which each token was found: the first one by reading the prompt."""
    inputs = sources(0)
    got = translate(inputs, extras=True)
    for row in range(3):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], inputs)
        prompt = PROMPT[row, : PROMPT_LENGTHS[row]].tolist()
        tokens, log_probs, extras = slow.write(
            TRANSLATOR, PARAMS, prompt, RNG, (row, 0), SAMPLER, 10, (10,), alone
        )
        length = len(tokens)
        assert got.tokens[row, :length].tolist() == tokens and got.lengths[row] == length
        np.testing.assert_allclose(got.log_probs[row, :length], log_probs, atol=1e-5)
        expected = [step["attention"] for step in extras]
        np.testing.assert_allclose(got.extras["attention"][row, :length], expected, atol=1e-6)


def test_what_is_masked_in_the_source_changes_nothing():
    clean, garbage = (translate(sources(token), extras=True) for token in (0, 9))
    np.testing.assert_array_equal(clean.tokens, garbage.tokens)
    np.testing.assert_array_equal(clean.log_probs, garbage.log_probs)
    np.testing.assert_array_equal(clean.extras["attention"], garbage.extras["attention"])
    inputs = sources(0)
    other = translate({**inputs, "source": inputs["source"].at[0, 0].set(9)}, extras=True)
    assert (other.log_probs[0] != clean.log_probs[0]).any()
    np.testing.assert_array_equal(other.log_probs[1:], clean.log_probs[1:])


def test_extras_come_when_they_are_asked_for():
    assert translate(sources(0)).extras == {}


def test_inputs_outlive_the_cache_that_holds_them():
    """The loop takes over the memory of its cache, not that of what the cache was made from."""
    inputs = sources(0)
    translate(inputs)
    assert inputs["source_mask"].sum() == 10


def full_rows(got, prompts):
    rows = [[*prompt, *got.tokens[row, : got.lengths[row]].tolist()] for row, prompt in enumerate(prompts)]
    return pad_prompts(rows)


@pytest.mark.parametrize("decoder", [RecurrentToy(), WindowedToy()], ids=["recurrent", "windowed"])
def test_scores_are_the_log_probabilities_of_what_was_written(decoder):
    params, prompts = params_of(decoder), [[3, 1, 4], [1], [5, 9, 2, 6, 5]]
    got = generate(
        decoder,
        params,
        {},
        *pad_prompts(prompts),
        RNG,
        max_tokens=14,
        sampler=Sampler.of(temperature=1.3),
        stop_tokens=(4,),
    )
    tokens, lengths = full_rows(got, prompts)
    scores = score(decoder, params, {}, tokens, lengths)
    assert scores.shape == tokens.shape and not scores[:, 0].any()
    for row, prompt in enumerate(prompts):
        new = scores[row, len(prompt) : lengths[row]]
        np.testing.assert_allclose(new, got.log_probs[row, : got.lengths[row]], atol=1e-5)
        assert not scores[row, lengths[row] :].any() and (scores[row, 1 : lengths[row]] < 0).all()


def test_scores_of_translations_and_of_the_whole_recurrent_net_at_once():
    inputs = sources(0)
    got = translate(inputs)
    prompts = [PROMPT[row, : PROMPT_LENGTHS[row]].tolist() for row in range(3)]
    tokens, lengths = full_rows(got, prompts)
    scores = score(TRANSLATOR, PARAMS, {}, tokens, lengths, inputs=inputs)
    for row, prompt in enumerate(prompts):
        new = scores[row, len(prompt) : lengths[row]]
        np.testing.assert_allclose(new, got.log_probs[row, : got.lengths[row]], atol=1e-5)

    decoder = RecurrentToy()
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (2, 20)).astype(np.int32)
    logits, _ = decoder.model.apply({"params": params_of(decoder)}, tokens)
    log_probs = np.asarray(jax.nn.log_softmax(logits))[:, :-1]
    expected = np.take_along_axis(log_probs, tokens[:, 1:, None], axis=2)[..., 0]
    scores = score(decoder, params_of(decoder), {}, tokens, np.array([20, 13]))
    np.testing.assert_allclose(scores[0, 1:], expected[0, :], atol=1e-5)
    np.testing.assert_allclose(scores[1, 1:13], expected[1, :12], atol=1e-5)
    assert not scores[1, 13:].any()


def test_scores_are_compiled_once_a_bucket():
    decoder, params = Traced(RecurrentToy()), params_of(RecurrentToy())
    for length in (17, 20, 32):
        tokens = np.ones((1, length), np.int32)
        assert score(decoder, params, {}, tokens, np.array([length])).shape == (1, length)
        assert decoder.log == [("prefill", 1, 32), "step"]


def test_scores_of_impossible_tokens_are_refused():
    decoder = WindowedToy()
    with pytest.raises(UsageError, match=r"25 tokens .* window of 24"):
        score(decoder, params_of(decoder), {}, np.ones((1, 25), np.int32), np.array([25]))
    with pytest.raises(UsageError, match="prompt 1 of 1 is empty"):
        score(decoder, params_of(decoder), {}, np.ones((1, 5), np.int32), np.array([0]))
