"""Writes what Hugging Face's GPT-2, Llama, BERT and T5 compute, at random small sizes: outputs and gradients.

Run it in `tests/` as `python -m golden.make_transformers_reference`, with PyTorch, transformers and NumPy installed; it
writes the `transformers_*.npz` beside it. Parameters are in jaxgen's layout: kernels [in, out], by their path in the
model.
"""

import re
from pathlib import Path

import numpy as np
import torch
import transformers
from golden.transformers_outputs import hidden_states

# Of each family: a pattern of their names, and what it is in jaxgen's.
NAMES = {
    "gpt2": [
        (r"transformer\.wte\.weight", "token_embedding/embedding"),
        (r"transformer\.wpe\.weight", "position_embedding/embedding"),
        (r"transformer\.h\.(\d+)\.ln_1", r"layers/layer_\1/attention_norm"),
        (r"transformer\.h\.(\d+)\.ln_2", r"layers/layer_\1/feed_forward_norm"),
        (r"transformer\.h\.(\d+)\.attn\.c_proj", r"layers/layer_\1/attention/output"),
        (r"transformer\.h\.(\d+)\.attn\.", r"layers/layer_\1/attention/"),
        (r"transformer\.h\.(\d+)\.mlp\.c_fc", r"layers/layer_\1/feed_forward/up"),
        (r"transformer\.h\.(\d+)\.mlp\.c_proj", r"layers/layer_\1/feed_forward/down"),
        (r"transformer\.ln_f", "final_norm"),
    ],
    "llama": [
        (r"model\.embed_tokens\.weight", "token_embedding/embedding"),
        (r"model\.layers\.(\d+)\.input_layernorm", r"layers/layer_\1/attention_norm"),
        (r"model\.layers\.(\d+)\.post_attention_layernorm", r"layers/layer_\1/feed_forward_norm"),
        (r"model\.layers\.(\d+)\.self_attn\.([qkvo])_proj", r"layers/layer_\1/attention/\2"),
        (r"model\.layers\.(\d+)\.mlp\.(\w+)_proj", r"layers/layer_\1/feed_forward/\2"),
        (r"model\.norm", "final_norm"),
        (r"lm_head\.weight", "output_kernel"),
    ],
    "bert": [
        (r"bert\.embeddings\.word_embeddings\.weight", "token_embedding/embedding"),
        (r"bert\.embeddings\.position_embeddings\.weight", "position_embedding/embedding"),
        (r"bert\.embeddings\.token_type_embeddings\.weight", "token_type_embedding/embedding"),
        (r"bert\.embeddings\.LayerNorm", "embedding_norm"),
        (r"bert\.encoder\.layer\.(\d+)\.attention\.self\.", r"layers/layer_\1/attention/"),
        (r"bert\.encoder\.layer\.(\d+)\.attention\.output\.dense", r"layers/layer_\1/attention/output"),
        (r"bert\.encoder\.layer\.(\d+)\.attention\.output\.LayerNorm", r"layers/layer_\1/attention_norm"),
        (r"bert\.encoder\.layer\.(\d+)\.intermediate\.dense", r"layers/layer_\1/feed_forward/up"),
        (r"bert\.encoder\.layer\.(\d+)\.output\.dense", r"layers/layer_\1/feed_forward/down"),
        (r"bert\.encoder\.layer\.(\d+)\.output\.LayerNorm", r"layers/layer_\1/feed_forward_norm"),
        (r"bert\.pooler\.dense", "pool"),
        (r"cls\.predictions\.transform\.dense", "masked_dense"),
        (r"cls\.predictions\.transform\.LayerNorm", "masked_norm"),
        (r"cls\.predictions\.bias", "output_bias"),
        (r"cls\.seq_relationship", "head_next_sentence"),
    ],
    "t5": [
        (r"shared\.weight", "token_embedding/embedding"),
        (
            r"(en|de)coder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight",
            r"\1coder_bias/embedding",
        ),
        (r"(en|de)coder\.block\.(\d+)\.layer\.0\.SelfAttention\.(\w)", r"\1coder/layer_\2/attention/\3"),
        (r"(en|de)coder\.block\.(\d+)\.layer\.0\.layer_norm", r"\1coder/layer_\2/attention_norm"),
        (r"decoder\.block\.(\d+)\.layer\.1\.EncDecAttention\.(\w)", r"decoder/layer_\1/cross_attention/\2"),
        (r"decoder\.block\.(\d+)\.layer\.1\.layer_norm", r"decoder/layer_\1/cross_attention_norm"),
        (
            r"(en|de)coder\.block\.(\d+)\.layer\.\d\.DenseReluDense\.wi_0",
            r"\1coder/layer_\2/feed_forward/gate",
        ),
        (
            r"(en|de)coder\.block\.(\d+)\.layer\.\d\.DenseReluDense\.wi(_1)?",
            r"\1coder/layer_\2/feed_forward/up",
        ),
        (r"(en|de)coder\.block\.(\d+)\.layer\.\d\.DenseReluDense\.wo", r"\1coder/layer_\2/feed_forward/down"),
        (r"(en|de)coder\.block\.(\d+)\.layer\.\d\.layer_norm", r"\1coder/layer_\2/feed_forward_norm"),
        (r"(en|de)coder\.final_layer_norm", r"\1coder_norm"),
        (r"lm_head\.weight", "output_kernel"),
    ],
}
PARTS = {"q": "query", "k": "key", "v": "value", "o": "output"}


