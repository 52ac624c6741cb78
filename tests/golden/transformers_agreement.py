"""Compares jaxgen's GPT, BERT and T5 with what `make_transformers_reference.py` computed: stored and live."""

from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from golden.hidden_states import hidden_states

from jaxgen.models import BERT, GPT, T5

# As in make_transformers_reference.py.
SIZES = {"vocabulary_size": 23, "width": 12, "inside": 20, "layers": 2, "heads": 4, "context": 9}
CASES = {
    "gpt2": ("gpt2", SIZES),
    "llama": ("llama", SIZES | {"width": 16, "kv_heads": 2}),
    "bert": ("bert", SIZES),
    "t5": ("t5", SIZES | {"context": 20, "head_size": 5, "tied": True}),
    "t5_v1_1": ("t5", SIZES | {"context": 20, "head_size": 5, "tied": False}),
}


def stored_case(name: str) -> tuple[str, dict, dict[str, np.ndarray]]:
    """Gives a stored case's family, sizes, and all that was computed."""
    with np.load(Path(__file__).with_name(f"transformers_{name}.npz")) as stored:
        return *CASES[name], dict(stored)


def models(family: str, sizes: dict) -> GPT | BERT | T5:
    """Makes the model that is to be compared."""
    common = {
        "vocabulary_size": sizes["vocabulary_size"],
        "num_layers": sizes["layers"],
        "num_heads": sizes["heads"],
        "embedding_size": sizes["width"],
        "feed_forward_size": sizes["inside"],
    }
    if family == "gpt2":
        return GPT(**common, context_length=sizes["context"])
    if family == "llama":
        modern = {
            "positions": "rotary",
            "norm": "rms",
            "activation": "swiglu",
            "use_bias": False,
            "tied": False,
        }
        return GPT(**common, **modern, context_length=sizes["context"], num_kv_heads=sizes["kv_heads"])
    if family == "bert":
        return BERT(**common, context_length=sizes["context"], heads=("masked", "next_sentence"))
    return T5(
        **common,
        head_size=sizes["head_size"],
        num_buckets=8,
        max_distance=10,
        activation="relu" if sizes["tied"] else "geglu",
        tied=sizes["tied"],
    )


def check_transformers_agreement(
    family: str, sizes: dict, reference: dict[str, np.ndarray], tolerance: float = 1e-4
) -> None:
    """Asserts that outputs, of all that isn't padding, are those of transformers, to 1e-4 absolute.

    That is logits and features, and what each block gives.
    """
    model = models(family, sizes)
    prefix = "params/"
    flat = {key.removeprefix(prefix): value for key, value in reference.items() if key.startswith(prefix)}
    params = unflatten_dict(flat, sep="/")
    tokens, lengths = reference["tokens"], reference["lengths"]

    @jax.jit
    def found(params):
        variables = {"params": params}
        if family == "t5":
            encoded = model.apply(variables, tokens, lengths=lengths, method="encode")
            written = (reference["written"], reference["written_lengths"])
            logits = model.apply(variables, tokens, written[0], source_lengths=lengths, lengths=written[1])
            ends = {"source_lengths": lengths, "lengths": written[1]}
            states = hidden_states(model, params, tokens, written[0], **ends)
            return {"features": encoded, "logits": logits, **states}
        if family == "bert":
            outputs = model.apply(variables, tokens, lengths=lengths, token_types=reference["token_types"])
            types = reference["token_types"]
            states = hidden_states(model, params, tokens, lengths=lengths, token_types=types)
            named = {name: outputs[name] for name in ("features", "next_sentence")}
            return {**named, "logits": outputs["masked"], **states}
        features, _ = model.apply(variables, tokens, lengths=lengths, method="features")
        states = hidden_states(model, params, tokens, lengths=lengths)
        return {"features": features, "logits": model.apply(variables, features, method="logits"), **states}

    shapes = jax.eval_shape(model.init, jax.random.key(0), *[tokens] * (2 if family == "t5" else 1))["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
    outputs = found(params)
    assert {name for name in reference if "states" in name} <= outputs.keys()
    for name, values in outputs.items():
        of_written = family == "t5" and name in ("logits", "decoder_states")
        ends = reference["written_lengths"] if of_written else lengths
        rows = np.full(len(ends), values.shape[1]) if values.ndim == 2 else ends
        for row, end in enumerate(rows):
            expected = reference[name][row, :end]
            np.testing.assert_allclose(values[row, :end], expected, rtol=0, atol=tolerance, err_msg=name)
