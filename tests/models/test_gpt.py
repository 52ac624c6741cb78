"""GPT: what a token may depend on, packed texts, options that change no result, sizes, and transformers' own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.transformers_agreement import check_transformers_agreement, stored_case
from weights import number_of_parameters, random_params

from jaxgen.errors import UsageError
from jaxgen.models import GPT

VOCABULARY, TIME = 13, 10
SIZES = {
    "vocabulary_size": VOCABULARY,
    "context_length": 16,
    "num_layers": 2,
    "num_heads": 4,
    "embedding_size": 16,
}
LLAMA = {
    "positions": "rotary",
    "norm": "rms",
    "activation": "swiglu",
    "use_bias": False,
    "num_kv_heads": 2,
    "tied": False,
    "feed_forward_size": 24,
}
KINDS = {"gpt2": {}, "llama": LLAMA, "sinusoidal": {"positions": "sinusoidal", "activation": "geglu"}}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (2, TIME)), jnp.int32)


@functools.cache
def made(kind):
    model = GPT(**SIZES | KINDS[kind])
    return model, random_params(model, TOKENS)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def logits(model, params, tokens, **options):
    return model.apply({"params": params}, tokens, **options)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_depends_on_a_later_one(kind):
    """By the gradient with respect to what is added to each token's embedding."""
    model, params = made(kind)
    embedding = params["token_embedding"]["embedding"]

    @jax.jit
    def gradient(place, shifts):
        def at(shifts):
            # One row of the table for each place of the text.
            rows = {"embedding": embedding[TOKENS[0]] + shifts}
            wide = model.clone(vocabulary_size=TIME, tied=False)
            kernel = {"output_kernel": jnp.ones((16, TIME)) * jnp.arange(TIME)}
            return logits(wide, params | {"token_embedding": rows} | kernel, jnp.arange(TIME)[None])[
                0, place, 3
            ]

        return jax.grad(at)(shifts)

    for place in (0, 4, TIME - 1):
        depends = (gradient(place, jnp.zeros((TIME, 16))) != 0).any(axis=-1)
        assert depends[: place + 1].all() and not depends[place + 1 :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_texts_packed_in_a_row_are_what_they_are_alone(kind):
    model, params = made(kind)
    starts = np.zeros((2, TIME), bool)
    starts[0, [0, 4, 5]] = starts[1, 7] = True
    packed = logits(model, params, TOKENS, starts=starts)
    texts = ((0, 0, 4), (0, 4, 5), (0, 5, TIME), (1, 0, 7), (1, 7, TIME))
    alone = logits(model, params, jnp.stack([jnp.roll(TOKENS[row], -begin) for row, begin, _ in texts]))
    for (row, begin, end), expected in zip(texts, alone, strict=True):
        np.testing.assert_allclose(packed[row, begin:end], expected[: end - begin], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    model, params = made(kind)
    lengths = jnp.array([6, TIME])
    padded = jnp.where(jnp.arange(TIME) < lengths[:, None], TOKENS, 7)
    found, alone = logits(model, params, padded, lengths=lengths), logits(model, params, TOKENS)
    np.testing.assert_allclose(found[0, :6], alone[0, :6], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], alone[1], rtol=1e-4, atol=1e-5)


@functools.cache
def trained(**options):
    """A loss and its gradients, with dropout."""
    model, params = made("gpt2")
    model = model.clone(dropout=0.2, **options)
    rngs = {"dropout": jax.random.key(5, impl="unsafe_rbg")}  # which compiles faster

    @jax.jit
    def of(params):
        def objective(params):
            found = logits(model, params, TOKENS, train=True, rngs=rngs)
            return jnp.mean(jax.nn.logsumexp(found, axis=-1) - found[..., 0])

        return jax.value_and_grad(objective)(params)

    return of(params)


def test_remat_and_scanned_layers_change_nothing():
    plain, changed = trained(), trained(remat=True, scan_layers=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), changed, plain)


def test_blocks_of_queries_change_nothing():
    model, params = made("llama")
    blockwise = model.clone(attention_block=4)
    np.testing.assert_allclose(
        logits(blockwise, params, TOKENS), logits(model, params, TOKENS), rtol=1e-5, atol=1e-5
    )


