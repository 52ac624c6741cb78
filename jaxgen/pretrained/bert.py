"""BERT (Devlin et al. 2019) in Hugging Face's files, with the heads that they have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgen.errors import JaxgenError, UsageError
from jaxgen.models.bert import BERT, HEADS
from jaxgen.pretrained import family
from jaxgen.pretrained.fields import Field, read_fields, write_fields
from jaxgen.pretrained.storage import Stored, read_stored
from jaxgen.pretrained.table import Entry, Table, linear, norm

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "BertModel": (),
    "BertForMaskedLM": ("masked",),
    "BertForPreTraining": ("masked", "next_sentence"),
    "BertForNextSentencePrediction": ("next_sentence",),
    "BertForSequenceClassification": ("classification",),
    "BertForTokenClassification": ("tokens",),
    "BertForQuestionAnswering": ("spans",),
}
"""And the heads of each."""

_ACTIVATIONS = {"gelu": "gelu_erf", "gelu_new": "gelu", "relu": "relu", "gelu_pytorch_tanh": "gelu"}
_FIELDS = (
    Field("vocab_size", "vocabulary_size", 30_522),
    Field("max_position_embeddings", "context_length", 512),
    Field("num_hidden_layers", "num_layers", 12),
    Field("num_attention_heads", "num_heads", 12),
    Field("hidden_size", "embedding_size", 768),
    Field("type_vocab_size", "num_token_types", 2),
    Field("hidden_act", "activation", "gelu", _ACTIVATIONS),
    Field("layer_norm_eps", "norm_epsilon", 1e-12),
    Field("initializer_range", "initializer_range", 0.02),
    # We have one rate; they are equal in all published models.
    Field("attention_probs_dropout_prob", "dropout", 0.1),
    Field("hidden_dropout_prob", "dropout", 0.1),
)
_INSIDE = Field("intermediate_size", "feed_forward_size", 3072)
_FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
_OURS: dict[str, Any] = {"positions": "learned"}
_EMBEDDING, _DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
# Where a head is told by its tensors.
_TOLD_BY = {
    "masked": "cls.predictions.transform.dense.weight",
    "next_sentence": "cls.seq_relationship.weight",
    "spans": "qa_outputs.weight",
}
_OLD_NAMES = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))


def load(directory: Path | str) -> tuple[BERT, dict[str, Any]]:
    """Opens a directory with a BERT; gives the model, with the heads that there are, and its parameters.

    They are float32 NumPy arrays.

    Raises:
        JaxgenError: if files are missing or damaged, it is another model, or it has what we haven't; says what.
    """
    return read(read_stored(Path(directory)))


def save(model: BERT, params: Any, directory: Path | str, more: Mapping[str, Any] | None = None) -> None:
    """Writes a new directory with a BERT, of the architecture that has its heads.

    Args:
        model: ours.
        params: its parameters.
        directory: to write.
        more: fields of `config.json` beside those of the model, such as `id2label`.

    Raises:
        UsageError: for heads that no architecture has together, and if there is something at `directory` already.
        JaxgenError: for parameters of another model, and if it can't be written.
    """
    family.save(directory, {**config_of(model), **(more or {})}, params, table(model))


def read(stored: Stored) -> tuple[BERT, dict[str, Any]]:
    """Does for an opened directory what `load` does."""
    config, tensors = stored.config, stored.tensors
    architecture = family.architecture_of(config, "bert", ARCHITECTURES)
    if family.is_own(tensors, _DECODER, _EMBEDDING):
        raise JaxgenError(
            f"{_DECODER} is not the embedding, but jaxgen's BERT predicts tokens with that alone"
        )
    heads = {*ARCHITECTURES[architecture], *(head for head, name in _TOLD_BY.items() if name in tensors)}
    if "classifier.weight" in tensors and "tokens" not in heads:
        heads.add("classification")
    needs_pooler = bool(heads & {"next_sentence", "classification"})
    has_pooler = any(name.removeprefix("bert.") == "pooler.dense.weight" for name in tensors)
    model = BERT(
        **read_fields(config, (*_FIELDS, _INSIDE), _FIXED),
        **_OURS,
        heads=tuple(sorted(heads)),
        num_classes=_number_of_classes(config),
        pooler=needs_pooler or has_pooler,
    )
    return model, family.params_of(stored, table(model), model)


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Gives the classes' names that `config.json` tells, by number; none where it tells none."""
    told = config.get("id2label") or {}
    try:
        return tuple(str(told[name]) for name in sorted(told, key=int))
    except (AttributeError, TypeError, ValueError) as error:
        raise JaxgenError(f"config.json has id2label {told!r}; it must name classes by number") from error


