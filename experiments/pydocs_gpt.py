"""Character language model of Python's own language reference, which every Python holds: no network needed.

python -m experiments.pydocs_gpt
python -m experiments.pydocs_gpt --preset llama                 # RoPE, RMSNorm, SwiGLU, grouped-query heads
python -m experiments.pydocs_gpt --tokenizer bpe --data pycode  # the standard library's source, in pieces of words
jaxgen sample runs/pydocs_gpt/DATE-TIME --prompt "The \\"with\\" statement"
"""

from dataclasses import dataclass

from experiments.shakespeare_gpt import SMOKE, make_task
from experiments.shakespeare_gpt import Config as GPTConfig
from jaxgen.experiment import Experiment
from jaxgen.run import main


@dataclass(frozen=True, kw_only=True)
class Config(GPTConfig):
    """A GPT."""

    data: str = "pydocs"
    """The text: pydocs or pycode (no network), a tfds set of text, or the path of a file or directory of files."""
    dropout: float = 0.1
    """Part of the embeddings, the attention's weights and the outputs of layers that is dropped in training."""


_LLAMA = {
    "positions": "rotary",
    "norm": "rms",
    "activation": "swiglu",
    "feed_forward_size": 344,  # as many parameters as without a gate
    "num_kv_heads": 2,
    "tied": False,
}


EXPERIMENT = Experiment(
    name="pydocs_gpt",
    config=Config,
    task=make_task,
    summary="GPT over characters",
    data="Python's language reference (no network)",
    time="3 min on 2 CPU cores, beside other work",
    reference="2.090 bits a character of the validation split",
    smoke=SMOKE,
    presets={"llama": _LLAMA},
)

if __name__ == "__main__":
    main(EXPERIMENT)
