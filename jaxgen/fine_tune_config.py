"""The options of `jaxgen fine-tune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxgen.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig:
    """The options of fine-tuning."""

    data: str
    """Texts with labels, or pairs of texts: a TSV file, or a directory with train.tsv, and perhaps validation.tsv and
    test.tsv."""
    head: Literal["classification", "text"]
    """What is learnt: the class of a text, by a BERT, or to write a text for another one, by a T5."""
    data_dir: Path | None = None
    """Where prepared sets lie. By default TFDS_DATA_DIR, or tfds's own directory."""
    encoding: str = "utf-8"
    """The encoding of files."""
    workdir: Path | None = None
    """The new run directory; one that holds this run is gone on with. By default RUN-HEAD, beside RUN."""
    epochs: int = 10
    """Length of the run, in passes over the texts to train on."""
    steps: int | None = None
    """Length of the run in steps, instead of epochs."""
    batch_size: int = 32
    """Texts a step, over all devices."""
    learning_rate: float | None = None
    """Peak learning rate. By default what is usual for the model's width and what is trained."""
    seed: int = 0
    """Seed of the new head, the order of the texts, which of them --labels takes, and all other randomness."""
    labels: int | None = None
    """Train on so many rows, as many of each class as there are."""
    frozen_layers: int | Literal["all"] | None = None
    """Leave the embeddings and so many of the first blocks as they are (of a T5 the encoder's)."""
    lora_rank: int | None = None
    """Train changes of this rank of the attention's queries and values (LoRA), and the new head, alone."""
    lora_alpha: float | None = None
    """The changes are scaled by this over the rank. By default twice the rank."""
    from_scratch: bool = False
    """Begin with random parameters in the place of the run's, to compare with."""
    truncate: bool = False
    """Cut texts off that are too long."""
    sequence_length: int | None = None
    """Tokens of a text to read, special ones among them. By default the longest text's, if the model can read it."""
    target_length: int | None = None
    """Tokens of a text to write. By default the longest text's, up to 512."""
    scored_by: Literal["bleu", "rouge", "exact"] | None = None
    """What the texts that are written are scored by, and so which state is the best. By default rouge."""

    def __post_init__(self) -> None:
        """Refuses what can't be meant together."""
        told = {
            "epochs": self.epochs,
            "steps": self.steps,
            "batch-size": self.batch_size,
            "labels": self.labels,
            "sequence-length": self.sequence_length,
            "target-length": self.target_length,
        }
        for name, value in told.items():
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, not {value}")
        if self.head == "classification" and self.target_length is not None:
            raise UsageError("--target-length is for --head text: classes have no length")
        if self.head == "classification" and self.scored_by is not None:
            raise UsageError("--scored-by is for --head text: classes are right or wrong")
        if self.lora_rank is None and self.lora_alpha is not None:
            raise UsageError("--lora-alpha is for LoRA: give --lora-rank as well")
        if self.lora_rank is not None and self.frozen_layers is not None:
            raise UsageError(
                "give --lora-rank or --frozen-layers: LoRA leaves all layers as they are in any case"
            )
        if self.from_scratch and (self.lora_rank is not None or self.frozen_layers is not None):
            raise UsageError(
                "--from-scratch has nothing learnt to keep: leave out --frozen-layers and --lora-rank"
            )