def config_of(model: BERT) -> dict[str, Any]:
    """Gives what `config.json` says of a model; raises UsageError for one that no architecture is like."""
    heads = set(model.heads)
    architecture = next((name for name, own in ARCHITECTURES.items() if set(own) == heads), None)
    if architecture is None:
        raise UsageError(
            f"no architecture has the heads {' and '.join(sorted(heads))} together; there are: "
            f"{'; '.join(', '.join(own) for own in ARCHITECTURES.values() if own)}"
        )
    config = {
        "architectures": [architecture],
        "model_type": "bert",
        **write_fields(model, _FIELDS, _FIXED, _OURS, "BERT"),
        _INSIDE.theirs: model.feed_forward_size or 4 * model.embedding_size,
    }
    if heads & {"classification", "tokens"}:
        config |= labels([f"LABEL_{number}" for number in range(model.num_classes)])
    return config


def labels(names: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Gives what `config.json` says of classes."""
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def table(model: BERT) -> Table:
    """Gives the names of a model's tensors."""
    theirs, ours = "bert.encoder.layer.{layer}", "layers/layer_{layer}"
    embeddings = {name: f"bert.embeddings.{name}" for name in ("word", "position", "token_type")}
    of_heads = {
        "masked": (
            *linear("cls.predictions.transform.dense", "masked_dense"),
            *norm("cls.predictions.transform.LayerNorm", "masked_norm"),
            Entry("cls.predictions.bias", "output_bias"),
        ),
        "next_sentence": linear("cls.seq_relationship", "head_next_sentence"),
        "classification": linear("classifier", "head_classification"),
        "tokens": linear("classifier", "head_tokens"),
        "spans": linear("qa_outputs", "head_spans"),
    }
    entries = (
        Entry(f"{embeddings['word']}_embeddings.weight", "token_embedding/embedding"),
        Entry(f"{embeddings['position']}_embeddings.weight", "position_embedding/embedding"),
        Entry(f"{embeddings['token_type']}_embeddings.weight", "token_type_embedding/embedding"),
        *norm("bert.embeddings.LayerNorm", "embedding_norm"),
        *(
            entry
            for part in ("query", "key", "value")
            for entry in linear(f"{theirs}.attention.self.{part}", f"{ours}/attention/{part}")
        ),
        *linear(f"{theirs}.attention.output.dense", f"{ours}/attention/output"),
        *norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm"),
        *linear(f"{theirs}.intermediate.dense", f"{ours}/feed_forward/up"),
        *linear(f"{theirs}.output.dense", f"{ours}/feed_forward/down"),
        *norm(f"{theirs}.output.LayerNorm", f"{ours}/feed_forward_norm"),
        *(linear("bert.pooler.dense", "pool") if model.pooler else ()),
        *(entry for head in HEADS if head in model.heads for entry in of_heads[head]),
    )
    return Table(
        entries,
        sizes={"layer": model.num_layers},
        prefix="bert.",
        ignored=("bert.embeddings.position_ids", _DECODER, "cls.predictions.decoder.bias"),
        old_names=_OLD_NAMES,
    )


def _number_of_classes(config: Mapping[str, Any]) -> int:
    if names := class_names(config):
        return len(names)
    return read_fields(config, (Field("num_labels", "num_classes", 2),), {})["num_classes"]
