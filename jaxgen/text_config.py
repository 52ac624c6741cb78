"""The options of experiments with texts, and how each kind of model has its texts cut."""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.streams import TextFormat
from jaxgen.data.subwords import BERT_TOKENS, SpecialTokens, t5_tokens
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.experiment import TrainConfig


@dataclass(frozen=True, kw_only=True)
class TextConfig(TrainConfig, abc.ABC):
    """The options of models of texts."""

    special: ClassVar[SpecialTokens] = SpecialTokens()
    """Tokens that are no text, which the tokenizer has beside the others."""

    data: str = "pydocs"
    """The text: pydocs, docstring_text or pycode (no network), a tfds set of text, or the path of a file or directory
    of files."""
    train_split: str = "train"
    """What to train on: train, or of a tfds set in its notation."""
    test_split: str = "test"
    """What to test on: test, or a sum such as validation+test; of a tfds set in its notation."""
    encoding: str = "utf-8"
    """The encoding of files."""
    tokenizer: Literal["characters", "bytes", "words", "bpe", "unigram", "wordpiece"] = "characters"
    """What a token is: a character, byte, word, or piece of words by byte-pair encoding, the unigram model or BERT's
    word pieces."""
    vocabulary_size: int = 1000
    """Tokens at most, of words and their pieces."""
    lowercase: bool = True
    """Leave out the case of words, and of word pieces."""
    batch_size: int = 64
    """Streams that the text is cut into, a part of each a step, over all devices."""
    sequence_length: int = 128
    """Tokens of each stream a step: as far as gradients go back; the state is carried on."""

    @abc.abstractmethod
    def text_format(self, tokenizer: Tokenizer) -> TextFormat | SequenceFormat:
        """Gives how texts are made into examples."""


@dataclass(frozen=True, kw_only=True)
class RecurrentTextConfig(TextConfig):
    """The options of recurrent language models."""

    reset_at_documents: bool = False
    """Forget the state where a document ends."""
    cell: Literal["elman", "gru", "lstm"] = "lstm"
    """What carries the state from token to token."""
    embedding_size: int = 64
    """Of each token's vector."""
    hidden_size: int = 256
    """Units of each recurrent layer."""
    num_layers: int = 1
    """Recurrent layers."""
    dense_size: int = 0
    """Units of a layer with ReLU after the recurrent ones; 0 for none."""
    dropout: float = 0.2
    """Part of each layer's inputs that is dropped in training."""
    recurrent_dropout: float = 0.0
    """Part of the hidden state that is dropped from token to token, the same units at every token."""
    layer_norm: bool = False
    """Normalise the products within the cells."""
    tied: bool = False
    """Use the embedding for the output, too."""
    remat: bool = False
    """Save memory where --sequence-length is long: what gradients need is made again, chunk by chunk."""

    def text_format(self, tokenizer: Tokenizer) -> TextFormat:
        """Cuts texts into streams, which the state is carried along."""
        return TextFormat(
            tokenizer, self.sequence_length, self.batch_size, self.reset_at_documents, self.encoding
        )


@dataclass(frozen=True, kw_only=True)
class TransformerTextConfig(TextConfig):
    """The options that all transformers have."""

    epochs: int = 1
    """Length of the run, in passes over all passages: each is as many passes over the text as one has tokens."""
    batch_size: int = 32
    """Passages a step, each from anywhere in the text, over all devices."""
    sequence_length: int = 128
    """Tokens of a passage, special ones among them: the model's context."""
    num_layers: int = 4
    """Blocks of attention and a feed-forward layer."""
    num_heads: int = 4
    """Heads of attention in each block."""
    embedding_size: int = 128
    """Width of all that goes from block to block."""
    feed_forward_size: int | None = None
    """Width inside of the feed-forward layers. By default four times the embedding."""
    dropout: float = 0.1
    """Part of the embeddings, the attention's weights and the outputs of layers that is dropped in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in; parameters, softmax, norms and losses are float32 in any case."""
    remat: bool = False
    """Save memory: what is inside of a block is made again for the gradient."""
    scan_layers: bool = False
    """Compile the blocks as one loop, which takes less time to compile."""

    def shared(self) -> dict[str, Any]:
        """Gives the fields that all transformers have."""
        names = ("num_layers", "num_heads", "embedding_size", "dropout", "remat", "scan_layers")
        dtype = None if self.dtype == "float32" else self.dtype
        return {**{name: getattr(self, name) for name in names}, "dtype": dtype}


