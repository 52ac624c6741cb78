"""The recurrent encoder-decoder against the one in PyTorch that its speed is compared with; `-m peers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import RecurrentEncoderDecoder

pytestmark = pytest.mark.peers
WIDTH, VOCABULARY = 8, 11


def test_it_is_pytorchs_on_the_same_weights():
    torch = pytest.importorskip("torch")
    from benchmarks.seq2seq_torch import EncoderDecoder

    torch.manual_seed(0)
    theirs = EncoderDecoder(VOCABULARY, WIDTH, dropout=0.0, padding=0)
    given = {name: leaf.detach().numpy() for name, leaf in theirs.named_parameters()}

    def lstm(name, suffix):
        return {
            "input_kernel": given[f"{name}.weight_ih{suffix}"].T,
            "recurrent_kernel": given[f"{name}.weight_hh{suffix}"].T,
            "bias": given[f"{name}.bias_ih{suffix}"] + given[f"{name}.bias_hh{suffix}"],
        }

    params = {
        "token_embedding": {"embedding": given["embedding.weight"]},
        "encoder": {"layer_0": lstm("encoder", "_l0"), "layer_0_backwards": lstm("encoder", "_l0_reverse")},
        "bridge_0": {"kernel": given["bridge.weight"].T, "bias": given["bridge.bias"]},
        "decoder": {
            "layer_0": lstm("decoder", ""),
            "key_kernel": given["key.weight"].T,
            "query_kernel": given["query.weight"].T,
            "energy": given["energy.weight"][0],
            "readout_kernel": given["readout.weight"].T,
            "readout_bias": given["readout.bias"],
        },
        "output_bias": given["output_bias"],
    }
    random = np.random.default_rng(0)
    source, tokens = (random.integers(0, VOCABULARY, (3, time)).astype(np.int32) for time in (7, 5))
    lengths = np.array([7, 4, 1], np.int32)
    model = RecurrentEncoderDecoder(VOCABULARY, embedding_size=WIDTH, hidden_size=WIDTH)
    assert jax.tree.map(np.shape, params) == jax.tree.map(
        np.shape, jax.eval_shape(model.init, jax.random.key(0), source, tokens)["params"]
    )
    params = jax.tree.map(jnp.asarray, params)
    found = model.apply({"params": params}, source, tokens, source_lengths=lengths)
    expected = theirs(*(torch.from_numpy(leaf).long() for leaf in (source, lengths, tokens)))
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
