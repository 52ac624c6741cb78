"""GPT-2, BERT and T5 as transformers saves them: opened, computed with, written again bit for bit; and refused."""

import json
import re

import jax
import numpy as np
import pytest
from golden.pretrained_agreement import NAMES, STORED, check_directory
from safetensors.numpy import load_file, save_file

from jaxgen import pretrained
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.models import BERT, GPT, T5, RecurrentLanguageModel


def copied(name, directory, change=lambda tensors: tensors, **config):
    """Copies a stored directory, with other tensors and fields."""
    directory.mkdir(exist_ok=True)
    told = json.loads((STORED / name / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**told, **config}))
    save_file(change(load_file(STORED / name / "model.safetensors")), directory / "model.safetensors")
    return directory


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (left.dtype, left.shape) == (right.dtype, right.shape) and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_all_is_as_transformers_has_it(name):
    check_directory(STORED / name)


@pytest.mark.parametrize("name", NAMES)
def test_written_again_it_is_the_same_bit_for_bit(name, tmp_path):
    model, params = pretrained.load(STORED / name)
    pretrained.save(model, params, tmp_path / "written")
    again, params_again = pretrained.load(tmp_path / "written")
    assert again == model
    assert_same(params_again, params)
    before, after = (
        load_file(place / "model.safetensors") for place in (STORED / name, tmp_path / "written")
    )
    if name == "gpt2_bare":
        before = {f"transformer.{key}": value for key, value in before.items()}
    if name == "bert":
        before = {f"bert.{key}": value for key, value in before.items()}
    assert_same(dict(sorted(after.items())), dict(sorted(before.items())))
    told, theirs = (
        json.loads((p / "config.json").read_text()) for p in (tmp_path / "written", STORED / name)
    )
    assert told["architectures"] == (["GPT2LMHeadModel"] if name == "gpt2_bare" else theirs["architectures"])
    same = told.keys() & theirs.keys() - {"architectures", "id2label", "label2id"}
    same = {key for key in same if not key.endswith("token_id")}
    if name == "t5_v1_1":
        same.remove("tie_word_embeddings")  # transformers 5 says that they are tied, and has both
    assert len(same) > 9
    assert {key: told[key] for key in same} == {key: theirs[key] for key in same}


@pytest.mark.parametrize(
    ("module", "name", "kind"),
    [
        (pretrained.gpt2, "gpt2", GPT),
        (pretrained.bert, "bert_pretraining", BERT),
        (pretrained.t5, "t5", T5),
    ],
)
def test_each_family_opens_and_writes_its_own(module, name, kind, tmp_path):
    model, params = module.load(str(STORED / name))
    assert type(model) is kind
    module.save(model, params, tmp_path / "new", {"eos_token_id": 7})
    assert json.loads((tmp_path / "new" / "config.json").read_text())["eos_token_id"] == 7
    other = "bert" if kind is not BERT else "t5"
    with pytest.raises(
        JaxgenError, match="which can't be opened here; supported: " + next(iter(module.ARCHITECTURES))
    ):
        module.load(STORED / other)


def test_heads_are_those_of_the_checkpoint(tmp_path):
    """Whatever the architecture says: the published files of BertForMaskedLM have more than it asks for."""
    heads = {name: pretrained.load(STORED / name)[0] for name in NAMES if name.startswith("bert")}
    assert {name: tuple(model.heads) for name, model in heads.items()} == {
        "bert": (),
        "bert_masked": ("masked",),
        "bert_pretraining": ("masked", "next_sentence"),
        "bert_classification": ("classification",),
        "bert_tokens": ("tokens",),
        "bert_spans": ("spans",),
    }
    assert [model.pooler for model in heads.values()] == [True, True, False, True, False, False]
    assert heads["bert_tokens"].num_classes == heads["bert_classification"].num_classes == 3
    published = copied("bert_pretraining", tmp_path / "published", architectures=["BertForMaskedLM"])
    assert pretrained.load(published)[0] == heads["bert_pretraining"]
    untold = copied("bert_pretraining", tmp_path / "untold", architectures=None)
    assert pretrained.load(untold)[0] == heads["bert_pretraining"]