@dataclass(frozen=True, kw_only=True)
class GPTTextConfig(TransformerTextConfig):
    """The options of language models that see a window of the text at a time."""

    batch_size: int = 12
    """Windows a step, each from anywhere in the text, over all devices."""
    sequence_length: int = 64
    """Tokens of a window: the model's context, in training and in writing."""
    reset_at_documents: bool = False
    """Let tokens see nothing of the documents before their own."""
    num_kv_heads: int | None = None
    """Heads of keys and values, which several of the others then share. By default as many as heads."""
    positions: Literal["learned", "rotary", "sinusoidal", "none"] = "learned"
    """How the model knows where a token stands."""
    activation: Literal["gelu", "gelu_erf", "relu", "geglu", "swiglu"] = "gelu"
    """Of the feed-forward layers; geglu and swiglu have a gate beside it."""
    norm: Literal["layer", "rms"] = "layer"
    """How activations are normalised: by mean and variance, or by the mean square alone."""
    use_bias: bool = False
    """Give linear layers and norms biases."""
    tied: bool = True
    """Use the embedding for the output, too."""
    dropout: float = 0.0
    """Part of the embeddings, the attention's weights and the outputs of layers that is dropped in training."""

    def text_format(self, tokenizer: Tokenizer) -> TextFormat:
        """Cuts texts into windows."""
        return TextFormat(tokenizer, self.sequence_length, 0, self.reset_at_documents, self.encoding)


@dataclass(frozen=True, kw_only=True)
class BERTTextConfig(TransformerTextConfig):
    """The options of models that read whole texts, and learn by filling in what is hidden."""

    special: ClassVar[SpecialTokens] = BERT_TOKENS

    tokenizer: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    """What a token is: a piece of words, BERT's or by byte-pair encoding or the unigram model."""
    vocabulary_size: int = 4000
    """Tokens at most."""
    masked_fraction: float = 0.15
    """Part of the tokens that is hidden, others at each step; evaluation hides 15 % in any case."""
    whole_words: bool = False
    """Hide whole words, and not single pieces of them."""
    next_sentence: bool = False
    """Learn as well whether the second of two sentences follows the first."""

    def text_format(self, tokenizer: Tokenizer) -> SequenceFormat:
        """Cuts texts into passages, with what BERT has around them."""
        return SequenceFormat.of(
            tokenizer,
            self.sequence_length,
            whole_words=self.whole_words,
            sentence_pairs=self.next_sentence,
            encoding=self.encoding,
        )


@dataclass(frozen=True, kw_only=True)
class T5TextConfig(TransformerTextConfig):
    """The options of encoder-decoders, which learn by writing down the spans that a text has lost."""

    special: ClassVar[SpecialTokens] = t5_tokens()

    tokenizer: Literal["unigram", "bpe"] = "unigram"
    """What a token is: a piece of words, by the unigram model or byte-pair encoding."""
    vocabulary_size: int = 4000
    """Tokens at most."""
    sequence_length: int = 128
    """Tokens of a passage before it loses spans."""
    objective: Literal["spans", "prefix"] = "spans"
    """What is written of a text: the spans that it has lost, or all that follows a part of it."""
    corrupted_fraction: float = 0.15
    """Part of the tokens that is in lost spans, others at each step."""
    span_length: float = 3.0
    """Mean of the lost spans' lengths."""

    def text_format(self, tokenizer: Tokenizer) -> SequenceFormat:
        """Cuts texts into passages; what ends them comes when they have lost their spans."""
        return SequenceFormat(tokenizer, self.sequence_length, encoding=self.encoding)
