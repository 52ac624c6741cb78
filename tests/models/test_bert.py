"""BERT: what order and padding change, options that change no result, heads, published sizes, and transformers' own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.transformers_agreement import check_transformers_agreement, stored_case
from weights import number_of_parameters, random_params

from jaxgen.errors import UsageError
from jaxgen.models import BERT

VOCABULARY, TIME = 13, 8
SIZES = {
    "vocabulary_size": VOCABULARY,
    "context_length": 10,
    "num_layers": 2,
    "num_heads": 4,
    "embedding_size": 16,
}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (2, TIME)), jnp.int32)
HEADS = ("masked", "next_sentence", "classification", "tokens", "spans")


@functools.cache
def made(positions="learned"):
    """A model with all heads."""
    model = BERT(**SIZES, heads=HEADS, num_classes=3, positions=positions)
    return model, random_params(model, TOKENS)


def features(model, params, tokens, **options):
    return model.apply({"params": params}, tokens, method="features", **options)


def test_without_positions_the_order_changes_nothing():
    order = np.random.default_rng(1).permutation(TIME)
    for positions, same in (("none", True), ("learned", False)):
        model, params = made(positions)
        plain, shuffled = (features(model, params, tokens) for tokens in (TOKENS, TOKENS[:, order]))
        assert np.allclose(shuffled, plain[:, order], rtol=1e-4, atol=1e-5) == same


def test_padding_changes_nothing():
    model, params = made()
    lengths = jnp.array([5, TIME])
    padded = jnp.where(jnp.arange(TIME) < lengths[:, None], TOKENS, 7)
    found = model.apply({"params": params}, padded, lengths=lengths)
    alone = model.apply({"params": params}, TOKENS[:1, :5])
    for name, values in alone.items():
        part = found[name][0] if values.ndim == 2 else found[name][0, :5]
        np.testing.assert_allclose(part, values[0], rtol=1e-4, atol=1e-5, err_msg=name)


def test_every_token_sees_every_other():
    model, params = made()
    embedding = params["token_embedding"]["embedding"]

    def at(shifts):
        table = {"embedding": embedding[TOKENS[0]] + shifts}
        wide = model.clone(vocabulary_size=TIME, heads=())
        return features(wide, params | {"token_embedding": table}, jnp.arange(TIME)[None])[0, 2, 3]

    assert (jax.jit(jax.grad(at))(jnp.zeros((TIME, 16))) != 0).any(axis=-1).all()


@functools.cache
def trained(**options):
    """Features and gradients, with dropout."""
    model, params = made()
    model = model.clone(**options)

    @jax.jit
    def of(params):
        def objective(params):
            rngs = {"dropout": jax.random.key(5, impl="unsafe_rbg")}
            found = features(model, params, TOKENS, lengths=jnp.array([5, TIME]), train=True, rngs=rngs)
            return found[..., ::2].sum()

        return jax.value_and_grad(objective)(params)

    return of(params)


def test_remat_and_scanned_layers_change_nothing():
    plain, changed = trained(), trained(remat=True, scan_layers=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), changed, plain)


def test_heads_give_what_they_are_for():
    model, params = made()
    found = model.apply({"params": params}, TOKENS, token_types=jnp.ones_like(TOKENS))
    assert {name: values.shape for name, values in found.items()} == {
        "features": (2, TIME, 16),
        "pooled": (2, 16),
        "masked": (2, TIME, VOCABULARY),
        "next_sentence": (2, 2),
        "classification": (2, 3),
        "tokens": (2, TIME, 3),
        "spans": (2, TIME, 2),
    }
    assert (found["features"] != features(model, params, TOKENS)).any()
    # Only what is masked need be given to the masked head.
    some = model.apply({"params": params}, found["features"][:, 3], method="masked_features")
    logits = model.apply({"params": params}, some, method="logits")
    np.testing.assert_allclose(logits, found["masked"][:, 3], rtol=1e-5, atol=1e-5)
    kernel, bias = model.apply({"params": params}, method="output")
    np.testing.assert_allclose(some @ kernel + bias, logits, rtol=1e-5, atol=1e-5)


def test_attention_is_a_distribution_over_what_is_no_padding():
    model, params = made()
    found = model.apply({"params": params}, TOKENS, lengths=jnp.array([5, TIME]), method="attention")
    assert found.shape == (2, 2, 4, TIME, TIME)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    assert (found[0, ..., 5:] == 0).all() and (found[0, ..., :5] > 0).all() and (found[1] > 0).all()


@pytest.mark.parametrize(("sizes", "count"), [((12, 12, 768), 109_482_240), ((24, 16, 1024), 335_141_888)])
def test_published_sizes_have_the_published_number_of_parameters(sizes, count):
    layers, heads, width = sizes
    model = BERT(30_522, num_layers=layers, num_heads=heads, embedding_size=width, heads=())
    assert number_of_parameters(model, TOKENS) == count


def test_it_is_what_transformers_compute():
    check_transformers_agreement(*stored_case("bert"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": ("maskd",)}, "unknown head 'maskd'; did you mean masked"),
        ({"heads": ("classification",), "pooler": False}, "reads what the pooler gives"),
        ({"activation": "swiglu"}, "no gate for swiglu"),
        ({"positions": "rotary"}, "unknown positions 'rotary'; known: learned, none"),
        ({"num_heads": 3}, "embedding_size is 16, which 3 heads can't share evenly"),
        ({"num_classes": 0}, "num_classes must be positive"),
    ],
)
def test_impossible_fields_are_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        BERT(**SIZES | options)


def test_a_text_longer_than_the_context_is_refused():
    model, params = made()
    with pytest.raises(UsageError, match="11 tokens is longer than the model's context of 10"):
        features(model, params, jnp.zeros((1, 11), jnp.int32))
