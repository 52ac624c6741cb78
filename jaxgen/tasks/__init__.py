"""What is optimised: a loss, its metrics, predictions and plots, a kind of problem a file."""

from jaxgen.tasks.base import Task, apply_model, infer, init_model
from jaxgen.tasks.image_classification import ImageClassification
from jaxgen.tasks.language_modelling import LanguageModelling
from jaxgen.tasks.regression import Regression
from jaxgen.tasks.sequence_prediction import SequencePrediction

__all__ = [
    "ImageClassification",
    "LanguageModelling",
    "Regression",
    "SequencePrediction",
    "Task",
    "apply_model",
    "infer",
    "init_model",
]
