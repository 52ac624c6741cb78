"""What is optimised: a loss, its metrics, predictions and plots, a kind of problem a file."""

from jaxgen.tasks.adversarial import AdversarialImages
from jaxgen.tasks.base import Task, apply_model, infer, init_model
from jaxgen.tasks.diffusion import Diffusion
from jaxgen.tasks.frame_prediction import FramePrediction
from jaxgen.tasks.global_vectors import GlobalVectors
from jaxgen.tasks.image_classification import ImageClassification
from jaxgen.tasks.language_modelling import LanguageModelling
from jaxgen.tasks.masked_language_modelling import MaskedLanguageModelling
from jaxgen.tasks.regression import Regression
from jaxgen.tasks.sequence_prediction import SequencePrediction
from jaxgen.tasks.sequence_to_sequence import PrefixLanguageModelling, SequenceToSequence, SpanCorruption
from jaxgen.tasks.text_classification import TextClassification
from jaxgen.tasks.variational import Variational
from jaxgen.tasks.word_embedding import WordEmbedding

__all__ = [
    "AdversarialImages",
    "Diffusion",
    "FramePrediction",
    "GlobalVectors",
    "ImageClassification",
    "LanguageModelling",
    "MaskedLanguageModelling",
    "PrefixLanguageModelling",
    "Regression",
    "SequencePrediction",
    "SequenceToSequence",
    "SpanCorruption",
    "Task",
    "TextClassification",
    "Variational",
    "WordEmbedding",
    "apply_model",
    "infer",
    "init_model",
]
