"""What a loss and the train step pass each other: the context goes in, terms and outputs come out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Key

from jaxgen.metrics import Mean, Metric

Params = Any
Batch = Mapping[str, Any]

_NEVER = 2**31 - 1  # the largest int32, a step and a place that no run reaches


@struct.dataclass
class Context:
    """What a loss may know of the step that it is called in.

    Attributes:
        rng: the step's key, the same on every device and in every microbatch.
        step: int32, the number of steps (or rounds) taken before this one.
        places: int32 [batch], each example's place in the global batch, whatever part of it is at hand.
        train: whether this is a training step (static).
        axis_name: the mapped axis under `pmap` or `shard_map`; None under plain `jit` (static).
    """

    rng: Any
    step: Any
    places: Any
    train: bool = struct.field(pytree_node=False)
    axis_name: str | tuple[str, ...] | None = struct.field(pytree_node=False, default=None)

    def example_rngs(self) -> Key[Array, " batch"]:
        """Gives one key an example: the same on 1 or 8 devices, with 1 or 4 microbatches."""
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(self.rng, self.places)

    def block_rng(self) -> Key[Array, ""]:
        """Gives one key for this block of the batch, as dropout inside activations needs it.

        Devices under `pmap` and microbatches hold different blocks, so their keys differ. None is the key of
        an example.
        """
        return jax.random.fold_in(jax.random.fold_in(self.rng, _NEVER), self.places[0])

    def gather(self, tree: Any) -> Any:
        """Concatenates every device's part of the batch on axis 0, for losses of the whole batch.

        The identity under plain `jit`, where arrays are global already.
        """
        if self.axis_name is None:
            return tree
        return jax.lax.all_gather(tree, self.axis_name, axis=0, tiled=True)


@struct.dataclass
class Term:
    """One term of an objective: `weight * mean.total / mean.count`, taken over the global batch.

    Attributes:
        mean: sum over examples and what to divide it by; the count must not depend on the parameters.
        weight: the term's weight, a float or an array (a warm-up, say).
        whole_batch: the term is no sum over examples (contrastive losses), so it can't be split into
            microbatches; the loss calls `Context.gather` before it computes it.
    """

    mean: Mean
    weight: Any = 1.0
    whole_batch: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class Outputs:
    """What a loss returns beside its terms.

    Attributes:
        metrics: name to `Metric`; sums over the examples of this block.
        model_state: the new model state (batch statistics and the like), the same on every device.
        carry: the new recurrent state of each stream, batch on axis 0; `()` when unused.
    """

    metrics: Mapping[str, Metric] = struct.field(default_factory=dict)
    model_state: Any = struct.field(default_factory=dict)
    carry: Any = ()


@runtime_checkable
class Loss(Protocol):
    """`loss(params, model_state, carry, batch, context) -> (terms, Outputs)`."""

    def __call__(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[Mapping[str, Mean | Term], Outputs]:
        """Computes the terms whose weighted means, summed, are minimised."""
        ...


@struct.dataclass
class Objective(Metric):
    """What is minimised: the weighted sum of the terms' means.

    Adding two adds up the means, so that the value over a whole split is exact; the weights are those of
    the later one, the step of the first bad value that of either.

    Attributes:
        means: term name to `Mean`.
        weights: term name to float32 weight.
        bad: int32, 0 while every step's value was finite, else the largest int32 minus the first bad step.
    """

    means: dict[str, Mean]
    weights: dict[str, Any]
    bad: Any = 0

    @classmethod
    def of_step(cls, means: dict[str, Mean], weights: dict[str, Any], step: Array) -> "Objective":
        """Makes the objective of one step, noting the step if its value is not finite."""
        objective = cls(means, weights)
        finite = jnp.isfinite(objective.compute())
        return replace(objective, bad=jnp.where(finite, 0, _NEVER - step).astype(jnp.int32))

    def __add__(self, other: "Objective") -> "Objective":
        """Adds the sums of a later step or batch."""
        means = {name: self.means[name] + other.means[name] for name in self.means}
        return Objective(means, other.weights, jnp.maximum(self.bad, other.bad))

    def compute(self) -> Array:
        """Gives the weighted sum of the means."""
        return sum((self.weights[name] * mean.compute() for name, mean in self.means.items()), jnp.float32(0))

    def first_bad_step(self) -> int | None:
        """Gives the first step whose value was NaN or infinite, or None. Reads the device."""
        bad = int(self.bad)
        return _NEVER - bad if bad else None


def add_metrics(earlier: Mapping[str, Metric], later: Mapping[str, Metric]) -> dict[str, Metric]:
    """Adds two dicts of metrics name by name."""
    return {name: metric + later[name] for name, metric in earlier.items()}
