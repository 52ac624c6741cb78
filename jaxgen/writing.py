"""What a trained model of texts writes, and what it looks at: text in, text out, by a saved run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Int32

from jaxgen.data.sequences import ANY_LENGTH, SequenceFormat
from jaxgen.data.streams import TextFormat
from jaxgen.data.surfaces import written_parts
from jaxgen.data.tokenizers import Characters, Tokenizer, end_tokens
from jaxgen.errors import UsageError
from jaxgen.generate.contract import Decoder
from jaxgen.generate.decode import Generated, generate, stream
from jaxgen.generate.prompts import pad_prompts, pad_to_bucket
from jaxgen.generate.sampling import Sampler
from jaxgen.generate.scoring import score
from jaxgen.generate.text import Text
from jaxgen.generate.transformer import EncoderDecoder
from jaxgen.train.state import TrainState

_MOST_TOKENS = 2**20  # of a row: room for all is made ahead
_TOKENS = 400
_TOKENS_TO_LOOK_AT = 32  # that are written for a text whose attention is shown


class Attention(NamedTuple):
    """What tokens look at: the parts of a text, those that they look at, and the weights that they give them."""

    queries: list[str]
    keys: list[str]
    weights: Float32[np.ndarray, "layers heads queries keys"]


class Asked(NamedTuple):
    """What is asked of a decoder for rows of tokens, and how what it writes is read.

    Attributes:
        prompt: what texts go on from.
        lengths: of the prompts.
        inputs: of an encoder; None without one.
        text: how.
    """

    prompt: Int32[np.ndarray, "batch time"]
    lengths: Int32[np.ndarray, " batch"]
    inputs: Any
    text: Text


def reads(task: Any) -> bool:
    """Tells whether a task's model writes a text after having read one."""
    return isinstance(getattr(task, "decoder", None), EncoderDecoder)


