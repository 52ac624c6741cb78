"""GPT-2 (Radford et al. 2019) in Hugging Face's files: GPT2LMHeadModel, and GPT2Model, which has no `transformer.`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgen.models.gpt import GPT
from jaxgen.pretrained import family
from jaxgen.pretrained.fields import Field, read_fields, write_fields
from jaxgen.pretrained.storage import Stored, read_stored
from jaxgen.pretrained.table import Entry, Table, norm, split, transposed

ARCHITECTURES = {"GPT2LMHeadModel": True, "GPT2Model": False}
"""And whether each has a last layer."""

_ACTIVATIONS = {"gelu_new": "gelu", "gelu": "gelu_erf", "relu": "relu", "gelu_pytorch_tanh": "gelu"}
_FIELDS = (
    Field("vocab_size", "vocabulary_size", 50_257),
    Field("n_positions", "context_length", 1024),
    Field("n_layer", "num_layers", 12),
    Field("n_head", "num_heads", 12),
    Field("n_embd", "embedding_size", 768),
    Field("n_inner", "feed_forward_size", None),
    Field("activation_function", "activation", "gelu_new", _ACTIVATIONS),
    Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
    Field("tie_word_embeddings", "tied", True),
    # We have one rate; they are equal in all published models.
    Field("embd_pdrop", "dropout", 0.1),
    Field("attn_pdrop", "dropout", 0.1),
    Field("resid_pdrop", "dropout", 0.1),
)
_FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
_OURS: dict[str, Any] = {"positions": "learned", "norm": "layer", "use_bias": True}


def load(directory: Path | str) -> tuple[GPT, dict[str, Any]]:
    """Opens a directory with a GPT-2; gives the model and its parameters, float32 NumPy arrays.

    Raises:
        JaxgenError: if files are missing or damaged, it is another model, or it has what we haven't; says what.
    """
    return read(read_stored(Path(directory)))


def save(model: GPT, params: Any, directory: Path | str, more: Mapping[str, Any] | None = None) -> None:
    """Writes a new directory with a GPT2LMHeadModel.

    Args:
        model: a GPT that is a GPT-2.
        params: its parameters.
        directory: to write.
        more: fields of `config.json` beside those of the model, such as `eos_token_id`.

    Raises:
        UsageError: for a model that is no GPT-2, and if there is something at `directory` already.
        JaxgenError: for parameters of another model, and if it can't be written.
    """
    family.save(directory, {**config_of(model), **(more or {})}, params, table(model))


def read(stored: Stored) -> tuple[GPT, dict[str, Any]]:
    """Does for an opened directory what `load` does."""
    has_head = ARCHITECTURES[family.architecture_of(stored.config, "gpt2", ARCHITECTURES)]
    fields = read_fields(stored.config, _FIELDS, _FIXED)
    own_head = family.is_own(stored.tensors, "lm_head.weight", "transformer.wte.weight")
    # A head of its own that config.json doesn't tell of counts, as it does for transformers 5.
    model = GPT(**{**fields, "tied": not has_head or (fields["tied"] and not own_head)}, **_OURS)
    return model, family.params_of(stored, table(model), model)


def config_of(model: GPT) -> dict[str, Any]:
    """Gives what `config.json` says of a model; raises UsageError for one that is no GPT-2."""
    # As many as of queries, said or not.
    shared = None if model.num_kv_heads != model.num_heads else model.num_heads
    ours = {**_OURS, "num_kv_heads": shared}
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **write_fields(model, _FIELDS, _FIXED, ours, "GPT-2"),
        # Else they would be those of the published vocabulary.
        "bos_token_id": None,
        "eos_token_id": None,
    }


def table(model: GPT) -> Table:
    """Gives the names of a model's tensors; the linear layers have weights [in, out], as ours."""
    theirs, ours = "transformer.h.{layer}", "layers/layer_{layer}"

    def parts(tensors: str, params: str) -> tuple[Entry, ...]:
        return (Entry(f"{tensors}.weight", f"{params}/kernel"), Entry(f"{tensors}.bias", f"{params}/bias"))

    def joint(what: str, name: str) -> Entry:
        named = tuple(f"{ours}/attention/{part}/{name}" for part in ("query", "key", "value"))
        return Entry(f"{theirs}.attn.c_attn.{what}", named, split(3))

    entries = (
        Entry("transformer.wte.weight", "token_embedding/embedding"),
        Entry("transformer.wpe.weight", "position_embedding/embedding"),
        *norm(f"{theirs}.ln_1", f"{ours}/attention_norm"),
        joint("weight", "kernel"),
        joint("bias", "bias"),
        *parts(f"{theirs}.attn.c_proj", f"{ours}/attention/output"),
        *norm(f"{theirs}.ln_2", f"{ours}/feed_forward_norm"),
        *parts(f"{theirs}.mlp.c_fc", f"{ours}/feed_forward/up"),
        *parts(f"{theirs}.mlp.c_proj", f"{ours}/feed_forward/down"),
        *norm("transformer.ln_f", "final_norm"),
        *(() if model.tied else (Entry("lm_head.weight", "output_kernel", transposed),)),
    )
    buffers = ("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias")
    return Table(
        entries,
        sizes={"layer": model.num_layers},
        prefix="transformer.",
        ignored=(*buffers, *(("lm_head.weight",) if model.tied else ())),
    )
