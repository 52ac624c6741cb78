"""`jaxgen similar`: the words nearest to others, by the vectors of a run or of a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxgen.errors import UsageError, shown
from jaxgen.train.hooks import say
from jaxgen.word_vectors import open_vectors

if TYPE_CHECKING:
    from rich.table import Table


def print_similar(
    path: Path, words: Sequence[str], plus: Sequence[str], minus: Sequence[str], top: int
) -> None:
    """Prints the words nearest to each of some words, or to a sum of words.

    Args:
        path: a run directory, or a file of vectors.
        words: a table for each.
        plus: words that are added up instead.
        minus: words that are taken off.
        top: how many words to print.

    Raises:
        UsageError: for words and a sum, or neither, and words without a vector.
        JaxgenError: where the vectors can't be read.
    """
    from rich.console import Console

    if bool(words) == bool(plus or minus):
        raise UsageError("give words to find similar ones of, or --plus and --minus for a sum of words")
    vectors = open_vectors(path)
    tables = []
    for word in words:
        note = "" if word in vectors.key_to_index else ", not in the vocabulary, by its n-grams"
        tables.append((f"{shown(word)}{note}", _table(vectors.most_similar(word, topn=top))))
    if not words:
        signs = [*(("+", word) for word in plus), *(("-", word) for word in minus)]
        title = " ".join(f"{sign} {shown(word)}" for sign, word in signs).removeprefix("+ ")
        tables.append((title, _table(vectors.most_similar(plus, minus, topn=top))))
    for title, table in tables:
        say(title)
        Console().print(table)


def _table(found: Sequence[tuple[str, float]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("word", "cosine")
    for word, cosine in found:
        table.add_row(Text(shown(word)), f"{cosine:.4f}")
    return table
