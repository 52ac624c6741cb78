"""Pure Flax Linen modules, a family a file. They know nothing of losses, optimisers or data."""

from jaxgen.models.bert import BERT
from jaxgen.models.cnn import ConvNet
from jaxgen.models.conv_lstm import ConvLSTM
from jaxgen.models.convolution import (
    average_pool,
    convolve,
    convolve_padded,
    convolve_transposed,
    max_pool,
)
from jaxgen.models.encoder_decoder import EncoderDecoderTransformer
from jaxgen.models.feed_forward import FeedForward
from jaxgen.models.gan import Discriminator, Generator
from jaxgen.models.gpt import GPT
from jaxgen.models.language_model import RecurrentLanguageModel
from jaxgen.models.recurrent import Recurrent
from jaxgen.models.recurrent_encoder_decoder import RecurrentEncoderDecoder
from jaxgen.models.row_reader import RowReader
from jaxgen.models.sequence_net import SequenceNet
from jaxgen.models.sequence_reader import SequenceReader
from jaxgen.models.t5 import T5
from jaxgen.models.unet import UNet
from jaxgen.models.vae import ConvolutionalVAE, DenseVAE
from jaxgen.models.word_vectors import BiasedWordVectors, WordVectors

__all__ = [
    "BERT",
    "GPT",
    "T5",
    "BiasedWordVectors",
    "ConvLSTM",
    "ConvNet",
    "ConvolutionalVAE",
    "DenseVAE",
    "Discriminator",
    "EncoderDecoderTransformer",
    "FeedForward",
    "Generator",
    "Recurrent",
    "RecurrentEncoderDecoder",
    "RecurrentLanguageModel",
    "RowReader",
    "SequenceNet",
    "SequenceReader",
    "UNet",
    "WordVectors",
    "average_pool",
    "convolve",
    "convolve_padded",
    "convolve_transposed",
    "max_pool",
]
