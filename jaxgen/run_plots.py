"""The pictures of a run, in its `plots/`: curves, and what its task has to show of a split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from jaxgen.data import streams
from jaxgen.data.sources import Source
from jaxgen.files import read_lines
from jaxgen.run_directory import RunDirectory
from jaxgen.train.evaluate import predict_split
from jaxgen.train.state import TrainState
from jaxgen.writing import Attention, Writer

# Tokens of a held-out text whose hidden units are drawn, and whose attention.
_PASSAGE, _ATTENTION_PASSAGE = 700, 32
_TRIED = 1000  # texts, of which the first is taken that is no longer


def draw_plots(directory: RunDirectory, task: Any, state: TrainState, source: Source) -> list[Path]:
    """Draws a run's curves and its task's plots of a split into `plots/`, and gives the files."""
    from jaxgen import plots

    # All processes predict; the first one draws.
    predictions = predict_split(task, state, source) if hasattr(task, "plots") else None
    if jax.process_index() != 0:
        return []
    paths = draw_curves(directory)
    if source.text is not None and jax.process_count() == 1:
        writer = Writer.of(task, state, source.text)
        if writer.attends:
            paths += draw_attention(directory, writer.attention_of(passage_of(source)))
        elif hasattr(task, "activations"):
            tokens = streams.tokens_of(source)
            paths += draw_hidden_units(directory, *writer.activations_of(tokens[:_PASSAGE]))
    if predictions is not None:
        params = jax.device_get(state.evaluation_params())
        paths += plots.save(task.plots(params, source.arrays(), predictions), directory.plots)
    return paths


def passage_of(source: Source) -> Int32[np.ndarray, " tokens"]:
    """Gives a text to show the attention of: the first short one, else the beginning, which ends as texts do."""
    examples = source.gather(np.arange(min(len(source), _TRIED)))
    tokens = examples["tokens"]
    lengths = examples.get("lengths", np.full(len(tokens), tokens.shape[1]))
    first = next(iter(np.flatnonzero(lengths <= _ATTENTION_PASSAGE)), 0)
    passage = tokens[first][: lengths[first]]
    if len(passage) <= _ATTENTION_PASSAGE:
        return passage
    last = np.array(getattr(source.text, "last", ()), np.int32)
    return np.concatenate([passage[: _ATTENTION_PASSAGE - len(last)], last])


def draw_hidden_units(
    directory: RunDirectory, parts: Sequence[str], activations: np.ndarray, units: Sequence[int] | None = None
) -> list[Path]:
    """Draws a text coloured by the activations of hidden units, and gives the file."""
    from jaxgen import plots
    from jaxgen.text_plots import hidden_units

    return plots.save({"hidden_units": hidden_units(parts, activations, units)}, directory.plots)


def draw_attention(directory: RunDirectory, found: Mapping[str, Attention]) -> list[Path]:
    """Draws the attention of all heads over a text, and gives the files: one of each name."""
    from jaxgen import plots
    from jaxgen.attention_plots import attention_maps

    return plots.save(
        {name: attention_maps(*of_text, name=name) for name, of_text in found.items()}, directory.plots
    )


def draw_curves(directory: RunDirectory) -> list[Path]:
    """Draws a run's curves, and how good its texts are by length: they need neither its data nor its model."""
    from jaxgen import plots
    from jaxgen.quality_plots import quality_of_run

    drawn = {"curves": plots.curves(read_lines(directory.metrics_path)), **quality_of_run(directory)}
    return plots.save(drawn, directory.plots)