def test_old_files_have_other_names_and_more_in_them(tmp_path):
    """Buffers, heads that are tied and there twice, TensorFlow's names of norms, and no prefix."""

    def of_gpt2(tensors):
        bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
        buffers = {"h.0.attn.bias": np.ones((1, 1, 16, 16)), "h.1.attn.masked_bias": np.array(-1e4)}
        return {**bare, **buffers}

    def of_bert(tensors):
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        named = {}
        for name, value in tensors.items():
            end = next((end for end in old if name.endswith(end)), "")
            named[name.removesuffix(end) + old.get(end, "")] = value
        return named | {
            "bert.embeddings.position_ids": np.arange(9)[None],
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
        }

    def of_t5(tensors):
        unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        tied = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
        return {**tensors, **dict.fromkeys(tied, tensors["shared.weight"]), unused: np.ones((8, 4))}

    for name, change in (("gpt2", of_gpt2), ("bert_pretraining", of_bert), ("t5", of_t5)):
        old, new = pretrained.load(copied(name, tmp_path / name, change)), pretrained.load(STORED / name)
        assert old[0] == new[0]
        assert_same(old[1], new[1])
    twice = copied("gpt2", tmp_path / "twice", lambda t: {**t, "lm_head.weight": t["transformer.wte.weight"]})
    assert pretrained.load(twice)[0].tied


def test_a_head_of_its_own_counts(tmp_path):
    def with_head(tensors):
        return {**tensors, "lm_head.weight": 2 * tensors["transformer.wte.weight"]}

    told = pretrained.load(copied("gpt2", tmp_path / "told", with_head, tie_word_embeddings=False))
    model, params = pretrained.load(copied("gpt2", tmp_path / "untold", with_head))
    assert told[0] == model and not model.tied
    assert_same(params["output_kernel"], 2 * params["token_embedding"]["embedding"].T)


def test_t5_whose_features_are_not_scaled(tmp_path):
    """Told as by transformers 4; and tied all the same, as new ones of transformers 5 are."""
    model, params = pretrained.load(STORED / "t5_v1_1")
    v4 = copied("t5_v1_1", tmp_path / "v4", scale_decoder_outputs=True, tie_word_embeddings=False)
    assert pretrained.load(v4)[0] == model and not model.tied
    assert_same(pretrained.load(v4)[1], params)

    def tied(tensors):
        return {name: value for name, value in tensors.items() if name != "lm_head.weight"}

    model, params = pretrained.load(copied("t5_v1_1", tmp_path / "tied", tied))
    assert not model.tied
    assert_same(params["output_kernel"], np.ascontiguousarray(params["token_embedding"]["embedding"].T))


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        (
            "gpt2",
            {"architectures": ["GPTNeoForCausalLM"]},
            "config.json tells of GPTNeoForCausalLM, which can't",
        ),
        (
            "gpt2",
            {"architectures": ["LlamaForCausalLM"]},
            "supported: GPT2LMHeadModel, GPT2Model, BertModel, ",
        ),
        ("t5", {"architectures": None, "model_type": "mt5"}, "config.json tells of mt5, which can't"),
        ("t5", {"architectures": None, "model_type": None}, "config.json tells no architecture; supported: "),
        (
            "gpt2",
            {"activation_function": "silu"},
            "activation_function 'silu', which jaxgen doesn't have: it has gelu_new",
        ),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx True, which jaxgen doesn't",
        ),
        ("gpt2", {"n_layer": "12"}, "config.json has n_layer '12'; it must be a whole number"),
        (
            "gpt2",
            {"layer_norm_epsilon": True},
            "config.json has layer_norm_epsilon True; it must be a number",
        ),
        (
            "gpt2",
            {"tie_word_embeddings": 1},
            "config.json has tie_word_embeddings 1; it must be true or false",
        ),
        ("gpt2", {"n_head": 5}, "embedding_size is 12, which 5 heads can't share"),
        (
            "bert",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type 'relative_key', which jaxgen",
        ),
        ("bert", {"is_decoder": True}, "config.json has is_decoder True"),
        ("bert", {"hidden_act": ["gelu"]}, "config.json has hidden_act ['gelu'], which jaxgen doesn't have"),
        (
            "bert_tokens",
            {"id2label": ["a"]},
            "config.json has id2label ['a']; it must name classes by number",
        ),
        (
            "t5",
            {"feed_forward_proj": "gated-relu"},
            "feed_forward_proj 'gated-relu', which jaxgen doesn't have",
        ),
        ("gpt2", {"n_layer": 3}, "missing transformer.h.2.ln_1.weight, transformer.h.2.ln_1.bias, "),
        ("gpt2", {"n_layer": 1}, "extra transformer.h.1.attn.c_attn.bias, "),
        ("gpt2", {"n_positions": 8}, "misshaped transformer.wpe.weight [16, 12], should be [8, 12]"),
        ("gpt2", {"n_inner": 24}, "misshaped transformer.h.0.mlp.c_fc.weight [12, 20], should be [12, 24]"),
        (
            "bert_classification",
            {"id2label": {"0": "a"}},
            "misshaped classifier.weight [3, 12], should be [1, 12]",
        ),
        (
            "bert",
            {"architectures": ["BertForQuestionAnswering"]},
            "missing qa_outputs.weight, qa_outputs.bias",
        ),
        ("gpt2", {"tie_word_embeddings": False}, "missing lm_head.weight"),
    ],
)
def test_what_does_not_fit_is_one_line(name, config, told, tmp_path):
    with pytest.raises(JaxgenError, match=re.escape(told)) as raised:
        pretrained.load(copied(name, tmp_path, **config))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "head", "embedding"),
    [
        ("bert_masked", "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("t5", "lm_head.weight", "shared.weight"),
    ],
)
def test_heads_that_we_have_not_are_refused(name, head, embedding, tmp_path):
    made = copied(name, tmp_path, lambda tensors: {**tensors, head: 1 + tensors[embedding]})
    with pytest.raises(JaxgenError, match=f"^{re.escape(head)} is not the embedding"):
        pretrained.load(made)


