"""How the next token is drawn: rules that change the logits, one after the other, and a draw from what they leave.

A rule is a frozen dataclass, called with float32 logits [batch, vocabulary] and, where it says that it `needs_counts`,
with how often each token stands in the row so far, prompt included. A `HistoryRule` gets the tokens themselves. What a
rule rules out gets minus infinity.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int32

from jaxgen.errors import UsageError
from jaxgen.generate.drawing import Logits, draw, first, keep_first

Counts = Int32[Array, "batch vocabulary"]


@struct.dataclass
class History:
    """Each row's tokens so far, prompt included.

    Attributes:
        tokens: anything behind a row's length.
        lengths: tokens of each row.
    """

    tokens: Int32[Array, "batch time"]
    lengths: Int32[Array, " batch"]

    def and_then(self, token: Int32[Array, " batch"]) -> "History":
        """Gives the history with one more token a row."""
        return History(self.tokens.at[jnp.arange(len(token)), self.lengths].set(token), self.lengths + 1)


@runtime_checkable
class Rule(Protocol):
    """A change of the logits before a token is drawn."""

    @property
    def needs_counts(self) -> bool:
        """Whether it looks at the tokens so far."""
        ...

    def __call__(self, logits: Logits, counts: Counts | None) -> Logits:
        """Gives the changed logits."""
        ...


@runtime_checkable
class HistoryRule(Protocol):
    """A change of the logits that hangs on the order of the tokens so far."""

    @property
    def needs_history(self) -> bool:
        """True; what tells it from a `Rule`."""
        ...

    def __call__(self, logits: Logits, history: History) -> Logits:
        """Gives the changed logits."""
        ...


@dataclass(frozen=True)
class Temperature:
    """Divides the logits: below 1 the likely becomes likelier, and 0 takes the likeliest token always.

    Raises:
        UsageError: if it is negative or not finite.
    """

    value: float
    needs_counts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("temperature", self.value, self.value >= 0, "at least 0")
        if self.value < 1e-6:  # logits would overflow
            object.__setattr__(self, "value", 0.0)

    def __call__(self, logits: Logits, counts: Counts | None) -> Logits:
        """Divides; 0 leaves the logits as they are, for the sampler to take the highest."""
        return logits / self.value if self.value else logits


@dataclass(frozen=True)
class TopK:
    """Keeps the k likeliest tokens (Fan et al. 2018), and those that are as likely as the last of them.

    Raises:
        UsageError: if k is below 1.
    """

    k: int
    needs_counts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("top-k", self.k, self.k >= 1, "at least 1")

    def __call__(self, logits: Logits, counts: Counts | None) -> Logits:
        """Keeps k."""
        if self.k >= logits.shape[-1]:
            return logits
        below = logits.max(axis=-1, keepdims=True) - logits
        return keep_first(logits, below, self.k)


@dataclass(frozen=True)
class TopP:
    """Keeps the fewest likeliest tokens whose probabilities add up to p or more (Holtzman et al. 2020).

    Raises:
        UsageError: if p is not in (0, 1].
    """

    p: float
    needs_counts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("top-p", self.p, 0 < self.p <= 1, "above 0 and at most 1")

    def __call__(self, logits: Logits, counts: Counts | None) -> Logits:
        """Keeps the nucleus."""
        if self.p == 1:
            return logits
        below = logits.max(axis=-1, keepdims=True) - logits
        weights = jnp.exp(-below)
        least = self.p * weights.sum(axis=-1, keepdims=True)
        return keep_first(logits, below, least, weights, lambda highest: jnp.exp(-highest))


@dataclass(frozen=True)
class MinP:
    """Keeps the tokens that are at least p times as likely as the likeliest (Nguyen et al. 2024).

    Raises:
        UsageError: if p is not in (0, 1].
    """

    p: float
    needs_counts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("min-p", self.p, 0 < self.p <= 1, "above 0 and at most 1")

    def __call__(self, logits: Logits, counts: Counts | None) -> Logits:
        """Keeps those."""
        lowest = logits.max(axis=-1, keepdims=True) + math.log(self.p)
        return jnp.where(logits >= lowest, logits, -jnp.inf)


@dataclass(frozen=True)
class Typical:
    """Keeps the tokens whose information is nearest to the entropy, up to a probability of p (Meister et al. 2023).

    Raises:
        UsageError: if p is not in (0, 1].
    """

    p: float
    needs_counts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("typical-p", self.p, 0 < self.p <= 1, "above 0 and at most 1")

    def __call__(self, logits: Logits, counts: Counts | None) -> Logits:
        """Keeps the fewest of the most typical tokens whose probabilities add up to p or more."""
        if self.p == 1:
            return logits
        log_probs = jax.nn.log_softmax(logits)
        probs = jnp.exp(log_probs)
        entropy = -jnp.where(probs > 0, probs * log_probs, 0).sum(axis=-1, keepdims=True)
        return keep_first(logits, jnp.abs(-log_probs - entropy), self.p, probs, jnp.zeros_like)


@dataclass(frozen=True)
class RepetitionPenalty:
    """Makes tokens that were there before less likely (Keskar et al. 2019, section 4.1).

    Their logits are divided by the penalty where they are positive and multiplied by it where they are negative, as
    Hugging Face's library does: the paper divides always, which makes tokens with negative logits likelier.

    Raises:
        UsageError: if the penalty is not positive; 1 does nothing.
    """

    penalty: float
    needs_counts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check("repetition penalty", self.penalty, self.penalty > 0, "above 0")

    def __call__(self, logits: Logits, counts: Counts | None) -> Logits:
        """Divides or multiplies."""
        penalised = jnp.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return jnp.where(_given(counts) > 0, penalised, logits)


@dataclass(frozen=True)
class PresencePenalty:
    """Takes a number off the logits of tokens that were there before, however often.

    Raises:
        UsageError: if it is not finite; a negative one favours them.
    """

    penalty: float
    needs_counts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check("presence penalty", self.penalty, True, "a finite number")

    def __call__(self, logits: Logits, counts: Counts | None) -> Logits:
        """Subtracts."""
        return logits - self.penalty * (_given(counts) > 0)


@dataclass(frozen=True)
class NoRepeatNgrams:
    """Forbids the tokens that would complete an n-gram that stands in the row already, prompt included.

    Paulus, Xiong and Socher (2018), section 2.5, forbid trigrams.

    Raises:
        UsageError: if the size is below 1.
    """

    size: int
    needs_history: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check("size of n-grams", self.size, self.size >= 1, "at least 1")

    def __call__(self, logits: Logits, history: History) -> Logits:
        """Looks for the row's last tokens further up, and forbids those that followed there."""
        tokens, lengths = history.tokens, history.lengths[:, None]
        rows, width = jnp.arange(len(tokens))[:, None], tokens.shape[1]
        places = jnp.arange(self.size - 1, width)
        repeated = places < lengths
        for back in range(1, self.size):
            repeated &= tokens[:, places - back] == tokens[rows, lengths - back]
        forbidden = jnp.zeros(logits.shape, bool).at[rows, tokens[:, places]].max(repeated)
        return jnp.where(forbidden, -jnp.inf, logits)