def layout(family, tensors):
    """Renames tensors by jaxgen's paths, turns kernels round where they are [out, in], and parts GPT-2's joint one."""
    turned = {}
    for name, tensor in tensors.items():
        matches = ((re.match(pattern, name), to) for pattern, to in NAMES[family])
        match, to = next((found for found in matches if found[0]), (None, None))
        if match is None:
            continue  # the tied output, the embedding of the encoder and the decoder: the same tensors
        path = match.expand(to) + name[match.end() :].replace(".", "/")
        path = re.sub(r"attention/([qkvo])(?=/)", lambda part: f"attention/{PARTS[part[1]]}", path)
        value = tensor.detach().numpy()
        is_norm = "norm" in path.split("/")[-2 if "/" in path else -1]
        path = re.sub(r"weight$", "scale" if is_norm else "kernel", path)
        is_kernel = path.endswith("kernel") or "output_kernel" in path
        if "c_attn" in path:
            for part, piece in zip(("query", "key", "value"), np.split(value, 3, axis=-1), strict=True):
                turned[path.replace("c_attn", part)] = piece
        else:
            turned[path] = value.T if is_kernel and family != "gpt2" else value
    return turned


def make(family, sizes):
    """Makes a model of random weights, norms and biases included, without dropout."""
    common = {"vocab_size": sizes["vocabulary_size"]}
    width, inside, layers, heads = (sizes[key] for key in ("width", "inside", "layers", "heads"))
    if family == "gpt2":
        config = transformers.GPT2Config(
            **common, n_positions=sizes["context"], n_embd=width, n_layer=layers, n_head=heads, n_inner=inside
        )
        model = transformers.GPT2LMHeadModel(config)
    elif family == "llama":
        config = transformers.LlamaConfig(
            **common,
            hidden_size=width,
            intermediate_size=inside,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=sizes["kv_heads"],
            max_position_embeddings=sizes["context"],
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
        )
        model = transformers.LlamaForCausalLM(config)
    elif family == "bert":
        config = transformers.BertConfig(
            **common,
            hidden_size=width,
            intermediate_size=inside,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=sizes["context"],
        )
        model = transformers.BertForPreTraining(config)
    else:
        config = transformers.T5Config(
            **common,
            d_model=width,
            d_ff=inside,
            d_kv=sizes["head_size"],
            num_layers=layers,
            num_heads=heads,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=10,
            feed_forward_proj="relu" if sizes["tied"] else "gated-gelu",
            tie_word_embeddings=sizes["tied"],
        )
        model = transformers.T5ForConditionalGeneration(config)
        if not sizes["tied"]:  # transformers 5 makes them one all the same, unless a checkpoint has both
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around_one = "norm" in name.lower() or ".ln_" in name
            parameter.copy_(
                torch.randn(parameter.shape) * 0.2 + (1 if around_one and "weight" in name else 0)
            )
    return model.eval()


def reference(family, sizes, batch=3, seed=0):
    """Computes all that is compared, as a flat dict of arrays: rows of different lengths, padded at their end."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = make(family, sizes)

    def texts(longest):
        lengths = rng.integers(1, longest + 1, batch)
        lengths[0] = longest
        tokens = rng.integers(1, sizes["vocabulary_size"], (batch, longest))
        return tokens, lengths, (np.arange(longest) < lengths[:, None]).astype(np.int64)

    tokens, lengths, mask = texts(sizes["context"] - 1)
    found = {"tokens": tokens.astype(np.int32), "lengths": lengths.astype(np.int32)}
    given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}
    if family == "bert":
        types = rng.integers(0, 2, tokens.shape)
        given["token_type_ids"] = torch.tensor(types)
        found["token_types"] = types.astype(np.int32)
    if family == "t5":
        written, written_lengths, written_mask = texts(sizes["context"] - 2)
        given["decoder_input_ids"] = torch.tensor(written)
        given["decoder_attention_mask"] = torch.tensor(written_mask)
        found |= {"written": written.astype(np.int32), "written_lengths": written_lengths.astype(np.int32)}
    outputs = model(**given, output_hidden_states=True)
    logits = outputs.prediction_logits if family == "bert" else outputs.logits
    found["logits"] = logits.detach().numpy()
    states = outputs.encoder_last_hidden_state if family == "t5" else outputs.hidden_states[-1]
    found["features"] = states.detach().numpy()
    found |= hidden_states(outputs)
    if family == "bert":
        found["next_sentence"] = outputs.seq_relationship_logits.detach().numpy()
    parameters = dict(model.named_parameters())
    return found | {f"params/{path}": value for path, value in layout(family, parameters).items()}


SIZES = {"vocabulary_size": 23, "width": 12, "inside": 20, "layers": 2, "heads": 4, "context": 9}
CASES = {
    "gpt2": ("gpt2", SIZES),
    "llama": ("llama", SIZES | {"width": 16, "kv_heads": 2}),
    "bert": ("bert", SIZES),
    "t5": ("t5", SIZES | {"context": 20, "head_size": 5, "tied": True}),
    "t5_v1_1": ("t5", SIZES | {"context": 20, "head_size": 5, "tied": False}),
}


def main():
    """Writes the files."""
    for name, (family, sizes) in CASES.items():
        found = {key: np.ascontiguousarray(value) for key, value in reference(family, sizes).items()}
        np.savez_compressed(Path(__file__).with_name(f"transformers_{name}.npz"), **found)


if __name__ == "__main__":
    main()
