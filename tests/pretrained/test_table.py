"""Tables: tensors to parameters and back bit for bit, and all that doesn't fit in one message."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import JaxgenError
from jaxgen.pretrained import Entry, Table, from_params, to_params
from jaxgen.pretrained.table import split, transposed

LAYERS, WIDTH = 3, 4
TABLE = Table(
    entries=(
        Entry("model.embedding.weight", "embedding"),
        Entry("model.h.{layer}.norm.weight", "layer_{layer}/norm/scale"),
        Entry("model.h.{layer}.up.weight", "layer_{layer}/up/kernel", transposed),
        Entry(
            "model.h.{layer}.attention.weight",
            tuple(f"layer_{{layer}}/{name}/kernel" for name in ("query", "key", "value")),
            transposed.then(split(3)),
        ),
        Entry(("head.gate", "head.up"), "head/kernel", split(2, axis=0).inverse),
    ),
    sizes={"layer": LAYERS},
    prefix="model.",
    ignored=("model.h.*.mask",),
    old_names=((".gamma", ".weight"),),
)


def array(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layer_params(layer):
    kernels = {
        name: {"kernel": array(10 * layer + number, WIDTH, WIDTH)}
        for number, name in enumerate(("query", "key", "value"))
    }
    return {**kernels, "norm": {"scale": array(layer, WIDTH)}, "up": {"kernel": array(layer, WIDTH, 6)}}


PARAMS = {
    "embedding": array(0, 9, WIDTH),
    **{f"layer_{layer}": layer_params(layer) for layer in range(LAYERS)},
    "head": {"kernel": array(1, 4, 5)},
}
SHAPES = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
TENSORS = from_params(PARAMS, TABLE)


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def test_there_and_back_is_the_same_bit_for_bit():
    assert_equal(to_params(TENSORS, TABLE, SHAPES), PARAMS)
    assert_equal(from_params(to_params(TENSORS, TABLE, SHAPES), TABLE), TENSORS)


def test_tensors_are_what_the_table_says():
    assert set(TENSORS) == {
        "model.embedding.weight",
        *(f"model.h.{n}.{name}.weight" for n in range(LAYERS) for name in ("norm", "up", "attention")),
        "head.gate",
        "head.up",
    }
    second = PARAMS["layer_1"]
    np.testing.assert_array_equal(TENSORS["model.h.1.up.weight"], second["up"]["kernel"].T)
    fused = np.concatenate([second[name]["kernel"].T for name in ("query", "key", "value")])
    np.testing.assert_array_equal(TENSORS["model.h.1.attention.weight"], fused)
    np.testing.assert_array_equal(TENSORS["head.up"], PARAMS["head"]["kernel"][2:])


def test_names_may_be_old_or_without_the_prefix_and_what_is_no_weight_is_left_out():
    renamed = {
        name.removeprefix("model.").replace("norm.weight", "norm.gamma"): t for name, t in TENSORS.items()
    }
    renamed["h.1.mask"] = np.ones((5, 5), bool)
    assert "h.0.norm.gamma" in renamed and not TENSORS.keys() & {"embedding.weight", *renamed} - {
        "head.gate",
        "head.up",
    }
    assert_equal(to_params(renamed, TABLE, SHAPES), PARAMS)


def test_parameters_have_the_dtype_that_is_asked_for():
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), SHAPES)
    made = to_params(TENSORS, TABLE, shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.bfloat16)}
    halves = {name: tensor.astype(np.float16) for name, tensor in TENSORS.items()}
    made = to_params(halves, TABLE, SHAPES)
    np.testing.assert_array_equal(
        made["embedding"], PARAMS["embedding"].astype(np.float16).astype(np.float32)
    )


def test_all_that_does_not_fit_is_listed_in_one_message():
    tensors = {
        **TENSORS,
        "model.embedding.weight": array(0, WIDTH, 9),
        "model.h.2.attention.weight": array(0, 3 * WIDTH + 1, WIDTH),
        "model.h.3.norm.weight": array(0, WIDTH),
        "bias": array(0, 2),
    }
    del tensors["model.h.0.up.weight"], tensors["head.up"]
    with pytest.raises(JaxgenError) as raised:
        to_params(tensors, TABLE, SHAPES)
    assert str(raised.value) == (
        "the weights don't fit the model: missing model.h.0.up.weight, head.up; extra model.h.3.norm.weight, bias; "
        "misshaped model.embedding.weight [4, 9], should be [9, 4], "
        "model.h.2.attention.weight [13, 4], should be [12, 4]"
    )


def test_long_lists_are_cut():
    with pytest.raises(JaxgenError, match=r"missing (\S+, ){7}\S+ and 4 more$"):
        to_params({}, TABLE, SHAPES)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"head": {}}, "the parameters don't fit the table: missing head/kernel"),
        ({"tail": {"bias": array(0, 2)}}, "the parameters don't fit the table: extra tail/bias"),
    ],
)
def test_parameters_that_do_not_fit_are_listed(change, told):
    with pytest.raises(JaxgenError, match=re.escape(told)):
        from_params({**PARAMS, **change}, TABLE)
