"""The recurrent encoder-decoder: its loop and its model against slow ones, padding, causality, attention, copying."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import random_params

from jaxgen.errors import UsageError
from jaxgen.models import RecurrentEncoderDecoder
from jaxgen.models.cells import CELLS
from jaxgen.models.recurrent_attention import Source, State, attend_and_recur

pytestmark = pytest.mark.usefixtures("compiled_quickly")

VOCABULARY, SOURCE_TIME, TIME = 13, 6, 5
SIZES = {"vocabulary_size": VOCABULARY, "embedding_size": 6, "hidden_size": 8}
KINDS = {
    "additive": {},
    "dot": {"attention_kind": "dot", "cell": "gru", "num_layers": 2, "source_vocabulary_size": VOCABULARY},
    "unfed": {"input_feeding": False, "num_layers": 2, "tied": False},
    "none": {"attention_kind": "none"},
    "copying": {"copies": True, "attention_kind": "dot"},
}
RNG = np.random.default_rng(0)
SOURCE = jnp.asarray(RNG.integers(0, VOCABULARY, (2, SOURCE_TIME)), jnp.int32)
TOKENS = jnp.asarray(RNG.integers(0, VOCABULARY, (2, TIME)), jnp.int32)
LENGTHS = jnp.array([4, SOURCE_TIME])


@functools.cache
def made(kind, **options):
    model = RecurrentEncoderDecoder(**SIZES, **KINDS[kind], **options)
    return model, random_params(model, SOURCE, TOKENS, deviation=0.5)


@functools.lru_cache
def compiled(model, method=None):
    def call(params, source, tokens, lengths):
        return model.apply({"params": params}, source, tokens, source_lengths=lengths, method=method)

    return jax.jit(call)


def logits_of(kind, source=SOURCE, tokens=TOKENS, lengths=LENGTHS):
    model, params = made(kind)
    return compiled(model)(params, source, tokens, lengths)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def plain_loop(cell, params, state, inputs, kept, source):
    """Step by step, and the gradient left to JAX."""
    vectors, scores = [], []
    layers, vector = list(state.layers), state.vector
    for place, read in enumerate(inputs):
        total, below = read, vector
        for number, layer in enumerate(params["layers"]):
            if number:
                total, below = layer["bias"], layers[number - 1]["hidden"] * kept[f"layer_{number}"][place]
            from_hidden = layers[number]["hidden"] @ layer["recurrent_kernel"]
            layers[number], _ = cell(
                layer["own"], layers[number], below @ layer["input_kernel"] + total, from_hidden
            )
        hidden = layers[-1]["hidden"]
        if "energy" in params:
            query = hidden @ params["query_kernel"]
            found = jnp.tanh(source.keys + query[:, None]) @ params["energy"]
        else:
            found = (source.keys * hidden[:, None]).sum(axis=-1)
        found += source.unseen
        context = (jax.nn.softmax(found)[..., None] * source.values).sum(axis=1)
        vector = jnp.tanh(hidden @ params["readout_kernel"] + params["readout_bias"] + context)
        vector *= kept["vector"][place]
        vectors.append(vector)
        scores.append(found)
    return jnp.stack(vectors), jnp.stack(scores)


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("additive", [True, False], ids=["additive", "dot"])
def test_the_loop_is_the_plain_one_in_value_and_gradient(name, additive):
    time, batch, places, size, width = 4, 3, 5, 6, 7
    cell = CELLS[name]()
    wide = cell.gates * size

    def layer(reads, **more):
        own = {key: normal(*leaf.shape) for key, leaf in cell.init_own(size).items()}
        return {
            "input_kernel": normal(reads, wide),
            "recurrent_kernel": normal(size, wide),
            "own": own,
            **more,
        }

    params = {
        "layers": (layer(width), layer(size, bias=normal(wide))),
        "readout_kernel": normal(size, width),
        "readout_bias": normal(width),
    }
    if additive:
        params |= {"query_kernel": normal(size, size), "energy": normal(size)}
    states = {"lstm": ("hidden", "cell"), "gru": ("hidden",)}[name]
    state = State(tuple({key: normal(batch, size) for key in states} for _ in range(2)), normal(batch, width))
    kept = {"layer_1": normal(time, batch, size), "vector": normal(time, batch, width)}
    unseen = jnp.where(jnp.arange(places) < jnp.array([[5], [2], [3]]), 0.0, -1e30)
    source = Source(normal(batch, places, size), normal(batch, places, width), unseen)
    weights = normal(time, batch, width), normal(time, batch, places) * (unseen == 0)

    def objective(loop, params, state, inputs, keys, values):
        found = loop(cell, params, state, inputs, kept, Source(keys, values, unseen))
        return sum((weight * leaf).sum() for weight, leaf in zip(weights, found, strict=True)), found

    given = (params, state, normal(time, batch, wide), source.keys, source.values)
    both = [
        jax.jit(jax.grad(functools.partial(objective, loop), tuple(range(5)), has_aux=True))(*given)
        for loop in (attend_and_recur, plain_loop)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), *both)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def slow_step(params, read, hidden, cell, vector, keys, states, kind):
    """One step of one row, NumPy alone, in float64."""
    decoder = params["decoder"]
    layer, size = decoder["layer_0"], 8
    gates = np.concatenate([read, vector]) @ layer["input_kernel"] + hidden @ layer["recurrent_kernel"]
    write, forget, candidate, out = np.split(gates + layer["bias"], 4)
    cell = sigmoid(forget) * cell + sigmoid(write) * np.tanh(candidate)
    hidden = sigmoid(out) * np.tanh(cell)
    scores = []
    for key in keys:
        if kind == "additive":
            scores.append(np.tanh(hidden @ decoder["query_kernel"] + key) @ decoder["energy"])
        else:
            scores.append(hidden @ key)
    weights = np.exp(scores) / np.exp(scores).sum()
    context = sum(weight * state for weight, state in zip(weights, states, strict=True))
    assert decoder["readout_kernel"].shape == (3 * size, 6)
    both = np.concatenate([hidden, context])
    vector = np.tanh(both @ decoder["readout_kernel"] + decoder["readout_bias"])
    return hidden, cell, vector, weights


@pytest.mark.parametrize("kind", ["additive", "copying"])
def test_it_is_the_papers_written_out(kind):
    """But for the encoder, which has tests of its own; the first row, without its padding."""
    model, params = made(kind)
    states, ends = model.apply(
        {"params": params},
        SOURCE[:1, :4],
        method=lambda module, source: module.encoder(module.token_embedding(source) * 6**0.5),
    )
    given, states, ends = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, states[0], ends))
    joined = np.concatenate([end[name][0] for end in ends for name in ("hidden", "cell")])
    bridged = joined @ given["bridge_0"]["kernel"] + given["bridge_0"]["bias"]
    hidden, cell, vector = np.tanh(bridged[:8]), bridged[8:], np.zeros(6)
    keys, found = states @ given["decoder"]["key_kernel"], logits_of(kind)[0]
    attended = compiled(model, "attention")(params, SOURCE, TOKENS, LENGTHS)["cross"]
    assert attended.shape == (2, 1, 1, TIME, SOURCE_TIME)
    table = given["token_embedding"]["embedding"]
    for place, token in enumerate(np.asarray(TOKENS[0])):
        read = table[token] * 6**0.5
        score = "additive" if kind == "additive" else "dot"
        hidden, cell, vector, weights = slow_step(given, read, hidden, cell, vector, keys, states, score)
        np.testing.assert_allclose(attended[0, 0, 0, place], [*weights, 0, 0], atol=1e-5)
        expected = vector @ table.T + given["output_bias"]
        if kind == "copying":
            gate = np.concatenate([vector, read]) @ given["gate"]["kernel"] + given["gate"]["bias"]
            mixed = sigmoid(gate) * np.exp(expected) / np.exp(expected).sum()
            for weight, copied in zip(weights, np.asarray(SOURCE[0, :4]), strict=True):
                mixed[copied] += (1 - sigmoid(gate[0])) * weight
            assert mixed.sum() == pytest.approx(1)
            expected = np.log(mixed)
        np.testing.assert_allclose(found[place], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_and_a_row_is_what_it_is_alone(kind):
    found = logits_of(kind)
    padded = jnp.where(jnp.arange(SOURCE_TIME) < LENGTHS[:, None], SOURCE, 7)
    np.testing.assert_allclose(logits_of(kind, padded), found, rtol=1e-5, atol=1e-6)
    alone = logits_of(kind, SOURCE[:1, :4], TOKENS[:1], None)
    np.testing.assert_allclose(found[0], alone[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits_of(kind, lengths=None)[1], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_depends_on_the_source_and_on_no_later_token(kind):
    """By the gradient of what the encoder and the decoder read, in the place of token numbers."""
    model, params = made(kind)

    def features(module, of_source, of_tokens):
        encoded = module.encoder(of_source)
        ends = [carry[name] for carry in encoded[1][:2] for name in CELLS[module.cell]().states]
        begin = module.bridge[0](jnp.concatenate(ends, axis=-1))[:, :8]
        carry = dict.fromkeys(CELLS[module.cell]().states, begin)
        state = module.decoder.begin((carry,) * module.num_layers)
        return module.decoder(of_tokens, state, module.decoder.source(encoded[0], None))[0]

    @jax.jit
    def gradient(place):
        def at(*reads):
            return model.apply({"params": params}, *reads, method=features)[0, place].sum()

        return jax.grad(at, (0, 1))(normal(1, SOURCE_TIME, 6), normal(1, TIME, 6))

    for place in (0, 2):
        of_source, of_tokens = ((leaf[0] != 0).any(axis=-1) for leaf in gradient(place))
        assert of_source.all() and of_tokens[: place + 1].all() and not of_tokens[place + 1 :].any()


@pytest.mark.parametrize("kind", ["additive", "dot", "unfed", "copying"])
def test_attention_is_a_distribution_over_the_source(kind):
    model, params = made(kind)
    weights = compiled(model, "attention")(params, SOURCE, TOKENS, LENGTHS)["cross"]
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    assert not weights[0, ..., 4:].any() and (weights[1] > 0).all()


def test_what_is_copied_is_a_distribution_with_what_is_generated():
    log_probs = logits_of("copying")
    np.testing.assert_allclose(jnp.exp(log_probs).sum(axis=-1), 1, rtol=1e-5)
    # Nothing in the softmax for a token, but it is in the source: it can be written all the same.
    model, params = made("copying")
    token = int(SOURCE[1, 0])
    params = {**params, "output_bias": params["output_bias"].at[token].set(-1e4)}
    found = compiled(model)(params, SOURCE, TOKENS, LENGTHS)
    assert (found[1, :, token] > -20).all()


@pytest.mark.parametrize("kind", ["additive", "unfed"])
def test_logits_are_features_times_the_output(kind):
    model, params = made(kind)
    features = compiled(model, "features")(params, SOURCE, TOKENS, LENGTHS)
    kernel, bias = model.apply({"params": params}, method="output")
    np.testing.assert_allclose(features @ kernel + bias, logits_of(kind), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dot", "unfed"])
def test_dropout_drops_in_training_alone(kind):
    model, params = made(kind)
    model = model.clone(dropout=0.5)

    @jax.jit
    def trained(key):
        given = {"params": params}
        return model.apply(given, SOURCE, TOKENS, source_lengths=LENGTHS, train=True, rngs={"dropout": key})

    calm = compiled(model)(params, SOURCE, TOKENS, LENGTHS)
    np.testing.assert_allclose(calm, logits_of(kind), rtol=1e-5, atol=1e-6)
    first, again, second = (trained(jax.random.key(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != second).any() and (first != calm).any()


@pytest.mark.parametrize("kind", ["additive", "dot"])
def test_half_precision_is_near(kind):
    model, params = made(kind)
    half = model.clone(dtype="bfloat16")

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: half.apply({"params": p}, SOURCE, TOKENS).sum())(params)

    found = compiled(half)(params, SOURCE, TOKENS, LENGTHS)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, logits_of(kind), atol=0.1)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient(params)))


def test_it_begins_with_calm_predictions():
    model = RecurrentEncoderDecoder(500, embedding_size=32, hidden_size=32)
    params = jax.jit(model.init)(jax.random.key(0), SOURCE, TOKENS)["params"]
    assert compiled(model)(params, SOURCE, TOKENS, LENGTHS).std() < 1
    bias = params["decoder"]["layer_0"]["bias"].reshape(4, 32).mean(axis=1)
    np.testing.assert_array_equal(bias, [0, 1, 0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_kind": "concat"}, "unknown attention_kind 'concat'"),
        ({"cell": "lstmm"}, "unknown cell 'lstmm'; did you mean lstm"),
        ({"num_layers": 0}, "num_layers must be positive"),
        ({"source_vocabulary_size": 0}, "source_vocabulary_size must be positive"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"copies": True, "attention_kind": "none"}, "what is copied is what attention looks at"),
        ({"copies": True, "source_vocabulary_size": 5}, "copying needs one vocabulary"),
    ],
)
def test_impossible_fields_are_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        RecurrentEncoderDecoder(**SIZES | options)


def test_without_attention_there_is_none_to_look_at():
    model, params = made("none")
    with pytest.raises(UsageError, match="no attention to look at"):
        model.apply({"params": params}, SOURCE, TOKENS, method="attention")
