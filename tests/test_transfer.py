"""What is taken over of a trained model, and which part of it is trained then."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxgen.errors import UsageError
from jaxgen.models import BERT, T5
from jaxgen.transfer import above, begin_with, count_trained, of_classes

TOKENS = jnp.zeros((1, 2), jnp.int32)
SIZES = {"vocabulary_size": 20, "num_layers": 3, "num_heads": 2, "embedding_size": 8}
CLASSIFIER = BERT(**SIZES, heads=("classification",))
SEQ = T5(**SIZES, head_size=4, feed_forward_size=16, num_decoder_layers=2)


def shapes(model, *inputs):
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def parts(mask):
    """Gives the first two parts of the paths of what is and of what isn't trained."""
    flat = traverse_util.flatten_dict(mask)
    return [
        {"/".join(path[:2]) for path, chosen in flat.items() if chosen is wanted} for wanted in (True, False)
    ]


@pytest.mark.parametrize("frozen_layers", [0, 1, 3, "all"])
def test_embeddings_and_the_first_blocks_of_a_bert_stay(frozen_layers):
    params = shapes(CLASSIFIER, TOKENS)
    count = 3 if frozen_layers == "all" else frozen_layers
    trained, frozen = parts(above(CLASSIFIER, params, frozen_layers))
    assert trained == {
        *(f"layers/layer_{number}" for number in range(count, 3)),
        *(f"{name}/{part}" for name in ("pool", "head_classification") for part in ("kernel", "bias")),
    }
    assert frozen == {
        *(f"layers/layer_{number}" for number in range(count)),
        *(f"{name}_embedding/embedding" for name in ("token", "token_type", "position")),
        "embedding_norm/scale",
        "embedding_norm/bias",
    }


def test_of_a_t5_the_encoder_stays():
    params = shapes(SEQ, TOKENS, TOKENS)
    trained, frozen = parts(above(SEQ, params, 2))
    assert frozen == {
        "token_embedding/embedding", "encoder_bias/embedding", "encoder/layer_0", "encoder/layer_1"
    }  # fmt: skip
    assert {"encoder/layer_2", "encoder_norm/scale", "decoder/layer_0", "decoder/layer_1"} <= trained
    trained, frozen = parts(above(SEQ, params, "all"))
    assert trained == {"decoder/layer_0", "decoder/layer_1", "decoder_norm/scale", "decoder_bias/embedding"}
    assert "encoder_norm/scale" in frozen


def test_layers_that_there_are_none_of():
    params = shapes(CLASSIFIER, TOKENS)
    for number in (-1, 4):
        with pytest.raises(
            UsageError, match=f"--frozen-layers {number}: the model has 3 layers; give 0 to 3, or all"
        ):
            above(CLASSIFIER, params, number)


def test_all_that_is_there_is_taken_over_but_for_a_head_of_other_classes():
    own = CLASSIFIER.init(jax.random.key(0), TOKENS)["params"]
    filler = CLASSIFIER.clone(heads=("masked",), pooler=False).init(jax.random.key(1), TOKENS)["params"]
    begun = begin_with(own, filler, same_classes=False)
    assert jax.tree.structure(begun) == jax.tree.structure(own)
    for name in own:
        expected = own if name in ("pool", "head_classification") else filler
        jax.tree.map(np.testing.assert_array_equal, begun[name], expected[name])
    other = CLASSIFIER.clone(num_classes=5).init(jax.random.key(2), TOKENS)["params"]
    begun = begin_with(own, other, same_classes=False)
    jax.tree.map(np.testing.assert_array_equal, begun["head_classification"], own["head_classification"])
    jax.tree.map(np.testing.assert_array_equal, begun["pool"], other["pool"])
    twin = CLASSIFIER.init(jax.random.key(3), TOKENS)["params"]
    jax.tree.map(np.testing.assert_array_equal, begin_with(own, twin, same_classes=True), twin)


def test_what_is_trained_is_counted():
    params = shapes(CLASSIFIER, TOKENS)
    assert count_trained(params, of_classes(params)) == 8 * 8 + 8 + 8 * 2 + 2
