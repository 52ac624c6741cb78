"""`jaxgen sample`: texts on the terminal as they are written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.files import check_new, write_text
from jaxgen.train.hooks import say
from jaxgen.writing import Writer


def print_samples(
    writer: Writer, prompts: Sequence[str], options: Mapping[str, Any], output: Path | None = None
) -> None:
    """Prints what a model writes, prompts included: a single text chunk by chunk, several with a line above each.

    A text that was read stands on lines of its own, before what is written for it.

    Args:
        writer: the model.
        prompts: what to go on from.
        options: as for `Writer.stream`.
        output: a file that the texts are written to as well.

    Raises:
        JaxgenError: for what the writer refuses, and where the file is there already or can't be written.
    """
    if output is not None:
        check_new(output)
    chunks = writer.stream(prompts, **options)
    if options.get("drop_unknown"):
        prompts = [writer.known(prompt) for prompt in prompts]
    if writer.reads:
        prompts = [f"{prompt}\n" for prompt in prompts]
    given = [prompt for prompt in prompts for _ in range(options.get("num_samples", 1))]
    if len(given) == 1:
        texts = [given[0]]
        say(given[0], end="")
        for chunk in chunks:
            say(chunk.texts[0], end="")
            texts.append(chunk.texts[0])
        say("")
        written = "".join(texts) + "\n"
    else:
        pieces = zip(*(chunk.texts for chunk in chunks), strict=True)
        whole = [prompt + "".join(of_row) for prompt, of_row in zip(given, pieces, strict=True)]
        written = "\n".join(f"--- {number} ---\n{text}\n" for number, text in enumerate(whole, start=1))
        say(written, end="")
    if output is not None:
        write_text(output, written)
        say(f"written to {output}")
