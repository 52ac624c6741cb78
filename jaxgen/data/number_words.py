"""Numbers in words of nine languages, and in digits, made on the spot with num2words."""

import numpy as np

from jaxgen.data.sequences import Row
from jaxgen.data.stored_rows import MadePairs, import_extra, version_of_package

LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pl", "pt", "sv")
"""The names that num2words has for them."""

_DIGITS = 6
_TRAIN, _VALIDATION, _TEST = 50_000, 1_000, 2_000


class NumberWords(MadePairs):
    """Numbers of one to six digits in the words of nine languages, to be written in digits.

    No number is there twice: 50,000 are to train on, 1,000 for validation and 2,000 for testing, of all lengths alike
    as far as there are as many. The version is that of num2words, by which they are written.
    """

    name = "number_words"
    VERSION = version_of_package("num2words")

    def _splits(self) -> dict[str, list[Row]]:
        return make_numbers({"train": _TRAIN, "validation": _VALIDATION, "test": _TEST})


def make_numbers(sizes: dict[str, int]) -> dict[str, list[Row]]:
    """Makes numbers, always the same ones, and all different.

    Args:
        sizes: how many each split has.

    Raises:
        JaxgenError: where num2words isn't installed.
    """
    written = import_extra("num2words", "numbers are written by num2words").num2words
    random = np.random.Generator(np.random.Philox(0))
    count = sum(sizes.values())
    drawn = random.integers(0, 10 ** random.integers(1, _DIGITS + 1, 4 * count))
    _, places = np.unique(drawn, return_index=True)
    # Short numbers, of which there are few, are nearly all among the first draws.
    numbers = iter(random.permutation(drawn[np.sort(places)[:count]]).tolist())
    splits = {}
    for split, size in sizes.items():
        languages = [LANGUAGES[place] for place in random.integers(0, len(LANGUAGES), size)]
        splits[split] = [
            Row(written(number, lang=language), str(number), language)
            for language, number in zip(languages, numbers, strict=False)
        ]
    return splits
