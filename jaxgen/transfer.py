"""What a model takes over of a trained one, and which part of it is trained then: pure functions of trees."""

from typing import Any, Literal

import jax
from flax import traverse_util

from jaxgen.errors import UsageError

_EMBEDDINGS = (
    "token_embedding",
    "token_type_embedding",
    "position_embedding",
    "embedding_norm",
    "encoder_bias",
)
# What classes are told by: the pooler beside the head itself, as models that only fill masks have never trained it.
_OF_CLASSES = ("head_classification", "pool")


def begin_with(own: Any, trained: Any, same_classes: bool) -> Any:
    """Gives the parameters to begin with: those of a trained model where it has them, else drawn ones.

    Args:
        own: drawn parameters of the model.
        trained: those of the trained model, which may have other heads.
        same_classes: whether its head of classes is taken over, too.
    """
    drawn, before = traverse_util.flatten_dict(own), traverse_util.flatten_dict(trained)

    def is_new(path: tuple[str, ...]) -> bool:
        return path not in before or (path[0] == "head_classification" and not same_classes)

    return traverse_util.unflatten_dict(
        {path: leaf if is_new(path) else before[path] for path, leaf in drawn.items()}
    )


def above(model: Any, params: Any, frozen_layers: int | Literal["all"]) -> Any:
    """Tells what is trained where the embeddings and the first blocks (of a T5 its encoder's) stay as they are.

    Args:
        model: a BERT or T5.
        params: its parameters.
        frozen_layers: how many blocks.

    Returns:
        A tree like `params`, True for what is trained.

    Raises:
        UsageError: for more blocks than there are.
    """
    count = model.num_layers if frozen_layers == "all" else frozen_layers
    if not 0 <= count <= model.num_layers:
        raise UsageError(
            f"--frozen-layers {count}: the model has {model.num_layers} layers; give 0 to {model.num_layers}, or all"
        )
    blocks = [(stack, f"layer_{number}") for stack in ("layers", "encoder") for number in range(count)]
    frozen = {*((name,) for name in _EMBEDDINGS), *blocks}
    if count == model.num_layers:
        frozen.add(("encoder_norm",))
    return _where(params, lambda path: not {path[:1], path[:2]} & frozen)


def of_classes(params: Any) -> Any:
    """Tells what is trained where only the head of classes is: a tree like `params`."""
    return _where(params, lambda path: path[0] in _OF_CLASSES)


def _where(params: Any, condition: Any) -> Any:
    return traverse_util.unflatten_dict(
        {path: condition(path) for path in traverse_util.flatten_dict(params)}
    )


def count_trained(params: Any, trained: Any) -> int:
    """Counts the scalars that are trained."""
    return sum(jax.tree.leaves(jax.tree.map(lambda leaf, chosen: leaf.size * chosen, params, trained)))
