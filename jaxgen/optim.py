"""Optimisers and learning-rate schedules by name: small configurations that build Optax transformations."""

import functools
import inspect
import itertools
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen.errors import UsageError, unknown

SCHEDULES = ("constant", "cosine", "inverse_sqrt", "linear", "piecewise")

# Of Optax's optimisers, the one that calls the loss again: a gradient step has no loss to give it.
_NEEDS_LOSS = frozenset({"lbfgs"})
# Fields of `OptimizerConfig`, and what Optax calls them.
_BETAS = {"beta1": "b1", "beta2": "b2"}


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes with the step: a linear warm-up from 0 to its peak, then a rule by name.

    After the warm-up of w steps, up to the horizon of n, with final fraction f, the peak is multiplied by

    - constant: 1
    - cosine: f + (1 - f) (1 + cos(pi (step - w) / (n - w))) / 2
    - linear: 1 - (1 - f) (step - w) / (n - w)
    - inverse_sqrt: sqrt(w / step), with at least 1 for w
    - piecewise: the decay, once for each boundary that has been reached

    Raises:
        UsageError: when it is made, for an unknown name or values that don't fit together; when it is built,
            without the horizon that it needs.
    """

    name: str = "constant"
    """The rule after the warm-up: constant, cosine, linear, inverse_sqrt or piecewise."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0 to its peak; the first step's is 0 then."""
    horizon: int | None = None
    """Steps after which cosine and linear have come down, warm-up included; they stay there."""
    final_fraction: float = 0.0
    """What cosine and linear come down to, as a part of the peak."""
    boundaries: tuple[int, ...] = ()
    """Steps from which on piecewise decays. By default at 1/2 and 3/4 of the horizon (He et al. 2016)."""
    decay: float = 0.1
    """What piecewise multiplies the learning rate with at each boundary."""

    def __post_init__(self) -> None:
        """Refuses what can't be meant, before anything is computed."""
        if self.name not in SCHEDULES:
            raise unknown("schedule", self.name, SCHEDULES)
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "positive")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        _require(self.horizon is None or self.horizon > 0, "horizon", self.horizon, "positive")
        _require(0 <= self.final_fraction <= 1, "final_fraction", self.final_fraction, "between 0 and 1")
        _require(0 < self.decay < math.inf, "decay", self.decay, "positive")
        if self.horizon is not None and self.warmup_steps >= self.horizon:
            raise UsageError(
                f"warmup_steps is {self.warmup_steps}; it must be below the run's length of {self.horizon} steps"
            )
        steps = (self.warmup_steps, *self.boundaries)
        if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
            raise UsageError(
                f"boundaries are {', '.join(map(str, self.boundaries))}; they must increase, "
                f"and the first must come after the warm-up of {self.warmup_steps} steps"
            )

    def build(self) -> optax.Schedule:
        """Makes the function from the number of steps taken before (an int or int32) to the learning rate."""
        rule = getattr(self, f"_{self.name}")()
        if self.warmup_steps == 0:
            return rule
        warmup = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        return optax.join_schedules([warmup, rule], [self.warmup_steps])

    # The rules, as functions of the number of steps since the warm-up.

    def _constant(self) -> optax.Schedule:
        return optax.constant_schedule(self.learning_rate)

    def _cosine(self) -> optax.Schedule:
        return optax.cosine_decay_schedule(self.learning_rate, self._decay_steps(), self.final_fraction)

    def _linear(self) -> optax.Schedule:
        final = self.learning_rate * self.final_fraction
        return optax.linear_schedule(self.learning_rate, final, self._decay_steps())

    def _inverse_sqrt(self) -> optax.Schedule:
        start = max(self.warmup_steps, 1)
        return lambda count: (
            self.learning_rate * jnp.sqrt(start / jnp.maximum(count + self.warmup_steps, start))
        )

    def _piecewise(self) -> optax.Schedule:
        boundaries = self.boundaries
        if not boundaries:
            if self.horizon is None:
                raise UsageError("the piecewise schedule needs boundaries, or a horizon to place them in")
            # In a run of very few steps both may fall onto one step, or into the warm-up.
            halfway, later = self.horizon // 2, 3 * self.horizon // 4
            boundaries = tuple(sorted({max(step, self.warmup_steps + 1) for step in (halfway, later)}))
        factors = {boundary - self.warmup_steps: self.decay for boundary in boundaries}
        return optax.piecewise_constant_schedule(self.learning_rate, factors)

    def _decay_steps(self) -> int:
        if self.horizon is None:
            raise UsageError(
                f"the {self.name} schedule needs a horizon: the number of steps to come down over"
            )
        return self.horizon - self.warmup_steps


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimiser by name, with what is usually put around it.

    `OptimizerConfig().build()` is `optax.adam(1e-3)`.

    Raises:
        UsageError: when it is made, for an unknown name or impossible values; when it is built, for a
            schedule that lacks its horizon, or that the optimiser doesn't take.
    """

    name: str = "adam"
    """Any Optax optimiser by its Optax name (adam, adamw, sgd, lion, ...), or momentum: sgd with momentum."""
    schedule: Schedule = field(default_factory=Schedule)
    """The learning rate."""
    momentum: float = 0.9
    """For the optimiser `momentum`: part of the last step that the next one goes on with."""
    beta1: float | None = None
    """For adam, adamw and their kin: part of the mean of gradients that the next step goes on with. None is the
    optimiser's own default."""
    beta2: float | None = None
    """For adam, adamw and their kin: part of the mean of squared gradients that the next step goes on with. None is
    the optimiser's own default."""
    weight_decay: float | None = 0.0
    """Decay of weights, not of biases, scales or anything with fewer than two axes. The optimiser's own
    (decoupled, for adamw and lion) where it has one that can leave those out, else added to the gradient as
    half its squared norm's, as PyTorch does. 0 switches it off; None is the optimiser's own default."""
    clip_norm: float | None = None
    """Scale gradients down to this global norm, before anything else."""

    def __post_init__(self) -> None:
        """Refuses what can't be meant, before anything is computed."""
        if self.name not in optimizers():
            raise unknown("optimizer", self.name, optimizers())
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        for name, parameter in _BETAS.items():
            if (value := getattr(self, name)) is None:
                continue
            _require(0 <= value < 1, name, value, "at least 0 and below 1")
            if parameter not in inspect.signature(optimizers()[self.name]).parameters:
                raise UsageError(
                    f"the optimizer {self.name} has no {name}: leave it out, or take adam or adamw"
                )
        decay, clip_norm = self.weight_decay, self.clip_norm
        _require(decay is None or 0 <= decay < math.inf, "weight_decay", decay, "at least 0")
        _require(clip_norm is None or clip_norm > 0, "clip_norm", clip_norm, "positive")

    def build(self) -> optax.GradientTransformation:
        """Makes the Optax transformation: nothing but Optax's own optimiser where nothing else is asked for."""
        make = optimizers()[self.name]
        options: dict[str, Any] = {"momentum": self.momentum} if self.name == "momentum" else {}
        options |= {
            parameter: getattr(self, name)
            for name, parameter in _BETAS.items()
            if getattr(self, name) is not None
        }
        parts = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        if self.weight_decay is not None:
            mask = _mask_parameter(make)
            if mask is not None:
                options |= {"weight_decay": self.weight_decay, mask: decays}
            elif self.weight_decay:
                parts.append(optax.add_decayed_weights(self.weight_decay, mask=decays))
        optimizer = make(self._learning_rate(make), **options)
        return optax.chain(*parts, optimizer) if parts else optimizer

    def _learning_rate(self, make: Callable[..., Any]) -> float | optax.Schedule:
        schedule = self.schedule
        if schedule.name == "constant" and schedule.warmup_steps == 0:
            return schedule.learning_rate
        if not _takes_schedule(make):
            raise UsageError(f"the optimizer {self.name} takes no schedule: use constant, without warm-up")
        return schedule.build()


