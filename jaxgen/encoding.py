"""What a trained BERT makes of texts: vectors, and tokens in the place of masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Integer

from jaxgen import pretrained
from jaxgen.data.pretrained_tokenizers import open_tokenizer
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.subwords import Subwords
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.errors import UsageError, shown
from jaxgen.files import read_json
from jaxgen.generate.prompts import batches, pad_to_bucket
from jaxgen.metrics import AnyArray
from jaxgen.models import BERT
from jaxgen.saved_run import SavedRun
from jaxgen.train.hooks import say


def mean_pooled(
    features: Float[AnyArray, "batch time width"], lengths: Integer[AnyArray, " batch"]
) -> Float32[Array, "batch width"]:
    """Gives the mean of each text's features, of length 1: its dot products are cosines (Reimers & Gurevych 2019)."""
    features = jnp.asarray(features, jnp.float32)
    there = jnp.arange(features.shape[1]) < jnp.asarray(lengths)[:, None]
    mean = jnp.where(there[..., None], features, 0).sum(axis=1) / jnp.asarray(lengths)[:, None]
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def print_vectors(
    encoder: "Encoder", texts: Sequence[str], output: Path | None = None, truncate: bool = False
) -> None:
    """Prints the vector of each text, a line each, or writes all to a new .npy: `jaxgen embed`; see `Encoder.embed`."""
    if output is not None and (output.suffix != ".npy" or output.exists()):
        raise UsageError(f"{shown(output)} is there already, or no .npy: give another --output")
    vectors = encoder.embed(texts, truncate)
    if output is None:
        for vector in vectors:
            say(" ".join(f"{value:.6f}" for value in vector))
    else:
        np.save(output, vectors)
        say(f"written to {shown(output)}")


@dataclass(frozen=True)
class Encoder:
    """A trained BERT with its tokenizer.

    Attributes:
        model: the BERT.
        params: its parameters.
        tokenizer: what it was trained with; with `cls` and `sep` these are put around texts.
    """

    model: BERT
    params: Any = field(repr=False)
    tokenizer: Tokenizer

    @classmethod
    def open(cls, path: Path) -> "Encoder":
        """Opens a run directory, or one of Hugging Face's.

        Raises:
            UsageError: where it holds no BERT.
            JaxgenError: where it can't be read.
        """
        config = path / "config.json"
        if config.is_file() and "format_version" not in read_json(config):
            model, params = pretrained.load(path)
            if isinstance(model, BERT):
                return cls(model, params, open_tokenizer(path))
            raise UsageError(f"{shown(path)} holds a {type(model).__name__}, no BERT")
        return cls.of(SavedRun(path))

    @classmethod
    def of(cls, run: SavedRun) -> "Encoder":
        """Takes a run's model; raises UsageError where it is no BERT."""
        model = getattr(run.task, "model", None)
        if not isinstance(model, BERT):
            raise UsageError(f"{shown(run.directory.path)} is a run of a {type(model).__name__}, no BERT")
        return cls(model, run.state.evaluation_params(), run.tokenizer)

    def embed(self, texts: Sequence[str], truncate: bool = False) -> Float32[np.ndarray, "texts width"]:
        """Gives a vector of length 1 for each text, the mean of its tokens' features.

        Texts of about one length are read together, in batches of bounded size.

        Args:
            texts: any number.
            truncate: whether one that is longer than the model's context is cut off; else it is refused.

        Raises:
            UsageError: for no texts, and one that is empty or too long; says which.
        """
        rows = [self._row(text, f"text {number}", truncate) for number, text in enumerate(texts, start=1)]
        if not rows:
            raise UsageError("there is no text: give at least one")
        found = np.empty((len(rows), self.model.embedding_size), np.float32)
        for numbers in batches(rows, self.model.context_length):
            padded = self._padded([rows[number] for number in numbers])
            found[numbers] = self._embed(self.params, *padded)
        return found

    @cached_property
    def _embed(self) -> Callable[..., Array]:
        """Compiled once for each number of texts and bucket of lengths."""

        def read(params: Any, tokens: Array, lengths: Array) -> Array:
            features: Any = self.model.apply({"params": params}, tokens, lengths=lengths, method="features")
            return mean_pooled(features, lengths)

        return jax.jit(read)

    def _row(self, text: str, told: str, truncate: bool) -> Int32[np.ndarray, " tokens"]:
        """Encodes a text with special tokens around it; `told` says where it stands, for errors."""
        if not text.strip():
            raise UsageError(f"{told}: the text is empty")
        given = SequenceFormat.of(self.tokenizer, self.model.context_length, truncate=truncate)
        return given.row(text, told)

    def fill(
        self, text: str, count: int = 5, *, truncate: bool = False, told: str = "text 1"
    ) -> list[list[tuple[str, float]]]:
        """Gives the likeliest tokens for each mask of a text, with their probabilities.

        Args:
            text: with masks in it.
            count: tokens for each.
            truncate: as for `embed`.
            told: where the text stands, for errors.

        Raises:
            UsageError: for a text without a mask, an empty or too long one, and a model without the head.
        """
        if "masked" not in self.model.heads or not isinstance(self.tokenizer, Subwords):
            raise UsageError("the model can't fill masks: it has no head for it, or no such tokenizer")
        mask = self.tokenizer.special.find("mask")
        tokens = self._row(text, told, truncate)
        (places,) = np.nonzero(tokens == self.tokenizer.special_id("mask"))
        if not len(places):
            raise UsageError(f"{told}: the text has no {mask}: put it where a token is to be found")
        return self.fill_tokens(tokens, places, count)

    def fill_tokens(
        self, tokens: Integer[np.ndarray, " tokens"], places: Any, count: int = 5
    ) -> list[list[tuple[str, float]]]:
        """Gives the same for the tokens of a text, special ones among them, and the places where masks stand."""
        padded, lengths = self._padded([tokens])
        vocabulary = self.tokenizer.vocabulary

        found = np.asarray(self._fill(self.params, padded, lengths, np.asarray(places)))
        best = np.argsort(-found, axis=-1, kind="stable")[:, :count]
        return [
            [(vocabulary[token], float(row[token])) for token in tokens]
            for row, tokens in zip(found, best, strict=True)
        ]

    @cached_property
    def _fill(self) -> Callable[..., Array]:
        """Compiled once for each number of masks and bucket of lengths."""

        def read(params: Any, tokens: Array, lengths: Array, places: Array) -> Array:
            variables = {"params": params}
            features: Any = self.model.apply(variables, tokens, lengths=lengths, method="features")
            chosen: Any = self.model.apply(variables, features[0, places], method="masked_features")
            logits: Any = self.model.apply(variables, chosen, method="logits")
            return jax.nn.softmax(logits)[:, : len(self.tokenizer.vocabulary)]

        return jax.jit(read)

    def _padded(
        self, rows: list[Int32[np.ndarray, "..."]]
    ) -> tuple[Int32[np.ndarray, "texts time"], Int32[np.ndarray, " texts"]]:
        """Makes one batch of texts, of one of few lengths."""
        if not all(map(len, rows)):
            raise UsageError("there is no text: give at least one")
        longest, context = max(map(len, rows)), self.model.context_length
        if longest > context:
            raise UsageError(f"a text has {longest} tokens, the model sees {context}: shorten it")
        return pad_to_bucket(rows, context)
