"""`jaxgen plot --text`: what a run makes of a text of one's own, its attention or its hidden units."""

from collections.abc import Sequence

from jaxgen.errors import UsageError
from jaxgen.run_plots import draw_attention, draw_hidden_units
from jaxgen.saved_run import SavedRun
from jaxgen.train.hooks import say


def plot_text(run: SavedRun, text: str, units: Sequence[int] = ()) -> None:
    """Draws what a model looks at in a text, or its hidden units over it, these also on the terminal.

    Args:
        run: of a model of texts.
        text: the text; one that is read, of an encoder and decoder, which then writes.
        units: the hidden units to show; by default those that vary most.

    Raises:
        UsageError: for units of a model that has none, and as `Writer.attention` and `Writer.activations` do.
    """
    writer = run.writer
    if writer.attends:
        if units:
            raise UsageError("the model has attention, not hidden units that it carries on: leave out --unit")
        for path in draw_attention(run.directory, writer.attention(text)):
            say(str(path))
        return
    from rich.console import Console

    from jaxgen.text_plots import hidden_units_text

    parts, activations = writer.activations(text)
    Console().print(hidden_units_text(parts, activations, units or None), soft_wrap=True)
    for path in draw_hidden_units(run.directory, parts, activations, units or None):
        say(str(path))
