"""GPT, BERT and T5 against transformers itself, on shapes that differ every day; `-m peers`."""

import datetime
import importlib
from types import ModuleType

import numpy as np
import pytest
from golden.transformers_agreement import check_transformers_agreement

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return importlib.import_module("golden.make_transformers_reference")


@pytest.fixture(params=range(3))
def random(request: pytest.FixtureRequest) -> np.random.Generator:
    seed = [datetime.date.today().toordinal(), request.param]
    print(f"numpy.random.default_rng({seed})")
    return np.random.default_rng(seed)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5", "t5_v1_1"])
def test_logits_are_theirs(family: str, peer: ModuleType, random: np.random.Generator) -> None:
    kv_heads, shared, depth = (int(random.integers(low, high)) for low, high in ((1, 4), (1, 4), (1, 9)))
    sizes = {
        "vocabulary_size": int(random.integers(2, 90)),
        "heads": kv_heads * shared,
        "kv_heads": kv_heads,
        "width": kv_heads * shared * 2 * depth,
        "head_size": int(random.integers(1, 20)),
        "inside": int(random.integers(1, 90)),
        "layers": int(random.integers(1, 4)),
        "context": int(random.integers(4, 50)),
        "tied": family == "t5",
    }
    family = family.removesuffix("_v1_1")
    reference = peer.reference(family, sizes, batch=int(random.integers(1, 6)), seed=sizes["width"])
    check_transformers_agreement(family, sizes, reference)