@dataclass(frozen=True)
class Writer:
    """A trained language model with its tokenizer, or a model that writes a text after having read one, such as T5.

    To the latter a prompt is the text to read, and what is written doesn't go on from it.

    Attributes:
        task: has a `decoder`, such as `LanguageModelling`, or `SequenceToSequence`.
        state: what was trained.
        tokenizer: what it was trained with.
        target_tokenizer: of what it writes after having read, where that is another one.
        trained_on: the most tokens of a text that it was trained to read, special ones among them.
        cut_off: whether it was trained on longer ones, too, cut off there, so that it reads no more of others.
    """

    task: Any
    state: TrainState
    tokenizer: Tokenizer
    target_tokenizer: Tokenizer | None = None
    trained_on: int = ANY_LENGTH
    cut_off: bool = False

    @classmethod
    def of(cls, task: Any, state: TrainState, given: TextFormat | SequenceFormat) -> "Writer":
        """Makes it of how the texts that it was trained on were made into tokens."""
        if isinstance(given, TextFormat):
            return cls(task, state, given.tokenizer, trained_on=given.sequence_length)
        tokenizers = given.tokenizer, given.target_tokenizer
        return cls(task, state, *tokenizers, trained_on=given.sequence_length, cut_off=given.cut_off)

    @property
    def writing_tokenizer(self) -> Tokenizer:
        """The tokenizer of what is written."""
        return self.tokenizer if self.target_tokenizer is None else self.target_tokenizer

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
        past_end: bool = False,
    ) -> Iterator[Generated]:
        """Writes on from prompts, and gives tokens and texts chunk by chunk; see `jaxgen.generate.stream`.

        Args:
            prompts: what to go on from, or to read; an empty one to go on from is the end of a line.
            max_tokens: new tokens of a row, at most; by default 400, or what the model's window has room for.
            sampler: how tokens are drawn; by default from the model's own distribution.
            stop_strings: each ends the text that it comes up in, before it.
            num_samples: texts for each prompt.
            seed: of what is drawn.
            chunk: tokens that are given at a time.
            drop_unknown: whether characters that the model doesn't know are left out of prompts.
            past_end: whether texts go on where the model writes the token that ends them, if its tokenizer has one.

        Raises:
            UsageError: for prompts with characters that the model doesn't know, several samples of what is always the
                same, a model that doesn't write, and what `jaxgen.generate.stream` refuses.
        """
        if sampler is not None and sampler.greedy and num_samples > 1:
            raise UsageError("a temperature of 0 writes the same text each time: ask for one sample")
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed is {seed}; it must be at least 0 and below 2^63")
        if max_tokens is not None and max_tokens > _MOST_TOKENS:
            raise UsageError(f"max tokens is {max_tokens:,}; ask for {_MOST_TOKENS:,} at most")
        asked = self.asked([self.encode(prompt, drop_unknown) for prompt in prompts], stop_strings)
        longest = int(asked.lengths.max(initial=0))
        return stream(
            self.decoder,
            self.state.evaluation_params(),
            self.state.model_state,
            asked.prompt,
            asked.lengths,
            jax.random.key(seed),
            max_tokens=self._usual_tokens(longest) if max_tokens is None else max_tokens,
            chunk=chunk,
            sampler=sampler,
            stop_tokens=() if past_end else end_tokens(self.writing_tokenizer),
            text=asked.text,
            inputs=asked.inputs,
            num_samples=num_samples,
        )

    def write(self, prompts: Sequence[str], **options: Any) -> list[str]:
        """Gives the texts that are written, those of one prompt next to each other; options as for `stream`."""
        pieces = [chunk.texts for chunk in self.stream(prompts, **{"chunk": 128, **options})]
        return ["".join(of_row) for of_row in zip(*pieces, strict=True)]

    @property
    def decoder(self) -> Decoder:
        """What writes; raises UsageError for a task whose model doesn't."""
        if not hasattr(self.task, "decoder"):
            raise UsageError(f"a model of {type(self.task).__name__} doesn't write texts: take another run")
        return self.task.decoder

    @property
    def reads(self) -> bool:
        """Whether prompts are texts that are read, and not gone on from."""
        return reads(self.task)

    def asked(self, rows: Sequence[Int32[np.ndarray, "..."]], stop_strings: Sequence[str] = ()) -> Asked:
        """Gives what is asked of the decoder for prompts as tokens, such as `encode` gives.

        Raises:
            UsageError: for a text to read that is longer than the model's context, and empty stop strings.
        """
        decode, stop_strings = self.writing_tokenizer.decode, tuple(stop_strings)
        if not self.reads:
            return Asked(*pad_prompts(rows), None, Text(decode, stop_strings))
        longest, limit = max(map(len, rows), default=0), self.decoder.max_length
        if limit is not None and longest > limit:
            raise UsageError(f"a text to read has {longest} tokens, and the model reads {limit} at most")
        tokens, lengths = pad_to_bucket(rows, limit)
        start = np.full((len(rows), 1), self.task.start_token, np.int32)
        # The start token is no text.
        text = Text(lambda ids: decode(ids[1:]), stop_strings)
        return Asked(start, np.ones_like(lengths), {"tokens": tokens, "lengths": lengths}, text)

    def _usual_tokens(self, prompt_length: int) -> int:
        window = self.decoder.max_length
        # Where there is no room for one, the refusal says so.
        return _TOKENS if window is None else max(1, min(_TOKENS, window - prompt_length))

    def score(self, text: str) -> tuple[list[str], Float32[np.ndarray, " tokens"]]:
        """Gives the tokens of a text, and the log-probability of each after those before it; 0 for the first.

        Raises:
            UsageError: for a text of no tokens, or with characters that the model doesn't know, and a model that reads
                another text first.
        """
        if self.reads:
            raise UsageError(
                f"a model of {type(self.task).__name__} writes after reading: it scores no single text"
            )
        tokens = self.tokenizer.encode(text)
        if not len(tokens):
            raise UsageError("there is no text to score: give at least two tokens")
        params, model_state = self.state.evaluation_params(), self.state.model_state
        lengths = np.array([len(tokens)], np.int32)
        log_probs = score(self.decoder, params, model_state, tokens[None], lengths)[0]
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
        """Gives the same of a text's tokens.

        Raises:
            UsageError: for a model that shows none.
        """
        if not hasattr(self.task, "activations"):
            raise UsageError("this model has neither attention to look at nor hidden units to show")
        read = jax.jit(self.task.activations)
        hidden = read(self.state.evaluation_params(), self.state.model_state, tokens[None])[0]
        return written_parts(self.tokenizer, tokens), np.asarray(hidden)

    @property
    def attends(self) -> bool:
        """Whether the model has attention to look at; else it may have hidden units."""
        # A recurrent encoder and decoder can be made without.
        kind = getattr(self.task.model, "attention_kind", None)
        return hasattr(self.task.model, "attention") and kind != "none"

    def attention(self, text: str) -> dict[str, Attention]:
        """Gives what the tokens of a text look at, for `jaxgen.attention_plots`, as `attention`.

        Where a text is read that is `encoder_attention`. What is then written, the likeliest token each time, looks at
        itself, `decoder_attention`, when it is read, and at the text, `cross_attention`, when it is written: this has a
        row for each token that is written. Of a recurrent model there is only this.

        Raises:
            UsageError: for a text of no tokens, one longer than the model's context, or unknown characters.
        """
        return self.attention_of(self._to_look_at(text))

    def attention_of(self, tokens: Int32[np.ndarray, " tokens"]) -> dict[str, Attention]:
        """Gives the same of a text's tokens."""
        variables = {"params": self.state.evaluation_params(), **self.state.model_state}
        model, source = self.task.model, written_parts(self.tokenizer, tokens)
        texts = [tokens]
        if self.reads:
            start, written = self._likeliest(tokens)
            texts.append(np.concatenate([start, written[:-1]]))  # the last token is written, but not read
        look = jax.jit(lambda variables, *texts: model.apply(variables, *texts, method="attention"))
        found = look(variables, *(text[None] for text in texts))
        if not self.reads:
            return {"attention": Attention(source, source, np.asarray(found[0]))}
        again, new = (written_parts(self.writing_tokenizer, ids) for ids in (texts[1], written))
        names = {"encoder": (source, source), "decoder": (again, again), "cross": (new, source)}
        return {
            f"{name}_attention": Attention(*parts, np.asarray(found[name][0]))
            for name, parts in names.items()
            if name in found
        }

    def _likeliest(
        self, source: Int32[np.ndarray, " tokens"]
    ) -> tuple[Int32[np.ndarray, " start"], Int32[np.ndarray, " written"]]:
        """Gives the token that is begun with, and what is written for a source."""
        asked = self.asked([source])
        written = generate(
            self.decoder,
            self.state.evaluation_params(),
            self.state.model_state,
            asked.prompt,
            asked.lengths,
            jax.random.key(0),
            max_tokens=_TOKENS_TO_LOOK_AT,
            sampler=Sampler(greedy=True),
            stop_tokens=end_tokens(self.writing_tokenizer),
            inputs=asked.inputs,
        )
        return asked.prompt[0], written.tokens[0, : int(written.lengths[0])]

    def _to_look_at(self, text: str) -> Int32[np.ndarray, " tokens"]:
        tokens = self.tokenizer.encode(text)
        if not len(tokens):
            raise UsageError("there is no text to look at: give some")
        goes_on = hasattr(self.task, "decoder") and not self.reads
        return tokens if goes_on else self.reading.row_of(tokens, "the text to read")

    @property
    def reading(self) -> SequenceFormat:
        """How a text becomes what an encoder reads: with special tokens, and cut off if at all, as in training."""
        length = self.trained_on if self.cut_off else ANY_LENGTH
        return SequenceFormat.of(self.tokenizer, length, truncate=self.cut_off)

    def known(self, text: str) -> str:
        """Leaves out of a text the characters that the model doesn't know."""
        if not isinstance(self.tokenizer, Characters):
            return text.encode("utf-8", "ignore").decode()
        missing = self.tokenizer.missing(text)
        return "".join(letter for letter in text if letter not in missing)

    def encode(self, prompt: str, drop_unknown: bool = False) -> Any:
        """Gives the tokens of a prompt; of an empty one, the end of a line, or what there is in its place.

        Of a text to read that is with its end token, as in training.

        Raises:
            UsageError: for characters that the model doesn't know, unless they are to be dropped.
        """
        text = self.known(prompt) if drop_unknown else prompt
        try:
            tokens = self.tokenizer.encode(text)
        except UsageError as error:
            raise UsageError(f"{error} (--drop-unknown does)") from error
        if self.reads:
            tokens = self.reading.row_of(tokens, "the text to read")
        if len(tokens):
            return tokens
        vocabulary = list(self.tokenizer.vocabulary)
        # As bytes and subwords show it, and as it is.
        ends = [vocabulary.index(end) for end in ("\n", "\\x0a", "\u010a") if end in vocabulary]
        return np.array(ends[:1] or [0], np.int32)
