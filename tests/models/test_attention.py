"""Attention: all its forms against one another and a slow one; positions; parts of blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from jaxgen.errors import UsageError
from jaxgen.models.attention import Attention, AttentionInit, attend
from jaxgen.models.attention_kernels import kernels
from jaxgen.models.cache import as_cache, attend_to_cache, room, with_room, write_to_cache
from jaxgen.models.layers import Dropout
from jaxgen.models.masks import Masks, seen
from jaxgen.models.positions import RelativeBias, rotate, rotation, sinusoidal

BATCH, TIME, HEADS, DEPTH = 2, 7, 4, 6
LENGTHS = jnp.array([7, 4])
SEGMENTS = jnp.array([[1, 1, 2, 2, 2, 3, 3], [1, 1, 1, 1, 2, 2, 2]])
MASKS = {
    "none": Masks(),
    "lengths": Masks(lengths=LENGTHS),
    "segments": Masks(segments=SEGMENTS),
    "both": Masks(LENGTHS, SEGMENTS),
}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def case(kv_heads=HEADS, keys=TIME):
    key, value = (normal(seed, BATCH, keys, kv_heads, DEPTH) for seed in (1, 2))
    return normal(0, BATCH, TIME, HEADS, DEPTH), key, value


def slowly(query, key, value, masks, causal, bias):
    """Query by query and head by head."""
    query, key, value = (np.asarray(array, np.float64) for array in (query, key, value))
    shared = HEADS // key.shape[2]
    outputs = np.zeros_like(query)
    for row, place, head in np.ndindex(*query.shape[:3]):
        seen = np.arange(key.shape[1]) <= place if causal else np.ones(key.shape[1], bool)
        if masks.lengths is not None:
            seen &= np.arange(key.shape[1]) < masks.lengths[row]
        if masks.segments is not None:
            seen &= np.asarray(masks.segments[row] == masks.segments[row, place])
        if not seen.any():
            outputs[row, place, head] = np.nan
            continue
        scores = key[row, seen, head // shared] @ query[row, place, head] / DEPTH**0.5
        scores += 0 if bias is None else np.asarray(bias)[0, head, place, seen]
        powers = np.exp(scores - scores.max())
        outputs[row, place, head] = powers @ value[row, seen, head // shared] / powers.sum()
    return outputs


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masks", MASKS)
def test_attention_is_what_a_slow_loop_gives(kv_heads, causal, masks):
    given, bias = case(kv_heads), normal(3, 1, HEADS, TIME, TIME) if masks == "lengths" else None
    expected = slowly(*given, MASKS[masks], causal, bias)
    found = attend(*given, MASKS[masks], causal=causal, bias=bias)
    sees = ~np.isnan(expected)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[sees], expected[sees], rtol=1e-5, atol=1e-5)


def test_blocks_change_neither_values_nor_gradients():
    """Of 3 of 7 queries: the last one is filled up."""
    given, bias = case(kv_heads=2), normal(3, 1, HEADS, TIME, TIME)

    @functools.partial(jax.jit, static_argnums=0)
    def apply(block, given, bias):
        def attended(given, bias):
            return attend(*given, MASKS["both"], causal=True, bias=bias, block=block)

        value, pull = jax.vjp(attended, given, bias)
        return value, pull(normal(4, *value.shape))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        apply(3, given, bias),
        apply(0, given, bias),
    )


def test_blocks_need_less_memory():
    """That of the gradient grows with the length, not with its square."""
    shape = jax.ShapeDtypeStruct((1, 1024, 1, 8), jnp.float32)

    def bytes_with(block):
        def total(query, key, value):
            return attend(query, key, value, causal=True, block=block).sum()

        compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(shape, shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_with(64) < bytes_with(0) / 4


def test_shared_heads_are_repeated_heads():
    query, key, value = case(kv_heads=2)
    repeated = (jnp.repeat(array, 2, axis=2) for array in (key, value))
    np.testing.assert_allclose(
        attend(query, key, value, causal=True), attend(query, *repeated, causal=True), rtol=1e-5, atol=1e-6
    )


def test_jax_has_the_same_attention():
    query, key, value = case(kv_heads=2)
    expected = jax.nn.dot_product_attention(query, key, value, is_causal=True, key_value_seq_lengths=LENGTHS)
    found = attend(query, key, value, Masks(LENGTHS), causal=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_softmax_is_float32_in_half_precision():
    """Scores this large have steps of 0.5 in bfloat16, which would be seen in the weights."""
    query, key, value = (8 * array for array in case())
    half = [array.astype(jnp.bfloat16) for array in (query, key, value)]
    whole = [array.astype(jnp.float32) for array in half]
    found = attend(*half)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), attend(*whole), rtol=0.02, atol=0.1)


@pytest.mark.parametrize("part", [TIME, 4, 2])
def test_a_cache_is_read_as_the_last_query_would(part):
    """Token by token into a cache of rows of different lengths; what lies behind them may be anything."""
    query, key, value = case(kv_heads=2)
    whole = attend(query, key, value, causal=True)
    start = jnp.array([3, 0])
    room = jnp.arange(TIME)[:, None] < start[:, None, None, None]

    def begin(array):
        return jnp.where(room, jnp.swapaxes(array, 1, 2), 1e4)

    def cut(array):
        return tuple(array[:, :, place : place + part] for place in range(0, TIME, part))

    cache = {"key": cut(begin(key)), "value": cut(begin(value))}
    for lengths in (start + step for step in range(4)):
        now = jax.tree.map(
            lambda array, lengths=lengths: jnp.take_along_axis(array, lengths[:, None, None, None], axis=1),
            {"query": query, "key": key, "value": value},
        )
        new = as_cache([now["key"], now["value"]])
        cache = write_to_cache(cache, new, lengths)
        found = attend_to_cache(now["query"][:, 0], cache, lengths + 1)
        expected = whole[jnp.arange(BATCH), lengths]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_cache_has_room_in_parts_and_a_full_one_stays_as_it_is():
    key, value = normal(1, BATCH, 70, 2, DEPTH), normal(2, BATCH, 70, 2, DEPTH)
    cache = with_room(as_cache([key, value]), 200)
    assert [part.shape[2] for part in cache["key"]] == [64, 64, 64, 8] and room(cache) == 200
    joined = jnp.concatenate(cache["value"], axis=2)
    np.testing.assert_array_equal(joined[:, :, :70], jnp.swapaxes(value, 1, 2))
    assert not joined[:, :, 70:].any()
    more = as_cache([key[:, :1], value[:, :1]])
    after = write_to_cache(cache, more, jnp.array([200, 199]))
    assert not jax.tree.map(lambda a, b: (a[0] != b[0]).any(), after, cache)["key"][-1]
    np.testing.assert_array_equal(after["key"][-1][1, :, 7], key[1, 0])
    assert max(len(parts) for parts in with_room(as_cache([key, value]), 10_000).values()) == 8


def test_parts_of_a_cache_add_up_in_float32():
    key, value = (normal(seed, 1, 512, 2, DEPTH).astype(jnp.bfloat16) for seed in (1, 2))
    query, whole = normal(0, 1, HEADS, DEPTH).astype(jnp.bfloat16), as_cache([key, value])
    told = (query, jnp.array([512]))
    one, parts = (attend_to_cache(told[0], cache, told[1]) for cache in (whole, with_room(whole, 512)))
    np.testing.assert_allclose(*(np.asarray(found, np.float32) for found in (parts, one)), rtol=2**-7, atol=0)


@pytest.mark.parametrize("masks", ["none", "both"])
def test_the_kernel_of_tpus_gives_the_same(masks):
    """Interpreted, in two blocks; a row whose queries are padding means nothing."""
    query, key, value = (normal(seed, 2, 256, heads, 8) for seed, heads in ((0, 4), (1, 2), (2, 2)))
    lengths, starts = jnp.array([256, 100]), jnp.zeros((2, 256), jnp.int32).at[0, 40].set(1).at[1, 70].set(1)
    given = Masks() if masks == "none" else Masks(lengths, jnp.cumsum(starts, axis=1))
    kernel = kernels(*(jnp.zeros((2, 1024, heads, 8)) for heads in (4, 2)))["tpu"]
    with pltpu.force_tpu_interpret_mode():
        found = kernel(True, 0.5, query, key, value, given)
    expected = attend(query, key, value, given, causal=True, scale=0.5)
    for row, length in enumerate((256, 256 if masks == "none" else 100)):
        np.testing.assert_allclose(found[row, :length], expected[row, :length], rtol=1e-4, atol=1e-4)


def test_tpus_have_their_kernel_for_long_contexts_alone():
    def compiled_for(platform, length):
        shape = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.bfloat16)
        causal = jax.jit(functools.partial(attend, causal=True))
        return jax.export.export(causal, platforms=[platform])(shape, shape, shape).mlir_module()

    assert "tpu_custom_call" in compiled_for("tpu", 1024)
    assert "tpu_custom_call" not in compiled_for("tpu", 256)
    for platform in ("cpu", "cuda"):
        assert "custom_call" not in compiled_for(platform, 1024)


def test_dropout_drops_weights_and_keeps_their_mean():
    query, key, _ = case()
    value = jnp.ones((BATCH, TIME, HEADS, DEPTH))
    query, key, value = (jnp.repeat(array, 50, axis=0) for array in (query, key, value))
    found = np.asarray(attend(query, key, value, dropout=0.3, rng=jax.random.key(0)))
    assert (found != 1).mean() > 0.9
    np.testing.assert_allclose(found.mean(), 1, atol=0.02)
    calm = attend(query, key, value, dropout=0.3)  # without a key, as where there is no training
    np.testing.assert_allclose(calm, 1, rtol=1e-5)


def test_rotated_products_depend_on_the_distance_alone():
    query, key, _ = case()
    positions = jnp.arange(TIME)[None]
    products = [
        jnp.einsum(
            "bthd,bshd->bhts",
            *(rotate(array, rotation(positions + shift, DEPTH)) for array in (query, key)),
        )
        for shift in (0, 50)
    ]
    np.testing.assert_allclose(*products, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        jnp.linalg.norm(rotate(query, rotation(positions, DEPTH)), axis=-1),
        jnp.linalg.norm(query, axis=-1),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(rotate(query, rotation(positions * 0, DEPTH)), query)
    with pytest.raises(UsageError, match="must be even, not 5"):
        rotation(positions, 5)


def test_sinusoidal_positions_are_those_of_the_paper():
    found = sinusoidal(jnp.arange(40), 8)
    for position, pair in ((0, 0), (3, 1), (39, 3)):
        angle = position / 10_000 ** (2 * pair / 8)
        np.testing.assert_allclose(
            found[position, 2 * pair : 2 * pair + 2], [np.sin(angle), np.cos(angle)], atol=1e-5
        )


@pytest.mark.parametrize("bidirectional", [False, True])
def test_relative_biases_go_by_buckets_of_distances(bidirectional):
    """Of 8 buckets one way: distances 0 to 3 each have one, then they widen up to 20."""
    buckets = 16 if bidirectional else 8
    module = RelativeBias(2, buckets, 20, bidirectional)
    variables = {
        "params": {"embedding": jnp.stack([jnp.arange(buckets), -jnp.arange(buckets)], axis=1) * 1.0}
    }
    found = np.asarray(module.apply(variables, 30, 25))
    assert found.shape == (1, 2, 30, 25)
    np.testing.assert_array_equal(found[0, 0], -found[0, 1])
    behind = [0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7]
    for query, key in ((29, 24), (21, 0), (10, 7), (5, 5), (3, 4), (2, 24), (0, 6)):
        distance = key - query
        expected = behind[min(abs(distance), 21)] if distance <= 0 else (8 if bidirectional else 0)
        if distance > 0 and bidirectional:
            expected += behind[min(distance, 21)]
        assert found[0, 0, query, key] == expected, (query, key)
    distances = jnp.arange(25)[None] - jnp.array([[29], [4]])
    at = module.apply(variables, distances, method="at")
    np.testing.assert_array_equal(at, found[0][:, [29, 4]].swapaxes(0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads is 3, but 4 heads can't be shared evenly"),
        ({"num_kv_heads": 0}, "num_kv_heads must be positive"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"head_size": 0}, "head_size must be positive"),
    ],
)
def test_impossible_fields_are_one_line(options, message):
    init = jax.nn.initializers.normal(0.02)
    fields = {"width": 8, "num_heads": 4, "head_size": 2, "kernel_init": AttentionInit(init, init, init)}
    with pytest.raises(UsageError, match=message):
        Attention(**fields | options)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_gradients_are_those_of_the_formula_written_down(masks, kv_heads):
    """With dropout, too, whose mask both take from the same key; a bias for all rows, and one for each."""
    given, rng = case(kv_heads), jax.random.key(5)

    def plainly(query, key, value, bias):
        key, value = (jnp.repeat(array, HEADS // kv_heads, axis=2) for array in (key, value))
        visible = seen(True, MASKS[masks], MASKS[masks].segments, jnp.arange(TIME), TIME)
        scores = 0.3 * jnp.einsum("bthd,bshd->bhts", query, key) + bias
        weights = jax.nn.softmax(jnp.where(visible, scores, -1e30))
        grouped = weights.reshape(BATCH, kv_heads, -1, TIME, TIME)
        kept = Dropout(0.4, parent=None).apply({}, grouped, train=True, rngs={"dropout": rng})
        return jnp.einsum("bhts,bshd->bthd", kept.reshape(weights.shape), value)

    def ours(query, key, value, bias):
        told = {"causal": True, "scale": 0.3, "dropout": 0.4, "rng": rng}
        return attend(query, key, value, MASKS[masks], bias=bias, **told)

    for rows in (1, BATCH):
        bias, change = normal(3, rows, HEADS, TIME, TIME), normal(4, BATCH, TIME, HEADS, DEPTH)
        (expected, pull), (found, pull_ours) = (jax.vjp(apply, *given, bias) for apply in (plainly, ours))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        for wanted, got in zip(pull(change), pull_ours(change), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