def decays(params: Any) -> Any:
    """Tells which parameters weight decay is for: True for those with two axes or more."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def train_only(optimizer: optax.GradientTransformation, trained: Any) -> optax.GradientTransformation:
    """Has an optimiser move a part of the parameters: the others get no state, no update and no decay.

    Args:
        optimizer: for those that are trained; of the others it sees nothing, nor do the norms that it clips to.
        trained: a tree like the parameters, True for those that are trained.
    """
    labels = jax.tree.map(lambda chosen: "trained" if chosen else "frozen", trained)
    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


@functools.cache
def optimizers() -> Mapping[str, Callable[..., optax.GradientTransformation]]:
    """Finds Optax's optimisers, by name, and adds `momentum`: functions of a learning rate and options."""
    found = {
        name: function
        for name, function in vars(optax).items()
        if isinstance(function, types.FunctionType | functools.partial)
        and not name.startswith(("_", "scale_by_"))
        and next(iter(inspect.signature(function).parameters), None) == "learning_rate"
        and name not in _NEEDS_LOSS
    }
    return {**found, "momentum": optax.sgd}


def _mask_parameter(make: Callable[..., Any]) -> str | None:
    """Finds how an optimiser is told what not to decay; None if it has no such decay of its own."""
    parameters = inspect.signature(make).parameters
    if "weight_decay" not in parameters:
        return None
    return next((name for name in ("mask", "weight_decay_mask") if name in parameters), None)


def _takes_schedule(make: Callable[..., Any]) -> bool:
    # A few of Optax's (rprop, sm3) are annotated with plain numbers, and fail late on anything else.
    return "Callable" in str(inspect.signature(make).parameters["learning_rate"].annotation)


def _require(condition: bool, name: str, value: Any, range_: str) -> None:
    if not condition:
        raise UsageError(f"{name} is {value}; it must be {range_}")
