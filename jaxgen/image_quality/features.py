"""Features of images: the activations of the last hidden layer of one of jaxgen's own trained classifiers."""

import hashlib
from functools import cached_property
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

from jaxgen.data.sources import from_arrays
from jaxgen.errors import UsageError, sizes
from jaxgen.saved_run import SavedRun
from jaxgen.tasks import ImageClassification
from jaxgen.tasks.base import infer
from jaxgen.train.evaluate import predict_source

# The name of the layer of logits in jaxgen's classifiers.
_OUTPUT = "output"


class Recognised(NamedTuple):
    """Images as a classifier sees them.

    Attributes:
        features: of each image.
        classes: the likeliest of each.
    """

    features: Float32[np.ndarray, "images width"]
    classes: Int32[np.ndarray, " images"]


class Classifier:
    """A saved classifier of images, whose last hidden layer gives features.

    Args:
        run: of `mnist_cnn`, `mnist_fnn` or another one of `ImageClassification`.

    Raises:
        UsageError: for a run of another kind, and of a classifier without a hidden layer.
    """

    def __init__(self, run: SavedRun) -> None:
        self.run = run
        if not isinstance(run.task, ImageClassification):
            raise UsageError(
                f"{run.directory.path} is a run of {type(run.task).__name__}, not of a classifier of images; "
                f"{how_to_train(run.config['data']['name'])}"
            )
        if not getattr(run.task.model, "widths", (1,)):
            raise UsageError(
                f"{run.directory.path} has no hidden layer to take features from: take a run of mnist_cnn"
            )
        self._compiled = jax.jit(self._recognise)

    def check_data(self, run: SavedRun) -> None:
        """Refuses to judge images of another data set than the classifier's own.

        Raises:
            UsageError: where the set, or the size of its images, is another one.
        """
        own, others = self.run.config["data"]["name"], run.config["data"]["name"]
        if own != others:
            raise UsageError(
                f"the classifier {self.run.directory.path} was trained on {own}, the run on {others}; "
                f"{how_to_train(others)}"
            )
        shape, wanted = (one.example["image"].shape[1:] for one in (self.run, run))
        if shape != wanted:
            raise UsageError(
                f"the classifier {self.run.directory.path} knows images of {sizes(shape)}, the run's are of "
                f"{sizes(wanted)}: train it with the run's --image-size and --image-channels"
            )

    def __call__(self, images: UInt8[np.ndarray, "images height width channels"]) -> Recognised:
        """Gives the images' features and classes."""
        source = from_arrays({"image": images}, name="given")
        found = predict_source(self._compiled, self.run.state, source, min(len(source), 256))
        return Recognised(**found)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What figures must be told with: the run, its experiment and step, and a digest of its weights."""
        state = self.run.state
        return {
            "run": str(self.run.directory.path),
            "experiment": self.run.config.get("experiment"),
            "step": int(state.step),
            "weights": digest((state.evaluation_params(), state.model_state)),
        }

    def _recognise(self, params: Any, model_state: Any, batch: Any) -> dict[str, Array]:
        task = self.run.task
        features, logits = penultimate(task.model, params, model_state, task.scale(batch["image"]))
        return {"features": features, "classes": logits.argmax(-1).astype(jnp.int32)}


def penultimate(
    model: nn.Module, params: Any, model_state: Any, inputs: Float[Array, "batch ..."]
) -> tuple[Float32[Array, "batch width"], Float32[Array, "batch classes"]]:
    """Gives what a model's layer of logits is applied to, and the logits."""
    found = []

    # Looking on from outside, every classifier that there is will do as it is.
    def keep(apply: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.name == _OUTPUT and context.method_name == "__call__":
            found.append(args[0])
        return apply(*args, **kwargs)

    with nn.intercept_methods(keep):
        logits = infer(model, params, model_state, inputs)
    if len(found) != 1:
        raise UsageError(f"a {type(model).__name__} has no layer {_OUTPUT!r} to take features before")
    return found[0].astype(jnp.float32), logits


def digest(tree: Any) -> str:
    """Gives the SHA-256 of a tree of arrays, with their paths, in hexadecimal."""
    hashed = hashlib.sha256()
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for path, leaf in sorted(leaves.items()):
        values = np.asarray(leaf)
        hashed.update(f"{path} {values.dtype.name} {values.shape}".encode())
        hashed.update(values.tobytes())
    return hashed.hexdigest()


def how_to_train(name: str) -> str:
    """Tells how to get a classifier of a data set."""
    return f"train one: python -m experiments.mnist_cnn --data {name} --workdir runs/classifier"
