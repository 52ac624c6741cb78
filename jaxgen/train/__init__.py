"""The train state, the one step, the one loop, evaluation and checkpoints."""

from jaxgen._lazy import exports

_NAMES = {
    "Context": "jaxgen.train.context",
    "FitResult": "jaxgen.train.session",
    "Hook": "jaxgen.train.hooks",
    "Judge": "jaxgen.train.monitor",
    "Outputs": "jaxgen.train.context",
    "Player": "jaxgen.train.players",
    "Players": "jaxgen.train.players",
    "RowOptimizer": "jaxgen.train.gradients",
    "RowSGD": "jaxgen.train.gradients",
    "Term": "jaxgen.train.context",
    "TrainState": "jaxgen.train.state",
    "dense": "jaxgen.train.gradients",
    "fit": "jaxgen.train.fit",
    "make_eval_step": "jaxgen.train.step",
    "make_players_step": "jaxgen.train.players",
    "make_train_step": "jaxgen.train.step",
    "repeat": "jaxgen.train.step",
    "rows": "jaxgen.train.gradients",
}

__all__ = sorted(_NAMES)
__getattr__ = exports(__name__, _NAMES)
