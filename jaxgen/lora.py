"""LoRA: fine-tuning by low-rank changes of kernels (Hu et al. 2021), as pure functions of trees of parameters.

A kernel W [in, out] becomes W + alpha / rank A B, with A [in, rank] and B [rank, out]; B is zero at first. Only A and B
are trained. The sum is made before the model is applied, so any model can be adapted, and what is trained is what the
merged parameters do. It costs a product of the kernel's own gradient, which the factored form x A B would save.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Key

from jaxgen.errors import UsageError
from jaxgen.metrics import Mean
from jaxgen.train.context import Batch, Context, Outputs, Params, Term


@dataclass(frozen=True)
class LowRank:
    """What is adapted, and how far.

    Attributes:
        rank: of each change.
        alpha: a change is scaled by alpha / rank, so that the learning rate needn't follow the rank.
        kernels: the layers whose kernels are adapted, by name: `query`, `key`, `value` and `output` of attention, `up`,
            `down` and `gate` of feed-forward layers.

    Raises:
        UsageError: when it is made, for a rank below 1 or an alpha that isn't positive.
    """

    rank: int = 8
    alpha: float = 16.0
    kernels: tuple[str, ...] = ("query", "value")

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        if self.rank < 1:
            raise UsageError(f"the rank of LoRA is {self.rank}; it must be at least 1")
        if not self.alpha > 0:
            raise UsageError(f"alpha of LoRA is {self.alpha}; it must be positive")

    def init(self, rng: Key[Array, ""], params: Params) -> dict[str, Any]:
        """Makes `a` [in, rank], drawn with a variance of 1 / in, and `b` [rank, out], zero, in the kernels' places.

        Raises:
            UsageError: for a rank that is larger than a kernel's, and names of which there is no kernel.
        """
        kernels = self._find(params)
        made = {}
        for number, (path, kernel) in enumerate(kernels.items()):
            inputs, outputs = kernel.shape
            if self.rank > min(inputs, outputs):
                raise UsageError(
                    f"the rank of LoRA is {self.rank}, but {'/'.join(path)} is of {inputs} x {outputs}: take "
                    f"{min(inputs, outputs)} at most"
                )
            drawn = jax.random.normal(jax.random.fold_in(rng, number), (inputs, self.rank))
            made[(*path, "a")] = drawn * inputs**-0.5
            made[(*path, "b")] = jnp.zeros((self.rank, outputs))
        return traverse_util.unflatten_dict(made)

    def merge(self, params: Params, low_rank: Mapping[str, Any]) -> Any:
        """Gives the parameters with the changes added: a plain model's."""
        merged, changes = traverse_util.flatten_dict(params), traverse_util.flatten_dict(low_rank)
        for *path, part in changes:
            if part == "a":
                a, b = (changes[(*path, name)] for name in ("a", "b"))
                merged[(*path, "kernel")] += self.alpha / self.rank * (a @ b)
        return traverse_util.unflatten_dict(merged)

    def _find(self, params: Params) -> dict[tuple[str, ...], Array]:
        """Finds the kernels by the paths of their layers."""
        found = {
            path[:-1]: leaf
            for path, leaf in traverse_util.flatten_dict(params).items()
            if path[-1] == "kernel" and {*path[-2:-1]} & {*self.kernels}
        }
        if missing := {*self.kernels} - {path[-1] for path in found}:
            raise UsageError(f"the model has no kernel called {', '.join(sorted(missing))} for LoRA to adapt")
        return found


@dataclass(frozen=True)
class Adapted:
    """A task whose model is adapted: its parameters are `base`, the plain ones, and `low_rank`.

    The optimiser is to leave `base` alone, but for what is new in it: see `jaxgen.optim.train_only`.

    Attributes:
        task: the plain one.
        low_rank: how its model is adapted.
    """

    task: Any
    low_rank: LowRank

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the plain parameters, and changes that change nothing yet."""
        rng, own_rng = jax.random.split(rng)
        base, model_state = self.task.init(rng, example)
        return {"base": base, "low_rank": self.low_rank.init(own_rng, base)}, model_state

    def merged(self, params: Params) -> Any:
        """Gives the plain task's parameters."""
        return self.low_rank.merge(params["base"], params["low_rank"])

    def check(self, source: Any) -> None:
        """Checks a data source as the plain task does."""
        self.task.check(source)

    def initial_carry(self, batch_size: int) -> Any:
        """Gives that of the plain task."""
        return self.task.initial_carry(batch_size)

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[Mapping[str, Mean | Term], Outputs]:
        """Gives what the plain task gives for the merged parameters."""
        return self.task.loss(self.merged(params), model_state, carry, batch, context)