@dataclass(frozen=True, init=False)
class LogitBias:
    """Adds to the logits of single tokens; minus infinity forbids one.

    Attributes:
        biases: pairs of token and what is added, in the order of the tokens.

    Raises:
        UsageError: for tokens below 0, and biases of NaN or plus infinity; when it is used, for tokens that the
            vocabulary doesn't have.
    """

    biases: tuple[tuple[int, float], ...]
    needs_counts: ClassVar[bool] = False

    def __init__(self, biases: Mapping[int, float]) -> None:
        for token, bias in biases.items():
            if token < 0:
                raise UsageError(f"logit bias of token {token}: tokens are numbered from 0")
            if not bias < math.inf:
                raise UsageError(f"logit bias of token {token} is {bias}; it must be finite or -inf")
        pairs = tuple(sorted((int(token), float(bias)) for token, bias in biases.items()))
        object.__setattr__(self, "biases", pairs)

    def __call__(self, logits: Logits, counts: Counts | None) -> Logits:
        """Adds."""
        added = np.zeros(logits.shape[-1], np.float32)
        for token, bias in self.biases:
            check_token("logit bias of token", token, logits.shape[-1])
            added[token] = bias
        return logits + added


@dataclass(frozen=True)
class Sampler:
    """Rules in the order in which they are applied, and whether the likeliest token is then taken or one is drawn.

    Attributes:
        rules: as above.
        greedy: whether the likeliest is taken; so it is, too, where a rule is a temperature of 0. Among equals it is
            the first.
    """

    rules: tuple[Rule | HistoryRule, ...] = ()
    greedy: bool = False

    def __post_init__(self) -> None:
        if any(isinstance(rule, Temperature) and rule.value == 0 for rule in self.rules):
            object.__setattr__(self, "greedy", True)

    @classmethod
    def of(
        cls,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        typical_p: float | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        no_repeat_ngrams: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
    ) -> "Sampler":
        """Makes a sampler of what is given, in the usual order: penalties, biases, temperature, then what to keep.

        Raises:
            UsageError: for values that the rules refuse.
        """
        made: tuple[tuple[Callable[[Any], Rule | HistoryRule], Any], ...] = (
            (RepetitionPenalty, repetition_penalty),
            (PresencePenalty, presence_penalty),
            (NoRepeatNgrams, no_repeat_ngrams),
            (LogitBias, logit_bias),
            (Temperature, temperature),
            (TopK, top_k),
            (TopP, top_p),
            (MinP, min_p),
            (Typical, typical_p),
        )
        return cls(tuple(rule(value) for rule, value in made if value is not None))

    @property
    def needs_counts(self) -> bool:
        """Whether any rule looks at how often tokens were there."""
        return any(rule.needs_counts for rule in self.rules if not isinstance(rule, HistoryRule))

    @property
    def needs_history(self) -> bool:
        """Whether any rule looks at the tokens so far."""
        return any(isinstance(rule, HistoryRule) for rule in self.rules)

    def __call__(
        self,
        logits: Logits,
        counts: Counts | None,
        uniforms: Float[Array, " batch"] | None,
        history: History | None = None,
    ) -> Int32[Array, " batch"]:
        """Draws a token a row.

        Args:
            logits: float32.
            counts: of the tokens so far, where the rules need them.
            uniforms: a number in [0, 1) a row; none where the sampler is greedy.
            history: the tokens so far, where the rules need them.
        """
        for rule in self.rules:
            logits = rule(logits, _given(history)) if isinstance(rule, HistoryRule) else rule(logits, counts)
        if self.greedy or uniforms is None:
            return first(logits == logits.max(axis=-1, keepdims=True))
        return draw(logits, uniforms)


def _given(kept: Any) -> Any:
    assert kept is not None, "the loop keeps counts and history for the rules that need them"
    return kept


def check_token(kind: str, token: int, vocabulary_size: int) -> None:
    """Refuses a token that the vocabulary doesn't have."""
    if not 0 <= token < vocabulary_size:
        raise UsageError(f"{kind} {token}: the vocabulary has tokens 0 to {vocabulary_size - 1}")


def _check(name: str, value: float | int, fits: bool, wanted: str) -> None:
    if not (math.isfinite(value) and fits):
        raise UsageError(f"{name} is {value}; it must be {wanted}")
