"""The train state: everything that a step changes, and all that a checkpoint must hold of it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Key

from jaxgen.errors import UsageError


@struct.dataclass
class TrainState:
    """A pytree of everything that training changes.

    Attributes:
        step: int32 scalar, the number of steps taken.
        params: the model's parameters, plain arrays; a dict by part for adversarial training.
        opt_state: the optimiser's state; a dict by player for adversarial training.
        model_state: batch statistics and the like, the same on every device.
        carry: recurrent state of each stream, batch on axis 0; `()` when unused.
        ema_params: moving average of `params`, or None.
        rng: typed PRNG key, never advanced: the key of a step is `fold_in(rng, step)`.

    Trees of shapes or shardings in a state's form are states too, so the fields' types are not checked.
    """

    step: Any
    params: Any
    opt_state: Any
    model_state: Any
    carry: Any
    ema_params: Any
    rng: Any

    @classmethod
    def create(
        cls,
        task: Any,
        optimizer: Any,
        rng: Key[Array, ""],
        example: Any,
        *,
        ema: bool = False,
        params: Any = None,
    ) -> "TrainState":
        """Makes the first state of a task.

        Args:
            task: what is trained; see `jaxgen.tasks.Task`.
            optimizer: an Optax transformation, a `RowOptimizer`, or `Players`: anything with `init(params)`.
            rng: typed key; the parameters and the steps' keys are derived from it.
            example: a batch, or a tree of `jax.ShapeDtypeStruct` like one; only shapes and dtypes are used.
            ema: whether to keep a moving average of the parameters.
            params: what to begin with in the place of the task's own; they are copied.

        Raises:
            UsageError: for parameters that aren't the task's.
        """
        init_rng, step_rng = jax.random.split(rng)
        own, model_state = task.init(init_rng, example)
        params = own if params is None else _given(params, own)
        # The batch of a game holds a slice for each repeat, its carry the rows of one slice.
        batch_size = jax.tree.leaves(example)[0].shape[0] // getattr(optimizer, "slices", 1)
        state = cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            model_state=model_state,
            carry=task.initial_carry(batch_size),
            ema_params=params if ema else None,
            rng=step_rng,
        )
        return _without_aliases(state)

    def evaluation_params(self) -> Any:
        """Gives the parameters to evaluate and export with: the moving average where there is one."""
        return self.params if self.ema_params is None else self.ema_params


def _given(params: Any, own: Any) -> Any:
    """Copies the parameters to begin with, since a state is donated; refuses those of another model."""
    given, wanted = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (params, own))
    )
    differing = [
        name
        for name in {**wanted, **given}
        if name not in given or name not in wanted or jnp.shape(given[name]) != wanted[name].shape
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UsageError(
            f"the parameters to begin with aren't the model's: {', '.join(differing[:3])}{more} are missing, of no "
            "use or of another shape"
        )
    return jax.tree.map(lambda leaf, value: jnp.array(value, leaf.dtype), own, params)


def _without_aliases(tree: Any) -> Any:
    """Copies arrays that occur a second time: one that is donated twice is an error."""
    seen: set[int] = set()

    def own(leaf: Any) -> Any:
        if id(leaf) in seen:
            return jnp.copy(leaf)
        seen.add(id(leaf))
        return leaf

    return jax.tree.map(own, tree)


def count_parameters(params: Any) -> int:
    """Counts the scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