def test_directories_without_weights_say_so(tmp_path):
    for module in (pretrained, pretrained.gpt2, pretrained.bert, pretrained.t5):
        with pytest.raises(JaxgenError, match="is no directory; give one with config"):
            module.load(tmp_path / "none")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(JaxgenError, match="as a pickle only"):
        pretrained.load(tmp_path)


SMALL = {"vocabulary_size": 23, "num_layers": 1, "num_heads": 2, "embedding_size": 8}


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            GPT(**SMALL, positions="rotary"),
            "the model has positions 'rotary', but GPT-2 is written with 'learned' alone",
        ),
        (GPT(**SMALL, num_kv_heads=1), "the model has num_kv_heads 1, but GPT-2 is written with None alone"),
        (
            GPT(**SMALL, num_kv_heads=1, use_bias=False, norm="rms"),
            "a new run, with --norm layer and --use-bias and no --num-kv-heads",
        ),
        (
            GPT(**SMALL, activation="swiglu"),
            "has activation 'swiglu', but GPT-2 is written with gelu, gelu_erf, relu",
        ),
        (
            BERT(**SMALL, positions="none"),
            "the model has positions 'none', but BERT is written with 'learned'",
        ),
        (BERT(**SMALL, heads=("masked", "spans")), "no architecture has the heads masked and spans together"),
        (
            RecurrentLanguageModel(23),
            "a RecurrentLanguageModel has no form that others open; those of gpt2, bert, t5",
        ),
    ],
)
def test_models_that_have_no_such_form(model, told, tmp_path):
    with pytest.raises(UsageError, match=re.escape(told)):
        pretrained.save(model, {}, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_as_many_heads_of_keys_and_values_may_be_said(tmp_path):
    model, params = pretrained.load(STORED / "gpt2")
    pretrained.save(model.clone(num_kv_heads=model.num_heads), params, tmp_path / "new")
    assert pretrained.load(tmp_path / "new")[0] == model


def test_what_is_there_is_not_written_over(tmp_path):
    model, params = pretrained.load(STORED / "gpt2")
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        pretrained.save(model, params, tmp_path)
