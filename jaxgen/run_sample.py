"""What a run shows in words when it is finished: what a language model writes, and what is guessed of hidden tokens."""

from typing import Any

import numpy as np

from jaxgen.data.sources import Source
from jaxgen.data.streams import TextFormat
from jaxgen.encoding import Encoder
from jaxgen.files import write_text
from jaxgen.generate.sampling import Sampler
from jaxgen.run_directory import RunDirectory
from jaxgen.tasks import MaskedLanguageModelling
from jaxgen.text_to_text import of_pairs, shown_pairs
from jaxgen.train.state import TrainState
from jaxgen.writing import Writer

# Of how many held-out passages a part is shown, how long, and how far from each other tokens are hidden in it.
_PASSAGES, _LENGTH, _DISTANCE = 5, 32, 6


def write_sample(directory: RunDirectory, task: Any, state: TrainState, source: Source) -> str:
    """Writes what there is to read of a trained state into `samples/sample.txt`; gives it with a headline, or nothing.

    Args:
        directory: of the run.
        task: its task.
        state: what was trained.
        source: held-out texts.
    """
    if isinstance(task, MaskedLanguageModelling):
        headline, text = "what was hidden, and its guesses:", _guesses(task, state, source)
    elif isinstance(source.text, TextFormat):
        writer = Writer(task, state, source.text.tokenizer)
        headline = "it writes:"
        (text,) = writer.write([""], sampler=Sampler.of(temperature=0.8))
    elif of_pairs(source):
        return "it writes:\n" + shown_pairs(directory.samples / f"{source.split}.csv", _PASSAGES)
    else:
        return ""
    directory.samples.mkdir(exist_ok=True)
    write_text(directory.samples / "sample.txt", f"{text}\n")
    return f"{headline}\n{text}\n"


def _guesses(task: MaskedLanguageModelling, state: TrainState, source: Source) -> str:
    """Has a model guess some tokens of held-out passages: a passage each, and below it what was hidden, and guesses."""
    tokenizer = source.text.tokenizer
    model: Any = task.model
    encoder = Encoder(model, state.evaluation_params(), tokenizer)
    chosen = np.linspace(0, len(source) - 1, min(_PASSAGES, len(source))).astype(int)
    lines = []
    for row in source.gather(chosen)["tokens"][:, :_LENGTH]:
        tokens = row[row != source.text.padding]
        hidden = [n for n in range(_DISTANCE, len(tokens), _DISTANCE) if tokens[n] not in task.special_tokens]
        if not hidden:
            continue
        answers = [tokenizer.vocabulary[tokens[place]] for place in hidden]
        masked = tokens.copy()
        masked[hidden] = task.mask_token
        around = (*source.text.first, *source.text.last)
        lines.append(tokenizer.decode([int(token) for token in masked if token not in around]))
        for answer, guesses in zip(answers, encoder.fill_tokens(masked, hidden, 3), strict=True):
            listed = ", ".join(f"{token} {100 * probability:.0f} %" for token, probability in guesses)
            lines.append(f"  {answer}: {listed}")
    return "\n".join(lines)
