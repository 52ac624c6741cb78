"""Dates as people write them in ten languages, and as ISO 8601 has them, made on the spot with Babel."""

import datetime

import numpy as np

from jaxgen.data.sequences import Row
from jaxgen.data.stored_rows import MadePairs, import_extra, version_of_package

LANGUAGES = ("de", "en_GB", "en_US", "es", "fr", "it", "nl", "pl", "pt", "sv")
"""Babel's names of them."""

# No two dates are ever written alike: day and month as mere numbers come with dots, the day first, or with the year
# first.
_FORMATS = ("full", "long", "medium", "d MMM y", "d MMMM y", "EEE d MMM y", "dd.MM.y", "d.M.y", "y/MM/dd")
_FIRST, _LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
_TRAIN, _VALIDATION, _TEST = 50_000, 1_000, 2_000


class Dates(MadePairs):
    """Dates of 1900 to 2099 in ten languages, each in one of nine formats, to be written as 1979-05-03.

    No date is there twice: 50,000 are to train on, 1,000 for validation and 2,000 for testing. The version is Babel's,
    by whose data they are written.
    """

    name = "dates"
    VERSION = version_of_package("babel")

    def _splits(self) -> dict[str, list[Row]]:
        return make_dates({"train": _TRAIN, "validation": _VALIDATION, "test": _TEST})


def make_dates(sizes: dict[str, int]) -> dict[str, list[Row]]:
    """Makes dates, always the same ones, and all different.

    Args:
        sizes: how many each split has.

    Raises:
        JaxgenError: where Babel isn't installed.
    """
    written = import_extra("babel.dates", "the dates are written by Babel")
    random = np.random.Generator(np.random.Philox(0))
    days = iter(random.permutation((_LAST - _FIRST).days + 1).tolist())
    splits: dict[str, list[Row]] = {}
    for split, size in sizes.items():
        languages = random.integers(0, len(LANGUAGES), size)
        formats = random.integers(0, len(_FORMATS), size)
        splits[split] = []
        for language, form in zip(languages, formats, strict=True):
            day = _FIRST + datetime.timedelta(days=next(days))
            text = written.format_date(day, _FORMATS[form], LANGUAGES[language])
            # Some languages have spaces that don't break.
            splits[split].append(
                Row(" ".join(text.split()), day.isoformat(), f"{LANGUAGES[language]} {_FORMATS[form]}")
            )
    return splits
