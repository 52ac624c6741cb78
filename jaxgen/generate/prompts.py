"""What is asked of a model: prompts and lengths, checked, and padded to one of a few shapes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer

from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray

_SMALLEST_BUCKET = 16
_TOKENS = 2**14  # that are read at once


def pad_prompts(
    prompts: Sequence[Sequence[int] | Integer[AnyArray, "..."]],
) -> tuple[Int32[np.ndarray, "batch time"], Int32[np.ndarray, " batch"]]:
    """Makes one batch of prompts of different lengths: tokens, zero behind each prompt's end, and the lengths."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    padded = np.zeros((len(lengths), max(lengths, default=0)), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    return padded, lengths


def pad_to_bucket(
    rows: Sequence[Sequence[int] | Integer[AnyArray, "..."]], limit: int | None = None
) -> tuple[Int32[np.ndarray, "batch time"], Int32[np.ndarray, " batch"]]:
    """Does the same with texts for an encoder, at one of a few lengths: powers of two, but at most the limit."""
    tokens, lengths = pad_prompts(rows)
    longest = tokens.shape[1]
    return np.pad(tokens, ((0, 0), (0, bucket(longest, limit) - longest))), lengths


def by_bucket(
    rows: Sequence[Sequence[int] | Integer[AnyArray, "..."]], limit: int | None = None
) -> dict[int, list[int]]:
    """Gives the numbers of the rows whose lengths lie in each bucket, so that they can be padded alike."""
    buckets: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        buckets.setdefault(bucket(len(row), limit), []).append(number)
    return buckets


def batches(
    rows: Sequence[Sequence[int] | Integer[AnyArray, "..."]], limit: int | None = None
) -> Iterator[list[int]]:
    """Gives the numbers of rows of one bucket at a time, no more than make 16,384 tokens when they are padded."""
    for length, numbers in by_bucket(rows, limit).items():
        size = at_once(length)
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]


def at_once(length: int) -> int:
    """Gives how many rows of a bucket may be read at once: a power of two, so that devices can share them."""
    return max(1, _TOKENS // bucket(length, None))


@dataclass(frozen=True)
class Request:
    """Prompts, padded to their bucket, and how much there must be room for.

    Attributes:
        prompt: int32 [batch, bucket of the longest prompt].
        lengths: int32 [batch], of the prompts.
        new_tokens: bucket of the number of new tokens.
        max_length: tokens that the cache must have room for.
    """

    prompt: Any
    lengths: Any
    new_tokens: int
    max_length: int


def prepare(
    prompt: Integer[AnyArray, "batch time"],
    lengths: Integer[AnyArray, " batch"],
    max_tokens: int,
    window: int | None,
) -> Request:
    """Pads a request to powers of two, so that one compilation serves many lengths, but not beyond the window.

    Raises:
        UsageError: for no prompt, an empty one, one longer than its row, or more tokens than the window.
    """
    prompt, lengths = np.asarray(prompt, np.int32), np.asarray(lengths, np.int32)
    if not len(lengths):
        raise UsageError("there is no prompt; give at least one")
    if lengths[row := int(lengths.argmin())] < 1:
        raise UsageError(
            f"prompt {row + 1} of {len(lengths)} is empty; give at least one token to begin with"
        )
    longest = int(lengths.max())
    if longest > prompt.shape[1]:
        raise UsageError(f"a prompt length is {longest}, but there are {prompt.shape[1]} tokens a prompt")
    check_window(longest, max_tokens, window)
    time, new_tokens = bucket(longest, window), bucket(max_tokens, window)
    padded = np.zeros((len(prompt), time), np.int32)
    padded[:, :longest] = prompt[:, :longest]
    max_length = time + new_tokens if window is None else min(time + new_tokens, window)
    return Request(padded, lengths, new_tokens, max_length)


def check_numbers(**numbers: int) -> None:
    """Refuses numbers below 1; their names are those of the arguments."""
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"{name.replace('_', ' ')} is {value}; it must be at least 1")


def check_window(prompt_length: int, max_tokens: int, window: int | None) -> None:
    """Refuses more tokens than a model can see."""
    if window is not None and prompt_length + max_tokens > window:
        raise UsageError(
            f"{prompt_length} tokens of prompt and {max_tokens} new ones are more than the model's window of {window}; "
            "ask for fewer, or shorten the prompt"
        )


def bucket(length: int, limit: int | None) -> int:
    """Gives the next power of two, but at most the limit."""
    size = max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length())
    return size if limit is None else min(size, limit)
