"""Errors that are for people: one line that says what was wrong and what to do about it."""

import difflib
import os
from collections.abc import Iterable


class JaxgenError(Exception):
    """What went wrong and the way out, in one line; the command line prints it without a traceback.

    `exit_code` is 1, a failure (data, files, numbers); `UsageError` has 2, a wrong request.
    """

    exit_code = 1


class UsageError(JaxgenError):
    """A request that can't be met as it was asked: an unknown name or an impossible value."""

    exit_code = 2


class OwnCodeError(UsageError):
    """A request for what a run has from its user's own code, which its directory doesn't hold."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Gives the names that are spelt most like one, three at most."""
    lowered = {known_name.lower(): known_name for known_name in known}
    return [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Builds the error for a name that isn't known, with the nearest ones that are."""
    names = sorted(known)
    if near := nearest(name, names):
        return UsageError(f"unknown {kind} {name!r}; did you mean {' or '.join(near)}?")
    shown = names if len(names) <= 12 else [*names[:12], f"and {len(names) - 12} more"]
    return UsageError(f"unknown {kind} {name!r}; known: {', '.join(shown)}")


def shown(name: str | os.PathLike[str]) -> str:
    r"""Gives a file's name on one line: what can't be printed (newlines, bytes that are no UTF-8) is escaped, as \n."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def sizes(shape: Iterable[int]) -> str:
    """Writes a shape as a message has it: 28 x 28 x 1."""
    return " x ".join(map(str, shape))


def shortened(text: str, length: int) -> str:
    """Gives a text on one line, of so many characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
