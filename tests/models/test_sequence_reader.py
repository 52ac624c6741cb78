"""The net that reads a sequence and writes at its last steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UsageError
from jaxgen.models import SequenceReader

TOKENS = jnp.array([[0, 1, 2, 3, 4, 0], [4, 3, 2, 1, 0, 4]])


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_an_output_knows_what_was_read_up_to_its_step_and_nothing_later(cell):
    model = SequenceReader(5, 3, hidden_size=8, cell=cell)
    variables = model.init(jax.random.key(0), TOKENS)
    logits = model.apply(variables, TOKENS)
    assert logits.shape == (2, 3, 5) and logits.dtype == jnp.float32
    for changed in range(6):
        other = model.apply(variables, TOKENS.at[:, changed].add(1) % 5)
        differs = (jnp.abs(other - logits) > 1e-6).any(axis=(0, 2))
        np.testing.assert_array_equal(differs, [changed <= step for step in (3, 4, 5)])


def test_it_writes_from_the_states_that_it_reads_into():
    model = SequenceReader(5, 2, hidden_size=8)
    variables = model.init(jax.random.key(0), TOKENS)
    embedded = model.apply(variables, TOKENS, method=model.embed)
    hidden = model.apply(variables, embedded, method=model.read)
    output = variables["params"]["output"]
    expected = hidden[:, -2:] @ output["kernel"] + output["bias"]
    np.testing.assert_allclose(model.apply(variables, TOKENS), expected, rtol=1e-5, atol=1e-6)


def test_options_reach_the_layers():
    model = SequenceReader(5, 2, hidden_size=8, num_layers=2, chrono_span=50.0, dropout=0.5, dtype="bfloat16")
    variables = model.init(jax.random.key(0), TOKENS)
    for layer in ("layer_0", "layer_1"):
        bias = variables["params"]["layers"][layer]["bias"]
        assert bias[8:16].min() > 1
    calm = model.apply(variables, TOKENS)
    dropped = [
        model.apply(variables, TOKENS, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2)
    ]
    assert calm.dtype == jnp.float32
    assert (dropped[0] != dropped[1]).any() and (dropped[0] != calm).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_length": 0}, "output_length must be positive"),
        ({"vocabulary_size": 0}, "vocabulary_size must be positive"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_impossible_fields_are_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        SequenceReader(**{"vocabulary_size": 5, "output_length": 2, **options})