def test_shared_heads_are_repeated_heads():
    model, params = made("llama")

    def repeat(path, leaf):
        if not {"key", "value"} & {part.key for part in path}:
            return leaf
        return jnp.repeat(leaf.reshape(16, 2, 4), 2, axis=1).reshape(16, 16)

    repeated = jax.tree_util.tree_map_with_path(repeat, params)
    found = logits(model.clone(num_kv_heads=None), repeated, TOKENS)
    np.testing.assert_allclose(found, logits(model, params, TOKENS), rtol=1e-5, atol=1e-5)


def test_attention_of_all_layers_is_a_distribution_over_what_is_seen():
    model, params = made("gpt2")
    starts = np.zeros((2, TIME), bool)
    starts[1, 3] = True
    found = model.apply({"params": params}, TOKENS, starts=starts, method="attention")
    assert found.shape == (2, 2, 4, TIME, TIME)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    assert (found[:, :, :, *np.triu_indices(TIME, 1)] == 0).all()
    assert (found[1, :, :, 3:, :3] == 0).all() and (found[0, :, :, 3:, :3] > 0).all()


def test_half_precision_is_near_and_gives_float32_logits():
    model, params = made("llama")
    half = model.clone(dtype="bfloat16")
    found, expected = logits(half, params, TOKENS), logits(model, params, TOKENS)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_it_begins_as_in_the_paper():
    model = GPT(**SIZES | {"embedding_size": 64})
    for layer in model.init(jax.random.key(0), TOKENS[:, :1])["params"]["layers"].values():
        for part, name, deviation in (
            ("attention", "query", 0.02),
            ("attention", "output", 0.01),
            ("feed_forward", "up", 0.02),
            ("feed_forward", "down", 0.01),
        ):
            np.testing.assert_allclose(layer[part][name]["kernel"].std(), deviation, rtol=0.05)
            assert not layer[part][name]["bias"].any()


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ((12, 12, 768), 124_439_808),
        ((24, 16, 1024), 354_823_168),
        ((36, 20, 1280), 774_030_080),
        ((48, 25, 1600), 1_557_611_200),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(sizes, count):
    layers, heads, width = sizes
    model = GPT(50_257, num_layers=layers, num_heads=heads, embedding_size=width)
    assert number_of_parameters(model, TOKENS) == count


def test_small_llama_has_the_published_number_of_parameters():
    """TinyLlama 1.1B."""
    model = GPT(32_000, 2048, 22, 32, 2048, num_kv_heads=4, feed_forward_size=5632, **LLAMA_OPTIONS)
    assert number_of_parameters(model, TOKENS) == 1_100_048_384


LLAMA_OPTIONS = {name: LLAMA[name] for name in ("positions", "norm", "activation", "use_bias", "tied")}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_it_is_what_transformers_compute(name):
    check_transformers_agreement(*stored_case(name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "embedding_size is 16, which 3 heads can't share evenly"),
        ({"positions": "rotery"}, "unknown positions 'rotery'; did you mean rotary"),
        ({"norm": "batch"}, "unknown norm 'batch'"),
        ({"activation": "swish"}, "unknown activation 'swish'; did you mean swiglu"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"num_kv_heads": 3}, "num_kv_heads is 3"),
        ({"num_layers": 0}, "num_layers must be positive"),
        ({"context_length": 0}, "context_length must be positive"),
        ({"attention_block": -1}, "attention_block is -1"),
        ({"norm_epsilon": 0.0}, "norm_epsilon is 0.0; it must be positive"),
        ({"dtype": "int8"}, "dtype 'int8' is not one to compute in"),
        ({"positions": "rotary", "embedding_size": 12}, "an odd 3"),
    ],
)
def test_impossible_fields_are_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        GPT(**SIZES | options)


def test_a_text_longer_than_the_context_is_refused():
    model, params = made("gpt2")
    with pytest.raises(UsageError, match="17 tokens is longer than the model's context of 16"):
        logits(model, params, jnp.zeros((1, 17), jnp.int32))
