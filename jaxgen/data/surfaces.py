"""What tokens stand for in a text: the part of it that each was read from, or that each has written."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int32

from jaxgen.data.sentencepieces import SentencePieces
from jaxgen.data.subwords import Subwords
from jaxgen.data.tokenizers import Tokenizer, Words

Tokens = Sequence[int] | Int32[np.ndarray, " tokens"]


def read_parts(tokenizer: Tokenizer, text: str) -> list[str]:
    """Gives the part of a text that each token of `tokenizer.encode` stands for: also unknown ones, and with its case.

    Of a character that is several tokens each gives the whole.
    """
    if isinstance(tokenizer, Subwords | SentencePieces | Words):
        return tokenizer.parts(text)
    return written_parts(tokenizer, tokenizer.encode(text))


def written_parts(tokenizer: Tokenizer, tokens: Tokens) -> list[str]:
    """Gives the part of `tokenizer.decode`'s text that each token has written; special and unknown ones by their names.

    Of a character that is several tokens each gives the whole.
    """
    text, bounds = _bounds(tokenizer, tokens)
    return [text[begin:end] for begin, end in bounds]


def filled_in(tokenizer: Tokenizer, tokens: Tokens, unknown: int, others: Mapping[int, str]) -> str:
    """Decodes tokens, some of which are the unknown one, with other texts in the place of its name.

    Args:
        tokenizer: which tokens they are.
        tokens: of a text.
        unknown: the unknown token.
        others: what stands in its place, by its place among the tokens.
    """
    text, bounds = _bounds(tokenizer, tokens)
    name = tokenizer.decode([unknown]).strip()
    parts, given = [], 0
    for place, other in sorted(others.items()):
        begin, end = bounds[place]
        at = text.find(name, begin, end)
        if at >= 0:
            begin, end = at, at + len(name)
        parts += [text[given:begin], other]
        given = end
    return "".join([*parts, text[given:]])


def _bounds(tokenizer: Tokenizer, tokens: Tokens) -> tuple[str, list[tuple[int, int]]]:
    """Gives the text of tokens, and where in it each one's part lies: what more of the text is right with it."""
    ids = [int(token) for token in tokens]
    text = tokenizer.decode(ids)
    bounds, begin = [], 0
    for count in range(1, len(ids) + 1):
        so_far = tokenizer.decode(ids[:count])
        right = begin
        while right < min(len(so_far), len(text)) and so_far[right] == text[right]:
            right += 1
        # What isn't right yet is a part of a character, which the tokens behind it complete.
        bounds.append((begin, min(len(text), right + (len(so_far) > right))))
        begin = right
    return text, bounds
