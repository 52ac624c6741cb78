"""T5 (Raffel et al. 2020) in Hugging Face's files: T5ForConditionalGeneration, of version 1.0 and 1.1."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgen.errors import JaxgenError
from jaxgen.models.t5 import T5
from jaxgen.models.transformer import ACTIVATIONS
from jaxgen.pretrained import family
from jaxgen.pretrained.fields import Field, read_fields, write_fields
from jaxgen.pretrained.storage import Stored, read_stored
from jaxgen.pretrained.table import Entry, Table, linear, norm, transposed

ARCHITECTURES = {"T5ForConditionalGeneration": True}

_ACTIVATIONS = {
    "relu": "relu",
    "gated-gelu": "geglu",
    "gated-silu": "swiglu",
    "gelu": "gelu_erf",
    "gelu_new": "gelu",
    "gated-gelu_new": "geglu",
}
_FIELDS = (
    Field("vocab_size", "vocabulary_size", 32_128),
    Field("d_model", "embedding_size", 512),
    Field("num_layers", "num_layers", 6),
    Field("num_decoder_layers", "num_decoder_layers", None),
    Field("num_heads", "num_heads", 8),
    Field("d_kv", "head_size", 64),
    Field("d_ff", "feed_forward_size", 2048),
    Field("feed_forward_proj", "activation", "relu", _ACTIVATIONS),
    Field("tie_word_embeddings", "tied", True),
    Field("relative_attention_num_buckets", "num_buckets", 32),
    Field("relative_attention_max_distance", "max_distance", 128),
    Field("layer_norm_epsilon", "norm_epsilon", 1e-6),
    Field("dropout_rate", "dropout", 0.1),
)
_FIXED = {"is_encoder_decoder": True}
_EMBEDDING, _HEAD = "shared.weight", "lm_head.weight"


def load(directory: Path | str) -> tuple[T5, dict[str, Any]]:
    """Opens a directory with a T5; gives the model and its parameters, float32 NumPy arrays.

    Raises:
        JaxgenError: if files are missing or damaged, it is another model, or it has what we haven't; says what.
    """
    return read(read_stored(Path(directory)))


def save(model: T5, params: Any, directory: Path | str, more: Mapping[str, Any] | None = None) -> None:
    """Writes a new directory with a T5ForConditionalGeneration.

    Args:
        model: ours.
        params: its parameters.
        directory: to write.
        more: fields of `config.json` beside those of the model, such as `eos_token_id`.

    Raises:
        UsageError: for an activation that it hasn't, and if there is something at `directory` already.
        JaxgenError: for parameters of another model, and if it can't be written.
    """
    family.save(directory, {**config_of(model), **(more or {})}, params, table(model))


def read(stored: Stored) -> tuple[T5, dict[str, Any]]:
    """Does for an opened directory what `load` does."""
    family.architecture_of(stored.config, "t5", ARCHITECTURES)
    fields = read_fields(stored.config, _FIELDS, _FIXED)
    # Whether features are scaled, which transformers 4 tells by tie_word_embeddings, and transformers 5 by this.
    scaled = fields["tied"] and stored.config.get("scale_decoder_outputs", True)
    if scaled and family.is_own(stored.tensors, _HEAD, _EMBEDDING):
        raise JaxgenError(
            f"{_HEAD} is not the embedding though config.json ties them: set tie_word_embeddings"
        )
    model = T5(**{**fields, "tied": bool(scaled)})
    if not scaled and _HEAD not in stored.tensors and _EMBEDDING in stored.tensors:
        # Tied all the same, but not scaled, as transformers 5 makes new ones.
        stored = Stored(stored.config, {**stored.tensors, _HEAD: stored.tensors[_EMBEDDING]})
    return model, family.params_of(stored, table(model), model, texts=2)


def config_of(model: T5) -> dict[str, Any]:
    """Gives what `config.json` says of a model; raises UsageError for an activation that it hasn't."""
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        **write_fields(model, _FIELDS, _FIXED, {}, "T5"),
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def table(model: T5) -> Table:
    """Gives the names of a model's tensors."""
    entries = [Entry(_EMBEDDING, "token_embedding/embedding")]
    for stack in ("encoder", "decoder"):
        entries += _stack(stack, gated=ACTIVATIONS[model.activation][1])
    if not model.tied:
        entries.append(Entry(_HEAD, "output_kernel", transposed))
    return Table(
        tuple(entries),
        sizes={
            "encoder_layer": model.num_layers,
            "decoder_layer": model.num_decoder_layers or model.num_layers,
        },
        ignored=(
            "*coder.embed_tokens.weight",
            # The first files have one that is never used.
            "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
            *((_HEAD,) if model.tied else ()),
        ),
    )


def _stack(stack: str, gated: bool) -> list[Entry]:
    theirs, ours = f"{stack}.block.{{{stack}_layer}}.layer", f"{stack}/layer_{{{stack}_layer}}"

    def plain(tensors: str, params: str) -> tuple[Entry, ...]:
        return linear(f"{theirs}.{tensors}", f"{ours}/{params}", use_bias=False)

    def attention(tensors: str, params: str) -> list[Entry]:
        parts = {"q": "query", "k": "key", "v": "value", "o": "output"}
        return [
            entry for part, name in parts.items() for entry in plain(f"{tensors}.{part}", f"{params}/{name}")
        ]

    bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    entries = [Entry(bias, f"{stack}_bias/embedding"), *attention("0.SelfAttention", "attention")]
    entries += norm(f"{theirs}.0.layer_norm", f"{ours}/attention_norm", use_bias=False)
    last = 1
    if stack == "decoder":
        entries += attention("1.EncDecAttention", "cross_attention")
        entries += norm(f"{theirs}.1.layer_norm", f"{ours}/cross_attention_norm", use_bias=False)
        last = 2
    inside = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if gated else {"wi": "up", "wo": "down"}
    for name, own in inside.items():
        entries += plain(f"{last}.DenseReluDense.{name}", f"feed_forward/{own}")
    entries += norm(f"{theirs}.{last}.layer_norm", f"{ours}/feed_forward_norm", use_bias=False)
    return [*entries, *norm(f"{stack}.final_layer_norm", f"{stack}_norm", use_bias=False)]
