"""How a text becomes the examples of its format: streams, windows or passages."""

from jaxgen.data.passages import evaluation_passages, training_passages
from jaxgen.data.sentence_pairs import sentence_pairs
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.sources import Source
from jaxgen.data.streams import TextFormat, evaluation_streams, training_streams
from jaxgen.data.text import Text
from jaxgen.data.windows import evaluation_windows, training_windows


def training_source(text: Text, given: TextFormat | SequenceFormat) -> Source:
    """Cuts a text into what is trained on.

    Raises:
        UsageError: for no streams.
        JaxgenError: for a text that is too short.
    """
    if isinstance(given, SequenceFormat):
        return sentence_pairs(text, given) if given.sentence_pairs else training_passages(text, given)
    return training_streams(text, given) if given.streams else training_windows(text, given)


def evaluation_source(text: Text, given: TextFormat | SequenceFormat) -> Source:
    """Cuts a text into what is evaluated: every token of it once, unless it is pairs of sentences.

    Raises:
        JaxgenError: for a text of fewer than two tokens.
    """
    if isinstance(given, SequenceFormat):
        return sentence_pairs(text, given) if given.sentence_pairs else evaluation_passages(text, given)
    return evaluation_streams(text, given) if given.streams else evaluation_windows(text, given)
