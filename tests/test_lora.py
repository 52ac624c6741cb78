"""LoRA: nothing changes at first, merged parameters do what unmerged ones do, and what can't be is refused."""

import collections
import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxgen.config import describe, rebuild
from jaxgen.errors import UsageError
from jaxgen.lora import Adapted, LowRank
from jaxgen.models import BERT, T5
from jaxgen.tasks import SequenceToSequence, TextClassification
from jaxgen.train.state import count_parameters

MODEL = BERT(
    vocabulary_size=20,
    context_length=8,
    num_layers=2,
    num_heads=2,
    embedding_size=12,
    feed_forward_size=24,
    heads=("classification",),
    num_classes=3,
)
TASK = TextClassification(MODEL)
LOW_RANK = LowRank(rank=4, alpha=6.0)
ADAPTED = Adapted(TASK, LOW_RANK)
PARAMS, _ = ADAPTED.init(jax.random.key(0), {})
TOKENS = np.random.default_rng(0).integers(0, 20, (3, 8)).astype(np.int32)


def changed(params=PARAMS):
    """Gives the parameters as they may be after some training."""
    leaves, tree = jax.tree.flatten(params["low_rank"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return {**params, "low_rank": jax.tree.unflatten(tree, drawn)}


@contextlib.contextmanager
def adding_factors(low_rank, layers):
    """Adds what the factors make of it to what each layer of attention, in the order of the calls, makes of a text."""
    calls = collections.Counter()

    def add(call, arguments, options, context):
        found, name = call(*arguments, **options), context.module.name
        if context.method_name != "__call__" or name not in ("query", "value"):
            return found
        factors = traverse_util.flatten_dict(low_rank, sep="/")
        a, b = (factors[f"{layers[calls[name]]}/{name}/{part}"] for part in "ab")
        calls[name] += 1
        return found + 6.0 / 4 * ((arguments[0] @ a) @ b)

    with nn.intercept_methods(add):
        yield
    assert calls == {"query": len(layers), "value": len(layers)}


def test_nothing_changes_at_first():
    merged = ADAPTED.merged(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, merged, PARAMS["base"])
    spread = [
        leaf.std() for path, leaf in traverse_util.flatten_dict(PARAMS["low_rank"]).items() if path[-1] == "a"
    ]
    assert np.mean(spread) == pytest.approx(12**-0.5, rel=0.2)


def test_queries_and_values_alone_are_changed():
    before, merged = map(traverse_util.flatten_dict, (PARAMS["base"], ADAPTED.merged(changed())))
    differing = {path for path in before if not np.array_equal(before[path], merged[path])}
    assert before.keys() == merged.keys()
    assert differing == {
        ("layers", f"layer_{number}", "attention", name, "kernel")
        for number in (0, 1)
        for name in ("query", "value")
    }
    assert count_parameters(PARAMS["low_rank"]) == 2 * 2 * (12 * 4 + 4 * 12)
    more = LowRank(2, kernels=("up", "down", "output")).init(jax.random.key(0), PARAMS["base"])
    assert count_parameters(more) == 2 * 2 * ((12 + 24) + (24 + 12) + (12 + 12))


def test_merged_parameters_do_what_the_factors_do():
    params = changed()
    with adding_factors(params["low_rank"], [f"layers/layer_{number}/attention" for number in (0, 1)]):
        expected = MODEL.apply({"params": params["base"]}, TOKENS)
    found = MODEL.apply({"params": ADAPTED.merged(params)}, TOKENS)
    plain = MODEL.apply({"params": params["base"]}, TOKENS)
    for name in ("features", "classification"):
        np.testing.assert_allclose(found[name], expected[name], atol=2e-6)
        assert np.abs(found[name] - plain[name]).max() > 1e-3


def test_merged_parameters_of_a_t5_do_so_in_all_three_kinds_of_attention():
    model = T5(
        vocabulary_size=20, num_layers=1, num_heads=2, head_size=6, embedding_size=12, feed_forward_size=24
    )
    adapted = Adapted(SequenceToSequence(model), LOW_RANK)
    params = changed(adapted.init(jax.random.key(0), {})[0])
    layers = [f"{part}/layer_0/attention" for part in ("encoder", "decoder")]
    with adding_factors(params["low_rank"], [*layers, "decoder/layer_0/cross_attention"]):
        expected = model.apply({"params": params["base"]}, TOKENS, TOKENS[:, :5])
    apply = jax.jit(model.apply)
    found = apply({"params": adapted.merged(params)}, TOKENS, TOKENS[:, :5])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    plain = apply({"params": params["base"]}, TOKENS, TOKENS[:, :5])
    assert np.abs(found - plain).max() > 1e-2


def test_what_cannot_be_is_refused():
    for options, told in (
        ({"rank": 0}, "the rank of LoRA is 0; it must be at least 1"),
        ({"alpha": 0.0}, "alpha of LoRA is 0.0; it must be positive"),
        ({"rank": 13}, "the rank of LoRA is 13, but .*/query is of 12 x 12: take 12 at most"),
        ({"kernels": ("gate", "query")}, "the model has no kernel called gate for LoRA to adapt"),
    ):
        with pytest.raises(UsageError, match=told):
            LowRank(**options).init(jax.random.key(0), PARAMS["base"])


def test_it_is_made_again_from_its_description():
    assert rebuild(describe(LOW_RANK)) == LOW_RANK


def test_the_loss_is_that_of_the_merged_parameters():
    from jaxgen.train.context import Context

    params = changed()
    batch = {"tokens": TOKENS, "label": jnp.array([0, 2, 1])}
    context = Context(rng=jax.random.key(0), step=0, places=jnp.arange(3), train=False)
    found, expected = (
        task.loss(given, {}, (), batch, context)[0]["cross_entropy"].compute()
        for task, given in ((ADAPTED, params), (TASK, ADAPTED.merged(params)))
    )
    assert found == expected
