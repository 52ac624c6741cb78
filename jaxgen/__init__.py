"""The classic deep-learning model families as pure functions in JAX."""

from jaxgen._lazy import exports

_NAMES = {
    "ConvNet": "jaxgen.models",
    "FeedForward": "jaxgen.models",
    "FitResult": "jaxgen.train.session",
    "Hook": "jaxgen.train.hooks",
    "ImageClassification": "jaxgen.tasks",
    "JaxgenError": "jaxgen.errors",
    "Regression": "jaxgen.tasks",
    "SavedRun": "jaxgen.saved_run",
    "TrainState": "jaxgen.train.state",
    "UsageError": "jaxgen.errors",
    "fit": "jaxgen.train.fit",
    "load": "jaxgen.data.sources",
    "make_eval_step": "jaxgen.train.step",
    "make_players_step": "jaxgen.train.players",
    "make_train_step": "jaxgen.train.step",
    "repeat": "jaxgen.train.step",
}

__version__ = "0.1.0"
__all__ = sorted([*_NAMES, "__version__"])
__getattr__ = exports(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__
