"""Writes small random models as transformers saves them, and what it computes with each: `pretrained/NAME/`.

Run it in `tests/` as `python -m golden.make_pretrained`, with PyTorch, transformers and NumPy installed. Beside
`config.json` and `model.safetensors` there is `results.npz`: outputs, and for models that write greedy tokens and
beams, filled up with anything.
"""

import logging
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from golden.transformers_outputs import hidden_states

END, BEAMS, NEW_TOKENS, LENGTH_PENALTY = 18, 4, 8, 0.8

VOCABULARY = 23
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_positions": 16,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 20,
    "bos_token_id": END,
    "eos_token_id": END,
}
BERT = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 9,
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 20,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 20,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
    "eos_token_id": END,
}
LABELS = {"id2label": {0: "bad", 1: "fair", 2: "good"}}
CASES = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2_bare": ("GPT2Model", GPT2 | {"n_layer": 1, "n_inner": None, "activation_function": "gelu"}),
    "bert": ("BertModel", BERT),
    "bert_masked": ("BertForMaskedLM", BERT | {"hidden_act": "relu"}),
    "bert_pretraining": ("BertForPreTraining", BERT | {"num_hidden_layers": 2}),
    "bert_classification": ("BertForSequenceClassification", BERT | LABELS),
    "bert_tokens": ("BertForTokenClassification", BERT | LABELS),
    "bert_spans": ("BertForQuestionAnswering", BERT),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5_v1_1": (
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}


def make(architecture, options, seed=0):
    """Makes a model of random weights, norms and biases included."""
    torch.manual_seed(seed)
    made = getattr(transformers, architecture)
    model = made(made.config_class(**options))
    if not options.get("tie_word_embeddings", True):
        # transformers 5 makes those of T5 one all the same, unless a checkpoint has both.
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around_one = "norm" in name.lower() or ".ln_" in name
            noise = torch.randn(parameter.shape) * 0.3
            parameter.copy_(noise + (1 if around_one and "weight" in name else 0))
    return model.eval()


def results(model, longest, batch=3, seed=0):
    """Computes all that is compared, as a dict of arrays: of rows of different lengths, padded at their end."""
    rng = np.random.default_rng(seed)
    vocabulary = model.config.vocab_size
    lengths = rng.integers(1, longest + 1, batch)
    lengths[0] = longest
    tokens = rng.integers(1, vocabulary, (batch, longest))
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    found = {"tokens": tokens, "lengths": lengths}
    given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}
    if model.config.model_type == "bert":
        found["token_types"] = rng.integers(0, 2, tokens.shape)
        given["token_type_ids"] = torch.tensor(found["token_types"])
    if model.config.model_type == "t5":
        found["written"] = rng.integers(1, vocabulary, (batch, longest))
        given["decoder_input_ids"] = torch.tensor(found["written"])
    with torch.no_grad():
        outputs = model(**given, output_hidden_states=True)
        names = ("logits", "prediction_logits", "seq_relationship_logits", "start_logits", "end_logits")
        found |= {name: outputs[name].numpy() for name in (*names, "pooler_output") if name in outputs}
        hidden = "encoder_hidden_states" if model.config.model_type == "t5" else "hidden_states"
        found["features"] = outputs[hidden][-1].numpy()
        found |= hidden_states(outputs)
        if model.can_generate() and model.config.model_type != "bert":
            found |= _written(model, given, longest)
    return {
        name: values.astype(np.int32) if values.dtype == np.int64 else values
        for name, values in found.items()
    }


def _written(model, given, longest):
    """Lets a model write, from prompts of one length, or from sources."""
    common = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, "eos_token_id": END}
    if model.config.model_type == "t5":
        prompt, asked = 1, {name: given[name] for name in ("input_ids", "attention_mask")}
    else:
        prompt = longest - NEW_TOKENS
        ids = given["input_ids"][:, :prompt]
        asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    greedy = model.generate(**asked, **common)
    beams = model.generate(
        **asked,
        **common,
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        length_penalty=LENGTH_PENALTY,
        return_dict_in_generate=True,
        output_scores=True,
    )
    return {
        "greedy": greedy[:, prompt:].numpy(),
        "beams": beams.sequences[:, prompt:].numpy(),
        "beam_scores": beams.sequences_scores.numpy(),
    }


def write(directory, architecture, options, longest, seed=0):
    """Writes a model and its results into a new directory."""
    model = make(architecture, options, seed)
    model.save_pretrained(directory)
    (Path(directory) / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(Path(directory) / "results.npz", **results(model, longest, seed=seed))


def main():
    """Writes the directories."""
    logging.disable()
    root = Path(__file__).with_name("pretrained")
    shutil.rmtree(root, ignore_errors=True)
    for name, (architecture, options) in CASES.items():
        write(root / name, architecture, options, longest=16 if name.startswith("gpt2") else 9)


if __name__ == "__main__":
    main()
