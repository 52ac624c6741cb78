"""The first Transformer: PyTorch's layers, what a token may depend on, padding, and options that change no result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import number_of_parameters, random_params

from jaxgen.errors import UsageError
from jaxgen.models import EncoderDecoderTransformer

pytestmark = pytest.mark.usefixtures("compiled_quickly")

VOCABULARY, SOURCES, SOURCE_TIME, TIME = 13, 17, 9, 7
SIZES = {"vocabulary_size": VOCABULARY, "embedding_size": 16, "num_layers": 2, "num_heads": 4}
APART = {"source_vocabulary_size": SOURCES, "positions": "learned", "context_length": 9, "tied": False}
RNG = np.random.default_rng(0)
SOURCE = jnp.asarray(RNG.integers(0, VOCABULARY, (2, SOURCE_TIME)), jnp.int32)
TOKENS = jnp.asarray(RNG.integers(0, VOCABULARY, (2, TIME)), jnp.int32)


@functools.cache
def made(**options):
    model = EncoderDecoderTransformer(**SIZES, **options)
    return model, random_params(model, SOURCE, TOKENS, deviation=0.2)


@functools.lru_cache
def compiled(model, **fixed):
    return jax.jit(functools.partial(model.apply, **fixed))


def normalised(values, norm):
    centred = values - values.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * norm["scale"] + norm["bias"]


def linear(values, layer):
    return values @ layer["kernel"] + layer["bias"]


def slow_attention(read, source, layer, causal):
    queries, keys, values = (
        linear(given, layer[name]).reshape(len(given), 4, -1)
        for given, name in ((read, "query"), (source, "key"), (source, "value"))
    )
    outputs = np.zeros_like(queries)
    for place in range(len(read)):
        for head in range(4):
            seen = place + 1 if causal else len(source)
            scores = keys[:seen, head] @ queries[place, head] / 2
            weights = np.exp(scores) / np.exp(scores).sum()
            outputs[place, head] = weights @ values[:seen, head]
    return linear(outputs.reshape(len(read), -1), layer["output"])


def slow_stack(hidden, layers, source=None):
    """The blocks of one text, NumPy alone; causal where there is a source."""
    for number in range(2):
        layer = layers[f"layer_{number}"]
        read = normalised(hidden, layer["attention_norm"])
        hidden = hidden + slow_attention(read, read, layer["attention"], source is not None)
        if source is not None:
            read = normalised(hidden, layer["cross_attention_norm"])
            hidden = hidden + slow_attention(read, source, layer["cross_attention"], False)
        read = normalised(hidden, layer["feed_forward_norm"])
        inside = np.maximum(linear(read, layer["feed_forward"]["up"]), 0)
        hidden = hidden + linear(inside, layer["feed_forward"]["down"])
    return hidden


def test_it_is_the_papers_written_out():
    model, params = made()
    given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    place, feature = np.arange(SOURCE_TIME)[:, None], np.arange(16)
    angles = place / 10_000 ** (feature // 2 * 2 / 16)
    positions = np.where(feature % 2, np.cos(angles), np.sin(angles))
    embedding = given["token_embedding"]["embedding"]
    read = slow_stack(embedding[SOURCE[0]] * 4 + positions, given["encoder"])
    read = normalised(read, given["encoder_norm"])
    written = slow_stack(embedding[TOKENS[0]] * 4 + positions[:TIME], given["decoder"], read)
    expected = normalised(written, given["decoder_norm"]) @ embedding.T
    found = compiled(model)({"params": params}, SOURCE, TOKENS)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, APART], ids=["shared", "apart"])
def test_a_token_depends_on_the_source_and_on_no_later_token(options):
    model, params = made(**options)
    count = SOURCE_TIME + TIME
    places, rows = jnp.arange(count)[None], jnp.concatenate([SOURCE[0], TOKENS[0]])
    sizes = {"vocabulary_size": count, **({"source_vocabulary_size": count} if options else {})}
    wide = model.clone(**sizes)
    tables = [name for name in params if name in ("source_embedding", "token_embedding")]
    kernel = {} if model.tied else {"output_kernel": jnp.zeros((16, count))}

    @jax.jit
    def gradient(place):
        """By what each token, read or written, is embedded as."""

        def at(of_source, of_tokens):
            shifts = jnp.concatenate([of_source, of_tokens])
            own = {name: {"embedding": params[name]["embedding"][rows] + shifts} for name in tables}
            given = {"params": params | own | kernel}
            read = (places[:, :SOURCE_TIME], places[:, SOURCE_TIME:])
            return wide.apply(given, *read, method="features")[0, place].sum()

        return jax.grad(at, (0, 1))(jnp.zeros((SOURCE_TIME, 16)), jnp.zeros((TIME, 16)))

    for place in (0, 3):
        of_source, of_tokens = ((leaf != 0).any(axis=-1) for leaf in gradient(place))
        assert of_source.all() and of_tokens[: place + 1].all() and not of_tokens[place + 1 :].any()


@pytest.mark.parametrize("options", [{}, APART], ids=["shared", "apart"])
def test_padding_changes_nothing(options):
    model, params = made(**options)
    source_lengths, lengths = jnp.array([4, SOURCE_TIME]), jnp.array([3, TIME])
    source = jnp.where(jnp.arange(SOURCE_TIME) < source_lengths[:, None], SOURCE, 7)
    tokens = jnp.where(jnp.arange(TIME) < lengths[:, None], TOKENS, 7)
    apply = compiled(model)
    found = apply({"params": params}, source, tokens, source_lengths=source_lengths, lengths=lengths)
    alone = apply({"params": params}, SOURCE[:1, :4], TOKENS[:1, :3])
    np.testing.assert_allclose(found[0, :3], alone[0], rtol=1e-4, atol=1e-5)
    alone = apply({"params": params}, SOURCE[1:], TOKENS[1:])
    np.testing.assert_allclose(found[1], alone[0], rtol=1e-4, atol=1e-5)


def test_attention_of_all_layers_is_a_distribution_over_what_is_seen():
    model, params = made(num_decoder_layers=3)
    lengths = jnp.array([4, SOURCE_TIME])
    attention = compiled(model, method="attention")
    found = attention({"params": params}, SOURCE, TOKENS, source_lengths=lengths)
    assert {name: weights.shape for name, weights in found.items()} == {
        "encoder": (2, 2, 4, SOURCE_TIME, SOURCE_TIME),
        "decoder": (2, 3, 4, TIME, TIME),
        "cross": (2, 3, 4, TIME, SOURCE_TIME),
    }
    for weights in found.values():
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    assert (found["cross"][0, ..., 4:] == 0).all() and (found["cross"][1] > 0).all()


def test_it_begins_with_even_predictions_and_drops_in_training_alone():
    model = EncoderDecoderTransformer(1000, embedding_size=64, num_layers=1, num_heads=4, dropout=0.3)
    variables = jax.jit(model.init)(jax.random.key(0), SOURCE, TOKENS)
    calm = compiled(model)(variables, SOURCE, TOKENS)
    assert 0.5 < calm.std() < 2
    rngs = {"dropout": jax.random.key(1)}
    assert (compiled(model, train=True)(variables, SOURCE, TOKENS, rngs=rngs) != calm).any()


def test_sizes_of_the_paper():
    """The base model has 65 million parameters (table 3): ours has two norms more, and no second bias."""
    model = EncoderDecoderTransformer(37_000)
    assert number_of_parameters(model, SOURCE, TOKENS) == 63_084_544


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "rotary"}, "unknown positions 'rotary'"),
        (
            {"embedding_size": 15, "num_heads": 3},
            "embedding_size is 15; with sinusoidal positions it must be",
        ),
        ({"num_heads": 3}, "embedding_size is 16, which 3 heads can't share evenly"),
        ({"num_decoder_layers": 0}, "num_decoder_layers must be positive"),
        ({"source_vocabulary_size": -1}, "source_vocabulary_size must be positive"),
        ({"activation": "gelu_new"}, "unknown activation 'gelu_new'"),
    ],
)
def test_impossible_fields_are_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        EncoderDecoderTransformer(**SIZES | options)


def test_texts_beyond_the_context_are_refused():
    model, params = made(**APART)
    with pytest.raises(UsageError, match="a text of 10 tokens is longer than the model's context of 9"):
        model.apply({"params": params}, jnp.zeros((1, 10), jnp.int32), TOKENS[:1])
