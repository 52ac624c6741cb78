"""T5: what a token may depend on, padding, options that change no result, published sizes, and transformers' own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.transformers_agreement import check_transformers_agreement, stored_case
from weights import number_of_parameters, random_params

from jaxgen.errors import UsageError
from jaxgen.models import T5

pytestmark = pytest.mark.usefixtures("compiled_quickly")

VOCABULARY, SOURCE_TIME, TIME = 13, 9, 7
SIZES = {
    "vocabulary_size": VOCABULARY,
    "embedding_size": 16,
    "num_layers": 2,
    "num_heads": 4,
    "head_size": 5,
    "feed_forward_size": 24,
    "num_buckets": 8,
    "max_distance": 6,
}
V1_1 = {"activation": "geglu", "tied": False, "num_decoder_layers": 3}
RNG = np.random.default_rng(0)
SOURCE = jnp.asarray(RNG.integers(0, VOCABULARY, (2, SOURCE_TIME)), jnp.int32)
TOKENS = jnp.asarray(RNG.integers(0, VOCABULARY, (2, TIME)), jnp.int32)


@functools.cache
def made(**options):
    model = T5(**SIZES, **options)
    return model, random_params(model, SOURCE, TOKENS, deviation=0.1)


def test_a_token_depends_on_the_source_and_on_no_later_token():
    model, params = made(**V1_1)
    table, count = params["token_embedding"]["embedding"], SOURCE_TIME + TIME
    wide = model.clone(vocabulary_size=count)
    places = jnp.arange(count)[None]
    kernel = {"output_kernel": jnp.ones((16, count)) * jnp.arange(count)}

    @jax.jit
    def gradient(place):
        def at(shifts):
            rows = {"embedding": table[jnp.concatenate([SOURCE[0], TOKENS[0]])] + shifts}
            given = {"params": params | {"token_embedding": rows} | kernel}
            found = wide.apply(given, places[:, :SOURCE_TIME], places[:, SOURCE_TIME:])
            return found[0, place, 3]

        return jax.grad(at)(jnp.zeros((count, 16)))

    for place in (0, 3):
        depends = (gradient(place) != 0).any(axis=-1)
        assert depends[: SOURCE_TIME + place + 1].all() and not depends[SOURCE_TIME + place + 1 :].any()


def test_padding_changes_nothing():
    model, params = made()
    apply = jax.jit(model.apply)
    source_lengths, lengths = jnp.array([4, SOURCE_TIME]), jnp.array([3, TIME])
    source = jnp.where(jnp.arange(SOURCE_TIME) < source_lengths[:, None], SOURCE, 7)
    tokens = jnp.where(jnp.arange(TIME) < lengths[:, None], TOKENS, 7)
    found = apply({"params": params}, source, tokens, source_lengths=source_lengths, lengths=lengths)
    alone = apply({"params": params}, SOURCE[:1, :4], TOKENS[:1, :3])
    np.testing.assert_allclose(found[0, :3], alone[0], rtol=1e-4, atol=1e-5)
    alone = apply({"params": params}, SOURCE[1:], TOKENS[1:])
    np.testing.assert_allclose(found[1], alone[0], rtol=1e-4, atol=1e-5)


@functools.cache
def trained(**options):
    """Logits' sum and gradients, with dropout."""
    model, params = made(**V1_1)
    model = model.clone(dropout=0.2, **options)

    @jax.jit
    def of(params):
        def objective(params):
            rngs = {"dropout": jax.random.key(5, impl="unsafe_rbg")}
            found = model.apply(
                {"params": params}, SOURCE, TOKENS, lengths=jnp.array([5, TIME]), train=True, rngs=rngs
            )
            return jnp.mean(jax.nn.logsumexp(found, axis=-1) - found[..., 0])

        return jax.value_and_grad(objective)(params)

    return of(params)


def test_remat_and_scanned_layers_change_nothing():
    plain, changed = trained(), trained(remat=True, scan_layers=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), changed, plain)


def test_attention_of_all_layers_is_a_distribution_over_what_is_seen():
    model, params = made(**V1_1)
    attention = jax.jit(functools.partial(model.apply, method="attention"))
    found = attention({"params": params}, SOURCE, TOKENS, source_lengths=jnp.array([4, SOURCE_TIME]))
    assert {name: weights.shape for name, weights in found.items()} == {
        "encoder": (2, 2, 4, SOURCE_TIME, SOURCE_TIME),
        "decoder": (2, 3, 4, TIME, TIME),
        "cross": (2, 3, 4, TIME, SOURCE_TIME),
    }
    for weights in found.values():
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    assert (found["decoder"][:, :, :, *np.triu_indices(TIME, 1)] == 0).all()
    for name in ("encoder", "cross"):
        assert (found[name][0, ..., 4:] == 0).all() and (found[name][1] > 0).all()


def test_logits_are_features_times_the_output():
    for options in ({}, V1_1):
        model, params = made(**options)
        features = jax.jit(functools.partial(model.apply, method="features"))
        kernel, bias = model.apply({"params": params}, method="output")
        logits = jax.jit(model.apply)({"params": params}, SOURCE, TOKENS)
        np.testing.assert_allclose(
            features({"params": params}, SOURCE, TOKENS) @ kernel + bias, logits, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("sizes", "count"), [((512, 6, 8, 2048), 60_506_624), ((768, 12, 12, 3072), 222_903_552)]
)
def test_published_sizes_have_the_published_number_of_parameters(sizes, count):
    width, layers, heads, inside = sizes
    model = T5(embedding_size=width, num_layers=layers, num_heads=heads, feed_forward_size=inside)
    assert number_of_parameters(model, SOURCE, TOKENS) == count


@pytest.mark.parametrize("name", ["t5", "t5_v1_1"])
def test_it_is_what_transformers_compute(name):
    check_transformers_agreement(*stored_case(name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_buckets": 7}, "num_buckets is 7; it must be even, and 4 at least"),
        ({"max_distance": 4}, "max_distance is 4; it must be more than half of the 8 buckets"),
        ({"activation": "gelu_new"}, "unknown activation 'gelu_new'"),
        ({"num_decoder_layers": 0}, "num_decoder_layers must be positive"),
        ({"head_size": 0}, "head_size must be positive"),
        ({"dropout": 1.5}, "dropout is 1.5"),
    ],
)
def test_impossible_fields_are_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        T5(**SIZES | options)
