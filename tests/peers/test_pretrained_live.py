"""GPT-2, BERT and T5 to and from transformers itself, on shapes that differ every day; `-m peers`."""

import datetime
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from golden.pretrained_agreement import check_directory

from jaxgen import pretrained
from jaxgen.data.pretrained_tokenizers import write_tokenizer
from jaxgen.data.subwords import Subwords
from jaxgen.data.tokenizers import Bytes, Characters
from jaxgen.pretrained.runs import export_run, import_run
from jaxgen.saved_run import SavedRun

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return importlib.import_module("golden.make_pretrained")


@pytest.fixture
def random() -> np.random.Generator:
    seed = datetime.date.today().toordinal()
    print(f"numpy.random.default_rng({seed})")
    return np.random.default_rng(seed)


def options(architecture: str, random: np.random.Generator) -> dict[str, Any]:
    """Draws the shape of a model, and what else there is to choose."""
    heads, depth, inside, layers, context = (
        int(random.integers(low, high)) for low, high in ((1, 5), (2, 9), (3, 40), (1, 4), (12, 30))
    )
    common = {"vocab_size": int(random.integers(20, 90))}
    if architecture.startswith("GPT2"):
        return common | {
            "n_positions": context,
            "n_embd": heads * depth,
            "n_layer": layers,
            "n_head": heads,
            "n_inner": random.choice([None, inside]),
            "activation_function": str(random.choice(["gelu_new", "gelu", "relu"])),
            "tie_word_embeddings": architecture == "GPT2Model" or bool(random.integers(2)),
            "bos_token_id": None,
            "eos_token_id": None,
        }
    if architecture.startswith("Bert"):
        names = {number: f"class {number}" for number in range(random.integers(1, 5))}
        classes = {"id2label": names} if architecture.endswith("Classification") else {}
        return common | {
            "max_position_embeddings": context,
            "hidden_size": heads * depth,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": inside,
            "hidden_act": str(random.choice(["gelu", "gelu_new", "relu"])),
            **classes,
        }
    return common | {
        "d_model": int(random.integers(3, 20)),
        "d_kv": depth,
        "d_ff": inside,
        "num_layers": layers,
        # transformers makes its cache for as many as the encoder has.
        "num_decoder_layers": int(random.integers(1, layers + 1)),
        "num_heads": heads,
        "relative_attention_num_buckets": int(2 * random.integers(2, 9)),
        "relative_attention_max_distance": int(random.integers(20, 40)),
        "feed_forward_proj": str(random.choice(["relu", "gated-gelu", "gated-silu"])),
        "tie_word_embeddings": bool(random.integers(2)),
        "decoder_start_token_id": 0,
    }


ARCHITECTURES = [
    name for module in (pretrained.gpt2, pretrained.bert, pretrained.t5) for name in module.ARCHITECTURES
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_there_and_back(
    architecture: str, peer: ModuleType, random: np.random.Generator, tmp_path: Path
) -> None:
    """Theirs gives the same here, and what is written here gives the same there."""
    import transformers

    drawn = options(architecture, random)
    longest = int(random.integers(peer.NEW_TOKENS + 1, 12))
    peer.write(tmp_path / "theirs", architecture, drawn, longest, seed=int(random.integers(1000)))
    check_directory(tmp_path / "theirs")
    pretrained.save(*pretrained.load(tmp_path / "theirs"), tmp_path / "ours")
    kind = getattr(transformers, architecture)
    opened, info = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    unused = {"lm_head.weight"} if architecture == "GPT2Model" else set()
    assert not info["missing_keys"] and set(info["unexpected_keys"]) <= unused
    seed = kind.from_pretrained(tmp_path / "theirs").eval()
    ours, theirs = (peer.results(model.eval(), longest) for model in (opened, seed))
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)


@pytest.mark.parametrize("tokenizer", [Characters("abcdefghijklmnopqrs.\n "), Bytes()])
def test_a_run_that_is_exported_opens_in_transformers(
    tokenizer: Characters | Bytes, peer: ModuleType, tmp_path: Path
) -> None:
    import torch
    import transformers

    sizes = peer.GPT2 | {"vocab_size": len(tokenizer.vocabulary)}
    peer.write(tmp_path / "theirs", "GPT2LMHeadModel", sizes, longest=16)
    write_tokenizer(tokenizer, tmp_path / "theirs")
    import_run(tmp_path / "theirs", tmp_path / "run")
    saved = SavedRun(tmp_path / "run")
    export_run(saved, tmp_path / "ours")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    text = "a cab faced\n"
    ids = opened(text)["input_ids"]
    assert ids == tokenizer.encode(text).tolist() and opened.decode(ids) == text
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits.numpy()
    ours, _ = saved.task.model.apply({"params": saved.state.params}, np.array([ids], np.int32))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_pieces_open_in_transformers(lowercase: bool, peer: ModuleType, tmp_path: Path) -> None:
    """As `tokenizer.json`, and by their list alone."""
    import transformers

    texts = ["The cats aren't on a mat: élan!", "A cat, the mat"]
    made = Subwords.train_word_pieces(texts * 2, 80, lowercase=lowercase)
    write_tokenizer(made, tmp_path)
    opened = [transformers.AutoTokenizer.from_pretrained(tmp_path)]
    (tmp_path / "tokenizer.json").unlink()
    opened.append(transformers.BertTokenizer.from_pretrained(tmp_path))
    for pair in (texts, ["The [MASK] Élan?", "unknown \u4e00\u4e8c"]):
        ids, types = made.encode_pair(*pair)
        for theirs in opened:
            found = theirs(*pair)
            assert found["input_ids"] == ids.tolist() and found["token_type_ids"] == types.tolist()
            assert theirs.mask_token_id == made.special_id("mask")
