"""What a trained language model writes: text in, text out, by a saved run."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32

from jaxgen.data.tokenizers import Characters, Subwords, Tokenizer, Words
from jaxgen.errors import UsageError
from jaxgen.generate.decode import Generated, stream
from jaxgen.generate.prompts import pad_prompts
from jaxgen.generate.sampling import Sampler
from jaxgen.generate.scoring import score
from jaxgen.generate.text import Text
from jaxgen.train.state import TrainState

_MOST_TOKENS = 2**20  # of a row: room for all is made ahead
_TOKENS = 400


@dataclass(frozen=True)
class Writer:
    """A trained language model with its tokenizer.

    Attributes:
        task: has a `decoder`, such as `LanguageModelling`.
        state: what was trained.
        tokenizer: what it was trained with.
    """

    task: Any
    state: TrainState
    tokenizer: Tokenizer

    def stream(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int | None = None,
        sampler: Sampler | None = None,
        stop_strings: Sequence[str] = (),
        num_samples: int = 1,
        seed: int = 0,
        chunk: int = 16,
        drop_unknown: bool = False,
    ) -> Iterator[Generated]:
        """Writes on from prompts, and gives tokens and texts chunk by chunk; see `jaxgen.generate.stream`.

        Args:
            prompts: what to go on from; an empty one is the end of a line.
            max_tokens: new tokens of a row, at most; by default 400, or what the model's window has room for.
            sampler: how tokens are drawn; by default from the model's own distribution.
            stop_strings: each ends the text that it comes up in, before it.
            num_samples: texts for each prompt.
            seed: of what is drawn.
            chunk: tokens that are given at a time.
            drop_unknown: whether characters that the model doesn't know are left out of prompts.

        Raises:
            UsageError: for prompts with characters that the model doesn't know, several samples of what is always the
                same, and what `jaxgen.generate.stream` refuses.
        """
        if sampler is not None and sampler.greedy and num_samples > 1:
            raise UsageError("a temperature of 0 writes the same text each time: ask for one sample")
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed is {seed}; it must be at least 0 and below 2^63")
        if max_tokens is not None and max_tokens > _MOST_TOKENS:
            raise UsageError(f"max tokens is {max_tokens:,}; ask for {_MOST_TOKENS:,} at most")
        tokens, lengths = pad_prompts([self.encode(prompt, drop_unknown) for prompt in prompts])
        return stream(
            self.task.decoder,
            self.state.evaluation_params(),
            self.state.model_state,
            tokens,
            lengths,
            jax.random.key(seed),
            max_tokens=self._usual_tokens(int(lengths.max(initial=0))) if max_tokens is None else max_tokens,
            chunk=chunk,
            sampler=sampler,
            text=Text(self.tokenizer.decode, tuple(stop_strings)),
            num_samples=num_samples,
        )

    def write(self, prompts: Sequence[str], **options: Any) -> list[str]:
        """Gives the texts that follow the prompts, those of one prompt next to each other; options as for `stream`."""
        pieces = [chunk.texts for chunk in self.stream(prompts, **{"chunk": 128, **options})]
        return ["".join(of_row) for of_row in zip(*pieces, strict=True)]

    def _usual_tokens(self, prompt_length: int) -> int:
        window = self.task.decoder.max_length
        # Where there is no room for one, the refusal says so.
        return _TOKENS if window is None else max(1, min(_TOKENS, window - prompt_length))

    def score(self, text: str) -> tuple[list[str], Float32[np.ndarray, " tokens"]]:
        """Gives the tokens of a text, and the log-probability of each after those before it; 0 for the first.

        Raises:
            UsageError: for a text of no tokens, or with characters that the model doesn't know.
        """
        tokens = self.tokenizer.encode(text)
        if not len(tokens):
            raise UsageError("there is no text to score: give at least two tokens")
        params, model_state = self.state.evaluation_params(), self.state.model_state
        lengths = np.array([len(tokens)], np.int32)
        log_probs = score(self.task.decoder, params, model_state, tokens[None], lengths)[0]
        return [self.tokenizer.vocabulary[token] for token in tokens], log_probs

    def activations(self, text: str) -> tuple[list[str], Float32[np.ndarray, "tokens units"]]:
        """Gives the parts of a text, and the hidden state after each, for `jaxgen.text_plots`.

        Raises:
            UsageError: for a text of no tokens, or with characters that the model doesn't know.
        """
        return self.activations_of(self._to_look_at(text))

    def activations_of(
        self, tokens: Int32[np.ndarray, " tokens"]
    ) -> tuple[list[str], Float32[np.ndarray, "tokens units"]]:
        """Gives the same of a text's tokens."""
        read = jax.jit(self.task.activations)
        hidden = read(self.state.evaluation_params(), self.state.model_state, tokens[None])[0]
        return self._parts(tokens), np.asarray(hidden)

    @property
    def attends(self) -> bool:
        """Whether the model has attention to look at; else it has hidden units."""
        return hasattr(self.task.model, "attention")

    def attention(self, text: str) -> tuple[list[str], Float32[np.ndarray, "layers heads tokens tokens"]]:
        """Gives the parts of a text, and the weights that each gives to all, for `jaxgen.attention_plots`.

        Raises:
            UsageError: for a text of no tokens, one longer than the model's context, or unknown characters.
        """
        return self.attention_of(self._to_look_at(text))

    def attention_of(
        self, tokens: Int32[np.ndarray, " tokens"]
    ) -> tuple[list[str], Float32[np.ndarray, "layers heads tokens tokens"]]:
        """Gives the same of a text's tokens."""
        read = jax.jit(self.task.attention)
        weights = read(self.state.evaluation_params(), self.state.model_state, tokens[None])[0]
        return self._parts(tokens), np.asarray(weights)

    def _to_look_at(self, text: str) -> Int32[np.ndarray, " tokens"]:
        tokens = self.tokenizer.encode(text)
        if not len(tokens):
            raise UsageError("there is no text to look at: give some")
        return tokens

    def _parts(self, tokens: Any) -> list[str]:
        """Gives the text of each token by itself, with a space after words and before those of word pieces."""
        if isinstance(self.tokenizer, Words):
            words = [self.tokenizer.words[token] for token in tokens]
            return [word if word == "\n" else f"{word} " for word in words]
        if isinstance(self.tokenizer, Subwords) and self.tokenizer.model == "wordpiece":
            # Alone they don't show the spaces before them.
            texts = [self.tokenizer.decode(tokens[:count]) for count in range(len(tokens) + 1)]
            return [text[len(before) :] for before, text in itertools.pairwise(texts)]
        return [self.tokenizer.decode([int(token)]) for token in tokens]

    def known(self, text: str) -> str:
        """Leaves out of a text the characters that the model doesn't know."""
        if not isinstance(self.tokenizer, Characters):
            return text.encode("utf-8", "ignore").decode()
        missing = self.tokenizer.missing(text)
        return "".join(letter for letter in text if letter not in missing)

    def encode(self, prompt: str, drop_unknown: bool = False) -> Any:
        """Gives the tokens of a prompt; of an empty one, the end of a line, or what there is in its place.

        Raises:
            UsageError: for characters that the model doesn't know, unless they are to be dropped.
        """
        try:
            tokens = self.tokenizer.encode(self.known(prompt) if drop_unknown else prompt)
        except UsageError as error:
            raise UsageError(f"{error} (--drop-unknown does)") from error
        if len(tokens):
            return tokens
        vocabulary = list(self.tokenizer.vocabulary)
        # As bytes and subwords show it, and as it is.
        ends = [vocabulary.index(end) for end in ("\n", "\\x0a", "\u010a") if end in vocabulary]
        return np.array(ends[:1] or [0], np.int32)
