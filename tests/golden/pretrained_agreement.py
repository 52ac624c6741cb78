"""Opens what `make_pretrained.py` wrote, and compares what jaxgen computes with it: stored and live."""

from pathlib import Path

import jax
import numpy as np
from golden.hidden_states import hidden_states

from jaxgen import pretrained
from jaxgen.generate import CausalDecoder, EncoderDecoder, Sampler, beam_search, generate
from jaxgen.models import BERT, GPT, T5

# As in make_pretrained.py.
END, BEAMS, NEW_TOKENS, LENGTH_PENALTY = 18, 4, 8, 0.8

STORED = Path(__file__).with_name("pretrained")
NAMES = sorted(path.name for path in STORED.iterdir())


def check_directory(directory: Path, tolerance: float = 1e-4) -> None:
    """Asserts that all is as transformers has it: outputs to 1e-4 absolute, tokens one by one."""
    model, params = pretrained.load(directory)
    with np.load(directory / "results.npz") as stored:
        results = dict(stored)
    for name, values in outputs(model, params, results).items():
        assert_rows_close(values, results[name], results, tolerance, name)
    if "greedy" in results:
        check_written(model, params, results, tolerance)


def outputs(model: GPT | BERT | T5, params: dict, results: dict) -> dict[str, np.ndarray]:
    """Gives all outputs that were stored, by transformers' names."""
    tokens, lengths = results["tokens"], results["lengths"]

    @jax.jit
    def read(params):
        variables = {"params": params}
        if isinstance(model, T5):
            features = model.apply(variables, tokens, lengths=lengths, method="encode")
            written = results["written"]
            return {
                "features": features,
                "logits": model.apply(variables, tokens, written, source_lengths=lengths),
                **hidden_states(model, params, tokens, written, source_lengths=lengths),
            }
        if isinstance(model, GPT):
            features, _ = model.apply(variables, tokens, lengths=lengths, method="features")
            logits = model.apply(variables, features, method="logits")
            states = hidden_states(model, params, tokens, lengths=lengths)
            return {"features": features, "logits": logits, **states}
        named = {"lengths": lengths, "token_types": results["token_types"]}
        return {
            **model.apply(variables, tokens, **named),
            **hidden_states(model, params, tokens, **named),
        }

    found = dict(read(params))
    if isinstance(model, BERT):
        renamed = {
            "masked": "prediction_logits" if "prediction_logits" in results else "logits",
            "next_sentence": "seq_relationship_logits" if "seq_relationship_logits" in results else "logits",
            "classification": "logits",
            "tokens": "logits",
            "pooled": "pooler_output",
        }
        found = {renamed.get(name, name): values for name, values in found.items()}
        if "spans" in found:
            found |= {f"{end}_logits": found["spans"][..., n] for n, end in enumerate(("start", "end"))}
    compared = {name: np.asarray(values) for name, values in found.items() if name in results}
    written = {"greedy", "beams", "beam_scores", "tokens", "lengths", "token_types", "written"}
    assert compared.keys() == results.keys() - written
    return compared


def assert_rows_close(
    values: np.ndarray, expected: np.ndarray, results: dict, tolerance: float, name: str
) -> None:
    """Compares what isn't padding."""
    assert values.shape == expected.shape, name
    of_texts = values.ndim > 1 and values.shape[1] == results["tokens"].shape[1]
    of_source = of_texts and not ("written" in results and name in ("logits", "decoder_states"))
    ends = results["lengths"] if of_source else [None] * len(values)
    for row, end in enumerate(ends):
        np.testing.assert_allclose(
            values[row, :end], expected[row, :end], rtol=0, atol=tolerance, err_msg=name
        )


def check_written(model: GPT | T5, params: dict, results: dict, tolerance: float) -> None:
    """Asserts that greedy texts and all beams are the same, token for token."""
    tokens, lengths = results["tokens"], results["lengths"]
    if isinstance(model, T5):
        decoder, inputs = EncoderDecoder(model), {"tokens": tokens, "lengths": lengths}
        prompt = np.zeros((len(tokens), 1), np.int32)
    else:
        decoder, inputs = CausalDecoder(model), None
        prompt = tokens[:, : tokens.shape[1] - NEW_TOKENS]
    given = (decoder, params, {}, prompt, np.full(len(prompt), prompt.shape[1]))
    common = {"max_tokens": NEW_TOKENS, "stop_tokens": (END,), "inputs": inputs}
    greedy = generate(*given, jax.random.key(0), sampler=Sampler.of(temperature=0.0), **common)
    np.testing.assert_array_equal(greedy.tokens[:, : results["greedy"].shape[1]], ended(results["greedy"]))
    beams = beam_search(*given, **common, num_beams=BEAMS, num_returned=BEAMS, length_penalty=LENGTH_PENALTY)
    np.testing.assert_array_equal(beams.tokens[:, : results["beams"].shape[1]], ended(results["beams"]))
    np.testing.assert_allclose(beams.scores, results["beam_scores"], rtol=0, atol=tolerance)


def ended(tokens: np.ndarray) -> np.ndarray:
    """Gives texts with zeros behind their ends, where transformers has the token of padding, or that of the end."""
    behind = np.cumsum(tokens == END, axis=1) - (tokens == END) > 0
    return np.where(behind, 0, tokens)
